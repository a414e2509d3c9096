//! Patches: RFC 7386 (merge), RFC 6902 (JSON), and Kubernetes' strategic merge. Pure.

mod strategic;

use std::fmt::Display;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::object::{MAX_DEPTH, depth};
use crate::status::{Failure, Result};

pub(crate) use self::strategic::strategic;

/// As many operations as the original allows.
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that the operations of one patch may copy and move: as large as a request can be.
const MAX_CARRIED_BYTES: usize = 3 << 20;

/// A merge patch (RFC 7386): `null` removes, objects merge, all else replaces.
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

/// A list of JSON patch operations (RFC 6902), all or none.
///
/// # Errors
/// A patch that cannot be read (400), or that does not fit the object (422).
pub(crate) fn json(object: &mut Value, patch: Value) -> Result<()> {
    let Some(count) = patch.as_array().map(Vec::len) else {
        return Err(Failure::bad_request("error decoding patch: expected a list of operations"));
    };
    if count > MAX_OPERATIONS {
        return Err(Failure::too_many_operations(count, MAX_OPERATIONS));
    }
    let unfit = |error: &dyn Display| Failure {
        code: 422,
        reason: "Invalid",
        message: format!("the server rejected our request due to an error in our request: {error}"),
        details: Some(serde_json::json!({})),
    };
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|error| unfit(&error))?;
    let mut new = object.clone();
    let mut carried = 0;
    for operation in patch.0 {
        bound(&new, &operation, &mut carried).map_err(|why| unfit(&why))?;
        if let PatchOperation::Replace(replace) = &operation {
            allow_missing(&mut new, replace.path.as_str());
        }
        json_patch::patch(&mut new, std::slice::from_ref(&operation)).map_err(|error| unfit(&error))?;
    }
    *object = new;
    Ok(())
}

/// Refuses what would make a small patch a large object, or one that is too deep to be read again. `carried` counts the bytes
/// that were copied and moved so far.
fn bound(object: &Value, operation: &PatchOperation, carried: &mut usize) -> std::result::Result<(), String> {
    let mut at = |from: &str| {
        let value = object.pointer(from)?;
        *carried += value.to_string().len();
        Some(value)
    };
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Copy(copy) => (&copy.path, at(copy.from.as_str())),
        PatchOperation::Move(moved) => (&moved.path, at(moved.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    if *carried > MAX_CARRIED_BYTES {
        return Err(format!("it copies and moves more than {MAX_CARRIED_BYTES} bytes"));
    }
    if path.as_str().matches('/').count() + value.map_or(0, depth) > MAX_DEPTH {
        return Err(format!("it nests deeper than {MAX_DEPTH}"));
    }
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
