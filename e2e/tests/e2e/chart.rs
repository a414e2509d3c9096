//! Our program in the place of Cilium's image: the pods that Cilium's chart renders, with their commands, flags, mounts,
//! service account, certificates and users. From the objects that Cilium was shown must come what Cilium wrote.

pub(crate) mod pod;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{Authority, Bed, Cluster, ClusterSpec, Etcdctl, Kubectl};
use mesh_types::{ClusterConfig, ClusterEndpointSlice, LocalCluster, Peer};
use serde::Deserialize as _;
use serde_json::{Value, json};

use self::pod::Pod;
use crate::path::SOON;

/// What Cilium writes and we do not: what no consumer could use (README of the golden data).
const LEFT_OUT: [&str; 3] = ["/70000", "/10.70.2.45", "/shop/external"];

/// What the pod's role of the chart allows, as `kubectl create clusterrole` takes it.
const READS: &str = "--resource=ciliumidentities.cilium.io,ciliumendpoints.cilium.io,ciliumnodes.cilium.io,\
    ciliumendpointslices.cilium.io,customresourcedefinitions.apiextensions.k8s.io,endpoints,namespaces,services,\
    endpointslices.discovery.k8s.io,serviceexports.multicluster.x-k8s.io";

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mesh-types/tests/golden").join(file)
}

/// The objects that Cilium was shown. A real API server takes all of them but the value of one label.
fn objects() -> Result<Value> {
    let mut items = Vec::new();
    for file in ["namespaces", "nodes", "identities", "endpoints", "services", "exports"] {
        let text = fs::read_to_string(golden(&format!("cluster-a/{file}.yaml")))?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let mut object = Value::deserialize(document)?;
            if object["metadata"]["labels"]["quoted"].is_string() {
                object["metadata"]["labels"]["quoted"] = json!("a-b-c");
            }
            items.push(object);
        }
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

/// A key of the golden files with its value in a form that can be compared, or nothing if we leave it out.
fn expected(line: &str) -> Option<(String, String)> {
    let mut columns = line.split('\t');
    let (key, leased, value) = (columns.next()?, columns.next()?, columns.next()?);
    assert_eq!(leased, "leased", "{key}");
    if LEFT_OUT.iter().any(|left| key.ends_with(left)) {
        return None;
    }
    let bytes = match value.strip_prefix("base64:") {
        Some(binary) => STANDARD.decode(binary).unwrap(),
        None => value.replace(r"a\u003cb\u003e\u0026c", "a-b-c").into_bytes(),
    };
    Some(comparable(key, &bytes))
}

fn golden_keys(file: &str) -> BTreeMap<String, String> {
    fs::read_to_string(golden(file)).unwrap().lines().filter_map(expected).collect()
}

/// Without what differs from run to run: times, lease numbers, what the API server adds, how well a value is compressed.
fn comparable(key: &str, value: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(value).into_owned();
    if let Some(name) = key.split_once("/endpointslices/v1/prod-eu/").map(|(_, name)| name)
        && !key.starts_with("cilium/synced/")
    {
        return (key.to_owned(), message(name, value));
    }
    if key.contains("/serviceexports/v1/prod-eu/") && !key.starts_with("cilium/synced/") {
        let mut export: Value = serde_json::from_str(&text).unwrap();
        export["exportCreationTimestamp"] = json!("<rfc3339>");
        // Cilium was shown the objects by an API without defaults.
        export["sessionAffinity"] = json!("None");
        for (field, default) in [("ipFamilies", json!(["IPv4"])), ("internalTrafficPolicy", json!("Cluster"))]
        {
            if export[field].is_null() {
                export[field] = default;
            }
        }
        return (key.to_owned(), export.to_string());
    }
    if key.starts_with("cilium/kvstoremesh-lock/") {
        return ("cilium/kvstoremesh-lock/<lease>".to_owned(), String::new());
    }
    if key.starts_with("cilium/synced/") {
        let is_time = text == "<rfc3339>" || text.parse::<jiff::Timestamp>().is_ok();
        return (key.to_owned(), if is_time { "<rfc3339>".to_owned() } else { text });
    }
    (key.to_owned(), text)
}

/// The bytes inside of a slice's frame, readably.
fn message(name: &str, value: &[u8]) -> String {
    let local = LocalCluster::new("us-east", 9, 255).unwrap();
    let config = ClusterConfig { id: 7, ..ClusterConfig::default() };
    let peer = Peer::accept(&local, &"prod-eu".parse().unwrap(), &config).unwrap();
    match ClusterEndpointSlice::decode(name, value, &peer) {
        // A port without name has an empty one once an API server had it.
        Ok(slice) => {
            slice.message().escape_ascii().to_string().replace(r"J\x08\x12\x03TCP", r"J\n\n\x00\x12\x03TCP")
        }
        Err(error) => format!("{error:?}"),
    }
}

/// What a store holds, but for the heartbeat, which Cilium writes only after a minute.
fn stored(etcdctl: &Etcdctl) -> Result<BTreeMap<String, String>> {
    let answer: Value = serde_json::from_str(&etcdctl.run(&["get", "--prefix", "cilium/", "-w", "json"])?)?;
    let entries = answer["kvs"].as_array().context("the store is empty")?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let decode = |field: &str| STANDARD.decode(entry[field].as_str().unwrap_or_default());
        let key = String::from_utf8(decode("key")?)?;
        ensure!(entry["lease"].as_i64().unwrap_or_default() != 0, "{key} has no lease");
        if key != "cilium/.heartbeat" {
            let (key, value) = comparable(&key, &decode("value")?);
            found.insert(key, value);
        }
    }
    Ok(found)
}

/// Waits until a store holds just what Cilium's did.
fn becomes(bed: &Bed, what: &str, etcdctl: &Etcdctl, expected: &BTreeMap<String, String>) {
    bed.eventually(what, SOON, || {
        let found = stored(etcdctl)?;
        for (key, value) in expected {
            let ours = found.get(key).with_context(|| format!("{key} is missing"))?;
            ensure!(ours == value, "{key} is\n{ours}\nCilium writes\n{value}");
        }
        // By which mirrors of ours measure; a listed difference (docs/kvstoremesh.md).
        let is_ours = |key: &str| key.ends_with("/isthmus/stamps/v1");
        let more: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key) && !is_ours(key)).collect();
        ensure!(more.is_empty(), "Cilium does not write {more:?}");
        Ok(())
    });
}

/// The service account that the chart makes, with its role, and its token where pods find it.
pub(crate) fn service_account(kubectl: &Kubectl, cluster: &Cluster, pod: &Pod<'_>) -> Result<()> {
    kubectl.run(&["-n", "kube-system", "create", "serviceaccount", "clustermesh-apiserver"])?;
    kubectl.run(&["create", "clusterrole", "clustermesh-apiserver", "--verb=get,list,watch", READS])?;
    kubectl.run(&[
        "create",
        "clusterrolebinding",
        "clustermesh-apiserver",
        "--clusterrole=clustermesh-apiserver",
        "--serviceaccount=kube-system:clustermesh-apiserver",
    ])?;
    let token = kubectl.run(&["-n", "kube-system", "create", "token", "clustermesh-apiserver"])?;
    pod.write("account/token", token.trim())?;
    pod.write("account/namespace", "kube-system")?;
    let authority = fs::read_to_string(cluster.dir().join("kubernetes-pki/ca.crt"))?;
    pod.write("account/ca.crt", &authority)
}

pub(crate) fn administrator(cluster: &Cluster, authority: &Authority) -> Result<Etcdctl> {
    let user = format!("admin-{}", cluster.name());
    let client = authority.client(&format!("test-{user}"), &user, None)?;
    Etcdctl::new(cluster.host().netns(), "https://127.0.0.1:2379", &authority.certificate(), Some(&client))
}

/// Ours hears of changes that others make, so that it counts none until somebody writes to what is the exporter's.
const SHOWN_LATER: &str = "cilium_clustermesh_apiserver_kvstore_events_queue_seconds";

/// Series that Cilium shows soon and that mean something here; the others are of its framework or of its limits.
fn series(file: &str) -> Vec<String> {
    let text = fs::read_to_string(golden(file)).unwrap();
    let names = text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned());
    let is_framework = |name: &str| name.contains("_hive_") || name.contains("_statedb_");
    names.filter(|name| !is_framework(name) && name != SHOWN_LATER).collect()
}

#[test]
fn the_pods_of_ciliums_chart_work_with_our_program_and_write_what_cilium_writes() {
    let eu = ClusterSpec::new("prod-eu", 7).with_service_cidrs(["10.170.0.0/16", "fd00:170::/112"]);
    let us = ClusterSpec::new("us-east", 9).without_kubernetes();
    let bed = Bed::builder("chart").with(eu).with(us).start().unwrap();
    let (eu, us) = (bed.cluster("prod-eu"), bed.cluster("us-east"));
    let authority = Authority::new(&bed.dir().join("mesh-pki")).unwrap();

    // The exporting cluster knows its peer by name, in the chart's strictest mode.
    let exporting = Pod::new(eu, &authority).unwrap();
    exporting.write("users/users.yaml", "users:\n- name: remote-us-east\n  role: remote\n").unwrap();
    service_account(eu.kubectl(), eu, &exporting).unwrap();
    eu.kubectl().apply_object(&objects().unwrap()).unwrap();
    exporting.etcd_init().unwrap();
    let _etcd = exporting.etcd().unwrap();
    let mut apiserver = exporting.apiserver().unwrap();
    apiserver.wait_ready().unwrap();
    let store = administrator(eu, &authority).unwrap();
    becomes(&bed, "the export is Cilium's", &store, &golden_keys("v1.20/state.tsv"));

    // The mirroring one reaches it by an alias.
    let mirroring = Pod::new(us, &authority).unwrap();
    mirroring.peers_certificate("remote-us-east", &authority).unwrap();
    let address = eu.host().address();
    mirroring.write("hosts", &format!("127.0.0.1 localhost\n{address} prod-eu.mesh.cilium.io\n")).unwrap();
    mirroring
        .write(
            "clustermesh/prod-eu",
            "endpoints:\n- https://prod-eu.mesh.cilium.io:2379\n\
             trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt\n\
             cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt\n\
             key-file: /var/lib/cilium/clustermesh/common-etcd-client.key\n",
        )
        .unwrap();
    mirroring.etcd_init().unwrap();
    let _etcd_of_the_mirror = mirroring.etcd().unwrap();
    let mut mirror = mirroring.kvstoremesh().unwrap();
    mirror.wait_ready().unwrap();
    let cache = administrator(us, &authority).unwrap();
    becomes(&bed, "the mirror is Cilium's", &cache, &golden_keys("v1.20/cache.tsv"));

    let debug =
        |args: &[&str]| mirroring.exec("clustermesh-apiserver").arg("kvstoremesh-dbg").args(args).stdout();
    let golden_status = fs::read_to_string(golden("v1.20/kvstoremesh-status.txt")).unwrap();
    let expected = golden_status
        .replace("7 endpoints, 3 identities, 7 services", "6 endpoints, 2 identities, 6 services");
    bed.eventually("the status reads as Cilium's", SOON, || {
        let status = debug(&["status", "--verbose"])?;
        let id = status.split_once(", ID: ").and_then(|(_, rest)| rest.lines().next()).context("no ID")?;
        let status = status.replace(id, "<cluster id>");
        ensure!(status == expected, "{status}\nCilium prints\n{expected}");
        Ok(())
    });
    let told = debug(&["troubleshoot", "prod-eu"]).unwrap();
    assert!(told.contains("prod-eu.mesh.cilium.io"), "{told}");

    // What changes goes all the way, also a peer that is taken off the list.
    eu.kubectl().delete("shop", "service", "upper").unwrap();
    bed.eventually("the service is gone on both sides", SOON, || {
        for (etcdctl, key) in [
            (&store, "cilium/state/services/v1/prod-eu/shop/upper"),
            (&cache, "cilium/cache/services/v1/prod-eu/shop/upper"),
        ] {
            ensure!(etcdctl.get_prefix(key)?.is_empty(), "{key} is still there");
        }
        Ok(())
    });
    for (pod, port, file) in [
        (&exporting, 9962, "v1.20/metrics-apiserver.tsv"),
        (&mirroring, 9964, "v1.20/metrics-kvstoremesh.tsv"),
    ] {
        let url = format!("http://127.0.0.1:{port}/metrics");
        bed.eventually(&format!("all series of {file} are shown"), SOON, || {
            let shown = pod.host().exec("curl").args(["-sSf", &url]).stdout()?;
            let has = |name: &String| {
                // OpenMetrics declares a counter without its ending.
                let family = format!("# TYPE {} ", name.strip_suffix("_total").unwrap_or(name));
                shown.lines().any(|line| line.starts_with(&family))
            };
            let missing: Vec<_> = series(file).into_iter().filter(|name| !has(name)).collect();
            ensure!(missing.is_empty(), "{missing:?} are not in\n{shown}");
            Ok(())
        });
    }
    for (pod, port) in [(&exporting, 9963), (&mirroring, 9963)] {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let shown = pod.host().exec("curl").args(["-sSf", &url]).stdout().unwrap();
        assert!(shown.contains("etcd_server_has_leader 1"), "{shown}");
    }

    exporting.write("users/users.yaml", "users: []\n").unwrap();
    bed.eventually("the peer is no user any more", SOON, || {
        let users = store.run(&["user", "list"])?;
        ensure!(!users.contains("remote-us-east"), "{users}");
        Ok(())
    });
}
