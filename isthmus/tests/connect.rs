//! `isthmus connect`, `check` and `disconnect` over two clusters without Kubernetes: kube-lite, and no Cilium.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// How long a debug build on a busy machine may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// kube-lite of two clusters. Dropping it ends them.
struct Clusters {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Drop for Clusters {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn isthmus(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

impl Clusters {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut clusters = Self { dir, children: Vec::new() };
        for (name, services) in [("west", "10.111.0.0/16"), ("east", "10.112.0.0/16")] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
            command.args([
                "kube-lite",
                "--listen=127.0.0.1:0",
                "--health-listen=127.0.0.1:0",
                "--service-cidr",
                services,
            ]);
            command
                .arg("--dir")
                .arg(clusters.dir.path().join(name))
                .stdin(Stdio::null())
                .stderr(Stdio::null());
            clusters.children.push(command.spawn().unwrap());
        }
        let configs = ["west", "east"].map(|name| {
            let path = clusters.dir.path().join(name).join("kubeconfig");
            let deadline = Instant::now() + PATIENCE;
            loop {
                if let Ok(text) = fs::read_to_string(&path) {
                    return serde_json::from_str::<Value>(&text).unwrap();
                }
                assert!(Instant::now() < deadline, "kube-lite of {name} does not start");
                sleep(Duration::from_millis(20));
            }
        });
        let named = |kind: &str, field: &str| -> Vec<Value> {
            let each = |(name, config): (&str, &Value)| json!({"name": name, field: config[kind][0][field]});
            ["west", "east"].into_iter().zip(&configs).map(each).collect()
        };
        let contexts =
            ["west", "east"].map(|name| json!({"name": name, "context": {"cluster": name, "user": name}}));
        let all = json!({"apiVersion": "v1", "kind": "Config", "contexts": contexts,
            "clusters": named("clusters", "cluster"), "users": named("users", "user")});
        fs::write(clusters.kubeconfig(), all.to_string()).unwrap();
        clusters
    }

    fn kubeconfig(&self) -> std::path::PathBuf {
        self.dir.path().join("kubeconfig")
    }

    async fn client(&self, context: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
        Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
    }

    /// A command over both clusters, and its JSON.
    fn run(&self, command: &str, args: &[&str]) -> (i32, Value) {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig().display());
        let both = [command, &kubeconfig, "--context=west", "--context=east", "-o", "json"];
        let output = isthmus(&[&both, args].concat());
        let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), json)
    }
}

async fn send(client: &Client, method: &str, path: &str, kind: &str, object: &Value) -> Value {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    client.request(request.body(object.to_string().into_bytes()).unwrap()).await.unwrap()
}

/// What an operator without Cilium sets up: a name and an id, certificates, and the Service in front of the store.
async fn set_up(client: &Client, name: &str, id: u8, pki: &Path) {
    let create = async |plural: &str, object: Value| {
        let path = format!("/api/v1/namespaces/kube-system/{plural}");
        send(client, "POST", &path, "application/json", &object).await;
    };
    let metadata = |name: &str| json!({"name": name, "namespace": "kube-system"});
    let data = json!({"cluster-name": name, "cluster-id": id.to_string()});
    create("configmaps", json!({"metadata": metadata("isthmus-config"), "data": data})).await;
    for (kind, args) in [
        ("server", ["--dns=*.mesh.cilium.io".to_owned(), format!("--ip=192.0.2.{id}")]),
        ("remote", [format!("--cn=remote-{name}"), "--force".to_owned()]),
    ] {
        let (ca, out) = (pki.join("ca"), pki.join(format!("{kind}-{name}")));
        let issue = if kind == "server" { "server" } else { "client" };
        let made = isthmus(&[
            "certs",
            issue,
            "--ca",
            ca.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
            &args[0],
            &args[1],
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |file: &Path| STANDARD.encode(fs::read(file).unwrap());
        let data = json!({"ca.crt": read(&ca.join("ca.crt")), "tls.crt": read(&out.join("tls.crt")), "tls.key": read(&out.join("tls.key"))});
        let secret = metadata(&format!("clustermesh-apiserver-{kind}-cert"));
        create("secrets", json!({"metadata": secret, "type": "kubernetes.io/tls", "data": data})).await;
    }
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 2379}]});
    create("services", json!({"metadata": metadata("clustermesh-apiserver"), "spec": spec})).await;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{id}")}]}}});
    let path = "/api/v1/namespaces/kube-system/services/clustermesh-apiserver/status";
    send(client, "PATCH", path, "application/merge-patch+json", &status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_without_cilium_are_connected_checked_and_parted() {
    let clusters = Clusters::start();
    let pki = clusters.dir.path().join("pki");
    assert!(isthmus(&["certs", "ca", "--out", pki.join("ca").to_str().unwrap()]).status.success());
    for (name, id) in [("west", 1), ("east", 2)] {
        set_up(&clusters.client(name).await, name, id, &pki).await;
    }

    // Who may not is told so in the words of the API server, and in no others.
    let (code, refused) = clusters.run("connect", &["--no-probe", "--as=somebody"]);
    assert_eq!((code, &refused["outcome"]), (1, &"not-written".into()), "{refused}");
    let found = refused["findings"][0]["found"].as_str().unwrap();
    assert_eq!(found, "get /version: kube-lite does not impersonate: impersonate-user");

    // So is who mistypes, before anything is planned.
    let kubeconfig = format!("--kubeconfig={}", clusters.kubeconfig().display());
    for (args, expected) in [
        (
            &["connect", "--contexts", "--address=wst=192.0.2.1:2379"][..],
            "--address wst: no such cluster; those looked at are east, west",
        ),
        (&["check", "--contexts", "--address=wst=192.0.2.1:2379"], "--address wst: no such cluster"),
        (&["connect", "--context=west"], "expected two or more clusters, found 1: "),
        (&["connect"], "--contexts for all of the kubeconfig, which has 2"),
        (&["check"], "--contexts for all of the kubeconfig, which has 2"),
        (&["disconnect", "--context=west"], "`isthmus disconnect CLUSTER --context west`"),
    ] {
        let output = isthmus(&[args, &[&kubeconfig]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    let nothing = isthmus(&["disconnect", "nort", "--context=west", &kubeconfig]);
    assert_eq!(String::from_utf8_lossy(&nothing.stdout), "Nothing to do: west has nothing of nort.\n");

    let (code, planned) = clusters.run("connect", &["--no-probe"]);
    assert_eq!(
        (code, &planned["outcome"], &planned["findings"]),
        (0, &"planned".into(), &json!([])),
        "{planned}"
    );
    let (code, looked) = clusters.run("check", &["--no-probe"]);
    assert_eq!((code, &looked["healthy"]), (3, &false.into()), "{looked}");

    let (code, waited) = clusters.run("check", &["--no-probe", "--wait", "--timeout=2s"]);
    assert_eq!((code, &waited["healthy"]), (4, &false.into()), "{waited}");

    let (code, applied) = clusters.run("connect", &["--no-probe", "--apply"]);
    assert_eq!(
        (code, &applied["outcome"], &applied["plan"]),
        (0, &"applied".into(), &planned["plan"]),
        "{applied}"
    );
    let west = clusters.client("west").await;
    let path = "/api/v1/namespaces/kube-system/secrets/cilium-kvstoremesh";
    let get = async || -> Value { west.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap() };
    let entry = STANDARD.decode(get().await["data"]["east"].as_str().unwrap()).unwrap();
    assert!(entry.starts_with(b"endpoints:\n- https://192.0.2.2:2379\n"), "{}", entry.escape_ascii());

    let before = get().await;
    let (code, again) = clusters.run("connect", &["--no-probe", "--apply"]);
    assert_eq!((code, &again["outcome"]), (0, &"nothing-to-do".into()), "{again}");
    assert_eq!(get().await["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    let (code, healthy) = clusters.run("check", &["--no-probe"]);
    assert_eq!((code, &healthy["healthy"]), (0, &true.into()), "{healthy}");

    let (code, parted) = clusters.run("disconnect", &["--apply"]);
    assert_eq!((code, &parted["outcome"]), (0, &"applied".into()), "{parted}");
    assert_eq!(get().await["data"]["east"], Value::Null);
}
