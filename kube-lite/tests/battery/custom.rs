//! Definitions and their objects.

use serde_json::{Value, json};

use crate::client::{Answer, Api, MERGE, STRATEGIC, names};

fn is_established(answer: &Answer) -> bool {
    let conditions = answer.body.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
    })
}

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage, "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Tags", "type": "string", "jsonPath": ".spec.tags", "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
            "spec": {"type": "object", "required": ["color"], "properties": {
                "color": {"type": "string", "enum": ["red", "green"]},
                "size": {"type": "integer", "format": "int32", "minimum": 1, "default": 3},
                "tags": {"type": "array", "maxItems": 2, "items": {"type": "string", "pattern": "^[a-z]+$"}},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string"}, "protocol": {"type": "string", "default": "TCP"}, "target": {"x-kubernetes-int-or-string": true}}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "note": {"type": "string", "nullable": true, "maxLength": 3},
            }},
            "status": {"type": "object", "properties": {"phase": {"type": "string"},
                "conditions": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
        }}},
    })
}

/// A definition of a group of the case's own.
fn definition(api: &Api, versions: Value) -> Value {
    let group = group(api);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wi"]}, "versions": versions},
    })
}

fn group(api: &Api) -> String {
    format!("{}.example.com", api.namespace)
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Installs it; returns the path of its objects in `v1`.
async fn install(api: &Api, versions: Value) -> String {
    api.post(DEFINITIONS, &definition(api, versions)).await.ok();
    let path = format!("{DEFINITIONS}/widgets.{}", group(api));
    api.until(&path, is_established).await;
    let objects = api.group(&format!("{}/v1", group(api)), "widgets");
    // The original needs a little longer, and says 404 or 429 until then.
    api.until(&objects, |answer| answer.code == 200).await;
    objects
}

fn widget(api: &Api, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{}/v1", group(api)), "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

pub(crate) async fn a_definition_is_served_once_it_is_established(api: &Api) {
    let objects = install(api, json!([version("v1", true)])).await;
    let path = format!("{DEFINITIONS}/widgets.{}", group(api));
    let stored = api.get(&path).await.ok();
    assert_eq!(
        stored["spec"]["names"],
        json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wi"]})
    );
    assert_eq!(
        (&stored["spec"]["conversion"], &stored["status"]["storedVersions"]),
        (&json!({"strategy": "None"}), &json!(["v1"]))
    );
    assert_eq!(stored["status"]["acceptedNames"], stored["spec"]["names"]);
    let listed = api.get(&format!("/apis/{}/v1", group(api))).await.ok();
    let found = listed["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|resource| resource["name"] == "widgets")
        .unwrap();
    assert_eq!((&found["kind"], &found["shortNames"]), (&json!("Widget"), &json!(["wi"])));
    let list = api.get(&objects).await.ok();
    assert_eq!((&list["kind"], &list["items"]), (&json!("WidgetList"), &json!([])));
    api.post(&objects, &widget(api, "w", json!({"color": "red"}))).await.ok();
    let list = api.get(&objects).await.ok();
    assert_eq!((names(&list), &list["items"][0]["kind"]), (vec!["w".to_owned()], &json!("Widget")));
    api.delete(&path, &json!({})).await.ok();
    api.until(&objects, |answer| answer.code == 404).await;
    api.until(&path, |answer| answer.code == 404).await;
}

pub(crate) async fn objects_are_pruned_defaulted_and_validated(api: &Api) {
    let objects = install(api, json!([version("v1", true)])).await;
    let spec = json!({"color": "red", "extra": 1, "ports": [{"name": "a", "x": 1}], "free": {"any": [1]}});
    let answer = api.post(&objects, &widget(api, "w", spec.clone())).await;
    assert!(answer.warnings.iter().any(|warning| warning.contains("spec.extra")), "{:?}", answer.warnings);
    let made = answer.ok();
    assert_eq!(
        made["spec"],
        json!({"color": "red", "size": 3, "ports": [{"name": "a", "protocol": "TCP"}], "free": {"any": [1]}})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    api.post(&format!("{objects}?fieldValidation=Strict"), &widget(api, "x", spec))
        .await
        .failed(400, "BadRequest");
    for (name, spec) in [
        ("required", json!({})),
        ("enum", json!({"color": "blue"})),
        ("type", json!({"color": 1})),
        ("minimum", json!({"color": "red", "size": 0})),
        ("integer", json!({"color": "red", "size": 1.5})),
        ("maxItems", json!({"color": "red", "tags": ["a", "b", "c"]})),
        ("pattern", json!({"color": "red", "tags": ["A"]})),
        ("maxLength", json!({"color": "red", "note": "long"})),
        ("keys", json!({"color": "red", "ports": [{"name": "a"}, {"name": "a"}]})),
        ("int or string", json!({"color": "red", "ports": [{"name": "a", "target": 1.5}]})),
    ] {
        let answer = api.post(&objects, &widget(api, "x", spec)).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (422, &json!("Invalid")),
            "{name}: {}",
            answer.body
        );
    }
    let message =
        api.post(&objects, &widget(api, "x", json!({"color": "blue"}))).await.failed(422, "Invalid");
    assert!(
        message.contains("spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\""),
        "{message}"
    );
    let nulls = json!({"color": "red", "note": null, "size": null, "tags": null, "ports": null});
    let made_of_nulls = api.post(&objects, &widget(api, "n", nulls)).await.ok();
    assert_eq!(made_of_nulls["spec"]["size"], 3);
    assert!(made_of_nulls["spec"].get("tags").is_none(), "a null that may not be counts as missing");
    let path = format!("{objects}/w");
    let mut unversioned = made.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    api.put(&path, &unversioned).await.failed(422, "Invalid");
    api.patch(&path, STRATEGIC, &json!({"spec": {"size": 4}})).await.failed(415, "UnsupportedMediaType");
    assert_eq!(
        api.patch(&path, MERGE, &json!({"spec": {"size": 4}})).await.ok()["metadata"]["generation"],
        2
    );
    let applied = widget(api, "w", json!({"color": "red", "ports": [{"name": "b"}]}));
    let applied = api.apply(&path, "one", false, &applied).await.ok();
    assert_eq!(
        applied["spec"]["ports"],
        json!([{"name": "a", "protocol": "TCP"}, {"name": "b", "protocol": "TCP"}])
    );
}

pub(crate) async fn definitions_must_be_sound(api: &Api) {
    let edited = |pointer: &str, value: Value| {
        let mut definition = definition(api, json!([version("v1", true)]));
        *definition.pointer_mut(pointer).unwrap() = value;
        definition
    };
    for (name, definition) in [
        ("the name", edited("/metadata/name", json!("other.example.com"))),
        ("a group without a dot", edited("/spec/group", json!("core"))),
        ("the scope", edited("/spec/scope", json!("Everywhere"))),
        ("no storage version", edited("/spec/versions/0/storage", json!(false))),
        ("no schema", edited("/spec/versions/0/schema", json!({}))),
        (
            "an unknown type",
            edited("/spec/versions/0/schema/openAPIV3Schema/properties/spec/type", json!("thing")),
        ),
        (
            "a field without a type",
            edited("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color", json!({})),
        ),
    ] {
        let answer = api.post(DEFINITIONS, &definition).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (422, &json!("Invalid")),
            "{name}: {}",
            answer.body
        );
    }
}

pub(crate) async fn columns_come_from_the_definition(api: &Api) {
    let objects = install(api, json!([version("v1", true)])).await;
    api.post(&objects, &widget(api, "w", json!({"color": "red", "tags": ["a", "b"]}))).await.ok();
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch(&format!("{objects}/w/status"), MERGE, &status).await.ok();
    let table = api.table(&objects).await;
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].clone(), c["priority"].clone()))
        .collect();
    assert_eq!(
        columns,
        [("Name", 0), ("Size", 0), ("Ready", 0), ("Tags", 1), ("Age", 0)]
            .map(|(name, priority)| (json!(name), json!(priority)))
    );
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..4], [json!("w"), json!(3), json!("True"), json!("[\"a\",\"b\"]")]);
    assert!(cells[4].as_str().unwrap().ends_with('s'), "{cells:?}");
    let table = api.table(DEFINITIONS).await;
    assert_eq!(table["columnDefinitions"][1]["name"], "Created At");
}

pub(crate) async fn the_subresource_status_needs_to_be_declared(api: &Api) {
    let mut without = version("v1", true);
    without.as_object_mut().unwrap().remove("subresources");
    let objects = install(api, json!([without])).await;
    let mut object = widget(api, "w", json!({"color": "red"}));
    object["status"] = json!({"phase": "Up"});
    assert_eq!(api.post(&objects, &object).await.ok()["status"], json!({"phase": "Up"}));
    api.get(&format!("{objects}/w/status")).await.failed(404, "NotFound");
    let path = format!("{DEFINITIONS}/widgets.{}", group(api));
    let mut stored = api.get(&path).await.ok();
    stored["spec"]["versions"] = json!([version("v1", true)]);
    api.put(&path, &stored).await.ok();
    api.until(&format!("{objects}/w/status"), |answer| answer.code == 200).await;
    let ignored = api.patch(&format!("{objects}/w"), MERGE, &json!({"status": {"phase": "Down"}})).await.ok();
    assert_eq!((&ignored["status"]["phase"], &ignored["metadata"]["generation"]), (&json!("Up"), &json!(1)));
    let written = api
        .patch(
            &format!("{objects}/w/status"),
            MERGE,
            &json!({"status": {"phase": "Down"}, "spec": {"size": 9}, "metadata": {"labels": {"a": "b"}}}),
        )
        .await
        .ok();
    assert_eq!(
        (&written["status"]["phase"], &written["spec"]["size"], written["metadata"].get("labels")),
        (&json!("Down"), &json!(3), None)
    );
    api.post(&objects, &{
        let mut w = widget(api, "v", json!({"color": "red"}));
        w["status"] = json!({"phase": "Up"});
        w
    })
    .await
    .ok();
    assert_eq!(api.get(&format!("{objects}/v")).await.ok().get("status"), None);
}

pub(crate) async fn versions_are_converted_by_name(api: &Api) {
    let objects = install(api, json!([version("v1", true), version("v1beta1", false)])).await;
    let older = api.group(&format!("{}/v1beta1", group(api)), "widgets");
    api.until(&older, |answer| answer.code == 200).await;
    api.post(&objects, &widget(api, "w", json!({"color": "red"}))).await.ok();
    let seen = api.get(&format!("{older}/w")).await.ok();
    assert_eq!(
        (&seen["apiVersion"], &seen["spec"]["color"]),
        (&json!(format!("{}/v1beta1", group(api))), &json!("red"))
    );
    let changed = api.patch(&format!("{older}/w"), MERGE, &json!({"spec": {"color": "green"}})).await.ok();
    assert_eq!(changed["apiVersion"], format!("{}/v1beta1", group(api)));
    assert_eq!(api.get(&format!("{objects}/w")).await.ok()["spec"]["color"], "green");
    let groups = api.get(&format!("/apis/{}", group(api))).await.ok();
    assert_eq!(groups["preferredVersion"]["version"], "v1");
}

pub(crate) async fn a_forgotten_version_is_gone(api: &Api) {
    // The original begins to remember a resource when it is defined, and so has forgotten what was before.
    let objects = install(api, json!([version("v1", true)])).await;
    let mut lines = api.watch(&format!("{objects}?watch=1&resourceVersion=1")).await;
    let event = lines.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert_eq!(lines.next().await, None);
}
