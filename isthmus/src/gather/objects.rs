//! Which objects of a cluster go into a bundle, and what of them. Pure.

use crate::certs::show;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::SystemTime;

/// A kind to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The group and version, as a path.
    pub(crate) prefix: &'static str,
    /// The plural, which is the name of the file.
    pub(crate) plural: &'static str,
    /// Only of the namespaces of the mesh's own parts.
    pub(crate) own: bool,
}

const fn kind(prefix: &'static str, plural: &'static str, own: bool) -> Kind {
    Kind { prefix, plural, own }
}

/// All of them.
pub(crate) const KINDS: [Kind; 12] = [
    kind("/api/v1", "namespaces", false),
    kind("/api/v1", "nodes", false),
    kind("/api/v1", "services", false),
    kind("/api/v1", "configmaps", true),
    kind("/api/v1", "secrets", true),
    kind("/api/v1", "events", true),
    kind("/apis/coordination.k8s.io/v1", "leases", true),
    kind("/apis/discovery.k8s.io/v1", "endpointslices", false),
    kind("/apis/multicluster.x-k8s.io/v1beta1", "serviceexports", false),
    kind("/apis/multicluster.x-k8s.io/v1beta1", "serviceimports", false),
    kind("/apis/cilium.io/v2", "ciliumnodes", false),
    kind("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", false),
];

impl Kind {
    /// The path of a page of its list, of one namespace or of all.
    pub(crate) fn path(&self, namespace: Option<&str>, limit: usize, next: &str) -> String {
        let namespace = namespace.map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        let next = if next.is_empty() { String::new() } else { format!("&continue={}", escaped(next)) };
        format!("{}/{namespace}{}?limit={limit}{next}", self.prefix, self.plural)
    }

    /// What of an object goes into the bundle.
    pub(crate) fn shown(&self, object: &Value, now: SystemTime) -> Value {
        match self.plural {
            "secrets" => secret(object, now),
            "customresourcedefinitions" => definition(object),
            _ => object.clone(),
        }
    }
}

/// Unreserved characters of RFC 3986 as they are, all others as their bytes.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Names and sizes of what is in a Secret, and when its certificates begin and end; nothing of its contents.
fn secret(object: &Value, now: SystemTime) -> Value {
    let data = object["data"].as_object().into_iter().flatten();
    let entries: Vec<Value> = data
        .map(|(name, value)| {
            let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
            let certificates = show::read(&bytes, now).unwrap_or_default();
            let dates: Vec<Value> = certificates.iter().map(show::Shown::dates).collect();
            json!({"name": name, "bytes": bytes.len(), "certificates": dates})
        })
        .collect();
    let metadata = &object["metadata"];
    let annotations = metadata["annotations"].as_object().into_iter().flatten().map(|(name, _)| name);
    json!({
        "name": metadata["name"], "namespace": metadata["namespace"], "type": object["type"],
        "created": metadata["creationTimestamp"], "labels": metadata["labels"],
        "annotations": annotations.collect::<Vec<_>>(), "keys": entries,
    })
}

/// Which versions there are, without the schemas.
fn definition(object: &Value) -> Value {
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let versions: Vec<Value> = versions
        .map(|version| json!({"name": version["name"], "served": version["served"], "storage": version["storage"]}))
        .collect();
    json!({"name": object["metadata"]["name"], "versions": versions, "conditions": object["status"]["conditions"]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::new_ca;
    use std::time::Duration;

    #[test]
    fn of_a_secret_only_names_sizes_and_dates_are_shown() {
        let now = SystemTime::now();
        let name = "a CA".parse().unwrap();
        let ca = new_ca(&name, now, Duration::from_secs(90 * 24 * 3600)).unwrap();
        let object = json!({
            "metadata": {"name": "s", "namespace": "n", "annotations": {"a": "top secret"}}, "type": "Opaque",
            "data": {"tls.key": STANDARD.encode(ca.key.expose()), "tls.crt": STANDARD.encode(&ca.certificate), "bad": "%"},
        });
        let shown = kind("", "secrets", true).shown(&object, now);
        let keys = shown["keys"].as_array().unwrap();
        let names: Vec<_> = keys.iter().map(|key| key["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["bad", "tls.crt", "tls.key"]);
        assert_eq!(keys[1]["certificates"][0]["daysLeft"], 90);
        assert_eq!(keys[2]["bytes"], ca.key.expose().len());
        assert_eq!(shown["annotations"], json!(["a"]));
        let text = shown.to_string();
        assert!(!text.contains("top secret") && !text.contains(&STANDARD.encode(ca.key.expose())), "{text}");
    }

    #[test]
    fn pages_follow_each_other_by_an_escaped_token() {
        let kind = kind("/api/v1", "services", false);
        assert_eq!(kind.path(None, 5, ""), "/api/v1/services?limit=5");
        assert_eq!(
            kind.path(Some("a"), 5, "x/+="),
            "/api/v1/namespaces/a/services?limit=5&continue=x%2F%2B%3D"
        );
    }
}
