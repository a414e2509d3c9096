//! The mirror over the network, from the project's own server and from a real etcd.

use std::net::Ipv4Addr;
use std::sync::Arc;

use kvstore::{Client, LeaseId, Write};
use kvstoremesh::EtcdDial;
use tokio::net::TcpSocket;

use crate::bed::net::Net;
use crate::bed::{Bed, config};
use crate::servers::{Listening, Pki, Program};

pub(crate) const NODES: [&str; 2] = ["cilium/cache/nodes/v1/west/n1", "cilium/cache/nodes/v1/west/n2"];

fn bed() -> Bed {
    Bed::start_with(Net::default(), Arc::new(EtcdDial), &[], |_| {})
}

pub(crate) async fn put(client: &dyn Client, keys: &[(String, String)]) {
    let write = |(key, value): &(String, String)| Write::Put {
        key: key.clone().into(),
        value: value.clone().into(),
        lease: LeaseId::NONE,
    };
    client.write(keys.iter().map(write).collect()).await.unwrap();
}

/// What cluster `west` exports, without its canaries.
pub(crate) fn exports(nodes: &[&str]) -> Vec<(String, String)> {
    let mut keys = vec![("cilium/cluster-config/west".to_owned(), config(2))];
    keys.extend(
        nodes.iter().map(|node| (format!("cilium/state/nodes/v1/west/{node}"), format!("node {node}"))),
    );
    keys
}

pub(crate) fn canaries() -> Vec<(String, String)> {
    let canary = |resource| (format!("cilium/synced/west/cilium/state/{resource}/v1"), "then".to_owned());
    ["nodes", "ip", "identities", "services"].map(canary).to_vec()
}

#[tokio::test]
async fn a_restart_with_its_data_goes_unnoticed_and_one_without_loses_nothing() {
    for program in Program::ALL {
        let pki = Pki::new();
        let mut west = Listening::start(program, &pki).await;
        put(&pki.client(&west.url()), &exports(&["n1", "n2"])).await;
        put(&pki.client(&west.url()), &canaries()).await;
        let bed = bed();
        bed.write_file("west", &pki.peer_file(&west.url()));
        bed.until_ready("west").await;
        assert_eq!(bed.cache().await, NODES, "{program:?}");
        let revision = bed.local.revision();

        west.down().await;
        bed.until("the outage", async || !bed.remote("west").unwrap().connected).await;
        assert_eq!(bed.cache().await, NODES, "{program:?}");
        west.up(&pki).await;
        bed.until_ready("west").await;
        assert_eq!(bed.local.revision(), revision, "{program:?}: not one write");

        let before = bed.remote("west").unwrap().store_cluster_id;
        west.wipe().await;
        west.up(&pki).await;
        bed.until_trouble("west", "cluster-config-missing").await;
        put(&pki.client(&west.url()), &exports(&["n2"])).await;
        let waits = || bed.remote("west").unwrap().resources["nodes"].waiting_for.clone();
        bed.until("waiting for canaries", async || waits().as_deref() == Some("canary")).await;
        assert_eq!(bed.cache().await, NODES, "{program:?}");
        assert_eq!(bed.local.revision(), revision, "{program:?}");
        assert_ne!(bed.remote("west").unwrap().store_cluster_id, before, "{program:?}");
        put(&pki.client(&west.url()), &canaries()).await;
        bed.until_ready("west").await;
        assert_eq!(bed.cache().await, NODES[1..], "{program:?}");
        bed.stop().await;
        west.down().await;
    }
}

/// Each has one reason, and the neighbour whose configuration is right does not notice.
#[tokio::test]
async fn a_configuration_that_cannot_connect_has_a_reason_and_disturbs_nobody() {
    for program in Program::ALL {
        let (pki, other) = (Pki::new(), Pki::new());
        let mut west = Listening::start(program, &pki).await;
        put(&pki.client(&west.url()), &exports(&["n1", "n2"])).await;
        put(&pki.client(&west.url()), &canaries()).await;
        let bed = bed();
        bed.write_file("west", &pki.peer_file(&west.url()));
        bed.until_ready("west").await;

        let good = pki.peer_file(&west.url());
        let ca = pki.path("ca.crt").display().to_string();
        let client = pki.path("remote.").display().to_string();
        // Nobody listens, nor can for as long as it is kept.
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let nobody = format!("https://{}", closed.local_addr().unwrap());
        let cases = [
            ("missing-ca", good.replace(&ca, "/nonexistent/ca.crt"), "certificate-unusable"),
            ("missing-key", good.replace("remote.key", "gone.key"), "certificate-unusable"),
            ("no-pem", good.replace(&ca, "/dev/null"), "certificate-unusable"),
            ("key-of-another", good.replace("remote.key", "server.key"), "certificate-unusable"),
            ("wrong-ca", good.replace(&ca, &other.path("ca.crt").display().to_string()), "tls-failed"),
            ("wrong-name", good.replace("127.0.0.1", "localhost"), "tls-failed"),
            (
                "wrong-client",
                good.replace(&client, &other.path("remote.").display().to_string()),
                "tls-failed",
            ),
            ("no-client", without(&good, &["cert-file", "key-file"]), "tls-failed"),
            ("nobody-listens", pki.peer_file(&nobody), "peer-unreachable"),
        ];
        for (name, file, _) in &cases {
            bed.write_file(name, file);
        }
        for (name, _, reason) in &cases {
            let seen = || bed.remote(name)?.trouble.map(|trouble| trouble.reason);
            bed.until(&format!("{program:?}: {name} is {reason}"), async || {
                seen().as_deref() == Some(*reason)
            })
            .await;
            let series = format!(r#"target_cluster="{name}",reason="{reason}"}} 1"#);
            assert!(bed.metrics().contains(&series), "{program:?} {name}: {}", bed.metrics());
        }
        assert!(bed.remote("west").unwrap().ready, "{program:?}");
        assert_eq!(bed.remote("west").unwrap().failures, 0, "{program:?}");
        assert_eq!(bed.cache().await, NODES, "{program:?}");
        bed.stop().await;
        west.down().await;
    }
}

#[tokio::test]
async fn an_aliased_host_is_verified_by_its_name() {
    let pki = Pki::new();
    let mut west = Listening::start(Program::Isthmus, &pki).await;
    put(&pki.client(&west.url()), &exports(&["n1", "n2"])).await;
    put(&pki.client(&west.url()), &canaries()).await;
    let bed = bed();
    let file = |host: &str| {
        let url = format!("https://{host}:{}", west.port());
        let alias = format!("cilium-host-aliases: [{{hostname: {host}, ips: [127.0.0.1]}}]\n");
        pki.peer_file(&url) + &alias
    };
    bed.write_file("west", &file("west.mesh.cilium.io"));
    bed.write_file("east", &file("east.mesh.cilium.io"));
    bed.until_ready("west").await;
    bed.until_trouble("east", "tls-failed").await;
    bed.stop().await;
    west.down().await;
}

#[tokio::test]
async fn renewed_certificates_are_taken_up_without_a_restart() {
    let (pki, other) = (Pki::new(), Pki::new());
    let mut west = Listening::start(Program::Isthmus, &pki).await;
    put(&pki.client(&west.url()), &exports(&["n1", "n2"])).await;
    put(&pki.client(&west.url()), &canaries()).await;
    let bed = bed();
    let file = pki.peer_file(&west.url());
    let mounted = tempfile::tempdir().unwrap();
    let ca = mounted.path().join("ca.crt");
    std::fs::copy(other.path("ca.crt"), &ca).unwrap();
    bed.write_file(
        "west",
        &file.replace(&pki.path("ca.crt").display().to_string(), &ca.display().to_string()),
    );
    bed.until_trouble("west", "tls-failed").await;
    std::fs::copy(pki.path("ca.crt"), &ca).unwrap();
    bed.until_ready("west").await;
    bed.stop().await;
    west.down().await;
}

/// The lines of a file but those of some keys.
fn without(file: &str, keys: &[&str]) -> String {
    let keep = |line: &&str| !keys.iter().any(|key| line.starts_with(key));
    file.lines().filter(keep).map(|line| format!("{line}\n")).collect()
}
