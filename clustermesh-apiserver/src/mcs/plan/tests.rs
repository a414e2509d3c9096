mod families;
mod left;

use std::collections::{BTreeMap, BTreeSet};

use kube_watch::RawObject;
use mesh_types::{
    ClusterEndpointSlice, ClusterService, ExportPort, L4Addr, ServiceExport, SliceEndpoint, SlicePort,
};

use super::super::world::{LocalService, LocalSlice, Namespace, decode_slice};
use super::*;

const API: &str = "multicluster.x-k8s.io/v1beta1";

fn key() -> ServiceKey {
    ObjectKey::new("shop", "cart")
}

fn http() -> ExportPort {
    ExportPort { name: "http".to_owned(), protocol: "TCP".to_owned(), port: 80, ..Default::default() }
}

fn world() -> World {
    let mut world = World::new("west".parse().unwrap(), true, vec!["IPv4".to_owned(), "IPv6".to_owned()]);
    world.set_namespace("shop", Some(Namespace { annotations: BTreeMap::new(), terminating: false }));
    for cluster in ["east", "north"] {
        world.set_read(&cluster.parse().unwrap());
    }
    world
}

fn remote_export(cluster: &str, second: u32) -> ServiceExport {
    ServiceExport {
        cluster: cluster.to_owned(),
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        export_creation_timestamp: format!("2026-01-05T08:30:{second:02}Z"),
        service_type: "ClusterSetIP".to_owned(),
        ports: vec![http()],
        ..Default::default()
    }
}

fn local_export() -> LocalExport {
    LocalExport {
        created: "2026-01-05T08:30:30Z".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        resource_version: "7".to_owned(),
        conditions: Vec::new(),
        deleting: false,
    }
}

fn local_service() -> LocalService {
    LocalService {
        external_name: false,
        headless: false,
        ports: vec![http()],
        families: vec!["IPv4".to_owned()],
        cluster_ips: vec!["10.96.0.10".to_owned()],
        session_affinity: "None".to_owned(),
        affinity_timeout_seconds: None,
        internal_traffic_policy: "Cluster".to_owned(),
        traffic_distribution: String::new(),
        whole: None,
    }
}

fn local_slice() -> LocalSlice {
    let whole = json!({
        "metadata": {"namespace": "shop", "name": "cart-x7", "uid": "s", "labels": {"kubernetes.io/service-name": "cart"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "metrics", "port": 9090, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.5"], "conditions": {"ready": true}}],
    });
    LocalSlice { mirrored: false, source_cluster: None, excluded: false, by_kubernetes: false, whole }
}

/// What the API server was set up with, where the controller could not ask: the default.
fn cluster_families(world: &World) -> Vec<String> {
    if world.offered.is_empty() { vec!["IPv4".to_owned()] } else { world.offered.clone() }
}

/// A slice as it comes from the API server.
fn as_read(object: Value) -> (Option<String>, LocalSlice) {
    RawObject::decode(&object.to_string(), decode_slice).unwrap()
}

/// Carries out a plan as an API server would, as far as plans can tell.
fn carry_out(world: &mut World, action: Action) {
    let key_of = |object: &Value| {
        let text = |field| object["metadata"][field].as_str().unwrap().to_owned();
        ObjectKey::new(&text("namespace"), &text("name"))
    };
    match action {
        Action::Create(kind, mut object) | Action::Replace(kind, mut object) => {
            let key = key_of(&object);
            if object["metadata"]["uid"].is_null() {
                object["metadata"]["uid"] = format!("uid-{kind:?}-{key}").into();
            }
            match kind {
                Kind::Import => drop(world.set_import(key, Some(object))),
                Kind::Service => {
                    let headless = object["spec"]["clusterIP"] == "None";
                    assert_eq!(object["spec"]["ipFamilyPolicy"], "PreferDualStack");
                    // As the API server does: all families of the cluster, in its order, beside what was asked for.
                    let families = cluster_families(world);
                    object["spec"]["ipFamilies"] = json!(families);
                    let address = |family: &String| if family == "IPv6" { "fd00:96::7" } else { "10.96.7.7" };
                    let cluster_ips = families.iter().map(|family| address(family).to_owned());
                    let service = LocalService {
                        headless,
                        cluster_ips: if headless { Vec::new() } else { cluster_ips.collect() },
                        families,
                        whole: Some(object),
                        ..local_service()
                    };
                    world.set_service(key, Some(service));
                }
                Kind::Slice => {
                    let slice = as_read(object);
                    world.set_slice(&key, Some(slice));
                }
                Kind::Export => panic!("exports belong to users"),
            }
        }
        Action::ReplaceStatus(Kind::Import, object) => {
            let key = key_of(&object);
            let mut import = world.imports[&key].clone();
            import["status"] = object["status"].clone();
            world.set_import(key, Some(import));
        }
        Action::ReplaceStatus(_export, object) => {
            let key = key_of(&object);
            assert_eq!(object["metadata"]["resourceVersion"], "7", "what others write meanwhile is not lost");
            let mut export = world.exports[&key].clone();
            export.conditions = object["status"]["conditions"].as_array().unwrap().clone();
            world.set_export(key, Some(export));
        }
        Action::Delete(kind, key, uid) => {
            assert!(!uid.is_empty(), "{kind:?} {key} is deleted without a uid");
            match kind {
                Kind::Import => drop(world.set_import(key, None)),
                Kind::Service => drop(world.set_service(key, None)),
                Kind::Slice => drop(world.set_slice(&key, None)),
                Kind::Export => panic!("exports belong to users"),
            }
        }
    }
}

/// Plans and carries out until nothing is left to do.
fn settle(world: &mut World) -> Vec<Reason> {
    for _round in 0..10 {
        let plan = plan(world, &key(), API, "now");
        if plan.actions.is_empty() {
            return plan.withheld.into_iter().map(|rejection| rejection.reason).collect();
        }
        plan.actions.into_iter().for_each(|action| carry_out(world, action));
    }
    panic!("plans do not come to rest: {:?}", plan(world, &key(), API, "now"));
}

fn derived() -> ObjectKey {
    derived_key(&key())
}

fn condition<'a>(conditions: &'a [Value], kind: &str) -> (&'a str, &'a str) {
    let found = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
    (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

#[test]
fn a_remote_export_becomes_an_import_with_the_address_of_its_derived_service() {
    let mut world = world();
    world.set_remote(&"east".parse().unwrap(), key(), Some(remote_export("east", 1)));
    assert_eq!(settle(&mut world), []);
    let import = &world.imports[&key()];
    assert_eq!(import["spec"]["ips"], json!(["10.96.7.7", "fd00:96::7"]));
    assert_eq!(import["spec"]["type"], "ClusterSetIP");
    assert_eq!(import["status"]["clusters"], json!([{"cluster": "east"}]));
    assert_eq!(condition(observed_conditions(import), "Ready"), ("True", "Ready"));
    let service = world.services[&derived()].whole.as_ref().unwrap();
    assert_eq!(service["metadata"]["annotations"]["service.cilium.io/global"], "true");
    assert_eq!(service["spec"]["ports"], json!([{"name": "http", "protocol": "TCP", "port": 80}]));
}

/// What `cluster` offers of the derived Service: so many backends of each family.
fn offer(cluster: &str, backends: u8) -> ClusterService {
    let ports = |number| {
        let of = |name: &str, port| (name.to_owned(), L4Addr { protocol: "TCP".to_owned(), port });
        BTreeMap::from([of("http", number), of("metrics", 9090)])
    };
    let addresses = (1..=backends).flat_map(|n| [format!("10.2.0.{n}"), format!("fd00:2::{n:x}")]);
    ClusterService {
        cluster: cluster.to_owned(),
        namespace: "shop".to_owned(),
        name: derived().name.to_string(),
        backends: addresses.map(|address| (address, ports(8080))).collect(),
        hostnames: BTreeMap::from([("10.2.0.1".to_owned(), "cart-0".to_owned())]),
        ..Default::default()
    }
}

#[test]
fn endpoints_of_other_clusters_become_slices_of_the_derived_service() {
    let mut world = world();
    let east = "east".parse().unwrap();
    world.set_remote(&east, key(), Some(remote_export("east", 1)));
    assert_eq!(world.set_remote_service(&east, &derived(), Some(offer("east", 1))), [key()]);
    settle(&mut world);
    let slices = &world.slices[&derived()];
    let names: Vec<_> = slices.keys().map(|name| name.strip_prefix(&*derived().name).unwrap()).collect();
    assert_eq!(names, ["-mesh-east-ipv4-0", "-mesh-east-ipv6-0"]);
    let slice = &slices.values().next().unwrap().whole;
    assert_eq!(slice["metadata"]["labels"][objects::SOURCE_CLUSTER_LABEL], "east");
    assert_eq!(slice["metadata"]["labels"][MCS_SERVICE_LABEL], "cart");
    assert_eq!(
        slice["ports"],
        json!([{"name": "http", "protocol": "TCP", "port": 8080}]),
        "only what is imported"
    );
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.2.0.1"]));
    assert_eq!(slice["endpoints"][0]["hostname"], "cart-0");

    assert_eq!(world.set_remote_service(&east, &derived(), Some(offer("east", 150))), [key()]);
    settle(&mut world);
    let counts: Vec<_> = world.slices[&derived()]
        .values()
        .map(|slice| slice.whole["endpoints"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [100, 50, 100, 50]);

    world.set_remote(&east, key(), None);
    settle(&mut world);
    assert!(!world.slices.contains_key(&derived()));
}

/// One slice of `cluster` with one endpoint, in the format that Cilium added in 1.20.
fn offered_slice(cluster: &str, address: &str) -> ClusterEndpointSlice {
    let port = |name: &str, port| SlicePort {
        name: Some(name.to_owned()),
        protocol: Some("TCP".to_owned()),
        port: Some(port),
        app_protocol: None,
    };
    ClusterEndpointSlice {
        cluster: cluster.to_owned(),
        namespace: "shop".to_owned(),
        name: "derived-1".to_owned(),
        labels: BTreeMap::from([("kubernetes.io/service-name".to_owned(), derived().name.to_string())]),
        address_type: "IPv4".to_owned(),
        endpoints: vec![SliceEndpoint { addresses: vec![address.to_owned()], ..Default::default() }],
        ports: vec![port("http", 8080), port("metrics", 9090)],
        ..Default::default()
    }
}

#[test]
fn a_cluster_that_has_slices_alone_has_its_backends_in_the_import() {
    let mut world = world();
    let east = "east".parse().unwrap();
    let name = ObjectKey::new("shop", "derived-1");
    // Slices may come before the export that they belong to.
    assert_eq!(world.set_remote_slice(&east, &name, Some(offered_slice("east", "10.2.0.1"))), []);
    world.set_remote(&east, key(), Some(remote_export("east", 1)));
    settle(&mut world);
    let only = |world: &World| {
        let slices: Vec<_> = world.slices[&derived()].values().map(|slice| slice.whole.clone()).collect();
        let [slice] = slices.as_slice() else { panic!("{slices:?}") };
        (slice["endpoints"][0]["addresses"][0].clone(), slice["ports"].clone())
    };
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 8080}]);
    assert_eq!(only(&world), (json!("10.2.0.1"), ports.clone()));

    assert_eq!(world.set_remote_slice(&east, &name, Some(offered_slice("east", "10.2.0.2"))), [key()]);
    settle(&mut world);
    assert_eq!(only(&world), (json!("10.2.0.2"), ports));
    assert_eq!(world.set_remote_slice(&east, &name, None), [key()]);
    settle(&mut world);
    assert!(!world.slices.contains_key(&derived()));
}

#[test]
fn slices_of_a_cluster_stay_until_it_has_been_read() {
    let mut world = world();
    let south = "south".parse().unwrap();
    world.set_remote(&"east".parse().unwrap(), key(), Some(remote_export("east", 1)));
    settle(&mut world);
    world.set_remote(&south, key(), Some(remote_export("south", 2)));
    world.set_remote_service(&south, &derived(), Some(offer("south", 1)));
    let first = plan(&world, &key(), API, "now");
    first.actions.into_iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(world.slices[&derived()].len(), 2);
    world.set_remote_service(&south, &derived(), None);
    plan(&world, &key(), API, "now").actions.into_iter().for_each(|action| carry_out(&mut world, action));
    assert_eq!(world.slices[&derived()].len(), 2, "nobody knows yet what south offers");
    world.set_read(&south);
    settle(&mut world);
    assert!(!world.slices.contains_key(&derived()));
}

#[test]
fn the_exporter_imports_too_and_copies_its_slices_with_the_ports_of_the_import() {
    let mut world = world();
    world.set_export(key(), Some(local_export()));
    world.set_service(key(), Some(local_service()));
    world.set_slice(&ObjectKey::new("shop", "cart-x7"), Some((Some("cart".to_owned()), local_slice())));
    assert_eq!(settle(&mut world), []);
    let copies = &world.slices[&derived()];
    let (name, copy) = copies.iter().next().unwrap();
    assert_eq!(*name, format!("{}-x7", derived().name));
    assert_eq!(copy.whole["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(copy.whole["endpoints"][0]["addresses"], json!(["10.1.0.5"]));
    let conditions = &world.exports[&key()].conditions;
    assert_eq!(condition(conditions, "Valid"), ("True", "Valid"));
    assert_eq!(condition(conditions, "Conflict"), ("False", "NoConflicts"));
}

#[test]
fn deleting_the_last_export_removes_import_service_and_slices() {
    let mut world = world();
    world.set_export(key(), Some(local_export()));
    world.set_service(key(), Some(local_service()));
    world.set_slice(&ObjectKey::new("shop", "cart-x7"), Some((Some("cart".to_owned()), local_slice())));
    settle(&mut world);
    world.set_export(key(), None);
    settle(&mut world);
    assert!(world.imports.is_empty());
    assert_eq!(world.services.keys().collect::<Vec<_>>(), [&key()]);
    assert_eq!(world.slices.keys().collect::<Vec<_>>(), [&key()]);
}

#[test]
fn an_export_that_leaves_while_others_stay_only_shrinks_the_import() {
    let mut world = world();
    for (cluster, second) in [("east", 1), ("north", 2)] {
        world.set_remote(&cluster.parse().unwrap(), key(), Some(remote_export(cluster, second)));
    }
    settle(&mut world);
    let address = world.imports[&key()]["spec"]["ips"].clone();
    world.set_remote(&"east".parse().unwrap(), key(), None);
    settle(&mut world);
    assert_eq!(world.imports[&key()]["spec"]["ips"], address);
    assert_eq!(world.imports[&key()]["status"]["clusters"], json!([{"cluster": "north"}]));
    world.remove_cluster(&"north".parse().unwrap());
    settle(&mut world);
    assert!(world.imports.is_empty());
}

/// After a restart the imports are there before the exports are read again (mcs-api pitfall: imports deleted at start).
#[test]
fn an_import_stays_until_each_of_its_clusters_has_been_read() {
    let mut world = world();
    world.set_remote(&"south".parse().unwrap(), key(), Some(remote_export("south", 1)));
    settle(&mut world);
    let import = world.imports[&key()].clone();
    assert_eq!(import["status"]["clusters"], json!([{"cluster": "south"}]));
    world.set_remote(&"south".parse().unwrap(), key(), None);
    assert_eq!(settle(&mut world), [Reason::NotSynced]);
    assert_eq!(world.imports[&key()], import);
    assert_eq!(world.set_read(&"south".parse().unwrap()), [key()]);
    settle(&mut world);
    assert!(world.imports.is_empty());
}

#[test]
fn a_cluster_that_never_comes_back_is_not_waited_for_beyond_the_grace() {
    let mut world = world();
    world.set_remote(&"south".parse().unwrap(), key(), Some(remote_export("south", 1)));
    settle(&mut world);
    world.set_remote(&"south".parse().unwrap(), key(), None);
    assert_eq!(world.stop_waiting(), [key()]);
    settle(&mut world);
    assert!(world.imports.is_empty());
}

#[test]
fn a_broken_local_export_says_so_and_does_not_hold_up_the_import() {
    let external = LocalService { external_name: true, ..local_service() };
    let cases = [
        (None, "NoService", Reason::ExportWithoutService),
        (Some(external), "InvalidServiceType", Reason::ServiceExternalName),
    ];
    for (service, reason, code) in cases {
        let mut world = world();
        world.set_remote(&"east".parse().unwrap(), key(), Some(remote_export("east", 1)));
        world.set_export(key(), Some(local_export()));
        world.set_service(key(), service);
        assert_eq!(settle(&mut world), [code]);
        assert_eq!(condition(&world.exports[&key()].conditions, "Valid"), ("False", reason));
        assert_eq!(world.imports[&key()]["status"]["clusters"], json!([{"cluster": "east"}]));
    }
}

#[test]
fn a_service_of_the_derived_name_that_is_not_ours_is_left_alone() {
    let mut world = world();
    let foreign =
        json!({"metadata": {"namespace": "shop", "name": derived().name.as_ref(), "uid": "f"}, "spec": {}});
    world.set_service(derived(), Some(LocalService { whole: Some(foreign.clone()), ..local_service() }));
    world.set_remote(&"east".parse().unwrap(), key(), Some(remote_export("east", 1)));
    assert_eq!(settle(&mut world), [Reason::ForeignObject]);
    assert_eq!(world.services[&derived()].whole.as_ref(), Some(&foreign));
    assert_eq!(condition(observed_conditions(&world.imports[&key()]), "Ready"), ("False", "Pending"));
    world.set_remote(&"east".parse().unwrap(), key(), None);
    settle(&mut world);
    assert!(world.services.contains_key(&derived()));
}

#[test]
fn nothing_is_imported_into_a_namespace_that_is_absent_terminating_or_not_global() {
    let cases = [
        (None, Reason::NamespaceAbsent),
        (Some(Namespace { terminating: true, ..global("true") }), Reason::NamespaceAbsent),
        (Some(global("false")), Reason::NamespaceNotGlobal),
    ];
    for (namespace, reason) in cases {
        let mut world = world();
        world.set_namespace("shop", namespace);
        world.set_remote(&"east".parse().unwrap(), key(), Some(remote_export("east", 1)));
        assert_eq!(settle(&mut world), [reason]);
        assert!(world.imports.is_empty());
    }
}

#[test]
fn a_bad_port_of_one_cluster_is_left_out_of_the_import_and_nothing_else() {
    let mut world = world();
    let east = "east".parse().unwrap();
    let bad = ServiceExport {
        ports: vec![ExportPort { name: "web".to_owned(), port: 70_000, ..http() }, http()],
        ..remote_export("east", 1)
    };
    world.set_remote(&east, key(), Some(bad.clone()));
    world.set_remote(&"north".parse().unwrap(), key(), Some(remote_export("north", 2)));
    let withheld = plan(&world, &key(), API, "now").withheld;
    assert_eq!(
        withheld[0].detail,
        "service export shop/cart of east: ports[0].port is 70000, expected 1 to 65535"
    );
    assert_eq!(settle(&mut world), [Reason::PortUnusable]);
    let import = &world.imports[&key()];
    assert_eq!(import["spec"]["ports"], json!([{"name": "http", "protocol": "TCP", "port": 80}]));
    assert_eq!(import["status"]["clusters"], json!([{"cluster": "east"}, {"cluster": "north"}]));

    // An export of which nothing is left is none.
    world.set_remote(&east, key(), Some(ServiceExport { ports: bad.ports[..1].to_vec(), ..bad }));
    assert_eq!(settle(&mut world), [Reason::PortUnusable, Reason::FieldMissing]);
    assert_eq!(world.imports[&key()]["status"]["clusters"], json!([{"cluster": "north"}]));
}

fn global(value: &str) -> Namespace {
    let annotations = BTreeMap::from([("clustermesh.cilium.io/global".to_owned(), value.to_owned())]);
    Namespace { annotations, terminating: false }
}

#[test]
fn a_namespace_that_leaves_the_mesh_keeps_its_import_with_nothing_behind_it() {
    let mut world = world();
    let (east, south) = ("east".parse().unwrap(), "south".parse().unwrap());
    world.set_remote(&east, key(), Some(remote_export("east", 1)));
    world.set_remote_service(&east, &derived(), Some(offer("east", 1)));
    world.set_export(key(), Some(local_export()));
    world.set_service(key(), Some(local_service()));
    world.set_slice(&ObjectKey::new("shop", "cart-x7"), Some((Some("cart".to_owned()), local_slice())));
    settle(&mut world);
    let (spec, slices) = (world.imports[&key()]["spec"].clone(), world.slices[&derived()].clone());
    assert_eq!(slices.len(), 2, "{slices:?}");

    // That a cluster was not read since the start is no reason to leave its endpoints.
    let mut import = world.imports[&key()].clone();
    import["status"]["clusters"].as_array_mut().unwrap().push(json!({"cluster": "south"}));
    world.set_import(key(), Some(import));
    assert_eq!(world.set_namespace("shop", Some(global("false"))), [key()]);
    settle(&mut world);
    let import = &world.imports[&key()];
    assert_eq!(condition(observed_conditions(import), "Ready"), ("False", "NamespaceNotGlobal"));
    assert_eq!(import["spec"], spec, "it keeps its address");
    assert!(!world.slices.contains_key(&derived()));
    let service = world.services[&derived()].whole.as_ref().unwrap();
    assert_eq!(service["metadata"]["annotations"].get(GLOBAL), None, "agents add no backends to it");
    world.set_read(&south);
    settle(&mut world);
    assert_eq!(world.imports[&key()]["status"]["clusters"], json!([{"cluster": "east"}]));

    world.set_namespace("shop", Some(global("true")));
    settle(&mut world);
    assert_eq!(world.imports[&key()]["spec"], spec);
    assert_eq!(world.slices[&derived()].keys().collect::<Vec<_>>(), slices.keys().collect::<Vec<_>>());
    let service = world.services[&derived()].whole.as_ref().unwrap();
    assert_eq!(service["metadata"]["annotations"][GLOBAL], "true");

    // Once nobody else exports it, there is nothing to import in a namespace that is not global.
    world.set_namespace("shop", Some(global("false")));
    settle(&mut world);
    world.set_remote(&east, key(), None);
    settle(&mut world);
    assert!(world.imports.is_empty() && !world.services.contains_key(&derived()));
}

#[test]
fn a_service_that_turns_headless_gets_a_new_derived_service() {
    let mut world = world();
    world.set_remote(&"east".parse().unwrap(), key(), Some(remote_export("east", 1)));
    settle(&mut world);
    let headless = ServiceExport { service_type: "Headless".to_owned(), ..remote_export("east", 1) };
    world.set_remote(&"east".parse().unwrap(), key(), Some(headless));
    settle(&mut world);
    assert!(world.services[&derived()].headless);
    assert_eq!(world.imports[&key()]["spec"]["ips"], json!([]));
    assert_eq!(world.imports[&key()]["spec"]["type"], "Headless");
}

#[test]
fn disagreements_are_shown_on_the_local_export() {
    let mut world = world();
    world.set_export(key(), Some(local_export()));
    world.set_service(key(), Some(local_service()));
    let other = ServiceExport {
        ports: vec![ExportPort { port: 81, ..http() }],
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ..remote_export("east", 1)
    };
    world.set_remote(&"east".parse().unwrap(), key(), Some(other));
    assert_eq!(settle(&mut world), [Reason::ExportConflict]);
    let conflict = condition(&world.exports[&key()].conditions, "Conflict");
    assert_eq!(conflict, ("True", "PortConflict,LabelsConflict"));
    assert_eq!(world.imports[&key()]["spec"]["ports"][0]["port"], 81, "the older export decides");
    assert_eq!(world.all(), BTreeSet::from([key()]));
}
