//! An object of one cluster's API becomes a row in the tables of another cluster's agent.

use anyhow::{Context as _, ensure};
use e2e::{Mesh, Part, objects};
use serde_json::{Value, json};

use crate::path::{
    GLOBAL, SOON, a_global_service_follows_its_owner, apply_service, backends_become, bed_of, entry_becomes,
    entry_goes,
};

#[test]
fn objects_of_one_cluster_show_in_the_tables_of_the_other_and_follow() {
    let bed = bed_of("tables", &["west", "east"]);
    let mesh = Mesh::builder(&bed).start().unwrap();
    a_global_service_follows_its_owner(&mesh, "west", "east", "cart");
    a_service_only_in_the_other_cluster_waits_for_a_local_one(&mesh);
    nodes_identities_and_endpoints_follow(&mesh);
    a_node_that_cannot_be_decoded_stops_only_itself(&mesh);
}

fn a_service_only_in_the_other_cluster_waits_for_a_local_one(mesh: &Mesh<'_>) {
    apply_service(mesh, "west", "orders", &[GLOBAL], &[("orders-1", &["10.9.2.1"])]);
    let waiting = json!({"namespace": "shop", "state": "waiting", "reasons": ["service-not-local"]});
    entry_becomes(mesh, "east", ("services", "name", "orders"), &waiting);
    apply_service(mesh, "east", "orders", &[GLOBAL], &[]);
    backends_become(mesh, "east", "orders", &["west 10.9.2.1:8080"]);
}

fn nodes_identities_and_endpoints_follow(mesh: &Mesh<'_>) {
    let west = mesh.member("west");
    let (kubectl, node) = (west.cluster().kubectl(), west.node());
    let [cidr, _cidr6] = node.pod_cidrs();
    let address = node.address().to_string();
    entry_becomes(mesh, "east", ("nodes", "name", "west-1"), &json!({"cluster": "west", "nodeIp": address}));
    entry_becomes(mesh, "east", ("ipcache", "prefix", &cidr), &json!({"cluster": "west", "host": address}));

    let identity = 65_536 + 4711;
    let pod = node.pod("cart-0").unwrap();
    kubectl.apply_object(&objects::namespace("shop")).unwrap();
    kubectl.apply_object(&objects::cilium_identity(identity, "west", "shop", &[("app", "cart")])).unwrap();
    kubectl.apply_object(&objects::cilium_endpoint(&pod, "shop", identity)).unwrap();
    let (number, prefix) = (identity.to_string(), format!("{}/32", pod.address()));
    let labels = json!([
        "k8s:app=cart",
        "k8s:io.cilium.k8s.policy.cluster=west",
        "k8s:io.kubernetes.pod.namespace=shop"
    ]);
    entry_becomes(mesh, "east", ("identities", "id", &number), &json!({"cluster": "west", "labels": labels}));
    let entry = json!({"cluster": "west", "identity": identity, "host": address, "source": "clustermesh"});
    entry_becomes(mesh, "east", ("ipcache", "prefix", &prefix), &entry);

    // They change, and they go.
    let other = 65_536 + 4712;
    kubectl.apply_object(&objects::cilium_identity(other, "west", "shop", &[("app", "basket")])).unwrap();
    kubectl.apply_object(&objects::cilium_endpoint(&pod, "shop", other)).unwrap();
    entry_becomes(mesh, "east", ("ipcache", "prefix", &prefix), &json!({"identity": other}));
    kubectl.delete("", "ciliumidentity", &number).unwrap();
    entry_goes(mesh, "east", ("identities", "id", &number));
    kubectl.delete("shop", "ciliumendpoint", "cart-0").unwrap();
    entry_goes(mesh, "east", ("ipcache", "prefix", &prefix));
    entry_becomes(mesh, "east", ("identities", "id", &other.to_string()), &json!({"cluster": "west"}));
}

fn a_node_that_cannot_be_decoded_stops_only_itself(mesh: &Mesh<'_>) {
    let west = mesh.member("west");
    let kubectl = west.cluster().kubectl();
    // One with a pod CIDR that does not parse; what else it says is good.
    let mut broken = objects::cilium_node(west.node());
    broken["metadata"]["name"] = json!("broken");
    broken["spec"]["addresses"] = json!([{"type": "InternalIP", "ip": "10.200.1.98"}]);
    broken["spec"]["ipam"]["podCIDRs"] = json!(["10.71.300.0/24"]);
    kubectl.apply_object(&broken).unwrap();
    // One that has another shape altogether.
    let shapeless = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "shapeless"},
        "spec": {"addresses": "none", "ipam": []}});
    kubectl.apply_object(&shapeless).unwrap();
    for (name, reason) in [("broken", "cidr-invalid"), ("shapeless", "object-undecodable")] {
        mesh.bed().eventually(&format!("the exporter says {reason} of {name}"), SOON, || {
            let log = west.log(Part::Exporter)?;
            let lines = log
                .lines()
                .filter(|line| line.contains("WARN") && line.contains(name) && line.contains(reason));
            ensure!(lines.count() == 1, "not on one line of the log");
            let status = west.page(Part::Exporter, "/status")?;
            let withheld = status["withheld"].as_array().context("a status without a table")?;
            let is = |row: &&Value| row["kind"] == "CiliumNode" && row.to_string().contains(name);
            let row = withheld.iter().find(is).context("not in the status")?;
            ensure!(row["reason"] == reason, "{row}");
            let labels = ["kind=\"CiliumNode\"", &format!("reason=\"{reason}\"")];
            let counted = west.metric(Part::Exporter, "withheld_objects", &labels)?;
            ensure!((counted - 1.0).abs() < 0.1, "the metric says {counted}");
            Ok(())
        });
    }

    // The watch goes on: a later node arrives, and the first is still there.
    let mut good = objects::cilium_node(west.node());
    good["metadata"]["name"] = json!("later");
    good["spec"]["addresses"] = json!([{"type": "InternalIP", "ip": "10.200.1.99"}]);
    good["spec"]["ipam"]["podCIDRs"] = json!(["10.71.99.0/24"]);
    kubectl.apply_object(&good).unwrap();
    entry_becomes(mesh, "east", ("nodes", "name", "later"), &json!({"nodeIp": "10.200.1.99"}));
    entry_becomes(mesh, "east", ("nodes", "name", "west-1"), &json!({"cluster": "west"}));
    entry_becomes(
        mesh,
        "east",
        ("nodes", "name", "broken"),
        &json!({"nodeIp": "10.200.1.98", "podCidrs": []}),
    );
    assert!(mesh.member("east").entry("nodes", "name", "shapeless").is_err());
    kubectl.delete("", "ciliumnode", "later").unwrap();
    entry_goes(mesh, "east", ("nodes", "name", "later"));
}
