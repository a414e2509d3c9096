//! A cluster whose network plugin is not Cilium takes part: nodes, identities and endpoints come from Node, Pod and
//! Namespace.

use anyhow::{Result, ensure};
use e2e::{Bed, ClusterSpec, Mesh, Part, Pod, objects};
use serde_json::{Value, json};

use crate::path::{SOON, a_global_service_follows_its_owner, entry_becomes, entry_goes};

fn apply_pod(mesh: &Mesh<'_>, pod: &Pod, labels: &[(&str, &str)]) {
    let west = mesh.member("west");
    let mut object = objects::pod(pod, west.node(), "shop", labels);
    let status = object.as_object_mut().unwrap().remove("status").unwrap();
    west.cluster().kubectl().apply_object(&object).unwrap();
    west.cluster().kubectl().patch_status("shop", "pod", pod.name(), &status).unwrap();
}

/// The identity that the agent of east has for an address of west.
fn identity_of(mesh: &Mesh<'_>, pod: &Pod) -> Result<u64> {
    let entry = mesh.member("east").entry("ipcache", "prefix", &format!("{}/32", pod.address()))?;
    ensure!(entry["cluster"] == "west" && entry["source"] == "clustermesh", "{entry}");
    let identity = entry["identity"].as_u64().unwrap_or_default();
    ensure!(identity >> 16 == 1, "{identity} is not of the range of cluster 1");
    Ok(identity)
}

#[test]
fn a_cluster_without_cilium_takes_part_and_its_identities_outlive_the_store() {
    let bed = Bed::builder("derived").with(ClusterSpec::new("west", 1).without_cilium());
    let bed = bed.cluster("east", 2).start().unwrap();
    let mut mesh = Mesh::builder(&bed).start().unwrap();
    let west = mesh.member("west");
    let address = west.node().address().to_string();
    let [cidr, _cidr6] = west.node().pod_cidrs();
    entry_becomes(&mesh, "east", ("nodes", "name", "west-1"), &json!({"cluster": "west", "nodeIp": address}));
    entry_becomes(&mesh, "east", ("ipcache", "prefix", &cidr), &json!({"cluster": "west", "host": address}));

    let pods = ["cart-0", "cart-1", "orders-0"].map(|name| west.node().pod(name).unwrap());
    west.cluster().kubectl().apply_object(&objects::namespace("shop")).unwrap();
    for (pod, app) in pods.iter().zip(["cart", "cart", "orders"]) {
        apply_pod(&mesh, pod, &[("app", app)]);
    }
    let identities =
        |mesh: &Mesh<'_>| -> Result<Vec<u64>> { pods.iter().map(|pod| identity_of(mesh, pod)).collect() };
    let before = bed.eventually("all pods have identities in east", SOON, || identities(&mesh));
    assert_eq!(before[0], before[1], "the same labels are the same identity");
    assert_ne!(before[0], before[2]);
    let labels = bed.eventually("the identity has labels in east", SOON, || {
        let entry = mesh.member("east").entry("identities", "id", &before[0].to_string())?;
        Ok(entry["labels"].clone())
    });
    for label in
        ["k8s:app=cart", "k8s:io.cilium.k8s.policy.cluster=west", "k8s:io.kubernetes.pod.namespace=shop"]
    {
        assert!(labels.as_array().unwrap().contains(&json!(label)), "{labels}");
    }
    a_global_service_follows_its_owner(&mesh, "west", "east", "cart");

    // Store and exporter start anew, with nothing; the numbers are the same.
    let west = mesh.member_mut("west");
    west.daemon_mut(Part::Exporter).stop().unwrap();
    west.daemon_mut(Part::Store).restart().unwrap();
    west.daemon_mut(Part::Store).wait_ready().unwrap();
    let keys = west.etcdctl().get_prefix("cilium/state/identities/").unwrap();
    assert!(keys.is_empty(), "the store is new: {:?}", keys.keys());
    west.daemon_mut(Part::Exporter).restart().unwrap();
    west.daemon_mut(Part::Exporter).wait_ready().unwrap();
    let of_store = bed.eventually("the exporter writes them again", SOON, || {
        let keys = mesh.member("west").etcdctl().get_prefix("cilium/state/ip/v1/default/")?;
        let identity = |pod: &Pod| -> Result<u64> {
            let value = keys.get(&format!("cilium/state/ip/v1/default/{}", pod.address()));
            let value: Value = serde_json::from_slice(value.map_or(b"null", Vec::as_slice))?;
            value["ID"].as_u64().ok_or_else(|| anyhow::anyhow!("{} has none", pod.name()))
        };
        pods.iter().map(identity).collect::<Result<Vec<_>>>()
    });
    assert_eq!(of_store, before);
    assert_eq!(identities(&mesh).unwrap(), before);

    // A pod that changes or goes is followed.
    apply_pod(&mesh, &pods[1], &[("app", "orders")]);
    bed.eventually("the pod has the identity of its new labels", SOON, || {
        ensure!(identity_of(&mesh, &pods[1])? == before[2], "not yet");
        Ok(())
    });
    let kubectl = mesh.member("west").cluster().kubectl();
    let now = ["-n", "shop", "delete", "pod", "orders-0", "--grace-period=0", "--force"];
    kubectl.run(&now).unwrap();
    entry_goes(&mesh, "east", ("ipcache", "prefix", &format!("{}/32", pods[2].address())));
}
