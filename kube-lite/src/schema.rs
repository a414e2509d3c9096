//! What objects of a resource look like: for merging, for defaulting and pruning, and for validation. Pure.
//!
//! One type for both: a custom resource's comes from its CRD, a built-in's from a few lines in
//! [`kinds::shapes`](crate::kinds) that say no more than how its lists and maps merge.
//!
//! Source: Kubernetes docs, "Extend the Kubernetes API with CustomResourceDefinitions", *structural schema*;
//! KEP-555 (server-side apply) for the topology of lists and maps.

mod read;
mod validate;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What a value may be. The default is: anything, maps merge by field, lists are replaced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    kind: Option<Kind>,
    pub(crate) properties: BTreeMap<String, Schema>,
    /// Of the values of a map with any keys.
    additional: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    pub(crate) default: Option<Value>,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown: bool,
    /// A whole object of Kubernetes, with its `apiVersion`, `kind` and `metadata`.
    embedded: bool,
    pub(crate) list: ListKind,
    /// A map that is one value to managers: replaced, not merged.
    pub(crate) atomic_map: bool,
    rules: Option<Box<validate::Rules>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// How lists merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// As one value.
    #[default]
    Atomic,
    /// By value.
    Set,
    /// By the values of these fields of the items.
    Map(Vec<String>),
}

impl Schema {
    /// Of a field of an object.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// Of the items of a list.
    pub(crate) fn item(&self) -> Option<&Self> {
        self.items.as_deref()
    }

    /// Sets what is missing and has a default. A `null` that may not be counts as missing.
    pub(crate) fn apply_defaults(&self, value: &mut Value) {
        if let Value::Object(fields) = value {
            for (name, schema) in &self.properties {
                let Some(default) = &schema.default else { continue };
                let slot = fields.entry(name.clone()).or_insert(Value::Null);
                if slot.is_null() && !(schema.nullable && default.is_null()) {
                    *slot = default.clone();
                }
            }
            fields.retain(|name, value| {
                !value.is_null()
                    || self.field(name).is_none_or(|schema| schema.nullable || schema.kind.is_none())
            });
            for (name, value) in fields {
                if let Some(schema) = self.field(name) {
                    schema.apply_defaults(value);
                }
            }
        } else if let (Value::Array(items), Some(schema)) = (value, self.item()) {
            items.iter_mut().for_each(|item| schema.apply_defaults(item));
        }
    }

    /// Removes what the schema does not know; returns the paths of what went.
    pub(crate) fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut gone = Vec::new();
        let Value::Object(fields) = object else { return gone };
        // The frame of every object is known, whatever the schema says of it.
        self.prune_fields(fields, "", true, &mut gone);
        gone
    }

    fn prune_value(&self, value: &mut Value, path: &str, gone: &mut Vec<String>) {
        if let Value::Object(fields) = value {
            self.prune_fields(fields, path, self.embedded, gone);
        } else if let (Value::Array(items), Some(schema)) = (value, self.item()) {
            for (i, item) in items.iter_mut().enumerate() {
                schema.prune_value(item, &format!("{path}[{i}]"), gone);
            }
        }
    }

    fn prune_fields(
        &self,
        fields: &mut Map<String, Value>,
        path: &str,
        framed: bool,
        gone: &mut Vec<String>,
    ) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        fields.retain(|name, value| {
            if framed && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                return true;
            }
            match self.field(name) {
                Some(schema) => schema.prune_value(value, &below(name), gone),
                None if self.preserve_unknown || self.kind.is_none() => {}
                None => {
                    gone.push(below(name));
                    return false;
                }
            }
            true
        });
    }

    /// The default of a key field of a list's items: what an item without it is known by.
    pub(crate) fn key_default(&self, key: &str) -> Option<&Value> {
        self.item()?.properties.get(key)?.default.as_ref()
    }
}

#[cfg(test)]
mod tests;
