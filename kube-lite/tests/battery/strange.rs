//! What nobody should send: options that do not go together, names that lead elsewhere, bodies that are no objects.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{APPLY, Api, JSON_PATCH, MERGE, config_map, version};

/// Makes two ConfigMaps, one with a label.
async fn set_up(api: &Api) {
    api.post(&api.core("configmaps"), &config_map("a", &json!({"l": "1"}), &json!({"k": "1"}))).await.ok();
    api.post(&api.core("configmaps"), &config_map("b", &json!({}), &json!({"k": "1"}))).await.ok();
}

pub(crate) async fn a_write_that_lacks_only_what_the_server_gives_is_none(api: &Api) {
    let named = |name: &str| json!({"name": name});
    let of_case = |name: &str| json!({"name": format!("{name}-{}", api.namespace)});
    let ports = json!([{"port": 80}]);
    let objects = [
        (api.core("configmaps"), json!({"metadata": named("o"), "data": {"a": "b"}})),
        (api.core("secrets"), json!({"metadata": named("o"), "stringData": {"a": "b"}})),
        (api.core("services"), json!({"metadata": named("plain"), "spec": {"ports": ports}})),
        (
            api.core("services"),
            json!({"metadata": named("node"), "spec": {"type": "NodePort", "ports": ports}}),
        ),
        (
            api.core("services"),
            json!({"metadata": named("head"), "spec": {"clusterIP": "None", "ports": ports}}),
        ),
        (
            api.core("pods"),
            json!({"metadata": named("o"), "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        ),
        (
            api.group("discovery.k8s.io/v1", "endpointslices"),
            json!({"metadata": named("o"), "addressType": "IPv4", "ports": ports,
                "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        ),
        (
            api.group("coordination.k8s.io/v1", "leases"),
            json!({"metadata": named("o"), "spec": {"holderIdentity": "x"}}),
        ),
        (api.core("serviceaccounts"), json!({"metadata": named("o")})),
        (
            api.core("events"),
            json!({"metadata": named("o"), "involvedObject": {"namespace": api.namespace}, "reason": "x"}),
        ),
        ("/api/v1/namespaces".to_owned(), json!({"metadata": of_case("o")})),
    ];
    let mut made = Vec::new();
    for (path, object) in objects {
        api.post(&path, &object).await.ok();
        made.push((format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()), object));
    }
    // Managed fields note whole seconds: the next is to differ.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for (path, mut object) in made {
        loop {
            let live = api.get(&path).await.ok();
            object["metadata"]["resourceVersion"] = version(&live).into();
            let answer = api.put(&path, &object).await;
            // A controller may do its part in between.
            if answer.code != 409 {
                assert_eq!(answer.ok(), live, "{path}");
                break;
            }
        }
    }
}

pub(crate) async fn options_that_do_not_go_together_are_refused(api: &Api) {
    set_up(api).await;
    for (query, why) in [
        ("resourceVersionMatch=Exact", "forbidden unless resourceVersion is provided"),
        ("resourceVersion=1&resourceVersionMatch=Some", "Unsupported value: \"Some\""),
        ("resourceVersion=0&resourceVersionMatch=Exact", "forbidden for resourceVersion \"0\""),
        ("watch=1&resourceVersion=1&resourceVersionMatch=Exact", "unless sendInitialEvents is provided"),
        ("watch=1&sendInitialEvents=true", "requires setting resourceVersionMatch to NotOlderThan"),
        ("sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
    ] {
        let answer = api.get(&format!("{}?{query}", api.core("configmaps"))).await;
        let message = answer.failed(422, "Invalid");
        assert!(message.starts_with("ListOptions.meta.k8s.io \"\" is invalid: "), "{query}: {message}");
        assert!(message.contains(why), "{query}: {message}");
    }
    let long = format!("fieldManager={}", "m".repeat(129));
    for (query, why) in [
        (long.as_str(), "fieldManager: Too long: may not be more than 128 bytes"),
        ("fieldManager=a%07b", "invalid character U+0007 (at position 1)"),
        ("fieldManager=m&fieldValidation=some", "fieldValidation: Unsupported value: \"some\""),
        ("fieldManager=m&dryRun=some", "dryRun: Unsupported value: [\"some\"]"),
    ] {
        let path = format!("{}?{query}", api.core("configmaps/a"));
        let body = config_map("a", &json!({}), &json!({"k": "2"}));
        for (method, media_type, options) in
            [("PATCH", APPLY, "PatchOptions"), ("PUT", "application/json", "UpdateOptions")]
        {
            let body = body.to_string().into_bytes();
            let answer = api.send(method, &path, &[("content-type", media_type)], body).await;
            let message = answer.failed(422, "Invalid");
            assert!(message.starts_with(options) && message.contains(why), "{query}: {message}");
        }
    }
    let delete = async |query: &str| {
        api.send("DELETE", &format!("{}?{query}", api.core("configmaps/b")), &[], Vec::new()).await
    };
    delete("dryRun=some").await.failed(422, "Invalid");
    delete("orphanDependents=true&propagationPolicy=Orphan").await.failed(422, "Invalid");
    delete("propagationPolicy=some").await.failed(422, "Invalid");
    delete("gracePeriodSeconds=x").await.failed(400, "BadRequest");
    api.get(&api.core("configmaps/b")).await.ok();

    // Of several of a name the first counts.
    let listed =
        api.get(&format!("{}?labelSelector=l%3D1&labelSelector=x%3Dy", api.core("configmaps"))).await;
    assert_eq!(listed.ok()["items"].as_array().unwrap().len(), 1);
}

pub(crate) async fn a_name_in_a_path_is_taken_as_it_is(api: &Api) {
    set_up(api).await;
    for name in ["a&b", "a&", "a%26", "a+b", "a%00"] {
        let path = api.core(&format!("configmaps/{name}"));
        api.get(&path).await.failed(404, "NotFound");
        api.send("DELETE", &path, &[], Vec::new()).await.failed(404, "NotFound");
    }
    for name in ["..", ".", "%2e%2e", "a%25b"] {
        let path = api.core(&format!("configmaps/{name}"));
        let message = api.get(&path).await.failed(400, "BadRequest");
        assert!(message.starts_with("Name parameter invalid: "), "{name}: {message}");
    }
    for path in ["configmaps//a", "configmaps/a/status", "configmaps/a%2Fb", "configmaps/a/x/y"] {
        assert_eq!(api.get(&api.core(path)).await.code, 404, "{path}");
    }
    assert_eq!(api.send("HEAD", &api.core("configmaps/a"), &[], Vec::new()).await.code, 405);
    api.get(&api.core("configmaps/a")).await.ok();
}

pub(crate) async fn an_object_keeps_its_name_and_its_namespace(api: &Api) {
    set_up(api).await;
    let path = api.core("configmaps/a");
    let message = api.put(&path, &json!({"data": {}})).await.failed(400, "BadRequest");
    assert!(message.contains("was undeterminable: name must be provided"), "{message}");
    api.patch(&path, MERGE, &json!({"metadata": null})).await.failed(400, "BadRequest");
    let elsewhere = json!({"metadata": {"name": "a", "namespace": "elsewhere"}});
    api.put(&path, &elsewhere).await.failed(400, "BadRequest");
    api.patch(&path, MERGE, &elsewhere).await.failed(400, "BadRequest");
    let message = api.patch(&path, MERGE, &json!({"metadata": {"uid": "x"}})).await.failed(422, "Invalid");
    assert!(message.ends_with("metadata.uid: Invalid value: \"x\": field is immutable"), "{message}");
    let long = json!({"metadata": {"generateName": "a".repeat(254)}});
    let message = api.post(&api.core("configmaps"), &long).await.failed(422, "Invalid");
    assert!(message.contains("metadata.generateName: Invalid value"), "{message}");
}

pub(crate) async fn a_json_patch_has_bounds(api: &Api) {
    set_up(api).await;
    let path = api.core("configmaps/a");
    let test = json!({"op": "test", "path": "/data/k", "value": "1"});
    let many = Value::Array(vec![test; 10_001]);
    let message = api.patch(&path, JSON_PATCH, &many).await.failed(413, "RequestEntityTooLarge");
    assert!(
        message.ends_with("The allowed maximum operations in a JSON patch is 10000, got 10001"),
        "{message}"
    );
    // Each copy doubles it.
    let copies =
        (0..30).map(|i| json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/x{i}")}));
    api.patch(&path, JSON_PATCH, &copies.collect()).await.failed(422, "Invalid");
    for wrong in [json!({"op": "some", "path": "/a"}), json!({"op": "add", "path": "a", "value": 1})] {
        api.patch(&path, JSON_PATCH, &json!([wrong])).await.failed(422, "Invalid");
    }
    api.patch(&path, JSON_PATCH, &json!({})).await.failed(400, "BadRequest");
}

pub(crate) async fn a_token_leads_nowhere_else(api: &Api) {
    set_up(api).await;
    let secret = json!({"metadata": {"name": "a"}, "stringData": {"k": "v"}});
    api.post(&api.core("secrets"), &secret).await.ok();
    api.post(&api.core("secrets"), &json!({"metadata": {"name": "b"}})).await.ok();
    let first = api.get(&format!("{}?limit=1", api.core("configmaps"))).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&format!("{}?limit=1&continue={token}", api.core("configmaps"))).await.ok();
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    for garbage in ["x", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi9zZWNyZXRzLyJ9"] {
        api.get(&format!("{}?continue={garbage}", api.core("configmaps"))).await.failed(400, "BadRequest");
    }
}

pub(crate) async fn appliers_at_the_same_time_lose_nothing(api: &Api) {
    let path = api.core("configmaps/shared");
    let managers: Vec<String> = (0..8).map(|number| format!("m{number}")).collect();
    let applied = managers.iter().map(async |manager| {
        let own = config_map("shared", &json!({}), &json!({ manager: "1" }));
        loop {
            match api.apply(&path, manager, false, &own).await {
                // Too many were faster: so says the original, and the client tries again.
                answer if answer.code == 409 => {}
                answer => return answer.ok(),
            }
        }
    });
    futures::future::join_all(applied).await;
    let shared = api.get(&path).await.ok();
    let all: serde_json::Map<_, _> = managers.iter().map(|manager| (manager.clone(), "1".into())).collect();
    assert_eq!(shared["data"], Value::Object(all));
    let mut noted: Vec<_> = shared["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap()))
        .collect();
    noted.sort_unstable();
    assert_eq!(noted, managers.iter().map(|manager| (manager.as_str(), "Apply")).collect::<Vec<_>>());
}
