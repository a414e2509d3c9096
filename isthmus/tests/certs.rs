//! `isthmus certs` as a user runs it, judged by rustls: what it issues must make a mutual TLS handshake.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

/// Runs `isthmus certs` in `directory`.
fn certs(directory: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    let command = command.current_dir(directory).arg("certs").args(line.split_whitespace());
    command.output().expect("the built binary starts")
}

/// Runs `isthmus certs`, which must succeed.
fn issue(directory: &Path, line: &str) {
    let output = certs(directory, line);
    assert_eq!(output.status.code(), Some(0), "certs {line}: {}", stderr(&output));
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory with two CAs, `ca` and `other`, each with a server and a client certificate.
fn mesh() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for ca in ["ca", "other"] {
        issue(directory.path(), &format!("ca --out {ca}"));
        issue(
            directory.path(),
            &format!("server --ca {ca} --out {ca}-server --dns east.example --ip 10.1.2.3"),
        );
        issue(directory.path(), &format!("client --ca {ca} --out {ca}-client --cn remote-east"));
    }
    directory
}

fn chain(directory: &Path) -> Vec<CertificateDer<'static>> {
    let file = directory.join("tls.crt");
    CertificateDer::pem_file_iter(file).expect("tls.crt").collect::<Result<_, _>>().expect("PEM")
}

fn key(directory: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(directory.join("tls.key")).expect("tls.key")
}

fn roots(directory: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca.crt")).expect("ca.crt")).expect("a CA");
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Shakes hands in memory. Each side has a directory as `isthmus certs` makes it, and the server is dialled by `name`.
fn handshake(server: &Path, client: &Path, name: &str) -> Result<(), rustls::Error> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(server), provider()).build().expect("verifier");
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config = config.with_client_cert_verifier(verifier).with_single_cert(chain(server), key(server))?;
    let mut server = ServerConnection::new(Arc::new(config))?;

    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config =
        config.with_root_certificates(roots(client)).with_client_auth_cert(chain(client), key(client))?;
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let mut client = ClientConnection::new(Arc::new(config), name)?;

    while client.is_handshaking() || server.is_handshaking() || server.wants_write() || client.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory takes all");
        server.read_tls(&mut wire.as_slice()).expect("memory gives all");
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).expect("memory takes all");
        client.read_tls(&mut wire.as_slice()).expect("memory gives all");
        client.process_new_packets()?;
    }
    assert!(server.peer_certificates().is_some_and(|chain| !chain.is_empty()), "the server knows its client");
    Ok(())
}

#[test]
fn a_server_and_a_client_of_one_ca_trust_each_other_by_every_name() {
    let mesh = mesh();
    let at = |name: &str| mesh.path().join(name);
    let names = [
        "west.mesh.cilium.io",
        "localhost",
        "clustermesh-apiserver.cilium.io",
        "east.example",
        "127.0.0.1",
        "::1",
        "10.1.2.3",
    ];
    for name in names {
        handshake(&at("ca-server"), &at("ca-client"), name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn whoever_is_of_another_ca_or_role_or_name_is_refused() {
    let mesh = mesh();
    let at = |name: &str| mesh.path().join(name);
    // Trusts the right CA, and shows a certificate of the other.
    let forged = at("forged");
    std::fs::create_dir(&forged).expect("directory");
    for (from, file) in [("ca-client", "ca.crt"), ("other-client", "tls.crt"), ("other-client", "tls.key")] {
        std::fs::copy(at(from).join(file), forged.join(file)).expect("copy");
    }
    // Both CAs have the same name, so it is the signature that gives the other away.
    let cases = [
        ("the client distrusts the server", "other-server", "ca-client", "localhost", "BadSignature"),
        ("the server distrusts the client", "ca-server", "forged", "localhost", "BadSignature"),
        ("a client certificate as a server's", "ca-client", "ca-client", "localhost", "required: ServerAuth"),
        ("a server certificate as a client's", "ca-server", "ca-server", "localhost", "required: ClientAuth"),
        ("a name it does not have", "ca-server", "ca-client", "west.example", "NotValidForName"),
        ("an address it does not have", "ca-server", "ca-client", "10.9.9.9", "NotValidForName"),
    ];
    for (name, server, client, dialled, expected) in cases {
        let error = handshake(&at(server), &at(client), dialled).expect_err(name);
        assert!(format!("{error:?}").contains(expected), "{name}: {error:?}");
    }
}

#[test]
fn keys_are_private_and_files_are_never_replaced_unasked() {
    let mesh = mesh();
    for key in ["ca/ca.key", "ca-server/tls.key", "ca-client/tls.key"] {
        let mode = mesh.path().join(key).metadata().expect(key).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let lines = [
        ("ca/ca.key", "ca --out ca"),
        ("ca-server/tls.key", "server --ca ca --out ca-server"),
        ("ca-client/tls.key", "client --ca ca --out ca-client --cn remote-east"),
    ];
    for (key, line) in lines {
        let before = std::fs::read(mesh.path().join(key)).expect(key);
        let output = certs(mesh.path(), line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(stderr(&output).contains("is there already; give --force"), "{line}: {}", stderr(&output));
        assert_eq!(std::fs::read(mesh.path().join(key)).expect(key), before, "{line}");

        issue(mesh.path(), &format!("{line} --force"));
        assert_ne!(std::fs::read(mesh.path().join(key)).expect(key), before, "{line} --force");
    }
}

#[test]
fn a_ca_that_cannot_issue_is_told_with_what_to_do() {
    let mesh = mesh();
    issue(mesh.path(), "ca --out short --valid-for 30d");
    std::fs::copy(mesh.path().join("other/ca.key"), mesh.path().join("mixed.key")).expect("copy");
    issue(mesh.path(), "ca --out mixed");
    std::fs::rename(mesh.path().join("mixed.key"), mesh.path().join("mixed/ca.key")).expect("rename");
    let cases = [
        ("no CA", "nowhere", "make one by `isthmus certs ca --out nowhere`"),
        ("a leaf's directory", "ca-server", "make one by `isthmus certs ca --out ca-server`"),
        ("near its end", "short", "ask for less by `--valid-for 29d`"),
        (
            "another's key",
            "mixed",
            "cannot issue from mixed: the CA key does not belong to the CA certificate",
        ),
    ];
    for (name, ca, expected) in cases {
        let output = certs(mesh.path(), &format!("client --ca {ca} --out new --cn remote-west"));
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(stderr(&output).contains(expected), "{name}: {}", stderr(&output));
        assert!(!mesh.path().join("new").exists(), "{name}: nothing is written");
    }
}

#[test]
fn verify_has_code_0_or_3_and_renew_replaces_what_is_near_its_end() {
    let mesh = mesh();
    let verify = |line: &str| {
        let output = certs(mesh.path(), &format!("verify {line}"));
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    for line in
        ["ca-server --name east.example --name 10.1.2.3", "ca-client", "ca-client/tls.crt --ca ca/ca.crt"]
    {
        let (code, text) = verify(line);
        assert_eq!(code, Some(0), "{line}: {text}");
        assert!(!text.contains("FAIL") && text.contains("ok   chain"), "{line}: {text}");
    }
    for (line, expected) in [
        ("ca-server --ca other/ca.crt", "FAIL chain"),
        ("ca-server --name west.example", "FAIL names"),
        ("ca-client --for server", "FAIL usage"),
        ("ca-client --key other-client/tls.key", "FAIL key"),
        ("ca-client --within 2000d", "FAIL dates"),
    ] {
        let (code, text) = verify(line);
        assert_eq!(code, Some(3), "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
    }
    assert_eq!(verify("nowhere").0, Some(1));
    let (code, text) = verify("ca-client -o json");
    assert_eq!(code, Some(0));
    let checks: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(checks[0]["check"], "dates");

    let read = |file: &str| std::fs::read(mesh.path().join("ca-client").join(file)).expect("a file");
    let before = (read("tls.crt"), read("tls.key"));
    issue(mesh.path(), "renew ca-client --ca ca --if-within 30d");
    assert_eq!((read("tls.crt"), read("tls.key")), before, "it is not due");
    issue(mesh.path(), "renew ca-client --ca ca --valid-for 90d");
    assert!(read("tls.crt") != before.0 && read("tls.key") != before.1);
    let at = |name: &str| mesh.path().join(name);
    handshake(&at("ca-server"), &at("ca-client"), "east.example").expect("it is as good as before");
    let output = certs(mesh.path(), "renew nowhere --ca ca");
    assert_eq!(output.status.code(), Some(1));
}

/// The serial number of the certificate that a store shows now.
fn served(client: &Path, address: std::net::SocketAddr) -> Option<Vec<u8>> {
    let config =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().ok()?;
    let config =
        config.with_root_certificates(roots(client)).with_client_auth_cert(chain(client), key(client));
    let name = ServerName::try_from("localhost").expect("a server name");
    let mut connection = ClientConnection::new(Arc::new(config.ok()?), name).ok()?;
    let mut socket = std::net::TcpStream::connect(address).ok()?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).ok()?;
    }
    Some(connection.peer_certificates()?.first()?.to_vec())
}

#[test]
fn a_store_that_runs_takes_up_a_renewed_certificate_and_keeps_its_process() {
    let mesh = mesh();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut store = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    let directory = mesh.path().join("ca-server");
    let file = |name: &str| directory.join(name).display().to_string();
    let store = store
        .args(["store", "serve", "--cluster-name=west", "--health-listen=127.0.0.1:0"])
        .arg(format!("--listen-client-urls=https://{address}"))
        .arg(format!("--cert-file={}", file("tls.crt")))
        .arg(format!("--key-file={}", file("tls.key")))
        .arg(format!("--trusted-ca-file={}", file("ca.crt")))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut store = store.spawn().expect("the built binary starts");
    let client = mesh.path().join("ca-client");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut until = |wanted: &[u8]| {
        loop {
            if served(&client, address).is_some_and(|found| found == wanted) {
                return;
            }
            let ended = store.try_wait().expect("a child");
            assert!(ended.is_none(), "the store has ended: {ended:?}");
            assert!(std::time::Instant::now() < deadline, "the certificate is not served");
        }
    };
    until(&chain(&directory)[0]);
    let former = chain(&directory)[0].clone();
    issue(mesh.path(), "renew ca-server --ca ca");
    let renewed = chain(&directory)[0].clone();
    assert_ne!(former, renewed);
    until(&renewed);
    drop(store.kill());
    drop(store.wait());
}

#[test]
fn show_prints_what_is_inside_and_never_a_key() {
    let mesh = mesh();
    let output = certs(mesh.path(), "show ca-client/tls.crt");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for line in ["Subject    CN=remote-east\n", "Issuer     CN=Isthmus CA\n", "For        client\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }

    let output = certs(mesh.path(), "show ca-server/tls.crt -o json");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown[0]["state"], "valid");
    assert_eq!(shown[0]["ipAddresses"], serde_json::json!(["10.1.2.3", "127.0.0.1", "::1"]));

    let output = certs(mesh.path(), "show ca-client/tls.key");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("expected PEM text with a CERTIFICATE block"), "{}", stderr(&output));
}

#[test]
fn an_expired_certificate_is_shown_with_the_code_for_degraded() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut params = rcgen::CertificateParams::default();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    std::fs::write(directory.path().join("old.crt"), pem).expect("write");
    let output = certs(directory.path(), "show old.crt");
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("2002-01-01T00:00:00Z (expired)"));
}
