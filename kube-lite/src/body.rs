//! From what a client sent to an object of its resource: typed, pruned, with defaults. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::kinds::Resource;
use crate::object::{self, text};
use crate::status::{Failure, Result};

/// What to do with fields that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    Ignore,
    Warn,
    Refuse,
}

impl Unknown {
    /// From the `fieldValidation` parameter.
    ///
    /// # Errors
    /// Another word.
    pub(crate) fn read(word: &str) -> Result<Self> {
        match word {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Refuse),
            other => Err(Failure::bad_request(format!(
                "invalid fieldValidation {other:?}: allowed are \"Ignore\", \"Warn\" and \"Strict\""
            ))),
        }
    }
}

/// Brings an object into the form in which it is stored; `warnings` get what was dropped.
///
/// # Errors
/// It is of another kind, a field has the wrong type, or has unknown fields that are refused.
pub(crate) fn admit(
    resource: &Resource,
    mut sent: Value,
    unknown: Unknown,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    check_type(resource, &mut sent)?;
    let wrong = |error: &dyn std::fmt::Display| {
        let (kind, version) = (&resource.kind, &resource.version.version);
        Failure::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
    };
    let (mut object, gone) = match resource.built_in {
        Some(built_in) => {
            let object = (built_in.normalise)(sent.clone()).map_err(|error| wrong(&error))?;
            let mut gone = Vec::new();
            missing(&sent, &object, "", &mut gone);
            (object, gone)
        }
        None => custom(resource, sent).map_err(|error| wrong(&error))?,
    };
    // Empty maps of metadata are as good as none.
    object::metadata(&mut object).retain(|_, value| {
        !value.is_null()
            && value.as_object().is_none_or(|fields| !fields.is_empty())
            && value.as_array().is_none_or(|items| !items.is_empty())
    });
    let each: Vec<_> = gone.iter().map(|path| format!("unknown field {path:?}")).collect();
    match unknown {
        Unknown::Refuse if !each.is_empty() => {
            return Err(wrong(&format_args!("strict decoding error: {}", each.join(", "))));
        }
        Unknown::Warn => warnings.extend(each),
        Unknown::Refuse | Unknown::Ignore => {}
    }
    match resource.built_in {
        Some(built_in) => (built_in.default)(&mut object),
        None => resource.schema.apply_defaults(&mut object),
    }
    Ok(object)
}

fn custom(
    resource: &Resource,
    mut sent: Value,
) -> std::result::Result<(Value, Vec<String>), serde_json::Error> {
    let metadata = sent.get("metadata").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let known = serde_json::to_value(serde_json::from_value::<ObjectMeta>(metadata.clone())?)?;
    let mut gone = Vec::new();
    missing(&metadata, &known, "metadata", &mut gone);
    object::fields(&mut sent).insert("metadata".to_owned(), known);
    gone.extend(resource.schema.prune(&mut sent));
    Ok((sent, gone))
}

fn check_type(resource: &Resource, sent: &mut Value) -> Result<()> {
    if !sent.is_object() {
        return Err(Failure::bad_request("the body of the request must be an object"));
    }
    let wanted = resource.version.api_version();
    let version = text(sent, "/apiVersion").to_owned();
    let kind = text(sent, "/kind").to_owned();
    if !version.is_empty() && version != wanted {
        let message = format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        );
        return Err(Failure::bad_request(message));
    }
    if !kind.is_empty() && kind != resource.kind {
        let wanted = &resource.kind;
        return Err(Failure::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({wanted})"
        )));
    }
    if sent.get("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
        return Err(Failure::bad_request("metadata must be an object"));
    }
    let fields = object::fields(sent);
    fields.insert("apiVersion".to_owned(), wanted.into());
    fields.insert("kind".to_owned(), resource.kind.as_str().into());
    Ok(())
}

/// The fields of `sent` that `known` does not have.
fn missing(sent: &Value, known: &Value, path: &str, gone: &mut Vec<String>) {
    if let (Value::Object(sent), Value::Object(known)) = (sent, known) {
        for (name, value) in sent {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known.get(name) {
                Some(known) => missing(value, known, &path, gone),
                // Nulls and empty lists are dropped without a word.
                None if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => {}
                None => gone.push(path),
            }
        }
    } else if let (Value::Array(sent), Value::Array(known)) = (sent, known) {
        for (i, (sent, known)) in sent.iter().zip(known).enumerate() {
            missing(sent, known, &format!("{path}[{i}]"), gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn admit_as(plural: &str, sent: Value, unknown: Unknown) -> (Result<Value>, Vec<String>) {
        let resource =
            crate::kinds::built_in().into_iter().find(|resource| resource.plural == plural).unwrap();
        let mut warnings = Vec::new();
        (admit(&resource, sent, unknown, &mut warnings), warnings)
    }

    #[test]
    fn unknown_fields_are_dropped_with_a_warning_or_refused() {
        let sent = json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {"foo": 1, "ports": [{"port": 1, "bar": 2}]}});
        let (object, warnings) = admit_as("services", sent.clone(), Unknown::Warn);
        assert_eq!(object.unwrap().pointer("/spec/foo"), None);
        assert_eq!(warnings, [r#"unknown field "spec.foo""#, r#"unknown field "spec.ports[0].bar""#]);
        let refused = admit_as("services", sent, Unknown::Refuse).0.unwrap_err();
        assert!(
            refused.code == 400 && refused.message.contains("strict decoding error"),
            "{}",
            refused.message
        );
    }

    #[test]
    fn a_wrong_type_is_refused() {
        for sent in [
            json!({"spec": {"ports": "http"}}),
            json!({"kind": "Pod"}),
            json!({"apiVersion": "v2"}),
            json!({"metadata": 1}),
            json!([]),
            json!({"metadata": {"labels": {"a": 1}}}),
        ] {
            assert_eq!(admit_as("services", sent.clone(), Unknown::Warn).0.unwrap_err().code, 400, "{sent}");
        }
    }

    #[test]
    fn texts_of_a_secret_become_data() {
        let (secret, warnings) = admit_as("secrets", json!({"stringData": {"a": "b"}}), Unknown::Warn);
        let secret = secret.unwrap();
        assert_eq!(
            (&secret["data"]["a"], &secret["type"], secret.get("stringData")),
            (&json!("Yg=="), &json!("Opaque"), None)
        );
        assert_eq!(warnings, [""; 0]);
    }
}
