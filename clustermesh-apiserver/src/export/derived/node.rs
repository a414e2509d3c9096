//! Node to node value.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_watch::ObjectKey;
use mesh_types::{LocalCluster, Node, Rejection, WIREGUARD_KEY_ANNOTATION, WIREGUARD_KEY_ANNOTATION_ALIAS};
use serde::Deserialize;

use super::super::node::{Reading, wireguard_key};
use super::super::object::{Metadata, nullable};
use super::super::unit::Unit;

/// What readers see in `Source` of a node that comes from the core API.
const SOURCE: &str = "k8s";
/// Key index that stands for WireGuard.
pub(crate) const WIREGUARD_KEY_INDEX: u8 = 255;
/// Address types whose text is a name and not an address.
const NAMES: [&str; 3] = ["Hostname", "InternalDNS", "ExternalDNS"];

/// A Node (`v1`), as far as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KubeNode {
    metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    spec: NodeSpec,
    #[serde(deserialize_with = "nullable")]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR", deserialize_with = "nullable")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct NodeStatus {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<KubeAddress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct KubeAddress {
    #[serde(rename = "type", deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    address: String,
}

/// The value of a Node, and what of it cannot be used.
///
/// Of the annotations only the WireGuard key travels: the others of a Node change often and say nothing about the mesh.
pub fn convert(local: &LocalCluster, name: &str, node: &KubeNode) -> (Node, Vec<Rejection>) {
    let KubeNode { metadata, spec, status } = node;
    let mut read = Reading::default();
    let key = wireguard_key(&metadata.annotations);
    let travels =
        |key: &&String| [WIREGUARD_KEY_ANNOTATION, WIREGUARD_KEY_ANNOTATION_ALIAS].contains(&key.as_str());
    let annotations: BTreeMap<_, _> = metadata
        .annotations
        .iter()
        .filter(|(key, _)| travels(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let typed = |address: &KubeAddress| {
        // A host name is no address, unless it happens to be one.
        if NAMES.contains(&address.kind.as_str()) && address.address.parse::<IpAddr>().is_err() {
            return None;
        }
        read.typed(&address.kind, &address.address)
    };
    let mut value = Node {
        name: name.to_owned(),
        cluster: local.name.to_string(),
        cluster_id: local.id.get(),
        source: SOURCE.to_owned(),
        ip_addresses: status.addresses.iter().filter_map(typed).collect(),
        encryption_key: if key.is_empty() { 0 } else { WIREGUARD_KEY_INDEX },
        labels: metadata.labels.clone(),
        wireguard_pub_key: key.to_owned(),
        annotations,
        ..Node::default()
    };
    let single = Some(&spec.pod_cidr).filter(|cidr| spec.pod_cidrs.is_empty() && !cidr.is_empty());
    value.set_pod_cidrs(spec.pod_cidrs.iter().chain(single).filter_map(|text| read.cidr(text)));
    (value, read.withheld)
}

pub(crate) fn unit(object: &ObjectKey, (value, withheld): (&Node, Vec<Rejection>)) -> Unit {
    Unit::of(None, &object.name, value.encode()).withholding(withheld)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_types::Reason;
    use serde_json::json;

    #[test]
    fn a_node_is_its_addresses_cidrs_labels_and_key() {
        let node: KubeNode = serde_json::from_value(json!({
            "metadata": {
                "labels": {"kubernetes.io/os": "linux"},
                "annotations": {WIREGUARD_KEY_ANNOTATION: "key", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {"podCIDR": "10.71.1.0/24", "podCIDRs": ["10.71.1.0/24", "fd00:71:1::/64", "bad"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.11"}, {"type": "ExternalIP", "address": "198.51.100.11"},
                {"type": "Hostname", "address": "worker-1"}, {"type": "InternalIP", "address": "bad"},
            ]},
        }))
        .unwrap();
        let local = LocalCluster::new("west", 3, 255).unwrap();
        let (value, withheld) = convert(&local, "worker-1", &node);
        let expected = concat!(
            r#"{"Name":"worker-1","Cluster":"west","IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.11"},"#,
            r#"{"Type":"ExternalIP","IP":"198.51.100.11"}],"IPv4AllocCIDR":{"IP":"10.71.1.0","Mask":"////AA=="},"#,
            r#""IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":{"IP":"fd00:71:1::","Mask":"//////////8AAAAAAAAAAA=="},"#,
            r#""IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","#,
            r#""ClusterID":3,"Source":"k8s","EncryptionKey":255,"Labels":{"kubernetes.io/os":"linux"},"#,
            r#""Annotations":{"network.cilium.io/wg-pub-key":"key"},"WireguardPubKey":"key","BootID":""}"#,
        );
        assert_eq!(String::from_utf8(value.encode()).unwrap(), expected);
        let reasons: Vec<_> = withheld.iter().map(|rejection| rejection.reason).collect();
        assert_eq!(reasons, [Reason::AddressInvalid, Reason::CidrInvalid]);
    }
}
