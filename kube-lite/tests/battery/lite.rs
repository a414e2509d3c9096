//! A kube-lite on loopback, with an administrator's kubeconfig.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use e2e::Authority;
use kube_lite::{Config, Server, Tls, Token};
use kvstore::{Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Lite {
    kubeconfig: PathBuf,
    _tasks: JoinSet<()>,
}

impl Lite {
    /// Starts one, with its files in `dir`.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        Self::over(Store::new(StoreConfig::default()), dir).await
    }

    /// Starts one over a store.
    pub(crate) async fn over(store: Arc<Store>, dir: &Path) -> Result<Self> {
        let authority = Authority::new(&dir.join("pki"))?;
        let serving = authority.server("server", &["127.0.0.1", "localhost"])?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let config = Config {
            listener,
            tls: Tls {
                certificate: fs::read_to_string(&serving.certificate)?,
                key: fs::read_to_string(&serving.key)?,
                client_ca: fs::read_to_string(authority.certificate())?,
            },
            tokens: vec![Token::new("token-user", "sesame")],
            store: Arc::new(store.client()),
            service_cidrs: vec!["10.96.0.0/16".parse()?],
        };
        let server = Server::open(config).await.context("open kube-lite")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.run(CancellationToken::new()).await.expect("kube-lite runs") });
        let kubeconfig = write_kubeconfig(&authority, dir, &url)?;
        Ok(Self { kubeconfig, _tasks: tasks })
    }

    /// The administrator's.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

/// Writes the administrator's kubeconfig for the server at `url`.
pub(crate) fn write_kubeconfig(authority: &Authority, dir: &Path, url: &str) -> Result<PathBuf> {
    let client = authority.client("admin", "admin", Some("system:masters"))?;
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "battery",
        "clusters": [{"name": "battery", "cluster": {"server": url, "certificate-authority": authority.certificate()}}],
        "users": [{"name": "admin", "user": {"client-certificate": client.certificate, "client-key": client.key}}],
        "contexts": [{"name": "battery", "context": {"cluster": "battery", "user": "admin"}}],
    });
    let path = dir.join("kubeconfig");
    fs::write(&path, text.to_string())?;
    Ok(path)
}
