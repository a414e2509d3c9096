//! Objects as JSON to what is known of a cluster. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use mesh_connect::{Address, Clock, Host, Node, StoreService, StoreServiceKind, Version};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How many nodes stand for the node port: enough to lose one.
const NODES_OF_A_PORT: usize = 3;
/// Port of a store.
const STORE_PORT: u64 = 2379;

/// The items of a list.
pub(super) fn items(list: &Value) -> &[Value] {
    list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn rows<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// `data` of a Secret, decoded, or of a ConfigMap.
pub(crate) fn data(object: &Value) -> BTreeMap<String, Vec<u8>> {
    let is_secret = object.get("kind").and_then(Value::as_str) == Some("Secret");
    let entries = object.get("data").and_then(Value::as_object).into_iter().flatten();
    let decoded = entries.filter_map(|(key, value)| {
        let value = value.as_str()?;
        let bytes = if is_secret { STANDARD.decode(value).ok()? } else { value.as_bytes().to_vec() };
        Some((key.clone(), bytes))
    });
    decoded.collect()
}

/// The nodes, by name. A CiliumNode adds the ranges that Cilium gave its node.
pub(super) fn nodes(nodes: &[Value], cilium_nodes: &[Value]) -> Vec<Node> {
    let mut found: BTreeMap<&str, Node> = BTreeMap::new();
    for object in nodes {
        let name = text(object, "/metadata/name");
        let node = found.entry(name).or_insert_with(|| Node { name: name.to_owned(), ..Node::default() });
        let own = rows(object, "/status/addresses").filter(|row| text(row, "/type").ends_with("IP"));
        let typed: Vec<(&str, IpAddr)> =
            own.filter_map(|row| Some((text(row, "/type"), text(row, "/address").parse().ok()?))).collect();
        let of = |kind: &str| typed.iter().find(|(each, _)| *each == kind).map(|(_, address)| *address);
        node.reached_at = of("ExternalIP").or_else(|| of("InternalIP"));
        node.addresses.extend(typed.iter().map(|(_, address)| *address));
        node.pod_cidrs.extend(texts(object, "/spec/podCIDRs").filter_map(|cidr| cidr.parse::<IpNet>().ok()));
    }
    for object in cilium_nodes {
        let name = text(object, "/metadata/name");
        let node = found.entry(name).or_insert_with(|| Node { name: name.to_owned(), ..Node::default() });
        let cidrs = texts(object, "/spec/ipam/podCIDRs").filter_map(|cidr| cidr.parse::<IpNet>().ok());
        node.pod_cidrs.extend(cidrs);
        let own = rows(object, "/spec/addresses").filter(|row| text(row, "/type").ends_with("IP"));
        node.addresses.extend(own.filter_map(|row| text(row, "/ip").parse::<IpAddr>().ok()));
    }
    found.into_values().collect()
}

/// The Service in front of the store.
pub(super) fn store(service: &Value, nodes: &[Node]) -> StoreService {
    let port = rows(service, "/spec/ports")
        .find(|port| port.get("port").and_then(Value::as_u64) == Some(STORE_PORT));
    let port = port.or_else(|| rows(service, "/spec/ports").next());
    let number = |field: &str| {
        port.and_then(|port| port.get(field))
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok())
    };
    let at = |hosts: Vec<Host>, port: Option<u16>| -> Vec<Address> {
        let port = port.filter(|port| *port != 0);
        hosts.into_iter().filter_map(|host| Some(Address { host, port: port? })).collect()
    };
    let (kind, addresses) = match text(service, "/spec/type") {
        "LoadBalancer" => {
            let ingress = rows(service, "/status/loadBalancer/ingress").filter_map(|row| {
                let ip = text(row, "/ip").parse().ok().map(Host::Ip);
                ip.or_else(|| {
                    Some(text(row, "/hostname"))
                        .filter(|name| !name.is_empty())
                        .map(|name| Host::Name(name.to_owned()))
                })
            });
            (StoreServiceKind::LoadBalancer, at(ingress.collect(), number("port")))
        }
        "NodePort" => {
            let hosts = nodes.iter().filter_map(|node| node.reached_at);
            let hosts = hosts.take(NODES_OF_A_PORT).map(Host::Ip).collect();
            (StoreServiceKind::NodePort, at(hosts, number("nodePort")))
        }
        _ => {
            let ips = cluster_ips(service).into_iter().map(|net| Host::Ip(net.addr())).collect();
            (StoreServiceKind::ClusterIp, at(ips, number("port")))
        }
    };
    StoreService { kind, addresses }
}

/// A Service's own addresses, as networks of one address.
pub(super) fn cluster_ips(service: &Value) -> Vec<IpNet> {
    texts(service, "/spec/clusterIPs").filter_map(|ip| ip.parse::<IpAddr>().ok()).map(IpNet::from).collect()
}

/// The ranges of ServiceCIDR objects.
pub(super) fn service_cidrs(objects: &[Value]) -> Vec<IpNet> {
    let cidrs = objects.iter().flat_map(|object| texts(object, "/spec/cidrs"));
    cidrs.filter_map(|cidr| cidr.parse().ok()).collect()
}

fn images(workload: &Value) -> impl Iterator<Item = &str> {
    rows(workload, "/spec/template/spec/containers").map(|container| text(container, "/image"))
}

/// The program that runs the mesh, by the first image that tells.
pub(super) fn version(workloads: [&Option<Value>; 2]) -> Option<Version> {
    let mut images = workloads.into_iter().flatten().flat_map(images);
    images.find_map(|image| {
        let (name, tag) = image.split('@').next()?.rsplit_once(':')?;
        let product = ["isthmus", "cilium"].into_iter().find(|product| name.contains(product))?;
        let product = if product == "isthmus" { "Isthmus" } else { "Cilium" };
        tag.trim_start_matches('v')
            .starts_with(|c: char| c.is_ascii_digit())
            .then(|| Version { product: product.to_owned(), text: tag.to_owned() })
    })
}

/// Whether a mirror stands between the other stores and the nodes: as in Isthmus, and by default in Cilium.
pub(super) fn is_mirrored(deployment: &Option<Value>) -> bool {
    let Some(deployment) = deployment else { return true };
    let containers: BTreeSet<&str> = rows(deployment, "/spec/template/spec/containers")
        .map(|container| text(container, "/name"))
        .collect();
    containers.contains("kvstoremesh") || images(deployment).any(|image| image.contains("isthmus"))
}

/// A clock by the date of an answer, which is whole seconds, rounded down.
pub(super) fn clock(date: &str, asked: Timestamp, round_trip_seconds: f64) -> Option<Clock> {
    static DATES: DateTimeParser = DateTimeParser::new();
    let said = DATES.parse_timestamp(date).ok()?.as_second() as f64 + 0.5;
    let here = asked.as_nanosecond() as f64 / 1e9 + round_trip_seconds / 2.0;
    Some(Clock { ahead_seconds: said - here, uncertainty_seconds: 0.5 + round_trip_seconds / 2.0 })
}

/// Who was refused, by the text of the refusal.
pub(super) fn user(message: &str) -> String {
    let quoted = message.split_once("User \"").and_then(|(_, rest)| rest.split_once('"'));
    quoted.map(|(user, _)| user.to_owned()).unwrap_or_default()
}

/// Why there was no answer: the deepest cause, which the others only wrap.
pub(super) fn cause(error: &anyhow::Error) -> String {
    error.root_cause().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_store_is_where_its_service_is_published() {
        let nodes: Vec<_> = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
            .map(|ip| Node { reached_at: ip.parse().ok(), ..Node::default() })
            .into();
        let service = |kind: &str| {
            json!({"spec": {"type": kind, "clusterIPs": ["10.96.0.9"],
                "ports": [{"port": 9, "nodePort": 9}, {"port": 2379, "nodePort": 32379}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "lb.example"}]}}})
        };
        let addresses = |service: &Value| {
            let addresses = store(service, &nodes).addresses;
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&service("LoadBalancer")), ["203.0.113.1:2379", "lb.example:2379"]);
        assert_eq!(addresses(&service("NodePort")), ["10.0.0.1:32379", "10.0.0.2:32379", "10.0.0.3:32379"]);
        assert_eq!(addresses(&service("ClusterIP")), ["10.96.0.9:2379"]);
        let pending = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 2379}]}, "status": {"loadBalancer": {}}});
        assert!(addresses(&pending).is_empty());
    }

    #[test]
    fn a_node_is_reached_at_its_external_address_if_it_has_one() {
        let node = |rows: Value| {
            let object = json!({"metadata": {"name": "n"}, "status": {"addresses": rows}, "spec": {"podCIDRs": ["10.1.0.0/24"]}});
            let cilium = json!({"metadata": {"name": "n"}, "spec": {"ipam": {"podCIDRs": ["10.2.0.0/24"]}}});
            nodes(&[object], &[cilium]).remove(0)
        };
        let internal = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let external = json!({"type": "ExternalIP", "address": "203.0.113.1"});
        let name = json!({"type": "Hostname", "address": "n"});
        assert_eq!(node(json!([name, internal])).reached_at, "10.0.0.1".parse().ok());
        let both = node(json!([internal, external]));
        assert_eq!(both.reached_at, "203.0.113.1".parse().ok());
        assert_eq!((both.addresses.len(), both.pod_cidrs.len()), (2, 2));
    }

    #[test]
    fn images_tell_what_runs_there() {
        let workload = |containers: &[(&str, &str)]| {
            let containers: Vec<_> =
                containers.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
            Some(json!({"spec": {"template": {"spec": {"containers": containers}}}}))
        };
        let cilium = workload(&[
            ("etcd", "quay.io/cilium/clustermesh-apiserver:v1.19.1@sha256:00"),
            ("kvstoremesh", "x"),
        ]);
        let isthmus = workload(&[("mesh", "registry:5000/isthmus:0.1.0")]);
        let said = |workload| {
            version([&None, workload]).map(|version| format!("{} {}", version.product, version.text))
        };
        assert_eq!(said(&cilium).as_deref(), Some("Cilium v1.19.1"));
        assert_eq!(said(&isthmus).as_deref(), Some("Isthmus 0.1.0"));
        assert_eq!(said(&workload(&[("x", "registry:5000/cilium")])), None);
        assert!(is_mirrored(&None) && is_mirrored(&cilium) && is_mirrored(&isthmus));
        assert!(!is_mirrored(&workload(&[("etcd", "quay.io/cilium/clustermesh-apiserver:v1.15.0")])));
    }

    #[test]
    fn a_clock_is_told_by_the_date_of_an_answer() {
        let asked = Timestamp::from_second(784_111_777).unwrap();
        let clock = clock("Sun, 06 Nov 1994 08:50:37 GMT", asked, 1.0).unwrap();
        assert!((clock.ahead_seconds - 60.0).abs() < 1e-6, "{clock:?}");
        assert!((clock.uncertainty_seconds - 1.0).abs() < 1e-6);
        assert_eq!(super::clock("yesterday", asked, 1.0), None);
    }

    #[test]
    fn data_is_decoded_where_it_is_encoded() {
        let secret = json!({"kind": "Secret", "data": {"a": "eA==", "b": "!"}});
        assert_eq!(data(&secret), [("a".to_owned(), b"x".to_vec())].into());
        let map = json!({"kind": "ConfigMap", "data": {"a": "eA=="}});
        assert_eq!(data(&map), [("a".to_owned(), b"eA==".to_vec())].into());
    }

    #[test]
    fn the_user_of_a_refusal_is_named() {
        let message = "secrets \"x\" is forbidden: User \"eve\" cannot get resource \"secrets\"";
        assert_eq!(user(message), "eve");
        assert_eq!(user("no"), "");
    }
}
