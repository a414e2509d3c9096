//! Merging a configuration into an object, and taking out what a manager has dropped.

use serde_json::{Map, Value};

use super::compare::{Shape, edge};
use super::fields::FieldSet;
use crate::schema::{ListKind, Schema};

/// `live` with everything that `config` sets.
pub(super) fn merge(live: &Value, config: &Value, schema: Option<&Schema>) -> Value {
    match (Shape::of(live, schema), Shape::of(config, schema)) {
        (Shape::Fields(live), Shape::Fields(config)) => {
            let mut merged: Map<String, Value> = live.clone();
            for (name, value) in config {
                let schema = schema.and_then(|schema| schema.field(name));
                let value = live.get(name).map_or_else(|| value.clone(), |live| merge(live, value, schema));
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Items(live), Shape::Items(config)) => items(&live, &config, schema.and_then(Schema::item)),
        _ => config.clone(),
    }
}

/// In the order of `config`; what only `live` has stays before what it stood before.
fn items(live: &[(String, &Value)], config: &[(String, &Value)], schema: Option<&Schema>) -> Value {
    let find = |edge: &str| live.iter().position(|(other, _)| other == edge);
    let merged = |(edge, value): &(String, &Value)| {
        find(edge).map_or_else(|| (*value).clone(), |at| merge(live[at].1, value, schema))
    };
    let mut result = Vec::with_capacity(live.len() + config.len());
    let mut taken = 0;
    for (edge, value) in live {
        match config.iter().position(|(other, _)| other == edge) {
            None => result.push((*value).clone()),
            Some(at) => {
                // With what is new before it.
                let upto = (at + 1).max(taken);
                result.extend(config[taken..upto].iter().map(merged));
                taken = upto;
            }
        }
    }
    result.extend(config[taken..].iter().map(merged));
    Value::Array(result)
}

/// Takes out of `value` what is in `dropped` and has nothing in `kept`.
pub(super) fn remove(value: &mut Value, dropped: &FieldSet, kept: &FieldSet, schema: Option<&Schema>) {
    for (edge_, dropped) in dropped.children() {
        let kept = kept.child(edge_);
        if let (Some(name), Value::Object(fields)) = (edge_.strip_prefix("f:"), &mut *value) {
            let Some(kept) = kept else {
                fields.remove(name);
                continue;
            };
            if let Some(value) = fields.get_mut(name) {
                remove(value, dropped, kept, schema.and_then(|schema| schema.field(name)));
            }
        } else if let (Value::Array(items), Some(schema)) = (&mut *value, schema) {
            if schema.list == ListKind::Atomic {
                continue;
            }
            let Some(at) = items.iter().position(|item| edge(item, schema) == *edge_) else { continue };
            match kept {
                Some(kept) => remove(&mut items[at], dropped, kept, schema.item()),
                None => drop(items.remove(at)),
            }
        }
    }
}
