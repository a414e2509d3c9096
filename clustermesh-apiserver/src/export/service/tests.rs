use mesh_types::SERVICE_NAME_LABEL;
use serde_json::{Value, json};

use super::super::endpoint_slice::{IMPORTERS, MANAGED_BY_LABEL};
use super::*;

fn service(annotations: Value, spec: Value) -> Service {
    let object = json!({"metadata": {"labels": {"team": "a"}, "annotations": annotations}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn global(spec: Value) -> Service {
    service(json!({"service.cilium.io/global": "true"}), spec)
}

fn slice(object: Value) -> EndpointSlice {
    serde_json::from_value(object).unwrap()
}

fn converted(
    service: &Service,
    slices: &[(&str, EndpointSlice)],
) -> Result<(ClusterService, Vec<Reason>), Reason> {
    let local = LocalCluster::new("prod-eu", 7, 255).unwrap();
    let object = ObjectKey::new("shop", "cart");
    let slices = slices.iter().map(|(name, slice)| (*name, slice));
    convert(&local, "", &object, service, slices)
        .map(|(value, withheld)| (value, withheld.into_iter().map(|rejection| rejection.reason).collect()))
        .map_err(|refused| refused.reason)
}

fn backends(value: &ClusterService) -> Vec<String> {
    let port = |(name, port): (&String, &L4Addr)| format!("{name}:{}/{}", port.port, port.protocol);
    let ports = |ports: &PortMap| ports.iter().map(port).collect::<Vec<_>>().join(",");
    value.backends.iter().map(|(ip, map)| format!("{ip} {}", ports(map))).collect()
}

#[test]
fn each_reason_not_to_export_a_service() {
    let address = json!({"clusterIP": "10.0.0.1"});
    let mut other_proxy = global(address.clone());
    other_proxy.metadata.labels.insert(PROXY_NAME_LABEL.into(), "mine".into());
    let cases = [
        (service(json!({}), address.clone()), Reason::ServiceNotGlobal),
        (
            service(
                json!({"service.cilium.io/global": "true", "service.cilium.io/shared": "false"}),
                address.clone(),
            ),
            Reason::ServiceNotShared,
        ),
        (global(json!({"type": "ExternalName", "externalName": "x"})), Reason::ServiceExternalName),
        (other_proxy, Reason::ServiceOtherProxy),
    ];
    for (service, expected) in cases {
        assert_eq!(converted(&service, &[]).unwrap_err(), expected, "{service:?}");
    }
}

#[test]
fn a_service_without_endpoints_is_exported_without_backends() {
    let (value, withheld) = converted(&global(json!({"clusterIP": "10.0.0.1"})), &[]).unwrap();
    assert_eq!((value.backends.len(), value.frontends.len(), withheld.len()), (0, 1, 0));
}

#[test]
fn headless_services_have_no_frontend() {
    for spec in [json!({"clusterIP": "None"}), json!({"clusterIP": "none", "clusterIPs": ["None"]})] {
        assert!(converted(&global(spec), &[]).unwrap().0.frontends.is_empty());
    }
    let mut labelled = global(json!({"clusterIP": "10.0.0.1"}));
    labelled.metadata.labels.insert(HEADLESS_LABEL.into(), String::new());
    assert!(converted(&labelled, &[]).unwrap().0.frontends.is_empty());
}

#[test]
fn a_backend_is_exported_if_it_is_ready_or_serving_and_silence_is_consent() {
    let cases = [
        (json!({}), true),
        (json!(null), true),
        (json!({"ready": true, "serving": false}), true),
        (json!({"ready": false, "serving": true, "terminating": true}), true),
        (json!({"ready": false}), true),
        (json!({"ready": false, "serving": false}), false),
    ];
    for (conditions, exported) in cases {
        let slice = slice(json!({
            "addressType": "IPv4", "ports": null,
            "endpoints": [{"addresses": ["10.0.0.9"], "conditions": conditions}],
        }));
        let (value, withheld) = converted(&global(json!({})), &[("s", slice)]).unwrap();
        assert_eq!(value.backends.len() == 1, exported, "{conditions}");
        assert_eq!(withheld.contains(&Reason::BackendNotReady), !exported, "{conditions}");
    }
}

#[test]
fn ports_without_number_or_with_an_unknown_protocol_are_left_out() {
    let slice = slice(json!({
        "addressType": "IPv4",
        "ports": [{"name": "a"}, {"name": "b", "port": 0}, {"name": "c", "port": 1, "protocol": "ICMP"},
                  {"name": "d", "port": 2}, {"port": 3, "protocol": "SCTP"}, {"name": "e", "port": 70000}],
        "endpoints": [{"addresses": ["10.0.0.9"]}],
    }));
    let (value, withheld) = converted(&global(json!({})), &[("s", slice)]).unwrap();
    assert_eq!(backends(&value), ["10.0.0.9 :3/SCTP,d:2/TCP"]);
    assert_eq!(withheld, [Reason::PortUnusable; 4]);
}

#[test]
fn imported_slices_and_host_names_are_not_exported() {
    let endpoints = json!([{"addresses": ["10.0.0.9"]}]);
    let imported = slice(json!({
        "metadata": {"labels": {MANAGED_BY_LABEL: IMPORTERS[0]}}, "addressType": "IPv4", "endpoints": endpoints,
    }));
    let names = slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}));
    let (value, withheld) =
        converted(&global(json!({})), &[("imported", imported), ("names", names)]).unwrap();
    assert_eq!(value.backends.len(), 0);
    assert_eq!(withheld, [Reason::EndpointsImported, Reason::AddressTypeUnsupported]);
}

#[test]
fn of_an_address_in_two_slices_the_last_one_says_everything() {
    let first = slice(json!({
        "addressType": "IPv4", "ports": [{"name": "a", "port": 1}],
        "endpoints": [{"addresses": ["10.0.0.9"], "hostname": "h", "deprecatedTopology": {ZONE_TOPOLOGY_LABEL: "z"}}],
    }));
    let second = slice(json!({
        "addressType": "IPv4", "ports": [{"name": "b", "port": 2}], "endpoints": [{"addresses": ["10.0.0.9"]}],
    }));
    let (alone, _) = converted(&global(json!({})), &[("1", first.clone())]).unwrap();
    assert_eq!(alone.zones["10.0.0.9"], BackendZone { zone: "z".into(), for_zones: vec![] });
    let (value, _) = converted(&global(json!({})), &[("1", first), ("2", second)]).unwrap();
    assert_eq!(backends(&value), ["10.0.0.9 b:2/TCP"]);
    assert_eq!((value.hostnames.len(), value.zones.len()), (0, 0));
}

#[test]
fn addresses_have_their_canonical_text_and_bad_ones_stop_only_themselves() {
    let slice = slice(json!({
        "addressType": "IPv6", "endpoints": [{"addresses": ["FD00:0:0::9", "nonsense"]}],
    }));
    let (value, withheld) = converted(&global(json!({})), &[("s", slice)]).unwrap();
    assert_eq!(backends(&value), ["fd00::9 "]);
    assert_eq!(withheld, [Reason::AddressInvalid]);
}

#[test]
fn a_slice_that_changes_its_service_concerns_both() {
    let mut services = Services::default();
    let of = |name: &str| slice(json!({"metadata": {"labels": {SERVICE_NAME_LABEL: name}}}));
    let key = |name: &str| ObjectKey::new("shop", name);
    assert_eq!(services.set_slice(&key("s"), Some(of("a"))), [key("a")].into());
    assert_eq!(services.set_slice(&key("s"), Some(of("b"))), [key("a"), key("b")].into());
    assert_eq!(services.slices(&key("a")).count(), 0);
    assert_eq!(services.slices(&key("b")).count(), 1);
    assert_eq!(services.set_slice(&key("s"), Some(EndpointSlice::default())), [key("b")].into());
    assert_eq!(services.set_slice(&key("s"), None), [].into());
    assert_eq!(services.set_slice(&key("unknown"), None), [].into());
}
