//! The language of the mesh.
//!
//! Bytes of a key or value come in, typed and validated values go out, and the other way round; nothing here does I/O,
//! reads a clock or knows of async. Texts and values are those of Cilium ClusterMesh, byte for byte:
//!
//! ```text
//! cilium/state/nodes/v1/<cluster>/<node>            Node                JSON
//! cilium/state/ip/v1/default/<ip>                   IpIdentityPair      JSON
//! cilium/state/identities/v1/id/<id>                Labels              source:key=value;…
//! cilium/state/services/v1/<cluster>/<ns>/<name>    ClusterService      JSON
//! cilium/state/serviceexports/v1/<cluster>/<ns>/<n> ServiceExport       JSON
//! cilium/state/endpointslices/v1/<cluster>/<ns>/<n> ClusterEndpointSlice zstd of protobuf
//! cilium/cluster-config/<cluster>                   ClusterConfig       JSON
//! cilium/synced/<cluster>/<prefix>                  a time, RFC 3339
//! cilium/synced/<cluster>/isthmus/stamps/v1         Stamps              JSON
//! cilium/.heartbeat                                 a time, RFC 3339
//! ```
//!
//! `decode` functions are the edge at which a peer's bytes are checked: what they return obeys the protocol's rules, and
//! what they refuse comes as a [`Rejection`] with a stable [`Reason`].

mod cidr;
mod cluster;
mod export;
mod gojson;
mod identity;
mod ip;
mod mcs;
mod mirror_word;
mod node;
mod reason;
mod service;
mod service_name;
mod slice;
mod stamps;

pub mod annotation;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod key;

pub use cidr::{Cidr, Mask};
pub use cluster::{Capabilities, ClusterConfig, ClusterId, ClusterName, LocalCluster, MaxClusters, Peer};
pub use export::{ClientIpConfig, ExportPort, ServiceExport, SessionAffinityConfig, is_dns_label};
pub use identity::{
    CLUSTER_LABEL, IdentityRange, Label, Labels, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, NumericIdentity,
    SERVICE_ACCOUNT_LABEL, check_cluster_label, decode_identity, identity_key,
};
pub use ip::{IpIdentityPair, NamedPort};
pub use key::{Form, Resource};
pub use mcs::derived_name;
pub use mirror_word::{KindWord, MIRROR_WORD, MirrorWord, PeerContact, mirror_word_key};
pub use node::{Node, NodeAddress, WIREGUARD_KEY_ANNOTATION, WIREGUARD_KEY_ANNOTATION_ALIAS};
pub use reason::{Reason, Rejection};
pub use service::{BackendZone, ClusterService, ForZone, L4Addr, PortMap};
pub use service_name::ServiceName;
pub use slice::{
    ClusterEndpointSlice, SERVICE_NAME_LABEL, SliceConditions, SliceEndpoint, SliceHints, SlicePort,
    SliceZone,
};
pub use stamps::{MAX_STAMPS, STAMPS, Stamps, stamps_key};

fn expect_cluster(kind: &str, name: &str, found: &str, peer: &Peer) -> Result<(), Rejection> {
    if found == peer.name.as_str() {
        return Ok(());
    }
    let what = format!("{kind} {name}: belongs to cluster {found:?}, expected {}", peer.name);
    Err(Rejection::new(Reason::ClusterMismatch, what))
}

fn expect_cluster_id(kind: &str, name: &str, found: u32, peer: &Peer) -> Result<(), Rejection> {
    if found == peer.id.get() {
        return Ok(());
    }
    let what =
        format!("{kind} {name}: has cluster id {found}, expected {} of cluster {}", peer.id, peer.name);
    Err(Rejection::new(Reason::ClusterIdMismatch, what))
}

fn expect_name(kind: &str, key: &str, found: &str) -> Result<(), Rejection> {
    if found == key {
        return Ok(());
    }
    Err(Rejection::new(Reason::NameMismatch, format!("{kind} {key}: the value names {found:?}")))
}
