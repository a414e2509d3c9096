//! The two servers under measurement: this binary's store and a real etcd, each a child process.

use super::proc::Usage;
use super::wire::{self, Connection};
use crate::certs::files::{self, CA_CERTIFICATE, CERTIFICATE, File, KEY, Mode};
use crate::certs::{Authority, Leaf, ServerName, new_ca};
use anyhow::{Context as _, bail};
use kvstore::proto::etcdserverpb as pb;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A server that does not answer by then never will.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often a starting server is asked; the resolution of the time it takes.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// The certificates are for one run.
const VALID_FOR: Duration = Duration::from_secs(24 * 3600);
/// Nothing is issued from a CA in its last days.
const CA_VALID_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whose server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The store of this binary, at this path.
    Isthmus(PathBuf),
    /// A real etcd at this path.
    Etcd(PathBuf),
}

/// Certificates of the server and of its clients, by one CA, for this run.
pub(crate) struct Credentials {
    directory: PathBuf,
    pub(super) client: Arc<rustls::ClientConfig>,
}

impl Credentials {
    /// Where they are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where in `directory` the client's files are; the server's are in `directory` itself.
    pub(crate) fn client_directory(directory: &Path) -> PathBuf {
        directory.join("client")
    }

    /// Issues them into `directory`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn issue(directory: &Path) -> anyhow::Result<Self> {
        let now = SystemTime::now();
        let name = |text: &str| text.parse().map_err(|error: String| anyhow::anyhow!(error));
        let ca = new_ca(&name("Isthmus bench")?, now, CA_VALID_FOR)?;
        let authority = Authority::load(&ca.certificate, ca.key.expose(), now)?;
        let reached_by = vec![ServerName::Ip(Ipv4Addr::LOCALHOST.into())];
        let server = authority.issue(&Leaf::Server { name: name("bench")?, reached_by }, now, VALID_FOR)?;
        files::write(
            directory,
            &[
                File { name: KEY, content: server.key.expose(), mode: Mode::Secret },
                File { name: CERTIFICATE, content: &server.certificate, mode: Mode::Public },
                File { name: CA_CERTIFICATE, content: &ca.certificate, mode: Mode::Public },
            ],
            false,
        )?;
        let client = authority.issue(&Leaf::Client { user: name("root")? }, now, VALID_FOR)?;
        files::write(
            &Self::client_directory(directory),
            &[
                File { name: KEY, content: client.key.expose(), mode: Mode::Secret },
                File { name: CERTIFICATE, content: &client.certificate, mode: Mode::Public },
                File { name: CA_CERTIFICATE, content: &ca.certificate, mode: Mode::Public },
            ],
            false,
        )?;
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&ca.certificate)?)?;
        let key = PrivateKeyDer::from_pem_slice(client.key.expose().as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![der(&client.certificate)?], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { directory: directory.to_owned(), client: Arc::new(config) })
    }
}

/// Where a server is reached, and how.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

/// A server that runs; it is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    endpoint: Endpoint,
    ready_after: Duration,
}

impl Server {
    /// Starts it, its files below `directory`, and waits for its first answer to a read.
    ///
    /// # Errors
    /// When it ends instead or does not answer; with the end of its log.
    pub(crate) async fn start(
        side: &Side,
        directory: &Path,
        credentials: Option<&Credentials>,
    ) -> anyhow::Result<Self> {
        let own = tempfile::tempdir_in(directory)?.keep();
        let log = own.join("log");
        let endpoint = Endpoint {
            address: free_address()?,
            tls: credentials.map(|credentials| Arc::clone(&credentials.client)),
        };
        let command = command(side, &own, endpoint.address, credentials)?;
        Self::spawn(&side.to_string(), command, endpoint, &log).await
    }

    /// Starts a server by `command`, its log in the file `log`, and waits for its first answer to a read.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) async fn spawn(
        what: &str,
        mut command: Command,
        endpoint: Endpoint,
        log: &Path,
    ) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(log)?);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("start {what}"))?;
        let mut server = Self { child, endpoint, ready_after: Duration::ZERO };
        let answered = tokio::time::timeout(START_LIMIT, server.answers()).await;
        if !matches!(answered, Ok(Ok(()))) {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(3).collect();
            bail!("{what} does not answer: {}", end.join(" | "));
        }
        server.ready_after = started.elapsed();
        Ok(server)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let ask = pb::RangeRequest { key: "ready".into(), ..Default::default() };
        loop {
            if let Ok(connection) = Connection::open(&self.endpoint).await
                && connection.call::<pb::RangeResponse>(wire::path::RANGE, &ask).await.is_ok()
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}");
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// From its start to its first answer.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Where it is reached, for those that outlive a borrow of it.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(&self.endpoint).await
    }

    /// So many new connections.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub(crate) async fn connections(&self, count: usize) -> anyhow::Result<Vec<Connection>> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(self.connect().await?);
        }
        Ok(connections)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to save; one that has ended already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Side {
    fn program(&self) -> &Path {
        match self {
            Self::Isthmus(program) | Self::Etcd(program) => program,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isthmus(_) => "isthmus",
            Self::Etcd(_) => "etcd",
        })
    }
}

/// Both servers with the settings a mesh gives them: no syncing to disk, room for what the figures store.
fn command(
    side: &Side,
    own: &Path,
    address: SocketAddr,
    credentials: Option<&Credentials>,
) -> anyhow::Result<Command> {
    let url = format!("{}://{address}", if credentials.is_some() { "https" } else { "http" });
    let mut command = Command::new(side.program());
    match side {
        Side::Isthmus(_) => {
            command.args(["store", "serve", "--health-listen=127.0.0.1:0", "--log-level=warn"]);
        }
        Side::Etcd(_) => {
            let peer = format!("http://{}", free_address()?);
            command
                .args(["--name=bench", "--log-level=error", "--unsafe-no-fsync"])
                .arg(format!("--data-dir={}", own.join("data").display()))
                .arg(format!("--advertise-client-urls={url}"))
                .arg(format!("--listen-peer-urls={peer}"))
                .arg(format!("--initial-advertise-peer-urls={peer}"))
                .arg(format!("--initial-cluster=bench={peer}"));
            if credentials.is_some() {
                command.arg("--client-cert-auth");
            }
        }
    }
    command.arg(format!("--listen-client-urls={url}")).arg(format!("--quota-backend-bytes={}", 8_u64 << 30));
    if let Some(Credentials { directory, .. }) = credentials {
        let file = |name: &str| directory.join(name).display().to_string();
        command
            .arg(format!("--cert-file={}", file(CERTIFICATE)))
            .arg(format!("--key-file={}", file(KEY)))
            .arg(format!("--trusted-ca-file={}", file(CA_CERTIFICATE)));
    }
    Ok(command)
}

/// An address that nobody listens on just now. Who takes it before the server does makes the start fail.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
