//! The store's series, under the names that etcd's dashboards read.

mod calls;
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

pub(crate) use self::calls::{Calls, Counted as CountedCall};
use super::Shared;
use crate::embedded::ETCD_VERSION;

/// Name, kind, help and value of a series without labels.
type Series = (&'static str, &'static str, &'static str, f64);

/// Counters of the server; the rest is read from the store when asked.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) calls: Arc<Calls>,
    handshakes_failed: AtomicU64,
    connections: AtomicI64,
    connections_refused: AtomicU64,
}

/// Counts a connection while it lives.
pub(crate) struct Counted<'a>(&'a Metrics);

impl Metrics {
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
        let (revision, compacted, keys, bytes, leases) = self.store.look(|keyspace| {
            (keyspace.revision(), keyspace.compacted(), keyspace.keys(), keyspace.bytes(), keyspace.leases())
        });
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let series: [Series; 16] = [
            (
                "etcd_server_has_leader",
                "gauge",
                "Whether or not a leader exists. 1 is existence, 0 is not.",
                1.0,
            ),
            ("etcd_server_is_leader", "gauge", "Whether or not this member is a leader.", 1.0),
            ("etcd_server_leader_changes_seen_total", "counter", "Leader changes seen.", 1.0),
            ("etcd_server_proposals_committed_total", "gauge", "Committed changes.", revision as f64),
            ("etcd_server_proposals_applied_total", "gauge", "Applied changes.", revision as f64),
            ("etcd_server_proposals_pending", "gauge", "Pending changes.", 0.0),
            ("etcd_server_proposals_failed_total", "counter", "Failed changes.", 0.0),
            (
                "etcd_server_quota_backend_bytes",
                "gauge",
                "Bytes that the data may take.",
                self.limits.quota_bytes as f64,
            ),
            ("etcd_debugging_mvcc_keys_total", "gauge", "Keys.", keys as f64),
            (
                "etcd_debugging_mvcc_current_revision",
                "gauge",
                "Revision of the last change.",
                revision as f64,
            ),
            (
                "etcd_debugging_mvcc_compact_revision",
                "gauge",
                "Oldest revision that can be read.",
                compacted as f64,
            ),
            ("etcd_mvcc_db_total_size_in_bytes", "gauge", "Bytes that the data takes.", bytes as f64),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", "Bytes that the data takes.", bytes as f64),
            ("etcd_debugging_lease_granted_total", "gauge", "Leases that exist.", leases as f64),
            (
                "etcd_network_client_grpc_received_bytes_total",
                "counter",
                "Bytes of messages that clients sent.",
                load(&self.metrics.calls.received),
            ),
            (
                "etcd_network_client_grpc_sent_bytes_total",
                "counter",
                "Bytes of messages that clients were sent.",
                load(&self.metrics.calls.sent),
            ),
        ];
        let own: [Series; 3] = [
            (
                "isthmus_store_connections",
                "gauge",
                "Open connections.",
                self.metrics.connections.load(Ordering::Relaxed) as f64,
            ),
            (
                "isthmus_store_connections_refused_total",
                "counter",
                "Connections refused at the limit.",
                load(&self.metrics.connections_refused),
            ),
            (
                "isthmus_store_tls_handshakes_failed_total",
                "counter",
                "Connections that failed to prove who they are.",
                load(&self.metrics.handshakes_failed),
            ),
        ];
        let mut out = format!(
            "# HELP etcd_server_version Which version is running.\n# TYPE etcd_server_version gauge\n\
             etcd_server_version{{server_version=\"{ETCD_VERSION}\"}} 1\n"
        );
        for (name, kind, help, value) in series.into_iter().chain(own).chain(process::series()) {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
        self.metrics.calls.render(&mut out);
        out
    }
}
