//! What is in an object, and what changed between two of them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fields::{self, FieldSet};
use crate::schema::{ListKind, Schema};

/// The difference of two objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// A value as managers see it.
pub(super) enum Shape<'a> {
    /// Fields, each with an owner of its own.
    Fields(&'a Map<String, Value>),
    /// Items, each with an owner of its own, by edge.
    Items(Vec<(String, &'a Value)>),
    /// One value.
    Leaf,
}

impl<'a> Shape<'a> {
    pub(super) fn of(value: &'a Value, schema: Option<&Schema>) -> Self {
        if let Value::Object(fields) = value {
            return if schema.is_some_and(|schema| schema.atomic_map) {
                Self::Leaf
            } else {
                Self::Fields(fields)
            };
        }
        let (Value::Array(items), Some(schema)) = (value, schema) else { return Self::Leaf };
        if schema.list == ListKind::Atomic {
            return Self::Leaf;
        }
        Self::Items(items.iter().map(|item| (edge(item, schema), item)).collect())
    }
}

/// The edge to an item of a list that does not merge as a whole.
pub(super) fn edge(item: &Value, schema: &Schema) -> String {
    match &schema.list {
        ListKind::Atomic | ListKind::Set => fields::value(item),
        ListKind::Map(keys) => {
            let known_by = |key: &String| {
                let value =
                    item.get(key).filter(|value| !value.is_null()).or_else(|| schema.key_default(key))?;
                Some((key.clone(), value.clone()))
            };
            fields::keys(&keys.iter().filter_map(known_by).collect())
        }
    }
}

/// Every field that a configuration sets.
pub(super) fn owned(value: &Value, schema: Option<&Schema>) -> FieldSet {
    let mut set = FieldSet::default();
    collect(value, schema, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, schema: Option<&Schema>, path: &mut Vec<String>, set: &mut FieldSet) {
    match Shape::of(value, schema) {
        Shape::Fields(below) if !below.is_empty() => {
            for (name, value) in below {
                path.push(fields::field(name));
                collect(value, schema.and_then(|schema| schema.field(name)), path, set);
                path.pop();
            }
        }
        Shape::Items(items) if !items.is_empty() => {
            for (edge, item) in items {
                path.push(edge);
                set.insert(path);
                collect(item, schema.and_then(Schema::item), path, set);
                path.pop();
            }
        }
        Shape::Fields(_) | Shape::Items(_) | Shape::Leaf => set.insert(path),
    }
}

/// What changed from `old` to `new`.
pub(super) fn compare(old: &Value, new: &Value, schema: Option<&Schema>) -> Changes {
    let mut changes = Changes::default();
    both(old, new, schema, &mut Vec::new(), &mut changes);
    changes
}

fn both(old: &Value, new: &Value, schema: Option<&Schema>, path: &mut Vec<String>, changes: &mut Changes) {
    match (Shape::of(old, schema), Shape::of(new, schema)) {
        (Shape::Fields(old), Shape::Fields(new)) => {
            for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let schema = schema.and_then(|schema| schema.field(name));
                path.push(fields::field(name));
                either(old.get(name), new.get(name), schema, path, changes);
                path.pop();
            }
        }
        (Shape::Items(old), Shape::Items(new)) => {
            let item = schema.and_then(Schema::item);
            let find =
                |items: &[(String, &'_ Value)], edge: &str| items.iter().position(|(other, _)| other == edge);
            let edges: BTreeSet<_> = old.iter().chain(&new).map(|(edge, _)| edge.clone()).collect();
            for edge in edges {
                let old = find(&old, &edge).map(|at| old[at].1);
                let new = find(&new, &edge).map(|at| new[at].1);
                path.push(edge);
                either(old, new, item, path, changes);
                path.pop();
            }
        }
        _ if old != new => changes.modified.insert(path),
        _ => {}
    }
}

fn either(
    old: Option<&Value>,
    new: Option<&Value>,
    schema: Option<&Schema>,
    path: &mut Vec<String>,
    changes: &mut Changes,
) {
    match (old, new) {
        (Some(old), Some(new)) => both(old, new, schema, path, changes),
        (None, Some(new)) => every(new, schema, path, &mut changes.added),
        (Some(old), None) => every(old, schema, path, &mut changes.removed),
        (None, None) => {}
    }
}

/// A value and all that is below it.
fn every(value: &Value, schema: Option<&Schema>, path: &mut Vec<String>, set: &mut FieldSet) {
    set.insert(path);
    match Shape::of(value, schema) {
        Shape::Fields(below) => {
            for (name, value) in below {
                path.push(fields::field(name));
                every(value, schema.and_then(|schema| schema.field(name)), path, set);
                path.pop();
            }
        }
        Shape::Items(items) => {
            for (edge, item) in items {
                path.push(edge);
                every(item, schema.and_then(Schema::item), path, set);
                path.pop();
            }
        }
        Shape::Leaf => {}
    }
}
