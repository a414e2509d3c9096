//! CiliumNode to node value.

use std::net::IpAddr;

use kube_watch::ObjectKey;
use mesh_types::{
    LocalCluster, Node, NodeAddress, Reason, Rejection, WIREGUARD_KEY_ANNOTATION,
    WIREGUARD_KEY_ANNOTATION_ALIAS, annotation,
};
use serde::Deserialize;

use super::object::{Metadata, nullable};
use super::unit::Unit;

/// What readers see in `Source` of a node that comes from a custom resource.
const SOURCE: &str = "custom-resource";

/// A CiliumNode (`cilium.io/v2`), as far as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CiliumNode {
    /// Labels and annotations travel whole.
    pub metadata: Metadata,
    /// Addresses and pod CIDRs.
    #[serde(deserialize_with = "nullable")]
    pub spec: CiliumNodeSpec,
}

/// `spec` of a CiliumNode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CiliumNodeSpec {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<TypedAddress>,
    #[serde(deserialize_with = "nullable")]
    ipam: Ipam,
    #[serde(deserialize_with = "nullable")]
    encryption: Encryption,
    #[serde(deserialize_with = "nullable")]
    health: AddressPair,
    #[serde(deserialize_with = "nullable")]
    ingress: AddressPair,
    #[serde(deserialize_with = "nullable")]
    bootid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct TypedAddress {
    #[serde(rename = "type", deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pod_cidrs: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pools: Pools,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Pools {
    #[serde(deserialize_with = "nullable")]
    allocated: Vec<Pool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Pool {
    #[serde(deserialize_with = "nullable")]
    cidrs: Vec<String>,
}

/// Index of the key that encrypts, in several kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Encryption {
    #[serde(deserialize_with = "nullable")]
    key: i64,
}

impl Encryption {
    /// The index as it travels, in 8 bits; larger ones are cut as in Cilium.
    pub(crate) fn index(&self) -> u8 {
        self.key.to_le_bytes()[0]
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct AddressPair {
    #[serde(deserialize_with = "nullable")]
    ipv4: String,
    #[serde(deserialize_with = "nullable")]
    ipv6: String,
}

/// The value of a CiliumNode, and what of it cannot be used: an address or CIDR that does not parse stops only itself.
pub fn convert(local: &LocalCluster, name: &str, node: &CiliumNode) -> (Node, Vec<Rejection>) {
    let CiliumNode { metadata, spec } = node;
    let mut read = Reading::default();
    let mut value = Node {
        name: name.to_owned(),
        cluster: local.name.to_string(),
        cluster_id: local.id.get(),
        source: SOURCE.to_owned(),
        ip_addresses: spec.addresses.iter().filter_map(|typed| read.typed(&typed.kind, &typed.ip)).collect(),
        ipv4_health_ip: read.optional(&spec.health.ipv4),
        ipv6_health_ip: read.optional(&spec.health.ipv6),
        ipv4_ingress_ip: read.optional(&spec.ingress.ipv4),
        ipv6_ingress_ip: read.optional(&spec.ingress.ipv6),
        encryption_key: spec.encryption.index(),
        labels: metadata.labels.clone(),
        annotations: metadata.annotations.clone(),
        wireguard_pub_key: wireguard_key(&metadata.annotations).to_owned(),
        boot_id: spec.bootid.clone(),
        ..Node::default()
    };
    let cidrs =
        spec.ipam.pod_cidrs.iter().chain(spec.ipam.pools.allocated.iter().flat_map(|pool| &pool.cidrs));
    value.set_pod_cidrs(cidrs.filter_map(|text| read.cidr(text)));
    (value, read.withheld)
}

pub(crate) fn unit(local: &LocalCluster, object: &ObjectKey, node: &CiliumNode) -> Unit {
    let (value, withheld) = convert(local, &object.name, node);
    Unit::of(None, &object.name, value.encode()).withholding(withheld)
}

/// The WireGuard key that a node's annotations publish; empty for none.
pub(crate) fn wireguard_key(annotations: &annotation::Annotations) -> &str {
    let key = annotations.get(WIREGUARD_KEY_ANNOTATION);
    key.or_else(|| annotations.get(WIREGUARD_KEY_ANNOTATION_ALIAS)).map_or("", String::as_str)
}

/// Reads texts one by one and keeps book of those that do not parse.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) withheld: Vec<Rejection>,
}

impl Reading {
    /// An address that must be there.
    pub(crate) fn address(&mut self, text: &str) -> Option<IpAddr> {
        match text.parse() {
            Ok(ip) => Some(ip),
            Err(_malformed) => {
                let what = format!("{text:?} is no IP address");
                self.withheld.push(Rejection::new(Reason::AddressInvalid, what));
                None
            }
        }
    }

    /// An address that may be absent, which is the empty text.
    pub(crate) fn optional(&mut self, text: &str) -> Option<IpAddr> {
        if text.is_empty() { None } else { self.address(text) }
    }

    pub(crate) fn typed(&mut self, kind: &str, text: &str) -> Option<NodeAddress> {
        let ip = self.address(text)?;
        Some(NodeAddress { address_type: kind.to_owned(), ip: Some(ip) })
    }

    pub(crate) fn cidr(&mut self, text: &str) -> Option<ipnet::IpNet> {
        match text.parse() {
            Ok(net) => Some(net),
            Err(_malformed) => {
                let what = format!("pod CIDR {text:?} does not parse and is left out");
                self.withheld.push(Rejection::new(Reason::CidrInvalid, what));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> LocalCluster {
        LocalCluster::new("prod-eu", 7, 255).unwrap()
    }

    fn node(json: serde_json::Value) -> (Node, Vec<Reason>) {
        let node: CiliumNode = serde_json::from_value(json).unwrap();
        let (value, withheld) = convert(&local(), "worker-1", &node);
        (value, withheld.into_iter().map(|rejection| rejection.reason).collect())
    }

    #[test]
    fn an_invalid_cidr_or_address_stops_only_itself() {
        let (value, reasons) = node(serde_json::json!({"spec": {
            "addresses": [{"type": "InternalIP", "ip": "192.0.2.300"}, {"type": "InternalIP", "ip": "192.0.2.11"}],
            "ipam": {"podCIDRs": ["10.70.1.0/33", "10.70.1.7/24", "nonsense", "fd00::/64"]},
            "health": {"ipv4": "x"},
        }}));
        assert_eq!(
            reasons,
            [Reason::AddressInvalid, Reason::AddressInvalid, Reason::CidrInvalid, Reason::CidrInvalid]
        );
        let cidrs: Vec<_> = value.pod_cidrs().map(|net| net.to_string()).collect();
        assert_eq!(cidrs, ["10.70.1.0/24", "fd00::/64"]);
        assert_eq!(value.ip_addresses.len(), 1);
        assert_eq!(value.ipv4_health_ip, None);
    }

    #[test]
    fn cidrs_of_pools_follow_those_of_ipam() {
        let (value, reasons) = node(serde_json::json!({"spec": {"ipam": {
            "podCIDRs": ["10.70.1.0/24"],
            "pools": {"allocated": [{"pool": "a", "cidrs": ["10.80.0.0/24", "fd00::/64"]}, {"pool": "b", "cidrs": null}]},
        }}}));
        assert_eq!(reasons, []);
        assert_eq!(value.ipv4_alloc_cidr.unwrap().to_string(), "10.70.1.0/24");
        assert_eq!(value.ipv4_secondary_alloc_cidrs.len(), 1);
        assert_eq!(value.ipv6_alloc_cidr.unwrap().to_string(), "fd00::/64");
    }

    #[test]
    fn nulls_are_empty_and_a_key_index_is_cut_to_8_bits() {
        let (value, reasons) = node(serde_json::json!({
            "metadata": {"labels": null},
            "spec": {"addresses": null, "ipam": null, "encryption": {"key": 259}, "bootid": null}
        }));
        assert_eq!(reasons, []);
        assert_eq!((value.encryption_key, value.boot_id.as_str()), (3, ""));
    }

    #[test]
    fn the_newer_wireguard_annotation_wins() {
        let keys = |pairs: &[(&str, &str)]| {
            let annotations = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            wireguard_key(&annotations).to_owned()
        };
        assert_eq!(keys(&[]), "");
        assert_eq!(keys(&[(WIREGUARD_KEY_ANNOTATION_ALIAS, "old")]), "old");
        let both = [(WIREGUARD_KEY_ANNOTATION_ALIAS, "old"), (WIREGUARD_KEY_ANNOTATION, "new")];
        assert_eq!(keys(&both), "new");
    }

    #[test]
    fn a_shape_that_is_wrong_altogether_does_not_decode() {
        for text in [r#"{"spec":7}"#, r#"{"spec":{"addresses":{}}}"#, r#"{"spec":{"ipam":{"podCIDRs":[7]}}}"#]
        {
            assert!(serde_json::from_str::<CiliumNode>(text).is_err(), "{text}");
        }
    }
}
