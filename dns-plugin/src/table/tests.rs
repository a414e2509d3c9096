use std::collections::BTreeMap;

use kube_watch::RawObject;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixture::{self, set_import, set_slice, slice};
use crate::service::ImportKind;

fn headless() -> Decoded<Import> {
    Decoded { object: Import { kind: ImportKind::Headless, ports: vec![] }, skipped: BTreeMap::new() }
}

#[test]
fn the_zone_is_synced_when_every_kind_is_listed_and_not_before() {
    let (mut table, mut zone) = (Table::default(), fixture::empty_zone());
    for kind in Kind::ALL {
        assert!(!zone.is_synced(), "{kind:?} is missing");
        table.set_listed(kind);
        table.update(&mut zone);
    }
    assert!(zone.is_synced());
    assert!(!table.update(&mut zone), "nothing changed since");
}

#[test]
fn slices_before_their_import_are_kept_for_it() {
    let (mut table, mut zone) = (Table::default(), fixture::empty_zone());
    set_slice(&mut table, &slice("s", "a", "east", &json!([]), &json!([{"addresses": ["10.0.0.1"]}])));
    table.update(&mut zone);
    assert_eq!(zone.services(), 0);
    table.set_import(ObjectKey::new("testns", "a"), headless());
    assert!(table.update(&mut zone));
    assert_eq!(zone.services(), 1);
}

#[test]
fn a_slice_that_moves_to_another_import_leaves_the_first() {
    let (mut table, mut zone) = (Table::default(), fixture::empty_zone());
    for name in ["a", "b"] {
        table.set_import(ObjectKey::new("testns", name), headless());
    }
    let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
    set_slice(&mut table, &slice("s", "a", "east", &json!([]), &endpoints));
    table.update(&mut zone);
    set_slice(&mut table, &slice("s", "b", "east", &json!([]), &endpoints));
    assert!(table.update(&mut zone));
    assert_eq!(zone.services(), 1);
    table.remove_slice(&ObjectKey::new("testns", "s"));
    assert!(table.update(&mut zone));
    assert_eq!(zone.services(), 0, "headless without an endpoint does not exist");
    assert!(table.slices_of.is_empty(), "nothing is left behind");
}

#[test]
fn irrelevant_fields_of_a_slice_change_no_answer_and_the_cluster_does() {
    let (mut table, mut zone) = (fixture::table(), fixture::empty_zone());
    table.update(&mut zone);
    let endpoints = json!([{"addresses": ["172.1.0.1"], "hostname": "web-0", "nodeName": "n1", "zone": "z",
        "conditions": {"serving": false, "terminating": true}}]);
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 8080}]);
    let mut object = slice("sets-east", "sets", "east", &ports, &endpoints);
    object["metadata"]["resourceVersion"] = json!("99");
    object["metadata"]["annotations"] = json!({"a": "b"});
    set_slice(&mut table, &object);
    assert!(!table.update(&mut zone));
    set_slice(&mut table, &slice("sets-east", "sets", "south", &ports, &endpoints));
    assert!(table.update(&mut zone));
}

#[test]
fn what_is_left_out_is_listed_with_its_reason_until_it_is_right() {
    let (mut table, mut zone) = (Table::default(), fixture::empty_zone());
    let import = |ips: &[&str]| {
        json!({"metadata": {"name": "a", "namespace": "testns"}, "spec": {"type": "ClusterSetIP", "ips": ips,
            "ports": [{"port": 70000}, {"port": 0}, {"port": 80}]}})
    };
    set_import(&mut table, &import(&["10.0.0.1", "None", "x"]));
    let mut nowhere = slice("s", "a", "", &json!([]), &json!([]));
    nowhere["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"] = json!(null);
    nowhere["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove("multicluster.kubernetes.io/source-cluster");
    set_slice(&mut table, &nowhere);
    table.undecodable(Kind::ServiceImport, &ObjectKey::new("testns", "b"));
    set_import(
        &mut table,
        &json!({"metadata": {"name": "c.d", "namespace": "testns"}, "spec": {"type": "ClusterSetIP"}}),
    );
    table.update(&mut zone);
    let taken = table.take_skipped().expect("there is news");
    assert_eq!(table.take_skipped(), None, "it is news once");
    let shown: Vec<_> = taken.into_iter().map(|s| (s.name.to_string(), s.reason, s.count)).collect();
    let expected = [
        ("a", Reason::AddressInvalid, 2),
        ("a", Reason::PortUnusable, 2),
        ("b", Reason::ObjectUndecodable, 1),
        ("s", Reason::FieldMissing, 1),
        ("c.d", Reason::NameTooLong, 1),
    ];
    assert_eq!(shown, expected.map(|(name, reason, count)| (name.to_owned(), reason, count)));
    assert_eq!(zone.services(), 1, "the good address is served");

    let mut good = import(&["10.0.0.1"]);
    good["spec"]["ports"] = json!([]);
    set_import(&mut table, &good);
    for name in ["b", "c.d"] {
        table.remove_import(&ObjectKey::new("testns", name));
    }
    table.remove_slice(&ObjectKey::new("testns", "s"));
    table.update(&mut zone);
    assert_eq!(table.take_skipped(), Some(Vec::new()));
}

#[test]
fn an_import_of_unknown_type_or_without_spec_is_undecodable() {
    for spec in [json!({"type": "NodePort"}), json!({"ports": []}), json!(null)] {
        let object = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
        assert!(RawObject::decode(&object.to_string(), crate::object::import).is_err(), "{spec}");
    }
    let object = json!({"metadata": {"name": "a", "namespace": "n"}});
    assert!(RawObject::decode(&object.to_string(), crate::object::import).is_err());
}

/// What may happen to the objects; small domains, so that names collide.
#[derive(Clone, Debug)]
enum Step {
    Import(u8, bool, Vec<u8>),
    NoImport(u8),
    Slice(u8, u8, Vec<u8>),
    NoSlice(u8),
    Namespace(bool),
    Update,
}

fn step() -> impl Strategy<Value = Step> {
    let addresses = || proptest::collection::vec(1u8..5, 0..3);
    prop_oneof![
        (0u8..3, any::<bool>(), addresses())
            .prop_map(|(name, headless, ips)| Step::Import(name, headless, ips)),
        (0u8..3).prop_map(Step::NoImport),
        (0u8..4, 0u8..3, addresses()).prop_map(|(name, service, ips)| Step::Slice(name, service, ips)),
        (0u8..4).prop_map(Step::NoSlice),
        any::<bool>().prop_map(Step::Namespace),
        Just(Step::Update),
    ]
}

fn apply(table: &mut Table, step: &Step) {
    let ips = |ips: &[u8]| ips.iter().map(|ip| format!("10.0.0.{ip}")).collect::<Vec<_>>();
    match step {
        Step::Import(name, headless, addresses) => {
            let kind = if *headless { "Headless" } else { "ClusterSetIP" };
            set_import(
                table,
                &json!({"metadata": {"name": format!("i{name}"), "namespace": "testns"},
                "spec": {"type": kind, "ips": ips(addresses), "ports": [{"name": "p", "port": 80}]}}),
            );
        }
        Step::NoImport(name) => table.remove_import(&ObjectKey::new("testns", &format!("i{name}"))),
        Step::Slice(name, service, addresses) => {
            let endpoints: Vec<_> = ips(addresses).iter().map(|ip| json!({"addresses": [ip]})).collect();
            let ports = json!([{"name": "p", "port": 8080}]);
            set_slice(
                table,
                &slice(&format!("s{name}"), &format!("i{service}"), "east", &ports, &json!(endpoints)),
            );
        }
        Step::NoSlice(name) => table.remove_slice(&ObjectKey::new("testns", &format!("s{name}"))),
        Step::Namespace(exists) => table.set_namespace("testns".into(), *exists),
        Step::Update => {}
    }
}

proptest! {
    /// Updating step by step comes to the same zone as updating once at the end.
    #[test]
    fn the_zone_depends_on_the_objects_and_not_on_their_history(steps in proptest::collection::vec(step(), 0..40)) {
        let (mut often, mut live) = (Table::default(), fixture::empty_zone());
        let (mut once, mut fresh) = (Table::default(), fixture::empty_zone());
        for step in &steps {
            apply(&mut often, step);
            apply(&mut once, step);
            if matches!(step, Step::Update) {
                let before = format!("{live:?}");
                let changed = often.update(&mut live);
                prop_assert_eq!(changed, format!("{live:?}") != before, "a change is told if and only if there is one");
            }
        }
        often.update(&mut live);
        once.update(&mut fresh);
        prop_assert_eq!(format!("{live:?}"), format!("{fresh:?}"));
        prop_assert!(often.skipped().eq(once.skipped()));
    }
}
