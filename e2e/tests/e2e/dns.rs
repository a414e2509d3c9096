//! `isthmus dns` beside a real API server, asked by dig, directly and through CoreDNS.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::{Bed, ClusterSpec, DaemonSpec, Node, objects, tool};
use serde_json::{Value, json};

use crate::path::SOON;

/// What dig says to one question: `NOERROR a b`, the code and the answers in order.
fn dig(client: &Node, server: &str, arguments: &[&str]) -> Result<String> {
    let output = client
        .exec("dig")
        .args([&format!("@{server}"), "+time=15", "+tries=1", "+noall", "+comments", "+answer"])
        .args(arguments)
        .stdout()?;
    let Some(code) = output.split("status: ").nth(1).and_then(|rest| rest.split(',').next()) else {
        bail!("no answer: {output}")
    };
    let records = output.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
    let mut data: Vec<_> = records.filter_map(|line| line.split_whitespace().last()).collect();
    data.sort_unstable();
    Ok([&[code][..], &data].concat().join(" "))
}

fn expect(client: &Node, server: &str, arguments: &[&str], expected: &str) -> Result<()> {
    let answer = dig(client, server, arguments)?;
    ensure!(answer == expected, "{arguments:?}: expected {expected:?}, got {answer:?}");
    Ok(())
}

fn import(version: &str, name: &str, kind: &str, ips: &[&str]) -> Value {
    json!({"apiVersion": format!("multicluster.x-k8s.io/{version}"), "kind": "ServiceImport",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"type": kind, "ips": ips, "ports": [{"name": "http", "protocol": "TCP", "port": 80}]}})
}

fn imported_slice(name: &str, service: &str, cluster: &str, address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {
            "multicluster.kubernetes.io/service-name": service,
            "multicluster.kubernetes.io/source-cluster": cluster,
            "endpointslice.kubernetes.io/managed-by": "test.example.org"}},
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [address], "hostname": "web-0", "conditions": {"ready": true}}]})
}

fn daemon(bed: &Bed, node: &Node) -> DaemonSpec {
    let kubeconfig = bed.cluster("west").kubeconfig();
    DaemonSpec::isthmus("dns")
        .unwrap()
        .arg(format!("--listen={}:53", node.address()))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--health-listen=127.0.0.1:9880")
        .ready_at(([127, 0, 0, 1], 9880))
}

#[test]
fn names_follow_the_imports_and_outlive_the_loss_of_the_api() {
    let bed =
        Bed::builder("dns").with(ClusterSpec::new("west", 1).without_cilium().without_mcs()).start().unwrap();
    let cluster = bed.cluster("west");
    let kubectl = cluster.kubectl();
    let node = cluster.node("worker-1").unwrap();
    let server = node.address().to_string();
    let ask = |arguments: &[&str], expected: &str| {
        bed.eventually(&format!("{arguments:?} is {expected}"), SOON, || {
            expect(&node, &server, arguments, expected)
        });
    };
    let cart = ["cart.shop.svc.clusterset.local", "A"];

    // The resources are not installed yet: nobody knows which names exist, so none is denied.
    let mut dns = node.host().daemon(daemon(&bed, &node)).unwrap();
    ask(&cart, "SERVFAIL");
    ask(&[".", "NS"], "REFUSED");
    let status = bed.eventually("the missing resource shows in the status", SOON, || {
        let status = dns.health("/status")?;
        ensure!(status.contains("\"absent\""), "{status}");
        Ok(status)
    });
    assert!(status.contains("\"synced\":false"), "{status}");
    assert!(dns.health("/readyz").is_err(), "not ready");

    kubectl.apply_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../clustermesh-apiserver/crds")).unwrap();
    kubectl.apply_object(&objects::namespace("shop")).unwrap();
    dns.wait_ready().unwrap();
    ask(&cart, "NXDOMAIN");

    kubectl.apply_object(&import("v1beta1", "cart", "ClusterSetIP", &["10.60.0.7", "fd60::7"])).unwrap();
    ask(&cart, "NOERROR 10.60.0.7");
    ask(&["cart.shop.svc.clusterset.local", "AAAA", "+tcp"], "NOERROR fd60::7");
    ask(&["_http._tcp.cart.shop.svc.clusterset.local", "SRV"], "NOERROR cart.shop.svc.clusterset.local.");
    ask(&["cart.shop.svc.clusterset.local", "TXT"], "NOERROR");
    kubectl.apply_object(&import("v1alpha1", "cart", "ClusterSetIP", &["10.60.0.8"])).unwrap();
    ask(&cart, "NOERROR 10.60.0.8");

    kubectl.apply_object(&import("v1beta1", "web", "Headless", &[])).unwrap();
    kubectl.apply_object(&imported_slice("web-east", "web", "east", "10.1.0.1")).unwrap();
    kubectl.apply_object(&imported_slice("web-west", "web", "west", "10.2.0.1")).unwrap();
    let web = ["web.shop.svc.clusterset.local", "A"];
    ask(&web, "NOERROR 10.1.0.1 10.2.0.1");
    ask(&["web-0.east.web.shop.svc.clusterset.local", "A"], "NOERROR 10.1.0.1");
    kubectl.delete("shop", "endpointslice", "web-east").unwrap();
    ask(&web, "NOERROR 10.2.0.1");

    // Losing the API is not deleting.
    cluster.host().unplug().unwrap();
    bed.always("the last names are served without the API", Duration::from_secs(3), || {
        expect(&node, &server, &cart, "NOERROR 10.60.0.8")
    });
    cluster.host().plug_in().unwrap();
    kubectl.delete("shop", "serviceimport", "cart").unwrap();
    // A connection that fell silent is noticed by its time-outs at the latest; a restart need not wait for them.
    dns.restart().unwrap();
    dns.wait_ready().unwrap();
    ask(&cart, "NXDOMAIN");
    ask(&web, "NOERROR 10.2.0.1");
    assert_eq!(dns.stop().unwrap().code(), Some(0));
}

#[test]
fn coredns_delegates_the_zone_by_its_forward_plugin() {
    let bed = Bed::builder("dns-coredns").with(ClusterSpec::new("west", 1).without_cilium()).start().unwrap();
    let cluster = bed.cluster("west");
    let (ours, theirs) = (cluster.node("worker-1").unwrap(), cluster.node("worker-2").unwrap());
    cluster.kubectl().apply_object(&objects::namespace("shop")).unwrap();
    cluster.kubectl().apply_object(&import("v1beta1", "cart", "ClusterSetIP", &["10.60.0.7"])).unwrap();
    let mut dns = ours.host().daemon(daemon(&bed, &ours)).unwrap();
    dns.wait_ready().unwrap();

    let corefile = bed.dir().join("Corefile");
    let text = format!("clusterset.local:53 {{\n  errors\n  forward . {}\n}}\n", ours.address());
    fs::write(&corefile, text).unwrap();
    let coredns = DaemonSpec::program("coredns", &tool("coredns").unwrap()).arg("-conf").arg(&corefile);
    let _coredns = theirs.host().daemon(coredns).unwrap();
    let server = theirs.address().to_string();
    for (arguments, expected) in [
        (&["cart.shop.svc.clusterset.local", "A"][..], "NOERROR 10.60.0.7"),
        (&["+tcp", "cart.shop.svc.clusterset.local", "A"], "NOERROR 10.60.0.7"),
        (&["none.shop.svc.clusterset.local", "A"], "NXDOMAIN"),
        (&["cart.shop.svc.clusterset.local", "AAAA"], "NOERROR"),
    ] {
        bed.eventually("CoreDNS hands on the answer", SOON, || expect(&theirs, &server, arguments, expected));
    }
}

#[test]
fn without_an_api_server_no_name_is_denied() {
    let bed =
        Bed::builder("dns-alone").with(ClusterSpec::new("west", 1).without_kubernetes()).start().unwrap();
    let cluster = bed.cluster("west");
    let node = cluster.node("worker-1").unwrap();
    let kubeconfig = bed.dir().join("kubeconfig");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "none",
        "clusters": [{"name": "none", "cluster": {"server": cluster.api_address()}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "users": [{"name": "none", "user": {"token": "none"}}]});
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let spec = DaemonSpec::isthmus("dns")
        .unwrap()
        .arg(format!("--listen={}:53", node.address()))
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .arg("--health-listen=127.0.0.1:9880")
        .ready_at(([127, 0, 0, 1], 9880));
    let dns = node.host().daemon(spec).unwrap();
    let server = node.address().to_string();
    for arguments in
        [&["cart.shop.svc.clusterset.local", "A"][..], &["+tcp", "cart.shop.svc.clusterset.local", "A"]]
    {
        bed.eventually("nobody knows which names exist", SOON, || {
            expect(&node, &server, arguments, "SERVFAIL")
        });
    }
    bed.always("it stays so", Duration::from_secs(1), || {
        expect(&node, &server, &["none.shop.svc.clusterset.local", "A"], "SERVFAIL")
    });
    assert!(dns.health("/readyz").is_err(), "not ready");
}
