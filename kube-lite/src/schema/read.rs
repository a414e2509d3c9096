//! Reading schemas: from a CRD's `openAPIV3Schema`, and from the short lines for built-ins.

use std::collections::BTreeMap;

use serde_json::Value;

use super::validate::Rules;
use super::{Kind, ListKind, Schema};

/// What a CRD's schema has that is wrong: where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SchemaError {
    pub(crate) path: String,
    pub(crate) why: String,
}

impl Schema {
    /// Reads the `openAPIV3Schema` of a CRD's version.
    ///
    /// # Errors
    /// What is not structural or cannot be evaluated.
    pub(crate) fn read(schema: &Value) -> Result<Self, SchemaError> {
        read(schema, "")
    }

    /// Whether any of it carries rules in CEL, which nobody evaluates here.
    pub(crate) fn has_expressions(schema: &Value) -> bool {
        match schema {
            Value::Object(fields) => {
                fields.contains_key("x-kubernetes-validations") || fields.values().any(Self::has_expressions)
            }
            Value::Array(items) => items.iter().any(Self::has_expressions),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }

    /// Reads lines like `spec.ports[port,protocol=TCP]`: a path of fields, where `[keys]` after a field makes it a list
    /// that merges by these keys (with their defaults), `[set]` one that merges by value, and `!` one value.
    pub(crate) fn from_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut root = Self::default();
        for line in lines {
            let mut node = &mut root;
            for segment in line.trim().split('.') {
                let (segment, atomic) =
                    segment.strip_suffix('!').map_or((segment, false), |segment| (segment, true));
                let (name, keys) =
                    segment.split_once('[').map_or((segment, None), |(name, keys)| (name, Some(keys)));
                // `*` is every value of a map.
                node = if name == "*" {
                    node.additional.get_or_insert_default()
                } else {
                    node.properties.entry(name.to_owned()).or_default()
                };
                if let Some(keys) = keys {
                    node = node.list_of(keys.trim_end_matches(']'));
                }
                node.atomic_map |= atomic;
            }
        }
        root
    }

    /// Makes it a list by `keys`; returns the schema of its items.
    fn list_of(&mut self, keys: &str) -> &mut Self {
        let items = self.items.get_or_insert_default();
        if keys == "set" {
            self.list = ListKind::Set;
        } else if !keys.is_empty() {
            let mut names = Vec::new();
            for key in keys.split(',') {
                let (name, default) =
                    key.split_once('=').map_or((key, None), |(name, value)| (name, Some(value)));
                names.push(name.to_owned());
                if let Some(default) = default {
                    items.properties.entry(name.to_owned()).or_default().default = Some(default.into());
                }
            }
            self.list = ListKind::Map(names);
        }
        items
    }
}

fn read(schema: &Value, path: &str) -> Result<Schema, SchemaError> {
    let wrong = |why: String| SchemaError { path: path.to_owned(), why };
    let fields = schema.as_object().ok_or_else(|| wrong("a schema must be an object".to_owned()))?;
    if let Some(reference) = fields.get("$ref") {
        return Err(wrong(format!("$ref {reference} is not supported in a structural schema")));
    }
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or_default();
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let kind = match fields.get("type").and_then(Value::as_str) {
        None | Some("") => None,
        Some("object") => Some(Kind::Object),
        Some("array") => Some(Kind::Array),
        Some("string") => Some(Kind::String),
        Some("integer") => Some(Kind::Integer),
        Some("number") => Some(Kind::Number),
        Some("boolean") => Some(Kind::Boolean),
        Some(other) => return Err(wrong(format!("unknown type {other:?}"))),
    };
    let int_or_string = flag("x-kubernetes-int-or-string");
    let preserve_unknown = flag("x-kubernetes-preserve-unknown-fields");
    if kind.is_none() && !int_or_string && !preserve_unknown {
        return Err(wrong("must not be empty for specified object fields".to_owned()));
    }
    let mut properties = BTreeMap::new();
    for (name, schema) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        properties.insert(name.clone(), read(schema, &below(&format!("properties[{name}]")))?);
    }
    let additional = match fields.get("additionalProperties") {
        None | Some(Value::Bool(false)) => None,
        // Anything goes.
        Some(Value::Bool(true)) => Some(Box::new(Schema { preserve_unknown: true, ..Schema::default() })),
        Some(schema) => Some(Box::new(read(schema, &below("additionalProperties"))?)),
    };
    let items = fields.get("items").map(|schema| read(schema, &below("items")).map(Box::new)).transpose()?;
    let list = match fields.get("x-kubernetes-list-type").and_then(Value::as_str) {
        None | Some("atomic") => ListKind::Atomic,
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = fields.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys
                .into_iter()
                .flatten()
                .filter_map(|key| key.as_str().map(str::to_owned))
                .collect::<Vec<_>>();
            if keys.is_empty() {
                return Err(wrong("a list of type map needs x-kubernetes-list-map-keys".to_owned()));
            }
            ListKind::Map(keys)
        }
        Some(other) => return Err(wrong(format!("unknown x-kubernetes-list-type {other:?}"))),
    };
    let rules = Rules::read(fields).map_err(wrong)?;
    Ok(Schema {
        kind,
        properties,
        additional,
        items,
        default: fields.get("default").cloned(),
        nullable: flag("nullable"),
        int_or_string,
        preserve_unknown,
        embedded: flag("x-kubernetes-embedded-resource"),
        list,
        atomic_map: fields.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
        rules: (!rules.is_empty()).then(|| Box::new(rules)),
    })
}
