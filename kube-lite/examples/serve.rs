//! Serves on loopback until killed: `cargo run -p kube-lite --example serve -- DIRECTORY`, then
//! `kubectl --kubeconfig DIRECTORY/kubeconfig get namespaces`.

#[path = "../tests/battery/lite.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod lite;

use std::path::PathBuf;

use anyhow::{Context, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os().nth(1).context("which directory?")?.into();
    std::fs::create_dir_all(&dir)?;
    let lite = lite::Lite::start(&dir).await?;
    std::fs::write(dir.join("url"), &lite.url)?;
    std::future::pending::<()>().await;
    Ok(())
}
