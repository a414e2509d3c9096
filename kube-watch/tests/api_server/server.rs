//! A real kube-apiserver with its own etcd, in a directory that goes away with it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube_watch::ClientConfig;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long a server may take to be ready; it takes 3 seconds on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(240);
/// What the log of a server ends with whose port was taken.
const TAKEN: &str = "address already in use";

/// Addresses of Services.
const SERVICES: &str = "10.96.0.0/16";

pub(crate) struct ApiServer {
    dir: TempDir,
    port: u16,
    etcd_port: u16,
    /// Where addresses of Services come from.
    services: &'static str,
    etcd: Child,
    server: Child,
}

impl ApiServer {
    /// Starts both and waits until the API is ready.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(SERVICES).await
    }

    /// The same, with Services in these CIDRs. Another program may take a port that was free just before; then others are
    /// tried.
    pub(crate) async fn start_with(services: &'static str) -> Result<Self> {
        loop {
            match Self::try_start(services).await {
                Err(error) if format!("{error:#}").contains(TAKEN) => {}
                started => return started,
            }
        }
    }

    async fn try_start(services: &'static str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let key = rcgen::KeyPair::generate()?;
        std::fs::write(dir.path().join("sa.key"), key.serialize_pem())?;
        std::fs::write(dir.path().join("sa.pub"), key.public_key_pem())?;
        // Another server that has the port by now does not know this one.
        let token = dir.path().file_name().context("a name")?.to_string_lossy().into_owned();
        std::fs::write(dir.path().join("tokens.csv"), format!("{token},admin,admin,system:masters\n"))?;
        let [port, etcd_port, peer_port] = free_ports()?;
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig(port, &token))?;
        let client = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let etcd = Command::new(tool("etcd")?)
            .arg(format!("--data-dir={}", dir.path().join("etcd").display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .args([format!("--initial-cluster=default={peer}"), "--unsafe-no-fsync".to_owned()])
            .stdout(Stdio::null())
            .stderr(log(dir.path(), "etcd")?)
            .kill_on_drop(true)
            .spawn()
            .context("start etcd")?;
        let server = launch(dir.path(), port, etcd_port, services)?;
        let mut started = Self { dir, port, etcd_port, services, etcd, server };
        started.ready().await?;
        Ok(started)
    }

    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig { kubeconfig: Some(self.dir.path().join("kubeconfig")), ..ClientConfig::default() }
    }

    /// Kills the API server; its etcd goes on.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.server.kill().await.context("kill kube-apiserver")
    }

    /// Starts it again, on the same port and data. A connection to elsewhere may have the port for a while.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.server = launch(self.dir.path(), self.port, self.etcd_port, self.services)?;
            match self.ready().await {
                Err(error) if format!("{error:#}").contains(TAKEN) && Instant::now() < deadline => {}
                ready => return ready,
            }
        }
    }

    async fn ready(&mut self) -> Result<()> {
        let client = self.config().client().await?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = client.request_text(request).await;
            let log = |of: &str| {
                std::fs::read_to_string(self.dir.path().join(format!("{of}.log"))).unwrap_or_default()
            };
            ensure!(self.etcd.try_wait()?.is_none(), "etcd ended: {}", log("etcd"));
            let server = log("kube-apiserver");
            ensure!(self.server.try_wait()?.is_none(), "kube-apiserver ended: {server}");
            // Asked after that: an etcd that answers in place of ours, which has ended, is somebody else's.
            if matches!(answer.as_deref(), Ok("ok")) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "kube-apiserver is not ready ({answer:?}): {server}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Of who comes with `token` to an API server on this port of loopback.
pub(crate) fn kubeconfig(port: u16, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         clusters: [{{name: x, cluster: {{server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: x, user: {{token: {token}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: x, user: x}}}}]\n"
    )
}

fn launch(dir: &Path, port: u16, etcd_port: u16, services: &str) -> Result<Child> {
    Command::new(tool("kube-apiserver")?)
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
        .arg(format!("--cert-dir={}", dir.join("certs").display()))
        .arg(format!("--secure-port={port}"))
        .arg("--bind-address=127.0.0.1")
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--service-account-key-file={}", dir.join("sa.pub").display()))
        .arg(format!("--service-account-signing-key-file={}", dir.join("sa.key").display()))
        .arg(format!("--token-auth-file={}", dir.join("tokens.csv").display()))
        .arg("--authorization-mode=RBAC")
        .arg(format!("--service-cluster-ip-range={services}"))
        .arg("--disable-admission-plugins=ServiceAccount")
        .stdout(Stdio::null())
        .stderr(log(dir, "kube-apiserver")?)
        .kill_on_drop(true)
        .spawn()
        .context("start kube-apiserver")
}

fn log(dir: &Path, name: &str) -> Result<Stdio> {
    Ok(std::fs::File::create(dir.join(format!("{name}.log")))?.into())
}

fn tool(name: &str) -> Result<PathBuf> {
    let dir = std::env::var_os("ISTHMUS_TOOLS_BIN").context(
        "this test needs real servers: set ISTHMUS_TOOLS_BIN to the directory with etcd and kube-apiserver \
         (e2e/tools/build makes it)",
    )?;
    let path = PathBuf::from(dir).join(name);
    ensure!(
        path.is_file(),
        "there is no {}: set ISTHMUS_TOOLS_BIN to the directory that has it",
        path.display()
    );
    Ok(path)
}

/// Ports that nobody listens on. Held together, so that they differ.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
