//! `/metrics` beside that of a real etcd: names, types and labels.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "battery/battery.rs"]
mod battery;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use battery::{bed, within};
use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp, WatchStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What etcd's own dashboard and alerts read (`contrib/mixin` of etcd), without the suffixes of histograms.
const DASHBOARD: &[&str] = &[
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
];

/// Names that etcd has and we do not, by how they begin.
const NOT_HERE: &[(&str, &str)] = &[
    ("go_", "there is no Go runtime"),
    ("etcd_server_go_version", "there is no Go runtime"),
    ("promhttp_", "of the library that etcd serves its metrics with"),
    ("etcd_grpc_proxy_", "another program in etcd's binary"),
    ("etcd_debugging_store_", "of the store of API v2, which etcd 3.7 does not serve either"),
    ("etcd_server_feature_enabled", "names etcd's own feature gates"),
    ("etcd_debugging_disk_backend_commit_", "steps of bbolt; there is no bbolt"),
    ("etcd_disk_backend_defrag_", "of bbolt's file; nothing is fragmented here"),
    ("etcd_disk_defrag_inflight", "of bbolt's file; nothing is fragmented here"),
    ("etcd_disk_backend_snapshot_", "a copy of bbolt's file; a snapshot is encoded as it is read here"),
    ("etcd_mvcc_db_open_read_transactions", "transactions of bbolt"),
    ("etcd_mvcc_hash_", "of bbolt's content, for members that compare themselves"),
    ("etcd_debugging_snap_", "Raft's snapshots, between members"),
    ("etcd_snap_", "Raft's snapshots, between members"),
    ("etcd_server_snapshot_apply_in_progress_total", "Raft's snapshots, between members"),
    ("etcd_server_apply_duration_seconds", "no log is applied; grpc_server_handling_seconds has the times"),
    ("etcd_server_slow_apply_total", "no log is applied; grpc_server_handling_seconds has the times"),
    ("etcd_server_range_duration_seconds", "grpc_server_handling_seconds has the times"),
    ("etcd_server_request_duration_seconds", "grpc_server_handling_seconds has the times"),
    (
        "etcd_server_client_requests_total",
        "by a version that only Go's clients tell; grpc_server_started_total",
    ),
    ("grpc_server_msg_", "bytes of messages are counted, messages are not"),
    ("etcd_debugging_mvcc_db_compaction_", "compaction has no pauses: it goes on in steps of microseconds"),
    (
        "etcd_debugging_mvcc_index_compaction_",
        "compaction has no pauses: it goes on in steps of microseconds",
    ),
    ("etcd_debugging_mvcc_events_total", "events are encoded once for all watches, not once for each"),
    (
        "etcd_debugging_mvcc_pending_events_total",
        "a watch takes events when its peer has room; none wait for it",
    ),
    ("etcd_debugging_mvcc_slow_watcher_total", "a watch takes events when its peer has room; none is slow"),
    ("etcd_debugging_server_watch_send_loop_", "there is no such loop"),
    ("etcd_debugging_lease_ttl_total", "how long leases are is said by LeaseTimeToLive"),
    ("process_network_", "of the whole machine's network, not of the process"),
    ("process_virtual_memory_max_bytes", "a limit that nobody sets"),
];

/// Type and label names by family.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

fn families(text: &str) -> Families {
    let mut families = Families::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new())).is_none(), "{name}");
            name.clone_into(&mut last);
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&last), "{line} is not of {last}");
            let Some((_, labels)) = line.split_once('{') else { continue };
            let (labels, _value) = labels.rsplit_once('}').unwrap();
            let names = labels.split(',').map(|pair| pair.split_once('=').unwrap().0.to_owned());
            families.get_mut(&last).unwrap().1.extend(names);
        }
    }
    families
}

async fn metrics(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    // Pieces with their lengths before them.
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let (piece, after) = after.split_at(usize::from_str_radix(length, 16).unwrap());
        whole.push_str(piece);
        rest = &after[2..];
    }
    whole
}

/// Uses a store in all ways that it counts; what is under way goes on until it is let go of.
async fn use_it(client: &mut Client) -> (WatchStream, LeaseKeeper, LeaseKeepAliveStream) {
    let lease = client.lease_grant(6000, None).await.unwrap().id();
    let (mut keeper, mut kept) = client.lease_keep_alive(lease).await.unwrap();
    keeper.keep_alive().await.unwrap();
    within("keepalive", kept.message()).await.unwrap().unwrap();
    client.put("a", "12", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    client.get("a", None).await.unwrap();
    let ops = [TxnOp::put("b", "1", None), TxnOp::get("a", None)];
    client.txn(Txn::new().and_then(ops)).await.unwrap();
    client.delete("b", None).await.unwrap();
    let gone = client.lease_grant(6000, None).await.unwrap().id();
    client.lease_revoke(gone).await.unwrap();
    let mut watch = client.watch("a", None).await.unwrap();
    client.put("a", "1", None).await.unwrap();
    within("an event", watch.message()).await.unwrap().unwrap();
    (watch, keeper, kept)
}

#[tokio::test]
async fn the_names_are_those_that_etcd_serves_and_its_dashboard_reads() {
    let ours = bed::ours_with(|config| config.extensive_metrics = true).await;
    let (theirs, at) = bed::etcd_with_metrics(&["--metrics=extensive"]).await;
    let _ours_in_use = use_it(&mut ours.etcd_client("client").await).await;
    let _theirs_in_use = use_it(&mut theirs.etcd_client("client").await).await;
    let (ours, theirs) = (families(&metrics(ours.metrics).await), families(&metrics(at).await));

    let exception = |name: &str| NOT_HERE.iter().find(|(start, _)| name.starts_with(start));
    for (name, family) in &theirs {
        match exception(name) {
            Some((_, reason)) => {
                assert!(!ours.contains_key(name), "{name} is served, so no longer: {reason}")
            }
            None => assert_eq!(ours.get(name), Some(family), "{name}"),
        }
    }
    for (start, _) in NOT_HERE {
        assert!(
            theirs.keys().any(|name| name.starts_with(start)),
            "{start} is no exception: etcd has none such"
        );
    }
    for name in ours.keys().filter(|name| !name.starts_with("isthmus_store_")) {
        assert!(theirs.contains_key(name), "{name} is not etcd's");
    }
    for name in DASHBOARD {
        // Of a member that is alone there are none.
        let of_peers = name.starts_with("etcd_network_peer_");
        assert_eq!((ours.contains_key(*name), theirs.contains_key(*name)), (!of_peers, !of_peers), "{name}");
    }
}

#[tokio::test]
async fn what_is_counted_is_what_etcd_counts() {
    /// Of these etcd counts what it does by itself, too.
    const SAME: &[&str] = &[
        "etcd_mvcc_put_total",
        "etcd_mvcc_delete_total",
        "etcd_mvcc_txn_total",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_current_revision",
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "etcd_debugging_mvcc_watcher_total",
        "etcd_debugging_mvcc_watch_stream_total",
        "etcd_debugging_lease_granted_total",
        "etcd_debugging_lease_renewed_total",
        "etcd_debugging_lease_revoked_total",
        "etcd_debugging_server_lease_expired_total",
        "etcd_debugging_auth_revision",
        "etcd_server_is_learner",
        "etcd_server_leader_changes_seen_total",
        r#"grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#,
    ];
    let ours = bed::ours().await;
    let (theirs, at) = bed::etcd_with_metrics(&[]).await;
    let _ours_in_use = use_it(&mut ours.etcd_client("client").await).await;
    let _theirs_in_use = use_it(&mut theirs.etcd_client("client").await).await;
    let (ours, theirs) = (metrics(ours.metrics).await, metrics(at).await);
    let value = |text: &str, name: &str| {
        let of_it = |line: &str| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        text.lines().find_map(of_it)
    };
    for name in SAME {
        let theirs = value(&theirs, name);
        assert!(theirs.is_some(), "{name}");
        assert_eq!(value(&ours, name), theirs, "{name}");
    }
    for text in [ours, theirs] {
        assert!(!text.contains("grpc_server_handling_seconds"), "it is not asked for");
    }
}
