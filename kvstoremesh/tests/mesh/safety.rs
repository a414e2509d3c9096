//! What is withdrawn, when, and what is said of it; how old things are; and forgetting.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvstore::{Client as _, KeyRange, Revision, Store, Write};
use kvstoremesh::{ForgetError, LostContact, RemoteStatus, Settings, Shrink, forget};
use mesh_types::{ClusterName, Resource, Stamps};

use crate::bed::net::store;
use crate::bed::{Bed, config, dump, endpoint, peer, put, put_canaries, put_nodes};

/// Longer than a test waits for anything.
const LONG: Duration = Duration::from_secs(3600);

/// Every withdrawal of more than half is abrupt, however few keys it has.
fn strict(hold: Duration) -> impl FnOnce(&mut Settings) {
    move |settings| settings.shrink = Shrink { exempt: 0, hold, ..Shrink::default() }
}

fn withheld(remote: &RemoteStatus, kind: &str) -> usize {
    remote.resources[kind].withheld.as_ref().map_or(0, |held| held.keys)
}

async fn until_withheld(bed: &Bed, kind: &str, keys: usize) {
    bed.until(&format!("{keys} of {kind} held back"), async || {
        withheld(&bed.remote("west").unwrap(), kind) == keys
    })
    .await;
}

/// What is mirrored, with when it was written. Beside it the local store holds a word on what is held back.
async fn revisions(bed: &Bed) -> Vec<(Bytes, Revision)> {
    let cache = KeyRange::prefix("cilium/cache/");
    let page = bed.local.client().list(&cache, 0, None).await.unwrap();
    page.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect()
}

/// All at one moment.
async fn delete_nodes(remote: &Arc<Store>, nodes: &[&str]) {
    let delete = |node: &&str| Write::Delete { key: format!("cilium/state/nodes/v1/west/{node}").into() };
    remote.client().write(nodes.iter().map(delete).collect()).await.unwrap();
}

#[tokio::test]
async fn an_abrupt_withdrawal_is_held_and_shown_until_the_user_releases_it() {
    let bed = Bed::start(strict(LONG));
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    delete_nodes(&remote, &["n1"]).await;
    let second = ["cilium/cache/nodes/v1/west/n2"];
    bed.until("half of them may go", async || bed.cache().await == second).await;
    delete_nodes(&remote, &["n2"]).await;
    until_withheld(&bed, "nodes", 1).await;
    assert_eq!(bed.cache().await, second);
    let west = bed.remote("west").unwrap();
    let held = west.resources["nodes"].withheld.clone().unwrap();
    assert_eq!((held.reason.as_str(), west.ready), ("withdrawal-abrupt", true));
    assert!(held.goes_in_seconds.unwrap() > 3000.0 && held.since_seconds.is_some(), "{held:?}");
    let series = r#"remote_cluster_withheld_entries{scope="nodes/v1",source_cluster="west",reason="withdrawal-abrupt"} 1"#;
    assert!(bed.metrics().contains(series), "{}", bed.metrics());

    let west: ClusterName = "west".parse().unwrap();
    assert!(bed.board().release(&west, Some(Resource::Ip)).unwrap().is_empty(), "of another kind");
    let released = bed.board().release(&west, None).unwrap();
    assert_eq!(released.into_iter().collect::<Vec<_>>(), [(Resource::Nodes, 1)]);
    bed.until("withdrawn", async || bed.cache().await.is_empty()).await;
    until_withheld(&bed, "nodes", 0).await;
    assert_eq!(bed.board().release(&"north".parse().unwrap(), None), None, "no such cluster");
    bed.stop().await;
}

#[tokio::test]
async fn what_is_held_back_goes_when_its_time_is_over() {
    let bed = Bed::start(strict(Duration::from_secs(4)));
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    delete_nodes(&remote, &["n1", "n2"]).await;
    until_withheld(&bed, "nodes", 2).await;
    assert_eq!(bed.cache().await.len(), 2);
    bed.until("withdrawn", async || bed.cache().await.is_empty()).await;
    bed.stop().await;
}

/// What users do on purpose is mostly this.
#[tokio::test]
async fn a_small_set_is_scaled_to_zero_at_once() {
    let bed = Bed::start(|settings| settings.shrink.hold = LONG);
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    delete_nodes(&remote, &["n1", "n2"]).await;
    bed.until("withdrawn", async || bed.cache().await.is_empty()).await;
    bed.stop().await;
}

/// An exporter that restarts before its API server answers, and says that it is complete (cilium/cilium#47793).
#[tokio::test]
async fn a_peer_that_restarts_with_an_empty_source_costs_nothing_and_no_write_when_it_heals() {
    let bed = Bed::start(strict(LONG));
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let before = revisions(&bed).await;
    assert_eq!(before.len(), 2);
    let empty = store();
    put(&empty, &[("cilium/cluster-config/west", &config(2))]).await;
    put_canaries(&empty, "west").await;
    bed.net.put(&endpoint("west"), Some(Arc::clone(&empty)));
    until_withheld(&bed, "nodes", 2).await;
    assert_eq!(revisions(&bed).await, before);
    put_nodes(&empty, "west", &["n1", "n2"]).await;
    until_withheld(&bed, "nodes", 0).await;
    assert_eq!(revisions(&bed).await, before, "not one of them was written again");
    bed.stop().await;
}

#[tokio::test]
async fn four_things_that_look_alike_are_told_apart() {
    let bed = Bed::start(strict(LONG));
    let with_exports = config(2).replace("255}", "255,\"serviceExportsEnabled\":true}");
    let fill = async |remote: &Arc<Store>, config: &str| {
        put(remote, &[("cilium/cluster-config/west", config)]).await;
        put(remote, &[("cilium/state/serviceexports/v1/west/shop/cart", "export")]).await;
    };
    let (remote, canary) = (store(), "cilium/synced/west/cilium/state/serviceexports/v1");
    fill(&remote, &with_exports).await;
    put_canaries(&remote, "west").await;
    put(&remote, &[(canary, "then")]).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let export = ["cilium/cache/serviceexports/v1/west/shop/cart"];
    let until = async |contact: &str, waiting: Option<&str>| {
        let is = || {
            let exports = bed.remote("west")?.resources.remove("serviceexports")?;
            Some(exports.contact == contact && exports.waiting_for.as_deref() == waiting)
        };
        bed.until(&format!("{contact} {waiting:?}"), async || is() == Some(true)).await;
        assert_eq!(bed.cache().await, export, "{contact}");
    };
    until("current", None).await;
    bed.net.put(&endpoint("west"), None);
    until("unreachable", Some("connection")).await;
    let restarted = store();
    fill(&restarted, &with_exports).await;
    bed.net.put(&endpoint("west"), Some(Arc::clone(&restarted)));
    until("not-listed", Some("canary")).await;
    put_canaries(&restarted, "west").await;
    put(&restarted, &[(canary, "then")]).await;
    until("current", None).await;
    // The feature is switched off: withdrawn, and held as any other abrupt withdrawal.
    put(&restarted, &[("cilium/cluster-config/west", &config(2))]).await;
    until("not-exported", None).await;
    let held = bed.remote("west").unwrap().resources["serviceexports"].withheld.clone().unwrap();
    assert_eq!((held.keys, held.reason.as_str()), (1, "capability-absent"));
    // And deleted, the last of the four, it goes at the user's word.
    bed.board().release(&"west".parse().unwrap(), None).unwrap();
    bed.until("withdrawn", async || bed.cache().await.is_empty()).await;
    bed.stop().await;
}

#[tokio::test]
async fn lost_contact_keeps_or_drains_as_the_clusters_policy_says() {
    let bed = Bed::start(|settings| {
        settings.lost_contact = LostContact::DrainAfter(Duration::from_millis(300));
        settings.lost_contact_of.insert("keeper".parse().unwrap(), LostContact::Keep);
    });
    let (west, keeper) = (peer("west", 2).await, peer("keeper", 3).await);
    bed.connect("west", &west);
    bed.connect("keeper", &keeper);
    bed.until_ready("west").await;
    bed.until_ready("keeper").await;
    let both = bed.cache().await;
    assert_eq!(both.len(), 4);
    bed.net.put(&endpoint("west"), None);
    bed.net.put(&endpoint("keeper"), None);
    let kept = ["cilium/cache/nodes/v1/keeper/n1", "cilium/cache/nodes/v1/keeper/n2"];
    bed.until("drained", async || bed.cache().await == kept).await;
    let west_now = bed.remote("west").unwrap();
    assert_eq!(west_now.lost_contact, "drain-after:300ms");
    let given_up = west_now.resources["nodes"].given_up.clone().unwrap();
    assert_eq!((given_up.keys, given_up.reason.as_str()), (2, "contact-lost-drained"));
    assert!(bed.remote("keeper").unwrap().resources["nodes"].given_up.is_none());
    assert_eq!(bed.remote("keeper").unwrap().lost_contact, "keep");
    let series =
        r#"given_up_entries{scope="nodes/v1",source_cluster="west",reason="contact-lost-drained"} 2"#;
    assert!(bed.metrics().contains(series), "{}", bed.metrics());

    bed.net.put(&endpoint("west"), Some(west));
    bed.until("back", async || bed.cache().await == both).await;
    bed.until_ready("west").await;
    assert!(bed.remote("west").unwrap().resources["nodes"].given_up.is_none());
    bed.stop().await;
}

/// Cilium's `--clustermesh-cache-ttl`: what traffic is sent to goes, what tells who sent it stays, and so do canaries.
#[tokio::test]
async fn the_cache_ttl_withdraws_services_and_leaves_the_rest() {
    let bed = Bed::start(|settings| settings.cache_ttl = Some(Duration::from_millis(300)));
    let remote = peer("west", 2).await;
    put(&remote, &[("cilium/state/services/v1/west/shop/cart", "service")]).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    bed.net.put(&endpoint("west"), None);
    let nodes = ["cilium/cache/nodes/v1/west/n1", "cilium/cache/nodes/v1/west/n2"];
    bed.until("withdrawn", async || bed.cache().await == nodes).await;
    let canary = "cilium/synced/west/cilium/cache/services/v1";
    assert!(bed.local().await.contains_key(canary));
    bed.until("counted", async || {
        bed.metrics().contains(r#"remote_cluster_cache_revocations{target_cluster="west"} 1"#)
    })
    .await;
    let services = bed.remote("west").unwrap().resources["services"].given_up.clone().unwrap();
    assert_eq!(services.reason, "cache-ttl-ended");
    bed.net.put(&endpoint("west"), Some(remote));
    bed.until("back", async || bed.cache().await.len() == 3).await;
    bed.stop().await;
}

#[tokio::test]
async fn the_age_of_what_is_here_is_bounded_and_the_heartbeat_times_the_way() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    let stamps = String::from_utf8(Stamps(vec![(1, 0)]).encode()).unwrap();
    put(&remote, &[("cilium/synced/west/isthmus/stamps/v1", &stamps)]).await;
    bed.connect("west", &remote);
    let age = |bed: &Bed| bed.remote("west").unwrap().resources["nodes"].age_bound_seconds;
    bed.until("configured", async || bed.remote("west").is_some()).await;
    bed.until_ready("west").await;
    let listed = age(&bed).unwrap();
    assert!(listed < 30.0, "{listed}");
    assert!(bed.remote("west").unwrap().latency.is_empty(), "nothing was timed yet");

    // A beat that was written three seconds ago by the peer's clock.
    let written =
        (jiff::Timestamp::now() - Duration::from_secs(3)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    put(&remote, &[("cilium/.heartbeat", &written)]).await;
    let timed = || bed.remote("west").unwrap().latency.remove("heartbeat");
    bed.until("timed", async || timed().is_some()).await;
    let timed = timed().unwrap();
    assert_eq!(timed.count, 1);
    assert!((3.0..30.0).contains(&timed.last_seconds), "{timed:?}");
    // An Isthmus writes the same more exactly.
    let written = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    put(&remote, &[("cilium/.heartbeat", &written)]).await;
    bed.until("stamped", async || bed.remote("west").unwrap().latency.contains_key("stamp")).await;
    assert_eq!(bed.remote("west").unwrap().latency["heartbeat"].count, 1);
    let metrics = bed.metrics();
    let count = r#"remote_cluster_change_visible_seconds_count{target_cluster="west",source="heartbeat"} 1"#;
    assert!(metrics.contains(count), "{metrics}");
    for series in ["data_age_seconds", "last_event_age_seconds"] {
        let series = format!(r#"remote_cluster_{series}{{scope="nodes/v1",source_cluster="west"}}"#);
        assert!(metrics.contains(&series), "{metrics}");
    }

    // And it says when it wrote which revision, by which each change is timed until it is stored here.
    let change = async |key: &str, ahead: i64| {
        put_nodes(&remote, "west", &[key]).await;
        let found = remote.client().get(format!("cilium/state/nodes/v1/west/{key}").as_bytes()).await;
        let revision = found.unwrap().unwrap().mod_revision;
        bed.until("the change", async || {
            bed.local().await.contains_key(&format!("cilium/cache/nodes/v1/west/{key}"))
        })
        .await;
        (revision.0, jiff::Timestamp::now().as_microsecond() + ahead)
    };
    let stamped = async |stamps: Vec<(i64, i64)>| {
        let value = String::from_utf8(Stamps(stamps).encode()).unwrap();
        put(&remote, &[("cilium/synced/west/isthmus/stamps/v1", &value)]).await;
    };
    let timed = || bed.remote("west").unwrap().latency.remove("revision");
    put(&remote, &[("cilium/synced/west/isthmus/stamps/v1", "no stamps")]).await;
    stamped(vec![change("changed", -2_000_000).await]).await;
    bed.until("timed by revision", async || timed().is_some()).await;
    let first = timed().unwrap();
    assert!((1.0..30.0).contains(&first.last_seconds) && first.ahead == 0, "{first:?}");
    stamped(vec![change("from a clock ahead", 3_600_000_000).await]).await;
    bed.until("ahead", async || timed().is_some_and(|timed| timed.ahead == 1)).await;
    let second = timed().unwrap();
    assert_eq!((first.count, second.count, second.last_seconds), (1, 2, 0.0));
    assert!((-3630.0..-3500.0).contains(&second.least_seconds), "{second:?}");
    let metrics = bed.metrics();
    for series in [
        r#"remote_cluster_changes_ahead_total{target_cluster="west",source="revision"} 1"#,
        r#"remote_cluster_clock_difference_seconds{target_cluster="west",source="revision"} -3"#,
        r#"remote_cluster_change_visible_seconds_count{target_cluster="west",source="revision"}"#,
    ] {
        assert!(metrics.contains(series), "{series}: {metrics}");
    }

    // Out of contact the bound grows from the last sign of life on.
    bed.net.put(&endpoint("west"), None);
    bed.until("stale", async || bed.remote("west").unwrap().resources["nodes"].stale_seconds.is_some()).await;
    let (first, stale) = (age(&bed).unwrap(), bed.remote("west").unwrap().resources["nodes"].stale_seconds);
    bed.until("older", async || age(&bed).unwrap() > first + 0.05).await;
    assert!(age(&bed).unwrap() >= stale.unwrap(), "it was heard before it was lost");
    bed.stop().await;
}

#[tokio::test]
async fn a_dead_cluster_is_forgotten_at_once_and_nothing_of_it_is_left() {
    let bed = Bed::start(|_| {});
    let exports = config(2).replace("255}", "255,\"serviceExportsEnabled\":true}");
    let remote = peer("west", 2).await;
    put(&remote, &[("cilium/cluster-config/west", &exports)]).await;
    for (kind, key) in [
        ("services", "services/v1/west/shop/cart"),
        ("ip", "ip/v1/default/10.0.0.1"),
        ("identities", "identities/v1/id/131073"),
        ("serviceexports", "serviceexports/v1/west/shop/cart"),
    ] {
        put(&remote, &[(&format!("cilium/state/{key}"), "x")]).await;
        put(&remote, &[(&format!("cilium/synced/west/cilium/state/{kind}/v1"), "then")]).await;
    }
    bed.connect("west", &remote);
    bed.connect("north", &peer("north", 3).await);
    bed.until_ready("west").await;
    bed.until_ready("north").await;
    bed.net.put(&endpoint("west"), None);
    bed.until("the outage", async || !bed.remote("west").unwrap().connected).await;
    let local = bed.stop().await;
    let before = dump(&local).await;
    let is_wests = |key: &String| key.split('/').any(|part| part == "west");
    let forgotten = forget(&local.client(), &"west".parse().unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!(forgotten.deleted.values().sum::<usize>(), before.keys().filter(|key| is_wests(key)).count());
    assert_eq!(forgotten.deleted["cilium/cache/nodes/v1/west/"], 2);
    assert!(forgotten.left.is_empty(), "{:?}", forgotten.left);
    let expected: Vec<_> = before.keys().filter(|key| !is_wests(key)).collect();
    assert_eq!(dump(&local).await.keys().collect::<Vec<_>>(), expected, "others are not touched");

    let again = forget(&local.client(), &"west".parse().unwrap(), Duration::ZERO).await.unwrap();
    assert!(again.deleted.is_empty() && again.left.is_empty(), "{again:?}");
}

#[tokio::test]
async fn the_own_cluster_is_not_forgotten() {
    for own in ["cilium/synced/here/cilium/state/ip/v1", "cilium/state/nodes/v1/here/n1"] {
        let local = store();
        put(&local, &[(own, "x"), ("cilium/cluster-config/here", &config(1))]).await;
        let before = dump(&local).await;
        let refused = forget(&local.client(), &"here".parse().unwrap(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(&refused, ForgetError::Own { key, .. } if key == own), "{refused}");
        assert_eq!(dump(&local).await, before);
    }
}
