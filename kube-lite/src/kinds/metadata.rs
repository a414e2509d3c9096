//! What holds for the metadata of every object.

use serde_json::Value;

use super::{NameRule, Resource};
use crate::object::{self, items, text};
use crate::select::{is_dns_label, is_dns_subdomain, is_label_key, is_label_value};
use crate::status::Cause;

/// Longest `generateName`: as long as a name.
const MAX_GENERATE_BYTES: usize = 253;
/// How metadata merges.
pub(super) const SHAPE: [&str; 3] =
    ["metadata.finalizers[set]", "metadata.ownerReferences[uid]!", "metadata.labels"];

/// Of all annotations of an object together.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// What is wrong with an object's metadata.
pub(crate) fn check_metadata(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = object::name(object);
    let rule = resource.built_in.map_or(NameRule::Subdomain, |built_in| built_in.name);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = wrong_name(rule, name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), why));
    }
    let generate = object::text(object, "/metadata/generateName");
    if generate.len() > MAX_GENERATE_BYTES {
        let why = format!("must be no more than {MAX_GENERATE_BYTES} characters");
        causes.push(Cause::invalid("metadata.generateName", &generate.into(), why));
    }
    for (key, value) in object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        if !is_label_key(key) {
            causes.push(Cause::invalid("metadata.labels", &key.as_str().into(), QUALIFIED_NAME));
        }
        if !value.as_str().is_some_and(is_label_value) {
            causes.push(Cause::invalid("metadata.labels", value, LABEL_VALUE));
        }
    }
    let mut annotation_bytes = 0;
    for (key, value) in
        object.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten()
    {
        if !is_label_key(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.as_str().into(), QUALIFIED_NAME));
        }
        annotation_bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if annotation_bytes > MAX_ANNOTATION_BYTES {
        let why = format!("Too long: may not be more than {MAX_ANNOTATION_BYTES} bytes");
        causes.push(Cause::invalid("metadata.annotations", &"".into(), why));
    }
    for (i, finalizer) in object::finalizers(object).into_iter().enumerate() {
        let standard = matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes");
        if !is_label_key(finalizer) {
            causes.push(Cause::invalid(
                format!("metadata.finalizers[{i}]"),
                &finalizer.into(),
                QUALIFIED_NAME,
            ));
        } else if !standard && !finalizer.contains('/') {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid("metadata.finalizers", &finalizer.into(), why));
        }
    }
    check_owners(object, &mut causes);
    causes
}

fn check_owners(object: &Value, causes: &mut Vec<Cause>) {
    let owners = items(object, "/metadata/ownerReferences");
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences.{field}"),
                    &"".into(),
                    format!("{} must not be empty", if field == "apiVersion" { "version" } else { field }),
                ));
            }
        }
    }
    let controllers = owners.iter().filter(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    if controllers.count() > 1 {
        let why = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", &owners.into(), why));
    }
}

/// What an update changes and must not.
pub(crate) fn check_metadata_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if object::is_terminating(old) {
        let before = object::finalizers(old);
        let added: Vec<_> =
            object::finalizers(new).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
        if !added.is_empty() {
            let added: Vec<_> = added.iter().map(|name| format!("{name:?}")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &why));
        }
    }
    causes
}

const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
    must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn wrong_name(rule: NameRule, name: &str) -> Option<&'static str> {
    let starts_with_letter = name.starts_with(|c: char| c.is_ascii_lowercase());
    match rule {
        NameRule::Subdomain if !is_dns_subdomain(name) => Some(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        NameRule::Label if !is_dns_label(name) => Some(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        NameRule::Label1035 if !is_dns_label(name) || !starts_with_letter => Some(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ),
        NameRule::Subdomain | NameRule::Label | NameRule::Label1035 => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::built_in;

    #[test]
    fn metadata_rules_follow_the_table() {
        let resources = built_in();
        let check = |plural: &str, metadata: Value| {
            let resource = resources.iter().find(|resource| resource.plural == plural).unwrap();
            check_metadata(resource, &json!({ "metadata": metadata })).len()
        };
        for (name, plural, metadata, wrong) in [
            ("a dotted name", "configmaps", json!({"name": "a.b"}), 0),
            ("a dotted namespace", "namespaces", json!({"name": "a.b"}), 1),
            ("a service that starts with a digit", "services", json!({"name": "1a"}), 1),
            ("upper case", "secrets", json!({"name": "A"}), 1),
            ("no name", "secrets", json!({}), 1),
            ("labels", "secrets", json!({"name": "a", "labels": {"x/y": "z", "e": ""}}), 0),
            ("a wrong label", "secrets", json!({"name": "a", "labels": {"x y": "z z"}}), 2),
            ("a bare finalizer", "secrets", json!({"name": "a", "finalizers": ["x"]}), 1),
            ("a qualified finalizer", "secrets", json!({"name": "a", "finalizers": ["x.y/z"]}), 0),
            (
                "an owner without uid",
                "secrets",
                json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n"}]}),
                1,
            ),
        ] {
            assert_eq!(check(plural, metadata), wrong, "{name}");
        }
    }

    #[test]
    fn a_terminating_object_takes_no_new_finalizers() {
        let old = json!({"metadata": {"deletionTimestamp": "T", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"deletionTimestamp": "T", "finalizers": ["a/b", "c/d"]}});
        assert_eq!(check_metadata_update(&new, &old).len(), 1);
        assert_eq!(check_metadata_update(&old, &old), []);
        assert_eq!(check_metadata_update(&new, &json!({})), []);
    }
}
