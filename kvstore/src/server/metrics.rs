//! The store's series, under the names that etcd's dashboards read.

mod calls;
mod process;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

pub(crate) use self::calls::{Calls, Counted as CountedCall};
use self::text::Text;
use super::Shared;
use crate::{
    embedded::{CLUSTER_VERSION, ETCD_VERSION},
    journal::DiskTimes,
};

/// Name, kind, help and value of a series without labels.
type Series = (&'static str, &'static str, &'static str, f64);

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// Counters of the server; the rest is read from the store when asked.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) calls: Arc<Calls>,
    handshakes_failed: AtomicU64,
    connections: AtomicI64,
    connections_refused: AtomicU64,
    healthy: AtomicU64,
    unhealthy: AtomicU64,
}

/// Counts a connection while it lives.
pub(crate) struct Counted<'a>(&'a Metrics);

impl Metrics {
    /// Counts how long calls take, too, if it is `extensive`.
    pub(crate) fn new(extensive: bool) -> Self {
        Self {
            calls: Arc::new(Calls::new(extensive)),
            handshakes_failed: AtomicU64::new(0),
            connections: AtomicI64::new(0),
            connections_refused: AtomicU64::new(0),
            healthy: AtomicU64::new(0),
            unhealthy: AtomicU64::new(0),
        }
    }

    /// Counts an answer about health.
    pub(crate) fn health_checked(&self, healthy: bool) {
        let counter = if healthy { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection(&self) -> Counted<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted(self)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// In Prometheus' text form.
    pub(crate) fn render_metrics(&self) -> String {
        let mut text = Text::default();
        self.role(&mut text);
        self.data(&mut text);
        match self.store.disk_times() {
            Some(times) => disk(&mut text, times),
            // Under the same names, so that a dashboard shows nothing instead of an error.
            None => disk(&mut text, &DiskTimes::default()),
        }
        self.clients(&mut text);
        text.all(process::series());
        let mut out = text.finish();
        self.metrics.calls.render(&mut out);
        out
    }

    /// Who it is. What etcd counts of elections, proposals and peers is that of a member that is alone and leads.
    fn role(&self, text: &mut Text) {
        let revision = self.store.revision() as f64;
        let id = format!("{:x}", self.store.config().member_id);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        text.labelled(
            "etcd_server_version",
            "Which version is running.",
            &[("server_version", ETCD_VERSION)],
        );
        text.labelled("etcd_cluster_version", "The same.", &[("cluster_version", CLUSTER_VERSION)]);
        text.labelled("etcd_server_id", "Id of the member.", &[("server_id", &id)]);
        text.labelled("etcd_network_known_peers", "Members.", &[("Local", &id), ("Remote", &id)]);
        text.all([
            (
                "etcd_server_has_leader",
                GAUGE,
                "Whether or not a leader exists. 1 is existence, 0 is not.",
                1.0,
            ),
            ("etcd_server_is_leader", GAUGE, "Whether or not this member is a leader.", 1.0),
            ("etcd_server_is_learner", GAUGE, "Whether or not this member is a learner.", 0.0),
            ("etcd_server_learner_promote_successes", COUNTER, "Learners that became voters.", 0.0),
            ("etcd_server_leader_changes_seen_total", COUNTER, "Leader changes seen.", 1.0),
            ("etcd_server_heartbeat_send_failures_total", COUNTER, "Heartbeats that were late.", 0.0),
            ("etcd_server_proposals_committed_total", GAUGE, "Committed changes.", revision),
            ("etcd_server_proposals_applied_total", GAUGE, "Applied changes.", revision),
            ("etcd_server_proposals_pending", GAUGE, "Pending changes.", 0.0),
            ("etcd_server_proposals_failed_total", COUNTER, "Failed changes.", 0.0),
            ("etcd_server_read_indexes_failed_total", COUNTER, "Reads that found no leader.", 0.0),
            ("etcd_server_slow_read_indexes_total", COUNTER, "Reads that waited for the leader.", 0.0),
            ("etcd_server_health_success", COUNTER, "Answers that all is well.", load(&self.metrics.healthy)),
            (
                "etcd_server_health_failures",
                COUNTER,
                "Answers that it is not.",
                load(&self.metrics.unhealthy),
            ),
            (
                "etcd_server_quota_backend_bytes",
                GAUGE,
                "Bytes that the data may take.",
                self.limits.quota_bytes as f64,
            ),
        ]);
    }

    /// What it holds and what was done with it.
    fn data(&self, text: &mut Text) {
        let (revision, compacted, keys, bytes, leases, counts) = self.store.look(|keyspace| {
            let (keys, bytes) = (keyspace.keys(), keyspace.bytes());
            (keyspace.revision(), keyspace.compacted(), keys, bytes, keyspace.leases(), keyspace.counts())
        });
        let ranges = counts.ranges + self.store.ranges();
        let streams = self.metrics.calls.open("etcdserverpb.Watch", "Watch");
        let auth = self.store.auth().revision();
        text.all([
            ("etcd_mvcc_db_total_size_in_bytes", GAUGE, "Bytes that the data takes.", bytes as f64),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", GAUGE, "Bytes that the data takes.", bytes as f64),
            ("etcd_mvcc_put_total", COUNTER, "Puts.", counts.puts as f64),
            ("etcd_mvcc_delete_total", COUNTER, "Deletions.", counts.deletes as f64),
            ("etcd_mvcc_range_total", COUNTER, "Ranges that were read.", ranges as f64),
            ("etcd_mvcc_txn_total", COUNTER, "Transactions of several operations.", counts.txns as f64),
            ("etcd_debugging_auth_revision", GAUGE, "Revision of users and roles.", auth as f64),
            ("etcd_debugging_mvcc_keys_total", GAUGE, "Keys.", keys as f64),
            ("etcd_debugging_mvcc_current_revision", GAUGE, "Revision of the last change.", revision as f64),
            (
                "etcd_debugging_mvcc_compact_revision",
                GAUGE,
                "Oldest revision that can be read.",
                compacted as f64,
            ),
            (
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                GAUGE,
                "Bytes of keys and values that were put.",
                counts.put_bytes as f64,
            ),
            ("etcd_debugging_mvcc_watcher_total", GAUGE, "Watches.", self.store.watches() as f64),
            ("etcd_debugging_mvcc_watch_stream_total", GAUGE, "Streams of watches.", streams as f64),
            ("etcd_debugging_lease_granted_total", COUNTER, "Leases granted.", counts.leases_granted as f64),
            (
                "etcd_debugging_lease_renewed_total",
                COUNTER,
                "Leases kept alive.",
                counts.leases_renewed as f64,
            ),
            ("etcd_debugging_lease_revoked_total", COUNTER, "Leases ended.", counts.leases_revoked as f64),
            (
                "etcd_debugging_server_lease_expired_total",
                COUNTER,
                "Leases whose time was over.",
                counts.leases_expired as f64,
            ),
            ("isthmus_store_leases", GAUGE, "Leases that exist.", leases as f64),
        ]);
    }

    /// What clients cost.
    fn clients(&self, text: &mut Text) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let metrics = &self.metrics;
        text.all([
            (
                "etcd_network_client_grpc_received_bytes_total",
                COUNTER,
                "Bytes of messages that clients sent.",
                load(&metrics.calls.received),
            ),
            (
                "etcd_network_client_grpc_sent_bytes_total",
                COUNTER,
                "Bytes of messages that clients were sent.",
                load(&metrics.calls.sent),
            ),
            (
                "isthmus_store_connections",
                GAUGE,
                "Open connections.",
                metrics.connections.load(Ordering::Relaxed) as f64,
            ),
            (
                "isthmus_store_connections_refused_total",
                COUNTER,
                "Connections refused at the limit.",
                load(&metrics.connections_refused),
            ),
            (
                "isthmus_store_tls_handshakes_failed_total",
                COUNTER,
                "Connections that failed to prove who they are.",
                load(&metrics.handshakes_failed),
            ),
        ]);
    }
}

/// The journal is what etcd calls its write-ahead log, an image what it calls its backend.
fn disk(text: &mut Text, times: &DiskTimes) {
    text.histogram("etcd_disk_wal_fsync_duration_seconds", "Flushes of the journal.", &times.sync);
    text.histogram("etcd_disk_wal_write_duration_seconds", "Writes to the journal.", &times.write);
    text.histogram("etcd_disk_backend_commit_duration_seconds", "New images of the store.", &times.image);
    let written = times.written() as f64;
    text.all([("etcd_disk_wal_write_bytes_total", GAUGE, "Bytes written to the journal.", written)]);
}
