//! Whichever store a cluster has, the path is the same; and a store tells nothing to strangers.

use std::time::Duration;

use anyhow::ensure;
use e2e::{Etcdctl, Mesh, Part, objects};
use serde_json::{Value, json};

use crate::path::{
    GLOBAL, SOON, a_global_service_follows_its_owner, apply_service, backends_become, bed_of, entry_becomes,
};

#[test]
fn a_cluster_with_etcd_and_one_with_the_embedded_store_see_each_other() {
    let bed = bed_of("stores", &["west", "east"]);
    let mut mesh = Mesh::builder(&bed).etcd("west").start().unwrap();
    let version = mesh.member("west").etcdctl().run(&["endpoint", "status"]).unwrap();
    assert!(version.contains("3.7"), "west has a real etcd: {version}");
    a_global_service_follows_its_owner(&mesh, "west", "east", "cart");
    a_global_service_follows_its_owner(&mesh, "east", "west", "basket");
    for (from, to) in [("west", "east"), ("east", "west")] {
        let node = format!("{from}-1");
        entry_becomes(&mesh, to, ("nodes", "name", &node), &json!({"cluster": from}));
    }
    etcdctl_lists_the_keys_of_the_protocol(&mesh);
    strangers_get_nothing(&mesh);
    etcd_may_restart_too(&mut mesh);
}

/// From both stores, the same keys.
fn etcdctl_lists_the_keys_of_the_protocol(mesh: &Mesh<'_>) {
    let bed = mesh.bed();
    for (own, other) in [("west", "east"), ("east", "west")] {
        let member = mesh.member(own);
        let kubectl = member.cluster().kubectl();
        let pod = member.node().pod("keys-0").unwrap();
        let identity = (member.cluster().id() << 16) + 77;
        apply_service(mesh, own, "keys", &[GLOBAL], &[("keys-1", &["10.9.3.1"])]);
        kubectl.apply_object(&objects::cilium_identity(identity, own, "shop", &[("app", "keys")])).unwrap();
        kubectl.apply_object(&objects::cilium_endpoint(&pod, "shop", identity)).unwrap();
        kubectl.apply_object(&objects::service_export("shop", "keys")).unwrap();
        let id = (mesh.member(other).cluster().id() << 16) + 77;
        let expected = [
            "cilium/.heartbeat".to_owned(),
            format!("cilium/cluster-config/{own}"),
            format!("cilium/cluster-config/{other}"),
            format!("cilium/state/nodes/v1/{own}/{own}-1"),
            format!("cilium/state/identities/v1/id/{identity}"),
            format!("cilium/state/ip/v1/default/{}", pod.address()),
            format!("cilium/state/services/v1/{own}/shop/keys"),
            format!("cilium/state/serviceexports/v1/{own}/shop/keys"),
            format!("cilium/synced/{own}/cilium/state/nodes/v1"),
            format!("cilium/synced/{own}/cilium/state/identities/v1"),
            format!("cilium/synced/{own}/cilium/state/ip/v1"),
            format!("cilium/synced/{own}/cilium/state/services/v1"),
            format!("cilium/synced/{own}/cilium/state/serviceexports/v1"),
            format!("cilium/cache/nodes/v1/{other}/{other}-1"),
            format!("cilium/synced/{other}/cilium/cache/nodes/v1"),
            format!("cilium/synced/{other}/cilium/cache/services/v1"),
        ];
        let keys = bed.eventually(&format!("{own}: all keys are there"), SOON, || {
            let keys = member.etcdctl().get_prefix("cilium/")?;
            let missing: Vec<_> = expected.iter().filter(|key| !keys.contains_key(*key)).collect();
            ensure!(missing.is_empty(), "missing: {missing:#?}");
            Ok(keys)
        });
        let value = |key: String| -> Value { serde_json::from_slice(&keys[&key]).unwrap() };
        let config = value(format!("cilium/cluster-config/{own}"));
        assert_eq!(config["id"], member.cluster().id(), "{config}");
        assert_eq!(config["capabilities"]["syncedCanaries"], true, "{config}");
        let service = value(format!("cilium/state/services/v1/{own}/shop/keys"));
        assert_eq!((&service["cluster"], &service["name"]), (&json!(own), &json!("keys")), "{service}");
        assert!(service["backends"]["10.9.3.1"].is_object(), "{service}");
        let ip = value(format!("cilium/state/ip/v1/default/{}", pod.address()));
        assert_eq!(ip["ID"], identity, "{ip}");
        let mirrored = format!("cilium/cache/identities/v1/{own}/id/{identity}");
        bed.eventually(&format!("{other}: {mirrored} is mirrored"), SOON, || {
            let found = mesh.member(other).etcdctl().get_prefix(&mirrored)?;
            ensure!(found.contains_key(&mirrored), "not yet");
            Ok(())
        });
        assert_ne!(id, identity);
    }
}

fn strangers_get_nothing(mesh: &Mesh<'_>) {
    let outside = mesh.bed().host("outside", 9).unwrap();
    for member in mesh.members() {
        let endpoint = format!("https://{}:2379", member.cluster().host().address());
        let ca = mesh.pki().authority();
        let stranger = Etcdctl::new(outside.netns(), &endpoint, &ca, None).unwrap();
        let refused = stranger.get_prefix("cilium/").unwrap_err();
        let text = format!("{refused:#}");
        assert!(
            text.contains("certificate") || text.contains("context deadline exceeded"),
            "{}: refused for another reason: {text}",
            member.name()
        );
        let other = e2e::Authority::new(&member.cluster().dir().join("other-pki")).unwrap();
        let forged = other.client("root", "root", None).unwrap();
        let forger = Etcdctl::new(outside.netns(), &endpoint, &ca, Some(&forged)).unwrap();
        assert!(forger.get_prefix("cilium/").is_err(), "{}: a certificate of another CA", member.name());
    }

    // The embedded store also looks at who is who: the other clusters' mirrors read, and no more.
    let east = mesh.member("east");
    let remote = mesh.pki().client("remote").unwrap();
    let endpoint = format!("https://{}:2379", east.cluster().host().address());
    let remote = Etcdctl::new(outside.netns(), &endpoint, &mesh.pki().authority(), Some(&remote)).unwrap();
    assert!(remote.put("cilium/state/nodes/v1/east/evil", "{}").is_err(), "a remote may not write");
}

/// Real etcd keeps its keys over a restart; nobody minds its absence.
fn etcd_may_restart_too(mesh: &mut Mesh<'_>) {
    apply_service(mesh, "west", "lasting", &[GLOBAL], &[("lasting-1", &["10.9.4.1"])]);
    apply_service(mesh, "east", "lasting", &[GLOBAL], &[]);
    backends_become(mesh, "east", "lasting", &["west 10.9.4.1:8080"]);
    let store = mesh.member_mut("west").daemon_mut(Part::Store);
    store.kill9().unwrap();
    store.restart().unwrap();
    store.wait_ready().unwrap();
    let bed = mesh.bed();
    bed.always("the other cluster keeps its rows", Duration::from_secs(2), || {
        crate::path::backends_are(mesh, "east", "lasting", &["west 10.9.4.1:8080"])
    });
    apply_service(mesh, "west", "lasting", &[GLOBAL], &[("lasting-1", &["10.9.4.2"])]);
    backends_become(mesh, "east", "lasting", &["west 10.9.4.2:8080"]);
}
