//! Several mirrors of one store.

use std::collections::BTreeMap;
use std::time::Duration;

use kvstore::{Client, KeyRange};

use crate::bed::{Bed, peer, put_nodes};

const LEADS: &str = r#"cilium_kvstoremesh_leader_election_master_status{name="kvstoremesh"} "#;

/// Revisions of what is mirrored.
async fn revisions(bed: &Bed) -> BTreeMap<Vec<u8>, i64> {
    let page = bed.local.client().list(&KeyRange::prefix("cilium/cache/"), 0, None).await.unwrap();
    page.kvs.iter().map(|kv| (kv.key.to_vec(), kv.mod_revision.0)).collect()
}

#[tokio::test]
async fn one_of_two_mirrors_works_and_the_other_takes_over_without_a_write() {
    let mut bed = Bed::start(|settings| settings.standby_patience = Duration::ZERO);
    let west = peer("west", 2).await;
    bed.connect("west", &west);
    bed.until_ready("west").await;
    assert!(bed.metrics().contains(&format!("{LEADS}1")));
    let before = revisions(&bed).await;

    let first = bed.replica();
    bed.until("the second is ready to stand by", async || bed.readiness.is_ready()).await;
    assert!(bed.status().remotes.is_empty(), "it mirrors nothing");
    assert!(bed.metrics().contains(&format!("{LEADS}0")));

    first.stop().await;
    bed.until_ready("west").await;
    assert!(bed.metrics().contains(&format!("{LEADS}1")));
    assert!(bed.readiness.is_ready());
    assert_eq!(revisions(&bed).await, before, "what is there is taken over as it is");
    put_nodes(&west, "west", &["n3"]).await;
    bed.until("a change", async || bed.cache().await.len() == 3).await;
    bed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_mirror_whose_lead_was_taken_ends_and_says_so() {
    let mut bed = Bed::start(|settings| settings.standby_patience = Duration::ZERO);
    bed.until("the first leads", async || bed.metrics().contains(&format!("{LEADS}1"))).await;
    let first = bed.replica();
    bed.until("the second is ready to stand by", async || bed.readiness.is_ready()).await;
    let lock = bed.local().await.into_keys().find(|key| key.starts_with("cilium/kvstoremesh-lock/"));
    let client = bed.local.client();
    // The first is the older of the two.
    let page = client.list(&KeyRange::prefix("cilium/kvstoremesh-lock/"), 0, None).await.unwrap();
    let oldest = page.kvs.iter().min_by_key(|kv| kv.create_revision).unwrap();
    assert!(lock.is_some() && page.kvs.len() == 2);
    client.revoke(oldest.lease).await.unwrap();
    assert!(first.fails().await.contains("leader election lost"));
    bed.until("the second leads", async || bed.metrics().contains(&format!("{LEADS}1"))).await;
    bed.stop().await;
}
