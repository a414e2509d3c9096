//! Services: the addresses and ports that they get.

use serde_json::{Value, json};

use crate::client::{Api, MERGE};

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

pub(crate) async fn a_service_gets_an_address(api: &Api) {
    let made = api
        .post(
            &api.core("services"),
            &service("web", json!({"ports": [{"port": 80}], "selector": {"a": "b"}})),
        )
        .await
        .ok();
    let spec = &made["spec"];
    let ip = spec["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert_eq!(
        *spec,
        json!({
            "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "type": "ClusterIP", "selector": {"a": "b"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        })
    );
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    // Replacing without an address keeps it; another is refused.
    let path = api.core("services/web");
    let replaced = api.put(&path, &service("web", json!({"ports": [{"port": 81}]}))).await.ok();
    assert_eq!(replaced["spec"]["clusterIP"], ip);
    let other = json!({"spec": {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"]}});
    api.patch(&path, MERGE, &other).await.failed(422, "Invalid");
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    api.patch(&path, MERGE, &ingress).await.ok();
    assert_eq!(api.get(&path).await.ok()["status"], json!({"loadBalancer": {}}), "not by this way");
}

pub(crate) async fn an_address_is_given_once(api: &Api) {
    let free = api.post(&api.core("services"), &service("free", json!({"ports": [{"port": 80}]}))).await.ok();
    let ip = free["spec"]["clusterIP"].clone();
    let wanted = service("wanted", json!({"ports": [{"port": 80}], "clusterIP": ip}));
    let message = api.post(&api.core("services"), &wanted).await.failed(422, "Invalid");
    assert!(message.contains("provided IP is already allocated"), "{message}");
    api.delete(&api.core("services/free"), &json!({})).await.ok();
    assert_eq!(api.post(&api.core("services"), &wanted).await.ok()["spec"]["clusterIP"], ip);
    let outside = service("outside", json!({"ports": [{"port": 80}], "clusterIP": "192.0.2.1"}));
    let message = api.post(&api.core("services"), &outside).await.failed(422, "Invalid");
    assert!(message.contains("the provided network does not match the current range"), "{message}");
}

pub(crate) async fn headless_and_external_services_have_none(api: &Api) {
    let headless = api
        .post(
            &api.core("services"),
            &service("headless", json!({"clusterIP": "None", "selector": {"a": "b"}})),
        )
        .await
        .ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = json!({"type": "ExternalName", "externalName": "a.example"});
    let external = api.post(&api.core("services"), &service("external", external)).await.ok();
    assert_eq!(
        (external["spec"].get("clusterIP"), external["spec"].get("internalTrafficPolicy")),
        (None, None)
    );
    let turned = json!({"spec": {"type": "ClusterIP", "externalName": null, "ports": [{"port": 80}]}});
    let turned = api.patch(&api.core("services/external"), MERGE, &turned).await.ok();
    assert!(turned["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."), "{turned}");
}

pub(crate) async fn node_ports_are_allocated(api: &Api) {
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let made = api.post(&api.core("services"), &service("np", spec)).await.ok();
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..=32_767).contains(&port), "{port}");
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let message = api.post(&api.core("services"), &service("np2", taken)).await.failed(422, "Invalid");
    assert!(message.contains("provided port is already allocated"), "{message}");
    let kept = api
        .put(&api.core("services/np"), &service("np", json!({"type": "NodePort", "ports": [{"port": 80}]})))
        .await
        .ok();
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
}

pub(crate) async fn rules_for_services_hold(api: &Api) {
    for (name, spec) in [
        ("no ports", json!({})),
        ("another type", json!({"type": "Other", "ports": [{"port": 80}]})),
        ("no external name", json!({"type": "ExternalName"})),
        ("port 0", json!({"ports": [{"port": 0}]})),
        ("a port too high", json!({"ports": [{"port": 65_536}]})),
        ("ports without names", json!({"ports": [{"port": 80}, {"port": 81}]})),
        ("a name twice", json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]})),
        ("a port twice", json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]})),
        ("another protocol", json!({"ports": [{"port": 80, "protocol": "ICMP"}]})),
        ("another affinity", json!({"ports": [{"port": 80}], "sessionAffinity": "Sometimes"})),
        ("an address that is none", json!({"ports": [{"port": 80}], "clusterIP": "web"})),
        ("a family that is not here", json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6"]})),
        (
            "two families where there is one",
            json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}),
        ),
        ("a node port out of range", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})),
    ] {
        let answer = api.post(&api.core("services"), &service("web", spec)).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (422, &json!("Invalid")),
            "{name}: {}",
            answer.body
        );
        assert!(
            answer.body["message"].as_str().unwrap().starts_with("Service \"web\" is invalid: "),
            "{name}"
        );
    }
    api.get(&api.core("services/web")).await.failed(404, "NotFound");
}
