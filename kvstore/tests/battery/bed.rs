//! Stores to test against: ours in process, ours over mutual TLS, a real etcd.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use etcd_client::{Certificate, CompactionOptions, ConnectOptions, Identity, TlsOptions};
use kvstore::{
    Client, EtcdClient, EtcdConfig, EtcdTls, OnNewCluster, Revision, Store, StoreConfig,
    server::{ServeError, Server, ServerConfig, ServerTls},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::within;

/// A store and how to reach it.
pub(crate) trait Bed {
    fn client(&self) -> Arc<dyn Client>;
    async fn compact(&self, to: Revision);
}

/// The store in this process.
pub(crate) struct Embedded {
    pub(crate) store: Arc<Store>,
    stop: CancellationToken,
}

#[expect(clippy::unused_async, reason = "beds are made alike")]
pub(crate) async fn embedded() -> Embedded {
    let store = Store::new(StoreConfig::default());
    let stop = CancellationToken::new();
    let (keeping, until) = (Arc::clone(&store), stop.clone());
    #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
    tokio::spawn(async move { keeping.housekeep(&until).await });
    Embedded { store, stop }
}

impl Bed for Embedded {
    fn client(&self) -> Arc<dyn Client> {
        Arc::new(self.store.client())
    }

    async fn compact(&self, to: Revision) {
        self.store.compact(to.0).unwrap();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Certificates of a CA, a server on loopback and a client.
pub(crate) struct Pki {
    dir: TempDir,
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let pki = Self { dir: TempDir::new().unwrap(), ca };
        std::fs::write(pki.path("ca.crt"), pki.ca.pem()).unwrap();
        pki.issue("server", "server");
        pki.issue("client", "root");
        pki
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `<file>.crt` and `<file>.key` for a common name; replaces what was there.
    pub(crate) fn issue(&self, file: &str, common_name: &str) {
        self.issue_with(file, common_name, |_| {});
    }

    /// The same, with something else about it.
    pub(crate) fn issue_with(
        &self,
        file: &str,
        common_name: &str,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), cert.pem()).unwrap();
    }

    pub(crate) fn server_tls(&self) -> ServerTls {
        ServerTls {
            cert_file: self.path("server.crt"),
            key_file: self.path("server.key"),
            client_ca_file: Some(self.path("ca.crt")),
        }
    }

    pub(crate) fn client_tls(&self, file: &str) -> EtcdTls {
        EtcdTls {
            ca_file: self.path("ca.crt"),
            cert_file: Some(self.path(&format!("{file}.crt"))),
            key_file: Some(self.path(&format!("{file}.key"))),
            server_name: None,
        }
    }

    pub(crate) fn etcd_client_options(&self, file: &str) -> ConnectOptions {
        let read = |name: String| std::fs::read(self.path(&name)).unwrap();
        let identity = Identity::from_pem(read(format!("{file}.crt")), read(format!("{file}.key")));
        let tls =
            TlsOptions::new().ca_certificate(Certificate::from_pem(read("ca.crt".into()))).identity(identity);
        ConnectOptions::new().with_tls(tls.domain_name("localhost"))
    }
}

/// Our server over mutual TLS.
pub(crate) struct Ours {
    pub(crate) pki: Pki,
    pub(crate) address: SocketAddr,
    /// The second address for clients, if it was asked for.
    pub(crate) second: Option<SocketAddr>,
    pub(crate) metrics: SocketAddr,
    pub(crate) store: Arc<Store>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

pub(crate) async fn ours() -> Ours {
    ours_with(|_| {}).await
}

pub(crate) async fn ours_with(change: impl FnOnce(&mut ServerConfig)) -> Ours {
    let pki = Pki::new();
    let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), Some(pki.server_tls()));
    config.listen_metrics.push("127.0.0.1:0".parse().unwrap());
    config.limits.bcrypt_cost = 4;
    change(&mut config);
    let store = Store::new(StoreConfig::default());
    let server = Server::bind(config, Arc::clone(&store)).await.unwrap();
    let (addresses, metrics) = (server.client_addresses(), server.metrics_addresses()[0]);
    let (address, second) = (addresses[0], addresses.get(1).copied());
    let stop = CancellationToken::new();
    let until = stop.clone();
    #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
    let task = Some(tokio::spawn(server.run(until)));
    Ours { pki, address, second, metrics, store, stop, task }
}

impl Ours {
    /// Ends the server and starts an empty one at the same address.
    pub(crate) async fn replace(&mut self) {
        self.stop.cancel();
        within("the server's end", self.task.take().unwrap()).await.unwrap();
        self.store = Store::new(StoreConfig::default());
        let config = ServerConfig::new(self.address, Some(self.pki.server_tls()));
        // A connection of another test may have the port for a moment.
        let server = within("the address", async {
            loop {
                match Server::bind(config.clone(), Arc::clone(&self.store)).await {
                    Err(ServeError::Listen { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                    bound => return bound.unwrap(),
                }
            }
        })
        .await;
        self.stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let task = tokio::spawn(server.run(self.stop.clone()));
        self.task = Some(task);
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig::new([self.endpoint()], Some(self.pki.client_tls("client")))
    }

    pub(crate) fn reconnecting(&self) -> EtcdConfig {
        EtcdConfig { on_new_cluster: OnNewCluster::Reconnect, ..self.config() }
    }

    pub(crate) async fn etcd_client(&self, file: &str) -> etcd_client::Client {
        etcd_client::Client::connect([self.endpoint()], Some(self.pki.etcd_client_options(file)))
            .await
            .unwrap()
    }
}

impl Bed for Ours {
    fn client(&self) -> Arc<dyn Client> {
        Arc::new(EtcdClient::new(self.config()).unwrap())
    }

    async fn compact(&self, to: Revision) {
        let mut client = self.etcd_client("client").await;
        client.compact(to.0, Some(CompactionOptions::new().with_physical())).await.unwrap();
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Where the real servers are.
pub(crate) fn tool(name: &str) -> PathBuf {
    let dir = std::env::var_os("ISTHMUS_TOOLS_BIN").expect(
        "ISTHMUS_TOOLS_BIN must name the directory with etcd and etcdctl; `make test` builds them and sets it",
    );
    let path = Path::new(&dir).join(name);
    assert!(path.exists(), "{} is missing; `make test` builds it", path.display());
    path
}

/// A real etcd, over mutual TLS.
pub(crate) struct Etcd {
    pub(crate) pki: Pki,
    pub(crate) port: u16,
    data: TempDir,
    process: Child,
}

pub(crate) async fn etcd() -> Etcd {
    etcd_with(&[]).await
}

/// One that also serves its metrics without TLS, and where.
pub(crate) async fn etcd_with_metrics(more: &[&str]) -> (Etcd, SocketAddr) {
    loop {
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = format!("--listen-metrics-urls=http://{at}");
        if let Some(etcd) = start_etcd(&[more, &[&listen]].concat()).await {
            return (etcd, at);
        }
    }
}

pub(crate) async fn etcd_with(more: &[&str]) -> Etcd {
    loop {
        if let Some(etcd) = start_etcd(more).await {
            return etcd;
        }
    }
}

/// `None` if another program took a port that was free just before.
async fn start_etcd(more: &[&str]) -> Option<Etcd> {
    let pki = Pki::new();
    let data = TempDir::new().unwrap();
    let [port, peers] = [free_port(), free_port()];
    let url = format!("https://localhost:{port}");
    let peer_url = format!("http://127.0.0.1:{peers}");
    let listen = format!("https://127.0.0.1:{port}");
    let file = |name: &str| pki.path(name).into_os_string().into_string().unwrap();
    let log = std::fs::File::create(data.path().join("log")).unwrap();
    let process = Command::new(tool("etcd"))
        .args(["--name", "peer", "--data-dir"])
        .arg(data.path().join("data"))
        .args(["--listen-client-urls", &listen, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("peer={peer_url}"), "--unsafe-no-fsync"])
        .args(["--client-cert-auth", "--trusted-ca-file", &file("ca.crt")])
        .args(["--cert-file", &file("server.crt"), "--key-file", &file("server.key")])
        .args(["--bcrypt-cost", "4"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut etcd = Etcd { pki, port, data, process };
    let client = etcd.client();
    let started = within("etcd's start", async {
        loop {
            // Whoever answers at the port is another one if ours has ended.
            let answers = client.status().await.is_ok();
            if etcd.process.try_wait().unwrap().is_some() {
                return false;
            }
            if answers {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    if started.await {
        return Some(etcd);
    }
    let log = std::fs::read_to_string(etcd.data.path().join("log")).unwrap();
    assert!(log.contains("address already in use"), "etcd ended: {log}");
    None
}

impl Etcd {
    pub(crate) fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    pub(crate) async fn etcd_client(&self, file: &str) -> etcd_client::Client {
        etcd_client::Client::connect([self.endpoint()], Some(self.pki.etcd_client_options(file)))
            .await
            .unwrap()
    }
}

impl Bed for Etcd {
    fn client(&self) -> Arc<dyn Client> {
        let config = EtcdConfig::new([self.endpoint()], Some(self.pki.client_tls("client")));
        Arc::new(EtcdClient::new(config).unwrap())
    }

    async fn compact(&self, to: Revision) {
        let mut client = self.etcd_client("client").await;
        client.compact(to.0, Some(CompactionOptions::new().with_physical())).await.unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _may_have_ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
