//! The key space with a lock around it, its watches and its clock.
//!
//! Everything that reaches the store, in process or over the wire, comes through here. The lock is held for
//! one operation, or for one chunk of a long read; a long read stays consistent because it reads at one
//! revision, which is kept from being forgotten meanwhile. Between its chunks it hands the lock to whoever waits:
//! a thread that locks again at once would win it from one that must first be woken, again and again.

mod reads;
mod roots;
mod snapshot;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::MutexGuard as KeyspaceGuard;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

pub(crate) use self::reads::Checksum;
use crate::{
    auth::{Auth, AuthError},
    client::Write,
    embedded::EmbeddedClient,
    hub::{Hub, Signal, TIDY},
    image::Image,
    journal::{self, DiskTimes, DurableError, Entry, Failed, Held, Journal, users, write_image, write_users},
    mvcc::{Commit, Keyspace, Millis, Put, Record, Refusal, Transaction, TxnResult},
    range::KeyRange,
    watcher::Watcher,
};

/// Changes that are forgotten under one hold of the lock.
const PURGE_STEPS: usize = 512;
/// How often the length of the journal is looked at.
const FOLD: Duration = Duration::from_secs(1);

/// How a store behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Identifies the store to its clients; a fresh random one per start unless given. Never 0.
    pub cluster_id: u64,
    /// Never 0.
    pub member_id: u64,
    /// What is forgotten without being asked.
    pub auto_compaction: AutoCompaction,
}

/// See [`StoreConfig::auto_compaction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Nothing.
    Off,
    /// Every revision older than this.
    Periodic(Duration),
    /// All but so many of the newest revisions.
    Revisions(i64),
}

impl Default for StoreConfig {
    /// Random ids; the last 5 minutes are kept.
    fn default() -> Self {
        Self {
            cluster_id: rand::random_range(1..u64::MAX),
            member_id: rand::random_range(1..u64::MAX),
            auto_compaction: AutoCompaction::Periodic(Duration::from_secs(5 * 60)),
        }
    }
}

/// The embedded store. Share it by `Arc`; run [`Self::housekeep`] beside it.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    keyspace: parking_lot::Mutex<Keyspace>,
    /// Bytes of all kept records as of the last change, for those who ask before each write.
    bytes: AtomicUsize,
    /// Ranges that were read, but for those in transactions.
    ranges: AtomicU64,
    auth: ArcSwap<Auth>,
    /// One change of users at a time.
    auth_changes: Mutex<()>,
    /// See [`Self::root_changes`].
    root_changes: AtomicU64,
    hub: Arc<Hub>,
    started: Instant,
    /// Where a durable store writes everything before it answers.
    journal: Option<Journal>,
    /// Where a store in memory keeps users and roles, if it does.
    users_dir: Option<(PathBuf, Held)>,
    /// Cancelled when the disk failed: what is in memory may not be on it.
    failed: CancellationToken,
    /// Something changed that the housekeeper's timers depend on.
    chores: Notify,
}

impl Store {
    /// An empty store.
    pub fn new(config: StoreConfig) -> Arc<Self> {
        Self::with(config, Keyspace::new(), Auth::default(), None)
    }

    /// An empty store in memory whose users and roles are those that `dir` holds and are kept there: they are set up
    /// once, by hand or by Cilium's `etcdinit`, and nobody would set them up again after a restart.
    ///
    /// # Errors
    /// See [`DurableError`].
    pub fn keeping_users(config: StoreConfig, dir: &Path) -> Result<Arc<Self>, DurableError> {
        let held = journal::hold(dir)?;
        let mut store = Self::build(config, Keyspace::new(), users(dir)?, None);
        store.users_dir = Some((dir.to_owned(), held));
        Ok(Arc::new(store))
    }

    /// The store that is kept in `dir`, or a new one there. Each change is on the disk before anyone is told of it;
    /// changes of one moment share a flush. It has the ids of its first start, whatever `config` says.
    ///
    /// # Errors
    /// See [`DurableError`].
    pub fn durable(config: StoreConfig, dir: &Path) -> Result<Arc<Self>, DurableError> {
        let opened = journal::open(dir, 0, (config.cluster_id, config.member_id))?;
        let failed = CancellationToken::new();
        let started =
            Journal::start(&opened.journal, opened.bytes, opened.sequence, opened.held, failed.clone());
        let journal = started.map_err(|source| DurableError::Io { path: opened.journal, source })?;
        let config = StoreConfig { cluster_id: opened.ids.0, member_id: opened.ids.1, ..config };
        let store = Self::build(config, opened.keyspace, opened.auth, Some(journal));
        Ok(Arc::new(Self { failed, ..store }))
    }

    fn with(config: StoreConfig, keyspace: Keyspace, auth: Auth, journal: Option<Journal>) -> Arc<Self> {
        Arc::new(Self::build(config, keyspace, auth, journal))
    }

    /// An empty store whose changes go to `journal`.
    #[cfg(test)]
    pub(crate) fn on(journal: Journal) -> Arc<Self> {
        Self::with(StoreConfig::default(), Keyspace::new(), Auth::default(), Some(journal))
    }

    fn build(config: StoreConfig, keyspace: Keyspace, auth: Auth, journal: Option<Journal>) -> Self {
        Self {
            config,
            bytes: AtomicUsize::new(keyspace.bytes()),
            ranges: AtomicU64::new(0),
            root_changes: AtomicU64::new(roots::root_changes(&keyspace)),
            keyspace: parking_lot::Mutex::new(keyspace),
            auth: ArcSwap::from_pointee(auth),
            auth_changes: Mutex::default(),
            hub: Arc::default(),
            started: Instant::now(),
            journal,
            users_dir: None,
            failed: CancellationToken::new(),
            chores: Notify::new(),
        }
    }

    /// Resolves when the disk of a durable store failed. The process must end then: clients may have seen what is
    /// not on the disk, so going on would let two histories grow.
    pub async fn failure(&self) {
        self.failed.cancelled().await;
    }

    /// Bytes of all kept records, old ones included. Waits for nobody.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A client in this process.
    pub fn client(self: &Arc<Self>) -> EmbeddedClient {
        EmbeddedClient::new(Arc::clone(self))
    }

    /// How it was made.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Users and roles as they are now.
    pub fn auth(&self) -> Arc<Auth> {
        self.auth.load_full()
    }

    /// Changes users or roles; readers see the change whole or, on an error, not at all.
    ///
    /// # Errors
    /// That of `change`; [`AuthError::NotKept`] if the disk refuses it.
    pub fn change_auth(
        &self,
        change: impl FnOnce(&mut Auth) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        if self.disk_is_full() {
            return Err(AuthError::NotKept);
        }
        let _one_at_a_time = lock(&self.auth_changes);
        let in_the_journals_order = self.journal.as_ref().map(|_| self.lock());
        let before = self.auth.load_full();
        let mut auth = Auth::clone(&before);
        change(&mut auth)?;
        if let Some((dir, _held)) = &self.users_dir {
            write_users(dir, &auth).map_err(|error| {
                error!(%error, dir = %dir.display(), "users and roles cannot be kept");
                AuthError::NotKept
            })?;
        }
        self.note(|| Entry::auth(&auth));
        let moved = auth.moved_since(&before);
        self.auth.store(Arc::new(auth));
        drop(in_the_journals_order);
        self.note_roots(moved);
        Ok(())
    }

    /// Revision of the last change.
    pub fn revision(&self) -> i64 {
        self.lock().revision()
    }

    /// Ends leases, compacts, frees memory and folds long journals, until `stop`. Without it leases never end. An image
    /// whose writing has begun is written to its end.
    pub async fn housekeep(&self, stop: &CancellationToken) {
        let chores = async {
            let mut compaction = Compaction::default();
            loop {
                let next_lease = self.end_leases(self.now());
                self.auto_compact(&mut compaction);
                while self.purge() {
                    tokio::task::yield_now().await;
                }
                self.hub.tidy(self.now());
                let until_lease = next_lease.map(|end| Duration::from_millis(end.saturating_sub(self.now())));
                let pause = until_lease.map_or(TIDY, |until| until.min(TIDY));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.chores.notified() => {}
                }
            }
        };
        let chores = stop.run_until_cancelled::<_>(async {
            let (): () = chores.await;
        });
        tokio::join!(chores, self.fold(stop));
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Record> {
        self.lock().get(key).cloned()
    }

    pub(crate) fn put(&self, put: &Put) -> Result<(Option<Record>, i64), Refusal> {
        self.change(|keyspace| keyspace.put(put))
    }

    pub(crate) fn delete(&self, range: &KeyRange) -> (Vec<Record>, i64) {
        let deleted = self.change(|keyspace| {
            let mut txn = keyspace.write();
            let deleted = txn.delete_range(range);
            Ok((deleted, txn.commit()))
        });
        deleted.unwrap_or_else(|never: std::convert::Infallible| match never {})
    }

    pub(crate) fn transact(&self, txn: &Transaction) -> Result<(TxnResult, i64), Refusal> {
        self.change(|keyspace| keyspace.transact(txn))
    }

    /// A batch as one revision, after its keys and leases are checked; nothing is written if one is missing. `kept` is
    /// called with what became of each put.
    pub(crate) fn write_batch(&self, batch: &[Write], mut kept: impl FnMut(&Record)) -> Result<i64, Refusal> {
        let written = self.change(|keyspace| {
            let mut checked = 0;
            for write in batch {
                let Write::Put { key, lease, .. } = write else { continue };
                if key.is_empty() {
                    return Err(Refusal::EmptyKey);
                }
                if lease.0 != checked {
                    if lease.0 != 0 && !keyspace.has_lease(lease.0) {
                        return Err(Refusal::LeaseNotFound { lease: lease.0 });
                    }
                    checked = lease.0;
                }
            }
            let mut txn = keyspace.write();
            for write in batch {
                match write {
                    Write::Put { key, value, lease } => {
                        txn.put(key, value, lease.0);
                        txn.latest().into_iter().for_each(&mut kept);
                    }
                    Write::Delete { key } => drop(txn.delete_key(key)),
                    Write::DeleteRange { range } => drop(txn.delete_range(range)),
                }
            }
            Ok(((), txn.commit()))
        })?;
        Ok(written.1)
    }

    /// Makes everything before `revision` unreadable; the memory follows soon. Returns the revision of the store.
    ///
    /// # Errors
    /// [`Refusal::CompactedAlready`], [`Refusal::Future`].
    pub fn compact(&self, revision: i64) -> Result<i64, Refusal> {
        let mut keyspace = self.lock();
        keyspace.compact(revision)?;
        self.note(|| Entry::compacted(revision));
        let revision = keyspace.revision();
        drop(keyspace);
        self.chores.notify_one();
        Ok(revision)
    }

    /// `id` 0 is a random one. Returns the id.
    pub(crate) fn grant(&self, id: i64, ttl: i64) -> Result<i64, Refusal> {
        let mut keyspace = self.lock();
        let now = self.now();
        let id = match id {
            0 => loop {
                let id = rand::random_range(1..i64::MAX);
                if keyspace.grant(id, ttl, now).is_ok() {
                    break id;
                }
            },
            id => keyspace.grant(id, ttl, now).map(|()| id)?,
        };
        self.note(|| Entry::granted(id, ttl));
        drop(keyspace);
        self.chores.notify_one();
        Ok(id)
    }

    pub(crate) fn keep_alive(&self, id: i64) -> Result<i64, Refusal> {
        let mut keyspace = self.lock();
        // Whoever waited for the lock has no older time than who had it before.
        let now = self.now();
        keyspace.keep_alive(id, now)
    }

    pub(crate) fn revoke(&self, id: i64) -> Result<i64, Refusal> {
        let mut keyspace = self.lock_to_change();
        let commit = keyspace.revoke(id)?;
        self.note(|| Entry::ended(id, &commit));
        Ok(self.publish(keyspace, commit))
    }

    /// Granted and remaining seconds, and keys on demand.
    pub(crate) fn time_to_live(&self, id: i64, with_keys: bool) -> Option<(i64, i64, Vec<Record>)> {
        let keyspace = self.lock();
        let now = self.now();
        keyspace.time_to_live(id, now, with_keys)
    }

    /// A look at the key space that takes no time.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Keyspace) -> R) -> R {
        let keyspace = self.lock();
        let seen = look(&keyspace);
        KeyspaceGuard::unlock_fair(keyspace);
        seen
    }

    /// The revision, once everything up to it has been handed to the watches.
    pub(crate) fn settled_revision(&self) -> i64 {
        let keyspace = self.lock();
        // Held by whoever publishes, and taken while the key space is locked.
        drop(self.hub.publisher());
        keyspace.revision()
    }

    /// A watch of `range` that will deliver everything from `from` on (0: from now on).
    pub(crate) fn watch(&self, range: &KeyRange, from: i64, id: i64, signal: &Arc<Signal>) -> Watcher {
        let keyspace = self.lock();
        // While the key space is locked nothing is published, so that the subscription begins exactly here.
        let subscription = self.hub.subscribe(range, id, signal);
        let next = if from <= 0 { keyspace.revision() + 1 } else { from };
        let behind = next <= keyspace.revision();
        drop(keyspace);
        Watcher::new(subscription, next, behind)
    }

    /// Milliseconds since the store was made.
    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    fn lock(&self) -> KeyspaceGuard<'_, Keyspace> {
        self.keyspace.lock()
    }

    /// Notes a change for the disk. The key space is locked meanwhile, so that the journal has the order of changes.
    fn note(&self, entry: impl FnOnce() -> Entry) {
        if let Some(journal) = &self.journal {
            journal.note(&entry());
        }
    }

    /// Resolves when everything that happened so far is on the disk, as far as the store is durable. Whoever tells
    /// anything to anyone waits for it first: what an answer or an event says is never taken back by a crash.
    pub(crate) async fn settled(&self) -> Result<(), Failed> {
        match &self.journal {
            Some(journal) => journal.settled().await,
            None => Ok(()),
        }
    }

    /// How long the disk of a durable store takes.
    pub(crate) fn disk_times(&self) -> Option<&DiskTimes> {
        self.journal.as_ref().map(Journal::times)
    }

    /// Ranges that were read, but for those in transactions.
    pub(crate) fn ranges(&self) -> u64 {
        self.ranges.load(Ordering::Relaxed)
    }

    /// How many watches there are.
    pub(crate) fn watches(&self) -> usize {
        self.hub.watches()
    }

    /// Whether the disk of a durable store has no room for more.
    pub(crate) fn disk_is_full(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_full)
    }

    /// Folds the journal into a new image whenever it is long, until `stop`.
    async fn fold(&self, stop: &CancellationToken) {
        let Some(journal) = &self.journal else { return };
        while let Some(image) = stop.run_until_cancelled(self.image_when_long(journal)).await {
            let (dir, held) = (journal.dir().to_owned(), journal.held());
            let written = tokio::task::spawn_blocking(move || {
                let (_until_written, began) = (held, Instant::now());
                write_image(&dir, &image).map(|()| began.elapsed())
            });
            match written.await {
                Ok(Ok(took)) => journal.times().image.observe(took),
                Ok(Err(error)) => warn!(%error, "cannot write a new image, the journals stay"),
                Err(_panicked_or_the_runtime_ends) => {}
            }
        }
    }

    /// Waits until the journal is long and has turned to a new file; what there was until then.
    async fn image_when_long(&self, journal: &Journal) -> Image {
        loop {
            if journal.is_long() {
                let (image, turned) = self.image_at_turn(journal).await;
                match turned.await {
                    Ok(Ok(())) => return image,
                    Ok(Err(error)) => warn!(%error, "cannot begin a new journal, the old one grows on"),
                    // The disk failed, which it has said.
                    Err(_ended) => {}
                }
            }
            tokio::time::sleep(FOLD).await;
        }
    }

    /// One change, told to the watches in the order of revisions.
    fn change<R, E>(
        &self,
        change: impl FnOnce(&mut Keyspace) -> Result<(R, Commit), E>,
    ) -> Result<(R, i64), E> {
        let mut keyspace = self.lock_to_change();
        let (result, commit) = change(&mut keyspace)?;
        self.note(|| Entry::commit(&commit));
        Ok((result, self.publish(keyspace, commit)))
    }

    /// The key space for a change. Its commit has events if anyone wants them: watches begin under the same lock.
    fn lock_to_change(&self) -> KeyspaceGuard<'_, Keyspace> {
        let mut keyspace = self.lock();
        keyspace.set_heard(self.journal.is_some() || self.hub.is_heard());
        keyspace
    }

    /// Hands a commit to the watches, in the order of revisions; returns its revision.
    fn publish(&self, keyspace: KeyspaceGuard<'_, Keyspace>, commit: Commit) -> i64 {
        self.bytes.store(keyspace.bytes(), Ordering::Relaxed);
        if !commit.events.is_empty() {
            let publisher = self.hub.publisher();
            drop(keyspace);
            publisher.publish(commit.revision, commit.events);
        }
        commit.revision
    }

    /// Frees a little of what was compacted; returns whether there is more.
    fn purge(&self) -> bool {
        let mut keyspace = self.lock();
        let more = keyspace.purge(PURGE_STEPS);
        self.bytes.store(keyspace.bytes(), Ordering::Relaxed);
        KeyspaceGuard::unlock_fair(keyspace);
        more
    }

    /// Ends the leases whose time is over; when the next one is. The time is milliseconds since the store was made.
    pub(crate) fn end_leases(&self, now: Millis) -> Option<Millis> {
        let ended = self.lock().ended_leases(now);
        for lease in ended {
            let mut keyspace = self.lock_to_change();
            if let Some(commit) = keyspace.revoke_if_ended(lease, now) {
                self.note(|| Entry::ended(lease, &commit));
                let revision = self.publish(keyspace, commit);
                debug!(lease = %crate::LeaseId(lease), revision, "lease ended");
            }
        }
        self.lock().next_lease_end()
    }

    fn auto_compact(&self, state: &mut Compaction) {
        let now = self.now();
        let target = match self.config.auto_compaction {
            AutoCompaction::Off => return,
            AutoCompaction::Revisions(keep) => self.revision().saturating_sub(keep),
            AutoCompaction::Periodic(age) => state.target(now, age, self.revision()),
        };
        let mut keyspace = self.lock();
        // Refused when nothing changed since; there is nothing to do then.
        if target > keyspace.compacted().max(0) && keyspace.compact(target).is_ok() {
            self.note(|| Entry::compacted(target));
            debug!(revision = target, "compacted");
        }
    }
}

/// Remembers what the revision was when, for [`AutoCompaction::Periodic`].
#[derive(Debug, Default)]
struct Compaction {
    /// Oldest first; about ten per period.
    seen: std::collections::VecDeque<(Millis, i64)>,
}

impl Compaction {
    /// The newest revision that is older than `age`; 0 if none is known.
    fn target(&mut self, now: Millis, age: Duration, revision: i64) -> i64 {
        let age = age.as_millis() as Millis;
        if self.seen.back().is_none_or(|&(at, _)| now.saturating_sub(at) >= age / 10) {
            self.seen.push_back((now, revision));
        }
        let mut target = 0;
        while let Some(&(at, revision)) = self.seen.front()
            && now.saturating_sub(at) >= age
        {
            target = revision;
            self.seen.pop_front();
        }
        target
    }
}

/// A panic under one of these locks is a bug that ends its task; what it left is still consistent enough to read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
