//! What the clusters of the demo hold: a shop, with backends that are addresses and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The namespace.
pub(crate) const NAMESPACE: &str = "shop";
/// A global service that every cluster has.
pub(crate) const CART: &str = "shop/cart";
/// The same, and each cluster prefers its own backends.
pub(crate) const PAYMENTS: &str = "shop/payments";
/// A service that only the second cluster has, and exports by a ServiceExport.
pub(crate) const ORDERS: &str = "shop/orders";

/// The Service in front of a store.
pub(crate) const STORE: &str = "clustermesh-apiserver";
/// The Secret with the store's certificate.
pub(crate) const STORE_CERTIFICATE: &str = "clustermesh-apiserver-server-cert";
/// The Secret with the certificate by which other stores are read.
pub(crate) const READER_CERTIFICATE: &str = "clustermesh-apiserver-remote-cert";

/// The annotation that makes a service global.
pub(crate) const GLOBAL: &str = "service.cilium.io/global";
/// The annotation that says whose backends are preferred.
pub(crate) const AFFINITY: &str = "service.cilium.io/affinity";

/// Addresses of the backends of a service in the cluster of that id.
pub(crate) fn backends(service: &str, id: u8) -> Vec<String> {
    let first = match service {
        CART => 11,
        PAYMENTS => 21,
        _ => 31,
    };
    (first..first + 2).map(|host| format!("10.{id}.0.{host}")).collect()
}

/// The address range of services in the cluster of that id.
pub(crate) fn service_cidr(id: u8) -> String {
    format!("10.{}.0.0/16", 100 + id)
}

/// The ConfigMap by which a cluster says what it is.
pub(crate) fn config(cluster: &str, id: u8) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "isthmus-config"},
        "data": {"cluster-name": cluster, "cluster-id": id.to_string()},
    })
}

/// A Secret with a certificate: the authority's, its own, and its key.
pub(crate) fn tls(name: &str, texts: &[String; 3]) -> Value {
    let [ca, certificate, key] = texts.each_ref().map(|text| STANDARD.encode(text));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name},
        "data": {"ca.crt": ca, "tls.crt": certificate, "tls.key": key},
    })
}

/// The Service in front of the store at a port.
pub(crate) fn store(port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": STORE},
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "ports": [{"name": "etcd", "protocol": "TCP", "port": port}],
        },
    })
}

/// Where it is reached.
pub(crate) fn store_status() -> Value {
    json!({"status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}})
}

/// A Namespace.
pub(crate) fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
}

/// The one Node of a cluster, without its status.
pub(crate) fn node(cluster: &str, id: u8) -> Value {
    let name = format!("{cluster}-1");
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": format!("10.{id}.0.0/24"), "podCIDRs": [format!("10.{id}.0.0/24")]},
    })
}

/// Its addresses.
pub(crate) fn node_status(id: u8) -> Value {
    json!({"status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.{id}.1")}]}})
}

/// A pod behind a service, without its status.
pub(crate) fn pod(cluster: &str, service: &str, number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{}-{number}", short(service)),
            "namespace": NAMESPACE,
            "labels": {"app": short(service)},
        },
        "spec": {"nodeName": format!("{cluster}-1"), "containers": [{"name": "main", "image": "example.com/none"}]},
    })
}

/// Its address.
pub(crate) fn pod_status(address: &str, id: u8) -> Value {
    json!({"status": {
        "phase": "Running",
        "hostIP": format!("192.168.{id}.1"),
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }})
}

/// A Service without a selector: its EndpointSlices are written, not derived.
pub(crate) fn service(service: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": short(service), "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
    })
}

/// The EndpointSlice of a service with these backends.
pub(crate) fn slice(service: &str, backends: &[String]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-1", short(service)),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": short(service)},
        },
        "addressType": "IPv4",
        "endpoints": endpoints(backends),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    })
}

/// The `endpoints` of a slice.
pub(crate) fn endpoints(backends: &[String]) -> Value {
    backends.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect()
}

/// A ServiceExport.
pub(crate) fn export(service: &str) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": {"name": short(service), "namespace": NAMESPACE},
    })
}

/// The name without the namespace.
pub(crate) fn short(service: &str) -> &str {
    service.split_once('/').map_or(service, |(_namespace, name)| name)
}

/// Whether the controllers made it, for an import.
pub(crate) fn is_derived(service: &str) -> bool {
    short(service).starts_with("derived-")
}
