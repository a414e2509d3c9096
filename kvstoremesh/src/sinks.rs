//! What the local store should hold of one remote cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use kvstore::Client;
use kvstore::sync::{SyncWriter, WriterConfig, WriterError, WriterStatus};
use mesh_types::{ClusterConfig, ClusterName, Form, MirrorWord, Resource, key, mirror_word_key};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::keeper::{Keeper, Named, Target};
use crate::resource::KINDS;
use crate::timing::Timing;

/// One writer per kind with what decides for it, one writer for the cluster-config, and one for what there is to say.
///
/// They live as long as the cluster is configured: across connections, so that a list after an outage writes only the
/// difference, and across failures of the task that reads, so that leases stay alive while the peer cannot be reached.
#[derive(Debug)]
pub(crate) struct Sinks {
    config: SyncWriter,
    word: SyncWriter,
    kinds: BTreeMap<Resource, Sink>,
    stirred: Notify,
    timing: Arc<Timing>,
}

#[derive(Debug)]
struct Sink {
    writer: SyncWriter,
    keeper: Mutex<Keeper>,
}

impl Sinks {
    pub(crate) fn new(cluster: &ClusterName, settings: &Settings) -> Self {
        let timing = Arc::new(Timing::default());
        let sink = |kind: Resource| {
            let mut config = WriterConfig::new(Bytes::from(kind.prefix(Form::Cache, cluster)));
            config.canary = Some((Bytes::from(kind.canary(Form::Cache, cluster)), time_of_day));
            config.lease_ttl = Some(settings.lease_ttl);
            config.witness = Some(Arc::clone(&timing) as _);
            (
                kind,
                Sink { writer: SyncWriter::new(config), keeper: Mutex::new(Keeper::new(settings.rules())) },
            )
        };
        let mut config = WriterConfig::single(Bytes::from(key::cluster_config(cluster)));
        config.lease_ttl = Some(settings.lease_ttl);
        // What an earlier life announced stays until this one has something to announce.
        config.remove_stale = false;
        config.enforce = true;
        // Nobody else's keys begin so; what an earlier life said is swept away at the first word.
        let mut word = WriterConfig::single(Bytes::from(mirror_word_key(cluster)));
        word.lease_ttl = Some(settings.lease_ttl);
        Self {
            config: SyncWriter::new(config),
            word: SyncWriter::new(word),
            kinds: KINDS.into_iter().map(sink).collect(),
            stirred: Notify::new(),
            timing,
        }
    }

    /// How long changes take.
    pub(crate) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Shows the keeper of a kind what has happened, and where it may carry out what follows.
    pub(crate) fn keep<T>(&self, kind: Resource, act: impl FnOnce(&mut Keeper, &SyncWriter) -> T) -> T {
        let sink = &self.kinds[&kind];
        let mut keeper = sink.lock();
        let before = keeper.outline();
        let result = act(&mut keeper, &sink.writer);
        if keeper.outline() != before {
            self.stirred.notify_one();
        }
        result
    }

    /// The same for all kinds.
    pub(crate) fn keep_all(&self, mut act: impl FnMut(&mut Keeper, &SyncWriter)) {
        KINDS.into_iter().for_each(|kind| self.keep(kind, &mut act));
    }

    /// Looks at the keeper of a kind.
    pub(crate) fn keeper<T>(&self, kind: Resource, look: impl FnOnce(&Keeper) -> T) -> T {
        look(&self.kinds[&kind].lock())
    }

    /// Something that readers may have to hear of has changed.
    pub(crate) fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Returns when something about a keeper changed that is worth a look.
    pub(crate) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Writes until `stop`, which leaves everything as it is.
    pub(crate) async fn run(&self, local: &dyn Client, stop: &CancellationToken) -> Result<(), WriterError> {
        let all = self.kinds.values().map(|sink| &sink.writer).chain([&self.config, &self.word]);
        // Only the one that is woken is polled.
        let mut running: FuturesUnordered<_> = all.map(|writer| writer.run(local, stop)).collect();
        while let Some(ended) = running.next().await {
            ended?;
        }
        Ok(())
    }

    /// Announces the cluster to the readers of the local store; returns when that is written.
    pub(crate) async fn announce(&self, config: &ClusterConfig) {
        self.announce_as(config.mirrored().encode().into());
        self.config.flushed().await;
    }

    /// The same with a value that is there already.
    pub(crate) fn announce_as(&self, config: Bytes) {
        self.config.upsert(Bytes::new(), config);
    }

    /// Tells the readers of the local store what is unusual about the cluster.
    pub(crate) fn say(&self, word: &MirrorWord) {
        if word.is_empty() {
            self.word.delete(b"");
        } else {
            self.word.upsert(Bytes::new(), word.encode());
        }
        self.word.synced();
    }

    /// Deletes everything that was mirrored; returns when that is written.
    pub(crate) async fn drain(&self, now: Instant) {
        self.keep_all(|keeper, writer| {
            keeper.clear(now, writer);
        });
        join_all(self.kinds.values().map(|sink| sink.writer.flushed())).await;
    }

    /// Returns when every kind has been complete in the local store once.
    pub(crate) async fn wait_synced(&self) {
        join_all(self.kinds.values().map(|sink| sink.writer.wait_synced())).await;
    }

    pub(crate) fn is_synced(&self, kind: Resource) -> bool {
        self.status(kind).progress.synced
    }

    pub(crate) fn status(&self, kind: Resource) -> WriterStatus {
        self.kinds[&kind].writer.status()
    }

    /// How the writer of the cluster-config is doing.
    pub(crate) fn config_status(&self) -> WriterStatus {
        self.config.status()
    }
}

impl Sink {
    fn lock(&self) -> MutexGuard<'_, Keeper> {
        // A keeper that panicked half-way has told its writer nothing that a list does not put right.
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for SyncWriter {
    fn wanted(&self) -> usize {
        self.status().progress.wanted
    }

    fn put(&self, entries: Vec<(Bytes, Bytes, u64)>) {
        self.extend_marked(entries);
    }

    fn extend(&self, wishes: Vec<(Bytes, Option<Bytes>)>) {
        SyncWriter::extend(self, wishes);
    }

    fn omitted(&self, named: &Named) -> BTreeSet<Bytes> {
        let mut found = BTreeSet::new();
        self.retain(|key| {
            if !named.contains(key) {
                found.insert(Bytes::copy_from_slice(key));
            }
            true
        });
        found
    }

    fn wants(&self, key: &[u8]) -> bool {
        SyncWriter::wants(self, key)
    }

    fn wanted_of(&self, keys: &BTreeSet<Bytes>) -> BTreeSet<Bytes> {
        keys.iter().filter(|key| self.wants(key)).cloned().collect()
    }

    fn synced(&self) {
        SyncWriter::synced(self);
    }
}

/// RFC 3339 with seconds, as Cilium writes canaries. Nobody reads it.
pub(crate) fn time_of_day() -> Bytes {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}
