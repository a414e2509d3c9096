//! A lock on a store, as etcd's `concurrency` package has it, so that its users and ours exclude each other.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;
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
}

/// Somebody else holds the lock that we held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lock was lost to someone else")]
pub struct LockLost;

impl<'a> Lock<'a> {
    /// A candidate that has not asked yet. `prefix` ends with a slash; `ttl` is how long the key of one that vanished
    /// stays.
    pub fn new(client: &'a dyn Client, prefix: impl Into<Bytes>, ttl: Duration) -> Self {
        Self { client, prefix: prefix.into(), ttl, lease: None }
    }

    /// Waits until it holds the lock. `waits` is called whenever it turns out that somebody else does.
    ///
    /// # Errors
    /// Those of the store. It may be called again, and has kept its place if the store has.
    pub async fn acquire(&mut self, mut waits: impl FnMut()) -> Result<(), Error> {
        loop {
            let lease = self.enter().await?;
            let (first, at) = self.first().await?;
            match first {
                Some(holder) if holder == lease => return Ok(()),
                Some(_) => {
                    waits();
                    self.until_one_leaves(lease, at).await?;
                }
                None => self.lease = None,
            }
        }
    }

    /// Keeps the lock until it is lost. A store that does not answer takes nothing away; one that has forgotten us is asked
    /// again, and only if somebody else was faster the lock is lost.
    pub async fn hold(&mut self) -> LockLost {
        let mut wait = self.beat();
        loop {
            tokio::time::sleep(wait).await;
            match self.still_holds().await {
                Ok(true) => wait = self.beat(),
                Ok(false) => return LockLost,
                Err(error) => {
                    debug!(error = %Chain(&error), "the store does not answer who holds the lock");
                    wait = RETRY.min(self.beat());
                }
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

    /// Its own key, made if it is not there.
    async fn enter(&mut self) -> Result<LeaseId, Error> {
        if let Some(lease) = self.lease
            && self.renew(lease).await?
        {
            return Ok(lease);
        }
        let lease = self.client.grant(self.ttl).await?;
        self.client.write(vec![Write::Put { key: self.key(lease), value: Bytes::new(), lease }]).await?;
        self.lease = Some(lease);
        Ok(lease)
    }

    /// Keeps the lease; `false` if the store knows it no more.
    async fn renew(&self, lease: LeaseId) -> Result<bool, Error> {
        match self.client.keep_alive(lease).await {
            Ok(_) => Ok(true),
            Err(Error::LeaseNotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn still_holds(&mut self) -> Result<bool, Error> {
        let lease = self.enter().await?;
        Ok(self.first().await?.0 == Some(lease))
    }

    /// The lease of whoever holds the lock, and as of when.
    async fn first(&self) -> Result<(Option<LeaseId>, Revision), Error> {
        let page = self.client.list(&KeyRange::prefix(self.prefix.clone()), 0, None).await?;
        let oldest = page.kvs.iter().min_by_key(|kv| kv.create_revision);
        Ok((oldest.map(|kv| kv.lease), page.revision))
    }

    /// Waits until any candidate leaves, or the watch does; keeps its own place meanwhile.
    async fn until_one_leaves(&self, lease: LeaseId, at: Revision) -> Result<(), Error> {
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
                    if !self.renew(lease).await? {
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
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

    #[tokio::test]
    async fn a_holder_that_the_store_forgot_takes_the_lock_again_if_nobody_was_faster() {
        let client = client();
        let ttl = Duration::from_secs(1);
        let mut one = Lock::new(&client, "lock/", ttl);
        one.acquire(|| ()).await.unwrap();
        client.revoke(one.lease.unwrap()).await.unwrap();
        assert!(one.still_holds().await.unwrap(), "nobody else is there");

        client.revoke(one.lease.unwrap()).await.unwrap();
        let mut two = Lock::new(&client, "lock/", ttl);
        two.acquire(|| panic!("the other's key is gone")).await.unwrap();
        assert_eq!(one.hold().await, LockLost);
    }
}
