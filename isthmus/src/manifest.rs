//! Objects in files, as `kubectl apply` takes them: read with what is wrong named by file, line and field, and applied.

use crate::evidence::kube::Api;
use crate::exit::Usage;
use anyhow::{Context as _, anyhow};
use http::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Who owns the fields of what is applied.
const MANAGER: &str = "isthmus-manifest";

/// An object of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    value: Value,
    /// `file:line`, where its document begins.
    at: String,
}

/// The objects of all files.
///
/// # Errors
/// [`Usage`] with the file, the line and the field that is wrong.
pub(crate) fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for file in files {
        let wrong = |error: String| Usage::error(format!("--manifest {error}"));
        let text =
            std::fs::read_to_string(file).map_err(|error| wrong(format!("{}: {error}", file.display())))?;
        objects.extend(parse(&text, file).map_err(wrong)?);
    }
    Ok(objects)
}

fn parse(text: &str, file: &Path) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    for (first, document) in documents(text) {
        let place = |line: usize| format!("{}:{line}", file.display());
        let value: Value = serde_yaml_ng::from_str(&document).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            // Its own line is that of the document.
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or(&message);
            format!("{}: {what}", place(first + line - 1))
        })?;
        let at = place(first);
        if value.is_null() {
            continue;
        }
        if value["kind"] == "List" {
            let items = value["items"].as_array();
            let items = items.ok_or_else(|| format!("{at}: items: expected a list"))?;
            for (number, item) in items.iter().enumerate() {
                objects.push(checked(item.clone(), &at, &format!("items[{number}]."))?);
            }
        } else {
            objects.push(checked(value, &at, "")?);
        }
    }
    Ok(objects)
}

fn checked(value: Value, at: &str, prefix: &str) -> Result<Object, String> {
    if !value.is_object() {
        return Err(format!("{at}: expected an object with apiVersion, kind and metadata.name"));
    }
    for (pointer, field) in
        [("/apiVersion", "apiVersion"), ("/kind", "kind"), ("/metadata/name", "metadata.name")]
    {
        match value.pointer(pointer) {
            Some(Value::String(text)) if !text.is_empty() => {}
            Some(other) => return Err(format!("{at}: {prefix}{field}: expected a name, found {other}")),
            None => return Err(format!("{at}: {prefix}{field}: expected a name, found nothing")),
        }
    }
    Ok(Object { value, at: at.to_owned() })
}

/// The documents of a text, each with the number of its first line.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (number, line) in (1..).zip(text.lines()) {
        if line == "---" || line.starts_with("--- ") {
            documents.push((number + 1, String::new()));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents
}

/// Applies objects in their order.
///
/// # Errors
/// The first that is refused, with its place in the file and what the API server says, which names the field.
pub(crate) async fn apply(api: &Api, objects: &[Object]) -> anyhow::Result<()> {
    for object in objects {
        apply_one(api, &object.value).await.with_context(|| format!("--manifest {}", object.at))?;
    }
    Ok(())
}

async fn apply_one(api: &Api, object: &Value) -> anyhow::Result<()> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let served = api.get(&group).await?.unwrap_or_default();
    let resources = served["resources"].as_array().into_iter().flatten();
    let resource = resources
        .into_iter()
        .find(|resource| {
            resource["kind"] == kind && resource["name"].as_str().is_some_and(|name| !name.contains('/'))
        })
        .ok_or_else(|| anyhow!("kind: the API has no {kind} in {version}"))?;
    let plural = resource["name"].as_str().unwrap_or_default();
    let namespace = match (resource["namespaced"].as_bool(), text("/metadata/namespace")) {
        (Some(true), "") => "namespaces/default/".to_owned(),
        (Some(true), namespace) => format!("namespaces/{namespace}/"),
        (Some(false) | None, _) => String::new(),
    };
    let path = format!(
        "{group}/{namespace}{plural}/{name}?fieldManager={MANAGER}&force=true&fieldValidation=Strict"
    );
    api.send(Method::PATCH, &path, "application/apply-patch+yaml", object).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_become_objects_with_their_places() {
        let text = "# a comment\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n";
        let objects = parse(text, Path::new("f.yaml")).unwrap();
        let found: Vec<_> = objects
            .iter()
            .map(|object| (object.at.as_str(), object.value["kind"].as_str().unwrap()))
            .collect();
        assert_eq!(found, [("f.yaml:3", "Namespace"), ("f.yaml:8", "ConfigMap")]);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_field() {
        for (text, expected) in [
            ("a: [", "f.yaml:"),
            ("apiVersion: v1\nkind: A\nmetadata: {name: b}\n---\na: b\n  c: d\n", "f.yaml:6: "),
            ("apiVersion: v1\nkind: A\n---\n", "f.yaml:1: metadata.name: expected a name, found nothing"),
            ("kind: A\nmetadata: {name: b}\n", "f.yaml:1: apiVersion: expected a name"),
            (
                "---\napiVersion: v1\nkind: A\nmetadata: {name: 3}\n",
                "f.yaml:2: metadata.name: expected a name, found 3",
            ),
            ("apiVersion: v1\nkind: List\nitems: [{}]\n", "f.yaml:1: items[0].apiVersion: expected a name"),
            ("apiVersion: v1\nkind: List\nitems: a\n", "f.yaml:1: items: expected a list"),
            ("- a\n", "f.yaml:1: expected an object"),
        ] {
            let error = parse(text, Path::new("f.yaml")).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
