//! What happens to the tables when the store, the mirror or the agent goes and comes back.

use std::net::Ipv4Addr;
use std::time::Duration;

use agent_sync::api::schema::Status;
use agent_sync::api::{SocketError, bind_socket};
use kvstore::{Client as _, LeaseId};
use mesh_types::mirror_word_key;

use crate::bed::{Bed, Mirrored, Options, Serving};

const EAST: Mirrored = Mirrored { name: "east", id: 7 };
const WEST: Mirrored = Mirrored { name: "west", id: 8 };

async fn until_nodes(bed: &Bed, expected: &[&str]) {
    let names = |nodes: &agent_sync::api::schema::Nodes| {
        nodes.nodes.iter().map(|node| format!("{}/{}", node.cluster, node.name)).collect::<Vec<_>>()
            == expected
    };
    bed.until("/v1/nodes", &format!("nodes are {expected:?}"), names).await;
}

fn cluster<'a>(status: &'a Status, name: &str) -> &'a agent_sync::api::schema::ClusterStatus {
    status.clusters.iter().find(|known| known.name == name).unwrap()
}

#[tokio::test]
async fn an_empty_store_after_a_restart_removes_nothing_until_it_is_complete_again() {
    let mut bed = Bed::start().await;
    EAST.write(&bed.serving, &["n1", "n2"], LeaseId::NONE).await;
    bed.until_ready("east").await;
    let first = bed.status().await.store.cluster_id.unwrap();

    bed.replace_store().await;
    let another = |status: &Status| {
        let replaced = status.store.connected && status.store.cluster_id.as_ref() != Some(&first);
        replaced && cluster(status, "east").standing == "absent"
    };
    let status = bed.until_status("another store, without east", another).await;
    let east = cluster(&status, "east");
    assert!(east.dropped_at.is_some() && east.reason.as_deref() == Some("cluster-config-absent"));
    assert!(east.kinds.iter().all(|kind| kind.state == "stale" && kind.age_seconds.is_some()), "{east:#?}");
    assert_eq!(bed.nodes().await, ["east/n1", "east/n2"]);

    // The mirror begins to fill it: still no canary, so what is missing is not gone.
    bed.serving.put(&EAST.config_key(), EAST.config()).await;
    bed.serving.put(&EAST.node_key("n2"), EAST.node("n2")).await;
    bed.until_status("east is announced", |status| cluster(status, "east").standing == "accepted").await;
    assert_eq!(bed.nodes().await, ["east/n1", "east/n2"]);

    EAST.write(&bed.serving, &["n2", "n3"], LeaseId::NONE).await;
    until_nodes(&bed, &["east/n2", "east/n3"]).await;
    bed.until_ready("east").await;
    bed.stop().await;
}

#[tokio::test]
async fn a_cluster_that_the_mirror_removes_goes_at_once_and_alone() {
    let bed = Bed::start().await;
    for mirrored in [&EAST, &WEST] {
        mirrored.write(&bed.serving, &["n1"], LeaseId::NONE).await;
        bed.until_ready(mirrored.name).await;
    }
    bed.serving.put(&mirror_word_key(&"east".parse().unwrap()), r#"{"removed":true}"#).await;
    bed.serving.delete(&EAST.config_key()).await;
    until_nodes(&bed, &["west/n1"]).await;
    let status = bed.until_status("only west", |status| status.clusters.len() == 1).await;
    assert!(cluster(&status, "west").ready);
    bed.stop().await;
}

#[tokio::test]
async fn keys_that_end_with_the_mirror_s_lease_stay_until_it_is_back() {
    let bed = Bed::start().await;
    let client = bed.serving.store.client();
    let lease = client.grant(Duration::from_secs(600)).await.unwrap();
    EAST.write(&bed.serving, &["n1", "n2"], lease).await;
    bed.until_ready("east").await;
    client.revoke(lease).await.unwrap();
    let held = |status: &Status| {
        let east = cluster(status, "east");
        let nodes = east.kinds.iter().find(|kind| kind.kind == "nodes").unwrap();
        east.standing == "absent" && nodes.withheld == 2
    };
    let status = bed.until_status("both nodes are held", held).await;
    let nodes = &cluster(&status, "east").kinds[0];
    assert_eq!((&*nodes.state, nodes.reason.as_deref()), ("stale", Some("withdrawal-held")));
    assert_eq!(bed.nodes().await, ["east/n1", "east/n2"]);

    EAST.write(&bed.serving, &["n2"], LeaseId::NONE).await;
    until_nodes(&bed, &["east/n2"]).await;
    bed.until_ready("east").await;
    bed.stop().await;
}

/// A mirror that died has a lease for each kind and one for the configuration, and they end one after the other.
#[tokio::test]
async fn leases_of_a_dead_mirror_that_end_in_any_order_withdraw_nothing() {
    let bed = Bed::start().await;
    let client = bed.serving.store.client();
    let lease = async || client.grant(Duration::from_secs(600)).await.unwrap();
    let (config, canaries, nodes) = (lease().await, lease().await, lease().await);
    let all = ["n1", "n2", "n3"];
    for node in all {
        bed.serving.put_leased(&EAST.node_key(node), EAST.node(node), nodes).await;
    }
    bed.serving.put_leased(&EAST.config_key(), EAST.config(), config).await;
    for canary in EAST.canary_keys() {
        bed.serving.put_leased(&canary, "2026-01-05T08:30:00Z", canaries).await;
    }
    bed.until_ready("east").await;

    client.revoke(config).await.unwrap();
    bed.until_status("absent, not removed", |status| cluster(status, "east").standing == "absent").await;
    client.revoke(canaries).await.unwrap();
    client.revoke(nodes).await.unwrap();
    let held = |status: &Status| {
        let nodes = cluster(status, "east").kinds.iter().find(|kind| kind.kind == "nodes").unwrap();
        nodes.withheld == all.len()
    };
    bed.until_status("all are held", held).await;
    assert_eq!(bed.nodes().await, all.map(|node| format!("east/{node}")));
    bed.stop().await;
}

#[tokio::test]
async fn a_cluster_that_stays_absent_is_dropped_when_its_grace_ends() {
    let options = Options { absent_grace: Duration::from_millis(300), ..Options::default() };
    let mut bed = Bed::with(options).await;
    EAST.write(&bed.serving, &["n1"], LeaseId::NONE).await;
    bed.until_ready("east").await;
    bed.replace_store().await;
    until_nodes(&bed, &[]).await;
    bed.until_status("no cluster is left", |status| status.clusters.is_empty()).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_cluster_with_a_new_id_is_read_anew() {
    let bed = Bed::start().await;
    EAST.write(&bed.serving, &["n1", "n2"], LeaseId::NONE).await;
    bed.until_ready("east").await;
    let renumbered = Mirrored { id: 9, ..EAST };
    bed.serving.delete(&EAST.node_key("n2")).await;
    bed.serving.put(&renumbered.node_key("n1"), renumbered.node("n1")).await;
    bed.serving.put(&renumbered.config_key(), renumbered.config()).await;
    let renumbered = |status: &Status| {
        status.clusters.len() == 1 && status.clusters[0].id == Some(9) && status.clusters[0].ready
    };
    bed.until_status("east is ready with id 9", renumbered).await;
    until_nodes(&bed, &["east/n1"]).await;
    assert_eq!(bed.status().await.totals.rejected, 0);
    bed.stop().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_waited_for() {
    let mut serving = Serving::start((Ipv4Addr::LOCALHOST, 0).into()).await;
    serving.halt().await;
    let address = serving.address;
    let mut bed = Bed::beside(serving, tempfile::tempdir().unwrap(), Options::default()).unwrap();
    let status = bed.until_status("the error is shown", |status| status.store.error.is_some()).await;
    assert!(!status.store.connected && status.degraded && status.pending.contains(&"store".to_owned()));
    bed.serving = Serving::start(address).await;
    EAST.write(&bed.serving, &["n1"], LeaseId::NONE).await;
    bed.until_ready("east").await;
    bed.stop().await;
}

#[tokio::test]
async fn readiness_waits_for_every_known_cluster_and_for_the_local_objects() {
    let bed = Bed::start().await;
    EAST.write(&bed.serving, &["n1"], LeaseId::NONE).await;
    WEST.write(&bed.serving, &["n1"], LeaseId::NONE).await;
    let canary = &WEST.canary_keys()[1];
    bed.serving.delete(canary).await;
    let bed = {
        // An agent that never saw that canary.
        let (serving, directory) = bed.stop().await;
        Bed::beside(serving, directory, Options::default()).unwrap()
    };
    bed.until_ready("east").await;
    bed.local_listed().await;
    let missing = |status: &Status| status.pending == ["cluster/west/ip"];
    bed.until_status("only the addresses of west are missing", missing).await;
    assert!(!bed.readiness.is_ready() && !bed.status().await.ready);
    bed.serving.put(canary, "2026-01-05T08:30:00Z").await;
    let status = bed.until_status("ready", |status| status.ready).await;
    assert!(bed.readiness.is_ready() && status.pending.is_empty());
    bed.until_status("not degraded", |status| !status.degraded).await;
    bed.stop().await;
}

#[tokio::test]
async fn readiness_comes_without_a_cluster_that_does_not_sync_in_time() {
    let options = Options { sync_timeout: Duration::from_millis(300), ..Options::default() };
    let bed = Bed::with(options).await;
    bed.serving.put(&EAST.config_key(), EAST.config()).await;
    let status = bed.until_status("ready", |status| status.ready).await;
    assert!(status.degraded && !status.pending.is_empty());
    bed.stop().await;
}

#[tokio::test]
async fn one_socket_has_one_agent_and_a_dead_one_s_socket_is_replaced() {
    let bed = Bed::start().await;
    let socket = bed.directory.path().join("run/agent.sock");
    assert!(matches!(bind_socket(&socket), Err(SocketError::InUse { .. })));
    let (serving, directory) = bed.stop().await;
    assert!(!socket.exists(), "it takes its socket along");
    // What a killed agent leaves.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let bed = Bed::beside(serving, directory, Options::default()).unwrap();
    bed.until_status("it answers", |status| status.store.connected).await;
    bed.stop().await;
}
