//! Server-side apply, and who manages which field.

use serde_json::{Value, json};

use crate::client::{APPLY, Api, MERGE, config_map, version};

fn config(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

/// Managers with operation, subresource and fields.
fn managers(object: &Value) -> Vec<(String, String, String, Value)> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let mut managers: Vec<_> = object["metadata"]["managedFields"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|entry| {
            (
                text(entry, "manager"),
                text(entry, "operation"),
                text(entry, "subresource"),
                entry["fieldsV1"].clone(),
            )
        })
        .collect();
    managers.sort_by_key(|(manager, operation, ..)| (manager.clone(), operation.clone()));
    managers
}

fn entry(manager: &str, operation: &str, fields: Value) -> (String, String, String, Value) {
    (manager.to_owned(), operation.to_owned(), String::new(), fields)
}

pub(crate) async fn applying_owns_merges_and_removes(api: &Api) {
    let path = api.core("configmaps/a");
    let answer = api.apply(&path, "one", false, &config(&json!({"x": "1", "y": "1"}))).await;
    assert_eq!(answer.code, 201);
    let made = answer.ok();
    assert_eq!(managers(&made), [entry("one", "Apply", json!({"f:data": {"f:x": {}, "f:y": {}}}))]);
    let merged = api.apply(&path, "two", false, &config(&json!({"y": "1", "z": "1"}))).await.ok();
    assert_eq!(merged["data"], json!({"x": "1", "y": "1", "z": "1"}));
    let left = api.apply(&path, "one", false, &config(&json!({}))).await.ok();
    assert_eq!(left["data"], json!({"y": "1", "z": "1"}));
    assert_eq!(
        managers(&left).iter().map(|(manager, ..)| manager.as_str()).collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert_eq!(managers(&left)[1].3, json!({"f:data": {"f:y": {}, "f:z": {}}}));
}

pub(crate) async fn an_applier_does_not_take_what_others_own_unless_forced(api: &Api) {
    let path = api.core("configmaps/a");
    api.apply(&path, "one", false, &config(&json!({"x": "1", "y": "1"}))).await.ok();
    let refused = api.apply(&path, "two", false, &config(&json!({"x": "2"}))).await;
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.x"}])
    );
    assert_eq!(
        refused.failed(409, "Conflict"),
        "Apply failed with 1 conflict: conflict with \"one\": .data.x"
    );
    let refused = api.apply(&path, "two", false, &config(&json!({"x": "2", "y": "2"}))).await;
    assert_eq!(
        refused.failed(409, "Conflict"),
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.x\n- .data.y"
    );
    let forced = api.apply(&path, "two", true, &config(&json!({"x": "2"}))).await.ok();
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(
        managers(&forced),
        [
            entry("one", "Apply", json!({"f:data": {"f:y": {}}})),
            entry("two", "Apply", json!({"f:data": {"f:x": {}}}))
        ]
    );
}

pub(crate) async fn managed_fields_are_those_of_the_original(api: &Api) {
    let service = json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let made = api.post(&api.core("services"), &service).await.ok();
    let wanted = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {
            "f:internalTrafficPolicy": {}, "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
            "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
        },
    });
    assert_eq!(managers(&made), [entry("battery", "Update", wanted)]);
    let applied = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web2"}, "spec": {"ports": [{"port": 80}]}});
    let applied = api.apply(&api.core("services/web2"), "one", false, &applied).await.ok();
    let wanted =
        json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}});
    assert_eq!(managers(&applied), [entry("one", "Apply", wanted)]);
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
    let slice = api.post(&api.group("discovery.k8s.io/v1", "endpointslices"), &slice).await.ok();
    assert_eq!(
        managers(&slice),
        [entry("battery", "Update", json!({"f:addressType": {}, "f:endpoints": {}, "f:ports": {}}))]
    );
    let owned = json!({"metadata": {"name": "o", "generateName": "x-", "finalizers": ["a.b/c"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}});
    let owned = api.post(&api.core("configmaps"), &owned).await.ok();
    let wanted = json!({"f:metadata": {
        "f:generateName": {}, "f:finalizers": {".": {}, "v:\"a.b/c\"": {}}, "f:ownerReferences": {".": {}, "k:{\"uid\":\"u\"}": {}},
    }});
    assert_eq!(managers(&owned), [entry("battery", "Update", wanted)]);
}

pub(crate) async fn an_update_takes_over_what_it_changes(api: &Api) {
    let path = api.core("configmaps/a");
    api.apply(&path, "one", false, &config(&json!({"x": "1", "y": "1", "z": "1"}))).await.ok();
    let patched = api
        .patch(&format!("{path}?fieldManager=two"), MERGE, &json!({"data": {"x": "2", "y": null}}))
        .await
        .ok();
    assert_eq!(
        managers(&patched),
        [
            entry("one", "Apply", json!({"f:data": {"f:z": {}}})),
            entry("two", "Update", json!({"f:data": {"f:x": {}}}))
        ]
    );
    let message =
        api.apply(&path, "one", false, &config(&json!({"x": "1", "z": "1"}))).await.failed(409, "Conflict");
    assert!(message.contains("conflict with \"two\" using v1"), "{message}");
    let same = api.apply(&path, "one", false, &config(&json!({"x": "2", "z": "1"}))).await.ok();
    assert_eq!(managers(&same)[0].3, json!({"f:data": {"f:x": {}, "f:z": {}}}));
    let bare = api.patch(&path, MERGE, &json!({"metadata": {"managedFields": [{}]}})).await.ok();
    assert_eq!(managers(&bare), []);
    let before = api.apply(&path, "three", false, &config(&json!({"x": "9"}))).await.failed(409, "Conflict");
    assert!(before.contains("\"before-first-apply\" using v1"), "{before}");
}

pub(crate) async fn who_does_not_know_of_managed_fields_leaves_them(api: &Api) {
    let path = api.core("configmaps/a");
    let made = api.apply(&path, "one", false, &config(&json!({"x": "1"}))).await.ok();
    let mut object = made.clone();
    object["metadata"]["managedFields"] = Value::Null;
    let same = api.put(&path, &object).await.ok();
    assert_eq!(version(&same), version(&made), "nothing has changed");
    assert_eq!(managers(&same), managers(&made));
    let mut object = made.clone();
    object["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(managers(&api.put(&path, &object).await.ok()), []);
}

pub(crate) async fn lists_merge_by_their_keys(api: &Api) {
    let path = api.core("services/web");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": ports}});
    let ports = |service: &Value| -> Vec<i64> {
        service["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port["port"].as_i64().unwrap())
            .collect()
    };
    let http = json!({"name": "http", "port": 80});
    let https = json!({"name": "https", "port": 443});
    let dns = json!({"name": "dns", "port": 53, "protocol": "UDP"});
    api.apply(&path, "one", false, &service(json!([http, https]))).await.ok();
    let both = api.apply(&path, "two", false, &service(json!([dns]))).await.ok();
    assert_eq!(ports(&both).len(), 3);
    let changed = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let one = api.apply(&path, "one", true, &service(changed)).await.ok();
    let mut left = ports(&one);
    left.sort_unstable();
    assert_eq!(left, [53, 80]);
    let found = one["spec"]["ports"].as_array().unwrap().iter().find(|port| port["port"] == 80).unwrap();
    assert_eq!(found["targetPort"], 8080);
    assert_eq!(one["spec"]["clusterIP"], both["spec"]["clusterIP"]);
}

pub(crate) async fn applying_needs_a_manager_and_a_kind(api: &Api) {
    let path = api.core("configmaps/a");
    api.patch(&path, APPLY, &config(&json!({}))).await.failed(422, "Invalid");
    let managed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "managedFields": [{"manager": "x"}]}});
    api.apply(&path, "m", false, &managed).await.failed(400, "BadRequest");
    api.apply(&path, "m", false, &config_map("b", &json!({}), &json!({}))).await.failed(400, "BadRequest");
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "foo": 1});
    let answer = api.apply(&format!("{path}?fieldValidation=Strict"), "m", false, &unknown).await;
    assert!(answer.code >= 400, "{}", answer.body);
    api.get(&path).await.failed(404, "NotFound");
}
