use super::*;

fn cidrs() -> Vec<IpNet> {
    vec!["10.96.0.0/29".parse().unwrap(), "fd00::/112".parse().unwrap()]
}

fn service(spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": "web"}, "spec": spec});
    default(&mut service);
    service
}

fn allocated(spec: Value, taken: &[&str]) -> Result<Value, Vec<Cause>> {
    let taken: BTreeSet<_> = taken.iter().map(|claim| (*claim).to_owned()).collect();
    let mut service = service(spec);
    allocate(&mut service, &BTreeSet::new(), &Ranges { cidrs: &cidrs(), taken: &taken }, || 0)?;
    Ok(service)
}

#[test]
fn a_service_gets_a_free_address_of_the_range() {
    let service = allocated(json!({"ports": [{"port": 80}]}), &["clusterips/10.96.0.1"]).unwrap();
    assert_eq!(service["spec"]["clusterIPs"], json!(["10.96.0.2"]));
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(claims(&service), BTreeSet::from(["clusterips/10.96.0.2".to_owned()]));
}

#[test]
fn the_whole_range_is_used_and_then_it_is_full() {
    let mut taken = Vec::new();
    while let Ok(service) =
        allocated(json!({"ports": [{"port": 80}]}), &taken.iter().map(String::as_str).collect::<Vec<_>>())
    {
        taken.extend(claims(&service));
    }
    assert_eq!(taken.len(), 6, "without the network's address and the broadcast address: {taken:?}");
}

#[test]
fn families_follow_the_policy() {
    for (spec, wanted) in [
        (json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["10.96.0.1", "fd00::1"])),
        (json!({"ipFamilies": ["IPv6"]}), json!(["fd00::1"])),
        (json!({"ipFamilies": ["IPv6", "IPv4"]}), json!(["fd00::1", "10.96.0.1"])),
        (json!({"clusterIP": "fd00::5"}), json!(["fd00::5"])),
        (json!({"clusterIP": "None"}), json!(["None"])),
        (json!({"type": "ExternalName"}), Value::Null),
    ] {
        assert_eq!(allocated(spec.clone(), &[]).unwrap()["spec"]["clusterIPs"], wanted, "{spec}");
    }
}

#[test]
fn what_cannot_be_had_is_refused() {
    for (spec, taken) in [
        (json!({"clusterIP": "10.96.0.3"}), vec!["clusterips/10.96.0.3"]),
        (json!({"clusterIP": "10.97.0.3"}), vec![]),
        (json!({"clusterIP": "web"}), vec![]),
        (json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}), vec![]),
        (json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30_000}]}), vec!["nodeports/30000"]),
    ] {
        assert!(allocated(spec.clone(), &taken).is_err(), "{spec}");
    }
}

#[test]
fn node_ports_are_given_and_kept() {
    let first =
        allocated(json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}), &["nodeports/30000"])
            .unwrap();
    assert_eq!(first["spec"]["ports"][0]["nodePort"], 30_001);
    assert_eq!(first["spec"]["ports"][1]["nodePort"], 30_002);
    let mut update = service(json!({"type": "NodePort", "ports": [{"port": 2}]}));
    prepare(&mut update, Some(&first));
    assert_eq!(update["spec"]["ports"][0]["nodePort"], 30_002);
    assert_eq!(update["spec"]["clusterIP"], first["spec"]["clusterIP"]);
}

#[test]
fn an_address_never_changes() {
    let old = service(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 1}]}));
    let new = service(json!({"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"], "ports": [{"port": 1}]}));
    assert_eq!(validate(&new, Some(&old)).len(), 1);
    assert_eq!(validate(&old, Some(&old)), []);
}

#[test]
fn rules_follow_the_table() {
    for (spec, wrong) in [
        (json!({"ports": [{"port": 80}]}), 0),
        (json!({}), 1),
        (json!({"clusterIP": "None"}), 0),
        (json!({"type": "ExternalName", "externalName": "a.b"}), 0),
        (json!({"type": "ExternalName"}), 1),
        (json!({"type": "Other", "ports": [{"port": 80}]}), 1),
        (json!({"ports": [{"port": 0}]}), 2),
        (json!({"ports": [{"port": 80}, {"port": 81}]}), 2),
        (json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 80}]}), 2),
        (json!({"ports": [{"port": 80, "protocol": "ICMP"}]}), 1),
        (json!({"ports": [{"port": 80}], "sessionAffinity": "Sometimes"}), 1),
    ] {
        let causes = validate(&service(spec.clone()), None);
        assert_eq!(causes.len(), wrong, "{spec}: {causes:?}");
    }
}
