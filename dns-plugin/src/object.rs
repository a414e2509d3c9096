//! Kubernetes objects, as far as DNS goes; pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_watch::{DecodeError, RawObject};
use mesh_types::Reason;
use serde::Deserialize;

use crate::service::{Endpoint, Import, ImportKind, Port, Slice};

/// The import that a slice belongs to.
pub(crate) const SERVICE_NAME: &str = "multicluster.kubernetes.io/service-name";
/// The cluster that the endpoints of a slice are in.
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";

/// A decoded object, and what of it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded<T> {
    pub(crate) object: T,
    pub(crate) skipped: BTreeMap<Reason, usize>,
}

/// Reads a ServiceImport; v1alpha1 and v1beta1 have the same shape.
pub(crate) fn import(raw: &RawObject<'_>) -> Result<Decoded<Import>, DecodeError> {
    #[derive(Deserialize)]
    struct Object {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        #[serde(rename = "type")]
        kind: Kind,
        #[serde(default)]
        ips: Option<Vec<String>>,
        #[serde(default)]
        ports: Option<Vec<WirePort>>,
    }
    #[derive(Deserialize)]
    enum Kind {
        #[serde(rename = "ClusterSetIP")]
        ClusterSetIp,
        Headless,
    }
    let spec = raw.parse::<Object>()?.spec;
    let mut skipped = BTreeMap::new();
    let kind = match spec.kind {
        Kind::ClusterSetIp => ImportKind::ClusterSetIp(addresses(spec.ips.unwrap_or_default(), &mut skipped)),
        Kind::Headless => ImportKind::Headless,
    };
    Ok(Decoded { object: Import { kind, ports: ports(spec.ports, &mut skipped) }, skipped })
}

/// Reads an EndpointSlice: the name of its import, and its content. `None` if it has no source cluster.
pub(crate) fn slice(raw: &RawObject<'_>) -> Result<Decoded<Option<(String, Slice)>>, DecodeError> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
        #[serde(default)]
        ports: Option<Vec<WirePort>>,
        #[serde(default)]
        endpoints: Option<Vec<WireEndpoint>>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    struct WireEndpoint {
        #[serde(default)]
        addresses: Vec<String>,
        #[serde(default)]
        conditions: Option<Conditions>,
        #[serde(default)]
        hostname: Option<String>,
    }
    #[derive(Default, Deserialize)]
    struct Conditions {
        #[serde(default)]
        ready: Option<bool>,
    }
    let mut object: Object = raw.parse()?;
    let mut skipped = BTreeMap::new();
    let mut label = |name| object.metadata.labels.remove(name).filter(|value| !value.is_empty());
    let (Some(service), Some(cluster)) = (label(SERVICE_NAME), label(SOURCE_CLUSTER)) else {
        return Ok(Decoded { object: None, skipped: BTreeMap::from([(Reason::FieldMissing, 1)]) });
    };
    let mut endpoints = Vec::new();
    for endpoint in object.endpoints.unwrap_or_default() {
        // An absent condition means ready; `serving` and `terminating` are not asked.
        if endpoint.conditions.unwrap_or_default().ready == Some(false) {
            *skipped.entry(Reason::BackendNotReady).or_default() += 1;
            continue;
        }
        let addresses = addresses(endpoint.addresses, &mut skipped);
        if !addresses.is_empty() {
            let hostname = endpoint.hostname.filter(|hostname| !hostname.is_empty());
            endpoints.push(Endpoint { hostname, addresses });
        }
    }
    let ports = ports(object.ports, &mut skipped);
    let slice = Slice { cluster: cluster.to_ascii_lowercase(), ports, endpoints };
    Ok(Decoded { object: Some((service, slice)), skipped })
}

/// A Namespace exists; nothing of it is read.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a decoding function")]
pub(crate) fn namespace(_raw: &RawObject<'_>) -> Result<(), DecodeError> {
    Ok(())
}

#[derive(Deserialize)]
struct WirePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<i64>,
}

/// The ports that have a number. The schema of imports has no default for the protocol; what is absent is TCP everywhere else.
fn ports(wire: Option<Vec<WirePort>>, skipped: &mut BTreeMap<Reason, usize>) -> Vec<Port> {
    let mut ports = Vec::new();
    for port in wire.unwrap_or_default() {
        // A slice without a number stands for all ports: its addresses resolve, and there is nothing for SRV to say.
        let Some(number) = port.port else { continue };
        match u16::try_from(number) {
            Ok(number) if number > 0 => ports.push(Port {
                name: port.name.unwrap_or_default(),
                protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()).to_ascii_lowercase(),
                number,
            }),
            _ => *skipped.entry(Reason::PortUnusable).or_default() += 1,
        }
    }
    ports
}

fn addresses(wire: Vec<String>, skipped: &mut BTreeMap<Reason, usize>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for text in wire {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_not_an_address) => *skipped.entry(Reason::AddressInvalid).or_default() += 1,
        }
    }
    addresses
}
