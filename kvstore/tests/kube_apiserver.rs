//! A real kube-apiserver on our store: the hardest client there is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use battery::{
    DEADLINE,
    bed::{self, tool},
};
use tempfile::TempDir;

/// An API server and how to talk to it. Ends with the test.
struct Kube {
    dir: TempDir,
    port: u16,
    store: String,
    tls: [PathBuf; 3],
    process: Option<Child>,
}

impl Kube {
    fn new(ours: &bed::Ours) -> Self {
        let dir = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(dir.path().join("tokens"), "token,admin,1,system:masters\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tls = ["ca.crt", "client.crt", "client.key"].map(|name| ours.pki.path(name));
        let mut kube = Self { dir, port, store: ours.endpoint(), tls, process: None };
        kube.start();
        kube
    }

    fn start(&mut self) {
        let at = |name: &str| self.dir.path().join(name).into_os_string().into_string().unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let [ca, cert, key] = self.tls.each_ref().map(|path| path.to_str().unwrap().to_owned());
        let process = Command::new(tool("kube-apiserver"))
            .arg(format!("--etcd-servers={}", self.store))
            .args([
                format!("--etcd-cafile={ca}"),
                format!("--etcd-certfile={cert}"),
                format!("--etcd-keyfile={key}"),
            ])
            .args([format!("--cert-dir={}", at("certs")), format!("--secure-port={}", self.port)])
            .args(["--bind-address=127.0.0.1", "--service-account-issuer=https://test.invalid"])
            .args([format!("--service-account-key-file={}", at("sa.pub"))])
            .args([format!("--service-account-signing-key-file={}", at("sa.key"))])
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
            .args(["--disable-admission-plugins=ServiceAccount"])
            .arg(format!("--token-auth-file={}", at("tokens")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        self.until("readiness", &["get", "--raw", "/readyz"], |text| text == "ok");
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _may_have_ended = process.kill();
            let _reaped = process.wait();
        }
    }

    /// Runs kubectl; what it prints, or why it failed.
    fn try_kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(tool("kubectl"))
            .args(["--insecure-skip-tls-verify", "--token=token", "--request-timeout=20s"])
            .arg(format!("--server=https://127.0.0.1:{}", self.port))
            .env("HOME", self.dir.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args, "").unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    fn apply(&self, manifest: &str) {
        let deadline = Instant::now() + DEADLINE;
        // A kind that was just defined takes a moment to be served.
        while let Err(error) = self.try_kubectl(&["apply", "-f", "-"], manifest) {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn until(&self, what: &str, args: &[&str], holds: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + 2 * DEADLINE;
        loop {
            let found = self.try_kubectl(args, "");
            if found.as_deref().is_ok_and(&holds) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {found:?}\n{}", tail(&self.dir.path().join("log")));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        self.stop();
    }
}

fn tail(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
}

fn config_map(name: &str, value: &str) -> String {
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{a: {value:?}}}}}\n---\n")
}

const FOOS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: foos.example.com}
spec:
  group: example.com
  names: {kind: Foo, plural: foos, singular: foo, listKind: FooList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

fn work(ours: &bed::Ours) {
    let mut kube = Kube::new(ours);
    kube.until("the namespaces", &["get", "ns", "-o", "name"], |text| text.contains("kube-system"));

    // Create, list in pages.
    kube.apply(&(0..25).map(|n| config_map(&format!("c{n:02}"), "1")).collect::<String>());
    let listed = kube.kubectl(&["get", "cm", "--chunk-size=5", "-o", "name"]);
    assert_eq!(listed.lines().filter(|line| line.starts_with("configmap/c")).count(), 25);

    // Watch, change, delete.
    let out = std::fs::File::create(kube.dir.path().join("watched")).unwrap();
    let mut watch = Command::new(tool("kubectl"))
        .args([
            "--insecure-skip-tls-verify",
            "--token=token",
            "get",
            "cm",
            "--watch",
            "--output-watch-events",
            "--no-headers",
        ])
        .arg(format!("--server=https://127.0.0.1:{}", kube.port))
        .env("HOME", kube.dir.path())
        .stdout(out)
        .spawn()
        .unwrap();
    let watched = |line: &str| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let text = std::fs::read_to_string(kube.dir.path().join("watched")).unwrap();
            let words =
                text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
            if words.into_iter().any(|words| words == line) {
                return;
            }
            assert!(Instant::now() < deadline, "{line} is not in {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    watched("ADDED c24");
    kube.apply(&config_map("c00", "2"));
    watched("MODIFIED c00");
    kube.kubectl(&["delete", "cm", "c01"]);
    watched("DELETED c01");
    watch.kill().unwrap();
    watch.wait().unwrap();

    // Kinds of one's own, and leases.
    kube.apply(FOOS);
    kube.apply("{apiVersion: example.com/v1, kind: Foo, metadata: {name: f}, x: 1}");
    kube.apply(
        "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {holderIdentity: me}}",
    );
    assert_eq!(kube.kubectl(&["get", "foo", "f", "-o", "jsonpath={.x}"]), "1");

    // A change that raced another is refused.
    let old = kube.kubectl(&["get", "cm", "c02", "-o", "yaml"]);
    kube.apply(&config_map("c02", "2"));
    let refused = kube.try_kubectl(&["replace", "-f", "-"], &old).unwrap_err();
    assert!(refused.contains("the object has been modified"), "{refused}");

    // What was there is there after a restart, also when old revisions are gone.
    ours.store.compact(ours.store.revision()).unwrap();
    kube.stop();
    kube.start();
    kube.until("the own kind", &["get", "foo", "f", "-o", "jsonpath={.x}"], |text| text == "1");
    assert_eq!(kube.kubectl(&["get", "cm", "c00", "-o", "jsonpath={.data.a}"]), "2");
    assert_eq!(kube.kubectl(&["get", "lease", "l", "-o", "jsonpath={.spec.holderIdentity}"]), "me");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_creates_lists_watches_deletes_and_restarts() {
    let ours = bed::ours().await;
    tokio::task::spawn_blocking(move || work(&ours)).await.unwrap();
}
