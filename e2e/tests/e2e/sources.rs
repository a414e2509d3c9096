//! What happens to the sources of a cluster's exports: the definitions come late, Cilium's operator packs endpoints anew,
//! the API server dies. What is good stays in the other cluster all the while.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bed, ClusterSpec, Mesh, Part, Pod, objects};
use serde_json::{Value, json};

use crate::path::{
    GLOBAL, SOON, addresses, apply_service, backends_are, backends_become, entry_becomes, entry_goes,
};

const CART: u32 = 65_536 + 101;
const BASKET: u32 = 65_536 + 102;

#[test]
fn late_definitions_an_operator_that_packs_anew_and_a_dead_api_server_withdraw_nothing_good() {
    let west = ClusterSpec::new("west", 1).without_cilium();
    let bed = Bed::builder("sources").with(west).cluster("east", 2).start().unwrap();
    let slices = ["--enable-cilium-endpoint-slice"];
    let mesh = Mesh::builder(&bed).exporter_args("west", &slices).start().unwrap();
    apply_service(&mesh, "west", "cart", &[GLOBAL], &[("cart-1", &["10.9.1.1"])]);
    apply_service(&mesh, "east", "cart", &[GLOBAL], &[]);
    backends_become(&mesh, "east", "cart", &["west 10.9.1.1:8080"]);
    let node = mesh.member("west").node();
    let pods: Vec<_> = ["cart-0", "cart-1", "basket-0"].iter().map(|name| node.pod(name).unwrap()).collect();

    ciliums_definitions_come(&mesh, &pods);
    the_operator_restarts(&mesh, &pods);
    the_api_server_dies(&mesh, &pods);
}

fn packed(name: &str, pods: &[(&Pod, u32)]) -> Value {
    let pods: Vec<_> = pods.iter().map(|(pod, identity)| (*pod, i64::from(*identity))).collect();
    objects::cilium_endpoint_slice(name, "shop", &pods)
}

fn prefix(pod: &Pod) -> String {
    format!("{}/32", pod.address())
}

/// The agent of east knows each of these pods of west by its identity.
fn known(mesh: &Mesh<'_>, pods: &[(&Pod, u32)]) -> Result<()> {
    for (pod, identity) in pods {
        let entry = mesh.member("east").entry("ipcache", "prefix", &prefix(pod))?;
        ensure!(entry["identity"] == *identity, "{} is {entry}", pod.name());
        ensure!(entry["cluster"] == "west", "{} is {entry}", pod.name());
    }
    Ok(())
}

fn become_known(mesh: &Mesh<'_>, pods: &[(&Pod, u32)]) {
    mesh.bed().eventually("east knows the pods of west", SOON, || known(mesh, pods));
}

/// Until then the export is derived from Node and Pod; the service is not touched by the change.
fn ciliums_definitions_come(mesh: &Mesh<'_>, pods: &[Pod]) {
    let west = mesh.member("west");
    let source = || west.page(Part::Exporter, "/status").map(|status| status["source"].clone());
    assert_eq!(source().unwrap(), "derived");
    west.cluster().define_cilium().unwrap();
    let kubectl = west.cluster().kubectl();
    for object in [
        objects::cilium_node(west.node()),
        objects::cilium_identity(CART, "west", "shop", &[("app", "cart")]),
        objects::cilium_identity(BASKET, "west", "shop", &[("app", "basket")]),
        packed("ces-1", &[(&pods[0], CART), (&pods[1], CART)]),
        packed("ces-2", &[(&pods[2], BASKET)]),
    ] {
        kubectl.apply_object(&object).unwrap();
    }
    become_known(mesh, &[(&pods[0], CART), (&pods[1], CART), (&pods[2], BASKET)]);
    assert_eq!(source().unwrap(), "cilium");
    backends_are(mesh, "east", "cart", &["west 10.9.1.1:8080"]).unwrap();
    entry_becomes(mesh, "east", ("nodes", "name", "west-1"), &json!({"cluster": "west"}));
}

/// One that starts anew finds other slices for the same endpoints: each is in two for a moment, then the old ones go.
fn the_operator_restarts(mesh: &Mesh<'_>, pods: &[Pod]) {
    let all = [(&pods[0], CART), (&pods[1], CART), (&pods[2], BASKET)];
    let kubectl = mesh.member("west").cluster().kubectl();
    kubectl.apply_object(&packed("ces-9", &[all[2], all[0]])).unwrap();
    kubectl.apply_object(&packed("ces-8", &[all[1]])).unwrap();
    known(mesh, &all).unwrap();
    for old in ["ces-1", "ces-2"] {
        kubectl.delete("", "ciliumendpointslice", old).unwrap();
        mesh.bed().always(&format!("without {old}"), Duration::from_secs(1), || known(mesh, &all));
    }
    // It goes on from there: one changes its identity, one ends, and an identity that nobody has is collected.
    kubectl.apply_object(&packed("ces-9", &[(&pods[0], CART)])).unwrap();
    entry_goes(mesh, "east", ("ipcache", "prefix", &prefix(&pods[2])));
    kubectl.delete("", "ciliumidentity", &BASKET.to_string()).unwrap();
    entry_goes(mesh, "east", ("identities", "id", &BASKET.to_string()));
    known(mesh, &all[..2]).unwrap();
}

fn the_api_server_dies(mesh: &Mesh<'_>, pods: &[Pod]) {
    let west = mesh.member("west");
    let kept = || {
        known(mesh, &[(&pods[0], CART), (&pods[1], CART)])?;
        backends_are(mesh, "east", "cart", &["west 10.9.1.1:8080"])?;
        mesh.member("east").entry("nodes", "name", "west-1").map(drop).context("the node")
    };
    let away = || mesh.bed().always("the API server is away", Duration::from_secs(3), kept);
    west.cluster().kill_api_server(away).unwrap();
    mesh.bed().always("the API server is back", Duration::from_secs(2), kept);

    // Every kind flows again.
    let kubectl = west.cluster().kubectl();
    let slice = objects::endpoint_slice("shop", "cart", "cart-1", &addresses(&["10.9.1.2"]), 8080);
    kubectl.apply_object(&slice).unwrap();
    kubectl.apply_object(&packed("ces-8", &[(&pods[1], CART), (&pods[2], CART)])).unwrap();
    let mut later = objects::cilium_node(west.node());
    later["metadata"]["name"] = json!("later");
    later["spec"]["addresses"] = json!([{"type": "InternalIP", "ip": "10.200.1.99"}]);
    later["spec"]["ipam"]["podCIDRs"] = json!(["10.71.99.0/24"]);
    kubectl.apply_object(&later).unwrap();
    backends_become(mesh, "east", "cart", &["west 10.9.1.2:8080"]);
    become_known(mesh, &[(&pods[0], CART), (&pods[1], CART), (&pods[2], CART)]);
    entry_becomes(mesh, "east", ("nodes", "name", "later"), &json!({"nodeIp": "10.200.1.99"}));
    kubectl.delete("", "ciliumnode", "later").unwrap();
    entry_goes(mesh, "east", ("nodes", "name", "later"));
}
