//! The shapes in which objects go out: whole, as rows of a table, or metadata only. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{Resource, by_path};
use crate::object;
use crate::status::{Failure, Result};

/// What the client wants to see of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    Table(RowObject),
    Metadata,
}

/// What goes with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowObject {
    None,
    Metadata,
    Object,
}

/// Discovery in one document.
pub(crate) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The parameter of a clause of an Accept header.
fn parameter<'a>(clause: &'a str, name: &str) -> Option<&'a str> {
    clause.split(';').skip(1).find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The clauses of an Accept header that name JSON, best first.
fn json_clauses(accept: &str) -> impl Iterator<Item = &str> {
    let clauses = accept.split(',').map(str::trim);
    clauses.filter(|clause| {
        let kind = clause.split(';').next().unwrap_or_default().trim();
        matches!(kind, "application/json" | "application/*" | "*/*")
    })
}

/// Whether discovery is wanted in one document.
pub(crate) fn wants_aggregated(accept: &str) -> bool {
    let mut clauses = accept.split(',').map(str::trim);
    clauses.any(|clause| {
        parameter(clause, "as") == Some("APIGroupDiscoveryList")
            && parameter(clause, "v") == Some("v2")
            && clause.starts_with("application/json")
    })
}

impl View {
    /// Reads an Accept header and the `includeObject` parameter.
    ///
    /// # Errors
    /// Nothing in it can be had.
    pub(crate) fn read(accept: &str, include: &str) -> Result<Self> {
        if accept.trim().is_empty() {
            return Ok(Self::Whole);
        }
        for clause in json_clauses(accept) {
            let ours = parameter(clause, "g") == Some("meta.k8s.io") && parameter(clause, "v") == Some("v1");
            match parameter(clause, "as") {
                None => return Ok(Self::Whole),
                Some("Table") if ours => {
                    return Ok(Self::Table(match include {
                        "None" => RowObject::None,
                        "Object" => RowObject::Object,
                        _ => RowObject::Metadata,
                    }));
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if ours => {
                    return Ok(Self::Metadata);
                }
                Some(_) => {}
            }
        }
        Err(Failure::not_acceptable(
            "only the following media types are accepted: application/json, application/json;as=Table;g=meta.k8s.io;v=v1",
        ))
    }

    /// One object.
    pub(crate) fn one(self, resource: &Resource, object: Value, now: Timestamp) -> Value {
        match self {
            Self::Whole => object,
            Self::Metadata => metadata_only(&object),
            Self::Table(row) => {
                let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                table(resource, &[object], row, json!({"resourceVersion": version}), true, now)
            }
        }
    }

    /// An object of a watch; only the `first` names the columns.
    pub(crate) fn watched(self, resource: &Resource, object: Value, first: bool, now: Timestamp) -> Value {
        match self {
            Self::Table(row) => {
                let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                table(resource, &[object], row, json!({"resourceVersion": version}), first, now)
            }
            Self::Whole | Self::Metadata => self.one(resource, object, now),
        }
    }

    /// A list, with its metadata.
    pub(crate) fn list(
        self,
        resource: &Resource,
        mut items: Vec<Value>,
        metadata: Value,
        now: Timestamp,
    ) -> Value {
        match self {
            Self::Whole => {
                if resource.built_in.is_some() {
                    // The list says what they are.
                    for item in &mut items {
                        let fields = object::fields(item);
                        fields.remove("kind");
                        fields.remove("apiVersion");
                    }
                }
                json!({
                    "kind": resource.list_kind, "apiVersion": resource.version.api_version(),
                    "metadata": metadata, "items": items,
                })
            }
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items.iter().map(metadata_only).collect::<Vec<_>>(),
            }),
            Self::Table(row) => table(resource, &items, row, metadata, true, now),
        }
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

fn table(
    resource: &Resource,
    objects: &[Value],
    row: RowObject,
    metadata: Value,
    heading: bool,
    now: Timestamp,
) -> Value {
    let column = |column: &crate::kinds::Column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    };
    let columns: Vec<_> = resource.columns.iter().filter(|_| heading).map(column).collect();
    let rows = objects.iter().map(|object| {
        let cells = match resource.built_in {
            Some(built_in) => (built_in.cells)(object, now),
            None => by_path(&resource.columns, object, now),
        };
        let object = match row {
            RowObject::None => Value::Null,
            RowObject::Metadata => metadata_only(object),
            RowObject::Object => object.clone(),
        };
        json!({"cells": cells, "object": object})
    });
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_clause_that_can_be_had_wins() {
        const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, wanted) in [
            ("", Some(View::Whole)),
            ("*/*", Some(View::Whole)),
            (KUBECTL, Some(View::Table(RowObject::Metadata))),
            ("application/vnd.kubernetes.protobuf, application/json", Some(View::Whole)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(View::Metadata)),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            assert_eq!(View::read(accept, "").ok(), wanted, "{accept}");
        }
        assert!(wants_aggregated(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
        ));
        assert!(!wants_aggregated("application/json"));
    }
}
