//! Stores behind mutual TLS: the project's own server, and a real etcd.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvstore::server::{Server, ServerConfig, ServerTls};
use kvstore::{Client, EtcdClient, EtcdConfig, EtcdTls, Store, StoreConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than a server needs to answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A certificate authority with a server's and a client's certificate, in files.
pub(crate) struct Pki {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.crt"), ca.pem()).unwrap();
        let pki = Self { directory, issuer: Issuer::new(params, key) };
        let names = ["127.0.0.1", "west.mesh.cilium.io"];
        pki.issue("server", &names, ExtendedKeyUsagePurpose::ServerAuth, None);
        pki.issue("admin", &[], ExtendedKeyUsagePurpose::ClientAuth, None);
        pki.issue_remote(None);
        pki
    }

    /// A (new) certificate for the mirror, which ends after `lifetime`.
    pub(crate) fn issue_remote(&self, lifetime: Option<Duration>) {
        self.issue("remote", &[], ExtendedKeyUsagePurpose::ClientAuth, lifetime);
    }

    fn issue(&self, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose, lifetime: Option<Duration>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        if let Some(lifetime) = lifetime {
            params.not_after = (SystemTime::now() + lifetime).into();
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn client(&self, url: &str) -> EtcdClient {
        let tls = EtcdTls {
            ca_file: self.path("ca.crt"),
            cert_file: Some(self.path("admin.crt")),
            key_file: Some(self.path("admin.key")),
            server_name: None,
        };
        EtcdClient::new(EtcdConfig::new([url], Some(tls))).unwrap()
    }

    /// A peer file for `url` with certificates of this authority.
    pub(crate) fn peer_file(&self, url: &str) -> String {
        format!(
            "endpoints: ['{url}']\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            self.path("ca.crt").display(),
            self.path("remote.crt").display(),
            self.path("remote.key").display()
        )
    }
}

/// Which program answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    Isthmus,
    Etcd,
}

impl Program {
    pub(crate) const ALL: [Program; 2] = [Program::Isthmus, Program::Etcd];
}

/// A store that listens on one port of loopback for as long as it is there.
pub(crate) struct Listening {
    program: Program,
    address: SocketAddr,
    peers: SocketAddr,
    data: TempDir,
    lives: usize,
    store: Arc<Store>,
    running: Option<Running>,
}

enum Running {
    Task(JoinHandle<()>, CancellationToken),
    Process(Child),
}

impl Listening {
    pub(crate) async fn start(program: Program, pki: &Pki) -> Self {
        let mut listening = Self {
            program,
            address: free_port(),
            peers: free_port(),
            data: tempfile::tempdir().unwrap(),
            lives: 0,
            store: Store::new(StoreConfig::default()),
            running: None,
        };
        listening.up(pki).await;
        listening
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends it; what it stored stays.
    pub(crate) async fn down(&mut self) {
        match self.running.take() {
            Some(Running::Task(task, stop)) => {
                stop.cancel();
                task.await.unwrap();
            }
            Some(Running::Process(mut child)) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            None => {}
        }
    }

    /// Stops it where it is, with its connections open; only a process can be.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let Some(Running::Process(child)) = &self.running else { panic!("expected a process that runs") };
        let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it and forgets everything, as when a pod is replaced.
    pub(crate) async fn wipe(&mut self) {
        self.down().await;
        self.store = Store::new(StoreConfig::default());
        self.data = tempfile::tempdir().unwrap();
        self.lives += 1;
    }

    /// Starts it (again) and waits until it answers.
    pub(crate) async fn up(&mut self, pki: &Pki) {
        let client = pki.client(&self.url());
        let end = Instant::now() + DEADLINE;
        while let Err(error) = self.try_up(pki, &client).await {
            assert!(Instant::now() < end, "{:?} does not answer: {error}", self.program);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its ports were free a moment ago, and another may have them for a while: then it ends at once, and is started again.
    async fn try_up(&mut self, pki: &Pki, client: &EtcdClient) -> Result<(), String> {
        let has_ended = match &mut self.running {
            Some(Running::Process(child)) => child.try_wait().unwrap().is_some(),
            Some(Running::Task(task, _)) => task.is_finished(),
            None => true,
        };
        if has_ended {
            self.running = Some(match self.program {
                Program::Isthmus => self.serve(pki).await?,
                Program::Etcd => Running::Process(self.spawn(pki)),
            });
        }
        client.status().await.map(drop).map_err(|error| mesh_runtime::Chain(&error).to_string())
    }

    async fn serve(&self, pki: &Pki) -> Result<Running, String> {
        let tls = ServerTls {
            cert_file: pki.path("server.crt"),
            key_file: pki.path("server.key"),
            client_ca_file: Some(pki.path("ca.crt")),
        };
        let mut config = ServerConfig::new(self.address, Some(tls));
        // Operators may raise it, as with etcd's --max-request-bytes.
        config.limits.request_bytes = 8 << 20;
        let server = Server::bind(config, Arc::clone(&self.store)).await;
        let server = server.map_err(|error| mesh_runtime::Chain(&error).to_string())?;
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the test waits for it in `down`")]
        let task = tokio::spawn(server.run(stop.clone()));
        Ok(Running::Task(task, stop))
    }

    fn spawn(&self, pki: &Pki) -> Child {
        let peers = format!("http://{}", self.peers);
        let url = self.url();
        let token = format!("life-{}-{}", self.address.port(), self.lives);
        let flags = [
            ("--listen-client-urls", url.as_str()),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &peers),
            ("--initial-advertise-peer-urls", &peers),
            ("--initial-cluster", &format!("default={peers}")),
            ("--initial-cluster-token", &token),
            ("--log-level", "error"),
        ];
        let files = [
            ("--data-dir", self.data.path().to_owned()),
            ("--cert-file", pki.path("server.crt")),
            ("--key-file", pki.path("server.key")),
            ("--trusted-ca-file", pki.path("ca.crt")),
        ];
        Command::new(etcd())
            .args(flags.iter().flat_map(|(flag, value)| [*flag, *value]))
            .args(files.iter().flat_map(|(flag, value)| [Path::new(flag), value.as_path()]))
            .arg("--client-cert-auth")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(Running::Process(child)) = &mut self.running {
            // After a panic nothing else ends it.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn etcd() -> PathBuf {
    let directory = std::env::var_os("ISTHMUS_TOOLS_BIN").expect(
        "this test needs a real etcd: set ISTHMUS_TOOLS_BIN to the directory that e2e/tools/build prints",
    );
    Path::new(&directory).join("etcd")
}

/// A port that nobody listens on now. Another may take it before it is used.
fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
