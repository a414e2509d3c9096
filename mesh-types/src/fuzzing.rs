//! What the fuzzer calls, one function per kind of key or value; also replayed by an ordinary test.
//!
//! Each takes any bytes, tells whether they were accepted, and panics if what was accepted is not the same after being
//! written and read again. Except for `cluster_config` an input is the end of a key, a line end, and the value.

use std::fmt::Debug;

use crate::{
    ClusterConfig, ClusterEndpointSlice, ClusterName, ClusterService, Form, IpIdentityPair, Labels,
    LocalCluster, Node, Peer, Rejection, Resource, ServiceExport, decode_identity, key,
};

fn cluster(name: &str) -> ClusterName {
    name.parse().expect("a valid name")
}

/// The cluster whose values are read; that of the golden files.
fn peer() -> Peer {
    let local = LocalCluster::new("us-east", 9, 255).expect("a valid cluster");
    let name = cluster("prod-eu");
    let config = ClusterConfig { id: 7, ..Default::default() };
    Peer::accept(&local, &name, &config).expect("a valid peer")
}

type Decode<T> = fn(&str, &[u8], &Peer) -> Result<T, Rejection>;

fn check<T: PartialEq + Debug>(input: &[u8], decode: Decode<T>, encode: fn(&T) -> Vec<u8>) -> bool {
    let end_of_key = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (name, value) = (&input[..end_of_key], input.get(end_of_key + 1..).unwrap_or_default());
    let (Ok(name), peer) = (std::str::from_utf8(name), peer()) else { return false };
    let Ok(decoded) = decode(name, value, &peer) else { return false };
    let encoded = encode(&decoded);
    let again = decode(name, &encoded, &peer);
    assert_eq!(again.as_ref(), Ok(&decoded), "{}", encoded.escape_ascii());
    assert_eq!(again.as_ref().map(encode), Ok(encoded), "the same value is always the same bytes");
    true
}

/// [`Node::decode`].
pub fn node(input: &[u8]) -> bool {
    check(input, Node::decode, Node::encode)
}

/// [`IpIdentityPair::decode`].
pub fn ip(input: &[u8]) -> bool {
    check(input, IpIdentityPair::decode, IpIdentityPair::encode)
}

/// [`ClusterService::decode`].
pub fn service(input: &[u8]) -> bool {
    check(input, ClusterService::decode, ClusterService::encode)
}

/// [`ServiceExport::decode`].
pub fn export(input: &[u8]) -> bool {
    check(input, ServiceExport::decode, ServiceExport::encode)
}

/// [`ClusterEndpointSlice::decode`].
pub fn slice(input: &[u8]) -> bool {
    check(input, ClusterEndpointSlice::decode, ClusterEndpointSlice::encode)
}

/// [`decode_identity`], and with it [`Labels::parse`].
pub fn identity(input: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(input) {
        let labels = Labels::parse(text);
        assert_eq!(Labels::parse(&labels.to_string()), labels, "{text:?}");
    }
    check(input, decode_identity, |(_, labels)| labels.to_string().into_bytes())
}

/// [`ClusterConfig::decode`]; accepted if the cluster may be a peer.
pub fn cluster_config(input: &[u8]) -> bool {
    let Ok(config) = ClusterConfig::decode(input) else { return false };
    assert_eq!(ClusterConfig::decode(&config.encode()).as_ref(), Ok(&config));
    let mirrored = config.mirrored();
    assert_eq!(ClusterConfig::decode(&mirrored.encode()).as_ref(), Ok(&mirrored));
    let local = LocalCluster::new("us-east", 9, 255).expect("a valid cluster");
    let accepted = Peer::accept(&local, &cluster("prod-eu"), &config);
    accepted.is_ok_and(|peer| {
        let identities = peer.identities();
        assert!(identities.contains(identities.first) && identities.contains(identities.last));
        true
    })
}

/// Names in keys: of a cluster, of a canary, of a namespaced object. Accepted if the text is any of them.
pub fn key(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let cluster = text.parse::<ClusterName>();
    if let Ok(name) = &cluster {
        assert_eq!(name.as_str(), text);
        let prefixes = Resource::ALL.map(|resource| resource.prefix(Form::Cache, name));
        assert!(prefixes.iter().all(|prefix| prefix.split('/').any(|part| part == text)));
    }
    let canary = Resource::from_canary_name(text);
    if let Some((resource, form)) = canary {
        assert_eq!(resource.canary_name(form), text);
    }
    let object = key::namespaced(text);
    if let Ok((namespace, name)) = &object {
        assert_eq!(format!("{namespace}/{name}"), text);
    }
    cluster.is_ok() || canary.is_some() || object.is_ok()
}

#[cfg(test)]
mod replays {
    fuzz_replay::replays! {
        node: 20_000,
        ip: 20_000,
        identity: 20_000,
        service: 20_000,
        export: 20_000,
        slice: 20_000,
        cluster_config: 20_000,
        key: 20_000,
    }
}
