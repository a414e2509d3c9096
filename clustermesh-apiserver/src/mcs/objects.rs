//! The Kubernetes objects that a plan wants, as JSON, and how they compare with what is there.

use std::collections::{BTreeMap, BTreeSet};

use kube_watch::ObjectKey;
use mesh_types::annotation::GLOBAL;
use mesh_types::{ClusterName, ExportPort, derived_name};
use serde_json::{Map, Value, json};

use super::merge::{Merged, name_among_others, protocol};
use super::offer::Backends;
use super::world::LocalService;

/// Label: the service that an imported slice or derived Service stands for (KEP-1645).
pub(super) const MCS_SERVICE_LABEL: &str = "multicluster.kubernetes.io/service-name";
/// Label: the one cluster whose endpoints a slice holds (KEP-1645).
pub(super) const SOURCE_CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";
/// Annotation of a ServiceImport: its derived Service (mcs-api).
pub(super) const DERIVED_SERVICE_ANNOTATION: &str = "multicluster.kubernetes.io/derived-service";
/// Label: the Service that a slice belongs to (Kubernetes).
pub(super) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label: the controller that owns a slice (Kubernetes).
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Label: the slice belongs to a headless Service (Kubernetes).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Value of [`MANAGED_BY_LABEL`] on our copies of local slices; Cilium's agents and exporters know it.
pub(super) const MANAGED_BY_LOCAL_MIRROR: &str = "endpointslice-local-mcsapi-controller.cilium.io";
/// Value of [`MANAGED_BY_LABEL`] on slices with another cluster's endpoints; Cilium's agents and exporters pass them over.
pub(super) const MANAGED_BY_MESH: &str = "endpointslice-mesh-controller.cilium.io";
/// Makers of slices whose endpoints came from other clusters: copying them would send them round.
pub(super) const EXCLUDED_FROM_MIRROR: [&str; 2] = [MANAGED_BY_MESH, MANAGED_BY_LOCAL_MIRROR];

/// A kind that the controller writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Export,
    Import,
    Service,
    Slice,
}

/// One request to the API server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Create(Kind, Value),
    Replace(Kind, Value),
    /// Replaces the conditions and the like, of exactly the version of the object that it names, if any; the rest of it is
    /// ignored by the server.
    ReplaceStatus(Kind, Value),
    /// Deletes exactly the object of that uid.
    Delete(Kind, ObjectKey, String),
}

/// `metadata.uid` of an object as read.
pub(super) fn uid(object: &Value) -> &str {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}])
}

/// Whether `object` is owned by an object of that kind and name.
pub(super) fn is_owned_by(object: &Value, kind: &str, name: &str) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["kind"] == kind && owner["name"] == name))
}

/// Whether `object` is owned by anything.
pub(super) fn has_owner(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.is_some_and(|owners| !owners.is_empty())
}

/// Name of a merged port on the derived Service and in slices.
fn port_name(merged: &Merged, port: &ExportPort) -> String {
    if merged.ports.len() > 1 { name_among_others(port) } else { port.name.clone() }
}

fn port(port: &ExportPort, name: &str) -> Value {
    let mut object = json!({"protocol": protocol(port), "port": port.port});
    if !name.is_empty() {
        object["name"] = name.into();
    }
    if !port.app_protocol.is_empty() {
        object["appProtocol"] = port.app_protocol.clone().into();
    }
    object
}

fn or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn affinity_config(merged: &Merged) -> Value {
    match merged.affinity_timeout_seconds {
        Some(seconds) if merged.session_affinity == "ClientIP" => {
            json!({"clientIP": {"timeoutSeconds": seconds}})
        }
        Some(_) | None => Value::Null,
    }
}

/// The family of an address, as Kubernetes calls it.
pub(super) fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// The addresses of an import among those that its derived Service has: one of each family, in the import's order.
pub(super) fn import_addresses(merged: &Merged, cluster_ips: &[String]) -> Vec<String> {
    if merged.families.is_empty() {
        return cluster_ips.iter().take(2).cloned().collect();
    }
    let of_family = |wanted: &String| cluster_ips.iter().find(|ip| family(ip) == wanted).cloned();
    merged.families.iter().filter_map(of_family).collect()
}

/// The ServiceImport; `addresses` are its own. Families correspond to them, as long as there are any.
pub(super) fn import(api_version: &str, key: &ObjectKey, merged: &Merged, addresses: &[String]) -> Value {
    let families = match addresses {
        [] if merged.families.is_empty() => Value::Null,
        [] => json!(merged.families),
        addresses => addresses.iter().map(|address| family(address)).collect(),
    };
    let mut annotations = merged.annotations.clone();
    annotations.insert(DERIVED_SERVICE_ANNOTATION.to_owned(), derived_name(&key.namespace, &key.name));
    let ports: Vec<_> = merged.ports.iter().map(|merged| port(merged, &merged.name)).collect();
    json!({
        "apiVersion": api_version,
        "kind": "ServiceImport",
        "metadata": {
            "namespace": &*key.namespace, "name": &*key.name, "labels": merged.labels, "annotations": annotations,
        },
        "spec": {
            "type": if merged.headless { "Headless" } else { "ClusterSetIP" },
            "ports": ports,
            "ips": addresses,
            "ipFamilies": families,
            "sessionAffinity": merged.session_affinity,
            "sessionAffinityConfig": affinity_config(merged),
            "internalTrafficPolicy": or_null(&merged.internal_traffic_policy),
            "trafficDistribution": or_null(&merged.traffic_distribution),
        },
    })
}

/// The derived Service: its address is the import's, and its annotation makes it a global service.
///
/// It names no families but takes what the cluster has: those never change under it, whatever the exports do, and the API
/// server has nothing to add or to refuse.
pub(super) fn derived_service(
    api_version: &str,
    key: &ObjectKey,
    merged: &Merged,
    import_uid: &str,
) -> Value {
    let mut labels = merged.labels.clone();
    labels.insert(MCS_SERVICE_LABEL.to_owned(), key.name.to_string());
    let mut annotations = merged.annotations.clone();
    annotations.insert(GLOBAL.to_owned(), "true".to_owned());
    let ports: Vec<_> =
        merged.ports.iter().map(|merged_port| port(merged_port, &port_name(merged, merged_port))).collect();
    let mut spec = json!({
        "type": "ClusterIP",
        "ipFamilyPolicy": "PreferDualStack",
        // With one, Kubernetes would make slices for it, too.
        "selector": null,
        "ports": ports,
        "sessionAffinity": merged.session_affinity,
        "sessionAffinityConfig": affinity_config(merged),
        "trafficDistribution": or_null(&merged.traffic_distribution),
    });
    if !merged.internal_traffic_policy.is_empty() {
        // Where nobody asks for one, the API server's default stays as it is.
        spec["internalTrafficPolicy"] = merged.internal_traffic_policy.clone().into();
    }
    if merged.headless {
        spec["clusterIP"] = "None".into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": &*key.namespace,
            "name": derived_name(&key.namespace, &key.name),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": owner(api_version, "ServiceImport", &key.name, import_uid),
        },
        "spec": spec,
    })
}

/// The copy of a local slice that belongs to the derived Service; `None` if no port of it is part of the import.
pub(super) fn mirrored_slice(
    cluster: &ClusterName,
    key: &ObjectKey,
    merged: &Merged,
    local: &LocalService,
    derived_uid: &str,
    source: &Value,
) -> Option<Value> {
    let family = source["addressType"].as_str().filter(|family| matches!(*family, "IPv4" | "IPv6"))?;
    if !merged.families.is_empty() && !merged.families.iter().any(|allowed| allowed == family) {
        return None;
    }
    let ports = mirrored_ports(merged, local, source["ports"].as_array()?);
    if ports.is_empty() && !merged.ports.is_empty() {
        return None;
    }
    let derived = derived_name(&key.namespace, &key.name);
    let source_name = source.pointer("/metadata/name")?.as_str()?;
    let suffix = source_name.strip_prefix(&format!("{}-", key.name)).unwrap_or(source_name);
    let labels = slice_labels(key, merged, cluster, MANAGED_BY_LOCAL_MIRROR);
    Some(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": &*key.namespace,
            "name": shortened(format!("{derived}-{suffix}")),
            "labels": labels,
            "annotations": {},
            "ownerReferences": owner("v1", "Service", &derived, derived_uid),
        },
        "addressType": family,
        "endpoints": source["endpoints"].as_array().cloned().unwrap_or_default(),
        "ports": ports,
    }))
}

/// Labels of a slice that belongs to the derived Service and holds endpoints of `cluster`.
fn slice_labels(
    key: &ObjectKey,
    merged: &Merged,
    cluster: &ClusterName,
    managed_by: &str,
) -> BTreeMap<String, String> {
    let mut labels = merged.labels.clone();
    labels.extend([
        (SERVICE_NAME_LABEL.to_owned(), derived_name(&key.namespace, &key.name)),
        (MCS_SERVICE_LABEL.to_owned(), key.name.to_string()),
        (SOURCE_CLUSTER_LABEL.to_owned(), cluster.to_string()),
        (MANAGED_BY_LABEL.to_owned(), managed_by.to_owned()),
    ]);
    if merged.headless {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

/// The slice's ports that the import offers with the number which the local Service gives them (KEP-1645, port merge).
fn mirrored_ports(merged: &Merged, local: &LocalService, source: &[Value]) -> Vec<Value> {
    let offered = |slice_port: &Value| {
        let name = slice_port["name"].as_str().unwrap_or_default();
        let own = local.ports.iter().find(|port| port.name == name)?;
        let same = |port: &&ExportPort| {
            port.name == own.name && (protocol(port), port.port) == (protocol(own), own.port)
        };
        let merged_port = merged.ports.iter().find(same)?;
        let mut slice_port = slice_port.clone();
        slice_port["name"] = port_name(merged, merged_port).into();
        Some(slice_port)
    };
    source.iter().filter_map(offered).collect()
}

/// Endpoints in one imported slice; as many as Kubernetes' own controller puts into one.
const ENDPOINTS_PER_SLICE: usize = 100;

/// The slices with the endpoints that another cluster offers of the derived Service: one family and one set of ports
/// each. Node and zone are the cluster's name, as Cilium has it.
pub(super) fn imported_slices(
    key: &ObjectKey,
    merged: &Merged,
    cluster: &ClusterName,
    backends: &Backends,
    derived_uid: &str,
) -> Vec<Value> {
    type Ports<'a> = Vec<(&'a str, &'a str, u16)>;
    let mut groups: BTreeMap<(&'static str, Ports<'_>), Vec<Value>> = BTreeMap::new();
    let offered: BTreeSet<(String, &str)> =
        merged.ports.iter().map(|port| (port_name(merged, port), protocol(port))).collect();
    for (address, ports) in &backends.ports {
        let family = family(address);
        let ports: Ports<'_> = ports
            .iter()
            .filter(|(name, port)| {
                port.port > 0 && offered.contains(&((*name).clone(), port.protocol.as_str()))
            })
            .map(|(name, port)| (name.as_str(), port.protocol.as_str(), port.port))
            .collect();
        let wanted = merged.families.is_empty() || merged.families.iter().any(|allowed| allowed == family);
        if !wanted || (ports.is_empty() && !merged.ports.is_empty()) {
            continue;
        }
        let mut endpoint = json!({
            "addresses": [address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": cluster,
            "zone": cluster,
        });
        if let Some(hostname) = backends.hostnames.get(address) {
            endpoint["hostname"] = hostname.clone().into();
        }
        groups.entry((family, ports)).or_default().push(endpoint);
    }
    let derived = derived_name(&key.namespace, &key.name);
    let labels = slice_labels(key, merged, cluster, MANAGED_BY_MESH);
    // Each family counts for itself, so that one more slice of one moves nothing of the other.
    let mut numbers: BTreeMap<&'static str, usize> = BTreeMap::new();
    let chunks = groups.iter().flat_map(|((family, ports), endpoints)| {
        endpoints.chunks(ENDPOINTS_PER_SLICE).map(move |endpoints| (*family, ports, endpoints))
    });
    let slice = |(family, ports, endpoints): (&'static str, &Ports<'_>, &[Value])| {
        let next = numbers.entry(family).or_default();
        let number = std::mem::replace(next, *next + 1);
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, sort, port)| json!({"name": name, "protocol": sort, "port": port}))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": &*key.namespace,
                // The family is in the name because it can never change in a slice.
                "name": format!("{derived}-mesh-{cluster}-{}-{number}", family.to_ascii_lowercase()),
                "labels": labels,
                "annotations": {},
                "ownerReferences": owner("v1", "Service", &derived, derived_uid),
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        })
    };
    chunks.map(slice).collect()
}

/// Kubernetes allows 253 bytes; slices are long before that only when their source's is, so cutting cannot clash often, and
/// where it does the API server refuses the second.
fn shortened(mut name: String) -> String {
    const MAX: usize = 253;
    name.truncate(MAX);
    name.truncate(name.trim_end_matches(['-', '.']).len());
    name
}

/// A condition to be.
pub(super) struct Condition {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

/// The conditions as they should stand: the time of the last transition is kept where the status is.
pub(super) fn conditions(wanted: &[Condition], observed: &[Value], now: &str) -> Vec<Value> {
    let one = |wanted: &Condition| {
        let former =
            observed.iter().find(|former| former["type"] == wanted.kind && former["status"] == wanted.status);
        let since = former.and_then(|former| former["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({
            "type": wanted.kind, "status": wanted.status, "reason": wanted.reason, "message": wanted.message,
            "lastTransitionTime": since,
        })
    };
    wanted.iter().map(one).collect()
}

/// `status.clusters` of an import.
pub(super) fn clusters(clusters: &BTreeSet<ClusterName>) -> Value {
    clusters.iter().map(|cluster| json!({"cluster": cluster})).collect()
}

/// Whether `observed` says everything that `desired` says; `null` stands for an absent field. Labels and annotations must be equal, since
/// what is no longer exported must go.
pub(super) fn covers(observed: &Value, desired: &Value) -> bool {
    match (observed, desired) {
        (_, Value::Null) => observed.is_null(),
        (Value::Object(observed), Value::Object(desired)) => desired.iter().all(|(field, wanted)| {
            let found = observed.get(field).unwrap_or(&Value::Null);
            match field.as_str() {
                "labels" | "annotations" => as_map(found) == as_map(wanted),
                _other => covers(found, wanted) || is_empty(found) && is_empty(wanted),
            }
        }),
        (Value::Array(observed), Value::Array(desired)) => {
            observed.len() == desired.len()
                && observed.iter().zip(desired).all(|(found, wanted)| covers(found, wanted))
        }
        (observed, desired) => observed == desired,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn as_map(value: &Value) -> BTreeMap<&str, &Value> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.as_str(), value)).collect()
}

/// `observed` with everything set that `desired` names, ready to replace it.
pub(super) fn overlay(observed: &Value, desired: &Value) -> Value {
    let (Value::Object(observed), Value::Object(desired)) = (observed, desired) else {
        return desired.clone();
    };
    let mut merged: Map<String, Value> = observed.clone();
    for (field, wanted) in desired {
        match field.as_str() {
            "labels" | "annotations" => merged.insert(field.clone(), wanted.clone()),
            _other if wanted.is_null() => merged.remove(field),
            _other => {
                let value = overlay(observed.get(field).unwrap_or(&Value::Null), wanted);
                merged.insert(field.clone(), value)
            }
        };
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_defaults_are_no_difference_but_stale_labels_are() {
        let desired = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"ports": [{"port": 80}], "x": null, "ips": []}});
        let cases = [
            (
                json!({"metadata": {"uid": "u", "labels": {"a": "1"}}, "spec": {"ports": [{"port": 80, "targetPort": 80}]}}),
                true,
            ),
            (json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"ports": [{"port": 80}]}}), false),
            (json!({"metadata": {"labels": {"a": "1"}}, "spec": {"ports": [{"port": 80}], "x": 1}}), false),
            (json!({"metadata": {"labels": {"a": "1"}}, "spec": {"ports": []}}), false),
        ];
        for (observed, expected) in cases {
            assert_eq!(covers(&observed, &desired), expected, "{observed}");
            assert!(covers(&overlay(&observed, &desired), &desired), "{observed}");
        }
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let wanted =
            [Condition { kind: "Ready", status: "True", reason: "Ready".to_owned(), message: String::new() }];
        let first = conditions(&wanted, &[], "t1");
        assert_eq!(first[0]["lastTransitionTime"], "t1");
        assert_eq!(conditions(&wanted, &first, "t2"), first);
        let failed = [Condition {
            kind: "Ready",
            status: "False",
            reason: "Failed".to_owned(),
            message: String::new(),
        }];
        assert_eq!(conditions(&failed, &first, "t2")[0]["lastTransitionTime"], "t2");
    }
}
