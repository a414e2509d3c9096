//! Nodes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::{age, condition, or_none};
use crate::object::{self, items, text};
use crate::status::Cause;

pub(super) fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(node, "Ready") {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(key, value)| {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str(),
            _ => None,
        }
    });
    let roles = roles.collect::<Vec<_>>().join(",");
    let address = |kind: &str| {
        let found = items(node, "/status/addresses").iter().find(|address| text(address, "/type") == kind);
        or_none(found.map_or("", |address| text(address, "/address")))
    };
    let info = |field: &str| -> Value {
        let value = text(node, &format!("/status/nodeInfo/{field}"));
        if value.is_empty() { "<unknown>".into() } else { value.into() }
    };
    vec![
        object::name(node).into(),
        status.into(),
        or_none(&roles),
        age(node, now),
        text(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) fn default(node: &mut Value) {
    let first = items(node, "/spec/podCIDRs").first().cloned();
    let alone = node.pointer("/spec/podCIDR").cloned();
    let spec = object::child(node, "spec");
    match (first, alone) {
        (Some(first), _) => object::default(spec, "podCIDR", first),
        (None, Some(alone)) => drop(spec.insert("podCIDRs".to_owned(), json!([alone]))),
        (None, None) => {}
    }
    let status = object::child(node, "status");
    object::default(status, "daemonEndpoints", json!({"kubeletEndpoint": {"Port": 0}}));
    let info = object::fields(status.entry("nodeInfo").or_insert(Value::Null));
    for field in [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ] {
        object::default(info, field, "");
    }
}

pub(super) fn prepare(node: &mut Value, old: Option<&Value>) {
    if old.is_some() {
        return;
    }
    // A new node is not ready until its kubelet says so.
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let taints = object::child(node, "spec").entry("taints").or_insert_with(|| json!([]));
    if let Some(taints) = taints.as_array_mut()
        && !taints.contains(&taint)
    {
        taints.push(taint);
    }
}

pub(super) fn validate(node: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (i, cidr) in items(node, "/spec/podCIDRs").iter().enumerate() {
        if cidr.as_str().is_none_or(|cidr| cidr.parse::<ipnet::IpNet>().is_err()) {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(format!("spec.podCIDRs[{i}]"), cidr, why));
        }
    }
    let before = old.map_or(&[][..], |old| items(old, "/spec/podCIDRs"));
    if !before.is_empty() && before != items(node, "/spec/podCIDRs") {
        causes.push(Cause::forbidden(
            "spec.podCIDRs",
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    causes
}
