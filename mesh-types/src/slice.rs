//! EndpointSlices of global services: `cilium/state/endpointslices/v1/<cluster>/<namespace>/<slice>`, from Cilium 1.20 on.
//!
//! The one value that is not JSON: a zstd frame around a protobuf message whose fields are numbered as in Kubernetes'
//! `discovery/v1`. Encoders differ in the frame, so two values are compared as messages, never as bytes.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::IpAddr;

use prost::Message;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::{Peer, Reason, Rejection};

/// Label of an EndpointSlice: the Service that it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// What a value may unfold to: a hundred times a large slice, and little enough that no peer can exhaust its readers.
const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// A slice of a global service's endpoints in one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterEndpointSlice {
    /// Cluster that exports it.
    pub cluster: String,
    /// Its id.
    pub cluster_id: u32,
    /// Namespace.
    pub namespace: String,
    /// Name of the slice.
    pub name: String,
    /// Labels of the slice.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the slice.
    pub annotations: BTreeMap<String, String>,
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// All endpoints, ready or not.
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports of every endpoint.
    pub ports: Vec<SlicePort>,
}

/// The message as it is encoded: maps as their entries, so that both halves of each are always written.
#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(string, required, tag = "1")]
    cluster: String,
    #[prost(uint32, required, tag = "2")]
    cluster_id: u32,
    #[prost(string, required, tag = "3")]
    namespace: String,
    #[prost(string, required, tag = "4")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    labels: Vec<Pair>,
    #[prost(message, repeated, tag = "6")]
    annotations: Vec<Pair>,
    #[prost(string, required, tag = "7")]
    address_type: String,
    #[prost(message, repeated, tag = "8")]
    endpoints: Vec<SliceEndpoint>,
    #[prost(message, repeated, tag = "9")]
    ports: Vec<SlicePort>,
}

/// An entry of a map.
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, required, tag = "1")]
    key: String,
    #[prost(string, required, tag = "2")]
    value: String,
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Message)]
pub struct SliceEndpoint {
    /// Addresses, of the slice's family.
    #[prost(string, repeated, tag = "1")]
    pub addresses: Vec<String>,
    /// What it can take.
    #[prost(message, required, tag = "2")]
    pub conditions: SliceConditions,
    /// Host name.
    #[prost(string, optional, tag = "3")]
    pub hostname: Option<String>,
    /// Topology as old controllers wrote it.
    #[prost(btree_map = "string, string", tag = "5")]
    pub deprecated_topology: BTreeMap<String, String>,
    /// Name of its node.
    #[prost(string, optional, tag = "6")]
    pub node_name: Option<String>,
    /// Its zone.
    #[prost(string, optional, tag = "7")]
    pub zone: Option<String>,
    /// Who should use it.
    #[prost(message, optional, tag = "8")]
    pub hints: Option<SliceHints>,
}

/// Conditions of an endpoint; absent ones are as Kubernetes defines.
#[derive(Clone, PartialEq, Message)]
pub struct SliceConditions {
    /// Takes new connections.
    #[prost(bool, optional, tag = "1")]
    pub ready: Option<bool>,
    /// Answers.
    #[prost(bool, optional, tag = "2")]
    pub serving: Option<bool>,
    /// Is being deleted.
    #[prost(bool, optional, tag = "3")]
    pub terminating: Option<bool>,
}

/// Hints of an endpoint.
#[derive(Clone, PartialEq, Message)]
pub struct SliceHints {
    /// Zones that should use it.
    #[prost(message, repeated, tag = "1")]
    pub for_zones: Vec<SliceZone>,
}

/// A zone of a hint.
#[derive(Clone, PartialEq, Message)]
pub struct SliceZone {
    /// Its name.
    #[prost(string, required, tag = "1")]
    pub name: String,
}

/// A port of a slice.
#[derive(Clone, PartialEq, Message)]
pub struct SlicePort {
    /// Name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    #[prost(string, optional, tag = "2")]
    pub protocol: Option<String>,
    /// Number.
    #[prost(int32, optional, tag = "3")]
    pub port: Option<i32>,
    /// Protocol above it.
    #[prost(string, optional, tag = "4")]
    pub app_protocol: Option<String>,
}

impl ClusterEndpointSlice {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        compress_to_vec(&self.message()[..], CompressionLevel::Fastest)
    }

    /// The protobuf message inside of the stored bytes: what two values are compared by.
    pub fn message(&self) -> Vec<u8> {
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter().map(|(key, value)| Pair { key: key.clone(), value: value.clone() }).collect()
        };
        let wire = Wire {
            cluster: self.cluster.clone(),
            cluster_id: self.cluster_id,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: pairs(&self.labels),
            annotations: pairs(&self.annotations),
            address_type: self.address_type.clone(),
            endpoints: self.endpoints.clone(),
            ports: self.ports.clone(),
        };
        wire.encode_to_vec()
    }

    /// Reads the value of `name` (`<namespace>/<slice>`, the key after `…/endpointslices/v1/<cluster>/`) of `peer`.
    ///
    /// # Errors
    /// No zstd frame or none of such a message, one that unfolds to more than 8 MiB, empty names, another cluster or id, a
    /// name that differs from the key, or addresses that are not of the slice's family.
    pub fn decode(name: &str, value: &[u8], peer: &Peer) -> Result<Self, Rejection> {
        let refuse =
            |reason, what: String| Err(Rejection::new(reason, format!("endpoint slice {name}: {what}")));
        let message = match unfold(value) {
            Ok(message) if message.len() > MAX_MESSAGE_BYTES => {
                let what = format!("unfolds to more than {MAX_MESSAGE_BYTES} bytes");
                return refuse(Reason::ValueTooLarge, what);
            }
            Ok(message) => message,
            Err(error) => return refuse(Reason::ValueNotProtobuf, error),
        };
        let wire = match Wire::decode(&message[..]) {
            Ok(wire) => wire,
            Err(error) => return refuse(Reason::ValueNotProtobuf, error.to_string()),
        };
        let map = |pairs: Vec<Pair>| pairs.into_iter().map(|Pair { key, value }| (key, value)).collect();
        let slice = ClusterEndpointSlice {
            cluster: wire.cluster,
            cluster_id: wire.cluster_id,
            namespace: wire.namespace,
            name: wire.name,
            labels: map(wire.labels),
            annotations: map(wire.annotations),
            address_type: wire.address_type,
            endpoints: wire.endpoints,
            ports: wire.ports,
        };
        if slice.cluster.is_empty() || slice.namespace.is_empty() || slice.name.is_empty() {
            return refuse(Reason::FieldMissing, "cluster, namespace and name must not be empty".to_owned());
        }
        crate::expect_cluster("endpoint slice", name, &slice.cluster, peer)?;
        crate::expect_name("endpoint slice", name, &format!("{}/{}", slice.namespace, slice.name))?;
        crate::expect_cluster_id("endpoint slice", name, slice.cluster_id, peer)?;
        if slice.address_type != "IPv4" && slice.address_type != "IPv6" {
            let what = format!("addressType is {:?}, expected IPv4 or IPv6", slice.address_type);
            return refuse(Reason::AddressTypeUnsupported, what);
        }
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        if let Some(bad) = addresses.into_iter().find(|text| !slice.has_family_of(text)) {
            let what = format!("{bad:?} is no {} address", slice.address_type);
            return refuse(Reason::AddressInvalid, what);
        }
        Ok(slice)
    }

    /// The Service that it belongs to.
    pub fn service(&self) -> Option<&str> {
        self.labels.get(SERVICE_NAME_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Whether `text` is an address of the slice's family.
    pub fn has_family_of(&self, text: &str) -> bool {
        text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (self.address_type == "IPv6"))
    }
}

/// What is inside of a zstd frame, cut one byte after the most that is accepted.
fn unfold(value: &[u8]) -> Result<Vec<u8>, String> {
    let mut message = Vec::new();
    let frame = StreamingDecoder::new(value).map_err(|error| error.to_string())?;
    let limit = u64::try_from(MAX_MESSAGE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    frame.take(limit).read_to_end(&mut message).map_err(|error| error.to_string())?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterConfig, LocalCluster};

    fn peer() -> Peer {
        let local = LocalCluster::new("us-east", 9, 255).unwrap();
        let config = ClusterConfig { id: 7, ..Default::default() };
        Peer::accept(&local, &"prod-eu".parse().unwrap(), &config).unwrap()
    }

    fn slice() -> ClusterEndpointSlice {
        ClusterEndpointSlice {
            cluster: "prod-eu".into(),
            cluster_id: 7,
            namespace: "shop".into(),
            name: "cart-1".into(),
            labels: [(SERVICE_NAME_LABEL.into(), "cart".into()), ("empty".into(), String::new())].into(),
            address_type: "IPv4".into(),
            endpoints: vec![SliceEndpoint { addresses: vec!["10.0.0.1".into()], ..Default::default() }],
            ports: vec![SlicePort { port: Some(80), ..Default::default() }],
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut ClusterEndpointSlice)) -> Reason {
        let mut slice = slice();
        change(&mut slice);
        ClusterEndpointSlice::decode("shop/cart-1", &slice.encode(), &peer()).unwrap_err().reason
    }

    #[test]
    fn a_slice_round_trips_with_empty_labels() {
        let read = ClusterEndpointSlice::decode("shop/cart-1", &slice().encode(), &peer()).unwrap();
        assert_eq!(read, slice());
        assert_eq!(read.service(), Some("cart"));
    }

    #[test]
    fn each_rule_that_a_slice_can_break_has_its_reason() {
        assert_eq!(refused(|slice| slice.cluster.clear()), Reason::FieldMissing);
        assert_eq!(refused(|slice| slice.cluster = "other".into()), Reason::ClusterMismatch);
        assert_eq!(refused(|slice| slice.cluster_id = 8), Reason::ClusterIdMismatch);
        assert_eq!(refused(|slice| slice.name = "other".into()), Reason::NameMismatch);
        assert_eq!(refused(|slice| slice.address_type = "FQDN".into()), Reason::AddressTypeUnsupported);
        assert_eq!(refused(|slice| slice.address_type = "IPv6".into()), Reason::AddressInvalid);
        let text = "10.0.0.300".to_owned();
        assert_eq!(refused(|slice| slice.endpoints[0].addresses.push(text)), Reason::AddressInvalid);
    }

    #[test]
    fn what_is_no_frame_or_too_much_is_refused() {
        let reason =
            |value: &[u8]| ClusterEndpointSlice::decode("shop/cart-1", value, &peer()).unwrap_err().reason;
        let whole = slice().encode();
        assert_eq!(reason(b""), Reason::ValueNotProtobuf);
        assert_eq!(reason(br#"{"cluster":"prod-eu"}"#), Reason::ValueNotProtobuf);
        assert_eq!(reason(&whole[..whole.len() / 2]), Reason::ValueNotProtobuf);
        let frame = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        assert_eq!(reason(&frame(b"\xff\xff")), Reason::ValueNotProtobuf);
        let bomb = frame(&vec![0; MAX_MESSAGE_BYTES + 1]);
        assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
        assert_eq!(reason(&bomb), Reason::ValueTooLarge);
    }
}
