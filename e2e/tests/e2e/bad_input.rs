//! Bad input: each gives one clear warning with its reason's code, counts in a metric, shows in the status, and disturbs
//! nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bed, ClusterSpec, Etcdctl, Exec, Mesh, MeshEtcd, NetNs, Part};
use serde_json::{Value, json};

use crate::path::{SOON, entry_becomes};

/// Identities of cluster 2 begin here.
const EAST: u64 = 2 << 16;

#[test]
fn a_cluster_that_cannot_be_does_not_start_and_says_why() {
    let netns = NetNs::new("start").unwrap();
    let long = format!("--cluster-name={}", "a".repeat(33));
    for daemon in ["clustermesh-apiserver", "kvstoremesh", "agent"] {
        for (case, args, expected) in [
            (
                "name of 33 characters",
                [&*long, "--cluster-id=1", "--max-connected-clusters=255"],
                "expected 1 to 32",
            ),
            (
                "upper case",
                ["--cluster-name=West", "--cluster-id=1", "--max-connected-clusters=255"],
                "expected only a-z",
            ),
            (
                "id 0",
                ["--cluster-name=west", "--cluster-id=0", "--max-connected-clusters=255"],
                "expected 1 to 255",
            ),
            (
                "id 256",
                ["--cluster-name=west", "--cluster-id=256", "--max-connected-clusters=255"],
                "expected 1 to 255",
            ),
            (
                "id 512",
                ["--cluster-name=west", "--cluster-id=512", "--max-connected-clusters=511"],
                "expected 1 to 511",
            ),
            (
                "maximum of 300",
                ["--cluster-name=west", "--cluster-id=1", "--max-connected-clusters=300"],
                "255 or 511",
            ),
        ] {
            let program = e2e::isthmus().unwrap();
            let exec = Exec::new(program, Some(&netns)).arg(daemon);
            let exec = if daemon == "agent" { exec.args(["run", "--node-name=n"]) } else { exec };
            let output =
                exec.args(args).args(["--kvstore-opt=etcd.address=http://127.0.0.1:1"]).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{daemon}: {case}: {}", output.stderr);
            assert!(output.stderr.contains(expected), "{daemon}: {case}: {}", output.stderr);
        }
    }
}

/// A store of a cluster that somebody else runs, written by hand.
struct Peer {
    etcdctl: Etcdctl,
    _etcd: MeshEtcd,
}

fn cluster_config(id: u32, max: u32) -> String {
    json!({"id": id, "capabilities": {"syncedCanaries": true, "maxConnectedClusters": max}}).to_string()
}

fn node(name: &str, cluster: &str, id: u32, address: &str) -> Value {
    json!({"Name": name, "Cluster": cluster, "ClusterID": id, "Source": "custom-resource",
        "IPAddresses": [{"Type": "InternalIP", "IP": address}]})
}

fn identity_labels(cluster: &str) -> String {
    format!("k8s:app=x;k8s:io.cilium.k8s.policy.cluster={cluster};")
}

fn ip(address: &str, id: u64) -> Value {
    json!({"IP": address, "Mask": null, "HostIP": "10.200.2.11", "ID": id, "Key": 0,
        "Metadata": "", "K8sNamespace": "shop", "K8sPodName": "x"})
}

fn service(cluster: &str, id: u32, name: &str, backend: &str) -> Value {
    json!({"cluster": cluster, "namespace": "shop", "name": name, "clusterID": id,
        "frontends": {}, "backends": {backend: {"http": {"Protocol": "TCP", "Port": 8080}}},
        "labels": {}, "selector": {}, "includeExternal": true, "shared": true})
}

impl Peer {
    /// Complete, with one good entry of each kind.
    fn start(bed: &Bed, mesh: &Mesh<'_>) -> Self {
        let east = bed.cluster("east");
        let (ca, root) = (mesh.pki().authority(), mesh.pki().client("root").unwrap());
        let server = mesh.pki().server(east).unwrap();
        let etcd = MeshEtcd::start(east.host(), east.dir(), &ca, &server, &root).unwrap();
        let etcdctl = Etcdctl::new(east.host().netns(), etcd.endpoint(), &ca, Some(&root)).unwrap();
        let peer = Self { etcdctl, _etcd: etcd };
        peer.put("cilium/state/nodes/v1/east/good", &node("good", "east", 2, "10.200.2.11"));
        peer.etcdctl
            .put(&format!("cilium/state/identities/v1/id/{}", EAST + 1), identity_labels("east"))
            .unwrap();
        peer.put("cilium/state/ip/v1/default/10.72.1.11", &ip("10.72.1.11", EAST + 1));
        peer.put("cilium/state/services/v1/east/shop/good", &service("east", 2, "good", "10.72.1.11"));
        for kind in ["nodes", "identities", "ip", "services"] {
            peer.etcdctl.put(&format!("cilium/synced/east/cilium/state/{kind}/v1"), "now").unwrap();
        }
        peer.etcdctl.put("cilium/cluster-config/east", cluster_config(2, 255)).unwrap();
        peer
    }

    fn put(&self, key: &str, value: &Value) {
        self.etcdctl.put(key, value.to_string()).unwrap();
    }
}

#[test]
fn bad_input_of_peers_is_named_counted_and_disturbs_nothing_else() {
    let bed = Bed::builder("bad").cluster("west", 1);
    let bed = bed.with(ClusterSpec::new("east", 2).without_kubernetes()).start().unwrap();
    let mesh = Mesh::builder(&bed).datapath().start().unwrap();
    let peer = Peer::start(&bed, &mesh);
    connect(&mesh, "east", &format!("https://{}:2379", bed.cluster("east").host().address()));
    entry_becomes(&mesh, "west", ("nodes", "name", "good"), &json!({"cluster": "east"}));
    bed.eventually("the good entries are all there", SOON, || good_entries(&mesh));

    values_that_break_a_rule_are_skipped(&mesh, &peer);
    a_wireguard_key_of_the_wrong_length_makes_no_peer(&mesh, &peer);
    peers_that_cannot_be_used_are_named(&bed, &mesh);
}

fn connect(mesh: &Mesh<'_>, name: &str, endpoint: &str) {
    let client = mesh.pki().client("root").unwrap();
    let file = mesh.member("west").remotes_dir().join(name);
    mesh.pki().write_etcd_config(&file, &[endpoint.to_owned()], &client).unwrap();
}

/// What must not be disturbed.
fn good_entries(mesh: &Mesh<'_>) -> Result<()> {
    let west = mesh.member("west");
    west.entry("nodes", "name", "good")?;
    west.entry("identities", "id", &(EAST + 1).to_string())?;
    west.entry("ipcache", "prefix", "10.72.1.11/32")?;
    west.entry("services", "name", "good")?;
    let status = west.page(Part::Mirror, "/status")?;
    let east = remote(&status, "east")?;
    ensure!(east["ready"] == true, "east is not ready: {east}");
    Ok(())
}

fn remote<'a>(status: &'a Value, name: &str) -> Result<&'a Value> {
    let remotes = status["remotes"].as_array().context("no remotes")?;
    remotes.iter().find(|remote| remote["name"] == name).with_context(|| format!("no {name} in {status}"))
}

fn values_that_break_a_rule_are_skipped(mesh: &Mesh<'_>, peer: &Peer) {
    let bed = mesh.bed();
    let west = mesh.member("west");
    let mut named = node("other", "east", 2, "10.200.2.12");
    named["Name"] = json!("another");
    let identity = |id: u64| format!("identities/v1/id/{id}");
    let cases: Vec<(&str, String, String, &str)> = vec![
        ("nodes", "nodes/v1/east/text".into(), "no JSON".into(), "value-not-json"),
        ("nodes", "nodes/v1/east/number".into(), "7".into(), "value-not-json"),
        (
            "nodes",
            "nodes/v1/east/north".into(),
            node("north", "north", 2, "10.200.2.13").to_string(),
            "cluster-mismatch",
        ),
        (
            "nodes",
            "nodes/v1/east/local".into(),
            node("local", "west", 1, "10.200.2.13").to_string(),
            "cluster-mismatch",
        ),
        (
            "nodes",
            "nodes/v1/east/id".into(),
            node("id", "east", 3, "10.200.2.13").to_string(),
            "cluster-id-mismatch",
        ),
        ("nodes", "nodes/v1/east/other".into(), named.to_string(), "name-mismatch"),
        (
            "nodes",
            "nodes/v1/east/ip".into(),
            node("ip", "east", 2, "10.200.2.300").to_string(),
            "address-invalid",
        ),
        ("identities", identity(65_536 + 9), identity_labels("east"), "identity-out-of-range"),
        ("identities", identity(EAST + 9), identity_labels("west"), "identity-cluster-label"),
        ("identities", identity(EAST + 10), "no labels".into(), "identity-cluster-label"),
        ("identities", "identities/v1/id/nine".into(), identity_labels("east"), "key-malformed"),
        (
            "ip",
            "ip/v1/default/10.72.1.300".into(),
            ip("10.72.1.300", EAST + 1).to_string(),
            "address-invalid",
        ),
        (
            "ip",
            "ip/v1/default/10.72.1.99".into(),
            ip("10.72.1.99", 65_536 + 1).to_string(),
            "identity-out-of-range",
        ),
        ("ip", "ip/v1/default/10.72.1.98".into(), "{".into(), "value-not-json"),
        (
            "services",
            "services/v1/east/shop/north".into(),
            service("north", 2, "north", "10.72.1.11").to_string(),
            "cluster-mismatch",
        ),
        (
            "services",
            "services/v1/east/shop/id".into(),
            service("east", 9, "id", "10.72.1.11").to_string(),
            "cluster-id-mismatch",
        ),
        (
            "services",
            "services/v1/east/shop/ip".into(),
            service("east", 2, "ip", "10.72.1.300").to_string(),
            "address-invalid",
        ),
        ("services", "services/v1/east/shop/list".into(), "[1]".into(), "value-not-json"),
    ];
    for (_kind, key, value, _reason) in &cases {
        peer.etcdctl.put(&format!("cilium/state/{key}"), value.as_bytes()).unwrap();
    }
    // A key of cluster north under its own prefix in east's store belongs to nobody who is asked.
    peer.put("cilium/state/nodes/v1/north/stray", &node("stray", "north", 2, "10.200.2.14"));
    let short = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    let expected: BTreeMap<_, _> =
        cases.iter().map(|(kind, key, _value, reason)| (format!("{kind} {}", short(key)), *reason)).collect();
    bed.eventually("all are rejected, each for its reason and with words", SOON, || {
        let rejected = west.agent("rejected")?;
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let rows = rejected["rejected"].as_array().context("no table")?.iter();
        let found: BTreeMap<_, _> = rows
            .filter(|row| row["cluster"] == "east" && text(row, "detail").len() > 10)
            .map(|row| (format!("{} {}", text(row, "kind"), short(&text(row, "key"))), text(row, "reason")))
            .collect();
        let differs =
            |(key, reason): &(&String, &&str)| found.get(*key).map(String::as_str) != Some(**reason);
        let wrong: Vec<_> = expected.iter().filter(differs).collect();
        ensure!(wrong.is_empty() && found.len() == expected.len(), "{wrong:#?} in {rejected:#}");
        Ok(())
    });
    for (kind, key, _value, reason) in &cases {
        let (of_kind, of_key) = (format!("kind=\"{kind}\""), format!("{}\" ", short(key)));
        bed.eventually(&format!("{key} is on one line of the log"), SOON, || {
            let log = west.log(Part::Agent(0))?;
            let all = ["WARN", reason, &of_kind, &of_key];
            let warned = log.lines().filter(|line| all.iter().all(|part| line.contains(part))).count();
            ensure!(warned == 1, "on {warned}:\n{log}");
            Ok(())
        });
        bed.eventually(&format!("{reason} is counted"), SOON, || {
            let labels = ["target_cluster=\"east\"", &format!("reason=\"{reason}\"")];
            let counted = west.metric(Part::Agent(0), "clustermesh_rejected_values_total", &labels)?;
            ensure!(counted >= 1.0, "{counted}");
            Ok(())
        });
    }
    let status = west.agent("status").unwrap();
    assert_eq!(status["totals"]["rejected"], cases.len(), "{status}");
    bed.always("the good entries stay", Duration::from_secs(1), || good_entries(mesh));
    for table in ["nodes", "ipcache", "identities", "services"] {
        let text = west.agent(table).unwrap().to_string();
        for word in ["\"text\"", "\"stray\"", "10.200.2.13", "10.72.1.99", "10.72.1.98"] {
            assert!(!text.contains(word), "{word} is in {table}: {text}");
        }
    }
    // A good value later takes effect, and the rejection is forgotten.
    peer.put("cilium/state/nodes/v1/east/text", &node("text", "east", 2, "10.200.2.15"));
    entry_becomes(mesh, "west", ("nodes", "name", "text"), &json!({"nodeIp": "10.200.2.15"}));
    let rejected = west.agent("status").unwrap()["totals"]["rejected"].clone();
    assert_eq!(rejected, cases.len() - 1);
}

fn a_wireguard_key_of_the_wrong_length_makes_no_peer(mesh: &Mesh<'_>, peer: &Peer) {
    let west = mesh.member("west");
    let (good, short) = ("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "AAAAAAAA");
    let node_with = |name: &str, address: &str, key: &str| {
        let mut node = node(name, "east", 2, address);
        node["WireguardPubKey"] = json!(key);
        node["EncryptionKey"] = json!(255);
        peer.put(&format!("cilium/state/nodes/v1/east/{name}"), &node);
    };
    node_with("short-key", "10.200.2.21", short);
    node_with("good-key", "10.200.2.22", good);
    mesh.bed().eventually("the good key is a peer, the short one is withheld with its reason", SOON, || {
        let wireguard = west.agent("wireguard")?;
        let text = wireguard.to_string();
        ensure!(text.contains(good), "no peer: {text}");
        ensure!(text.contains("wireguard-key-invalid") && text.contains("short-key"), "not withheld: {text}");
        let log = west.log(Part::Agent(0))?;
        ensure!(
            log.lines().any(|line| line.contains("wireguard-key-invalid") && line.contains("short-key")),
            "log"
        );
        ensure!(
            west.metric(Part::Agent(0), "wireguard_withheld", &["wireguard-key-invalid"])? >= 1.0,
            "metric"
        );
        Ok(())
    });
    good_entries(mesh).unwrap();
}

fn peers_that_cannot_be_used_are_named(bed: &Bed, mesh: &Mesh<'_>) {
    let west = mesh.member("west");
    let remotes = west.remotes_dir();
    // One store with the configurations of several clusters that cannot be.
    let outside = bed.host("outside", 7).unwrap();
    let own = e2e::Authority::new(&bed.dir().join("outside-pki")).unwrap();
    let (address, ca) = (outside.address().to_string(), own.certificate());
    let (server, client) =
        (own.server("etcd", &[&address]).unwrap(), own.client("root", "root", None).unwrap());
    let etcd = MeshEtcd::start(&outside, &bed.dir().join("outside"), &ca, &server, &client).unwrap();
    let etcdctl = Etcdctl::new(outside.netns(), etcd.endpoint(), &ca, Some(&client)).unwrap();
    for (name, config) in [
        ("zero", cluster_config(0, 255)),
        ("large", cluster_config(256, 255)),
        ("same", cluster_config(1, 255)),
        ("twin", cluster_config(2, 255)),
        ("many", cluster_config(5, 511)),
        ("garbage", "{".to_owned()),
    ] {
        etcdctl.put(&format!("cilium/cluster-config/{name}"), config).unwrap();
    }
    let config = |authority: &Path, certificate: &Path| {
        format!(
            "endpoints:\n- {}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            etcd.endpoint(),
            authority.display(),
            certificate.display(),
            client.key.display()
        )
    };
    let sound = config(&ca, &client.certificate);
    let gone = bed.dir().join("no-such.crt");
    let unreachable = sound.replace(":2379", ":2399");
    let peers = [
        ("zero", &sound, "cluster-id-zero"),
        ("large", &sound, "cluster-id-out-of-range"),
        ("same", &sound, "cluster-id-is-local"),
        ("twin", &sound, "cluster-id-in-use"),
        ("many", &sound, "max-clusters-mismatch"),
        ("garbage", &sound, "cluster-config-invalid"),
        ("absent", &sound, "cluster-config-missing"),
        ("no-cert", &config(&ca, &gone), "certificate-unusable"),
        ("other-ca", &config(&mesh.pki().authority(), &client.certificate), "tls-failed"),
        ("nobody", &unreachable, "peer-unreachable"),
    ];
    let long = "a".repeat(33);
    let files = [
        ("West", &sound, "cluster-name-invalid"),
        (&*long, &sound, "cluster-name-invalid"),
        ("west", &sound, "cluster-is-local"),
        ("broken", &"endpoints: [\n".to_owned(), "peer-config-invalid"),
    ];
    for (name, text, _reason) in peers.iter().chain(&files) {
        fs::write(remotes.join(name), text.as_bytes()).unwrap();
    }
    for (name, _text, reason) in &peers {
        bed.eventually(&format!("{name} is named as {reason}, in status, log and metric"), SOON, || {
            let status = west.page(Part::Mirror, "/status")?;
            let remote = remote(&status, name)?;
            ensure!(remote["ready"] == false && remote["trouble"]["reason"] == *reason, "{remote}");
            said(mesh, "remote_cluster_troubles_total", name, reason)
        });
    }
    for (name, _text, reason) in &files {
        bed.eventually(&format!("the file {name} is named as {reason}"), SOON, || {
            let status = west.page(Part::Mirror, "/status")?;
            let files = status["rejectedFiles"].as_array().context("no rejected files")?;
            let found = files.iter().find(|file| file["file"] == *name);
            let found = found.with_context(|| format!("{name} is not in {files:?}"))?;
            ensure!(found["reason"] == *reason, "{found}");
            ensure!(
                west.metric(Part::Mirror, "rejected_config_files", &[reason])? >= 1.0,
                "no count of {reason}"
            );
            let log = west.log(Part::Mirror)?;
            // Charts hand every cluster the configurations of all, its own too; that is no trouble.
            let said = log.lines().any(|line| line.contains(reason) && line.contains(name));
            ensure!(said || *reason == "cluster-is-local", "not in the log");
            Ok(())
        });
    }
    bed.always("east is mirrored as ever", Duration::from_secs(1), || good_entries(mesh));
    let printed = west.cluster().host().isthmus().unwrap().args(["kvstoremesh", "status"]).output().unwrap();
    assert_eq!(printed.status.code(), Some(3), "{printed:?}");
    for (name, _text, reason) in peers.iter().chain(&files).filter(|(name, ..)| *name != "west") {
        assert!(
            printed.stdout.contains(name) && printed.stdout.contains(reason),
            "{name}: {}",
            printed.stdout
        );
    }
    for (name, _text, _reason) in peers.iter().chain(&files) {
        fs::remove_file(remotes.join(name)).unwrap();
    }
    bed.eventually("with their files they are forgotten, and east remains", SOON, || {
        let status = west.page(Part::Mirror, "/status")?;
        ensure!(status["remotes"].as_array().is_some_and(|all| all.len() == 1), "{status}");
        ensure!(status["rejectedFiles"] == json!([]), "{status}");
        good_entries(mesh)
    });
}

/// A trouble of a remote cluster is in the log and the metric.
fn said(mesh: &Mesh<'_>, metric: &str, cluster: &str, reason: &str) -> Result<()> {
    let west = mesh.member("west");
    let log = west.log(Part::Mirror)?;
    let line = log.lines().any(|line| line.contains(reason) && line.contains(&format!("cluster={cluster}")));
    ensure!(line, "no line about {cluster} with {reason}");
    let labels = [&*format!("target_cluster=\"{cluster}\""), &*format!("reason=\"{reason}\"")];
    ensure!(west.metric(Part::Mirror, metric, &labels)? >= 1.0, "no count");
    Ok(())
}
