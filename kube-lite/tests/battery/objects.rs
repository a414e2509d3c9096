//! Discovery, create, get, list, update, patch, delete.

use serde_json::{Value, json};

use crate::client::{Api, JSON_PATCH, MERGE, STRATEGIC, config_map, names, version};

pub(crate) async fn discovery_names_every_resource_in_both_forms(api: &Api) {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let core = api.send("GET", "/api", &[("accept", AGGREGATED)], Vec::new()).await.ok();
    let others = api.send("GET", "/apis", &[("accept", AGGREGATED)], Vec::new()).await.ok();
    let groups = api.get("/apis").await.ok();
    assert_eq!(api.get("/api").await.ok()["versions"], json!(["v1"]));
    for (group, plural, kind, namespaced, shorts, parts) in [
        (
            "",
            "namespaces",
            "Namespace",
            false,
            json!(["ns"]),
            vec!["namespaces/finalize", "namespaces/status"],
        ),
        ("", "nodes", "Node", false, json!(["no"]), vec!["nodes/status"]),
        ("", "pods", "Pod", true, json!(["po"]), vec!["pods/status"]),
        ("", "services", "Service", true, json!(["svc"]), vec!["services/status"]),
        ("", "secrets", "Secret", true, Value::Null, vec![]),
        ("", "configmaps", "ConfigMap", true, json!(["cm"]), vec![]),
        ("", "serviceaccounts", "ServiceAccount", true, json!(["sa"]), vec![]),
        ("", "events", "Event", true, json!(["ev"]), vec![]),
        ("discovery.k8s.io", "endpointslices", "EndpointSlice", true, Value::Null, vec![]),
        ("coordination.k8s.io", "leases", "Lease", true, Value::Null, vec![]),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "CustomResourceDefinition",
            false,
            json!(["crd", "crds"]),
            vec!["customresourcedefinitions/status"],
        ),
    ] {
        let path = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
        let list = api.get(&path).await.ok();
        let resources = list["resources"].as_array().unwrap();
        let find = |name: &str| {
            resources.iter().find(|resource| resource["name"] == name).unwrap_or_else(|| panic!("{name}"))
        };
        let found = find(plural);
        assert_eq!(
            (&found["kind"], &found["namespaced"], &found["shortNames"]),
            (&json!(kind), &json!(namespaced), &shorts),
            "{plural}"
        );
        for verb in ["create", "delete", "get", "list", "patch", "update", "watch"] {
            assert!(found["verbs"].as_array().unwrap().contains(&json!(verb)), "{plural} {verb}");
        }
        for part in parts {
            assert_eq!(find(part)["kind"], kind, "{part}");
        }
        let document = if group.is_empty() { &core } else { &others };
        let listed = document["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["metadata"]["name"].as_str().unwrap_or_default() == group)
            .unwrap();
        let resources = listed["versions"][0]["resources"].as_array().unwrap();
        let found = resources.iter().find(|resource| resource["resource"] == plural).unwrap();
        assert_eq!(found["scope"], if namespaced { "Namespaced" } else { "Cluster" }, "{plural}");
        if !group.is_empty() {
            assert!(
                groups["groups"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|found| found["name"] == group && found["preferredVersion"]["version"] == "v1")
            );
        }
    }
    assert!(api.get("/openapi/v3").await.ok()["paths"]["api/v1"]["serverRelativeURL"].is_string());
    assert!(api.get("/version").await.ok()["gitVersion"].as_str().unwrap().starts_with("v1.35"));
}

pub(crate) async fn what_is_not_there_is_a_status(api: &Api) {
    let message = api.get(&api.core("services/none")).await.failed(404, "NotFound");
    assert_eq!(message, "services \"none\" not found");
    let message =
        api.get(&api.group("discovery.k8s.io/v1", "endpointslices/none")).await.failed(404, "NotFound");
    assert_eq!(message, "endpointslices.discovery.k8s.io \"none\" not found");
    let answer = api.get(&api.core("services/none")).await;
    assert_eq!(answer.body["details"], json!({"name": "none", "kind": "services"}));
    api.get(&api.core("things")).await.failed(404, "NotFound");
    api.delete(&api.core("services/none"), &json!({})).await.failed(404, "NotFound");
    api.patch(&api.core("services/none"), MERGE, &json!({})).await.failed(404, "NotFound");
    api.post("/api/v1/namespaces/nowhere/configmaps", &config_map("a", &json!({}), &json!({})))
        .await
        .failed(404, "NotFound");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "none"}});
    api.put(&api.core("configmaps/none"), &object).await.failed(404, "NotFound");
    assert_eq!(
        api.get(&format!("/api/v1/namespaces/nowhere/{}", "configmaps")).await.ok()["items"],
        json!([])
    );
}

pub(crate) async fn a_new_object_gets_what_the_server_gives(api: &Api) {
    let answer =
        api.post(&api.core("configmaps"), &config_map("a", &json!({"x": "y"}), &json!({"k": "v"}))).await;
    assert_eq!(answer.code, 201);
    let made = answer.ok();
    let metadata = &made["metadata"];
    assert_eq!(metadata["namespace"], api.namespace.as_str());
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(metadata.get("generation"), None);
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(api.get(&api.core("configmaps/a")).await.ok(), made);

    let again = api.post(&api.core("configmaps"), &config_map("a", &json!({}), &json!({}))).await;
    assert_eq!(again.failed(409, "AlreadyExists"), "configmaps \"a\" already exists");
    let generated =
        api.post(&api.core("configmaps"), &json!({"metadata": {"generateName": "gen-"}})).await.ok();
    let name = generated["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    let elsewhere = json!({"metadata": {"name": "b", "namespace": "other"}});
    api.post(&api.core("configmaps"), &elsewhere).await.failed(400, "BadRequest");
    let versioned = json!({"metadata": {"name": "b", "resourceVersion": "5"}});
    api.post(&api.core("configmaps"), &versioned).await.failed(500, "");
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
    let slice = api.post(&api.group("discovery.k8s.io/v1", "endpointslices"), &slice).await.ok();
    assert_eq!(slice["metadata"]["generation"], 1);
    assert_eq!(slice["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    assert_eq!(slice["endpoints"], json!([{"addresses": ["10.0.0.1"], "conditions": {}}]));
    let secret = api
        .post(&api.core("secrets"), &json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}))
        .await
        .ok();
    assert_eq!(
        (&secret["type"], &secret["data"], secret.get("stringData")),
        (&json!("Opaque"), &json!({"a": "Yg=="}), None)
    );
}

pub(crate) async fn names_and_labels_must_be_well_formed(api: &Api) {
    for (name, path, object) in [
        ("no name", api.core("configmaps"), json!({"metadata": {}})),
        ("upper case", api.core("configmaps"), json!({"metadata": {"name": "A"}})),
        (
            "a service's name",
            api.core("services"),
            json!({"metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}}),
        ),
        ("a namespace's name", "/api/v1/namespaces".to_owned(), json!({"metadata": {"name": "a.b"}})),
        ("a label", api.core("configmaps"), json!({"metadata": {"name": "a", "labels": {"a": "b c"}}})),
        ("a label's key", api.core("configmaps"), json!({"metadata": {"name": "a", "labels": {"a b": "c"}}})),
        ("a finalizer", api.core("configmaps"), json!({"metadata": {"name": "a", "finalizers": ["bare"]}})),
        (
            "an owner",
            api.core("configmaps"),
            json!({"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}}),
        ),
        ("a key", api.core("configmaps"), json!({"metadata": {"name": "a"}, "data": {"a b": "c"}})),
    ] {
        let answer = api.post(&path, &object).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (422, &json!("Invalid")),
            "{name}: {}",
            answer.body
        );
        assert!(!answer.body["details"]["causes"].as_array().unwrap().is_empty(), "{name}");
    }
    let wrong_type = json!({"metadata": {"name": "a", "labels": {"a": 1}}});
    api.post(&api.core("configmaps"), &wrong_type).await.failed(400, "BadRequest");
    let wrong_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    api.post(&api.core("configmaps"), &wrong_kind).await.failed(400, "BadRequest");
    let answer = api
        .send("POST", &api.core("configmaps"), &[("content-type", "application/json")], b"{".to_vec())
        .await;
    answer.failed(400, "BadRequest");
    let answer =
        api.send("POST", &api.core("configmaps"), &[("content-type", "text/plain")], b"{}".to_vec()).await;
    answer.failed(415, "UnsupportedMediaType");
    let answer = api.send("GET", &api.core("configmaps"), &[("accept", "text/html")], Vec::new()).await;
    answer.failed(406, "NotAcceptable");
}

pub(crate) async fn a_list_selects_by_labels_and_fields(api: &Api) {
    for (name, labels) in [("a", json!({"x": "1"})), ("b", json!({"x": "2", "y": "1"})), ("c", json!({}))] {
        api.post(&api.core("configmaps"), &config_map(name, &labels, &json!({}))).await.ok();
    }
    for (query, wanted) in [
        ("labelSelector=x", vec!["a", "b"]),
        ("labelSelector=x%3D1", vec!["a"]),
        ("labelSelector=x+in+(1,2),!y", vec!["a"]),
        ("labelSelector=x!%3D1", vec!["b", "c"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
        ("fieldSelector=metadata.name%3Db&labelSelector=x%3D1", vec![]),
    ] {
        let list = api.get(&api.core(&format!("configmaps?{query}"))).await.ok();
        let found: Vec<_> = names(&list).into_iter().filter(|name| name != "kube-root-ca.crt").collect();
        assert_eq!(found, wanted, "{query}");
        assert_eq!(list["kind"], "ConfigMapList");
    }
    let everywhere =
        format!("/api/v1/configmaps?fieldSelector=metadata.namespace%3D{},metadata.name%3Da", api.namespace);
    assert_eq!(names(&api.get(&everywhere).await.ok()), ["a"]);
    let typed = api.core("secrets?fieldSelector=type%3DOpaque");
    assert_eq!(api.get(&typed).await.ok()["items"], json!([]));
    let message = api.get(&api.core("configmaps?fieldSelector=data.k%3Dv")).await.failed(400, "BadRequest");
    assert_eq!(
        message,
        "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    let message = api.get(&api.core("services?fieldSelector=foo%3Dv")).await.failed(400, "BadRequest");
    assert_eq!(message, "field label not supported: foo");
    api.get(&api.core("configmaps?labelSelector=a%3Db%3Dc")).await.failed(400, "BadRequest");
}

pub(crate) async fn pages_show_one_moment(api: &Api) {
    for i in 0..5 {
        let object = config_map(&format!("c{i}"), &json!({"page": "me"}), &json!({}));
        api.post(&api.core("configmaps"), &object).await.ok();
    }
    let path = api.core("configmaps?labelSelector=page&limit=2");
    let first = api.get(&path).await.ok();
    assert_eq!(names(&first), ["c0", "c1"]);
    api.delete(&api.core("configmaps/c2"), &json!({})).await.ok();
    api.post(&api.core("configmaps"), &config_map("c9", &json!({"page": "me"}), &json!({}))).await.ok();
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let mut seen = names(&first);
    while !token.is_empty() {
        let page = api.get(&format!("{path}&continue={token}")).await.ok();
        assert_eq!(version(&page), version(&first));
        seen.extend(names(&page));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ["c0", "c1", "c2", "c3", "c4"]);
    api.get(&format!("{path}&continue=nonsense")).await.failed(400, "BadRequest");
}

pub(crate) async fn an_update_of_an_older_version_conflicts(api: &Api) {
    let made = api.post(&api.core("configmaps"), &config_map("a", &json!({}), &json!({"k": "1"}))).await.ok();
    let path = api.core("configmaps/a");
    let mut second = made.clone();
    second["data"]["k"] = "2".into();
    let second = api.put(&path, &second).await.ok();
    assert_ne!(version(&made), version(&second));
    let message = api.put(&path, &made).await.failed(409, "Conflict");
    assert!(message.contains("the object has been modified"), "{message}");
    let patch = json!({"metadata": {"resourceVersion": version(&made)}, "data": {"k": "3"}});
    api.patch(&path, MERGE, &patch).await.failed(409, "Conflict");

    let unconditional = config_map("a", &json!({}), &json!({"k": "4"}));
    let fourth = api.put(&path, &unconditional).await.ok();
    assert_eq!(
        (&fourth["metadata"]["uid"], &fourth["metadata"]["creationTimestamp"]),
        (&made["metadata"]["uid"], &made["metadata"]["creationTimestamp"])
    );
    let mut other = fourth.clone();
    other["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    other["data"]["k"] = "5".into();
    api.put(&path, &other).await.failed(409, "Conflict");
    api.put(&path, &config_map("b", &json!({}), &json!({}))).await.failed(400, "BadRequest");

    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let leases = api.group("coordination.k8s.io/v1", "leases");
    assert_eq!(api.put(&format!("{leases}/l"), &lease).await.code, 201, "a PUT makes a lease");
    let answer = api
        .put(&format!("{leases}/l"), &json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "you"}}))
        .await;
    answer.failed(422, "Invalid");
}

pub(crate) async fn what_changes_nothing_keeps_its_version(api: &Api) {
    let made = api.post(&api.core("configmaps"), &config_map("a", &json!({}), &json!({"k": "1"}))).await.ok();
    let path = api.core("configmaps/a");
    assert_eq!(api.put(&path, &made).await.ok(), made);
    assert_eq!(api.patch(&path, MERGE, &json!({"data": {"k": "1"}})).await.ok(), made);
    assert_eq!(api.patch(&path, MERGE, &json!({})).await.ok(), made);
    let applied = api.apply(&path, "m", false, &config_map("a", &json!({}), &json!({"k": "1"}))).await.ok();
    let again = api.apply(&path, "m", false, &config_map("a", &json!({}), &json!({"k": "1"}))).await.ok();
    assert_eq!(applied, again);
}

pub(crate) async fn patches_change_what_they_name(api: &Api) {
    let service = json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]}});
    api.post(&api.core("services"), &service).await.ok();
    let path = api.core("services/web");
    let ports = |service: &Value| -> Vec<(i64, Value)> {
        service["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| (port["port"].as_i64().unwrap(), port["targetPort"].clone()))
            .collect()
    };
    let merged = api.patch(&path, MERGE, &json!({"metadata": {"labels": {"a": null, "c": "d"}}})).await.ok();
    assert_eq!(merged["metadata"]["labels"], json!({"c": "d"}));
    let patched = api
        .patch(&path, STRATEGIC, &json!({"spec": {"ports": [{"port": 443, "targetPort": 8443}]}}))
        .await
        .ok();
    assert_eq!(ports(&patched), [(443, json!(8443)), (80, json!(80))].into_iter().rev().collect::<Vec<_>>());
    let patched = api
        .patch(&path, STRATEGIC, &json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}))
        .await
        .ok();
    assert_eq!(ports(&patched), [(443, json!(8443))]);
    let operations = json!([{"op": "test", "path": "/metadata/labels/c", "value": "d"}, {"op": "replace", "path": "/metadata/labels", "value": {"e": "f"}}]);
    assert_eq!(api.patch(&path, JSON_PATCH, &operations).await.ok()["metadata"]["labels"], json!({"e": "f"}));
    let failing = json!([{"op": "remove", "path": "/metadata/labels/none"}]);
    api.patch(&path, JSON_PATCH, &failing).await.failed(422, "Invalid");
    api.patch(&path, "text/plain", &json!({})).await.failed(415, "UnsupportedMediaType");
    api.patch(&path, MERGE, &json!({"spec": {"ports": "x"}})).await.failed(422, "Invalid");
    let config = json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}});
    api.post(&api.core("configmaps"), &config).await.ok();
    let patched = api
        .patch(&api.core("configmaps/c"), STRATEGIC, &json!({"data": {"$retainKeys": ["a"], "a": "3"}}))
        .await
        .ok();
    assert_eq!(patched["data"], json!({"a": "3"}));
}

pub(crate) async fn finalizers_hold_an_object_until_they_are_gone(api: &Api) {
    let object = json!({"metadata": {"name": "a", "finalizers": ["x.y/z"]}});
    api.post(&api.core("configmaps"), &object).await.ok();
    let path = api.core("configmaps/a");
    let held = api.delete(&path, &json!({})).await.ok();
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = api.delete(&path, &json!({})).await.ok();
    assert_eq!(version(&again), version(&held));
    let more = json!({"metadata": {"finalizers": ["x.y/z", "x.y/more"]}});
    api.patch(&path, MERGE, &more).await.failed(422, "Invalid");
    let undead = json!({"metadata": {"deletionTimestamp": null}});
    assert!(api.patch(&path, MERGE, &undead).await.ok()["metadata"]["deletionTimestamp"].is_string());
    api.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await.ok();
    api.get(&path).await.failed(404, "NotFound");

    api.post(&api.core("configmaps"), &json!({"metadata": {"name": "b"}})).await.ok();
    let waiting =
        api.delete(&api.core("configmaps/b"), &json!({"propagationPolicy": "Foreground"})).await.ok();
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

pub(crate) async fn deletion_keeps_to_its_preconditions(api: &Api) {
    let made = api.post(&api.core("configmaps"), &config_map("a", &json!({}), &json!({}))).await.ok();
    let path = api.core("configmaps/a");
    let other = json!({"preconditions": {"uid": "other"}});
    api.delete(&path, &other).await.failed(409, "Conflict");
    api.delete(&path, &json!({"preconditions": {"resourceVersion": "1"}})).await.failed(409, "Conflict");
    api.delete(&path, &json!({"propagationPolicy": "Never"})).await.failed(422, "Invalid");
    let uid = &made["metadata"]["uid"];
    let status = api
        .delete(&path, &json!({"preconditions": {"uid": uid, "resourceVersion": version(&made)}}))
        .await
        .ok();
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps", "uid": uid}));
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    api.post(&api.core("services"), &service).await.ok();
    let last = api.delete(&api.core("services/web"), &json!({})).await.ok();
    assert_eq!((&last["kind"], &last["metadata"]["name"]), (&json!("Service"), &json!("web")));
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": []});
    api.post(&api.group("discovery.k8s.io/v1", "endpointslices"), &slice).await.ok();
    let status = api.delete(&api.group("discovery.k8s.io/v1", "endpointslices/e"), &json!({})).await.ok();
    assert_eq!(status["details"]["group"], "discovery.k8s.io");
}

pub(crate) async fn the_status_is_written_apart(api: &Api) {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"podIP": "10.0.0.9"}});
    let pod = api.post(&api.core("pods"), &pod).await.ok();
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    let path = api.core("pods/p");
    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}, "spec": {"nodeName": "n"}});
    let running = api.patch(&format!("{path}/status"), MERGE, &status).await.ok();
    assert_eq!((&running["status"]["phase"], running["spec"].get("nodeName")), (&json!("Running"), None));
    assert_eq!(running["metadata"]["generation"], 1);
    let labelled = api
        .patch(&path, MERGE, &json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Failed"}}))
        .await
        .ok();
    assert_eq!(
        (&labelled["status"]["phase"], &labelled["metadata"]["generation"]),
        (&json!("Running"), &json!(1))
    );
    assert_eq!(api.get(&format!("{path}/status")).await.ok(), labelled);
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j"}]}});
    assert_eq!(api.patch(&path, STRATEGIC, &image).await.ok()["metadata"]["generation"], 2);
    let found =
        api.get(&api.core("pods?fieldSelector=status.phase%3DRunning,status.podIP%3D10.0.0.9")).await.ok();
    assert_eq!(names(&found), ["p"]);
    api.get(&api.core("configmaps/x/status")).await.failed(404, "NotFound");
}

pub(crate) async fn unknown_fields_are_dropped_warned_of_or_refused(api: &Api) {
    let object = json!({"metadata": {"name": "a"}, "data": {"k": "v"}, "foo": 1});
    let path = api.core("configmaps");
    api.post(&format!("{path}?fieldValidation=Strict"), &object).await.failed(400, "BadRequest");
    let answer = api.post(&format!("{path}?fieldValidation=Warn"), &object).await;
    assert!(
        answer.warnings.iter().any(|warning| warning.contains("unknown field \\\"foo\\\"")),
        "{:?}",
        answer.warnings
    );
    assert_eq!(answer.ok().get("foo"), None);
    let answer = api
        .patch(&format!("{path}/a?fieldValidation=Ignore"), MERGE, &json!({"foo": 2, "data": {"k": "w"}}))
        .await;
    assert_eq!(answer.warnings, Vec::<String>::new());
    assert_eq!(answer.ok().get("foo"), None);
}

pub(crate) async fn a_dry_run_leaves_nothing(api: &Api) {
    let path = api.core("configmaps");
    let made = api.post(&format!("{path}?dryRun=All"), &config_map("a", &json!({}), &json!({}))).await.ok();
    assert!(made["metadata"]["uid"].is_string());
    api.get(&format!("{path}/a")).await.failed(404, "NotFound");
    let kept = api.post(&path, &config_map("a", &json!({}), &json!({"k": "1"}))).await.ok();
    let changed = api.patch(&format!("{path}/a?dryRun=All"), MERGE, &json!({"data": {"k": "2"}})).await.ok();
    assert_eq!(changed["data"]["k"], "2");
    api.delete(&format!("{path}/a"), &json!({"dryRun": ["All"]})).await.ok();
    assert_eq!(api.get(&format!("{path}/a")).await.ok(), kept);
}

pub(crate) async fn a_collection_is_deleted_by_selector(api: &Api) {
    for (name, labels) in [("a", json!({"x": "1"})), ("b", json!({"x": "1"})), ("c", json!({"x": "2"}))] {
        api.post(&api.core("configmaps"), &config_map(name, &labels, &json!({}))).await.ok();
    }
    api.delete(&api.core("configmaps?labelSelector=x%3D1"), &json!({})).await.ok();
    assert_eq!(names(&api.get(&api.core("configmaps?labelSelector=x")).await.ok()), ["c"]);
}

pub(crate) async fn a_terminating_namespace_takes_nothing_new(api: &Api) {
    let name = format!("{}-2", &api.namespace[..20]);
    let path = format!("/api/v1/namespaces/{name}");
    let made = api.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await.ok();
    assert_eq!(made["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(made["status"], json!({"phase": "Active"}));
    assert_eq!(made["metadata"]["labels"], json!({"kubernetes.io/metadata.name": name}));
    let held = json!({"metadata": {"name": "held", "finalizers": ["x.y/z"]}});
    api.post(&format!("{path}/configmaps"), &held).await.ok();
    let going = api.delete(&path, &json!({})).await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = api.post(&format!("{path}/configmaps"), &config_map("b", &json!({}), &json!({}))).await;
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating", "{}", refused.body);
    refused.failed(403, "Forbidden");
    api.delete("/api/v1/namespaces/default", &json!({})).await.failed(403, "Forbidden");
    let mut finalized = api.get(&path).await.ok();
    finalized["spec"]["finalizers"] = json!([]);
    api.put(&format!("{path}/finalize"), &finalized).await.ok();
    api.get(&path).await.failed(404, "NotFound");
}

pub(crate) async fn rules_of_built_in_kinds_hold(api: &Api) {
    let slices = api.group("discovery.k8s.io/v1", "endpointslices");
    for (name, path, object) in [
        ("no address type", slices.clone(), json!({"metadata": {"name": "e"}, "endpoints": []})),
        (
            "another address type",
            slices.clone(),
            json!({"metadata": {"name": "e"}, "addressType": "IPX", "endpoints": []}),
        ),
        (
            "no addresses",
            slices.clone(),
            json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": []}]}),
        ),
        (
            "an address of the other family",
            slices.clone(),
            json!({"metadata": {"name": "e"}, "addressType": "IPv6", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        ),
        (
            "two ports of one name",
            slices.clone(),
            json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}, {"port": 2}]}),
        ),
        (
            "a node's CIDR",
            "/api/v1/nodes".to_owned(),
            json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["x"]}}),
        ),
        ("no containers", api.core("pods"), json!({"metadata": {"name": "p"}, "spec": {"containers": []}})),
        (
            "no image",
            api.core("pods"),
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}),
        ),
        (
            "an event of elsewhere",
            api.core("events"),
            json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "elsewhere"}}),
        ),
    ] {
        let answer = api.post(&path, &object).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (422, &json!("Invalid")),
            "{name}: {}",
            answer.body
        );
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = api.post(&api.core("pods"), &pod).await.ok();
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    api.patch(&api.core("pods/p"), MERGE, &json!({"spec": {"hostNetwork": true}}))
        .await
        .failed(422, "Invalid");
    let frozen = json!({"metadata": {"name": "f"}, "immutable": true, "data": {"a": "b"}});
    api.post(&api.core("configmaps"), &frozen).await.ok();
    api.patch(&api.core("configmaps/f"), MERGE, &json!({"data": {"a": "c"}})).await.failed(422, "Invalid");
    let node = format!("node-{}", &api.namespace[..12]);
    let made = json!({"metadata": {"name": node}, "spec": {"podCIDR": "10.1.0.0/24"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    let made = api.post("/api/v1/nodes", &made).await.ok();
    assert_eq!(made["spec"]["podCIDRs"], json!(["10.1.0.0/24"]));
    assert_eq!(made["status"]["addresses"], json!([{"type": "InternalIP", "address": "192.0.2.1"}]));
    assert_eq!(
        made["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );
}

pub(crate) async fn nobody_lists_without_credentials(api: &Api) {
    let read = kube::config::Kubeconfig::read_from(&api.kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default())
        .await
        .unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let client = kube::Client::try_from(config).unwrap();
    let request = http::Request::get("/api/v1/secrets").body(kube::client::Body::empty()).unwrap();
    let code = client.send(request).await.unwrap().status().as_u16();
    // The original knows an anonymous user, who may do nothing; here there is none.
    assert!(matches!(code, 401 | 403), "{code}");
    let request = http::Request::get("/api/v1/secrets")
        .header("authorization", "Bearer wrong")
        .body(kube::client::Body::empty())
        .unwrap();
    assert_eq!(client.send(request).await.unwrap().status().as_u16(), 401);
}
