//! As much of OpenAPI as `kubectl` reads: which kinds take which patches and parameters, and the schemas of custom
//! resources. Pure.

pub(crate) mod v2;

use serde_json::{Map, Value, json};

use crate::catalog::Catalog;
use crate::kinds::{self, Resource};
use crate::path::GroupVersion;

/// The `info` of every document.
fn info() -> Value {
    json!({"title": "kube-lite", "version": "v1.35.0"})
}

/// `/openapi/v3`: where the documents are.
pub(crate) fn index(catalog: &Catalog) -> Value {
    let versions = catalog.groups().into_values().flatten();
    let paths: Map<_, _> = versions
        .map(|version| {
            (version.path(), json!({"serverRelativeURL": format!("/openapi/v3/{}", version.path())}))
        })
        .collect();
    json!({ "paths": paths })
}

/// `/openapi/v3/…`: one version of a group.
pub(crate) fn document(catalog: &Catalog, version: &GroupVersion) -> Option<Value> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in catalog.of_version(version) {
        schemas.insert(schema_name(resource), schema(catalog, resource));
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let all = format!("/{}{scope}/{}", version.path(), resource.plural);
        paths.insert(all.clone(), json!({"get": operation(resource, "list", None), "post": operation(resource, "post", Some("application/json"))}));
        paths.insert(format!("{all}/{{name}}"), json!({
            "get": operation(resource, "get", None), "put": operation(resource, "put", Some("application/json")),
            "delete": operation(resource, "delete", None), "patch": patch(resource),
        }));
    }
    let document = json!({
        "openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas},
    });
    (!document["paths"].as_object()?.is_empty()).then_some(document)
}

/// `/openapi/v2` for who asks for JSON.
pub(crate) fn plain_v2(catalog: &Catalog) -> Value {
    let definitions: Map<_, _> =
        catalog.all().map(|resource| (schema_name(resource), schema(catalog, resource))).collect();
    json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": definitions})
}

fn kind(resource: &Resource) -> Value {
    json!({"group": resource.version.group, "version": resource.version.version, "kind": resource.kind})
}

/// `io.k8s.discovery.v1.EndpointSlice`
fn schema_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> =
        resource.version.group.split('.').filter(|part| !part.is_empty()).rev().collect();
    parts.extend([resource.version.version.as_str(), resource.kind.as_str()]);
    parts.join(".")
}

fn schema(catalog: &Catalog, resource: &Resource) -> Value {
    let definition = catalog.definition(resource);
    let found =
        definition.and_then(|definition| kinds::schema_of(definition, &resource.version.version)).cloned();
    let mut schema = found.unwrap_or_else(|| json!({"type": "object"}));
    schema["x-kubernetes-group-version-kind"] = json!([kind(resource)]);
    schema
}

fn operation(resource: &Resource, action: &str, body: Option<&str>) -> Value {
    let reference = json!({"$ref": format!("#/components/schemas/{}", schema_name(resource))});
    let mut operation = json!({
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind(resource),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
    });
    if let Some(body) = body {
        operation["parameters"] = parameters(&["dryRun", "fieldManager", "fieldValidation"]);
        operation["requestBody"] = json!({"content": {body: {"schema": reference}}, "required": true});
    }
    operation
}

fn parameters(names: &[&str]) -> Value {
    let parameter =
        |name: &&str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    names.iter().map(parameter).collect()
}

/// Strategic merge patches are taken but not named: `kubectl` then makes them by what it knows of the kinds itself,
/// instead of by schemas, which are not here in full.
fn patch(resource: &Resource) -> Value {
    let mut operation = operation(resource, "patch", Some("application/merge-patch+json"));
    operation["parameters"] = parameters(&["dryRun", "fieldManager", "fieldValidation", "force"]);
    for body in ["application/json-patch+json", "application/apply-patch+yaml"] {
        operation["requestBody"]["content"][body] = json!({"schema": {"type": "object"}});
    }
    operation
}
