//! Strategic merge patch: a merge patch that knows which lists merge by key.
//!
//! Source: Kubernetes community docs, "Strategic Merge Patch".

use serde_json::{Map, Value};

use crate::schema::{ListKind, Schema};
use crate::status::{Failure, Result};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `object`; `schema` says which lists merge by key or by value.
///
/// # Errors
/// A directive that is unknown or stands where it means nothing.
pub(crate) fn strategic(object: &mut Value, patch: &Value, schema: Option<&Schema>) -> Result<()> {
    let Value::Object(patch) = patch else {
        return Err(Failure::bad_request("a strategic merge patch must be an object"));
    };
    merge_fields(crate::object::fields(object), patch, schema)
}

fn merge_fields(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Result<()> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = patch
                .iter()
                .filter(|(name, _)| *name != DIRECTIVE)
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(Failure::bad_request(format!("unknown $patch directive {other:?}"))),
    }
    if let Some(kept) = patch.get(RETAIN_KEYS).and_then(Value::as_array) {
        target.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    for (name, value) in patch {
        let field = |name: &str| schema.and_then(|schema| schema.field(name));
        if let Some(list) = name.strip_prefix(DELETE_PRIMITIVES) {
            let gone =
                value.as_array().ok_or_else(|| Failure::bad_request(format!("{name} must be a list")))?;
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        } else if name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(ELEMENT_ORDER) {
            // Read above, or below, once everything is merged.
        } else if value.is_null() {
            target.remove(name);
        } else {
            merge_value(target.entry(name.clone()).or_insert(Value::Null), value, field(name))?;
        }
    }
    for (name, order) in patch {
        if let (Some(list), Value::Array(order)) = (name.strip_prefix(ELEMENT_ORDER), order)
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            reorder(items, order, merge_key(schema.and_then(|schema| schema.field(list))));
        }
    }
    Ok(())
}

fn merge_value(target: &mut Value, patch: &Value, schema: Option<&Schema>) -> Result<()> {
    if let Value::Object(patch) = patch {
        return merge_fields(crate::object::fields(target), patch, schema);
    }
    if let (Value::Array(patch), Some(schema)) = (patch, schema)
        && schema.list != ListKind::Atomic
    {
        if !target.is_array() {
            *target = Value::Array(Vec::new());
        }
        let items = target.as_array_mut().expect("it was made a list");
        return merge_list(items, patch, schema);
    }
    *target = patch.clone();
    Ok(())
}

/// The one field that strategic merging knows items by: the first of the keys. `None` is by value.
fn merge_key(schema: Option<&Schema>) -> Option<&str> {
    match &schema?.list {
        ListKind::Map(keys) => keys.first().map(String::as_str),
        ListKind::Atomic | ListKind::Set => None,
    }
}

fn merge_list(items: &mut Vec<Value>, patch: &[Value], schema: &Schema) -> Result<()> {
    if patch.iter().any(|item| item.get(DIRECTIVE).is_some_and(|directive| directive == "replace")) {
        *items = patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect();
        return Ok(());
    }
    for change in patch {
        let Some(key) = merge_key(Some(schema)) else {
            if !items.contains(change) {
                items.push(change.clone());
            }
            continue;
        };
        let known_by = change.get(key);
        if known_by.is_none() {
            let message = format!("map: {change} does not contain declared merge key: {key}");
            return Err(Failure::bad_request(message));
        }
        let found = items.iter().position(|item| item.get(key) == known_by);
        if change.get(DIRECTIVE).is_some_and(|directive| directive == "delete") {
            items.retain(|item| item.get(key) != known_by);
        } else if let Some(found) = found {
            merge_value(&mut items[found], change, schema.item())?;
        } else {
            let mut item = Value::Object(Map::new());
            merge_value(&mut item, change, schema.item())?;
            items.push(item);
        }
    }
    Ok(())
}

/// Brings the items that `order` names into its order, each in a place where one of them was.
fn reorder(items: &mut [Value], order: &[Value], key: Option<&str>) {
    let rank = |item: &Value| {
        let by = |value: &Value| key.map_or_else(|| Some(value.clone()), |key| value.get(key).cloned());
        let wanted = by(item);
        order.iter().position(|named| by(named) == wanted)
    };
    let places: Vec<usize> = (0..items.len()).filter(|&i| rank(&items[i]).is_some()).collect();
    let mut named: Vec<Value> = places.iter().map(|&i| items[i].clone()).collect();
    named.sort_by_key(|item| rank(item));
    for (place, item) in places.into_iter().zip(named) {
        items[place] = item;
    }
}
