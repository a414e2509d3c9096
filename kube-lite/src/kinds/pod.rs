//! Pods: what the user writes of them. Nobody schedules or runs them here.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::columns::{age, or_none};
use crate::object::{self, items, text};
use crate::status::Cause;

pub(super) const SHAPE: &[&str] = &[
    "spec.containers[name]",
    "spec.containers[name].ports[containerPort,protocol=TCP]",
    "spec.containers[name].env[name]",
    "spec.containers[name].volumeMounts[mountPath]",
    "spec.containers[name].volumeDevices[devicePath]",
    "spec.initContainers[name]",
    "spec.initContainers[name].ports[containerPort,protocol=TCP]",
    "spec.initContainers[name].env[name]",
    "spec.initContainers[name].volumeMounts[mountPath]",
    "spec.ephemeralContainers[name]",
    "spec.volumes[name]",
    "spec.imagePullSecrets[name]",
    "spec.hostAliases[ip]",
    "spec.topologySpreadConstraints[topologyKey,whenUnsatisfiable]",
    "spec.schedulingGates[name]",
    "spec.resourceClaims[name]",
    "spec.nodeSelector!",
    "status.conditions[type]",
    "status.podIPs[ip]",
];

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let text = |pointer: &str| text(pod, pointer);
    let statuses = items(pod, "/status/containerStatuses");
    let ready = statuses.iter().filter(|status| status.get("ready") == Some(&Value::Bool(true))).count();
    let restarts: i64 = statuses.iter().filter_map(|status| status.get("restartCount")?.as_i64()).sum();
    let reason = text("/status/reason");
    let status = match () {
        () if object::is_terminating(pod) => "Terminating",
        () if !reason.is_empty() => reason,
        () => text("/status/phase"),
    };
    let ip = [
        text("/status/podIP"),
        items(pod, "/status/podIPs").first().map_or("", |ip| object::text(ip, "/ip")),
    ];
    vec![
        object::name(pod).into(),
        format!("{ready}/{}", items(pod, "/spec/containers").len()).into(),
        status.into(),
        restarts.to_string().into(),
        age(pod, now),
        or_none(ip.into_iter().find(|ip| !ip.is_empty()).unwrap_or_default()),
        or_none(text("/spec/nodeName")),
        or_none(text("/status/nominatedNodeName")),
        "<none>".into(),
    ]
}

pub(super) fn default(pod: &mut Value) {
    let spec = object::child(pod, "spec");
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("enableServiceLinks", json!(true)),
    ] {
        object::default(spec, field, value);
    }
    for list in CONTAINERS {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            default_container(object::fields(container));
        }
    }
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).cloned();
    if let Some(account) = account {
        object::default(spec, "serviceAccountName", account.clone());
        object::default(spec, "serviceAccount", account);
    }
    // The first address stands in both fields.
    let status = object::child(pod, "status");
    let first = status.get("podIPs").and_then(|ips| ips.get(0)?.get("ip").cloned());
    match (first, status.get("podIP").cloned()) {
        (Some(first), _) => object::default(status, "podIP", first),
        (None, Some(ip)) if ip != "" => drop(status.insert("podIPs".to_owned(), json!([{ "ip": ip }]))),
        (None, _) => {}
    }
}

fn default_container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !last.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    object::default(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    object::default(container, "terminationMessagePath", "/dev/termination-log");
    object::default(container, "terminationMessagePolicy", "File");
    object::default(container, "resources", json!({}));
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        object::default_text(object::fields(port), "protocol", "TCP");
    }
}

pub(super) fn prepare(pod: &mut Value, old: Option<&Value>) {
    if old.is_none() {
        let status = json!({"phase": "Pending", "qosClass": quality(pod)});
        object::fields(pod).insert("status".to_owned(), status);
    }
    let spec = object::child(pod, "spec");
    object::default(spec, "priority", 0);
    object::default(spec, "preemptionPolicy", "PreemptLowerPriority");
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = |toleration: &Value| {
            let covers_key = [key, ""].contains(&text(toleration, "/key"));
            covers_key && ["NoExecute", ""].contains(&text(toleration, "/effect"))
        };
        if !tolerations.iter().any(covered) {
            tolerations.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

fn quality(pod: &Value) -> &'static str {
    let containers = || items(pod, "/spec/containers").iter().chain(items(pod, "/spec/initContainers"));
    let has = |container: &Value, list: &str, resource: &str| {
        container.pointer(&format!("/resources/{list}/{resource}")).is_some()
    };
    let resources = ["cpu", "memory"];
    let any = containers().any(|c| resources.iter().any(|r| has(c, "requests", r) || has(c, "limits", r)));
    let same = |c: &Value, r: &str| {
        let request = c.pointer(&format!("/resources/requests/{r}"));
        has(c, "limits", r)
            && request.is_none_or(|request| Some(request) == c.pointer(&format!("/resources/limits/{r}")))
    };
    let all = containers().all(|c| resources.iter().all(|r| same(c, r)));
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(super) fn validate(pod: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let containers = items(pod, "/spec/containers");
    if containers.is_empty() {
        causes.push(Cause::required("spec.containers", ""));
    }
    for (i, container) in containers.iter().enumerate() {
        let name = text(container, "/name");
        if name.is_empty() {
            causes.push(Cause::required(format!("spec.containers[{i}].name"), ""));
        } else if containers[..i].iter().any(|other| text(other, "/name") == name) {
            causes.push(Cause::duplicate(format!("spec.containers[{i}].name"), &name.into()));
        }
        if text(container, "/image").is_empty() {
            causes.push(Cause::required(format!("spec.containers[{i}].image"), ""));
        }
    }
    if let Some(old) = old
        && frozen(old) != frozen(pod)
    {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
    causes
}

/// The parts of the spec that an update may not change.
fn frozen(pod: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    let fields = object::fields(&mut spec);
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        fields.remove(field);
    }
    for list in CONTAINERS {
        for container in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            object::fields(container).remove("image");
        }
    }
    spec
}
