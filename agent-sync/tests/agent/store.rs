//! What happens to the tables when the store, the mirror or the agent goes and comes back.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_sync::api::schema::Status;
use agent_sync::api::{SocketError, bind_socket};
use agent_sync::datapath::{Applied, Datapath, DatapathError};
use agent_sync::services::{LocalService, MergedServices, Protocol, ServiceName, ServicePort};
use agent_sync::tables::LocalEvent;
use async_trait::async_trait;
use kvstore::{Client as _, LeaseId};
use mesh_types::mirror_word_key;

use crate::bed::{Bed, Mirrored, Options, PATIENCE, Serving};

const EAST: Mirrored = Mirrored { name: "east", id: 7 };
const WEST: Mirrored = Mirrored { name: "west", id: 8 };

/// The backends of `shop/cart` in each write, for a datapath that may have rules of an earlier life.
#[derive(Clone, Debug)]
struct Recorder {
    inherited: bool,
    writes: Arc<Mutex<Vec<Vec<String>>>>,
}

#[async_trait]
impl Datapath for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }
    async fn inherited(&mut self) -> Result<bool, DatapathError> {
        Ok(self.inherited)
    }
    async fn apply(&mut self, desired: &MergedServices) -> Result<Applied, DatapathError> {
        let cart = desired.get(&ServiceName::new("shop", "cart"));
        let backends = cart.iter().flat_map(|cart| &cart.backends);
        let backends = backends.map(|(_, backend)| backend.address.to_string()).collect();
        self.writes.lock().unwrap().push(backends);
        Ok(Applied { changed: true, ..Applied::default() })
    }
    async fn verify(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }
    async fn uninstall(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }
}

impl Recorder {
    fn new(inherited: bool) -> Self {
        Recorder { inherited, writes: Arc::default() }
    }

    fn options(&self) -> Options {
        let recorder = self.clone();
        Options { datapath: Arc::new(move || Box::new(recorder.clone())), ..Options::default() }
    }

    async fn first_write(&self, bed: &Bed) -> Vec<String> {
        bed.until_status("written", |status: &Status| status.datapath.in_effect).await;
        self.writes.lock().unwrap()[0].clone()
    }
}

/// A mirrored cluster with `shop/cart` at one backend.
async fn mirror_cart(bed: &Bed, mirrored: &Mirrored, backend: &str) {
    let (key, value) = mirrored.service("cart", &[backend]);
    bed.serving.put(&key, value).await;
    mirrored.write(&bed.serving, &["n1"], LeaseId::NONE).await;
}

/// The Service of Kubernetes that has no backends of its own.
async fn own_cart(bed: &Bed) {
    let service = LocalService {
        global: true,
        cluster_ips: vec!["10.111.0.10".parse().unwrap()],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        ..LocalService::default()
    };
    let name = ServiceName::new("shop", "cart");
    bed.feed(vec![LocalEvent::Service(name, Some(Box::new(service)))]).await;
    bed.local_listed().await;
}

/// Without its backends the service would refuse every connection.
#[tokio::test]
async fn a_first_start_writes_no_service_that_is_half_known() {
    let recorder = Recorder::new(false);
    let bed = Bed::with(recorder.options()).await;
    bed.serving.put(&EAST.config_key(), EAST.config()).await;
    let is_known = |status: &Status| status.clusters.iter().any(|known| known.name == "east");
    bed.until_status("east is known", is_known).await;
    own_cart(&bed).await;
    let waits = |status: &Status| status.datapath.waiting && status.kubernetes.iter().all(|kind| kind.listed);
    bed.until_status("waiting for east", waits).await;
    mirror_cart(&bed, &EAST, "10.7.0.1").await;
    assert_eq!(recorder.first_write(&bed).await, ["10.7.0.1"]);
    bed.stop().await;
}

/// The mirror reaches one cluster after the other, and announces each when it does.
#[tokio::test]
async fn a_restart_beside_a_store_that_fills_takes_away_nothing_of_a_cluster_that_is_still_to_come() {
    let bed = Bed::start().await;
    for (mirrored, backend) in [(&EAST, "10.7.0.1"), (&WEST, "10.8.0.1")] {
        mirror_cart(&bed, mirrored, backend).await;
        bed.until_ready(mirrored.name).await;
    }
    own_cart(&bed).await;
    bed.until_status("ready", |status| status.ready).await;
    let (_, directory) = bed.stop().await;

    for sync_timeout in [PATIENCE, Duration::from_millis(300)] {
        let recorder = Recorder::new(true);
        let empty = Serving::start((Ipv4Addr::LOCALHOST, 0).into()).await;
        let again = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("run"), again.path().join("run"));
        std::fs::create_dir(&to).unwrap();
        std::fs::copy(from.join("agent.clusters"), to.join("agent.clusters")).unwrap();
        let bed = Bed::beside(empty, again, Options { sync_timeout, ..recorder.options() }).unwrap();
        own_cart(&bed).await;
        mirror_cart(&bed, &EAST, "10.7.0.1").await;
        bed.until_ready("east").await;
        if sync_timeout == PATIENCE {
            bed.until_status("waiting for west", |status| status.ready && status.datapath.waiting).await;
            mirror_cart(&bed, &WEST, "10.8.0.1").await;
            assert_eq!(recorder.first_write(&bed).await, ["10.7.0.1", "10.8.0.1"]);
        } else {
            let last = || recorder.writes.lock().unwrap().last().cloned();
            let without = |_: &Status| last().is_some_and(|last| last == ["10.7.0.1"]);
            bed.until_status("not waiting for west any more", without).await;
        }
        bed.stop().await;
    }
}

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
