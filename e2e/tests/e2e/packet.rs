//! The packet and the name: a pod of one cluster reaches a service of the other, encrypted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{HttpServer, Mesh, Pod, objects};
use serde_json::{Value, json};

use crate::path::{GLOBAL, SOON, apply_service, backends_become, bed_of};

const PORT: u16 = 8080;
const MARKER: &str = "east/server-of-east";

/// One pod in each cluster that serves, and one in west that asks.
struct Pods {
    client: Pod,
    west: Pod,
    east: Pod,
    _serving: [HttpServer; 2],
}

#[test]
fn a_request_to_a_global_service_is_answered_by_the_other_cluster_and_only_wireguard_is_on_the_wire() {
    let bed = bed_of("packet", &["west", "east"]);
    let mesh = Mesh::builder(&bed).datapath().dns().start().unwrap();
    let pods = Pods::start(&mesh);
    the_other_cluster_answers_encrypted(&mesh, &pods);
    both_clusters_answer_unless_affinity_says_otherwise(&mesh, &pods);
    an_exported_service_has_a_name_that_works_until_the_export_goes(&mesh, &pods);
}

impl Pods {
    fn start(mesh: &Mesh<'_>) -> Self {
        let (west, east) = (mesh.member("west").node(), mesh.member("east").node());
        let client = west.pod("client").unwrap();
        let (ours, theirs) = (west.pod("server-of-west").unwrap(), east.pod("server-of-east").unwrap());
        let serving = [ours.serve_http(PORT).unwrap(), theirs.serve_http(PORT).unwrap()];
        Self { client, west: ours, east: theirs, _serving: serving }
    }

    /// Who answers, over so many requests on connections of their own.
    fn answers(&self, service: SocketAddr, requests: usize) -> Result<BTreeSet<String>> {
        (0..requests).map(|_| self.client.http_get(service)).collect()
    }
}

/// The address of a Service in a cluster.
fn address_of(mesh: &Mesh<'_>, cluster: &str, name: &str) -> Result<SocketAddr> {
    let service = mesh.member(cluster).cluster().kubectl().get("shop", "service", name)?;
    let address = service["spec"]["clusterIP"].as_str().context("no address")?;
    Ok(SocketAddr::new(address.parse()?, 80))
}

fn the_other_cluster_answers_encrypted(mesh: &Mesh<'_>, pods: &Pods) {
    let bed = mesh.bed();
    let backend = pods.east.address().to_string();
    apply_service(mesh, "east", "cart", &[GLOBAL], &[("cart-1", &[&backend])]);
    apply_service(mesh, "west", "cart", &[GLOBAL], &[]);
    backends_become(mesh, "west", "cart", &[&format!("east {backend}:{PORT}")]);
    let service = address_of(mesh, "west", "cart").unwrap();

    let (from, to) = (mesh.member("west").node().address(), mesh.member("east").node().address());
    // All between the two nodes but the neighbour discovery of the link.
    let capture = bed.capture(&format!("ip and host {from} and host {to}")).unwrap();
    let of_pods = bed.capture("net 10.71.0.0/16 or net 10.72.0.0/16").unwrap();
    bed.eventually("a pod of east answers a pod of west", SOON, || {
        let answers = pods.answers(service, 5)?;
        ensure!(answers == BTreeSet::from([MARKER.to_owned()]), "{answers:?}");
        Ok(())
    });
    let (captured, plain) = (capture.stop().unwrap(), of_pods.stop().unwrap());
    assert!(captured.packets.len() >= 20, "five requests are more than {:#?}", captured.packets);
    let other: Vec<_> = captured
        .packets
        .iter()
        .filter(|packet| !(packet.contains(".51871 > ") && packet.contains(".51871: UDP")))
        .collect();
    assert_eq!(other, Vec::<&String>::new(), "only WireGuard is between the nodes");
    assert_eq!(plain.packets, Vec::<String>::new(), "no packet of a pod is in the clear");
    for word in [MARKER, "HTTP/1.1", "GET /"] {
        assert!(!captured.carries(word) && !plain.carries(word), "{word} is readable on the wire");
    }
}

fn both_clusters_answer_unless_affinity_says_otherwise(mesh: &Mesh<'_>, pods: &Pods) {
    let backend = pods.west.address().to_string();
    apply_service(mesh, "west", "cart", &[GLOBAL], &[("cart-1", &[&backend])]);
    let service = address_of(mesh, "west", "cart").unwrap();
    let kubectl = mesh.member("west").cluster().kubectl();
    let expect = |what: &str, answering: &[&Pod]| {
        let names: BTreeSet<_> = answering.iter().map(|pod| pod.http_name()).collect();
        mesh.bed().eventually(what, SOON, || {
            let answers = pods.answers(service, 20)?;
            ensure!(answers == names, "{answers:?}");
            Ok(())
        });
    };
    expect("both clusters answer", &[&pods.west, &pods.east]);
    for (affinity, what, answering) in [
        (json!("local"), "only west answers with affinity local", &[&pods.west][..]),
        (json!("remote"), "only east answers with affinity remote", &[&pods.east]),
        (Value::Null, "both answer without affinity", &[&pods.west, &pods.east]),
    ] {
        let patch = json!({"metadata": {"annotations": {"service.cilium.io/affinity": affinity}}});
        kubectl.patch("shop", "service", "cart", &patch).unwrap();
        expect(what, answering);
    }
}

fn an_exported_service_has_a_name_that_works_until_the_export_goes(mesh: &Mesh<'_>, pods: &Pods) {
    let bed = mesh.bed();
    let (west, east) = (mesh.member("west"), mesh.member("east"));
    let server = west.cluster().host().address();
    let dig = |options: &[&str]| -> Result<(String, Vec<String>)> {
        let exec = west.node().exec("dig").arg(format!("@{server}")).args(["+time=15", "+tries=1"]);
        let exec = exec.args(["+noall", "+comments", "+answer", "orders.shop.svc.clusterset.local", "A"]);
        let output = exec.args(options).stdout()?;
        let code = output.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
        let code = code.context("dig shows no status")?.to_owned();
        let records = output.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
        let data = records.filter_map(|line| line.split_whitespace().last()).map(str::to_owned);
        Ok((code, data.collect()))
    };
    let answers = |code: &str, data: &[String]| {
        for options in [&[][..], &["+tcp"]] {
            bed.eventually(&format!("dig {options:?} says {code} {data:?}"), SOON, || {
                let answer = dig(options)?;
                ensure!(answer == (code.to_owned(), data.to_vec()), "{answer:?}");
                Ok(())
            });
        }
    };
    answers("NXDOMAIN", &[]);

    let backend = pods.east.address().to_string();
    apply_service(mesh, "east", "orders", &[], &[("orders-1", &[&backend])]);
    east.cluster().kubectl().apply_object(&objects::service_export("shop", "orders")).unwrap();
    let kubectl = west.cluster().kubectl();
    let import = bed.eventually("the import has an address", SOON, || {
        let import = kubectl.get("shop", "serviceimport", "orders")?;
        ensure!(import["spec"]["ips"][0].is_string(), "{import}");
        Ok(import)
    });
    assert_eq!(import["spec"]["type"], "ClusterSetIP");
    assert_eq!(import["status"]["clusters"][0]["cluster"], "east");
    let address = import["spec"]["ips"][0].as_str().unwrap().to_owned();
    answers("NOERROR", std::slice::from_ref(&address));
    let derived = bed.eventually("the derived Service has the address", SOON, || derived(mesh, &address));
    bed.eventually("a pod of east answers at the name's address", SOON, || {
        let answers = pods.answers(SocketAddr::new(address.parse()?, 80), 3)?;
        ensure!(answers == BTreeSet::from([pods.east.http_name()]), "{answers:?}");
        Ok(())
    });
    let slices = |kubectl: &e2e::Kubectl| -> Result<usize> {
        let all = kubectl.list("shop", "endpointslices")?;
        let label = "multicluster.kubernetes.io/service-name";
        Ok(all.iter().filter(|slice| slice["metadata"]["labels"][label] == "orders").count())
    };
    bed.eventually("both clusters have slices of the derived Service", SOON, || {
        ensure!(slices(east.cluster().kubectl())? > 0, "none in east");
        ensure!(slices(kubectl)? > 0, "none in west");
        Ok(())
    });

    east.cluster().kubectl().delete("shop", "serviceexport", "orders").unwrap();
    bed.eventually("imports, derived Services and slices are gone in both clusters", SOON, || {
        for kubectl in [kubectl, east.cluster().kubectl()] {
            ensure!(kubectl.get("shop", "serviceimport", "orders").is_err(), "an import is there");
            ensure!(kubectl.get("shop", "service", &derived).is_err(), "a derived Service is there");
        }
        ensure!(slices(kubectl)? + slices(east.cluster().kubectl())? == 0, "slices are there");
        Ok(())
    });
    answers("NXDOMAIN", &[]);
    let gone = pods.client.http_get(SocketAddr::new(address.parse().unwrap(), 80));
    assert!(gone.is_err(), "{gone:?} answers at an address that nobody has");
    // What is not the mesh's is untouched.
    bed.always("the other service stays", Duration::from_secs(1), || kubectl.get("shop", "service", "cart"));
}

/// The name of the Service that was derived from the import.
fn derived(mesh: &Mesh<'_>, address: &str) -> Result<String> {
    let services = mesh.member("west").cluster().kubectl().list("shop", "services")?;
    let found = services.iter().find(|service| service["spec"]["clusterIP"] == address);
    let name = found.and_then(|service| service["metadata"]["name"].as_str());
    Ok(name.context("no Service has the address")?.to_owned())
}
