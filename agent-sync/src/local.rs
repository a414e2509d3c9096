//! Objects of the local Kubernetes API, as far as the agent reads them. Pure.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kube_watch::DecodeError;
use mesh_types::annotation::{self, Affinity};
use mesh_types::{Reason, WIREGUARD_KEY_ANNOTATION};
use serde::Deserialize;

use crate::services::{
    Backend, BackendState, LocalService, LocalSlice, Names, Protocol, ServiceName, ServicePort,
};

pub use watch::Seen;
pub(crate) use watch::{NodesToSee, cilium_nodes, nodes, services, slices};

/// EndpointSlice: the Service that it belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// EndpointSlice: who maintains it.
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Writes slices of other clusters' backends, which the agent has from the store, with their cluster.
const IMPORTER: &str = "endpointslice-mesh-controller.cilium.io";
/// Service: it has no cluster IP.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Service: another proxy than the cluster's own serves it.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// How long `sessionAffinity: ClientIP` lasts by default.
const CLIENT_IP_TIMEOUT: Duration = Duration::from_secs(10_800);

/// A node of this cluster, as Kubernetes knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeNode {
    /// Addresses of type `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// Pod CIDRs, those of its pools among them.
    pub pod_cidrs: Vec<IpNet>,
    /// The published WireGuard key, if there is one.
    pub wireguard_key: Option<String>,
}

impl KubeNode {
    /// What it uses: addresses and pod CIDRs.
    pub fn prefixes(&self) -> Vec<IpNet> {
        self.addresses.iter().map(|ip| IpNet::from(*ip)).chain(self.pod_cidrs.iter().copied()).collect()
    }
}

/// Reads a Service.
///
/// # Errors
/// The object does not have the shape of a Service.
pub fn service(json: &str) -> Result<LocalService, DecodeError> {
    let Object { metadata, spec } = serde_json::from_str::<Object<ServiceSpec>>(json)?;
    let annotations: annotation::Annotations = metadata.annotations.0;
    let labels = metadata.labels.0;
    let global = annotation::is_global(&annotations);
    let (affinity, affinity_reason) =
        if global { Affinity::read(&annotations) } else { (Affinity::None, None) };
    let headless = spec.cluster_ip.0 == "None" || labels.contains_key(HEADLESS_LABEL);
    let no_frontends = if spec.kind.0 == "ExternalName" {
        Some(Reason::ServiceExternalName)
    } else if headless {
        Some(Reason::ServiceHeadless)
    } else {
        labels.contains_key(PROXY_NAME_LABEL).then_some(Reason::ServiceOtherProxy)
    };
    let mut cluster_ips: Vec<IpAddr> = spec.cluster_ips.0.iter().filter_map(|ip| ip.parse().ok()).collect();
    if cluster_ips.is_empty() {
        cluster_ips.extend(spec.cluster_ip.0.parse::<IpAddr>());
    }
    let port = |port: &Port| {
        let protocol = Protocol::read(&port.protocol.0)?;
        let number = port.port.0.filter(|number| *number != 0)?;
        Some(ServicePort { name: port.name.0.as_str().into(), protocol, port: number })
    };
    let timeout = spec.session_affinity_config.0.client_ip.0.timeout_seconds.0;
    let timeout = timeout.map_or(CLIENT_IP_TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
    Ok(LocalService {
        global,
        not_shared: annotation::is_shared(&annotations).err(),
        affinity,
        affinity_reason,
        cluster_ips,
        ports: spec.ports.0.iter().filter_map(port).collect(),
        only_local_node: spec.internal_traffic_policy.0 == "Local",
        client_ip_affinity: (spec.session_affinity.0 == "ClientIP").then_some(timeout),
        no_frontends,
    })
}

/// Reads an EndpointSlice of `namespace`; `None` if it belongs to no Service, or holds what other clusters exported.
///
/// # Errors
/// The object does not have the shape of an EndpointSlice.
pub fn slice(namespace: &str, json: &str) -> Result<Option<LocalSlice>, DecodeError> {
    let Slice { metadata, endpoints, ports } = serde_json::from_str(json)?;
    let label = |key: &str| metadata.labels.0.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let (Some(service), false) = (label(SERVICE_NAME_LABEL), label(MANAGED_BY_LABEL) == Some(IMPORTER))
    else {
        return Ok(None);
    };
    let mut reasons = BTreeSet::new();
    let mut sockets: BTreeMap<(u16, Protocol), Vec<&str>> = BTreeMap::new();
    for port in &ports.0 {
        match (Protocol::read(&port.protocol.0), port.port.0) {
            (Some(protocol), Some(number)) if number != 0 => {
                sockets.entry((number, protocol)).or_default().push(&port.name.0);
            }
            _unusable => {
                reasons.insert(Reason::PortUnusable);
            }
        }
    }
    let mut names = Names::default();
    let sockets: Vec<_> =
        sockets.into_iter().map(|(socket, port_names)| (socket, names.shared(port_names))).collect();
    let mut backends = Vec::new();
    for endpoint in &endpoints.0 {
        let Conditions { ready, serving, terminating } = &endpoint.conditions.0;
        let state = BackendState::of_conditions(ready.0, serving.0, terminating.0);
        let node: Option<Arc<str>> =
            Some(endpoint.node_name.0.as_str()).filter(|node| !node.is_empty()).map(Arc::from);
        for address in &endpoint.addresses.0 {
            let Ok(address) = address.parse::<IpAddr>() else {
                reasons.insert(Reason::AddressInvalid);
                continue;
            };
            backends.extend(sockets.iter().map(|((port, protocol), port_names)| Backend {
                address: address.to_canonical(),
                port: *port,
                protocol: *protocol,
                port_names: Arc::clone(port_names),
                state,
                unhealthy: false,
                node: node.clone(),
            }));
        }
    }
    Ok(Some(LocalSlice { service: ServiceName::new(namespace, service), backends, reasons }))
}

/// Reads a Node or a CiliumNode.
///
/// # Errors
/// The object has the shape of neither.
pub fn kube_node(json: &str) -> Result<KubeNode, DecodeError> {
    let NodeObject { metadata, spec, status } = serde_json::from_str(json)?;
    let usable = |kind: &str| kind == "InternalIP" || kind == "ExternalIP";
    let plain = status.0.addresses.0.iter().map(|address| (&address.kind.0, &address.address.0));
    let cilium = spec.0.addresses.0.iter().map(|address| (&address.kind.0, &address.ip.0));
    let addresses = plain.chain(cilium).filter(|(kind, _)| usable(kind));
    let ipam = &spec.0.ipam.0;
    let pools = ipam.pools.0.allocated.0.iter().flat_map(|pool| &pool.cidrs.0);
    let cidrs = spec.0.pod_cidrs.0.iter().chain(&ipam.pod_cidrs.0).chain(pools);
    Ok(KubeNode {
        addresses: addresses.filter_map(|(_, ip)| ip.parse().ok()).collect(),
        pod_cidrs: cidrs.filter_map(|cidr| cidr.parse().ok()).collect(),
        wireguard_key: metadata.annotations.0.get(WIREGUARD_KEY_ANNOTATION).cloned(),
    })
}

/// A field that may be absent or `null`; both are its default.
#[derive(Clone, Debug, Default)]
struct Lax<T>(T);

impl<'de, T: Default + Deserialize<'de>> Deserialize<'de> for Lax<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Lax(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    labels: Lax<BTreeMap<String, String>>,
    annotations: Lax<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Object<S> {
    metadata: Metadata,
    spec: S,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Lax<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Lax<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Lax<Vec<String>>,
    ports: Lax<Vec<Port>>,
    internal_traffic_policy: Lax<String>,
    session_affinity: Lax<String>,
    session_affinity_config: Lax<SessionAffinityConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Lax<ClientIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Lax<Option<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Lax<String>,
    protocol: Lax<String>,
    port: Lax<Option<u16>>,
}

#[derive(Debug, Deserialize)]
struct Slice {
    metadata: Metadata,
    #[serde(default)]
    endpoints: Lax<Vec<Endpoint>>,
    #[serde(default)]
    ports: Lax<Vec<Port>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint {
    addresses: Lax<Vec<String>>,
    conditions: Lax<Conditions>,
    node_name: Lax<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Lax<Option<bool>>,
    serving: Lax<Option<bool>>,
    terminating: Lax<Option<bool>>,
}

#[derive(Debug, Deserialize)]
struct NodeObject {
    metadata: Metadata,
    #[serde(default)]
    spec: Lax<NodeSpec>,
    #[serde(default)]
    status: Lax<NodeStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Lax<Vec<String>>,
    addresses: Lax<Vec<CiliumAddress>>,
    ipam: Lax<Ipam>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Lax<Vec<String>>,
    pools: Lax<Pools>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pools {
    allocated: Lax<Vec<Allocated>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Allocated {
    cidrs: Lax<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CiliumAddress {
    #[serde(rename = "type")]
    kind: Lax<String>,
    ip: Lax<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Lax<Vec<NodeAddress>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    #[serde(rename = "type")]
    kind: Lax<String>,
    address: Lax<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_service(json: &serde_json::Value) -> LocalService {
        service(&json.to_string()).unwrap()
    }

    #[test]
    fn a_service_is_read_with_both_families_and_its_annotations() {
        let read = read_service(&json!({
            "metadata": {"name": "cart", "annotations": {"service.cilium.io/global": "true",
                "service.cilium.io/affinity": "nearest"}},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd96::10"],
                "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web"},
                    {"name": "odd", "port": 81, "protocol": "ICMP"}, {"port": 53, "protocol": "UDP"}]},
        }));
        assert!(read.global && read.only_local_node && read.not_shared.is_none());
        assert_eq!((read.affinity, read.affinity_reason), (Affinity::None, Some(Reason::AffinityUnknown)));
        assert_eq!(read.cluster_ips.len(), 2);
        let ports: Vec<_> = read.ports.iter().map(|port| (&*port.name, port.protocol, port.port)).collect();
        assert_eq!(ports, [("http", Protocol::Tcp, 80), ("", Protocol::Udp, 53)]);
        assert_eq!(read.client_ip_affinity, Some(Duration::from_secs(60)));
    }

    #[test]
    fn services_without_frontends_say_why() {
        let cases = [
            (json!({"spec": {"clusterIP": "None"}}), Some(Reason::ServiceHeadless)),
            (
                json!({"metadata": {"labels": {HEADLESS_LABEL: ""}}, "spec": {"clusterIP": "10.0.0.1"}}),
                Some(Reason::ServiceHeadless),
            ),
            (json!({"spec": {"type": "ExternalName"}}), Some(Reason::ServiceExternalName)),
            (json!({"metadata": {"labels": {PROXY_NAME_LABEL: "x"}}}), Some(Reason::ServiceOtherProxy)),
            (json!({"spec": {"clusterIP": "10.0.0.1", "ports": null}}), None),
        ];
        for (mut object, expected) in cases {
            let fields = object.as_object_mut().unwrap();
            fields.entry("metadata").or_insert(json!({"labels": null}));
            fields.entry("spec").or_insert(json!({}));
            assert_eq!(read_service(&object).no_frontends, expected, "{object}");
        }
    }

    #[test]
    fn affinity_means_nothing_without_global() {
        let read = read_service(&json!({
            "metadata": {"annotations": {"service.cilium.io/affinity": "local"}}, "spec": {},
        }));
        assert_eq!((read.affinity, read.not_shared), (Affinity::None, Some(Reason::ServiceNotGlobal)));
    }

    fn slice_of(labels: &serde_json::Value) -> Option<LocalSlice> {
        let json = json!({
            "metadata": {"labels": labels}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.0.1"], "conditions": {"ready": true}, "nodeName": "node-1"},
                {"addresses": ["10.1.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["not an address"]},
            ],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "alias", "port": 8080},
                {"name": "none", "port": null}],
        });
        slice("shop", &json.to_string()).unwrap()
    }

    #[test]
    fn a_slice_gives_endpoints_times_ports_and_names_what_it_cannot_use() {
        let read = slice_of(&json!({SERVICE_NAME_LABEL: "cart"})).unwrap();
        assert_eq!(read.service, ServiceName::new("shop", "cart"));
        assert_eq!(read.reasons, [Reason::AddressInvalid, Reason::PortUnusable].into());
        let backends: Vec<_> = read
            .backends
            .iter()
            .map(|b| (b.address.to_string(), b.port, b.state, b.node.is_some()))
            .collect();
        assert_eq!(
            backends,
            [
                ("10.1.0.1".to_owned(), 8080, BackendState::Active, true),
                ("10.1.0.2".to_owned(), 8080, BackendState::Terminating, false),
            ]
        );
        assert_eq!(*read.backends[0].port_names, ["alias".into(), "http".into()]);
    }

    #[test]
    fn imported_slices_are_left_out_and_local_mirrors_count() {
        let managed = |by: &str| slice_of(&json!({SERVICE_NAME_LABEL: "cart", MANAGED_BY_LABEL: by}));
        assert_eq!(managed(IMPORTER), None);
        assert!(managed("endpointslice-local-mcsapi-controller.cilium.io").is_some());
        assert!(managed("endpointslice-controller.k8s.io").is_some());
        assert_eq!(slice_of(&json!(null)), None, "no Service");
    }

    #[test]
    fn a_node_is_read_from_either_kind() {
        let node = kube_node(
            &json!({
                "metadata": {"annotations": {WIREGUARD_KEY_ANNOTATION: "key"}},
                "spec": {"podCIDRs": ["10.1.0.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "Hostname", "address": "node-1"}]},
            })
            .to_string(),
        )
        .unwrap();
        let cilium = kube_node(
            &json!({
                "metadata": {"annotations": {WIREGUARD_KEY_ANNOTATION: "key"}},
                "spec": {"addresses": [{"type": "InternalIP", "ip": "192.0.2.1"},
                    {"type": "CiliumInternalIP", "ip": "10.1.0.1"}], "ipam": {"podCIDRs": ["10.1.0.0/24"]}},
            })
            .to_string(),
        )
        .unwrap();
        assert_eq!(node, cilium);
        let multi_pool = json!({
            "metadata": {},
            "spec": {"ipam": {"pools": {"requested": [{"pool": "default"}],
                "allocated": [{"pool": "default", "cidrs": ["10.1.0.0/24", "fd00:1::/64"]}, {"cidrs": null}]}}},
        });
        let pools: Vec<_> = ["10.1.0.0/24", "fd00:1::/64"].map(|cidr| cidr.parse().unwrap()).into();
        assert_eq!(kube_node(&multi_pool.to_string()).unwrap().pod_cidrs, pools);
        assert_eq!(node.wireguard_key.as_deref(), Some("key"));
        assert_eq!((node.addresses.len(), node.pod_cidrs.len()), (1, 1));
    }

    #[test]
    fn another_shape_is_an_error_and_not_an_empty_object() {
        for text in ["{}", r#"{"metadata":{}}"#, r#"{"metadata":{},"spec":{"ports":7}}"#, "7"] {
            assert!(service(text).is_err(), "{text}");
        }
        assert!(slice("shop", r#"{"metadata":{},"endpoints":{}}"#).is_err());
    }
}
