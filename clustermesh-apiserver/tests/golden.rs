//! The objects that Cilium's own exporter was shown must give the bytes that it wrote.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clustermesh_apiserver::export::{Exporter, Input, Settings, Sources};
use kube_watch::{Event, ObjectKey};
use mesh_types::{ClusterConfig, ClusterEndpointSlice, Form, LocalCluster, Peer, Reason, Resource};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What Cilium writes and we do not, by key after the resource's prefix; see the README of the golden data.
const DIFFERENCES: [(Resource, &str, &str, Reason); 3] = [
    (Resource::Identities, "70000", "70000", Reason::IdentityOutOfRange),
    (Resource::Ip, "10.70.2.45", "shop/no-identity", Reason::EndpointWithoutIdentity),
    (Resource::Services, "shop/external", "shop/external", Reason::ServiceExternalName),
];

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mesh-types/tests/golden").join(file)
}

/// Every object of `cluster-a`, as the API server would send it.
fn objects() -> Vec<Value> {
    let mut files: Vec<_> =
        std::fs::read_dir(golden("cluster-a")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let parse = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_yaml_ng::Deserializer::from_str(&text)
            .map(|document| Value::deserialize(document).unwrap())
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(parse).collect()
}

fn event<T: DeserializeOwned>(object: Value) -> Event<T> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = ObjectKey::new(&text("namespace"), &text("name"));
    Event::Applied { key, object: serde_json::from_value(object).unwrap() }
}

fn input(object: Value) -> Input {
    match object["kind"].as_str().unwrap() {
        "Namespace" => Input::Namespace(event(object)),
        "CiliumNode" => Input::CiliumNode(event(object)),
        "CiliumIdentity" => Input::CiliumIdentity(event(object)),
        "CiliumEndpoint" => Input::CiliumEndpoint(event(object)),
        "Service" => Input::Service(event(object)),
        "EndpointSlice" => Input::EndpointSlice(event(object)),
        "ServiceExport" => Input::ServiceExport(event(object)),
        other => panic!("unexpected {other}"),
    }
}

fn exported(objects: impl Iterator<Item = Value>) -> Exporter {
    let mut exporter = Exporter::new(Settings {
        local: LocalCluster::new("prod-eu", 7, 255).unwrap(),
        default_global_namespace: true,
        proxy_name: String::new(),
        sources: Sources { cilium: true, endpoint_slices: false, service_exports: true, services: true },
    });
    for object in objects {
        exporter.apply(input(object));
    }
    exporter
}

fn state(version: &str, resource: Resource) -> BTreeMap<String, String> {
    let prefix = resource.prefix(Form::State, &"prod-eu".parse().unwrap());
    let text = std::fs::read_to_string(golden(&format!("{version}/state.tsv"))).unwrap();
    let lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let entry = |columns: Vec<&str>| {
        let name = columns[0].strip_prefix(&prefix)?;
        let value = match columns[2].strip_prefix("base64:") {
            Some(binary) => message(name, &STANDARD.decode(binary).unwrap()),
            None => columns[2].to_owned(),
        };
        Some((name.to_owned(), value))
    };
    lines.filter_map(entry).collect()
}

/// The bytes inside of a slice's frame, readably: two encoders do not write one frame alike.
fn message(name: &str, value: &[u8]) -> String {
    let local = LocalCluster::new("us-east", 9, 255).unwrap();
    let config = ClusterConfig { id: 7, ..ClusterConfig::default() };
    let peer = Peer::accept(&local, &"prod-eu".parse().unwrap(), &config).unwrap();
    let slice = ClusterEndpointSlice::decode(name, value, &peer).unwrap();
    slice.message().escape_ascii().to_string()
}

fn written(exporter: &Exporter, resource: Resource) -> BTreeMap<String, String> {
    let text = |(name, value): (std::sync::Arc<str>, bytes::Bytes)| {
        let value = match resource {
            Resource::EndpointSlices => message(&name, &value),
            Resource::Nodes
            | Resource::Ip
            | Resource::Identities
            | Resource::Services
            | Resource::ServiceExports => String::from_utf8(value.to_vec()).unwrap(),
        };
        (name.to_string(), value)
    };
    exporter.desired(resource).map(text).collect()
}

#[test]
fn the_bytes_are_those_of_cilium_1_20() {
    let exporter = exported(objects().into_iter());
    let mut compared = 0;
    for resource in Resource::ALL {
        let mut expected = state("v1.20", resource);
        for (_, name, ..) in DIFFERENCES.iter().filter(|(of, ..)| *of == resource) {
            assert!(expected.remove(*name).is_some(), "Cilium does not write {name} any more");
        }
        compared += expected.len();
        let written = written(&exporter, resource);
        for (name, value) in &expected {
            assert_eq!(written.get(name), Some(value), "{resource} {name}");
        }
        let ours: Vec<_> = written.keys().filter(|name| !expected.contains_key(*name)).collect();
        assert!(ours.is_empty(), "{resource}: Cilium does not write {ours:?}");
    }
    assert!(compared > 20, "only {compared} keys were compared");
}

#[test]
fn what_is_left_out_on_purpose_has_its_reason() {
    let exporter = exported(objects().into_iter());
    for (_, name, object, reason) in DIFFERENCES {
        let rows: Vec<_> = exporter.withheld().filter(|row| row.object == object).collect();
        assert_eq!(rows.iter().map(|row| row.reason).collect::<Vec<_>>(), [reason], "{name}: {rows:?}");
    }
}

#[test]
fn the_order_of_the_objects_does_not_matter() {
    let one = exported(objects().into_iter());
    let other = exported(objects().into_iter().rev());
    for resource in Resource::ALL {
        assert_eq!(written(&one, resource), written(&other, resource));
    }
}
