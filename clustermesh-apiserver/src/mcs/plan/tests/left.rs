//! What was there before, what others did to it, and what is left.

use super::*;

/// A world in which `east` and this cluster export, settled.
fn shared_world() -> World {
    let mut world = world();
    let east = "east".parse().unwrap();
    world.set_remote(&east, key(), Some(remote_export("east", 1)));
    world.set_remote_service(&east, &derived(), Some(offer("east", 1)));
    world.set_export(key(), Some(local_export()));
    world.set_service(key(), Some(local_service()));
    world.set_slice(&ObjectKey::new("shop", "cart-x7"), Some((Some("cart".to_owned()), local_slice())));
    assert_eq!(settle(&mut world), []);
    world
}

/// Puts an edited derived Service into the world.
fn edit_service(world: &mut World, edit: impl FnOnce(&mut Value)) {
    let mut service = world.services[&derived()].clone();
    edit(service.whole.as_mut().unwrap());
    world.set_service(derived(), Some(service));
}

#[test]
fn what_an_earlier_import_left_is_taken_over_with_its_address() {
    let owners = |import: Value| json!([{"kind": "ServiceImport", "name": "cart", "uid": import}]);
    for (left, owners) in [("of an earlier import", owners(json!("old"))), ("an orphan", Value::Null)] {
        let mut world = shared_world();
        let address = world.imports[&key()]["spec"]["ips"].clone();
        edit_service(&mut world, |service| service["metadata"]["ownerReferences"] = owners);
        world.set_import(key(), None);
        assert_eq!(settle(&mut world), [], "{left}");
        let import = &world.imports[&key()];
        let owner = &world.services[&derived()].whole.as_ref().unwrap()["metadata"]["ownerReferences"];
        assert_eq!(owner.as_array().unwrap().len(), 1, "{left}");
        assert_eq!(owner[0]["uid"], import["metadata"]["uid"], "{left}");
        assert_eq!(import["spec"]["ips"], address, "{left}");
    }
}

#[test]
fn slices_of_an_earlier_derived_service_are_taken_over() {
    let mut world = shared_world();
    let names: Vec<_> = world.slices[&derived()].keys().cloned().collect();
    edit_service(&mut world, |service| service["metadata"]["uid"] = json!("new"));
    settle(&mut world);
    assert_eq!(world.slices[&derived()].keys().cloned().collect::<Vec<_>>(), names);
    for slice in world.slices[&derived()].values() {
        assert_eq!(slice.whole["metadata"]["ownerReferences"][0]["uid"], "new");
    }
}

#[test]
fn a_derived_service_that_is_being_deleted_is_waited_for() {
    let mut world = shared_world();
    edit_service(&mut world, |service| {
        service["metadata"]["deletionTimestamp"] = json!("2026-01-05T08:30:00Z")
    });
    settle(&mut world);
    let import = &world.imports[&key()];
    assert_eq!(condition(observed_conditions(import), "Ready"), ("False", "Pending"));
    world.set_service(derived(), None);
    assert_eq!(settle(&mut world), []);
    assert_eq!(condition(observed_conditions(&world.imports[&key()]), "Ready"), ("True", "Ready"));
}

#[test]
fn slices_whose_labels_somebody_edited_are_repaired() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 6] = [
        ("service", |slice| slice["metadata"]["labels"][objects::SERVICE_NAME_LABEL] = json!("other")),
        ("cluster", |slice| slice["metadata"]["labels"][objects::SOURCE_CLUSTER_LABEL] = json!("north")),
        ("maker", |slice| slice["metadata"]["labels"][objects::MANAGED_BY_LABEL] = json!("me")),
        ("none", |slice| slice["metadata"]["labels"] = Value::Null),
        ("nor owner", |slice| {
            slice["metadata"]["labels"] = Value::Null;
            slice["metadata"]["ownerReferences"] = json!([]);
        }),
        ("endpoints", |slice| slice["endpoints"] = json!([])),
    ];
    for (edited, edit) in edits {
        let mut world = shared_world();
        let before = world.slices.clone();
        for (name, slice) in before[&derived()].clone() {
            let mut object = slice.whole;
            edit(&mut object);
            let touched = world.set_slice(&ObjectKey::new("shop", &name), Some(as_read(object)));
            assert!(touched.contains(&key()), "{edited}: {touched:?}");
        }
        assert_ne!(world.slices, before, "{edited}");
        settle(&mut world);
        assert_eq!(world.slices, before, "{edited}");
    }
}

/// An edited slice goes with its import, too; one that Kubernetes or somebody else made for the derived Service stays.
#[test]
fn slices_of_others_are_left_alone() {
    let mut world = shared_world();
    let name = |suffix: &str| format!("{}-{suffix}", derived().name);
    let slice = |suffix: &str, maker: &str| {
        json!({
            "metadata": {
                "name": name(suffix), "uid": suffix,
                "labels": {"kubernetes.io/service-name": &*derived().name, objects::MANAGED_BY_LABEL: maker},
                "ownerReferences": [{"kind": "Service", "name": &*derived().name, "uid": "s"}],
            },
            "addressType": "IPv4", "endpoints": [], "ports": [],
        })
    };
    for (suffix, maker) in [("x1", "endpointslice-controller.k8s.io"), ("x2", "somebody"), ("x3", "")] {
        let mut object = slice(suffix, maker);
        if suffix == "x2" {
            object["metadata"]["ownerReferences"] = Value::Null;
        }
        world.set_slice(&ObjectKey::new("shop", &name(suffix)), Some(as_read(object)));
    }
    settle(&mut world);
    let left = |world: &World| {
        let names = world.slices[&derived()].keys();
        names.filter(|name| name.contains("-x") && name.len() == 21).cloned().collect::<Vec<_>>()
    };
    assert_eq!(left(&world), [name("x1"), name("x2"), name("x7")]);
    world.set_export(key(), None);
    world.set_remote(&"east".parse().unwrap(), key(), None);
    settle(&mut world);
    assert_eq!(left(&world), [name("x1"), name("x2")]);
}

#[test]
fn names_that_nothing_is_left_of_are_forgotten() {
    let mut world = shared_world();
    let plain = ObjectKey::new("elsewhere", "plain");
    let nothing = |world: &World, key: &ServiceKey| plan(world, key, API, "now") == Plan::default();
    world.set_service(plain.clone(), Some(local_service()));
    assert!(nothing(&world, &plain), "a Service that is not exported is nobody's business");
    world.prune(&plain);
    world.prune(&key());
    assert_eq!(world.named(), 1);

    world.set_export(key(), None);
    world.set_remote(&"east".parse().unwrap(), key(), None);
    settle(&mut world);
    world.prune(&key());
    assert_eq!(world.named(), 0);
    assert!(nothing(&world, &key()));

    // One that was only ever exported into a namespace that does not exist.
    let absent = ObjectKey::new("absent", "cart");
    let east = "east".parse().unwrap();
    world.set_remote(&east, absent.clone(), Some(remote_export("east", 1)));
    assert_eq!(plan(&world, &absent, API, "now").withheld[0].reason, Reason::NamespaceAbsent);
    world.set_remote(&east, absent.clone(), None);
    assert!(nothing(&world, &absent));
    world.prune(&absent);
    assert_eq!(world.named(), 0);
}
