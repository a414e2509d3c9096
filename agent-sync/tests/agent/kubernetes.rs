//! A real kube-apiserver on the local side.

use std::net::IpAddr;
use std::time::Duration;

use agent_sync::EncryptSettings;
use agent_sync::api::schema::{Services, Status, Wireguard};
use e2e::{Bed as Machines, ClusterSpec, objects};
use kube_watch::ClientConfig;
use kvstore::LeaseId;
use mesh_types::WIREGUARD_KEY_ANNOTATION;
use serde_json::{Value, json};

use crate::bed::{Bed, Mirrored, Options, PATIENCE};

const EAST: Mirrored = Mirrored { name: "east", id: 7 };

/// Runs `work` with an agent of the cluster `home` that reads its API, in the namespace of its node.
fn with_agent(spec: ClusterSpec, work: impl AsyncFnOnce(&e2e::Cluster, &e2e::Node, &mut Bed) + Send) {
    let machines = Machines::builder("agent-kubernetes").with(spec).start().unwrap();
    let cluster = machines.cluster("home");
    let node = cluster.node("node-1").unwrap();
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            drop(rustls::crypto::ring::default_provider().install_default());
            let kubeconfig = Some(cluster.kubeconfig().to_owned());
            let client = ClientConfig { kubeconfig, ..ClientConfig::default() }.client().await.unwrap();
            let keys = tempfile::tempdir().unwrap();
            let encrypt = EncryptSettings {
                choice: wireguard::Choice::UserSpace,
                key_file: keys.path().join("wireguard.key"),
                interface: wireguard::DEVICE_NAME.to_owned(),
                plan: wireguard::Settings::default(),
            };
            let options = Options { local: Some(client), encrypt: Some(encrypt), ..Options::default() };
            let mut bed = Bed::with(options).await;
            work(cluster, &node, &mut bed).await;
            bed.stop().await;
        });
    };
    node.host().netns().enter(run).unwrap();
}

/// The Node object; of one address family, since the API refuses two of one type in a server-side apply.
fn node_object(node: &e2e::Node) -> Value {
    let mut object = objects::node(node);
    let addresses = object["status"]["addresses"].as_array_mut().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|address| seen.insert(address["type"].to_string()));
    object
}

fn home() -> ClusterSpec {
    ClusterSpec::new("home", 1).without_mcs()
}

/// Address, cluster, selected: of each backend of the only frontend of `shop/cart`.
fn backends(services: &Services) -> Vec<(String, String, bool)> {
    let Some(cart) = services.services.iter().find(|service| service.name == "cart") else {
        return Vec::new();
    };
    let backends = cart.frontends.iter().flat_map(|frontend| &frontend.backends);
    backends.map(|backend| (backend.address.clone(), backend.cluster.clone(), backend.selected)).collect()
}

fn expect(expected: &[(&str, &str, bool)]) -> impl FnMut(&Services) -> bool + use<> {
    let expected: Vec<_> = expected
        .iter()
        .map(|(ip, cluster, selected)| ((*ip).to_owned(), (*cluster).to_owned(), *selected))
        .collect();
    move |services| backends(services) == expected
}

#[test]
fn services_of_the_api_are_merged_with_those_of_other_clusters_and_followed() {
    with_agent(home(), async |cluster, node, bed| {
        let kubectl = cluster.kubectl();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let service = |annotations: &[(&str, &str)]| objects::service("shop", "cart", 80, annotations);
        let global = ("service.cilium.io/global", "true");
        kubectl.apply_object(&objects::namespace("shop")).unwrap();
        kubectl.apply_object(&node_object(node)).unwrap();
        kubectl.apply_status(&node_object(node).to_string()).unwrap();
        kubectl.apply_object(&service(&[global])).unwrap();
        for (name, address) in [("cart-1", "10.71.1.11"), ("cart-2", "10.71.1.12")] {
            kubectl
                .apply_object(&objects::endpoint_slice("shop", "cart", name, &[ip(address)], 8080))
                .unwrap();
        }
        // A slice of another cluster's backends, as Cilium's operator writes it, counts for nothing.
        let mut imported = objects::endpoint_slice("shop", "cart", "cart-east", &[ip("10.7.0.1")], 8080);
        imported["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
            json!("endpointslice-mesh-controller.cilium.io");
        kubectl.apply_object(&imported).unwrap();
        let (key, value) = EAST.service("cart", &["10.7.0.1"]);
        bed.serving.put(&key, value).await;
        EAST.write(&bed.serving, &["n1"], LeaseId::NONE).await;

        let [one, two] = ["10.71.1.11", "10.71.1.12"];
        let all = [(one, "home", true), (two, "home", true), ("10.7.0.1", "east", true)];
        bed.until("/v1/services", "both clusters", expect(&all)).await;
        bed.until_status("ready", |status: &Status| status.ready && !status.degraded).await;

        kubectl.apply_object(&service(&[global, ("service.cilium.io/affinity", "local")])).unwrap();
        let local = [(one, "home", true), (two, "home", true), ("10.7.0.1", "east", false)];
        bed.until("/v1/services", "local ones preferred", expect(&local)).await;

        for slice in ["cart-1", "cart-2"] {
            kubectl.delete("shop", "endpointslice", slice).unwrap();
        }
        bed.until("/v1/services", "east takes over", expect(&[("10.7.0.1", "east", true)])).await;

        kubectl.apply_object(&service(&[])).unwrap();
        bed.until("/v1/services", "not global", expect(&[("10.7.0.1", "east", false)])).await;
        let services = bed.services().await;
        let cart = services.iter().find(|service| service.name == "cart").unwrap();
        assert!(!cart.global && cart.reasons.contains(&"service-not-global".to_owned()), "{cart:#?}");
        kubectl.delete("shop", "service", "cart").unwrap();
        let waiting = |services: &Services| {
            services.services.iter().any(|service| service.name == "cart" && service.state == "waiting")
        };
        bed.until("/v1/services", "waiting", waiting).await;
    });
}

/// Waits until the object has another annotation than `before`; returns it.
async fn published(cluster: &e2e::Cluster, kind: &str, before: &Value) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let object = cluster.kubectl().get("", kind, "node-1").unwrap();
        let found = &object["metadata"]["annotations"][WIREGUARD_KEY_ANNOTATION];
        if found != before && !found.is_null() {
            return found.clone();
        }
        assert!(std::time::Instant::now() < deadline, "no key in {object:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn the_key_is_published_on_the_node_and_again_when_someone_takes_it_away() {
    with_agent(home().without_cilium(), async |cluster, node, bed| {
        let kubectl = cluster.kubectl();
        kubectl.apply_object(&node_object(node)).unwrap();
        kubectl.apply_status(&node_object(node).to_string()).unwrap();
        let status = bed.until_status("published", |status: &Status| status.wireguard.published).await;
        let key = published(cluster, "node", &Value::Null).await;
        assert_eq!(key.as_str(), status.wireguard.public_key.as_deref());
        let device = |status: &Status| status.wireguard.device.as_deref() == Some("user-space");
        bed.until_status("the device is open", device).await;
        let wrong = json!("someone else's");
        let patch = json!({"metadata": {"annotations": {WIREGUARD_KEY_ANNOTATION: wrong}}});
        kubectl.patch("", "node", "node-1", &patch).unwrap();
        let again = published(cluster, "node", &wrong).await;
        assert_eq!(again, key);
    });
}

/// One node of east with the pods of 10.7.1.0/24.
async fn mirror_east(bed: &Bed) {
    let key = wireguard::PrivateKey::generate().unwrap().public();
    let record = json!({
        "Name": "n1", "Cluster": "east", "ClusterID": 7, "WireguardPubKey": key.annotation_value(),
        "IPAddresses": [{"Type": "InternalIP", "IP": "198.51.100.7"}],
        "IPv4AllocCIDR": {"IP": "10.7.1.0", "Mask": "////AA=="},
    });
    bed.serving.put(&EAST.node_key("n1"), record.to_string()).await;
    EAST.write(&bed.serving, &[], LeaseId::NONE).await;
}

/// It is a peer, and its pods are left out for these reasons.
fn withheld(reasons: &'static [&str]) -> impl FnMut(&Wireguard) -> bool {
    move |view| {
        let found = view.skipped.iter().map(|one| (one.prefix.as_deref(), one.reason.as_str()));
        let expected = reasons.iter().map(|reason| (Some("10.7.1.0/24"), *reason));
        view.peers.len() == 1 && found.eq(expected)
    }
}

#[test]
fn a_prefix_of_another_cluster_within_what_a_neighbour_uses_is_not_routed_away() {
    with_agent(home().without_cilium(), async |cluster, node, bed| {
        let kubectl = cluster.kubectl();
        let mut neighbour = node_object(node);
        neighbour["metadata"]["name"] = json!("node-2");
        neighbour["spec"] = json!({"podCIDR": "10.7.0.0/16", "podCIDRs": ["10.7.0.0/16"]});
        neighbour["status"]["addresses"] = json!([{"type": "InternalIP", "address": "192.0.2.2"}]);
        for object in [&neighbour, &node_object(node)] {
            kubectl.apply_object(object).unwrap();
            kubectl.apply_status(&object.to_string()).unwrap();
        }
        mirror_east(bed).await;
        bed.until("/v1/wireguard", "withheld", withheld(&["prefix-overlaps-local"])).await;
        kubectl.delete("", "node", "node-2").unwrap();
        let view = bed.until("/v1/wireguard", "free once the neighbour is gone", withheld(&[])).await;
        assert_eq!(view.peers[0].allowed_ips, ["10.7.1.0/24", "198.51.100.7/32"]);
    });
}

#[test]
fn the_key_is_published_on_the_cilium_node_where_there_is_one() {
    with_agent(home(), async |cluster, node, bed| {
        let kubectl = cluster.kubectl();
        kubectl.apply_object(&objects::cilium_node(node)).unwrap();
        kubectl.apply_object(&node_object(node)).unwrap();
        bed.until_status("published", |status: &Status| status.wireguard.published).await;
        published(cluster, "ciliumnode", &Value::Null).await;
        mirror_east(bed).await;
        bed.until("/v1/wireguard", "routed", withheld(&[])).await;
        let mut neighbour = objects::cilium_node(node);
        neighbour["metadata"]["name"] = json!("node-2");
        neighbour["spec"] =
            json!({"ipam": {"pools": {"allocated": [{"pool": "default", "cidrs": ["10.7.0.0/16"]}]}}});
        kubectl.apply_object(&neighbour).unwrap();
        bed.until("/v1/wireguard", "of a pool of node-2", withheld(&["prefix-overlaps-local"])).await;
        kubectl.delete("", "ciliumnode", "node-2").unwrap();
        bed.until("/v1/wireguard", "free once the pool is gone", withheld(&[])).await;
        let plain = kubectl.get("", "node", "node-1").unwrap();
        assert!(plain["metadata"]["annotations"][WIREGUARD_KEY_ANNOTATION].is_null());
    });
}
