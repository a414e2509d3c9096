//! Patches: RFC 7386 (merge), RFC 6902 (JSON), and Kubernetes' strategic merge. Pure.

mod strategic;

use serde_json::Value;

use crate::status::{Failure, Result};

pub(crate) use self::strategic::strategic;

/// A merge patch (RFC 7386): `null` removes, objects merge, all else replaces.
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

/// A list of JSON patch operations (RFC 6902), all or none.
///
/// # Errors
/// A patch that cannot be read (400), or that does not fit the object (422).
pub(crate) fn json(object: &mut Value, patch: Value) -> Result<()> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    let unfit = |error: json_patch::PatchError| Failure {
        code: 422,
        reason: "Invalid",
        message: format!("the server rejected our request due to an error in our request: {error}"),
        details: Some(serde_json::json!({})),
    };
    let mut new = object.clone();
    for operation in patch.0 {
        if let json_patch::PatchOperation::Replace(replace) = &operation {
            allow_missing(&mut new, replace.path.as_str());
        }
        json_patch::patch(&mut new, std::slice::from_ref(&operation)).map_err(unfit)?;
    }
    *object = new;
    Ok(())
}

/// The original replaces also a field that is not there, against the letter of the RFC; clients have come to rely on it.
fn allow_missing(object: &mut Value, path: &str) {
    let Some((parent, name)) = path.rsplit_once('/') else { return };
    if let Some(Value::Object(fields)) = object.pointer_mut(parent) {
        fields.entry(name.replace("~1", "/").replace("~0", "~")).or_insert(Value::Null);
    }
}

#[cfg(test)]
mod tests;
