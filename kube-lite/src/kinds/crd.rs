//! CustomResourceDefinitions, and the resources that they define.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::Column;
use super::{Resource, metadata};
use crate::jsonpath::JsonPath;
use crate::object::{self, items, text};
use crate::path::GroupVersion;
use crate::schema::Schema;
use crate::select::{SelectableField, is_dns_label, is_dns_subdomain};
use crate::status::Cause;

pub(super) const GROUP: &str = "apiextensions.k8s.io";
pub(super) const PLURAL: &str = "customresourcedefinitions";

pub(super) fn default(definition: &mut Value) {
    let spec = object::child(definition, "spec");
    object::default(spec, "conversion", json!({"strategy": "None"}));
    let names = object::fields(spec.entry("names").or_insert(Value::Null));
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    object::default_text(names, "singular", &kind.to_lowercase());
    object::default_text(names, "listKind", &format!("{kind}List"));
}

pub(super) fn prepare(definition: &mut Value, old: Option<&Value>) {
    let mut status = match old {
        Some(old) => old.get("status").cloned().unwrap_or_default(),
        None => json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []}),
    };
    let versions = items(definition, "/spec/versions");
    let storage = versions.iter().find(|version| version.get("storage") == Some(&Value::Bool(true)));
    if let Some(storage) = storage.and_then(|version| version.get("name")) {
        let stored = object::fields(&mut status).entry("storedVersions").or_insert_with(|| json!([]));
        if let Some(stored) = stored.as_array_mut()
            && !stored.contains(storage)
        {
            stored.push(storage.clone());
        }
    }
    object::fields(definition).insert("status".to_owned(), status);
}

/// Says in the status that the resources are served.
pub(crate) fn accept(definition: &mut Value, now: Timestamp) {
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let time = object::time(now);
    let status = object::child(definition, "status");
    status.insert("acceptedNames".to_owned(), names);
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if conditions.as_array().is_none_or(Vec::is_empty) {
        let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": time, "reason": reason, "message": message});
        *conditions = json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]);
    }
}

pub(super) fn validate(definition: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let text = |pointer: &str| text(definition, pointer);
    let (group, plural, scope) = (text("/spec/group"), text("/spec/names/plural"), text("/spec/scope"));
    for (field, value) in [
        ("spec.group", group),
        ("spec.scope", scope),
        ("spec.names.plural", plural),
        ("spec.names.kind", text("/spec/names/kind")),
    ] {
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    // Without a dot it could be `core`, which is where the core group is stored.
    if !group.is_empty() && (!is_dns_subdomain(group) || !group.contains('.')) {
        causes.push(Cause::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
    }
    if super::BUILT_IN.iter().any(|built_in| built_in.group == group && built_in.plural == plural) {
        causes.push(Cause::invalid("spec.names.plural", &plural.into(), "is built in"));
    }
    if !plural.is_empty() && !is_dns_label(plural) {
        causes.push(Cause::invalid("spec.names.plural", &plural.into(), "must be a DNS label"));
    }
    let name = object::name(definition);
    if name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &name.into(),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let scopes = ["Cluster", "Namespaced"].map(Value::from);
    if !scope.is_empty() && !scopes.iter().any(|allowed| allowed == scope) {
        causes.push(Cause::not_supported("spec.scope", &scope.into(), &scopes));
    }
    if text("/spec/conversion/strategy") != "None" {
        let strategy = text("/spec/conversion/strategy").into();
        let why = "kube-lite calls no webhooks; the only strategy is \"None\"";
        causes.push(Cause::invalid("spec.conversion.strategy", &strategy, why));
    }
    let versions = items(definition, "/spec/versions");
    let is = |version: &Value, flag: &str| version.get(flag) == Some(&Value::Bool(true));
    if versions.iter().filter(|version| is(version, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &Value::from(versions), why));
    }
    for (i, version) in versions.iter().enumerate() {
        let field = format!("spec.versions[{i}].schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            None => causes.push(Cause::required(field, "schemas are required")),
            Some(schema) => {
                if let Err(error) = Schema::read(schema) {
                    let place = if error.path.is_empty() { field } else { format!("{field}.{}", error.path) };
                    causes.push(Cause::invalid(place, &Value::Null, error.why));
                }
            }
        }
    }
    if let Some(old) = old {
        for pointer in ["/spec/group", "/spec/scope", "/spec/names/plural", "/spec/names/kind"] {
            if old.pointer(pointer) != definition.pointer(pointer) {
                let value = definition.pointer(pointer).cloned().unwrap_or_default();
                causes.push(Cause::invalid(pointer[1..].replace('/', "."), &value, "field is immutable"));
            }
        }
    }
    causes
}

/// Whether a definition carries rules that are not evaluated here; the caller is warned.
pub(crate) fn uses_expressions(definition: &Value) -> bool {
    items(definition, "/spec/versions").iter().any(Schema::has_expressions)
}

/// The full name of the definition of a resource.
pub(crate) fn definition(resource: &Resource) -> String {
    format!("{}.{}", resource.plural, resource.version.group)
}

/// The schema as the definition has it, for OpenAPI.
pub(crate) fn schema_of<'a>(definition: &'a Value, version: &str) -> Option<&'a Value> {
    let versions = items(definition, "/spec/versions");
    let version = versions.iter().find(|candidate| text(candidate, "/name") == version)?;
    version.pointer("/schema/openAPIV3Schema")
}

/// The resources, one for each served version, of a definition that has been accepted.
pub(crate) fn resources_of(definition: &Value) -> Vec<Resource> {
    let versions = items(definition, "/spec/versions");
    let is = |version: &Value, flag: &str| version.get(flag) == Some(&Value::Bool(true));
    let storage = versions.iter().find(|version| is(version, "storage"));
    let Some(storage) = storage.map(|version| text(version, "/name")) else { return Vec::new() };
    let served = versions.iter().filter(|version| is(version, "served"));
    served.filter_map(|version| resource(definition, version, storage)).collect()
}

fn resource(definition: &Value, version: &Value, storage: &str) -> Option<Resource> {
    let name = |field: &str| text(definition, &format!("/spec/names/{field}")).to_owned();
    let names = |field: &str| {
        let names = items(definition, &format!("/spec/names/{field}")).iter();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    // It was checked when it was stored.
    let mut schema = Schema::read(version.pointer("/schema/openAPIV3Schema")?).ok()?;
    let frame = Schema::from_lines(metadata::SHAPE);
    schema.properties.extend(frame.properties);
    let selectable = items(version, "/selectableFields").iter().filter_map(|field| {
        let path = text(field, "/jsonPath");
        Some(SelectableField { label: path.trim_start_matches('.').to_owned(), path: JsonPath::read(path)? })
    });
    Some(Resource {
        version: GroupVersion {
            group: text(definition, "/spec/group").to_owned(),
            version: text(version, "/name").to_owned(),
        },
        kind: name("kind"),
        list_kind: name("listKind"),
        plural: name("plural"),
        singular: name("singular"),
        short_names: names("shortNames"),
        categories: names("categories"),
        namespaced: text(definition, "/spec/scope") == "Namespaced",
        storage_version: storage.to_owned(),
        has_status: version.pointer("/subresources/status").is_some(),
        has_generation: true,
        schema: Arc::new(schema),
        columns: columns(version),
        selectable: selectable.collect(),
        built_in: None,
    })
}

fn columns(version: &Value) -> Vec<Column> {
    let column = |name: &str, kind: &str, format: &str, description: &str, priority, path: &str| Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: format.to_owned(),
        description: description.to_owned(),
        priority,
        path: JsonPath::read(path),
    };
    let mut columns = vec![column("Name", "string", "name", "", 0, ".metadata.name")];
    let more = items(version, "/additionalPrinterColumns");
    if more.is_empty() {
        columns.push(column("Age", "date", "", "", 0, ".metadata.creationTimestamp"));
    }
    columns.extend(more.iter().map(|wanted| {
        let text = |pointer| text(wanted, pointer);
        let priority = wanted.get("priority").and_then(Value::as_i64).unwrap_or_default();
        column(
            text("/name"),
            text("/type"),
            text("/format"),
            text("/description"),
            priority,
            text("/jsonPath"),
        )
    }));
    columns
}
