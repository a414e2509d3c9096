//! Peers with several replicas, each with a store of its own, that come and go.

use std::sync::Arc;

use kvstore::Store;

use crate::bed::net::store;
use crate::bed::{Bed, config, delete, endpoint, peer, put, put_canaries, put_nodes};

/// One more replica of a cluster, with the same content under other revisions.
async fn replica(name: &str, id: u32, age: usize) -> Arc<Store> {
    let store = store();
    for _ in 0..age {
        put(&store, &[("cilium/.heartbeat", "2026-02-03T10:11:12Z")]).await;
    }
    put(&store, &[(&format!("cilium/cluster-config/{name}"), &config(id))]).await;
    put_nodes(&store, name, &["n2", "n1"]).await;
    put_canaries(&store, name).await;
    store
}

async fn until_at(bed: &Bed, name: &str, replica: &Store) {
    let id = format!("{:016x}", replica.config().cluster_id);
    bed.until(&format!("{name} at {id}"), async || {
        bed.remote(name).is_some_and(|remote| remote.ready && remote.store_cluster_id.as_ref() == Some(&id))
    })
    .await;
}

#[tokio::test]
async fn a_rolling_restart_of_replicas_writes_nothing_that_did_not_change() {
    let bed = Bed::start(|_| {});
    let clusters = [("west", 2), ("north", 3), ("south", 4)];
    for (name, id) in clusters {
        bed.connect(name, &peer(name, id).await);
    }
    for (name, _) in clusters {
        bed.until_ready(name).await;
    }
    let (before, revision) = (bed.local().await, bed.local.revision());
    for turn in 1..=4 {
        let mut now = Vec::new();
        for (name, id) in clusters {
            // Younger and older ones, so that revisions go forth and back.
            let replica = replica(name, id, (turn * 7) % 5).await;
            bed.net.put(&endpoint(name), Some(Arc::clone(&replica)));
            now.push((name, replica));
        }
        for (name, replica) in now {
            until_at(&bed, name, &replica).await;
        }
        assert_eq!(bed.local.revision(), revision, "turn {turn}: not one write");
    }
    assert_eq!(bed.local().await, before);
    bed.stop().await;
}

/// As behind a service without affinity: the next packet may reach another replica.
#[tokio::test]
async fn a_reader_that_lands_on_another_replica_notices_and_starts_over_cleanly() {
    let bed = Bed::start(|_| {});
    let first = peer("west", 2).await;
    bed.connect("west", &first);
    until_at(&bed, "west", &first).await;
    let revision = bed.local.revision();

    // It is far ahead in revisions, lacks a node that went, and has one that came meanwhile.
    let second = replica("west", 2, 50).await;
    delete(&second, "cilium/state/nodes/v1/west/n1").await;
    put_nodes(&second, "west", &["n3"]).await;
    bed.net.put(&endpoint("west"), Some(Arc::clone(&second)));
    until_at(&bed, "west", &second).await;
    let nodes = ["cilium/cache/nodes/v1/west/n2", "cilium/cache/nodes/v1/west/n3"];
    bed.until("as the second says", async || bed.cache().await == nodes).await;
    assert!(bed.local.revision() <= revision + 2, "no more writes than changes");
    let changed = r#"target_cluster="west",reason="store-replaced"} 1"#;
    assert!(bed.metrics().contains(changed), "{}", bed.metrics());

    // And back, where nothing of the second's revisions may count.
    bed.net.put(&endpoint("west"), Some(Arc::clone(&first)));
    until_at(&bed, "west", &first).await;
    bed.until("as the first says", async || {
        bed.cache().await == ["cilium/cache/nodes/v1/west/n1", "cilium/cache/nodes/v1/west/n2"]
    })
    .await;
    bed.stop().await;
}
