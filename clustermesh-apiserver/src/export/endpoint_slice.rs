//! EndpointSlice to the slice of Cilium 1.20.

use std::collections::BTreeMap;

use kube_watch::ObjectKey;
use mesh_types::{
    ClusterEndpointSlice, LocalCluster, Reason, Rejection, SERVICE_NAME_LABEL, SliceConditions,
    SliceEndpoint, SliceHints, SlicePort, SliceZone,
};
use serde::Deserialize;

use super::object::{Metadata, nullable};
use super::service::Service;
use super::unit::Unit;

/// EndpointSlice: who maintains it.
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Controllers whose EndpointSlices hold what other clusters exported. To export that again would send it round the mesh for ever.
pub(super) const IMPORTERS: [&str; 1] = ["endpointslice-mesh-controller.cilium.io"];

/// An EndpointSlice, as far as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    address_type: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) endpoints: Vec<Backend>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<BackendPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Backend {
    #[serde(deserialize_with = "nullable")]
    pub(super) addresses: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) conditions: Conditions,
    pub(super) hostname: Option<String>,
    node_name: Option<String>,
    pub(super) zone: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) deprecated_topology: BTreeMap<String, String>,
    pub(super) hints: Option<Hints>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Hints {
    #[serde(deserialize_with = "nullable")]
    pub(super) for_zones: Vec<Zone>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Zone {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BackendPort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i32>,
    app_protocol: Option<String>,
}

impl EndpointSlice {
    /// The Service that it belongs to.
    pub(crate) fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// What keeps a slice from being exported in whatever format.
    pub(super) fn refusal(&self) -> Option<Rejection> {
        let manager = self.metadata.labels.get(MANAGED_BY_LABEL).map_or("", String::as_str);
        if IMPORTERS.contains(&manager) {
            let what = format!("EndpointSlice is managed by {manager}");
            return Some(Rejection::new(Reason::EndpointsImported, what));
        }
        (self.address_type != "IPv4" && self.address_type != "IPv6").then(|| {
            let what = format!("EndpointSlice has addresses of type {:?}", self.address_type);
            Rejection::new(Reason::AddressTypeUnsupported, what)
        })
    }
}

/// The value of a slice, with all its endpoints whatever they can take, and what of it is left out.
///
/// # Errors
/// Why it is not exported at all, whatever its Service is.
pub fn convert(
    local: &LocalCluster,
    object: &ObjectKey,
    slice: &EndpointSlice,
) -> Result<(ClusterEndpointSlice, Vec<Rejection>), Rejection> {
    if let Some(refused) = slice.refusal() {
        return Err(refused);
    }
    let mut value = ClusterEndpointSlice {
        cluster: local.name.to_string(),
        cluster_id: local.id.get(),
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        labels: slice.metadata.labels.clone(),
        annotations: slice.metadata.annotations.clone(),
        address_type: slice.address_type.clone(),
        endpoints: Vec::new(),
        ports: slice.ports.iter().map(port).collect(),
    };
    let mut withheld = Vec::new();
    for backend in &slice.endpoints {
        // Readers refuse a whole slice for one address of another kind.
        let (good, bad): (Vec<_>, Vec<_>) =
            backend.addresses.iter().cloned().partition(|address| value.has_family_of(address));
        let none_left = good.is_empty() && !bad.is_empty();
        withheld.extend(bad.iter().map(|bad| {
            let what = format!("{bad:?} is no {} address", slice.address_type);
            Rejection::new(Reason::AddressInvalid, what)
        }));
        if !none_left {
            value.endpoints.push(endpoint(backend, good));
        }
    }
    Ok((value, withheld))
}

fn endpoint(backend: &Backend, addresses: Vec<String>) -> SliceEndpoint {
    let Conditions { ready, serving, terminating } = backend.conditions;
    let zones = |hints: &Hints| SliceHints {
        for_zones: hints.for_zones.iter().map(|zone| SliceZone { name: zone.name.clone() }).collect(),
    };
    SliceEndpoint {
        addresses,
        conditions: SliceConditions { ready, serving, terminating },
        hostname: backend.hostname.clone(),
        deprecated_topology: backend.deprecated_topology.clone(),
        node_name: backend.node_name.clone(),
        zone: backend.zone.clone(),
        hints: backend.hints.as_ref().map(zones),
    }
}

fn port(port: &BackendPort) -> SlicePort {
    SlicePort {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    }
}

/// What a slice contributes: nothing unless its Service goes out, and for the reason that the Service's own row tells.
pub(crate) fn unit(
    local: &LocalCluster,
    proxy_name: &str,
    object: &ObjectKey,
    (slice, service): (&EndpointSlice, &Service),
) -> Option<Unit> {
    service.exported(proxy_name).ok()?;
    let (value, withheld) = convert(local, object, slice).ok()?;
    Some(Unit::of(Some(&object.namespace), &object.to_string(), value.encode()).withholding(withheld))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_family_stops_only_its_endpoint() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}, {"addresses": ["x", "10.0.0.2"]}],
        }))
        .unwrap();
        let local = LocalCluster::new("prod-eu", 7, 255).unwrap();
        let (value, withheld) = convert(&local, &ObjectKey::new("shop", "cart-1"), &slice).unwrap();
        let addresses: Vec<_> = value.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).collect();
        assert_eq!(addresses, ["10.0.0.1", "10.0.0.2"]);
        let reasons: Vec<_> = withheld.iter().map(|rejection| rejection.reason).collect();
        assert_eq!(reasons, [Reason::AddressInvalid; 2]);
    }
}
