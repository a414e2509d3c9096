//! A real kube-apiserver whose only store is ours: the hardest client there is.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Authority, Bed, Daemon, DaemonSpec, Etcdctl, Exec, Host, Process, Signal, tool};
use serde_json::{Value, json};

use crate::path::SOON;

/// How long the API server may take to be ready beside other work.
const API_PATIENCE: Duration = Duration::from_secs(120);
const API_PORT: u16 = 6443;
const STORE: &str = "https://127.0.0.1:2379";

/// A machine with the store and the API server.
struct Kube<'a> {
    bed: &'a Bed,
    host: Host,
    store: Daemon,
    api: Daemon,
    etcdctl: Etcdctl,
}

fn store_spec(bed: &Bed, authority: &Authority) -> Result<DaemonSpec> {
    let server = authority.server("store", &["127.0.0.1", "localhost"])?;
    let spec = DaemonSpec::isthmus("store")?.args(["serve", "--durable", "--listen-client-urls", STORE]);
    Ok(spec
        .arg(format!("--data-dir={}", bed.dir().join("store").display()))
        .arg(format!("--cert-file={}", server.certificate.display()))
        .arg(format!("--key-file={}", server.key.display()))
        .arg(format!("--trusted-ca-file={}", authority.certificate().display()))
        // Nothing is compacted but by the API server and this test.
        .args(["--auto-compaction-retention=0s", "--log-level=info"])
        .ready_at(SocketAddr::from(([127, 0, 0, 1], 9882))))
}

fn api_spec(bed: &Bed, host: &Host, authority: &Authority) -> Result<DaemonSpec> {
    let client = authority.client("apiserver-store", "root", None)?;
    let (verify, sign) = authority.bare_keys("service-accounts")?;
    let tokens = bed.dir().join("tokens");
    std::fs::write(&tokens, "token,admin,1,system:masters\n").context("write the tokens")?;
    Ok(DaemonSpec::program("kube-apiserver", &tool("kube-apiserver")?)
        .args([format!("--etcd-servers={STORE}"), format!("--secure-port={API_PORT}")])
        .arg(format!("--etcd-cafile={}", authority.certificate().display()))
        .arg(format!("--etcd-certfile={}", client.certificate.display()))
        .arg(format!("--etcd-keyfile={}", client.key.display()))
        .arg(format!("--cert-dir={}", bed.dir().join("api-certs").display()))
        .arg(format!("--advertise-address={}", host.address()))
        .args(["--bind-address=127.0.0.1", "--service-account-issuer=https://test.invalid"])
        .arg(format!("--service-account-key-file={}", verify.display()))
        .arg(format!("--service-account-signing-key-file={}", sign.display()))
        .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
        .arg("--disable-admission-plugins=ServiceAccount")
        // The rest of a list comes from the store at the revision of its beginning, not from what the cache remembers.
        .arg("--feature-gates=ListFromCacheSnapshot=false")
        .arg(format!("--token-auth-file={}", tokens.display())))
}

impl<'a> Kube<'a> {
    fn start(bed: &'a Bed) -> Result<Self> {
        let host = bed.host("control-plane", 1)?;
        let authority = Authority::new(&bed.dir().join("pki"))?;
        let mut store = host.daemon(store_spec(bed, &authority)?)?;
        store.wait_ready()?;
        let witness = authority.client("witness", "witness", None)?;
        let etcdctl = Etcdctl::new(host.netns(), STORE, &authority.certificate(), Some(&witness))?;
        let api = host.daemon(api_spec(bed, &host, &authority)?)?;
        let kube = Self { bed, host, store, api, etcdctl };
        kube.ready();
        Ok(kube)
    }

    fn ready(&self) {
        self.bed.eventually("the API server is ready", API_PATIENCE, || {
            let answer = self.kubectl(&["get", "--raw", "/readyz"])?;
            ensure!(answer == "ok", "{answer}");
            Ok(())
        });
    }

    fn exec(&self) -> Result<Exec> {
        let server = format!("--server=https://127.0.0.1:{API_PORT}");
        let exec = self.host.exec(tool("kubectl")?).env("HOME", self.bed.dir());
        Ok(exec.args(["--insecure-skip-tls-verify", "--token=token", "--request-timeout=60s"]).arg(server))
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        Ok(self.exec()?.args(args).stdout()?.trim().to_owned())
    }

    fn raw(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.kubectl(&["get", "--raw", path])?).context("read the answer")
    }

    fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        self.exec()?.args(["apply", "-f", "-"]).stdin(list).stdout().map(drop)
    }

    /// Forgets all that is not current.
    fn compact(&self) -> Result<()> {
        let newest: Value = serde_json::from_str(&self.etcdctl.run(&["get", "/", "-w", "json"])?)?;
        self.etcdctl.run(&["compaction", &newest["header"]["revision"].to_string()]).map(drop)
    }

    /// One field of an object, once it is that.
    fn becomes(&self, object: &str, field: &str, expected: &str) {
        let path = format!("jsonpath={{{field}}}");
        self.bed.eventually(&format!("{object}: {field} is {expected}"), API_PATIENCE, || {
            let found = self.kubectl(&["get", object, "-o", &path])?;
            ensure!(found == expected, "found {found:?}");
            Ok(())
        });
    }
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": value}})
}

fn foos() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {
            "group": "example.com",
            "names": {"kind": "Foo", "plural": "foos", "singular": "foo", "listKind": "FooList"},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// `kubectl get --watch`, and the lines that it has printed: what happened, to what.
struct Watch {
    process: Process,
}

impl Watch {
    fn start(kube: &Kube<'_>, kind: &str) -> Result<Self> {
        let mut command = std::process::Command::new(tool("kubectl")?);
        command
            .args(["--insecure-skip-tls-verify", "--token=token", "get", kind, "--watch"])
            .args(["--output-watch-events", "--no-headers"])
            .arg(format!("--server=https://127.0.0.1:{API_PORT}"))
            .env("HOME", kube.bed.dir());
        let log = kube.bed.dir().join(format!("watch-{kind}.log"));
        Ok(Self { process: Process::start("watch", command, Some(kube.host.netns()), &log)? })
    }

    fn tells(&self, bed: &Bed, line: &str) {
        bed.eventually(&format!("the watch tells {line:?}"), SOON, || {
            let text = std::fs::read_to_string(self.process.log())?;
            let mut lines =
                text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
            ensure!(lines.any(|told| told == line), "{text}");
            Ok(())
        });
    }
}

#[test]
fn a_kube_apiserver_runs_on_our_store() {
    let bed = Bed::builder("kube-store").start().unwrap();
    let mut kube = Kube::start(&bed).unwrap();
    kube.becomes("namespace/kube-system", ".status.phase", "Active");
    lists_come_in_pages_of_one_moment(&kube);
    changes_are_watched(&kube);
    kinds_of_ones_own_and_leases(&kube);
    a_change_that_raced_another_is_refused(&kube);
    reads_are_consistent(&kube);
    the_api_server_restarts(&mut kube);
    the_store_restarts(&mut kube);
    the_store_is_silent_for_a_while(&mut kube);
}

fn lists_come_in_pages_of_one_moment(kube: &Kube<'_>) {
    let maps: Vec<Value> = (0..25).map(|n| config_map(&format!("c{n:02}"), "1")).collect();
    kube.apply(&maps).unwrap();
    let listed = kube.kubectl(&["get", "cm", "--chunk-size=5", "-o", "name"]).unwrap();
    assert_eq!(listed.lines().filter(|line| line.starts_with("configmap/c")).count(), 25);

    // A list goes on where it was, at the revision at which it began.
    let path = "/api/v1/namespaces/default/configmaps?limit=10";
    let first = kube.raw(path).unwrap();
    let next = first["metadata"]["continue"].as_str().unwrap();
    kube.apply(&[config_map("zz-later", "1")]).unwrap();
    let second = kube.raw(&format!("{path}&continue={next}")).unwrap();
    let all_of_rest = kube.raw(&format!("{path}0&continue={next}")).unwrap();
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&second).len(), 10, "{second}");
    assert!(!names(&all_of_rest).contains(&"zz-later".to_owned()), "it came after the list began");
    kube.kubectl(&["delete", "cm", "zz-later"]).unwrap();

    // After a compaction the rest of the list is refused, and kubectl begins anew.
    kube.compact().unwrap();
    let gone = format!("{:#}", kube.raw(&format!("{path}&continue={next}")).unwrap_err());
    assert!(gone.contains("too old") || gone.contains("Expired"), "{gone}");
}

fn changes_are_watched(kube: &Kube<'_>) {
    let mut watch = Watch::start(kube, "configmaps").unwrap();
    watch.tells(kube.bed, "ADDED c24");
    kube.apply(&[config_map("c00", "2")]).unwrap();
    watch.tells(kube.bed, "MODIFIED c00");
    kube.kubectl(&["delete", "cm", "c01"]).unwrap();
    watch.tells(kube.bed, "DELETED c01");
    watch.process.kill().unwrap();
}

fn kinds_of_ones_own_and_leases(kube: &Kube<'_>) {
    kube.apply(&[foos()]).unwrap();
    kube.kubectl(&["wait", "--for=condition=Established", "crd/foos.example.com", "--timeout=120s"]).unwrap();
    let foo = json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "f"}, "x": 1});
    kube.bed.eventually("a Foo can be made", SOON, || kube.apply(std::slice::from_ref(&foo)));
    kube.apply(&[json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l"}, "spec": {"holderIdentity": "me"},
    })])
    .unwrap();
    kube.becomes("foo/f", ".x", "1");
    let keys = kube.etcdctl.get_prefix("/registry/example.com/foos/").unwrap();
    assert!(keys.contains_key("/registry/example.com/foos/default/f"), "{:?}", keys.keys());
    // Events live on leases of the store.
    kube.apply(&[json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Test",
        "involvedObject": {"kind": "ConfigMap", "namespace": "default", "name": "c00"},
    })])
    .unwrap();
    let leases = kube.etcdctl.run(&["lease", "list"]).unwrap();
    assert!(!leases.starts_with("found 0 leases"), "{leases}");
}

fn a_change_that_raced_another_is_refused(kube: &Kube<'_>) {
    let old = kube.kubectl(&["get", "cm", "c02", "-o", "yaml"]).unwrap();
    kube.apply(&[config_map("c02", "2")]).unwrap();
    let refused = kube.exec().unwrap().args(["replace", "-f", "-"]).stdin(old).stdout().unwrap_err();
    assert!(format!("{refused:#}").contains("the object has been modified"), "{refused:#}");
}

/// What was just written is in the next list, which is served from the watch cache once that has caught up: the API
/// server asks the store for its revision, and its watch for progress.
fn reads_are_consistent(kube: &Kube<'_>) {
    for round in 0..10 {
        kube.apply(&[config_map("fresh", &round.to_string())]).unwrap();
        let list = kube.raw("/api/v1/namespaces/default/configmaps").unwrap();
        let items = list["items"].as_array().unwrap();
        let fresh = items.iter().find(|item| item["metadata"]["name"] == "fresh").unwrap();
        assert_eq!(fresh["data"]["a"], round.to_string());
    }
    let metrics = kube.kubectl(&["get", "--raw", "/metrics"]).unwrap();
    let hits = metrics.lines().filter(|line| line.starts_with("apiserver_cache_list_total")).count();
    assert!(hits > 0, "lists are served from the watch cache");
}

fn everything_is_there(kube: &Kube<'_>) {
    kube.ready();
    kube.becomes("foo/f", ".x", "1");
    kube.becomes("cm/c00", ".data.a", "2");
    kube.becomes("lease/l", ".spec.holderIdentity", "me");
    kube.bed.eventually("what was deleted is not there", API_PATIENCE, || {
        let found = kube.kubectl(&["get", "cm", "c01", "--ignore-not-found"])?;
        assert_eq!(found, "", "it is back");
        Ok(())
    });
}

/// Also when what it last saw is compacted meanwhile.
fn the_api_server_restarts(kube: &mut Kube<'_>) {
    kube.api.kill9().unwrap();
    kube.compact().unwrap();
    kube.api.restart().unwrap();
    everything_is_there(kube);
}

/// Killed and started on the same directory, under an API server that goes on: its watches resume where they were.
fn the_store_restarts(kube: &mut Kube<'_>) {
    let mut watch = Watch::start(kube, "configmaps").unwrap();
    watch.tells(kube.bed, "ADDED c24");
    kube.store.kill9().unwrap();
    kube.store.restart().unwrap();
    kube.store.wait_ready().unwrap();
    everything_is_there(kube);
    kube.bed.eventually("writes go on", API_PATIENCE, || kube.apply(&[config_map("after-restart", "1")]));
    watch.tells(kube.bed, "ADDED after-restart");
    watch.process.kill().unwrap();
    kube.becomes("cm/after-restart", ".data.a", "1");
}

/// Frozen: connections stay, nothing answers. Nothing is lost.
fn the_store_is_silent_for_a_while(kube: &mut Kube<'_>) {
    kube.store.signal(Signal::Freeze).unwrap();
    let refused =
        kube.exec().unwrap().args(["create", "cm", "late", "--request-timeout=3s"]).output().unwrap();
    assert!(!refused.status.success(), "nobody can have stored it in time");
    kube.store.signal(Signal::Thaw).unwrap();
    everything_is_there(kube);
    kube.bed.eventually("writes go on", API_PATIENCE, || kube.apply(&[config_map("thawed", "1")]));
    kube.becomes("cm/thawed", ".data.a", "1");
}
