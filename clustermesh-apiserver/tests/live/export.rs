//! What the exporter makes of a cluster's objects, and of their changes.

use anyhow::Result;
use clustermesh_apiserver::{Cni, Config};
use kvstore::{Client as _, LeaseId, Write};
use serde_json::{Value, json};

use crate::bench::{Bench, config, deleted_since, eventually, keys, names, new_store, until, until_names};

pub(crate) const NODES: &str = "cilium/state/nodes/v1/west/";
pub(crate) const IP: &str = "cilium/state/ip/v1/default/";
pub(crate) const IDENTITIES: &str = "cilium/state/identities/v1/id/";
pub(crate) const SERVICES: &str = "cilium/state/services/v1/west/";
pub(crate) const SLICES: &str = "cilium/state/endpointslices/v1/west/";
const EXPORTS: &str = "cilium/state/serviceexports/v1/west/";
pub(crate) const SYNCED: &str = "cilium/synced/west/cilium/state/";
const CONFIG: &str = "cilium/cluster-config/";

pub(crate) fn namespace(name: &str, global: bool) -> Value {
    let annotations = json!({"clustermesh.cilium.io/global": global.to_string()});
    json!({"kind": "Namespace", "metadata": {"name": name, "annotations": annotations}})
}

pub(crate) fn cilium_node(name: &str, cidrs: Value) -> Value {
    json!({
        "kind": "CiliumNode", "metadata": {"name": name},
        "spec": {"addresses": [{"type": "InternalIP", "ip": "192.0.2.11"}], "ipam": {"podCIDRs": cidrs}},
    })
}

pub(crate) fn cilium_identity(number: &str, namespace: &str) -> Value {
    json!({"kind": "CiliumIdentity", "metadata": {"name": number}, "security-labels": {
        "k8s:app": "cart", "k8s:io.cilium.k8s.policy.cluster": "west", "k8s:io.kubernetes.pod.namespace": namespace,
    }})
}

pub(crate) fn cilium_endpoint(name: &str, ip: &str) -> Value {
    json!({"kind": "CiliumEndpoint", "metadata": {"name": name, "namespace": "shop"}, "status": {
        "identity": {"id": 196_700}, "networking": {"node": "192.0.2.11", "addressing": [{"ipv4": ip}]},
    }})
}

pub(crate) fn service(shared: bool) -> Value {
    let annotations =
        json!({"service.cilium.io/global": "true", "service.cilium.io/shared": shared.to_string()});
    json!({
        "kind": "Service", "metadata": {"name": "cart", "namespace": "shop", "annotations": annotations},
        "spec": {"clusterIP": "10.96.7.7", "selector": {"app": "cart"}, "ports": [{"name": "http", "port": 80}]},
    })
}

pub(crate) fn slice(name: &str, ips: &[&str]) -> Value {
    let endpoints: Vec<_> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
    json!({
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "cart"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

pub(crate) async fn shop(bench: &Bench) -> Result<()> {
    bench.install("e2e/crds/cilium.yaml").await?;
    bench
        .apply_all([
            namespace("shop", true),
            cilium_node("worker-1", json!(["10.72.1.0/24"])),
            cilium_identity("196700", "shop"),
            cilium_endpoint("cart-0", "10.72.1.10"),
            service(true),
            slice("cart-1", &["10.72.1.10"]),
            slice("cart-2", &["10.72.1.11"]),
        ])
        .await
}

pub(crate) fn value(keys: &std::collections::BTreeMap<String, String>, name: &str) -> Value {
    serde_json::from_str(&keys[name]).unwrap()
}

fn backends(keys: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    let Some(text) = keys.get("shop/cart") else { return Vec::new() };
    let value: Value = serde_json::from_str(text).unwrap();
    value["backends"].as_object().unwrap().keys().cloned().collect()
}

pub(crate) async fn objects_become_keys_and_follow_every_change(bench: Bench) -> Result<()> {
    let store = &bench.store;
    shop(&bench).await?;
    let exporter = bench.export(config(), store)?;
    exporter.ready().await?;

    assert_eq!(
        keys(store, CONFIG).await?["west"],
        concat!(
            r#"{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"#,
            r#""serviceExportsEnabled":false,"endpointSlicesExportMode":"services-and-endpointslices"}}"#
        )
    );
    let synced =
        ["endpointslices/v1", "identities/v1", "ip/v1", "nodes/v1", "serviceexports/v1", "services/v1"];
    until_names(store, SYNCED, &synced).await?;
    until_names(store, "cilium/.heartbeat", &[""]).await?;
    let lease = store.get(b"cilium/.heartbeat").await?.unwrap().lease;
    assert_ne!(lease, LeaseId::NONE);
    assert_eq!(value(&keys(store, NODES).await?, "worker-1")["IPv4AllocCIDR"]["IP"], "10.72.1.0");
    assert_eq!(value(&keys(store, IP).await?, "10.72.1.10")["ID"], 196_700);
    let labels = "k8s:app=cart;k8s:io.cilium.k8s.policy.cluster=west;k8s:io.kubernetes.pod.namespace=shop;";
    assert_eq!(keys(store, IDENTITIES).await?["196700"], labels);
    assert_eq!(backends(&keys(store, SERVICES).await?), ["10.72.1.10", "10.72.1.11"]);
    until_names(store, SLICES, &["shop/cart-1", "shop/cart-2"]).await?;

    // Backends, sharing, deletion.
    bench.apply(slice("cart-1", &["10.72.1.12"])).await?;
    until(store, SERVICES, "a new backend", |keys| backends(keys) == ["10.72.1.11", "10.72.1.12"]).await?;
    bench.delete("EndpointSlice", "shop", "cart-2").await?;
    until(store, SERVICES, "one backend", |keys| backends(keys) == ["10.72.1.12"]).await?;
    bench.apply(service(false)).await?;
    until_names(store, SERVICES, &[]).await?;
    until_names(store, SLICES, &[]).await?;
    assert_eq!(exporter.reasons("shop/cart"), ["service-not-shared"]);
    bench.apply(service(true)).await?;
    until_names(store, SERVICES, &["shop/cart"]).await?;
    bench.apply(cilium_endpoint("cart-0", "10.72.1.20")).await?;
    until_names(store, IP, &["10.72.1.20"]).await?;

    // A namespace that leaves the mesh and comes back.
    bench.apply(namespace("shop", false)).await?;
    for prefix in [SERVICES, SLICES, IP, IDENTITIES] {
        until_names(store, prefix, &[]).await?;
    }
    bench.apply(namespace("shop", true)).await?;
    until_names(store, SERVICES, &["shop/cart"]).await?;
    until_names(store, IP, &["10.72.1.20"]).await?;
    until_names(store, IDENTITIES, &["196700"]).await?;
    until_names(store, SLICES, &["shop/cart-1"]).await?;

    // Objects that are wrong in part, and altogether.
    bench.apply(cilium_node("worker-1", json!(["10.72.1.0/33", "10.72.9.0/24"]))).await?;
    let moved = |keys: &_| value(keys, "worker-1")["IPv4AllocCIDR"]["IP"] == "10.72.9.0";
    until(store, NODES, "the good CIDR", moved).await?;
    assert_eq!(exporter.reasons("worker-1"), ["cidr-invalid"]);
    let broken =
        json!({"kind": "CiliumNode", "metadata": {"name": "worker-1"}, "spec": {"ipam": "nonsense"}});
    bench.apply(broken).await?;
    bench.apply(cilium_node("worker-2", json!([]))).await?;
    until_names(store, NODES, &["worker-1", "worker-2"]).await?;
    assert!(moved(&keys(store, NODES).await?), "the last good version stays");
    assert!(exporter.reasons("worker-1").contains(&"object-undecodable"));
    bench.delete("CiliumNode", "", "worker-1").await?;
    until_names(store, NODES, &["worker-2"]).await?;

    // What others make of the cluster's own configuration is reverted.
    for write in [
        Write::Put { key: format!("{CONFIG}west").into(), value: "{}".into(), lease: LeaseId::NONE },
        Write::Delete { key: format!("{CONFIG}west").into() },
    ] {
        store.write(vec![write]).await?;
        let restored = |keys: &std::collections::BTreeMap<String, String>| {
            keys.get("west").is_some_and(|value| value.contains(r#""id":3"#))
        };
        until(store, CONFIG, "the configuration", restored).await?;
    }
    exporter.stop().await
}

pub(crate) async fn restarts_remove_what_is_stale_and_nothing_that_is_good(mut bench: Bench) -> Result<()> {
    let store = bench.store.clone();
    shop(&bench).await?;
    let exporter = bench.export(config(), &store)?;
    exporter.ready().await?;
    exporter.stop().await?;
    let before = keys(&store, "cilium/state/").await?;
    assert_eq!(before.len(), 6);

    // While nobody exports, one object goes, and keys of an even earlier life are there.
    bench.delete("CiliumEndpoint", "shop", "cart-0").await?;
    let stale = format!("{NODES}worker-9");
    store
        .write(vec![Write::Put { key: stale.clone().into(), value: "{}".into(), lease: LeaseId::NONE }])
        .await?;
    let from = store.status().await?.revision;
    let exporter = bench.export(config(), &store)?;
    exporter.ready().await?;
    let mut deleted = deleted_since(&store, from).await?;
    deleted.sort();
    assert_eq!(deleted, [format!("{IP}10.72.1.10"), stale]);
    assert_eq!(names(&store, SERVICES).await?.len(), 1);

    // The API server goes away: nothing changes. It comes back: changes are followed again.
    let from = store.status().await?.revision;
    bench.kill().await?;
    bench.restart().await?;
    bench.apply(cilium_node("worker-2", json!([]))).await?;
    until_names(&store, NODES, &["worker-1", "worker-2"]).await?;
    assert_eq!(deleted_since(&store, from).await?, [""; 0]);
    exporter.stop().await?;

    // An API server that does not answer: nothing is removed, and nobody is told that the set is complete.
    bench.kill().await?;
    let from = store.status().await?.revision;
    let exporter = bench.export(Config { cni: Cni::Cilium, ..config() }, &store)?;
    let all_failing = || {
        let kinds = exporter.status().kinds;
        !kinds.is_empty() && kinds.iter().all(|kind| kind.state == "failing")
    };
    eventually("the failure", all_failing).await?;
    assert_eq!(deleted_since(&store, from).await?, [""; 0]);
    assert!(!exporter.readiness.is_ready());
    exporter.stop().await
}

pub(crate) async fn exports_are_announced_only_once_they_can_be_read(bench: Bench) -> Result<()> {
    let store = &bench.store;
    shop(&bench).await?;
    let exported = format!("{EXPORTS}shop/cart");
    store.write(vec![Write::Put { key: exported.into(), value: "{}".into(), lease: LeaseId::NONE }]).await?;
    let exporter = bench.export(Config { mcs_api: true, ..config() }, store)?;
    until_names(store, SYNCED, &["endpointslices/v1", "identities/v1", "ip/v1", "nodes/v1", "services/v1"])
        .await?;
    assert!(!exporter.readiness.is_ready());
    assert!(keys(store, CONFIG).await?["west"].contains(r#""serviceExportsEnabled":false"#));
    until_names(store, EXPORTS, &["shop/cart"]).await?;
    let status = serde_json::to_value(exporter.status())?;
    let exports =
        status["resources"].as_array().unwrap().iter().find(|of| of["resource"] == "serviceexports");
    assert_eq!(exports.unwrap()["waitingFor"], json!(["ServiceExport: crd-absent"]));

    let from = store.status().await?.revision;
    bench.install("clustermesh-apiserver/crds/serviceexports.yaml").await?;
    let meta = |name: &str| json!({"name": name, "namespace": "shop"});
    bench.apply(json!({"kind": "ServiceExport", "metadata": meta("cart")})).await?;
    bench.apply(json!({"kind": "ServiceExport", "metadata": meta("nothing")})).await?;
    exporter.ready().await?;
    let announced = |keys: &std::collections::BTreeMap<String, String>| {
        keys["west"].contains(r#""serviceExportsEnabled":true"#)
    };
    until(store, CONFIG, "the capability", announced).await?;
    until(store, EXPORTS, "the export", |keys| keys["shop/cart"].contains("ClusterSetIP")).await?;
    assert_eq!(exporter.reasons("shop/nothing"), ["export-without-service"]);
    assert_eq!(deleted_since(store, from).await?, [""; 0], "starting over with the new kind removes nothing");

    bench.delete("ServiceExport", "shop", "cart").await?;
    until_names(store, EXPORTS, &[]).await?;
    exporter.stop().await
}

fn kube_node(name: &str, ip: &str) -> Value {
    json!({
        "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": "10.73.1.0/24", "podCIDRs": ["10.73.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]},
    })
}

fn pod(name: &str, app: &str, ip: &str) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app, "pod-template-hash": name}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "hostIP": "192.0.2.21", "hostIPs": [{"ip": "192.0.2.21"}],
                   "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

/// The numbers in the ConfigMaps, by labels.
async fn recorded(bench: &Bench) -> Result<std::collections::BTreeMap<String, String>> {
    let objects = bench.objects("ConfigMap", "kube-system").await?;
    let records = objects
        .iter()
        .filter(|object| object.metadata.name.as_deref().unwrap().starts_with("isthmus-identities-"));
    let data = records.flat_map(|object| object.data["data"].as_object().cloned().unwrap_or_default());
    Ok(data.map(|(number, labels)| (labels.as_str().unwrap().to_owned(), number)).collect())
}

pub(crate) async fn without_cilium_nodes_identities_and_endpoints_are_derived_with_lasting_numbers(
    bench: Bench,
) -> Result<()> {
    let store = &bench.store;
    bench
        .apply_all([
            namespace("shop", true),
            kube_node("worker-1", "192.0.2.21"),
            pod("cart-0", "cart", "10.73.1.10"),
            pod("cart-1", "cart", "10.73.1.11"),
            pod("db-0", "db", "10.73.1.12"),
        ])
        .await?;
    // Numbers that cannot be recorded are not used, and nobody is told that the endpoints are complete.
    let early_store = new_store();
    let early = bench.export(Config { identity_namespace: "nowhere".into(), ..config() }, &early_store)?;
    eventually("the failure", || early.status().identity_failure.is_some()).await?;
    until_names(&early_store, SYNCED, &["endpointslices/v1", "nodes/v1", "serviceexports/v1", "services/v1"])
        .await?;
    assert_eq!(early.reasons("shop/db-0"), ["endpoint-without-identity"]);
    until_names(&early_store, IP, &[]).await?;
    bench.apply(namespace("nowhere", false)).await?;
    early.ready().await?;
    assert_eq!((early.status().identity_failure, names(&early_store, IP).await?.len()), (None, 3));
    early.stop().await?;

    let exporter = bench.export(config(), store)?;
    exporter.ready().await?;
    assert_eq!(exporter.status().source, Some("derived"));
    assert_eq!(names(store, NODES).await?.len(), 1);
    let ip = keys(store, IP).await?;
    let id = |name: &str| value(&ip, name)["ID"].as_u64().unwrap();
    assert_eq!(ip.len(), 3);
    assert_eq!(id("10.73.1.10"), id("10.73.1.11"), "pods of one workload are one identity");
    assert_ne!(id("10.73.1.10"), id("10.73.1.12"));
    let identities = keys(store, IDENTITIES).await?;
    let records = recorded(&bench).await?;
    assert_eq!(identities.len(), 2);
    for (number, labels) in &identities {
        assert_eq!(&records[labels], number);
        assert!((196_608..262_144).contains(&number.parse::<u32>()?));
    }
    assert!(identities[&id("10.73.1.12").to_string()].starts_with("k8s:app=db;"));

    // A replica beside it, with a store of its own, comes to the same numbers.
    let other_store = new_store();
    let replica = bench.export(config(), &other_store)?;
    replica.ready().await?;
    assert_eq!(keys(&other_store, IP).await?, ip);
    for app in ["a", "b", "c", "d"] {
        bench.apply(pod(&format!("{app}-0"), app, &format!("10.73.2.{}", app.as_bytes()[0]))).await?;
    }
    let all = until(store, IP, "the new pods", |keys| keys.len() == 7).await?;
    let same = until(&other_store, IP, "the new pods", |keys| keys.len() == 7).await?;
    assert_eq!(all, same);
    replica.stop().await?;

    // Deleted records come back with the same numbers, also after a restart; what is used never wavers.
    exporter.stop().await?;
    let before = recorded(&bench).await?;
    for object in bench.objects("ConfigMap", "kube-system").await? {
        let name = object.metadata.name.unwrap();
        if name.starts_with("isthmus-identities-") {
            bench.delete("ConfigMap", "kube-system", &name).await?;
        }
    }
    let from = store.status().await?.revision;
    let exporter = bench.export(config(), store)?;
    exporter.ready().await?;
    assert_eq!(recorded(&bench).await?, before);
    assert_eq!(keys(store, IP).await?, all);
    assert_eq!(deleted_since(store, from).await?, [""; 0]);

    // Finished pods and pods on their node's network have no addresses of their own.
    let mut finished = pod("cart-1", "cart", "10.73.1.11");
    finished["status"]["phase"] = "Succeeded".into();
    bench.apply(finished).await?;
    until(store, IP, "one address less", |keys| keys.len() == 6).await?;
    assert_eq!(exporter.reasons("shop/cart-1"), ["pod-finished"]);

    // Cilium is installed: its objects count from now on.
    bench.install("e2e/crds/cilium.yaml").await?;
    bench.apply(cilium_node("worker-7", json!([]))).await?;
    until_names(store, NODES, &["worker-7"]).await?;
    until_names(store, IP, &[]).await?;
    assert_eq!(exporter.status().source, Some("cilium"));
    exporter.stop().await
}
