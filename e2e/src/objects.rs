//! Kubernetes objects as a network plugin and the controllers of a cluster would write them, from what the bed laid out.
//!
//! No controller runs beside the API servers, so a test writes what it needs. Each function gives the plain form, to be
//! changed as JSON before [`Kubectl::apply_object`](crate::Kubectl::apply_object).

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::{Node, Pod};

/// A Namespace.
#[must_use]
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// The CiliumNode of a node, with all its addresses and pod ranges.
#[must_use]
pub fn cilium_node(node: &Node) -> Value {
    let (internal, internal6) = node.internal_addresses();
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": node.name()},
        "spec": {
            "addresses": [
                {"type": "InternalIP", "ip": node.address()},
                {"type": "InternalIP", "ip": node.host().address6()},
                {"type": "CiliumInternalIP", "ip": internal},
                {"type": "CiliumInternalIP", "ip": internal6},
            ],
            "ipam": {"podCIDRs": node.pod_cidrs()},
        },
    })
}

/// The Node of a node. Its addresses are a status, which is written apart: by
/// [`Kubectl::patch_status`](crate::Kubectl::patch_status).
#[must_use]
pub fn node(node: &Node) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name(), "labels": {"kubernetes.io/hostname": node.name()}},
        "spec": {"podCIDR": node.pod_cidrs()[0], "podCIDRs": node.pod_cidrs()},
        "status": {"addresses": [
            {"type": "InternalIP", "address": node.address()},
            {"type": "InternalIP", "address": node.host().address6()},
            {"type": "Hostname", "address": node.name()},
        ]},
    })
}

/// The Pod of a pod on `node`, running one container; its addresses are a status, which is written apart, as with [`node`].
#[must_use]
pub fn pod(pod: &Pod, node: &Node, namespace: &str, labels: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": namespace, "labels": map(labels)},
        "spec": {"nodeName": node.name(), "containers": [{"name": "main", "image": "example.com/none"}]},
        "status": {
            "phase": "Running",
            "hostIP": node.address(),
            "hostIPs": [{"ip": node.address()}],
            "podIP": pod.address(),
            "podIPs": [{"ip": pod.address()}, {"ip": pod.address6()}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// The CiliumIdentity of all pods with these labels in a namespace; `labels` without their source, `k8s:`.
#[must_use]
pub fn cilium_identity(id: u32, cluster: &str, namespace: &str, labels: &[(&str, &str)]) -> Value {
    let mut all: Map<_, _> = labels.iter().map(|(key, value)| (format!("k8s:{key}"), json!(value))).collect();
    all.insert("k8s:io.cilium.k8s.policy.cluster".to_owned(), json!(cluster));
    all.insert("k8s:io.kubernetes.pod.namespace".to_owned(), json!(namespace));
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": id.to_string()},
        "security-labels": all,
    })
}

/// The CiliumEndpoint of a pod.
#[must_use]
pub fn cilium_endpoint(pod: &Pod, namespace: &str, identity: u32) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEndpoint",
        "metadata": {"name": pod.name(), "namespace": namespace},
        "status": {
            "id": 1000,
            "identity": {"id": identity},
            "networking": {
                "node": pod.node_address(),
                "addressing": [{"ipv4": pod.address(), "ipv6": pod.address6()}],
            },
            "state": "ready",
        },
    })
}

/// The CiliumEndpointSlice of some pods, which the kind keeps at its top level.
#[must_use]
pub fn cilium_endpoint_slice(name: &str, namespace: &str, pods: &[(&Pod, i64)]) -> Value {
    let endpoint = |(pod, identity): &(&Pod, i64)| {
        json!({
            "name": pod.name(),
            "id": identity,
            "networking": {
                "node": pod.node_address(),
                "addressing": [{"ipv4": pod.address(), "ipv6": pod.address6()}],
            },
        })
    };
    json!({
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumEndpointSlice",
        "metadata": {"name": name},
        "namespace": namespace,
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A Service with one port, `http` over TCP, and no selector. It is global with the annotation
/// `service.cilium.io/global: "true"`.
#[must_use]
pub fn service(namespace: &str, name: &str, port: u16, annotations: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": map(annotations)},
        "spec": {"ports": [{"name": "http", "protocol": "TCP", "port": port}]},
    })
}

/// An EndpointSlice of a service: ready backends of one IP family, `http` over TCP on `port`.
#[must_use]
pub fn endpoint_slice(namespace: &str, service: &str, name: &str, backends: &[IpAddr], port: u16) -> Value {
    let family = if backends.iter().any(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    let endpoint = |address: &IpAddr| json!({"addresses": [address], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "endpoints": backends.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": port}],
    })
}

/// A ServiceExport.
#[must_use]
pub fn service_export(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": {"name": name, "namespace": namespace},
    })
}

fn map(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>().into()
}
