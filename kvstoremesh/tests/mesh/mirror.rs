//! Mirroring, outages and removals, with every store in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::bed::net::{Net, store, store_like};
use crate::bed::{Bed, config, delete, dump, endpoint, peer, peer_file, put, put_canaries, put_nodes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use kvstore::{Client, Event, KeyRange, LeaseId, Revision, Write};

/// Key, whether it has a lease, value.
type Row = (String, bool, Vec<u8>);

fn golden(file: &str) -> Vec<Row> {
    let path = format!("{}/../mesh-types/tests/golden/v1.20/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let mut columns = line.splitn(3, '\t');
        let (key, lease, value) = (columns.next()?, columns.next()?, columns.next()?);
        let value = match value.strip_prefix("base64:") {
            Some(encoded) => STANDARD.decode(encoded).unwrap(),
            None => value.as_bytes().to_vec(),
        };
        Some((key.to_owned(), lease == "leased", value))
    };
    text.lines().map(|line| row(line).unwrap()).collect()
}

#[tokio::test]
async fn what_cilium_exports_is_mirrored_as_cilium_mirrors_it() {
    let bed = Bed::start(|_| {});
    let remote = store();
    let writes = golden("state.tsv").into_iter().map(|(key, _, value)| Write::Put {
        key: key.into(),
        value: value.into(),
        lease: LeaseId::NONE,
    });
    remote.client().write(writes.collect()).await.unwrap();
    bed.connect("prod-eu", &remote);
    bed.until_ready("prod-eu").await;

    let page = bed.local.client().list(&KeyRange::all(), 0, None).await.unwrap();
    let is_canary = |key: &str| key.starts_with("cilium/synced/");
    let ours: BTreeMap<String, (bool, Vec<u8>)> = page
        .kvs
        .iter()
        .map(|kv| {
            let key = String::from_utf8(kv.key.to_vec()).unwrap();
            // The lock of the mirrors is named after a lease, canaries hold a time.
            let key = match key.strip_prefix("cilium/kvstoremesh-lock/") {
                Some(_lease) => "cilium/kvstoremesh-lock/<lease>".to_owned(),
                None => key,
            };
            let value = if is_canary(&key) { b"<rfc3339>".to_vec() } else { kv.value.to_vec() };
            (key, (kv.lease != LeaseId::NONE, value))
        })
        .collect();
    let theirs: BTreeMap<String, (bool, Vec<u8>)> =
        golden("cache.tsv").into_iter().map(|(key, leased, value)| (key, (leased, value))).collect();
    let differences: Vec<&str> = ours
        .keys()
        .chain(theirs.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|key| ours.get(*key) != theirs.get(*key))
        .map(String::as_str)
        .collect();
    assert_eq!(differences, [""; 0]);

    let mut theirs: serde_json::Value = serde_json::from_str(
        &std::fs::read_to_string(format!(
            "{}/../mesh-types/tests/golden/v1.20/kvstoremesh-status.json",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap(),
    )
    .unwrap();
    let mut ours = bed.cilium_status();
    let status = ours[0]["status"].take();
    let id = format!("{:x}", remote.config().cluster_id);
    assert_eq!(status.as_str().unwrap().replace(&id, "<cluster id>"), theirs[0]["status"].as_str().unwrap());
    theirs[0]["status"].take();
    assert_eq!(ours, theirs);
    bed.stop().await;
}

#[tokio::test]
async fn a_mirror_is_mirrored_from_its_cache() {
    let bed = Bed::start(|_| {});
    let remote = store();
    put(
        &remote,
        &[
            (
                "cilium/cluster-config/west",
                r#"{"id":2,"capabilities":{"cached":true,"maxConnectedClusters":255}}"#,
            ),
            ("cilium/cache/nodes/v1/west/n1", "n1"),
            ("cilium/cache/nodes/v1/east/n1", "of another cluster"),
            ("cilium/cache/ip/v1/west/10.0.0.1", "ip"),
            ("cilium/cache/identities/v1/west/id/131073", "k8s:app=x;"),
            ("cilium/cache/identities/v1/west/value/k8s:app=x;", "not an id"),
            ("cilium/state/nodes/v1/west/n2", "not in the cache"),
        ],
    )
    .await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let expected = [
        "cilium/cache/identities/v1/west/id/131073",
        "cilium/cache/ip/v1/west/10.0.0.1",
        "cilium/cache/nodes/v1/west/n1",
    ];
    assert_eq!(bed.cache().await, expected);
    let local = bed.local().await;
    assert_eq!(
        local["cilium/cluster-config/west"],
        r#"{"id":2,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}"#
    );
    bed.stop().await;
}

#[tokio::test]
async fn changes_follow_and_an_absent_capability_is_complete_and_empty() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    put(&remote, &[("cilium/state/serviceexports/v1/west/ns/svc", "left over")]).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let nodes = ["cilium/cache/nodes/v1/west/n1", "cilium/cache/nodes/v1/west/n2"];
    assert_eq!(bed.cache().await, nodes);
    assert!(bed.local().await.contains_key("cilium/synced/west/cilium/cache/serviceexports/v1"));
    assert_eq!(bed.remote("west").unwrap().resources["serviceexports"].state, "not-offered");

    put_nodes(&remote, "west", &["n3"]).await;
    delete(&remote, "cilium/state/nodes/v1/west/n1").await;
    let expected = ["cilium/cache/nodes/v1/west/n2", "cilium/cache/nodes/v1/west/n3"];
    bed.until("n3 in, n1 out", async || bed.cache().await == expected).await;

    // The exporter learns of exports; nobody reconnects.
    let config = config(2).replace("255}", "255,\"serviceExportsEnabled\":true}");
    put(&remote, &[("cilium/cluster-config/west", &config)]).await;
    put(&remote, &[("cilium/synced/west/cilium/state/serviceexports/v1", "then")]).await;
    let export = "cilium/cache/serviceexports/v1/west/ns/svc".to_owned();
    bed.until("the export", async || bed.cache().await.contains(&export)).await;
    assert_eq!(bed.net.dials(&endpoint("west")), 1);
    bed.stop().await;
}

#[tokio::test]
async fn a_list_after_an_outage_writes_nothing_for_what_did_not_change() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let before = bed.local().await;
    let revision = bed.local.revision();

    bed.net.put(&endpoint("west"), None);
    bed.until("the outage", async || !bed.remote("west").unwrap().connected).await;
    let west = bed.remote("west").unwrap();
    assert_eq!(west.trouble.unwrap().reason, "peer-disconnected");
    assert!(west.failures > 0);
    assert_eq!(west.resources["nodes"].state, "stale");
    assert!(west.resources["nodes"].stale_seconds.is_some());
    assert_eq!(bed.local().await, before);

    // A new configuration means a new connection, and so a new list.
    bed.net.put("http://west-moved:2379", Some(Arc::clone(&remote)));
    bed.write_file("west", "endpoints: ['http://west-moved:2379']\n");
    bed.until_ready("west").await;
    assert_eq!(bed.local().await, before);
    assert_eq!(bed.local.revision(), revision, "not one write");

    put_nodes(&remote, "west", &["n3"]).await;
    bed.until("n3", async || bed.cache().await.len() == 3).await;
    assert_eq!(bed.local.revision(), revision + 1, "one write for one change");
    bed.stop().await;
}

#[tokio::test]
async fn a_broken_watch_resumes_and_misses_nothing() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    bed.net.put(&endpoint("west"), None);
    bed.until("the outage", async || !bed.remote("west").unwrap().connected).await;
    delete(&remote, "cilium/state/nodes/v1/west/n1").await;
    bed.net.put(&endpoint("west"), Some(Arc::clone(&remote)));
    bed.until_ready("west").await;
    bed.until("n1 out", async || bed.cache().await == ["cilium/cache/nodes/v1/west/n2"]).await;
    bed.stop().await;
}

/// The store of a peer lives in its pod's memory: after a restart it is another one, and empty.
#[tokio::test]
async fn a_peer_that_restarts_empty_loses_nothing_until_it_is_complete_again() {
    let bed = Bed::start(|_| {});
    bed.connect("west", &peer("west", 2).await);
    bed.until_ready("west").await;
    let before = bed.local().await;
    let revision = bed.local.revision();

    let restarted = store();
    bed.net.put(&endpoint("west"), Some(Arc::clone(&restarted)));
    bed.until_trouble("west", "cluster-config-missing").await;
    put(&restarted, &[("cilium/cluster-config/west", &config(2))]).await;
    put_nodes(&restarted, "west", &["n2"]).await;
    let waits = |resource: &str| bed.remote("west").unwrap().resources[resource].waiting_for.clone();
    bed.until("waiting for canaries", async || waits("nodes").as_deref() == Some("canary")).await;
    assert_eq!(bed.local().await, before);
    assert_eq!(bed.local.revision(), revision);

    put_canaries(&restarted, "west").await;
    bed.until_ready("west").await;
    assert_eq!(bed.cache().await, ["cilium/cache/nodes/v1/west/n2"]);
    let canaries = |all: &BTreeMap<String, String>| {
        all.iter()
            .filter(|(key, _)| key.starts_with("cilium/synced/"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(canaries(&bed.local().await), canaries(&before), "readers never saw the canaries go");
    bed.stop().await;
}

/// As above, but the new store calls itself the same as the old one, so only its content tells.
#[tokio::test]
async fn an_emptied_store_of_the_same_id_is_not_believed() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let before = bed.local().await;

    let emptied = store_like(&remote);
    put(&emptied, &[("cilium/cluster-config/west", &config(2))]).await;
    bed.net.put(&endpoint("west"), Some(Arc::clone(&emptied)));
    let waits = |resource: &str| bed.remote("west").unwrap().resources[resource].waiting_for.clone();
    bed.until("waiting for canaries", async || waits("nodes").as_deref() == Some("canary")).await;
    assert_eq!(bed.local().await, before);
    assert!(bed.metrics().contains(r#"reason="store-replaced"} 1"#), "{}", bed.metrics());

    put_canaries(&emptied, "west").await;
    bed.until_ready("west").await;
    assert!(bed.cache().await.is_empty(), "now it is complete, and it is empty");
    bed.stop().await;
}

#[tokio::test]
async fn a_peer_without_heartbeat_is_connected_to_again_and_keeps_its_data() {
    let bed = Bed::start(|settings| settings.heartbeat_timeout = Duration::from_millis(200));
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until("mirrored", async || bed.cache().await.len() == 2).await;
    let dials = bed.net.dials(&endpoint("west"));
    bed.until("connected again", async || bed.net.dials(&endpoint("west")) > dials).await;
    assert!(bed.metrics().contains(r#"reason="heartbeat-missing"}"#), "{}", bed.metrics());
    assert_eq!(bed.cache().await.len(), 2);
    bed.stop().await;
}

#[tokio::test]
async fn a_removed_configuration_is_cleaned_up_in_order_and_others_stay() {
    let bed = Bed::start(|_| {});
    bed.connect("west", &peer("west", 2).await);
    bed.connect("westend", &peer("westend", 3).await);
    bed.until_ready("west").await;
    bed.until_ready("westend").await;
    let before = bed.local().await;
    let from = Revision(bed.local.revision()).next();

    bed.remove_file("west");
    bed.until("west removed", async || bed.remote("west").is_none() && bed.status().removing.is_empty())
        .await;
    let left = bed.local().await;
    assert!(left.keys().all(|key| !key.contains("/west/") && !key.ends_with("/west")), "{left:#?}");
    let of_westend =
        |all: &BTreeMap<String, String>| all.keys().filter(|key| key.contains("/westend")).count();
    assert_eq!(of_westend(&left), of_westend(&before));
    assert!(!bed.metrics().contains(r#""west""#), "its series are gone");

    let events = bed.local.client().watch(KeyRange::all(), from).await.unwrap();
    // What the mirror says of the removal comes and goes besides.
    let gone = before.len() - left.len() + 2;
    let events: Vec<_> =
        events.flat_map(|batch| futures::stream::iter(batch.unwrap().events)).take(gone).collect().await;
    let key = |event: &Event| String::from_utf8(event.key().to_vec()).unwrap();
    let deletes = events.iter().filter(|event| matches!(event, Event::Delete { .. }));
    let kinds: Vec<String> = deletes.map(|event| key(event).split('/').nth(1).unwrap().to_owned()).collect();
    let mut order = kinds.clone();
    order.dedup();
    assert_eq!(order, ["cluster-config", "synced", "cache"]);
    bed.stop().await;
}

#[tokio::test]
async fn a_configuration_that_returns_during_the_removal_waits_for_its_end() {
    let bed = Bed::start(|settings| settings.removal_grace = Duration::from_secs(3));
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    bed.remove_file("west");
    bed.until("the grace", async || bed.status().removing.iter().any(|removal| removal.stage == "grace"))
        .await;
    let local = bed.local().await;
    assert!(!local.contains_key("cilium/cluster-config/west"));
    assert!(
        local.contains_key("cilium/synced/west/cilium/cache/nodes/v1"),
        "data and canaries have the grace"
    );
    assert_eq!(bed.cache().await.len(), 2);

    bed.configure("west");
    let dials = bed.net.dials(&endpoint("west"));
    bed.until_ready("west").await;
    assert_eq!(bed.net.dials(&endpoint("west")), dials + 1);
    assert_eq!(bed.cache().await.len(), 2);
    bed.stop().await;
}

#[tokio::test]
async fn without_draining_a_removed_configuration_leaves_what_was_mirrored_to_its_leases() {
    let bed = Bed::start(|settings| settings.drain_on_removal = false);
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let before = bed.local().await;
    bed.remove_file("west");
    bed.until("west let go", async || bed.remote("west").is_none() && bed.status().removing.is_empty()).await;
    assert_eq!(bed.local().await, before);
    let found = bed.local.client().list(&KeyRange::prefix("cilium/cache/"), 0, None).await.unwrap();
    assert_eq!(found.kvs.len(), 2);
    assert!(found.kvs.iter().all(|kv| kv.lease != LeaseId::NONE), "it ends with them");

    // It is taken over when the configuration returns: nothing is written.
    let revision = bed.local.revision();
    bed.configure("west");
    bed.until_ready("west").await;
    let local = bed.local.client();
    let written = local.watch(KeyRange::prefix("cilium/cache/"), Revision(revision).next());
    let mut written = written.await.unwrap();
    put(&remote, &[("cilium/state/nodes/v1/west/new", "new")]).await;
    let first = written.next().await.unwrap().unwrap();
    assert_eq!(first.events[0].key().as_ref(), b"cilium/cache/nodes/v1/west/new");
    bed.stop().await;
}

#[tokio::test]
async fn stopping_deletes_nothing() {
    let bed = Bed::start(|settings| settings.removal_grace = Duration::from_secs(3600));
    bed.connect("west", &peer("west", 2).await);
    bed.connect("east", &peer("east", 3).await);
    bed.until_ready("west").await;
    bed.until_ready("east").await;
    bed.remove_file("east");
    bed.until("the grace", async || bed.status().removing.iter().any(|removal| removal.stage == "grace"))
        .await;
    let mut before = bed.local().await;
    before.retain(|key, _| !key.starts_with("cilium/kvstoremesh-lock/"));
    assert_eq!(dump(&bed.stop().await).await, before, "a removal under way ends where it is");
}

#[tokio::test]
async fn a_changed_id_removes_what_was_under_the_old_one_before_the_new_one_shows() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let from = Revision(bed.local.revision()).next();
    put(&remote, &[("cilium/cluster-config/west", &config(3))]).await;
    let announced = || async { bed.local().await["cilium/cluster-config/west"].contains(r#""id":3"#) };
    bed.until("the new id", async || announced().await && bed.cache().await.len() == 2).await;

    let events = bed.local.client().watch(KeyRange::all(), from).await.unwrap();
    let events: Vec<_> =
        events.flat_map(|batch| futures::stream::iter(batch.unwrap().events)).take(5).collect().await;
    let words: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::Put(kv) => format!("put {}", kv.key.escape_ascii()),
            Event::Delete { key, .. } => format!("delete {}", key.escape_ascii()),
        })
        .collect();
    let expected = [
        "delete cilium/cache/nodes/v1/west/n1",
        "delete cilium/cache/nodes/v1/west/n2",
        "put cilium/cluster-config/west",
        "put cilium/cache/nodes/v1/west/n1",
        "put cilium/cache/nodes/v1/west/n2",
    ];
    assert_eq!(words, expected);
    bed.stop().await;
}

#[tokio::test]
async fn a_second_cluster_of_the_same_id_waits_until_the_first_is_gone() {
    let bed = Bed::start(|_| {});
    bed.connect("west", &peer("west", 2).await);
    bed.until_ready("west").await;
    bed.connect("east", &peer("east", 2).await);
    bed.until_trouble("east", "cluster-id-in-use").await;
    assert!(bed.cache().await.iter().all(|key| key.contains("/west/")));
    bed.remove_file("west");
    bed.until_ready("east").await;
    bed.stop().await;
}

#[tokio::test]
async fn ready_waits_for_peers_of_the_start_but_not_for_one_that_is_unreachable() {
    let net = Net::default();
    let (west, late) = (peer("west", 2).await, store());
    net.put(&endpoint("west"), Some(west));
    net.put(&endpoint("late"), Some(Arc::clone(&late)));
    let (west_file, gone_file, late_file) = (peer_file("west"), peer_file("gone"), peer_file("late"));
    let files = [("west", west_file.as_str()), ("gone", gone_file.as_str()), ("late", late_file.as_str())];
    let change =
        |settings: &mut kvstoremesh::Settings| settings.per_cluster_ready_timeout = Duration::from_secs(3);
    let bed = Bed::start_with(net.clone(), Arc::new(net), &files, change);
    bed.until("only late is awaited", async || bed.readiness.pending() == ["remote/late".into()]).await;
    assert!(!bed.readiness.is_ready(), "connected, so it is worth waiting for");
    put_nodes(&late, "late", &["n1"]).await;
    put(&late, &[("cilium/cluster-config/late", &config(4))]).await;
    put_canaries(&late, "late").await;
    bed.readiness.wait().await;
    assert!(bed.cache().await.contains(&"cilium/cache/nodes/v1/late/n1".to_owned()));
    bed.stop().await;
}

#[tokio::test]
async fn readiness_does_not_wait_for_ever() {
    let net = Net::default();
    net.put(&endpoint("west"), Some(store()));
    let file = peer_file("west");
    let change =
        |settings: &mut kvstoremesh::Settings| settings.global_ready_timeout = Duration::from_millis(300);
    let bed = Bed::start_with(net.clone(), Arc::new(net), &[("west", file.as_str())], change);
    bed.readiness.wait().await;
    assert!(!bed.remote("west").unwrap().ready);
    bed.stop().await;
}

/// Each has one reason, in `status` and in the metrics, and a good neighbour does not notice.
#[tokio::test]
async fn what_a_peer_may_not_announce_has_a_reason_and_disturbs_nobody() {
    let bed = Bed::start(|_| {});
    bed.connect("good", &peer("good", 2).await);
    let cases = [
        ("none", None, "cluster-config-missing"),
        ("no-json", Some("{".to_owned()), "cluster-config-invalid"),
        ("zero", Some(config(0)), "cluster-id-zero"),
        ("too-high", Some(config(256)), "cluster-id-out-of-range"),
        ("local-id", Some(config(1)), "cluster-id-is-local"),
        ("taken", Some(config(2)), "cluster-id-in-use"),
        ("other-mesh", Some(config(9).replace("255", "511")), "max-clusters-mismatch"),
    ];
    bed.until_ready("good").await;
    for (name, config, _) in &cases {
        let remote = store();
        put_nodes(&remote, name, &["n1"]).await;
        if let Some(config) = config {
            put(&remote, &[(&format!("cilium/cluster-config/{name}"), config)]).await;
        }
        bed.connect(name, &remote);
    }
    bed.write_file("here", &peer_file("here"));
    bed.write_file("Wrong_Name", &peer_file("wrong"));
    bed.write_file("no-endpoint", "endpoints: []\n");
    for (name, _, reason) in &cases {
        bed.until_trouble(name, reason).await;
        let remote = bed.remote(name).unwrap();
        assert!(remote.connected && !remote.ready, "{name}");
        let series = format!(
            r#"cilium_kvstoremesh_remote_cluster_troubles_total{{target_cluster="{name}",reason="{reason}"}} 1"#
        );
        assert!(bed.metrics().contains(&series), "{name}: {}", bed.metrics());
    }
    let files = [
        ("Wrong_Name", "cluster-name-invalid"),
        ("here", "cluster-is-local"),
        ("no-endpoint", "peer-config-invalid"),
    ];
    let rejected: Vec<(String, String)> =
        bed.status().rejected_files.into_iter().map(|file| (file.file, file.reason)).collect();
    assert_eq!(rejected, files.map(|(file, reason)| (file.to_owned(), reason.to_owned())));
    for (_, reason) in files {
        let series = format!(r#"cilium_kvstoremesh_rejected_config_files{{reason="{reason}"}} 1"#);
        assert!(bed.metrics().contains(&series), "{}", bed.metrics());
    }
    assert!(bed.remote("good").unwrap().ready);
    assert_eq!(bed.cache().await, ["cilium/cache/nodes/v1/good/n1", "cilium/cache/nodes/v1/good/n2"]);

    // What is put right starts by itself.
    bed.until_trouble("zero", "cluster-id-zero").await;
    bed.stop().await;
}

#[tokio::test]
async fn bad_entries_are_skipped_with_a_reason_and_good_ones_are_not() {
    let bed = Bed::start(|settings| settings.max_value_bytes = 20);
    let remote = peer("west", 2).await;
    put(
        &remote,
        &[
            ("cilium/state/nodes/v1/west/../east/n1", "x"),
            ("cilium/state/nodes/v1/west/big", &"x".repeat(21)),
        ],
    )
    .await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    assert_eq!(bed.cache().await, ["cilium/cache/nodes/v1/west/n1", "cilium/cache/nodes/v1/west/n2"]);
    let skipped: Vec<(String, String)> = bed
        .remote("west")
        .unwrap()
        .skipped
        .into_iter()
        .map(|skipped| (skipped.key, skipped.reason))
        .collect();
    let expected = [("../east/n1", "key-malformed"), ("big", "value-too-large")];
    assert_eq!(skipped, expected.map(|(key, reason)| (key.to_owned(), reason.to_owned())));
    let series = r#"cilium_kvstoremesh_skipped_entries_total{scope="nodes/v1",source_cluster="west",reason="value-too-large"} 1"#;
    assert!(bed.metrics().contains(series), "{}", bed.metrics());

    // A good entry that turns bad keeps its last good value; one that turns good is mirrored.
    put(
        &remote,
        &[("cilium/state/nodes/v1/west/n1", &"y".repeat(21)), ("cilium/state/nodes/v1/west/big", "small")],
    )
    .await;
    bed.until("big is small", async || bed.cache().await.len() == 3).await;
    assert_eq!(bed.local().await["cilium/cache/nodes/v1/west/n1"], "node n1 of west");
    let skipped =
        || bed.remote("west").unwrap().skipped.into_iter().map(|skipped| skipped.key).collect::<Vec<_>>();
    assert_eq!(skipped(), ["../east/n1", "n1"]);
    bed.stop().await;
}

#[tokio::test]
async fn leftovers_of_an_earlier_life_go_with_the_first_complete_list() {
    let net = Net::default();
    let remote = store();
    net.put(&endpoint("west"), Some(Arc::clone(&remote)));
    let bed = Bed::start_with(net.clone(), Arc::new(net), &[], |_| {});
    let old = "cilium/cache/nodes/v1/west/old";
    put(&bed.local, &[(old, "x"), ("cilium/cluster-config/west", "old")]).await;
    bed.configure("west");
    bed.until_trouble("west", "cluster-config-missing").await;
    assert_eq!(bed.cache().await, [old], "nothing is known yet, so nothing goes");
    put_nodes(&remote, "west", &["n1"]).await;
    put(&remote, &[("cilium/cluster-config/west", &config(2))]).await;
    put_canaries(&remote, "west").await;
    bed.until_ready("west").await;
    assert_eq!(bed.cache().await, ["cilium/cache/nodes/v1/west/n1"]);
    bed.stop().await;
}

#[tokio::test]
async fn what_others_change_in_the_announcement_is_put_right() {
    let bed = Bed::start(|_| {});
    bed.connect("west", &peer("west", 2).await);
    bed.until_ready("west").await;
    let announced = bed.local().await["cilium/cluster-config/west"].clone();
    let key = Bytes::from_static(b"cilium/cluster-config/west");
    bed.local.client().write(vec![Write::Delete { key }]).await.unwrap();
    bed.until("announced again", async || {
        bed.local().await.get("cilium/cluster-config/west") == Some(&announced)
    })
    .await;
    bed.stop().await;
}
