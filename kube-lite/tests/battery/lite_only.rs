//! What a real API server does not do by itself, or not this way.

use std::sync::Arc;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kvstore::{Store, StoreConfig};
use serde_json::{Value, json};

use crate::client::{Api, JSON_PATCH, config_map, names, version};
use crate::lite::Lite;

async fn start() -> (tempfile::TempDir, Lite, Api) {
    let dir = tempfile::tempdir().unwrap();
    let lite = Lite::start(dir.path()).await.unwrap();
    let api = Api::new(lite.kubeconfig(), "case").await;
    (dir, lite, api)
}

fn owned(name: &str, owner: &Value, blocks: bool) -> Value {
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks});
    json!({"metadata": {"name": name, "ownerReferences": [owner]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_follow_their_owner() {
    let (_dir, _lite, api) = start().await;
    let owner = api.post(&api.core("configmaps"), &config_map("owner", &json!({}), &json!({}))).await.ok();
    let child = api.post(&api.core("configmaps"), &owned("child", &owner, false)).await.ok();
    api.post(&api.core("secrets"), &owned("grandchild", &child, false)).await.ok();
    api.delete(&api.core("configmaps/owner"), &json!({})).await.ok();
    api.until(&api.core("configmaps/child"), |answer| answer.code == 404).await;
    api.until(&api.core("secrets/grandchild"), |answer| answer.code == 404).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_the_foreground_goes_last_and_orphans_stay() {
    let (_dir, _lite, api) = start().await;
    let owner = api.post(&api.core("configmaps"), &config_map("owner", &json!({}), &json!({}))).await.ok();
    let mut child = owned("child", &owner, true);
    child["metadata"]["finalizers"] = json!(["x.y/z"]);
    api.post(&api.core("secrets"), &child).await.ok();
    api.delete(&api.core("configmaps/owner"), &json!({"propagationPolicy": "Foreground"})).await.ok();
    let held = api
        .until(&api.core("secrets/child"), |answer| answer.body["metadata"]["deletionTimestamp"].is_string())
        .await;
    assert_eq!(
        api.get(&api.core("configmaps/owner")).await.ok()["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    let release = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    api.patch(&api.core("secrets/child"), JSON_PATCH, &release).await;
    assert_eq!(held.code, 200);
    let last = api
        .until(&api.core("secrets/child"), |answer| {
            answer.code == 404 || answer.body["metadata"]["finalizers"] != json!(["x.y/z"])
        })
        .await;
    assert!(matches!(last.code, 200 | 404));
    api.until(&api.core("configmaps/owner"), |answer| answer.code == 404).await;

    let owner = api.post(&api.core("configmaps"), &config_map("owner2", &json!({}), &json!({}))).await.ok();
    api.post(&api.core("secrets"), &owned("orphan", &owner, true)).await.ok();
    api.delete(&api.core("configmaps/owner2"), &json!({"propagationPolicy": "Orphan"})).await.ok();
    api.until(&api.core("configmaps/owner2"), |answer| answer.code == 404).await;
    assert_eq!(api.get(&api.core("secrets/orphan")).await.ok()["metadata"].get("ownerReferences"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let (_dir, _lite, api) = start().await;
    for i in 0..20 {
        api.post(&api.core("configmaps"), &config_map(&format!("c{i}"), &json!({}), &json!({}))).await.ok();
    }
    api.post(&api.core("services"), &json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}))
        .await
        .ok();
    api.delete(&format!("/api/v1/namespaces/{}", api.namespace), &json!({})).await.ok();
    api.until(&format!("/api/v1/namespaces/{}", api.namespace), |answer| answer.code == 404).await;
    assert_eq!(names(&api.get(&api.core("configmaps")).await.ok()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_over_the_same_store_keeps_objects_addresses_and_versions() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(StoreConfig::default());
    let first = Lite::over(Arc::clone(&store), dir.path()).await.unwrap();
    let api = Api::new(first.kubeconfig(), "case").await;
    let made = api
        .post(&api.core("services"), &json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}))
        .await
        .ok();
    drop(first);
    let second = Lite::over(store, dir.path()).await.unwrap();
    let mut again = Api::new(second.kubeconfig(), "other").await;
    again.namespace = api.namespace;
    assert_eq!(again.get(&again.core("services/web")).await.ok(), made);
    let taken = json!({"metadata": {"name": "web2"}, "spec": {"clusterIP": made["spec"]["clusterIP"], "ports": [{"port": 80}]}});
    again.post(&again.core("services"), &taken).await.failed(422, "Invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_of_an_earlier_store_is_gone() {
    let (_dir, _lite, api) = start().await;
    let old = version(&api.get(&api.core("configmaps")).await.ok());
    let (_dir, _lite, api) = start().await;
    let mut lines = api.watch(&api.core(&format!("configmaps?watch=1&resourceVersion={old}"))).await;
    assert_eq!(lines.next().await.unwrap()["object"]["code"], 410);
    let future = old.replacen('1', "9", 1);
    let mut lines = api.watch(&api.core(&format!("configmaps?watch=1&resourceVersion={future}"))).await;
    assert_eq!(lines.next().await.unwrap()["object"]["code"], 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_as_good_as_a_certificate_and_nobody_is_nobody() {
    let (_dir, lite, _api) = start().await;
    let read = Kubeconfig::read_from(lite.kubeconfig()).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let client = kube::Client::try_from(config).unwrap();
    for (header, code) in [("Bearer sesame", 200), ("Bearer wrong", 401), ("", 401)] {
        for path in ["/api/v1/namespaces", "/version", "/healthz"] {
            let request = http::Request::get(path)
                .header("authorization", header)
                .body(kube::client::Body::empty())
                .unwrap();
            assert_eq!(client.send(request).await.unwrap().status().as_u16(), code, "{header:?} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_here_is_named() {
    let (_dir, _lite, api) = start().await;
    for (path, lacking) in [
        ("/apis/apps/v1/namespaces/default/deployments", "the group apps"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "the group rbac.authorization.k8s.io"),
        ("/api/v1/persistentvolumes", "persistentvolumes"),
        ("/api/v1/namespaces/default/pods/p/log", "pods/log"),
    ] {
        let message = api.get(path).await.failed(404, "NotFound");
        assert!(message.ends_with(&format!("kube-lite does not serve {lacking}")), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn writers_at_the_same_time_lose_nothing() {
    let (_dir, _lite, api) = start().await;
    let api = Arc::new(api);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let api = Arc::clone(&api);
        writers.spawn(async move {
            let service =
                json!({"metadata": {"name": format!("s{writer}")}, "spec": {"ports": [{"port": 80}]}});
            api.post(&api.core("services"), &service).await.ok();
            for round in 0..4 {
                let config =
                    config_map("shared", &json!({}), &json!({format!("k{writer}"): round.to_string()}));
                api.apply(&api.core("configmaps/shared"), &format!("m{writer}"), false, &config).await.ok();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let shared = api.get(&api.core("configmaps/shared")).await.ok();
    assert_eq!(shared["data"].as_object().unwrap().len(), 8);
    let services = api.get(&api.core("services")).await.ok();
    let addresses: std::collections::BTreeSet<_> =
        services["items"].as_array().unwrap().iter().map(|s| s["spec"]["clusterIP"].to_string()).collect();
    assert_eq!(addresses.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_on_a_node_is_deleted_at_once() {
    let (_dir, _lite, api) = start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    api.post(&api.core("pods"), &pod).await.ok();
    api.delete(&api.core("pods/p"), &json!({})).await.ok();
    api.get(&api.core("pods/p")).await.failed(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_definition_asks_for_and_does_not_get_is_said() {
    let (_dir, _lite, api) = start().await;
    let definition = |plural: &str, conversion: Value| {
        json!({
            "metadata": {"name": format!("{plural}.a.example")},
            "spec": {
                "group": "a.example", "scope": "Cluster", "names": {"plural": plural, "kind": "Thing"}, "conversion": conversion,
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-validations": [{"rule": "true"}]}}}],
            },
        })
    };
    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let webhook = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"url": "https://a.example"}}});
    let message = api.post(DEFINITIONS, &definition("things", webhook)).await.failed(422, "Invalid");
    assert!(message.contains("kube-lite calls no webhooks"), "{message}");
    let answer = api.post(DEFINITIONS, &definition("things", json!({"strategy": "None"}))).await;
    assert!(
        answer.warnings.iter().any(|warning| warning.contains("x-kubernetes-validations")),
        "{:?}",
        answer.warnings
    );
    let established = &answer.ok()["status"]["conditions"][1];
    assert_eq!((&established["type"], &established["status"]), (&json!("Established"), &json!("True")));
    assert_eq!(api.get("/apis/a.example/v1/things").await.code, 200, "served as soon as it is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_kind_in_protobuf_is_refused_by_name() {
    let (_dir, _lite, api) = start().await;
    let envelope = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00".to_vec();
    let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
    let message =
        api.send("POST", &api.core("pods"), &headers, envelope).await.failed(415, "UnsupportedMediaType");
    assert!(message.contains("does not read Pod in protobuf"), "{message}");
}

/// A token of one kind is no way into another, and not out of a namespace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_kind_or_namespace_is_refused() {
    let (_dir, _server, api) = start().await;
    for name in ["a", "b"] {
        api.post(&api.core("configmaps"), &config_map(name, &json!({}), &json!({}))).await.ok();
    }
    let first = api.get(&format!("{}?limit=1", api.core("configmaps"))).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    for path in [api.core("secrets"), "/api/v1/namespaces/default/configmaps".to_owned()] {
        let answer = api.get(&format!("{path}?limit=1&continue={token}")).await;
        assert_eq!(answer.failed(400, "BadRequest"), "continue key is not valid", "{path}");
    }
    assert_eq!(api.get(&format!("/api/v1/configmaps?continue={token}")).await.code, 200);
}

/// What nobody could read again, whole or in a list, is not written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_do_not_nest_without_end() {
    let (_dir, _server, api) = start().await;
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.deep.example"},
        "spec": {"group": "deep.example", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": any}}]},
    });
    api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.ok();
    let things = api.group("deep.example/v1", "things");
    let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }));
    let thing = |name: &str, depth| json!({"apiVersion": "deep.example/v1", "kind": "Thing", "metadata": {"name": name}, "x": nested(depth)});
    api.until(&things, |answer| answer.code == 200).await;
    api.post(&things, &thing("fits", 80)).await.ok();
    for depth in [99, 120] {
        let message = api.post(&things, &thing("deep", depth)).await.failed(400, "BadRequest");
        assert!(message.contains("up to 100 deep"), "{message}");
    }
    // Step by step neither.
    let inner = format!("/x{}/b", "/a".repeat(79));
    let grow = json!([{"op": "replace", "path": format!("/x{}", "/a".repeat(79)), "value": {}},
        {"op": "add", "path": inner, "value": nested(60)}]);
    api.patch(&format!("{things}/fits"), JSON_PATCH, &grow).await.failed(422, "Invalid");
    let doubled = (0..9_000).map(|_| json!({"op": "move", "from": "/x", "path": "/x/a"}));
    api.patch(&format!("{things}/fits"), JSON_PATCH, &doubled.collect()).await.failed(422, "Invalid");
    assert_eq!(api.get(&things).await.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yaml_is_of_version_1_2_and_one_document() {
    let (_dir, _server, api) = start().await;
    let post = async |query: &str, text: &str| {
        let path = format!("{}{query}", api.core("configmaps"));
        api.send("POST", &path, &[("content-type", "application/yaml")], text.as_bytes().to_vec()).await
    };
    assert_eq!(post("", "metadata: {name: y}").await.ok()["metadata"]["name"], "y");
    post("", "metadata: {name: a}\n---\nmetadata: {name: b}\n").await.failed(400, "BadRequest");
    let twice = post("?fieldValidation=Strict", "metadata: {name: c}\ndata: {k: a, k: b}\n").await;
    assert_eq!(twice.ok()["data"]["k"], "b");
}
