//! A real kube-apiserver over a real etcd, on loopback; one for all cases.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{Authority, Process, tool};
use tempfile::TempDir;

use crate::lite::write_kubeconfig;

/// Started with the first call; ends with the process.
#[derive(Debug)]
struct Real {
    kubeconfig: PathBuf,
    _apiserver: Process,
    _etcd: Process,
    _dir: TempDir,
}

/// The administrator's kubeconfig.
pub(crate) fn kubeconfig() -> PathBuf {
    static REAL: OnceLock<Real> = OnceLock::new();
    let start = || loop {
        match start() {
            // Another program took a port that was free just before.
            Err(error) if format!("{error:#}").contains("address already in use") => {}
            started => return started.unwrap_or_else(|error| panic!("{error:#}")),
        }
    };
    REAL.get_or_init(start).kubeconfig.clone()
}

/// The path of a server program. `ISTHMUS_TOOLS_BIN` names a directory of them; without it they are built.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = match std::env::var_os("ISTHMUS_TOOLS_BIN") {
        Some(dir) => PathBuf::from(dir).join(name),
        None => tool(name)
            .unwrap_or_else(|error| panic!("{name} is needed: set ISTHMUS_TOOLS_BIN, or: {error:#}")),
    };
    assert!(path.is_file(), "{} is not there; is ISTHMUS_TOOLS_BIN right?", path.display());
    path
}

fn start() -> Result<Real> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let authority = Authority::new(&path.join("pki")).unwrap();
    let serving = authority.server("apiserver", &["127.0.0.1", "localhost"]).unwrap();
    let (verify, sign) = authority.bare_keys("service-accounts").unwrap();
    // Bound together, so that they differ.
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(listeners);
    let (client, peer) = (format!("http://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
    let mut etcd = process(
        path,
        "etcd",
        &[
            format!("--data-dir={}", path.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".to_owned(),
        ],
    );
    let mut apiserver = process(
        path,
        "kube-apiserver",
        &[
            format!("--etcd-servers={client}"),
            format!("--cert-dir={}", path.display()),
            format!("--tls-cert-file={}", serving.certificate.display()),
            format!("--tls-private-key-file={}", serving.key.display()),
            format!("--client-ca-file={}", authority.certificate().display()),
            format!("--secure-port={}", ports[2]),
            "--bind-address=127.0.0.1".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", verify.display()),
            format!("--service-account-signing-key-file={}", sign.display()),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ],
    );
    let url = format!("https://127.0.0.1:{}", ports[2]);
    let kubeconfig = write_kubeconfig(&authority, path, &url).unwrap();
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        etcd.ensure_running()?;
        apiserver.ensure_running()?;
        let ready = TcpStream::connect(("127.0.0.1", ports[2])).is_ok()
            && Command::new(program("kubectl"))
                .arg(format!("--kubeconfig={}", kubeconfig.display()))
                .args(["get", "--raw", "/readyz"])
                .output()
                .is_ok_and(|output| output.stdout == b"ok");
        if ready {
            return Ok(Real { kubeconfig, _apiserver: apiserver, _etcd: etcd, _dir: dir });
        }
        assert!(Instant::now() < deadline, "the API server is not ready in time");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn process(dir: &Path, name: &str, flags: &[String]) -> Process {
    let mut command = Command::new(program(name));
    command.args(flags);
    Process::start(name, command, None, &dir.join(format!("{name}.log"))).unwrap()
}
