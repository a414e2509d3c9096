//! From the raw changes of a mirrored prefix to typed events. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_types::{
    ClusterEndpointSlice, ClusterService, IpIdentityPair, Labels, Node, NumericIdentity, Peer, Reason,
    Rejection, Resource, ServiceExport, ServiceName, decode_identity, identity_key, key,
};

/// One accepted value of another cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A node.
    Node(Box<Node>),
    /// An address or prefix.
    Ip(Box<IpIdentityPair>),
    /// An identity.
    Identity(NumericIdentity, Labels),
    /// A global service.
    Service(Box<ClusterService>),
    /// An export of the Multi-Cluster Services API.
    ServiceExport(Box<ServiceExport>),
    /// A slice of a global service's endpoints.
    EndpointSlice(Box<ClusterEndpointSlice>),
}

impl Item {
    /// Its kind.
    pub fn resource(&self) -> Resource {
        match self {
            Item::Node(_) => Resource::Nodes,
            Item::Ip(_) => Resource::Ip,
            Item::Identity(..) => Resource::Identities,
            Item::Service(_) => Resource::Services,
            Item::ServiceExport(_) => Resource::ServiceExports,
            Item::EndpointSlice(_) => Resource::EndpointSlices,
        }
    }
}

/// Names one value of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemKey {
    /// A node, by name.
    Node(String),
    /// An address or prefix.
    Ip(IpNet),
    /// An identity.
    Identity(NumericIdentity),
    /// A global service.
    Service(ServiceName),
    /// An export, by the name of its service.
    ServiceExport(ServiceName),
    /// A slice.
    EndpointSlice {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Reads the value at `name`, the key after the prefix of `kind`.
///
/// # Errors
/// What is wrong with it; the value before it stays in effect.
pub(crate) fn decode(kind: Resource, name: &[u8], value: &[u8], peer: &Peer) -> Result<Item, Rejection> {
    let name = text(kind, name)?;
    match kind {
        Resource::Nodes => Ok(Item::Node(Box::new(Node::decode(name, value, peer)?))),
        Resource::Ip => Ok(Item::Ip(Box::new(IpIdentityPair::decode(name, value, peer)?))),
        Resource::Identities => {
            let (id, labels) = decode_identity(name, value, peer)?;
            Ok(Item::Identity(id, labels))
        }
        Resource::Services => {
            key::namespaced(name)?;
            Ok(Item::Service(Box::new(ClusterService::decode(name, value, peer)?)))
        }
        Resource::ServiceExports => {
            key::namespaced(name)?;
            Ok(Item::ServiceExport(Box::new(ServiceExport::decode(name, value, peer)?)))
        }
        Resource::EndpointSlices => {
            key::namespaced(name)?;
            Ok(Item::EndpointSlice(Box::new(ClusterEndpointSlice::decode(name, value, peer)?)))
        }
    }
}

/// Reads the key alone, of a value that is gone.
///
/// # Errors
/// No value with such a key was ever accepted, so there is nothing to remove.
pub(crate) fn decode_key(kind: Resource, name: &[u8], peer: &Peer) -> Result<ItemKey, Rejection> {
    let name = text(kind, name)?;
    match kind {
        Resource::Nodes => Ok(ItemKey::Node(name.to_owned())),
        Resource::Ip => {
            let prefix = name.parse::<IpAddr>().map(IpNet::from).or_else(|_no_address| name.parse::<IpNet>());
            let malformed = |_| {
                Rejection::new(Reason::KeyMalformed, format!("ip key ends in {name:?}, expected an address"))
            };
            prefix.map(ItemKey::Ip).map_err(malformed)
        }
        Resource::Identities => Ok(ItemKey::Identity(identity_key(name, peer)?)),
        Resource::Services => {
            let (namespace, name) = key::namespaced(name)?;
            Ok(ItemKey::Service(ServiceName::new(namespace, name)))
        }
        Resource::ServiceExports => {
            let (namespace, name) = key::namespaced(name)?;
            Ok(ItemKey::ServiceExport(ServiceName::new(namespace, name)))
        }
        Resource::EndpointSlices => {
            let (namespace, name) = key::namespaced(name)?;
            Ok(ItemKey::EndpointSlice { namespace: namespace.to_owned(), name: name.to_owned() })
        }
    }
}

fn text(kind: Resource, name: &[u8]) -> Result<&str, Rejection> {
    std::str::from_utf8(name).map_err(|error| {
        Rejection::new(
            Reason::KeyMalformed,
            format!("{kind} key {} is no text: {error}", name.escape_ascii()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_types::{ClusterConfig, LocalCluster};

    fn peer() -> Peer {
        let local = LocalCluster::new("home", 1, 255).unwrap();
        let config = ClusterConfig { id: 7, ..ClusterConfig::default() };
        Peer::accept(&local, &"prod-eu".parse().unwrap(), &config).unwrap()
    }

    #[test]
    fn each_bad_value_has_its_reason() {
        let node = |name: &str, cluster: &str, id: u32| {
            format!(r#"{{"Name":"{name}","Cluster":"{cluster}","ClusterID":{id}}}"#)
        };
        let service = |cluster: &str, address: &str| {
            format!(
                r#"{{"cluster":"{cluster}","namespace":"shop","name":"cart","clusterID":7,"backends":{{"{address}":{{}}}}}}"#
            )
        };
        let cases = [
            (Resource::Nodes, "a", "not json".to_owned(), Reason::ValueNotJson),
            (Resource::Nodes, "a", node("a", "other", 7), Reason::ClusterMismatch),
            (Resource::Nodes, "a", node("a", "prod-eu", 8), Reason::ClusterIdMismatch),
            (Resource::Nodes, "a", node("b", "prod-eu", 7), Reason::NameMismatch),
            (Resource::Nodes, "a", node("", "prod-eu", 7), Reason::FieldMissing),
            (Resource::Ip, "10.0.0.1", r#"{"IP":"10.0.0.300"}"#.to_owned(), Reason::AddressInvalid),
            (Resource::Ip, "10.0.0.1", r#"{"IP":"10.0.0.2"}"#.to_owned(), Reason::NameMismatch),
            (
                Resource::Ip,
                "10.0.0.1",
                r#"{"IP":"10.0.0.1","ID":70000}"#.to_owned(),
                Reason::IdentityOutOfRange,
            ),
            (Resource::Ip, "10.0.0.1", "{".to_owned(), Reason::ValueNotJson),
            (Resource::Identities, "70000", "k8s:a=b;".to_owned(), Reason::IdentityOutOfRange),
            (Resource::Identities, "x", "k8s:a=b;".to_owned(), Reason::KeyMalformed),
            (Resource::Identities, "458752", "k8s:a=b;".to_owned(), Reason::IdentityClusterLabel),
            (Resource::Services, "shop/cart", service("other", "10.0.0.1"), Reason::ClusterMismatch),
            (Resource::Services, "shop/cart", service("prod-eu", "10.0.0"), Reason::AddressInvalid),
            (Resource::Services, "shop", service("prod-eu", "10.0.0.1"), Reason::KeyMalformed),
            (Resource::ServiceExports, "shop/cart", "{}".to_owned(), Reason::FieldMissing),
            (Resource::ServiceExports, "cart", "{}".to_owned(), Reason::KeyMalformed),
            (Resource::EndpointSlices, "shop/cart-1", "{}".to_owned(), Reason::ValueNotProtobuf),
            (Resource::EndpointSlices, "cart-1", "{}".to_owned(), Reason::KeyMalformed),
        ];
        for (kind, name, value, expected) in cases {
            let refused = decode(kind, name.as_bytes(), value.as_bytes(), &peer()).unwrap_err();
            assert_eq!(refused.reason, expected, "{kind} {name} {value}: {refused}");
        }
        assert_eq!(decode(Resource::Nodes, b"\xff", b"", &peer()).unwrap_err().reason, Reason::KeyMalformed);
    }

    #[test]
    fn keys_are_read_alone() {
        let read = |kind, name: &str| decode_key(kind, name.as_bytes(), &peer()).ok();
        assert_eq!(read(Resource::Nodes, "a"), Some(ItemKey::Node("a".to_owned())));
        assert_eq!(read(Resource::Ip, "10.0.0.1"), Some(ItemKey::Ip("10.0.0.1/32".parse().unwrap())));
        assert_eq!(read(Resource::Ip, "fd00::/64"), Some(ItemKey::Ip("fd00::/64".parse().unwrap())));
        assert_eq!(read(Resource::Ip, "x"), None);
        assert_eq!(read(Resource::Identities, "458752"), Some(ItemKey::Identity(NumericIdentity(458_752))));
        assert_eq!(read(Resource::Identities, "6"), None);
        assert_eq!(read(Resource::Services, "a/b"), Some(ItemKey::Service(ServiceName::new("a", "b"))));
        assert_eq!(read(Resource::Services, "a"), None);
    }
}
