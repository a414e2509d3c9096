//! A lock on a store, as etcd's `concurrency` package has it, so that its users and ours exclude each other.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::chain::Chain;
use crate::{
    client::{Client, Error, Event, LeaseId, Revision, WatchError, Write},
    range::KeyRange,
};

/// Between attempts to hear from a store that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// One candidate for the lock of a prefix.
///
/// Each candidate has the key `<prefix><its lease in hexadecimal>`; the oldest of them holds the lock. Whoever ends without
/// a word loses its key when its lease ends.
#[derive(Debug)]
pub struct Lock<'a> {
    client: &'a dyn Client,
    prefix: Bytes,
    ttl: Duration,
    lease: Option<LeaseId>,
    /// The lease with whose key it was last seen to hold the lock.
    held: Option<LeaseId>,
    /// When the store was asked for the lease `held`, or to keep it, and did: it lasts for `ttl` from then on at least.
    kept: Instant,
}

/// Why a lock is not held any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockLost {
    /// Somebody else holds it.
    #[error("the lock was lost to someone else")]
    Taken,
    /// The store did not answer for so long that somebody else may hold it soon.
    #[error("the store did not keep the lock for {0:?}, so that someone else may soon have it")]
    Unheard(Duration),
}

impl<'a> Lock<'a> {
    /// A candidate that has not asked yet. `prefix` ends with a slash; `ttl` is how long the key of one that vanished
    /// stays.
    pub fn new(client: &'a dyn Client, prefix: impl Into<Bytes>, ttl: Duration) -> Self {
        Self { client, prefix: prefix.into(), ttl, lease: None, held: None, kept: Instant::now() }
    }

    /// Waits until it holds the lock. `waits` is called whenever it turns out that somebody else does.
    ///
    /// # Errors
    /// Those of the store. It may be called again, and has kept its place if the store has.
    pub async fn acquire(&mut self, mut waits: impl FnMut()) -> Result<(), Error> {
        loop {
            let (lease, asked) = self.enter().await?;
            let (first, at) = self.first().await?;
            match first {
                Some(holder) if holder == lease => {
                    self.holds(lease, asked);
                    return Ok(());
                }
                Some(_) => {
                    waits();
                    self.until_one_leaves(lease, at).await?;
                }
                None => self.lease = None,
            }
        }
    }

    /// Keeps the lock until it is lost. A store that has forgotten us is asked again, and only if somebody else was faster
    /// the lock is lost. One that does not answer takes it away after two thirds of the time for which it keeps the key, so
    /// that a third is left to stop what may only be done with the lock before somebody else can have it.
    pub async fn hold(&mut self) -> LockLost {
        let mut next = self.kept + self.beat();
        loop {
            tokio::time::sleep_until(next).await;
            let patience = self.ttl - self.beat();
            let until = self.kept + patience;
            match timeout_at(until, self.still_holds()).await {
                Ok(Ok(true)) => next = self.kept + self.beat(),
                Ok(Ok(false)) => return LockLost::Taken,
                Ok(Err(error)) => {
                    debug!(error = %Chain(&error), "the store does not answer who holds the lock");
                    let (now, until) = (Instant::now(), self.kept + patience);
                    if until <= now {
                        return LockLost::Unheard(self.kept.elapsed());
                    }
                    next = until.min(now + RETRY);
                }
                Err(_elapsed) => return LockLost::Unheard(self.kept.elapsed()),
            }
        }
    }

    /// Leaves, whether it holds the lock or waits for it.
    ///
    /// # Errors
    /// Those of the store; the key goes with its lease then.
    pub async fn release(mut self) -> Result<(), Error> {
        match self.lease.take() {
            Some(lease) => match self.client.revoke(lease).await {
                Err(Error::LeaseNotFound(_)) | Ok(()) => Ok(()),
                Err(error) => Err(error),
            },
            None => Ok(()),
        }
    }

    fn beat(&self) -> Duration {
        self.ttl / 3
    }

    fn key(&self, lease: LeaseId) -> Bytes {
        [&self.prefix[..], format!("{:x}", lease.0).as_bytes()].concat().into()
    }

    /// The lease of its own key, made if it is not there, and when the store was asked for it.
    async fn enter(&mut self) -> Result<(LeaseId, Instant), Error> {
        if let Some(lease) = self.lease
            && let Some(asked) = self.renew(lease).await?
        {
            return Ok((lease, asked));
        }
        let asked = Instant::now();
        let lease = self.client.grant(self.ttl).await?;
        self.client.write(vec![Write::Put { key: self.key(lease), value: Bytes::new(), lease }]).await?;
        self.lease = Some(lease);
        Ok((lease, asked))
    }

    /// Keeps the lease and says when the store was asked to; `None` if it knows it no more.
    async fn renew(&mut self, lease: LeaseId) -> Result<Option<Instant>, Error> {
        let asked = Instant::now();
        match self.client.keep_alive(lease).await {
            Ok(_) => {
                if self.held == Some(lease) {
                    self.kept = asked;
                }
                Ok(Some(asked))
            }
            Err(Error::LeaseNotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn still_holds(&mut self) -> Result<bool, Error> {
        let (lease, asked) = self.enter().await?;
        let holds = self.first().await?.0 == Some(lease);
        if holds {
            self.holds(lease, asked);
        }
        Ok(holds)
    }

    /// Notes that the key with this lease is the oldest, and stays that as long as it lasts.
    fn holds(&mut self, lease: LeaseId, asked: Instant) {
        (self.held, self.kept) = (Some(lease), asked);
    }

    /// The lease of whoever holds the lock, and as of when.
    async fn first(&self) -> Result<(Option<LeaseId>, Revision), Error> {
        let page = self.client.list(&KeyRange::prefix(self.prefix.clone()), 0, None).await?;
        let oldest = page.kvs.iter().min_by_key(|kv| kv.create_revision);
        Ok((oldest.map(|kv| kv.lease), page.revision))
    }

    /// Waits until any candidate leaves, or the watch does; keeps its own place meanwhile.
    async fn until_one_leaves(&mut self, lease: LeaseId, at: Revision) -> Result<(), Error> {
        let range = KeyRange::prefix(self.prefix.clone());
        let watch = match self.client.watch(range, at.next()).await {
            Ok(watch) => watch,
            Err(WatchError::Store(error)) => return Err(error),
            // A list tells what a watch cannot.
            Err(_) => return Ok(()),
        };
        let mut watch = pin!(watch);
        let mut beat = Instant::now() + self.beat();
        loop {
            tokio::select! {
                batch = watch.next() => match batch {
                    Some(Ok(batch)) if !batch.events.iter().any(|event| matches!(event, Event::Delete { .. })) => {}
                    Some(Ok(_)) => return Ok(()),
                    Some(Err(WatchError::Store(error))) => return Err(error),
                    Some(Err(_)) | None => return Ok(()),
                },
                () = tokio::time::sleep_until(beat) => {
                    if self.renew(lease).await?.is_none() {
                        return Ok(());
                    }
                    beat = Instant::now() + self.beat();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use async_trait::async_trait;

    use super::*;
    use crate::{
        client::{Guard, Guarded, KeyValue, Limits, Page, StoreStatus, WatchStream},
        embedded::EmbeddedClient,
        store::{Store, StoreConfig},
    };

    const TTL: Duration = Duration::from_secs(9);

    fn client() -> EmbeddedClient {
        Store::new(StoreConfig::default()).client()
    }

    async fn keys(client: &EmbeddedClient) -> Vec<String> {
        let page = client.list(&KeyRange::all(), 0, None).await.unwrap();
        page.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_key_holds_the_lock_and_the_next_follows_when_it_leaves() {
        let client = client();
        let (mut one, mut two) = (Lock::new(&client, "lock/", TTL), Lock::new(&client, "lock/", TTL));
        one.acquire(|| panic!("nobody is there")).await.unwrap();
        let lease = one.lease.unwrap();
        assert_eq!(keys(&client).await, [format!("lock/{:x}", lease.0)]);
        let waited = AtomicUsize::new(0);
        {
            let second = two.acquire(|| {
                waited.fetch_add(1, Ordering::SeqCst);
            });
            let mut second = pin!(second);
            // Longer than its lease would last by itself.
            tokio::select! {
                done = &mut second => panic!("the lock is taken: {done:?}"),
                lost = one.hold() => panic!("{lost}"),
                () = tokio::time::sleep(TTL * 4) => {}
            }
            assert!(waited.load(Ordering::SeqCst) > 0);
            one.release().await.unwrap();
            second.await.unwrap();
        }
        assert_eq!(keys(&client).await.len(), 1);
        two.release().await.unwrap();
        assert!(keys(&client).await.is_empty());
    }

    /// How a store that can be broken answers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Mood {
        Answers,
        Refuses,
        IsSilent,
        /// It keeps leases and tells nothing.
        KeepsOnly,
        /// It takes whatever it is given, and lists nothing.
        ListsNothing,
    }

    #[derive(Debug)]
    struct Moody {
        store: EmbeddedClient,
        mood: Mutex<Mood>,
    }

    impl Moody {
        async fn ask(&self, is_keeping: bool) -> Result<&EmbeddedClient, Error> {
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::Answers | Mood::ListsNothing => Ok(&self.store),
                Mood::KeepsOnly if is_keeping => Ok(&self.store),
                Mood::Refuses | Mood::KeepsOnly => {
                    Err(Error::Unavailable(tonic::Status::unavailable("as the test wants")))
                }
                Mood::IsSilent => std::future::pending().await,
            }
        }
    }

    #[async_trait]
    impl Client for Moody {
        async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
            self.ask(false).await?.get(key).await
        }
        async fn list(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<Page, Error> {
            if *self.mood.lock().unwrap() == Mood::ListsNothing {
                return Err(Error::Unavailable(tonic::Status::unavailable("as the test wants")));
            }
            self.ask(false).await?.list(range, limit, at).await
        }
        async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, WatchError> {
            self.ask(false).await.map_err(WatchError::Store)?.watch(range, from).await
        }
        async fn write(&self, batch: Vec<Write>) -> Result<Revision, Error> {
            self.ask(false).await?.write(batch).await
        }
        async fn write_if(&self, guards: Vec<Guard>, batch: Vec<Write>) -> Result<Guarded, Error> {
            self.ask(false).await?.write_if(guards, batch).await
        }
        async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
            self.ask(true).await?.grant(ttl).await
        }
        async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
            self.ask(true).await?.keep_alive(lease).await
        }
        async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
            self.ask(false).await?.revoke(lease).await
        }
        async fn status(&self) -> Result<StoreStatus, Error> {
            self.ask(false).await?.status().await
        }
        fn limits(&self) -> Limits {
            self.store.limits()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_the_store_does_not_keep_is_given_up_before_someone_else_can_have_it() {
        for mood in [Mood::Refuses, Mood::IsSilent] {
            let client = Moody { store: client(), mood: Mutex::new(Mood::Answers) };
            let mut lock = Lock::new(&client, "lock/", TTL);
            lock.acquire(|| panic!("nobody is there")).await.unwrap();
            let lease = lock.lease;
            for good in [Mood::Answers, Mood::KeepsOnly] {
                *client.mood.lock().unwrap() = good;
                let held = tokio::time::timeout(TTL * 4, lock.hold()).await;
                assert!(held.is_err(), "{good:?}: {held:?}");
            }
            // A short silence costs nothing.
            *client.mood.lock().unwrap() = mood;
            let held = tokio::time::timeout(TTL / 3, lock.hold()).await;
            assert!(held.is_err(), "{mood:?}: {held:?}");
            *client.mood.lock().unwrap() = Mood::Answers;
            assert!(lock.still_holds().await.unwrap() && lock.lease == lease);

            let kept = lock.kept;
            *client.mood.lock().unwrap() = mood;
            let LockLost::Unheard(silence) = lock.hold().await else { panic!("nobody else is there") };
            assert_eq!(silence, kept.elapsed(), "{mood:?}");
            assert!(silence <= TTL * 2 / 3 + Duration::from_millis(2), "{mood:?}: {silence:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_new_is_not_the_lock_as_long_as_the_store_does_not_say_so() {
        for mood in [Mood::ListsNothing, Mood::KeepsOnly] {
            let client = Moody { store: client(), mood: Mutex::new(Mood::Answers) };
            let mut one = Lock::new(&client, "lock/", TTL);
            one.acquire(|| panic!("nobody is there")).await.unwrap();
            client.revoke(one.lease.unwrap()).await.unwrap();
            let mut two = Lock::new(&client, "lock/", TTL);
            two.acquire(|| panic!("the other's key is gone")).await.unwrap();
            *client.mood.lock().unwrap() = mood;
            let kept = one.kept;
            let lost = tokio::time::timeout(TTL * 4, one.hold()).await;
            assert!(matches!(lost, Ok(LockLost::Unheard(_))), "{mood:?}: {lost:?}");
            assert!(kept.elapsed() <= TTL * 2 / 3 + Duration::from_millis(2), "{mood:?}: {lost:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_the_store_forgot_takes_the_lock_again_if_nobody_was_faster() {
        let client = client();
        let mut one = Lock::new(&client, "lock/", TTL);
        one.acquire(|| ()).await.unwrap();
        client.revoke(one.lease.unwrap()).await.unwrap();
        assert!(one.still_holds().await.unwrap(), "nobody else is there");

        client.revoke(one.lease.unwrap()).await.unwrap();
        let mut two = Lock::new(&client, "lock/", TTL);
        two.acquire(|| panic!("the other's key is gone")).await.unwrap();
        assert_eq!(one.hold().await, LockLost::Taken);
    }
}
