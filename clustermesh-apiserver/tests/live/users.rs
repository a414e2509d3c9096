//! The users of an etcd that is not ours.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clustermesh_apiserver::keep_users;
use kvstore::{EtcdClient, EtcdConfig, Users};
use mesh_runtime::Supervisor;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// What does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(180);

struct Etcd {
    dir: TempDir,
    url: String,
    process: Child,
}

impl Etcd {
    /// Starts one that answers. Somebody else may take a port that was free a moment ago; then others are tried.
    async fn start() -> Result<Self> {
        for _attempt in 0..5 {
            let mut etcd = Self::launch()?;
            let client = etcd.client()?;
            let answers = async { while client.put_role("remote").await.is_err() {} };
            tokio::select! {
                answered = tokio::time::timeout(PATIENCE, answers) => {
                    answered.context("etcd does not answer")?;
                    // Else it is somebody else's that has the port.
                    if etcd.process.try_wait()?.is_none() {
                        return Ok(etcd);
                    }
                }
                ended = etcd.process.wait() => drop(ended?),
            }
        }
        anyhow::bail!("etcd ends at its start")
    }

    fn launch() -> Result<Self> {
        let tools =
            std::env::var_os("ISTHMUS_TOOLS_BIN").context("set ISTHMUS_TOOLS_BIN (e2e/tools/build)")?;
        let dir = tempfile::tempdir()?;
        let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let url = |at: usize| Ok::<_, std::io::Error>(format!("http://{}", listeners[at].local_addr()?));
        let (url, peer) = (url(0)?, url(1)?);
        drop(listeners);
        let process = Command::new(PathBuf::from(tools).join("etcd"))
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .args([format!("--initial-cluster=default={peer}"), "--unsafe-no-fsync".to_owned()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start etcd")?;
        Ok(Self { dir, url, process })
    }

    fn client(&self) -> Result<EtcdClient> {
        Ok(EtcdClient::new(EtcdConfig::new([self.url.clone()], None))?)
    }
}

/// Who keeps users as `text` says, from now on.
fn keep(etcd: &Etcd, file: &Path, text: &str) -> Result<Supervisor> {
    std::fs::write(file, text)?;
    let tasks = Supervisor::new(PATIENCE);
    let users = Arc::new(etcd.client()?);
    keep_users(users, Some(file.to_owned()), None, "west".parse()?, &tasks.spawner());
    Ok(tasks)
}

async fn until(client: &EtcdClient, expected: &[&str]) -> Result<()> {
    let reached = async {
        loop {
            let users = client.users().await.unwrap_or_default();
            if users.keys().eq(expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, reached).await;
    came.with_context(|| format!("{expected:?} do not come"))
}

#[tokio::test]
async fn who_is_removed_from_the_file_while_nobody_looks_loses_access_to_an_etcd() -> Result<()> {
    let etcd = Etcd::start().await?;
    let client = etcd.client()?;
    let file = etcd.dir.path().join("users.yaml");
    client.put_user("of-the-operator", &["remote"]).await?;
    let both = "users: [{name: remote-a, role: remote}, {name: remote-b, role: remote}]";
    let first = keep(&etcd, &file, both)?;
    until(&client, &["of-the-operator", "remote-a", "remote-b"]).await?;
    first.until(std::future::ready(())).await?;

    let second = keep(&etcd, &file, "users: [{name: remote-b, role: remote}]")?;
    until(&client, &["of-the-operator", "remote-b"]).await?;
    assert_eq!(client.users().await?["of-the-operator"], ["remote"]);
    assert!(client.roles().await?.iter().any(|role| role == "remote"));
    Ok(second.until(std::future::ready(())).await?)
}
