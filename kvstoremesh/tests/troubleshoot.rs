//! Seeded faults on the way to a remote cluster: each names its layer. Real sockets, real TLS, a real store.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kvstore::auth::Auth;
use kvstore::server::{Server, ServerConfig, ServerTls};
use kvstore::{Client as _, LeaseId, Store, StoreConfig, Write};
use kvstoremesh::troubleshoot::{Diagnosis, Findings, Layer, Outcome, Question, troubleshoot};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

const DAY: Duration = Duration::from_secs(86_400);

/// A CA and what it issues, in files.
struct Pki {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is valid, by days from now.
#[derive(Clone, Copy)]
enum Valid {
    Now,
    NoLonger,
    NotYet,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a CA");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.crt"), ca.pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Issues `<file>.crt` and `<file>.key`.
    fn issue(&self, file: &str, name: &str, server_names: &[&str], valid: Valid) {
        let names: Vec<String> = server_names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let usage = match server_names {
            [] => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        };
        params.extended_key_usages = vec![usage];
        let now = SystemTime::now();
        let (from, to) = match valid {
            Valid::Now => (now - DAY, now + DAY),
            Valid::NoLonger => (now - 2 * DAY, now - DAY),
            Valid::NotYet => (now + DAY, now + 2 * DAY),
        };
        (params.not_before, params.not_after) = (from.into(), to.into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

/// A store of cluster `west` behind TLS, with the users of a cluster.
struct West {
    address: SocketAddr,
    _stop: DropGuard,
}

async fn west(pki: &Pki, server: &str, client_ca: &Path, announces: Option<&str>) -> West {
    let store = Store::new(StoreConfig::default());
    let put = |key: &str, value: &str| Write::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: LeaseId::NONE,
    };
    let mut writes = vec![put("cilium/.heartbeat", "2026-02-03T10:11:12Z")];
    writes.extend(announces.map(|config| put("cilium/cluster-config/west", config)));
    store.client().write(writes).await.unwrap();
    store
        .change_auth(|auth| {
            *auth = Auth::of_cluster("west");
            Ok(())
        })
        .unwrap();
    let tls = ServerTls {
        cert_file: pki.path(&format!("{server}.crt")),
        key_file: pki.path(&format!("{server}.key")),
        client_ca_file: Some(client_ca.to_owned()),
    };
    let config = ServerConfig::new((Ipv4Addr::LOCALHOST, 0).into(), Some(tls));
    let server = Server::bind(config, Arc::clone(&store)).await.unwrap();
    let address = server.client_addresses()[0];
    let stop = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "it ends with the token")]
    tokio::spawn(server.run(stop.clone()));
    West { address, _stop: stop.drop_guard() }
}

/// What answers in the place of a store.
async fn impostor(says: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            drop(socket.write_all(says).await);
            held.push(socket);
        }
    });
    address
}

struct Desk {
    dir: TempDir,
    pki: Pki,
}

const WEST: &str = r#"{"id":2,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}"#;

impl Desk {
    fn new() -> Self {
        let pki = Pki::new();
        pki.issue("server", "server", &["127.0.0.1"], Valid::Now);
        pki.issue("remote", "remote", &[], Valid::Now);
        Self { dir: tempfile::tempdir().unwrap(), pki }
    }

    /// A good configuration of `west` at `url`, before `change`.
    fn configure(&self, name: &str, url: &str, change: impl FnOnce(String) -> String) {
        let text = format!(
            "endpoints: ['{url}']\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            self.pki.path("ca.crt").display(),
            self.pki.path("remote.crt").display(),
            self.pki.path("remote.key").display()
        );
        std::fs::write(self.dir.path().join(name), change(text)).unwrap();
    }

    async fn ask(&self, clusters: &[&str], local_id: Option<u32>) -> Findings {
        let question = Question {
            directory: self.dir.path().to_owned(),
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(),
            remotes: true,
            local_store: None,
            local_name: Some("here".to_owned()),
            local_id,
            timeout: Duration::from_secs(20),
        };
        troubleshoot(&question).await.unwrap()
    }

    async fn west(&self) -> Diagnosis {
        self.ask(&["west"], Some(1)).await.clusters.remove(0)
    }
}

/// The layer that is named, and words of the step that failed there.
fn fails(diagnosis: &Diagnosis, layer: Layer, words: &str) {
    assert_eq!(diagnosis.failing, Some(layer), "{diagnosis:#?}");
    let failed =
        |step: &&kvstoremesh::troubleshoot::Step| step.layer == layer && step.outcome == Outcome::Failed;
    let step = diagnosis.steps.iter().find(failed).unwrap();
    assert!(step.what.contains(words), "expected {words:?}: {step:#?}");
    assert!(!step.advice.is_empty(), "{step:#?}");
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}")
}

#[tokio::test]
async fn a_healthy_way_passes_each_layer_with_its_facts() {
    let desk = Desk::new();
    let west = west(&desk.pki, "server", &desk.pki.path("ca.crt"), Some(WEST)).await;
    desk.configure("west", &url(west.address), |text| text);
    let found = desk.west().await;
    assert_eq!(found.failing, None, "{found:#?}");
    let layers: Vec<Layer> = found.steps.iter().map(|step| step.layer).collect();
    let expected = [
        Layer::Configuration,
        Layer::Certificate,
        Layer::Certificate,
        Layer::NameResolution,
        Layer::Tcp,
        Layer::Tls,
        Layer::Permission,
        Layer::ClusterConfig,
        Layer::ClusterId,
    ];
    assert_eq!(layers, expected, "{found:#?}");
    let said = format!("{found:#?}");
    for words in ["etcd version 3.7.0", "subject CN=remote", "cluster id ", "announces id 2", "serial "] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[tokio::test]
async fn fault_1_a_configuration_that_cannot_be_read() {
    let desk = Desk::new();
    desk.configure("west", "https://127.0.0.1:1", |text| text.replace("endpoints:", "endpoints: {"));
    fails(&desk.west().await, Layer::Configuration, "cannot be used");
    let wrong_name = desk.ask(&["West_1"], None).await;
    fails(&wrong_name.clusters[0], Layer::Configuration, "the name of the file");
    assert!(!wrong_name.is_well());
}

#[tokio::test]
async fn fault_2_a_name_without_address() {
    let desk = Desk::new();
    desk.configure("west", "https://no-such-host.invalid:2379", |text| text);
    fails(&desk.west().await, Layer::NameResolution, "no-such-host.invalid has no address");
}

/// A port that nobody listens on, nor can for as long as it is kept.
fn closed() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket
}

#[tokio::test]
async fn fault_3_a_port_that_nobody_listens_on() {
    let desk = Desk::new();
    let closed = closed();
    desk.configure("west", &url(closed.local_addr().unwrap()), |text| text);
    fails(&desk.west().await, Layer::Tcp, "refused");
}

#[tokio::test]
async fn fault_4_something_that_does_not_speak_tls() {
    let desk = Desk::new();
    desk.configure("west", &url(impostor(b"SSH-2.0-OpenSSH_9.2\r\n").await), |text| text);
    fails(&desk.west().await, Layer::Tls, "not TLS");
    desk.configure("west", &url(impostor(b"").await), |text| text);
    fails(&desk.west().await, Layer::Tls, "says nothing");
}

#[tokio::test]
async fn fault_5_a_server_of_another_ca_or_name() {
    let (desk, other) = (Desk::new(), Pki::new());
    other.issue("server", "server", &["127.0.0.1"], Valid::Now);
    let strange = west(&other, "server", &desk.pki.path("ca.crt"), Some(WEST)).await;
    desk.configure("west", &url(strange.address), |text| text);
    fails(&desk.west().await, Layer::Tls, "not vouched for");

    desk.pki.issue("named", "server", &["west.mesh.cilium.io"], Valid::Now);
    let named = west(&desk.pki, "named", &desk.pki.path("ca.crt"), Some(WEST)).await;
    desk.configure("west", &url(named.address), |text| text);
    fails(&desk.west().await, Layer::Tls, "not for 127.0.0.1");
    // By an alias it is reached under its name.
    let alias = format!("https://west.mesh.cilium.io:{}", named.address.port());
    desk.configure("west", &alias, |text| {
        text + "cilium-host-aliases: [{hostname: west.mesh.cilium.io, ips: [127.0.0.1]}]\n"
    });
    assert_eq!(desk.west().await.failing, None);
}

#[tokio::test]
async fn fault_6_a_client_certificate_that_the_server_does_not_know() {
    let (desk, other) = (Desk::new(), Pki::new());
    let west = west(&desk.pki, "server", &other.path("ca.crt"), Some(WEST)).await;
    desk.configure("west", &url(west.address), |text| text);
    fails(&desk.west().await, Layer::Tls, "the server");
    desk.configure("west", &url(west.address), |text| {
        text.lines()
            .filter(|line| !line.starts_with("cert") && !line.starts_with("key"))
            .fold(String::new(), |text, line| text + line + "\n")
    });
    fails(&desk.west().await, Layer::Tls, "the server");
}

#[tokio::test]
async fn fault_7_certificates_that_are_not_valid_now() {
    let desk = Desk::new();
    let west_now = west(&desk.pki, "server", &desk.pki.path("ca.crt"), Some(WEST)).await;
    for (valid, words) in [(Valid::NoLonger, "expired at"), (Valid::NotYet, "not valid before")] {
        desk.pki.issue("remote", "remote", &[], valid);
        desk.configure("west", &url(west_now.address), |text| text);
        fails(&desk.west().await, Layer::Certificate, words);
    }
    desk.pki.issue("remote", "remote", &[], Valid::Now);
    desk.pki.issue("old", "server", &["127.0.0.1"], Valid::NoLonger);
    let expired = west(&desk.pki, "old", &desk.pki.path("ca.crt"), Some(WEST)).await;
    desk.configure("west", &url(expired.address), |text| text);
    fails(&desk.west().await, Layer::Certificate, "the server's certificate is not valid now");
}

#[tokio::test]
async fn fault_8_files_that_are_missing_or_do_not_belong_together() {
    let desk = Desk::new();
    let west = west(&desk.pki, "server", &desk.pki.path("ca.crt"), Some(WEST)).await;
    for (from, to, words) in [
        ("ca.crt", "gone.crt", "No such file"),
        ("remote.key", "server.key", "it is not the key of"),
        ("remote.crt", "remote.key", "no certificate in PEM form"),
        ("remote.key", "remote.crt", "no private key in PEM form"),
    ] {
        desk.configure("west", &url(west.address), |text| text.replace(from, to));
        fails(&desk.west().await, Layer::Certificate, words);
    }
}

#[tokio::test]
async fn fault_9_a_user_that_may_not_read() {
    let desk = Desk::new();
    desk.pki.issue("remote", "remote-nobody", &[], Valid::Now);
    let west = west(&desk.pki, "server", &desk.pki.path("ca.crt"), Some(WEST)).await;
    desk.configure("west", &url(west.address), |text| text);
    fails(&desk.west().await, Layer::Permission, "refuses the user");
}

#[tokio::test]
async fn fault_10_a_cluster_that_does_not_say_what_it_is() {
    let desk = Desk::new();
    for (announces, words) in [
        (None, "no configuration of cluster west"),
        (Some("{"), "cannot be read"),
        (Some(r#"{"capabilities":{}}"#), "announces no id"),
    ] {
        let west = west(&desk.pki, "server", &desk.pki.path("ca.crt"), announces).await;
        desk.configure("west", &url(west.address), |text| text);
        fails(&desk.west().await, Layer::ClusterConfig, words);
    }
}

#[tokio::test]
async fn fault_11_an_id_that_is_taken() {
    let desk = Desk::new();
    let west = west(&desk.pki, "server", &desk.pki.path("ca.crt"), Some(WEST)).await;
    desk.configure("west", &url(west.address), |text| text);
    let clash = desk.ask(&[], Some(2)).await;
    fails(&clash.clusters[0], Layer::ClusterId, "also that of this cluster");
    // The file of the local cluster is only flagged.
    desk.configure("here", &url(west.address), |text| text);
    std::fs::write(desk.dir.path().join("note.txt"), "no configuration").unwrap();
    let found = desk.ask(&[], Some(1)).await;
    let names: Vec<_> = found.clusters.iter().map(|cluster| cluster.cluster.as_str()).collect();
    assert_eq!(names, ["here", "west"]);
    assert!(found.is_well(), "{found:#?}");
}

#[tokio::test]
async fn one_of_several_endpoints_that_fails_is_only_a_warning() {
    let desk = Desk::new();
    let west = west(&desk.pki, "server", &desk.pki.path("ca.crt"), Some(WEST)).await;
    let closed = closed();
    desk.configure("west", &url(west.address), |text| {
        text.replace("endpoints: [", &format!("endpoints: ['{}', ", url(closed.local_addr().unwrap())))
    });
    let found = desk.west().await;
    assert!(found.steps.iter().any(|step| step.outcome == Outcome::Warning && step.layer == Layer::Tcp));
    assert_eq!(found.failing, None, "{found:#?}");
}
