//! Virtual machines without Kubernetes take part: their cluster's API is `isthmus kube-lite`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bed, ClusterSpec, Mesh, Part, objects};
use serde_json::json;

use crate::path::{
    GLOBAL, SOON, a_global_service_follows_its_owner, addresses, apply_service, backends_are,
    backends_become, entry_becomes,
};

#[test]
fn machines_without_kubernetes_join_the_mesh_by_kube_lite() {
    let edge = ClusterSpec::new("edge", 2).without_cilium().on_kube_lite();
    let bed = Bed::builder("edge").cluster("west", 1).with(edge).start().unwrap();
    let mesh = Mesh::builder(&bed).dns().start().unwrap();

    // The machines are its nodes, and services go both ways.
    let machine = mesh.member("edge").node().address().to_string();
    let node = json!({"cluster": "edge", "nodeIp": machine});
    entry_becomes(&mesh, "west", ("nodes", "name", "edge-1"), &node);
    a_global_service_follows_its_owner(&mesh, "edge", "west", "cart");
    a_global_service_follows_its_owner(&mesh, "west", "edge", "basket");
    a_name_of_the_machines_answers(&mesh, &machine);

    apply_service(&mesh, "edge", "orders", &[GLOBAL], &[("orders-1", &["10.9.1.1"])]);
    apply_service(&mesh, "west", "orders", &[GLOBAL], &[]);
    backends_become(&mesh, "west", "orders", &["edge 10.9.1.1:8080"]);
    the_api_dies(&mesh);
}

/// By the Multi-Cluster Services API: exported there, imported here.
fn a_name_of_the_machines_answers(mesh: &Mesh<'_>, machine: &str) {
    let edge = mesh.member("edge").cluster().kubectl();
    apply_service(mesh, "edge", "ledger", &[], &[("ledger-1", &[machine])]);
    edge.apply_object(&objects::service_export("shop", "ledger")).unwrap();
    let west = mesh.member("west");
    let server = west.cluster().host().address().to_string();
    mesh.bed().eventually("the name answers in west with the address of its import", SOON, || {
        let import = west.cluster().kubectl().get("shop", "serviceimport", "ledger")?;
        let address = import["spec"]["ips"][0].as_str().context("no address yet")?.to_owned();
        let question = [&format!("@{server}"), "+short", "+time=15", "+tries=1"];
        let answer =
            west.node().exec("dig").args(question).arg("ledger.shop.svc.clusterset.local").stdout()?;
        ensure!(answer.trim() == address, "{answer}");
        Ok(())
    });
    let conditions = || -> Result<()> {
        let export = edge.get("shop", "serviceexport", "ledger")?;
        let is = |kind| {
            export["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == kind && condition["status"] == "True")
        };
        ensure!(is("Valid"), "{export}");
        Ok(())
    };
    mesh.bed().eventually("the owner sees that its export is valid", SOON, conditions);
}

/// It keeps its objects in a directory, so that nothing is lost and nothing withdrawn.
fn the_api_dies(mesh: &Mesh<'_>) {
    let edge = mesh.member("edge").cluster();
    let kept = || {
        backends_are(mesh, "west", "orders", &["edge 10.9.1.1:8080"])?;
        mesh.member("west").entry("nodes", "name", "edge-1").map(drop)
    };
    let away = || mesh.bed().always("kube-lite is away", Duration::from_secs(2), kept);
    edge.kill_api_server(away).unwrap();
    mesh.bed().always("kube-lite is back", Duration::from_secs(2), kept);
    let slice = objects::endpoint_slice("shop", "orders", "orders-1", &addresses(&["10.9.1.2"]), 8080);
    edge.kubectl().apply_object(&slice).unwrap();
    backends_become(mesh, "west", "orders", &["edge 10.9.1.2:8080"]);
    let status = mesh.member("edge").page(Part::Exporter, "/status").unwrap();
    assert_eq!(status["source"], "derived");
}
