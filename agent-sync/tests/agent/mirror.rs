//! What a mirror wrote becomes tables; what is wrong with it gets its reason and disturbs nothing else.

use std::collections::BTreeMap;

use agent_sync::api::schema::{Ipcache, RejectedKeys, ServiceRecord, Services};
use agent_sync::services::{LocalService, Protocol, ServiceName, ServicePort};
use agent_sync::tables::LocalEvent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvstore::LeaseId;

use crate::bed::{Bed, Mirrored};

const EAST: Mirrored = Mirrored { name: "east", id: 7 };
const WEST: Mirrored = Mirrored { name: "west", id: 8 };

/// Key and value of each golden line; those that are not text are not read by an agent.
fn golden(version: &str) -> Vec<(String, String)> {
    let path = format!("{}/../mesh-types/tests/golden/{version}/cache.tsv", env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(path).unwrap();
    let entry = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let (key, _lease, value) = (fields.next()?, fields.next()?, fields.next()?);
        Some((key.to_owned(), value.to_owned()))
    };
    lines.lines().filter_map(entry).collect()
}

#[tokio::test]
async fn what_cilium_s_mirror_writes_becomes_tables() {
    for version in ["v1.19", "v1.20"] {
        let bed = Bed::start().await;
        for (key, value) in golden(version) {
            let value = match value.strip_prefix("base64:") {
                Some(binary) => STANDARD.decode(binary).unwrap(),
                None => value.into_bytes(),
            };
            bed.serving.put(&key, value).await;
        }
        bed.until_ready("prod-eu").await;
        let nodes = ["legacy-wg", "no-address", "worker-1", "worker-2"].map(|node| format!("prod-eu/{node}"));
        assert_eq!(bed.nodes().await, nodes, "{version}");
        let ipcache = bed.ipcache().await.entries;
        let of = |prefix: &str| ipcache.iter().find(|entry| entry.prefix == prefix).unwrap();
        let pod = of("10.70.1.33/32");
        assert_eq!((pod.identity, pod.host.as_deref(), pod.key), (459_008, Some("192.0.2.11"), 3));
        assert_eq!((&*pod.namespace, &*pod.pod, &*pod.service_account), ("shop", "cart-0", "default"));
        assert_eq!(pod.named_ports.len(), if version == "v1.20" { 2 } else { 0 }, "{version}");
        assert_eq!(of("10.70.2.45/32").identity, 0, "an endpoint whose identity is not known");
        assert_eq!((of("10.70.129.0/24").identity, &*of("10.70.129.0/24").source), (2, "generated"));
        let identities: Vec<_> =
            bed.identities().await.identities.into_iter().map(|known| known.id).collect();
        assert_eq!(identities, [459_008, 459_009]);
        let services = bed.services().await;
        let cart = services.iter().find(|service| service.name == "cart").unwrap();
        assert_eq!((&*cart.state, cart.clusters[0].name.as_str()), ("waiting", "prod-eu"));
        let rejected = bed.rejected().await.rejected;
        let rejected: Vec<_> = rejected.iter().map(|one| (&*one.kind, &*one.key, &*one.reason)).collect();
        // The second is what Cilium's exporter makes of a Service without address.
        let expected = [
            ("identities", "70000", "identity-out-of-range"),
            ("services", "shop/external", "address-invalid"),
        ];
        assert_eq!(rejected, expected, "{version}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn each_bad_value_gets_its_reason_and_disturbs_nothing_else() {
    let bed = Bed::start().await;
    WEST.write(&bed.serving, &["n1"], LeaseId::NONE).await;
    let node = |json: &str| json.to_owned();
    let bad = [
        ("nodes/v1/east/not-json", node("{"), "value-not-json"),
        (
            "nodes/v1/east/other-cluster",
            node(r#"{"Name":"other-cluster","Cluster":"west","ClusterID":7}"#),
            "cluster-mismatch",
        ),
        (
            "nodes/v1/east/other-id",
            node(r#"{"Name":"other-id","Cluster":"east","ClusterID":9}"#),
            "cluster-id-mismatch",
        ),
        ("nodes/v1/east/other-name", node(r#"{"Name":"x","Cluster":"east","ClusterID":7}"#), "name-mismatch"),
        ("nodes/v1/east/empty", node("{}"), "field-missing"),
        (
            "nodes/v1/east/bad-cidr",
            node(
                r#"{"Name":"bad-cidr","Cluster":"east","ClusterID":7,"IPv4AllocCIDR":{"IP":"10.0.0.0","Mask":"/wD/AA=="}}"#,
            ),
            "cidr-invalid",
        ),
        ("ip/v1/east/10.9.0.1", node(r#"{"IP":"10.9.0.300","ID":458752}"#), "address-invalid"),
        ("ip/v1/east/10.9.0.2", node(r#"{"IP":"10.9.0.3","ID":458752}"#), "name-mismatch"),
        ("ip/v1/east/10.9.0.4", node(r#"{"IP":"10.9.0.4","ID":70000}"#), "identity-out-of-range"),
        ("identities/v1/east/id/70000", node("k8s:a=b;"), "identity-out-of-range"),
        ("identities/v1/east/id/seven", node("k8s:a=b;"), "key-malformed"),
        ("identities/v1/east/id/458760", node("k8s:a=b;"), "identity-cluster-label"),
        ("services/v1/east/shop", node("{}"), "key-malformed"),
        ("services/v1/east/shop/cart", EAST.service("cart", &["10.9.0.300"]).1, "address-invalid"),
        (
            "services/v1/east/shop/moved",
            node(r#"{"cluster":"west","namespace":"shop","name":"moved","clusterID":7}"#),
            "cluster-mismatch",
        ),
    ];
    for (key, value, _) in &bad {
        bed.serving.put(&format!("cilium/cache/{key}"), value).await;
    }
    EAST.write(&bed.serving, &["n1"], LeaseId::NONE).await;
    bed.until_ready("east").await;
    bed.until_ready("west").await;

    let found: BTreeMap<_, _> = bed
        .rejected()
        .await
        .rejected
        .into_iter()
        .map(|one| (format!("{}/{}/{}", one.cluster, one.kind, one.key), one.reason))
        .collect();
    let expected: BTreeMap<_, _> = bad
        .iter()
        .map(|(key, _, reason)| {
            let key = key.replace("/v1/east/id/", "/v1/east/");
            let (kind, rest) = key.split_once("/v1/east/").unwrap();
            (format!("east/{kind}/{rest}"), (*reason).to_owned())
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(bed.nodes().await, ["east/n1", "west/n1"], "the good ones are there");
    let status = bed.status().await;
    assert_eq!(status.totals.rejected, bad.len());
    let line =
        "cilium_clustermesh_rejected_values_total{target_cluster=\"east\",reason=\"value-not-json\"} 1";
    bed.until_status("the series follow", |_| {
        mesh_runtime::encode(&bed.registry).lines().any(|found| found == line)
    })
    .await;

    // A good value takes the place of a bad one, and a bad one not that of a good one.
    bed.serving.put(&EAST.node_key("not-json"), EAST.node("not-json")).await;
    bed.serving.put(&EAST.node_key("n1"), "{").await;
    let changed = |rejected: &RejectedKeys| {
        let has = |key: &str| rejected.rejected.iter().any(|one| one.kind == "nodes" && one.key == key);
        has("n1") && !has("not-json")
    };
    bed.until("/v1/rejected", "n1 is rejected, not-json no more", changed).await;
    assert_eq!(bed.nodes().await, ["east/n1", "east/not-json", "west/n1"]);
    bed.stop().await;
}

#[tokio::test]
async fn each_bad_configuration_gets_its_reason_and_no_cluster() {
    let bed = Bed::start().await;
    let config = |id: u32, max: u32| {
        format!(
            r#"{{"id":{id},"capabilities":{{"syncedCanaries":true,"cached":true,"maxConnectedClusters":{max}}}}}"#
        )
    };
    let long = "a".repeat(33);
    let bad = [
        (&*long, config(20, 255), "cluster-name-invalid"),
        ("Upper", config(21, 255), "cluster-name-invalid"),
        ("zero", config(0, 255), "cluster-id-zero"),
        ("high", config(256, 255), "cluster-id-out-of-range"),
        ("local", config(1, 255), "cluster-id-is-local"),
        ("wide", config(30, 511), "max-clusters-mismatch"),
        ("garbage", "not json".to_owned(), "cluster-config-invalid"),
        ("twin", config(7, 255), "cluster-id-in-use"),
    ];
    EAST.write(&bed.serving, &["n1"], LeaseId::NONE).await;
    bed.until_ready("east").await;
    for (name, value, _) in &bad {
        bed.serving.put(&format!("cilium/cluster-config/{name}"), value).await;
    }
    let all = |rejected: &RejectedKeys| rejected.rejected.len() == bad.len();
    let rejected = bed.until("/v1/rejected", "all are rejected", all).await.rejected;
    for (name, _, reason) in &bad {
        let found = rejected.iter().find(|one| one.key == *name).unwrap();
        assert_eq!((&*found.reason, &*found.kind), (*reason, "cluster-config"), "{name}");
    }
    assert_eq!(bed.nodes().await, ["east/n1"]);
    // Whoever has a valid name is shown as a cluster that is refused.
    let status = bed.status().await;
    let refused: Vec<_> = status.clusters.iter().filter(|known| known.standing == "refused").collect();
    assert_eq!(refused.len(), bad.len() - 2);
    assert!(status.degraded);
    bed.stop().await;
}

fn local_service(name: &str) -> LocalEvent {
    let service = LocalService {
        global: true,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }],
        ..LocalService::default()
    };
    LocalEvent::Service(ServiceName::new("shop", name), Some(Box::new(service)))
}

/// Address and cluster of each selected backend of the service's only frontend.
fn selected(service: &ServiceRecord) -> Vec<(String, String)> {
    let [frontend] = &*service.frontends else { panic!("{service:#?}") };
    let taken = frontend.backends.iter().filter(|backend| backend.selected);
    taken.map(|backend| (backend.address.clone(), backend.cluster.clone())).collect()
}

#[tokio::test]
async fn backends_of_three_clusters_are_merged_and_marked_and_follow_every_change() {
    let bed = Bed::start().await;
    bed.feed(vec![local_service("cart")]).await;
    for (mirrored, backends) in [(&EAST, ["10.7.0.1"]), (&WEST, ["10.8.0.1"])] {
        let (key, value) = mirrored.service("cart", &backends);
        bed.serving.put(&key, value).await;
        mirrored.write(&bed.serving, &[], LeaseId::NONE).await;
    }
    let backends = |expected: &'static [(&'static str, &'static str)]| {
        move |services: &Services| {
            let [cart] = &*services.services else { return false };
            let expected: Vec<_> = expected.iter().map(|(a, c)| ((*a).to_owned(), (*c).to_owned())).collect();
            selected(cart) == expected
        }
    };
    bed.until("/v1/services", "both clusters", backends(&[("10.7.0.1", "east"), ("10.8.0.1", "west")])).await;
    let (key, value) = EAST.service("cart", &["10.7.0.1", "10.7.0.2"]);
    bed.serving.put(&key, value).await;
    let grown = backends(&[("10.7.0.1", "east"), ("10.7.0.2", "east"), ("10.8.0.1", "west")]);
    bed.until("/v1/services", "a backend more", grown).await;
    bed.serving.delete(&key).await;
    bed.until("/v1/services", "without east", backends(&[("10.8.0.1", "west")])).await;
    assert!(!bed.status().await.clusters[0].kinds.iter().any(|kind| kind.withheld > 0));
    bed.stop().await;
}

#[tokio::test]
async fn tables_can_be_narrowed_and_a_wrong_question_is_refused() {
    let bed = Bed::start().await;
    for mirrored in [&EAST, &WEST] {
        mirrored.write(&bed.serving, &["n1"], LeaseId::NONE).await;
        bed.until_ready(mirrored.name).await;
    }
    let read = async |path: &str| serde_json::from_slice::<Ipcache>(&bed.get(path).await.unwrap()).unwrap();
    let of_east = read("/v1/ipcache?cluster=east").await.entries;
    assert!(!of_east.is_empty() && of_east.iter().all(|entry| entry.cluster == "east"));
    let found = read("/v1/ipcache?address=192.0.8.49").await.entries;
    assert_eq!((found.len(), &*found[0].cluster), (1, "west"));
    assert!(read("/v1/ipcache?address=203.0.113.1").await.entries.is_empty());
    for wrong in ["/v1/ipcache?adress=192.0.8.49", "/v1/ipcache?address=x", "/v1/nothing"] {
        assert!(bed.get(wrong).await.is_err(), "{wrong}");
    }
    bed.stop().await;
}
