//! What the local store should hold of one remote cluster.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use kvstore::Client;
use kvstore::sync::{SyncWriter, WriterConfig, WriterError, WriterStatus};
use mesh_types::{ClusterConfig, ClusterName, Form, key};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::resource::Mirrored;

/// One writer per kind, and one for the cluster-config.
///
/// They live as long as the cluster is configured: across connections, so that a list after an outage writes only the
/// difference, and across failures of the task that reads, so that leases stay alive while the peer cannot be reached.
#[derive(Debug)]
pub(crate) struct Sinks {
    cluster: ClusterName,
    config: SyncWriter,
    kinds: BTreeMap<Mirrored, SyncWriter>,
}

impl Sinks {
    pub(crate) fn new(cluster: &ClusterName, settings: &Settings) -> Self {
        let writer = |kind: Mirrored| {
            let mut config = WriterConfig::new(Bytes::from(kind.prefix(Form::Cache, cluster)));
            config.canary = Some((Bytes::from(kind.canary(Form::Cache, cluster)), time_of_day));
            config.lease_ttl = Some(settings.lease_ttl);
            (kind, SyncWriter::new(config))
        };
        let mut config = WriterConfig::new(Bytes::from_static(key::CLUSTER_CONFIG_PREFIX.as_bytes()));
        config.lease_ttl = Some(settings.lease_ttl);
        // Every cluster's configuration lies under this prefix.
        config.remove_stale = false;
        config.enforce = true;
        Self {
            cluster: cluster.clone(),
            config: SyncWriter::new(config),
            kinds: Mirrored::ALL.into_iter().map(writer).collect(),
        }
    }

    /// The writer of one kind; its keys are relative to the kind's cache prefix.
    pub(crate) fn writer(&self, kind: Mirrored) -> &SyncWriter {
        &self.kinds[&kind]
    }

    /// Writes until `stop`, which leaves everything as it is.
    pub(crate) async fn run(&self, local: &dyn Client, stop: &CancellationToken) -> Result<(), WriterError> {
        let all = self.kinds.values().chain([&self.config]);
        try_join_all(all.map(|writer| writer.run(local, stop))).await.map(drop)
    }

    /// Announces the cluster to the readers of the local store; returns when that is written.
    pub(crate) async fn announce(&self, config: &ClusterConfig) {
        self.config
            .upsert(Bytes::copy_from_slice(self.cluster.as_str().as_bytes()), config.mirrored().encode());
        self.config.flushed().await;
    }

    /// Empties one kind, for good as far as is known, and says so.
    pub(crate) fn close(&self, kind: Mirrored) {
        let writer = self.writer(kind);
        writer.retain(|_| false);
        writer.synced();
    }

    /// Deletes everything that was mirrored; returns when that is written.
    pub(crate) async fn drain(&self) {
        for writer in self.kinds.values() {
            writer.retain(|_| false);
        }
        join_all(self.kinds.values().map(SyncWriter::flushed)).await;
    }

    /// Returns when every kind has been complete in the local store once.
    pub(crate) async fn wait_synced(&self) {
        join_all(self.kinds.values().map(SyncWriter::wait_synced)).await;
    }

    pub(crate) fn is_synced(&self, kind: Mirrored) -> bool {
        self.writer(kind).status().progress.synced
    }

    pub(crate) fn status(&self, kind: Mirrored) -> WriterStatus {
        self.writer(kind).status()
    }

    /// How the writer of the cluster-config is doing.
    pub(crate) fn config_status(&self) -> WriterStatus {
        self.config.status()
    }
}

/// RFC 3339 with seconds, as Cilium writes canaries. Nobody reads it.
pub(crate) fn time_of_day() -> Bytes {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}
