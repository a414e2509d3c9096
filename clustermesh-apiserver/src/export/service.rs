//! Service and EndpointSlices to service value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kube_watch::ObjectKey;
use mesh_types::{
    BackendZone, ClusterService, ForZone, L4Addr, LocalCluster, PortMap, Reason, Rejection, annotation,
};
use serde::Deserialize;

use super::endpoint_slice::{Backend, Conditions, EndpointSlice};
use super::object::{Metadata, nullable};
use super::unit::Unit;

/// Service: another proxy than the cluster's own serves it.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Service: it has no cluster IP.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Zone of a backend in slices of old controllers.
const ZONE_TOPOLOGY_LABEL: &str = "topology.kubernetes.io/zone";
/// Protocols that load balancing knows.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A Service, as far as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    pub(crate) metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    pub(crate) spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub(crate) cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub(crate) cluster_ips: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) ports: Vec<ServicePort>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) session_affinity: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) session_affinity_config: AffinityConfig,
    #[serde(deserialize_with = "nullable")]
    pub(crate) ip_families: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) internal_traffic_policy: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) traffic_distribution: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServicePort {
    #[serde(deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) protocol: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) app_protocol: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) port: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct AffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    pub(crate) client_ip: ClientIp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClientIp {
    pub(crate) timeout_seconds: Option<i32>,
}

impl Service {
    /// Forgets the annotations that say nothing about the mesh: some hold whole manifests.
    pub fn trimmed(mut self) -> Self {
        self.metadata.annotations.retain(|key, _| {
            [annotation::GLOBAL, annotation::GLOBAL_ALIAS, annotation::SHARED, annotation::SHARED_ALIAS]
                .contains(&key.as_str())
        });
        self
    }

    /// Whether nothing but backends has an address.
    pub(crate) fn is_headless(&self) -> bool {
        self.metadata.labels.contains_key(HEADLESS_LABEL) || self.spec.cluster_ip.eq_ignore_ascii_case("none")
    }

    /// What keeps a Service from being exported in whatever form.
    pub(crate) fn refusal(&self, proxy_name: &str) -> Option<Rejection> {
        if self.spec.kind == "ExternalName" {
            let what = "a Service of type ExternalName has no backends";
            return Some(Rejection::new(Reason::ServiceExternalName, what));
        }
        let found = self.metadata.labels.get(PROXY_NAME_LABEL).map_or("", String::as_str);
        (found != proxy_name).then(|| {
            let what = format!("label {PROXY_NAME_LABEL} is {found:?}, served here is {proxy_name:?}");
            Rejection::new(Reason::ServiceOtherProxy, what)
        })
    }
}

impl Service {
    /// Why nothing of the Service goes out in whatever format, besides its namespace.
    ///
    /// # Errors
    /// It is not global, not shared, or cannot be exported.
    pub(crate) fn exported(&self, proxy_name: &str) -> Result<(), Rejection> {
        if let Err(reason) = annotation::is_shared(&self.metadata.annotations) {
            let what =
                if reason == Reason::ServiceNotShared { annotation::SHARED } else { annotation::GLOBAL };
            return Err(Rejection::new(reason, format!("annotation {what} is not \"true\"")));
        }
        self.refusal(proxy_name).map_or(Ok(()), Err)
    }
}

/// The value of a Service with its slices (each with its name), and what of them is left out.
///
/// An address in several slices has the ports of the one whose name comes last.
///
/// # Errors
/// Why the Service is not exported at all.
pub fn convert<'a>(
    local: &LocalCluster,
    proxy_name: &str,
    object: &ObjectKey,
    service: &Service,
    slices: impl IntoIterator<Item = (&'a str, &'a EndpointSlice)>,
) -> Result<(ClusterService, Vec<Rejection>), Rejection> {
    service.exported(proxy_name)?;
    let mut backends = Backends::default();
    for (name, slice) in slices {
        match slice.refusal() {
            Some(refused) => backends.withhold(name, refused.reason, &refused.detail),
            None => backends.add(name, slice),
        }
    }
    let value = ClusterService {
        cluster: local.name.to_string(),
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        frontends: frontends(service, &mut backends),
        backends: backends.ports,
        hostnames: backends.hostnames,
        zones: backends.zones,
        labels: service.metadata.labels.clone(),
        selector: service.spec.selector.clone(),
        include_external: true,
        shared: true,
        cluster_id: local.id.get(),
    };
    Ok((value, backends.withheld))
}

pub(crate) fn unit<'a>(
    local: &LocalCluster,
    proxy_name: &str,
    object: &ObjectKey,
    service: &Service,
    slices: impl IntoIterator<Item = (&'a str, &'a EndpointSlice)>,
) -> Unit {
    let namespace = Some(&*object.namespace);
    match convert(local, proxy_name, object, service, slices) {
        Ok((value, withheld)) => {
            Unit::of(namespace, &object.to_string(), value.encode()).withholding(withheld)
        }
        Err(refused) => Unit::refused(namespace, refused),
    }
}

fn frontends(service: &Service, read: &mut Backends) -> BTreeMap<String, PortMap> {
    let spec = &service.spec;
    if service.is_headless() {
        return BTreeMap::new();
    }
    let ips = if spec.cluster_ips.is_empty() {
        std::slice::from_ref(&spec.cluster_ip)
    } else {
        &spec.cluster_ips[..]
    };
    let mut ports = PortMap::new();
    for port in &spec.ports {
        if let Some(address) = read.port("Service", &port.name, &port.protocol, Some(port.port)) {
            ports.insert(port.name.clone(), address);
        }
    }
    let ips = ips.iter().filter(|text| !text.is_empty()).filter_map(|text| read.address("Service", text));
    ips.map(|ip| (ip.to_string(), ports.clone())).collect()
}

/// The backends of a service as they come together from its slices.
#[derive(Default)]
struct Backends {
    ports: BTreeMap<String, PortMap>,
    hostnames: BTreeMap<String, String>,
    zones: BTreeMap<String, BackendZone>,
    withheld: Vec<Rejection>,
}

impl Backends {
    fn add(&mut self, slice_name: &str, slice: &EndpointSlice) {
        let mut ports = PortMap::new();
        for port in &slice.ports {
            let (name, protocol) = (text(&port.name), text(&port.protocol));
            if let Some(address) = self.port(slice_name, name, protocol, port.port) {
                ports.insert(name.to_owned(), address);
            }
        }
        for backend in &slice.endpoints {
            let Conditions { ready, serving, .. } = backend.conditions;
            if !(ready.unwrap_or(true) || serving.unwrap_or(true)) {
                self.withhold(slice_name, Reason::BackendNotReady, &backend.addresses.join(", "));
                continue;
            }
            for text in &backend.addresses {
                if let Some(ip) = self.address(slice_name, text) {
                    self.set(ip.to_string(), backend, ports.clone());
                }
            }
        }
    }

    /// What an earlier slice said of the address is gone, whole.
    fn set(&mut self, ip: String, backend: &Backend, ports: PortMap) {
        let topology = || backend.deprecated_topology.get(ZONE_TOPOLOGY_LABEL).cloned();
        let zone = backend.zone.clone().filter(|zone| !zone.is_empty()).or_else(topology);
        match zone {
            Some(zone) => {
                let hints = backend.hints.iter().flat_map(|hints| &hints.for_zones);
                let hints = hints.map(|zone| ForZone { name: zone.name.clone() });
                self.zones.insert(ip.clone(), BackendZone { zone, for_zones: hints.collect() });
            }
            None => drop(self.zones.remove(&ip)),
        }
        match text(&backend.hostname) {
            "" => drop(self.hostnames.remove(&ip)),
            hostname => drop(self.hostnames.insert(ip.clone(), hostname.to_owned())),
        }
        self.ports.insert(ip, ports);
    }

    fn port(&mut self, of: &str, name: &str, protocol: &str, port: Option<i32>) -> Option<L4Addr> {
        let protocol = if protocol.is_empty() { "TCP" } else { protocol };
        let number = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        match number {
            Some(port) if PROTOCOLS.contains(&protocol) => {
                Some(L4Addr { protocol: protocol.to_owned(), port })
            }
            Some(_) | None => {
                let number = port.map_or_else(|| "no number".to_owned(), |port| port.to_string());
                let what = format!("port {name:?} has {number} and protocol {protocol:?}");
                self.withhold(of, Reason::PortUnusable, &what);
                None
            }
        }
    }

    fn address(&mut self, of: &str, text: &str) -> Option<IpAddr> {
        let ip = text.parse().ok();
        if ip.is_none() {
            self.withhold(of, Reason::AddressInvalid, &format!("{text:?} is no IP address"));
        }
        ip
    }

    fn withhold(&mut self, of: &str, reason: Reason, what: &str) {
        self.withheld.push(Rejection::new(reason, format!("{of}: {what}")));
    }
}

/// A text that may be absent, which is the same as empty here.
fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// The Services and EndpointSlices that exist, and which belong together.
#[derive(Debug, Default)]
pub(crate) struct Services {
    services: BTreeMap<ObjectKey, Service>,
    slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// Service to the names of its slices, in order.
    belongs: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
}

impl Services {
    /// Takes the new state of a Service and returns the former one.
    pub(crate) fn set_service(&mut self, object: &ObjectKey, service: Option<Service>) -> Option<Service> {
        match service {
            Some(service) => self.services.insert(object.clone(), service),
            None => self.services.remove(object),
        }
    }

    /// Takes the new state of a slice and returns the Services that it belonged or belongs to.
    pub(crate) fn set_slice(
        &mut self,
        object: &ObjectKey,
        slice: Option<EndpointSlice>,
    ) -> BTreeSet<ObjectKey> {
        let owner = |slice: &EndpointSlice| {
            slice
                .service()
                .map(|name| ObjectKey { name: name.into(), namespace: Arc::clone(&object.namespace) })
        };
        let now = slice.as_ref().and_then(owner);
        let before = match slice {
            Some(slice) => self.slices.insert(object.clone(), slice),
            None => self.slices.remove(object),
        };
        let before = before.as_ref().and_then(owner);
        if let Some(before) = before.as_ref().filter(|before| now.as_ref() != Some(before))
            && let Some(names) = self.belongs.get_mut(before)
        {
            names.remove(&object.name);
            if names.is_empty() {
                self.belongs.remove(before);
            }
        }
        if let Some(now) = &now {
            self.belongs.entry(now.clone()).or_default().insert(Arc::clone(&object.name));
        }
        before.into_iter().chain(now).collect()
    }

    pub(crate) fn service(&self, object: &ObjectKey) -> Option<&Service> {
        self.services.get(object)
    }

    /// A slice and the Service that it belongs to, if both exist.
    pub(crate) fn slice(&self, object: &ObjectKey) -> Option<(&EndpointSlice, &Service)> {
        let slice = self.slices.get(object)?;
        let owner = ObjectKey { name: slice.service()?.into(), namespace: Arc::clone(&object.namespace) };
        Some((slice, self.services.get(&owner)?))
    }

    /// The names of the slices of a Service.
    pub(crate) fn slice_names(&self, service: &ObjectKey) -> Vec<Arc<str>> {
        self.belongs.get(service).into_iter().flatten().cloned().collect()
    }

    /// The slices of a Service, by name.
    pub(crate) fn slices<'a>(
        &'a self,
        service: &'a ObjectKey,
    ) -> impl Iterator<Item = (&'a str, &'a EndpointSlice)> {
        self.belongs.get(service).into_iter().flatten().filter_map(|name| {
            let object = ObjectKey { namespace: Arc::clone(&service.namespace), name: Arc::clone(name) };
            Some((&**name, self.slices.get(&object)?))
        })
    }
}

#[cfg(test)]
mod tests;
