//! Makes a store hold the desired keys of one prefix: the shell around [`DesiredSet`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    backoff::Backoff,
    chain::Chain,
    desired::{DesiredSet, Item, Progress, Step},
    lease_pool::LeasePool,
};
use crate::{
    client::{Client, Error, Event, LeaseId, Revision, WatchError, WatchStream, Write},
    range::KeyRange,
};

/// What a [`SyncWriter`] writes, and where.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// Prepended to every key; write the trailing slash.
    pub prefix: Bytes,
    /// The whole key to write once the initial set is stored, and what makes its value (a timestamp).
    pub canary: Option<(Bytes, fn() -> Bytes)>,
    /// Keys hang on leases with this time to live; `None` is no lease.
    pub lease_ttl: Option<Duration>,
    /// Whether keys under the prefix that are not wanted are deleted once the initial set is stored. Off
    /// where several writers share the prefix.
    pub remove_stale: bool,
    /// Whether changes that others make to our keys are reverted.
    pub enforce: bool,
    /// Delays between attempts.
    pub backoff: Backoff,
}

impl WriterConfig {
    /// Leases of 15 minutes (Cilium's default), stale keys removed, no canary, foreign changes not reverted.
    pub fn new(prefix: impl Into<Bytes>) -> Self {
        Self {
            prefix: prefix.into(),
            canary: None,
            lease_ttl: Some(Duration::from_secs(15 * 60)),
            remove_stale: true,
            enforce: false,
            backoff: Backoff::default(),
        }
    }
}

/// How a writer is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterStatus {
    /// What is wanted, pending and synced.
    pub progress: Progress,
    /// Puts that the store confirmed, in this process' life.
    pub written: u64,
    /// Deletes that it confirmed.
    pub deleted: u64,
    /// Calls that failed.
    pub failures: u64,
    /// The latest failure, while it lasts.
    pub last_error: Option<String>,
    /// Revision of the latest write.
    pub revision: Revision,
}

/// Why [`SyncWriter::run`] ended other than by being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriterError {
    /// The client cannot succeed again: run with a new one.
    #[error("the client is spent")]
    ClientSpent(#[source] Error),
}

/// The desired keys of one prefix; clones are handles to the same set.
///
/// Telling it never waits and never fails: wishes coalesce per key, so it holds at most each wanted key and
/// the deletions not yet carried out. [`Self::run`] carries them out.
#[derive(Clone, Debug)]
pub struct SyncWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: WriterConfig,
    set: Mutex<DesiredSet>,
    wake: tokio::sync::Notify,
    status: watch::Sender<WriterStatus>,
    /// Held by the one `run` that is under way; knows whether there was one before.
    running: AsyncMutex<bool>,
}

/// What one `run` keeps between its steps.
struct Run<'a> {
    shared: &'a Shared,
    client: &'a dyn Client,
    leases: LeasePool,
    /// The lease of the canary, if it has one.
    canary_lease: LeaseId,
    keep_alive_at: Option<Instant>,
    /// Batches of one are written while above zero, to find the key that the store refuses.
    singly: usize,
    watch: Option<WatchStream>,
    newest: Revision,
    /// Cluster id of the store that was written to, as of the last look.
    store: Option<u64>,
}

impl SyncWriter {
    /// An empty desired set.
    pub fn new(config: WriterConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                set: Mutex::default(),
                wake: tokio::sync::Notify::new(),
                status: watch::Sender::default(),
                running: AsyncMutex::new(false),
            }),
        }
    }

    /// The store should hold `value` at prefix + `key`. Returns whether that is news.
    pub fn upsert(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> bool {
        self.tell(|set| set.upsert(key.into(), value.into()))
    }

    /// The store should not hold prefix + `key`. Returns whether that is news.
    pub fn delete(&self, key: &[u8]) -> bool {
        self.tell(|set| set.delete(key))
    }

    /// Many upserts (`Some`) and deletes (`None`) with one wake-up.
    pub fn extend(&self, wishes: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) -> bool {
        self.tell(|set| {
            let mut changed = false;
            for (key, value) in wishes {
                changed |= match value {
                    Some(value) => set.upsert(key, value),
                    None => set.delete(&key),
                };
            }
            changed
        })
    }

    /// Deletes every wanted key for which `keep` is false.
    pub fn retain(&self, keep: impl FnMut(&[u8]) -> bool) -> bool {
        self.tell(|set| set.retain(keep))
    }

    /// The initial set is complete: after everything told so far is stored, what an earlier life left is
    /// removed and the canary is written. Only the first call counts.
    pub fn synced(&self) {
        self.tell(|set| {
            set.synced();
            true
        });
    }

    /// How it is doing now.
    pub fn status(&self) -> WriterStatus {
        let progress = self.shared.set().progress();
        WriterStatus { progress, ..self.shared.status.borrow().clone() }
    }

    /// Every step of [`Self::run`]; for metrics and status pages.
    pub fn subscribe(&self) -> watch::Receiver<WriterStatus> {
        self.shared.status.subscribe()
    }

    /// Waits until everything told before the call is stored (and the canary, if [`Self::synced`] was called).
    pub async fn flushed(&self) {
        let mut steps = self.subscribe();
        loop {
            let idle = {
                let set = self.shared.set();
                set.progress().pending == 0 && set.step() == Step::Idle
            };
            if idle || steps.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the canary is written; see [`Self::synced`].
    pub async fn wait_synced(&self) {
        let mut steps = self.subscribe();
        while !self.shared.set().progress().synced {
            if steps.changed().await.is_err() {
                return;
            }
        }
    }

    /// Carries out the wishes until `stop`; deletes nothing when it stops. One at a time: a second call waits
    /// for the first to end. A further call, perhaps with another client, writes everything again, since the
    /// leases of the earlier one are no longer kept alive.
    ///
    /// Failures are retried for ever with backoff. Stop it by the token; dropping the future abandons a call
    /// that may or may not have taken effect.
    ///
    /// # Errors
    /// See [`WriterError`].
    pub async fn run(&self, client: &dyn Client, stop: &CancellationToken) -> Result<(), WriterError> {
        let shared = &*self.shared;
        let mut ran_before = shared.running.lock().await;
        if std::mem::replace(&mut *ran_before, true) {
            shared.set().all_lost();
        }
        let mut run = Run {
            shared,
            client,
            leases: LeasePool::new(client.limits().keys_per_lease),
            canary_lease: LeaseId::NONE,
            keep_alive_at: None,
            singly: 0,
            watch: None,
            newest: Revision::default(),
            store: None,
        };
        match stop.run_until_cancelled(run.work()).await {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn tell(&self, wish: impl FnOnce(&mut DesiredSet) -> bool) -> bool {
        let news = wish(&mut self.shared.set());
        if news {
            self.shared.wake.notify_one();
        }
        news
    }
}

impl Shared {
    fn set(&self) -> MutexGuard<'_, DesiredSet> {
        // Nothing in `DesiredSet` panics half-way through a change.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: impl FnOnce(&mut WriterStatus)) {
        let progress = self.set().progress();
        self.status.send_modify(|status| {
            status.progress = progress;
            change(status);
        });
    }

    fn whole(&self, key: &[u8]) -> Bytes {
        let mut whole = Vec::with_capacity(self.config.prefix.len() + key.len());
        whole.extend_from_slice(&self.config.prefix);
        whole.extend_from_slice(key);
        whole.into()
    }
}

impl Run<'_> {
    async fn work(&mut self) -> WriterError {
        let mut failures = 0u32;
        loop {
            match self.step().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if let Some(end) = self.after(error, failures) {
                        return end;
                    }
                    tokio::time::sleep(self.shared.config.backoff.delay(failures, rand::random())).await;
                }
            }
        }
    }

    /// Notes a failure and what it says of the store.
    fn after(&mut self, error: Error, failures: u32) -> Option<WriterError> {
        let prefix = self.shared.config.prefix.escape_ascii().to_string();
        warn!(prefix, failures, error = %Chain(&error), "write to the store failed, retrying");
        self.shared.publish(|status| {
            status.failures += 1;
            status.last_error = Some(Chain(&error).to_string());
        });
        self.watch = None;
        if matches!(error, Error::ClusterChanged { .. }) {
            self.start_over();
        }
        self.client.is_spent().then_some(WriterError::ClientSpent(error))
    }

    /// The store holds nothing of ours any more.
    fn start_over(&mut self) {
        info!(prefix = %self.shared.config.prefix.escape_ascii(), "the store was replaced, writing everything again");
        self.leases.clear();
        self.canary_lease = LeaseId::NONE;
        self.newest = Revision::default();
        self.store = None;
        self.shared.set().all_lost();
    }

    async fn step(&mut self) -> Result<(), Error> {
        if self.keep_alive_at.is_some_and(|at| at <= Instant::now()) {
            self.keep_alive().await?;
        }
        let step = self.shared.set().step();
        match step {
            Step::Write => self.write().await?,
            Step::Sweep => self.sweep().await?,
            Step::Canary => self.canary().await?,
            Step::Idle => return self.idle().await,
        }
        self.shared.publish(|status| status.last_error = None);
        Ok(())
    }

    /// Waits for a wish, a timer, or a sign that the store changed under us.
    async fn idle(&mut self) -> Result<(), Error> {
        if self.watch.is_none() {
            self.look().await?;
            self.shared.publish(|status| status.last_error = None);
            if self.shared.set().step() != Step::Idle {
                return Ok(());
            }
        }
        let Some(watch) = self.watch.as_mut() else { return Ok(()) };
        let timer = self.keep_alive_at;
        let timer = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let batch = tokio::select! {
            () = self.shared.wake.notified() => return Ok(()),
            () = timer => return Ok(()),
            batch = watch.next() => batch,
        };
        match batch {
            Some(Ok(batch)) => {
                batch.events.iter().for_each(|event| self.seen(event));
                Ok(())
            }
            Some(Err(WatchError::Store(error @ Error::ClusterChanged { .. }))) => Err(error),
            Some(Err(_)) | None => {
                // Whatever it was, `look` finds out what it means.
                self.watch = None;
                tokio::time::sleep(self.shared.config.backoff.delay(1, rand::random())).await;
                Ok(())
            }
        }
    }

    /// Makes sure that the store is still the one that was written to, and watches for news of our keys.
    async fn look(&mut self) -> Result<(), Error> {
        let status = self.client.status().await?;
        // Another writer with the same client may have been told of the change, which only one is.
        let other = self.store.is_some_and(|store| store != status.cluster_id);
        if other || status.revision < self.newest {
            self.start_over();
        }
        self.store = Some(status.cluster_id);
        for lease in self.leases.ids() {
            self.renew(lease).await?;
        }
        let config = &self.shared.config;
        let range = match &config.canary {
            Some((key, _)) if !config.enforce => KeyRange::key(key.clone()),
            Some(_) | None => KeyRange::prefix(config.prefix.clone()),
        };
        match self.client.watch(range, status.revision.next()).await {
            Ok(watch) => self.watch = Some(watch),
            Err(WatchError::Store(error)) => return Err(error),
            Err(error) => return Err(Error::Transport(Box::new(error))),
        }
        if config.enforce {
            self.check_all().await?;
        }
        Ok(())
    }

    /// Compares the store with what is wanted once, for changes made while nobody watched.
    async fn check_all(&mut self) -> Result<(), Error> {
        let found = list(self.client, &self.shared.config.prefix).await?;
        let mut set = self.shared.set();
        let mut missing: std::collections::BTreeSet<Bytes> = set.stored_keys().cloned().collect();
        for (key, value) in found {
            missing.remove(&key);
            set.foreign(&key, Some(&value));
        }
        for key in missing {
            set.foreign(&key, None);
        }
        Ok(())
    }

    fn seen(&self, event: &Event) {
        let config = &self.shared.config;
        if let Some((canary, _)) = &config.canary
            && event.key() == canary
        {
            if matches!(event, Event::Delete { .. }) {
                self.shared.set().canary_lost();
            }
            return;
        }
        let Some(key) = event.key().strip_prefix(&config.prefix[..]) else { return };
        if config.enforce {
            let found = match event {
                Event::Put(kv) => Some(&kv.value),
                Event::Delete { .. } => None,
            };
            // An event older than our latest write of the key is an echo of the past.
            if event.mod_revision() > self.newest && self.shared.set().foreign(key, found) {
                info!(key = %event.key().escape_ascii(), "reverting a change that someone else made");
            }
        }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let limits = self.client.limits();
        let operations = if self.singly > 0 { 1 } else { limits.batch_operations };
        let mut items = self.shared.set().take(operations, limits.batch_bytes);
        self.singly = self.singly.saturating_sub(items.len());
        let mut taken = Vec::new();
        if let Err(error) = self.attach(&mut items, &mut taken).await {
            taken.into_iter().for_each(|lease| self.leases.release(lease));
            self.shared.set().failed(items);
            return Err(error);
        }
        let batch = items.iter().map(|item| {
            let key = self.shared.whole(&item.key);
            match &item.value {
                Some(value) => Write::Put { key, value: value.clone(), lease: item.lease },
                None => Write::Delete { key },
            }
        });
        match self.client.write(batch.collect()).await {
            Ok(revision) => {
                self.newest = self.newest.max(revision);
                let puts = items.iter().filter(|item| item.value.is_some()).count();
                let deletes = items.len() - puts;
                let freed = self.shared.set().stored(items);
                freed.into_iter().for_each(|lease| self.leases.release(lease));
                self.shared.publish(|status| {
                    status.written += puts as u64;
                    status.deleted += deletes as u64;
                    status.revision = revision;
                });
                Ok(())
            }
            Err(error) => {
                taken.into_iter().for_each(|lease| self.leases.release(lease));
                self.not_written(items, &error);
                Err(error)
            }
        }
    }

    /// Puts a failed batch back where it is due again.
    fn not_written(&mut self, mut items: Vec<Item>, error: &Error) {
        match error {
            Error::Invalid(_) if items.len() > 1 => {
                self.singly = items.len();
                self.shared.set().failed(items);
            }
            Error::Invalid(_) => {
                for item in items.drain(..) {
                    self.shared.set().postpone(item);
                }
            }
            Error::LeaseNotFound(_) => {
                // The store does not say which, so all of the batch are taken for lost; that only costs writes.
                let mut lost: Vec<LeaseId> = items.iter().map(|item| item.lease).collect();
                lost.sort_unstable();
                lost.dedup();
                self.shared.set().failed(items);
                lost.into_iter().for_each(|lease| self.lease_lost(lease));
            }
            Error::Compacted { .. }
            | Error::FutureRevision { .. }
            | Error::PermissionDenied
            | Error::Unauthenticated(_)
            | Error::NoSpace
            | Error::ClusterChanged { .. }
            | Error::NoHeader
            | Error::Credentials(_)
            | Error::Unavailable(_)
            | Error::Transport(_) => self.shared.set().failed(items),
        }
    }

    /// Gives each put of the batch its lease; `taken` are the places that were free before.
    async fn attach(&mut self, items: &mut [Item], taken: &mut Vec<LeaseId>) -> Result<(), Error> {
        if self.shared.config.lease_ttl.is_none() {
            return Ok(());
        }
        for item in items.iter_mut().filter(|item| item.value.is_some() && item.lease == LeaseId::NONE) {
            item.lease = self.place().await?;
            taken.push(item.lease);
        }
        Ok(())
    }

    /// A place on a lease, granting one if need be.
    async fn place(&mut self) -> Result<LeaseId, Error> {
        let Some(ttl) = self.shared.config.lease_ttl else { return Ok(LeaseId::NONE) };
        loop {
            if let Some(lease) = self.leases.assign() {
                return Ok(lease);
            }
            let lease = self.client.grant(ttl).await?;
            debug!(%lease, "lease granted");
            self.leases.granted(lease);
            self.keep_alive_at.get_or_insert(Instant::now() + ttl / 3);
        }
    }

    async fn keep_alive(&mut self) -> Result<(), Error> {
        for lease in self.leases.ids() {
            self.renew(lease).await?;
        }
        let ttl = self.shared.config.lease_ttl.unwrap_or_default();
        self.keep_alive_at = (!self.leases.ids().is_empty()).then(|| Instant::now() + ttl / 3);
        Ok(())
    }

    async fn renew(&mut self, lease: LeaseId) -> Result<(), Error> {
        match self.client.keep_alive(lease).await {
            Ok(_) => Ok(()),
            Err(Error::LeaseNotFound(_)) => {
                self.lease_lost(lease);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn lease_lost(&mut self, lease: LeaseId) {
        if lease == LeaseId::NONE {
            return;
        }
        info!(%lease, prefix = %self.shared.config.prefix.escape_ascii(), "lease lost, writing its keys again");
        self.leases.lost(lease);
        let mut set = self.shared.set();
        set.lease_lost(lease);
        if self.canary_lease == lease {
            self.canary_lease = LeaseId::NONE;
            set.canary_lost();
        }
    }

    async fn sweep(&mut self) -> Result<(), Error> {
        let stored = if self.shared.config.remove_stale {
            list(self.client, &self.shared.config.prefix).await?
        } else {
            Vec::new()
        };
        self.shared.set().sweep(stored.into_iter().map(|(key, _)| key));
        Ok(())
    }

    async fn canary(&mut self) -> Result<(), Error> {
        if let Some((key, value)) = &self.shared.config.canary {
            if self.canary_lease == LeaseId::NONE {
                self.canary_lease = self.place().await?;
            }
            let put = Write::Put { key: key.clone(), value: value(), lease: self.canary_lease };
            match self.client.write(vec![put]).await {
                Ok(revision) => self.newest = self.newest.max(revision),
                Err(error) => {
                    if matches!(error, Error::LeaseNotFound(_)) {
                        self.lease_lost(self.canary_lease);
                    }
                    return Err(error);
                }
            }
        }
        self.shared.set().canary_stored();
        Ok(())
    }
}

/// Relative keys and values under a prefix, in pages as the store likes them.
async fn list(client: &dyn Client, prefix: &Bytes) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let page_size = client.limits().page.unwrap_or(0);
    let mut range = KeyRange::prefix(prefix.clone());
    let mut at = None;
    let mut found = Vec::new();
    loop {
        let page = client.list(&range, page_size, at).await?;
        at.get_or_insert(page.revision);
        let last = page.kvs.last().map(|kv| kv.key.clone());
        found.extend(page.kvs.into_iter().map(|kv| (kv.key.slice(prefix.len()..), kv.value)));
        match last {
            Some(key) if page.more => range = range.after(&key),
            Some(_) | None => return Ok(found),
        }
    }
}
