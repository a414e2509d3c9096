//! What Cilium 1.19 and 1.20 wrote from known objects must be read, and printed again as the bytes of 1.20.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_types::{
    ClusterConfig, ClusterEndpointSlice, ClusterName, ClusterService, Form, IpIdentityPair, Labels,
    LocalCluster, Node, Peer, Reason, Rejection, Resource, ServiceExport, decode_identity, key,
};
use ruzstd::decoding::StreamingDecoder;

fn golden(file: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let entries: BTreeMap<String, String> = text
        .lines()
        .map(|line| {
            let [key, _lease, value] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            (key.to_owned(), value.to_owned())
        })
        .collect();
    assert!(entries.len() > 20, "{path:?} has only {} entries", entries.len());
    entries
}

/// The bytes behind `base64:…`.
fn binary(value: &str) -> Vec<u8> {
    STANDARD.decode(value.strip_prefix("base64:").unwrap()).unwrap()
}

/// What is inside of a zstd frame.
fn unfold(frame: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    StreamingDecoder::new(frame).unwrap().read_to_end(&mut message).unwrap();
    message
}

fn peer() -> Peer {
    let local = LocalCluster::new("us-east", 9, 255).unwrap();
    let name: ClusterName = "prod-eu".parse().unwrap();
    let config = ClusterConfig { id: 7, ..Default::default() };
    Peer::accept(&local, &name, &config).unwrap()
}

/// Reads an entry as its kind and prints it again.
///
/// Slices are printed without their zstd frame, which no two encoders write alike.
fn reprint(resource: Resource, name: &str, value: &str) -> Result<Vec<u8>, Rejection> {
    let (peer, value) = (peer(), value.as_bytes());
    Ok(match resource {
        Resource::Nodes => Node::decode(name, value, &peer)?.encode(),
        Resource::Ip => IpIdentityPair::decode(name, value, &peer)?.encode(),
        // The text form has no escapes, so a value with ';' (which Kubernetes forbids) cannot be read back, in Cilium
        // as here; it must still be printed as Cilium prints it.
        Resource::Identities if name == "459009" => labels_of_459009().to_string().into_bytes(),
        Resource::Identities => decode_identity(name, value, &peer)?.1.to_string().into_bytes(),
        Resource::Services => ClusterService::decode(name, value, &peer)?.encode(),
        Resource::ServiceExports => ServiceExport::decode(name, value, &peer)?.encode(),
        Resource::EndpointSlices => {
            let value = std::str::from_utf8(value).unwrap();
            ClusterEndpointSlice::decode(name, &binary(value), &peer)?.message()
        }
    })
}

/// The labels of that object in `cluster-a/identities.yaml`.
fn labels_of_459009() -> Labels {
    let mut labels = Labels::default();
    for pair in [
        ("k8s:z-last", ""),
        ("k8s:a-first", "x=y;z"),
        ("k8s:io.cilium.k8s.policy.cluster", "prod-eu"),
        ("k8s:io.cilium.k8s.namespace.labels.team", "a<b>&c"),
        ("k8s:io.kubernetes.pod.namespace", "shop"),
    ] {
        labels.insert_prefixed(pair);
    }
    labels
}

/// Entries that Cilium writes and that a reader must refuse, by key after the resource's prefix.
fn refused(resource: Resource, name: &str) -> Option<Reason> {
    match (resource, name) {
        (Resource::Identities, "70000") => Some(Reason::IdentityOutOfRange),
        (Resource::Services, "shop/external") => Some(Reason::AddressInvalid),
        _other => None,
    }
}

fn every_value_round_trips(file: &str, form: Form) {
    let entries = golden(file);
    let peer = peer();
    let mut seen = BTreeMap::new();
    for resource in Resource::ALL {
        let prefix = resource.prefix(form, &peer.name);
        for (key, value) in entries.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            let name = &key[prefix.len()..];
            *seen.entry(resource).or_insert(0) += 1;
            match (reprint(resource, name, value), refused(resource, name)) {
                (Ok(bytes), None) if resource == Resource::EndpointSlices => {
                    assert_eq!(bytes, unfold(&binary(value)), "{file}: {key}");
                    let slice = ClusterEndpointSlice::decode(name, &binary(value), &peer).unwrap();
                    assert_eq!(unfold(&slice.encode()), bytes, "{file}: {key}");
                }
                (Ok(bytes), None) => {
                    // The one field of 1.19 that 1.20 has no longer.
                    let expected =
                        value.replace(r#""NodeIdentity":0,"#, "").replace(r#""NodeIdentity":6,"#, "");
                    assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{file}: {key}");
                }
                (Err(rejection), Some(reason)) => assert_eq!(rejection.reason, reason, "{file}: {key}"),
                (outcome, expected) => panic!("{file}: {key}: {outcome:?}, expected refusal {expected:?}"),
            }
        }
        let known = resource != Resource::EndpointSlices || file.starts_with("v1.20/");
        let canary = entries.contains_key(&resource.canary(form, &peer.name));
        assert_eq!(canary, known, "{file}: canary of {resource}");
    }
    let mut expected = BTreeMap::from([
        (Resource::Nodes, 4),
        (Resource::Ip, 7),
        (Resource::Identities, 3),
        (Resource::Services, if file.starts_with("v1.19/") { 8 } else { 7 }),
        (Resource::ServiceExports, 3),
    ]);
    if file.starts_with("v1.20/") {
        expected.insert(Resource::EndpointSlices, 5);
    }
    assert_eq!(seen, expected, "{file}");
}

#[test]
fn state_values_of_1_19_and_1_20_round_trip() {
    every_value_round_trips("v1.19/state.tsv", Form::State);
    every_value_round_trips("v1.20/state.tsv", Form::State);
}

#[test]
fn cached_values_of_1_19_and_1_20_round_trip() {
    every_value_round_trips("v1.19/cache.tsv", Form::Cache);
    every_value_round_trips("v1.20/cache.tsv", Form::Cache);
}

#[test]
fn cluster_configs_round_trip_and_mirror_as_cilium_mirrors_them() {
    let config_key = key::cluster_config(&peer().name);
    for version in ["v1.19", "v1.20"] {
        let own = &golden(&format!("{version}/state.tsv"))[&config_key];
        let mirrored = &golden(&format!("{version}/cache.tsv"))[&config_key];
        let config = ClusterConfig::decode(own.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(config.encode()).unwrap(), *own);
        assert_eq!(String::from_utf8(config.mirrored().encode()).unwrap(), *mirrored);
    }
}
