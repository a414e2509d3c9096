//! What a remote cluster may see is decided by the server, whoever asks and however.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bed, Etcdctl, Mesh, Part, objects};
use serde_json::{Value, json};

use crate::path::{EndOnDrop, GLOBAL, SOON, addresses, bed_of};

/// `prod` sees what lies in `shop` and in namespaces with the label, `test` sees everything.
const SCOPES: &str = "\
default: none
scopes:
- name: shop
  clusters: [prod]
  namespaces: [shop]
  namespaceSelector: {matchLabels: {visible: prod}}
- name: all
  clusters: [test]
";
const USERS: &str = "\
users:
- name: remote-prod
  role: remote
- name: remote-test
  role: remote
";

/// A service with one backend in a namespace.
fn apply(mesh: &Mesh<'_>, namespace: &str, name: &str, backend: &str) {
    let kubectl = mesh.member("home").cluster().kubectl();
    let slice = objects::endpoint_slice(namespace, name, &format!("{name}-1"), &addresses(&[backend]), 8080);
    let service = objects::service(namespace, name, 80, &[GLOBAL]);
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]})).unwrap();
}

/// The names of what `cluster` has mirrored of home, after the prefix of the kind.
fn mirrored(mesh: &Mesh<'_>, cluster: &str, kind: &str) -> Result<BTreeSet<String>> {
    let prefix = format!("cilium/cache/{kind}/v1/home/");
    let keys = mesh.member(cluster).etcdctl().get_prefix(&prefix)?;
    Ok(keys.into_keys().map(|key| key.trim_start_matches(&prefix).to_owned()).collect())
}

fn becomes(mesh: &Mesh<'_>, cluster: &str, kind: &str, expected: &[&str]) {
    mesh.bed().eventually(&format!("{cluster} has of home's {kind}: {expected:?}"), SOON, || {
        let found = mirrored(mesh, cluster, kind)?;
        ensure!(found.iter().map(String::as_str).eq(expected.iter().copied()), "found {found:?}");
        Ok(())
    });
}

fn write(bed: &Bed, name: &str, text: &str) -> PathBuf {
    let file = bed.dir().join(name);
    std::fs::write(file.with_extension("new"), text).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
    file
}

/// `etcdctl` against home's store from the machine of `cluster`, with its certificate.
fn etcdctl(mesh: &Mesh<'_>, cluster: &str, user: &str) -> Etcdctl {
    let home = mesh.member("home").cluster().host().address();
    let netns = mesh.member(cluster).cluster().host().netns();
    let client = mesh.pki().client(user).unwrap();
    Etcdctl::new(netns, &format!("https://{home}:2379"), &mesh.pki().authority(), Some(&client)).unwrap()
}

#[test]
fn a_cluster_in_a_scope_sees_that_and_cannot_ask_for_more() {
    let bed = bed_of("scopes", &["home", "prod", "test"]);
    let (scopes, users) = (write(&bed, "scopes.yaml", SCOPES), write(&bed, "users.yaml", USERS));
    let mesh = Mesh::builder(&bed)
        .without_agents()
        .user_of_its_own()
        .argument("home", Part::Exporter, &format!("--clustermesh-export-scopes={}", scopes.display()))
        .argument("home", Part::Exporter, "--cluster-users-enabled")
        .argument("home", Part::Exporter, &format!("--cluster-users-config-path={}", users.display()));
    let open = format!("{USERS}- name: remote-home\n  role: remote\n");
    let everyone = write(&bed, "everyone.yaml", &open);
    let mesh = ["prod", "test"].into_iter().fold(mesh, |mesh, cluster| {
        let file = format!("--cluster-users-config-path={}", everyone.display());
        mesh.argument(cluster, Part::Exporter, "--cluster-users-enabled").argument(
            cluster,
            Part::Exporter,
            &file,
        )
    });
    let mesh = mesh.start().unwrap();
    let kubectl = mesh.member("home").cluster().kubectl();
    for namespace in ["shop", "bank"] {
        kubectl.apply_object(&objects::namespace(namespace)).unwrap();
    }
    let identity = |nth: u32| 65_536 + nth;
    for (namespace, nth) in [("shop", 1), ("bank", 2)] {
        apply(&mesh, namespace, "cart", &format!("10.9.1.{nth}"));
        let pod = mesh.member("home").node().pod(&format!("{namespace}-0")).unwrap();
        let labels = [("app", namespace)];
        kubectl.apply_object(&objects::cilium_identity(identity(nth), "home", namespace, &labels)).unwrap();
        kubectl.apply_object(&objects::cilium_endpoint(&pod, namespace, identity(nth))).unwrap();
    }

    // Mirrors that know nothing of scopes.
    becomes(&mesh, "test", "services", &["bank/cart", "shop/cart"]);
    becomes(&mesh, "prod", "services", &["shop/cart"]);
    becomes(&mesh, "prod", "identities", &["id/65537"]);
    becomes(&mesh, "test", "identities", &["id/65537", "id/65538"]);
    for cluster in ["prod", "test"] {
        becomes(&mesh, cluster, "nodes", &["home-1"]);
    }
    bed.eventually("test has two addresses more than prod, those of the pod of bank", SOON, || {
        let [prod, test] = ["prod", "test"].map(|cluster| mirrored(&mesh, cluster, "ip"));
        let (prod, test) = (prod?, test?);
        ensure!(test.difference(&prod).count() == 2 && prod.is_subset(&test), "{prod:?}, {test:?}");
        Ok(())
    });

    it_cannot_ask_for_more(&mesh);
    a_label_moves_a_namespace_under_load(&mesh);
    the_exporter_says_what_is_kept_from_whom(&mesh);

    // A file that is no good changes nothing and is said; a good one counts at once.
    write(&bed, "scopes.yaml", "scopes:\n- name: shop\n  clusters: [prod]\n  namespace: [shop]\n");
    bed.eventually("the fault of the file is shown", SOON, || {
        let page = mesh.member("home").page(Part::Exporter, "/status")?;
        let fault = page["scopesRejected"].as_str().context("none is")?;
        ensure!(fault.contains("unknown field `namespace`") && fault.contains("line 4"), "{fault}");
        Ok(())
    });
    becomes(&mesh, "prod", "services", &["shop/cart"]);
    write(&bed, "scopes.yaml", "scopes:\n- name: bank\n  clusters: [prod]\n  namespaces: [bank]\n");
    becomes(&mesh, "prod", "services", &["bank/cart"]);
    becomes(&mesh, "test", "services", &["bank/cart", "shop/cart"]);
    bed.eventually("nothing is left of the scopes that are gone", SOON, || {
        let trees = mesh.member("home").etcdctl().get_prefix("isthmus/scope/")?;
        let foreign: Vec<_> =
            trees.into_keys().filter(|key| !key.starts_with("isthmus/scope/bank/")).collect();
        ensure!(foreign.is_empty(), "{foreign:?}");
        Ok(())
    });
}

fn it_cannot_ask_for_more(mesh: &Mesh<'_>) {
    let prod = etcdctl(mesh, "prod", "remote-prod");
    let all = prod.get_prefix("").unwrap();
    assert!(all.contains_key("cilium/state/services/v1/home/shop/cart"), "{:?}", all.keys());
    assert!(all.keys().all(|key| !key.contains("bank")), "{:?}", all.keys());
    let values = all.values().map(|value| String::from_utf8_lossy(value));
    assert!(values.into_iter().all(|value| !value.contains("bank")));
    for args in [
        &["get", "cilium/state/services/v1/home/bank/cart"][..],
        &["get", "--from-key", "cilium/state/services/v1/home/bank"],
        &["get", "\u{1}", "\u{7f}"],
        &["get", "--prefix", "isthmus/"],
        &["get", "isthmus/scope/all/cilium/state/services/v1/home/bank/cart"],
        &["get", "../all/cilium/state/services/v1/home/bank/cart"],
    ] {
        let seen = prod.run(args).unwrap();
        assert!(!seen.contains("bank"), "{args:?}: {seen}");
    }
    for args in [&["put", "cilium/state/x", "1"][..], &["del", "--prefix", ""], &["lock", "x", "true"]] {
        let refused = format!("{:#}", prod.run(args).unwrap_err());
        assert!(refused.contains("permission denied"), "{args:?}: {refused}");
    }
    // Who is in no scope sees nothing here, and the user that clusters would share is no way around.
    for user in ["remote", "remote-stranger"] {
        let refused = etcdctl(mesh, "prod", user).run(&["get", "cilium/.heartbeat"]).unwrap_err();
        assert!(format!("{refused:#}").contains("permission denied"), "{user}: {refused:#}");
    }
}

/// While another namespace changes all the time, a label lets one in and out: each time at once, and nothing else goes.
fn a_label_moves_a_namespace_under_load(mesh: &Mesh<'_>) {
    let kubectl = mesh.member("home").cluster().kubectl();
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let load = threads.spawn(|| {
            let mut changes = 0_u32;
            while !done.load(Ordering::Relaxed) {
                changes += 1;
                let backend = format!("10.9.3.{}", changes % 200 + 1);
                let list = addresses(&[&backend]);
                let slice = objects::endpoint_slice("bank", "cart", "cart-1", &list, 8080);
                kubectl.apply_object(&slice).unwrap();
            }
            changes
        });
        let end = EndOnDrop(&done);
        for _turn in 0..3 {
            let label = |value: Value| {
                kubectl
                    .patch("", "namespace", "bank", &json!({"metadata": {"labels": {"visible": value}}}))
                    .unwrap();
            };
            label(json!("prod"));
            becomes(mesh, "prod", "services", &["bank/cart", "shop/cart"]);
            becomes(mesh, "prod", "identities", &["id/65537", "id/65538"]);
            label(Value::Null);
            becomes(mesh, "prod", "services", &["shop/cart"]);
            becomes(mesh, "prod", "identities", &["id/65537"]);
            let both = mirrored(mesh, "test", "services").unwrap();
            assert_eq!(both.len(), 2, "{both:?}");
        }
        drop(end);
        let changes = load.join().unwrap();
        assert!(changes > 3, "{changes} changes meanwhile");
    });
    mesh.bed().always("prod has nothing of bank", Duration::from_secs(2), || {
        let keys = etcdctl(mesh, "prod", "remote-prod").get_prefix("cilium/")?;
        ensure!(keys.keys().all(|key| !key.contains("bank")), "{:?}", keys.keys());
        Ok(())
    });
}

fn the_exporter_says_what_is_kept_from_whom(mesh: &Mesh<'_>) {
    mesh.bed().eventually("the exporter says what is kept from whom", SOON, || {
        let page = mesh.member("home").page(Part::Exporter, "/status")?;
        let scopes = page["scopes"].as_array().context("no scopes")?;
        let shop = scopes.iter().find(|scope| scope["name"] == "shop").context("no scope shop")?;
        ensure!((&shop["synced"], &shop["clusters"]) == (&json!(true), &json!(["prod"])), "{shop}");
        let mut rows = shop["withheld"].as_array().context("nothing is withheld")?.iter();
        let row = rows.find(|row| row["key"] == "bank/cart" && row["resource"] == "services");
        let row = row.context("bank/cart is not withheld")?;
        ensure!(row["reason"] == "not-in-scope", "{row}");
        ensure!(row["detail"] == "scope shop of prod: namespace bank is not in it", "{row}");
        for (scope, expected) in [("shop", 1.0), ("all", 2.0)] {
            let labels = [&*format!("export_scope=\"{scope}\""), "resource=\"services\""];
            let keys = mesh.member("home").metric(Part::Exporter, "export_scope_keys", &labels)?;
            ensure!((keys - expected).abs() < f64::EPSILON, "{keys} keys of {scope}");
        }
        Ok(())
    });
}
