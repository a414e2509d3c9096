//! Makes a store hold the desired keys of one prefix: the shell around [`DesiredSet`].

mod leases;
mod run;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio_util::sync::CancellationToken;

use self::run::Run;
use super::{
    backoff::Backoff,
    desired::{DesiredSet, Progress},
};
use crate::client::{Client, Error, Revision};
use crate::range::KeyRange;

/// What a [`SyncWriter`] writes, and where.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// Prepended to every key; write the trailing slash.
    pub prefix: Bytes,
    /// The prefix is a whole key, and the only item's own key is empty. Keys that merely begin so are somebody else's.
    pub single: bool,
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
    /// Who hears of what is stored.
    pub witness: Option<Arc<dyn Witness>>,
}

/// Hears of the writes of a [`SyncWriter`].
pub trait Witness: fmt::Debug + Send + Sync {
    /// The store confirmed, as of `revision`, what was given to it at `sent`. `marks` are those of the wishes that are
    /// carried out so, as [`SyncWriter::extend_marked`] was told them. Called in the writer's task: it must not wait.
    fn stored(&self, sent: SystemTime, revision: Revision, marks: &[u64]);
}

impl WriterConfig {
    /// Leases of 15 minutes (Cilium's default), stale keys removed, no canary, foreign changes not reverted.
    pub fn new(prefix: impl Into<Bytes>) -> Self {
        Self {
            prefix: prefix.into(),
            single: false,
            canary: None,
            lease_ttl: Some(Duration::from_secs(15 * 60)),
            remove_stale: true,
            enforce: false,
            backoff: Backoff::default(),
            witness: None,
        }
    }

    /// The same for one key and nothing beside it.
    pub fn single(key: impl Into<Bytes>) -> Self {
        Self { single: true, ..Self::new(key) }
    }

    /// Where all of its keys are.
    fn range(&self) -> KeyRange {
        let start = self.prefix.clone();
        if self.single { KeyRange::key(start) } else { KeyRange::prefix(start) }
    }

    /// Time to live of the canary's lease: that of the keys, less more than a lease may be behind with being renewed, which is
    /// a third. So when its writer is gone the canary always goes first, and whoever sees keys vanish without one knows why.
    fn canary_ttl(&self) -> Option<Duration> {
        self.lease_ttl.map(|ttl| ttl / 2)
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
    /// Held by the one `run` that is under way.
    running: AsyncMutex<()>,
}

impl SyncWriter {
    /// An empty desired set.
    pub fn new(config: WriterConfig) -> Self {
        let set = Mutex::new(DesiredSet::under(config.prefix.len()));
        Self {
            shared: Arc::new(Shared {
                config,
                set,
                wake: tokio::sync::Notify::new(),
                status: watch::Sender::default(),
                running: AsyncMutex::new(()),
            }),
        }
    }

    /// The store should hold `value` at prefix + `key`. Returns whether that is news.
    pub fn upsert(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> bool {
        self.tell(|set| set.upsert(key.into(), value.into()))
    }

    /// As [`Self::upsert`], and it is written also where the store holds just that: a sign of life, whose revision is
    /// news. Those that are told before the first is written are one write.
    pub fn rewrite(&self, key: &[u8], value: impl Into<Bytes>) {
        self.tell(|set| {
            set.rewrite(key, value.into());
            true
        });
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

    /// Many upserts, each with a number other than 0 by which the [`Witness`] hears of it, or 0.
    pub fn extend_marked(&self, wishes: impl IntoIterator<Item = (Bytes, Bytes, u64)>) -> bool {
        self.tell(|set| {
            let tell = |changed, (key, value, mark)| set.upsert_marked(key, value, mark) | changed;
            wishes.into_iter().fold(false, tell)
        })
    }

    /// Whether the store should hold prefix + `key`.
    pub fn wants(&self, key: &[u8]) -> bool {
        self.shared.set().wants(key)
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
            let idle = self.shared.set().is_flushed();
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
    /// for the first to end.
    ///
    /// It begins with a look at what the store holds under the prefix: what an earlier life (of this process or of
    /// another) has left there and is wanted as it is, is not written again; the leases that it hangs on are kept
    /// alive from then on.
    ///
    /// Failures are retried for ever with backoff. Stop it by the token; dropping the future abandons a call
    /// that may or may not have taken effect.
    ///
    /// # Errors
    /// See [`WriterError`].
    pub async fn run(&self, client: &dyn Client, stop: &CancellationToken) -> Result<(), WriterError> {
        let shared = &*self.shared;
        let _one_at_a_time = shared.running.lock().await;
        shared.set().all_lost();
        let mut run = Run::new(shared, client);
        match stop.run_until_cancelled(run.work()).await {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn tell(&self, wish: impl FnOnce(&mut DesiredSet) -> bool) -> bool {
        let (news, flushed) = {
            let mut set = self.shared.set();
            (wish(&mut set), set.is_flushed())
        };
        if news {
            self.shared.wake.notify_one();
        }
        if news && flushed {
            // A wish that is taken back leaves nothing to write, whose end would tell who waits.
            self.shared.publish(|_| {});
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreConfig};

    #[tokio::test]
    async fn what_others_change_is_reverted_also_just_before_a_write_of_another_key() {
        let store = Store::new(StoreConfig::default());
        let client = store.client();
        let writer = SyncWriter::new(WriterConfig { enforce: true, ..WriterConfig::new("p/") });
        writer.upsert("a", "1");
        writer.synced();
        let stop = CancellationToken::new();
        let others = async {
            writer.wait_synced().await;
            for n in 0..40 {
                // It is idle then.
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                // Both before it can look.
                let foreign = crate::mvcc::Put { key: "p/a".into(), value: "x".into(), ..Default::default() };
                store.put(&foreign).unwrap();
                writer.upsert("b", n.to_string());
                while store.get(b"p/a").unwrap().fields().value != b"1" {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            stop.cancel();
        };
        let both = async { tokio::join!(writer.run(&client, &stop), others) };
        let (ended, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("it is reverted");
        ended.unwrap();
        // Nothing of its own was taken for something of others: a and b once, and a again for each change.
        assert_eq!(writer.status().written, 1 + 40 + 40);
    }

    #[tokio::test]
    async fn whoever_waits_hears_that_a_wish_was_taken_back() {
        let store = Store::new(StoreConfig::default());
        let (client, writer) = (store.client(), SyncWriter::new(WriterConfig::new("p/")));
        writer.upsert("a", "1");
        let stop = CancellationToken::new();
        let written = async {
            writer.flushed().await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(writer.run(&client, &stop), written);
        ended.unwrap();
        // Nobody writes now.
        for (changed, back) in [(Some("2"), Some("1")), (None, Some("1"))] {
            let tell = |value: Option<&'static str>| match value {
                Some(value) => writer.upsert("a", value),
                None => writer.delete(b"a"),
            };
            assert!(tell(changed));
            let back = async { assert!(tell(back)) };
            let waiting = async { tokio::join!(biased; writer.flushed(), back) };
            tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it is told");
        }
    }
}
