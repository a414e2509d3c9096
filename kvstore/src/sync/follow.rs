//! List, then watch, then for ever: the shell around [`Mirror`].

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    backoff::Backoff,
    chain::Chain,
    mirror::{Change, Mirror},
};
use crate::{
    client::{Client, Revision, WatchError, WatchStream},
    range::KeyRange,
};

/// Most changes in one message to the consumer.
const BATCH: usize = 1024;
/// Failures in a row that are logged as ordinary; the next ones are warnings.
const QUIET_FAILURES: u32 = 9;

/// A prefix of a store and what is known of it, across connections.
///
/// Make one per prefix, keep it, and call [`Self::run`] for each connection. Memory: each known key once
/// (without its value) plus about 50 bytes.
#[derive(Debug)]
pub struct Follower {
    prefix: Bytes,
    mirror: Mirror,
    backoff: Backoff,
}

/// Why [`Follower::run`] ended other than by being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The client cannot succeed again (another store answers at its address): run with a new one.
    #[error("the client is spent")]
    ClientSpent(#[source] Arc<WatchError>),
    /// Nobody receives the changes any more.
    #[error("consumer of the changes is gone")]
    ConsumerGone,
}

/// Where a follower goes on after an interruption.
enum Next {
    List,
    Watch(Revision),
}

impl Follower {
    /// Follows every key that starts with `prefix`; write the trailing slash.
    pub fn new(prefix: impl Into<Bytes>) -> Self {
        Self { prefix: prefix.into(), mirror: Mirror::default(), backoff: Backoff::default() }
    }

    /// The same without remembering keys, for a consumer that does: every deletion that the store tells of is passed
    /// on, also of keys that were never told, and none is concluded from a list; see [`Change::ListDone`].
    pub fn forgetful(prefix: impl Into<Bytes>) -> Self {
        Self { mirror: Mirror::forgetful(), ..Self::new(prefix) }
    }

    /// With other delays between attempts.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// What is followed.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// How many keys are known.
    pub fn keys(&self) -> usize {
        self.mirror.len()
    }

    /// Lists and watches until `stop`, sending batches of changes to `out`; a full `out` makes it wait, and
    /// the store then bounds what it keeps for us.
    ///
    /// After a broken watch it resumes at the revision where it was; if the store does not have that any
    /// more, or refuses, it lists again and sends the difference. Failures are retried for ever with backoff.
    /// The token, or dropping the future, acts between batches: what is known has been sent, what has not been sent is not
    /// known, so another `run` tells it.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub async fn run(
        &mut self,
        client: &dyn Client,
        out: &mpsc::Sender<Vec<Change>>,
        stop: &CancellationToken,
    ) -> Result<(), FollowError> {
        let worked = stop.run_until_cancelled(self.follow(client, out)).await;
        match worked {
            None => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(never)) => match never {},
        }
    }

    async fn follow(
        &mut self,
        client: &dyn Client,
        out: &mpsc::Sender<Vec<Change>>,
    ) -> Result<std::convert::Infallible, FollowError> {
        let mut next = Next::List;
        let mut failures = 0;
        let mut resuming = false;
        loop {
            let (error, then) = match next {
                Next::List => match self.list(client, out).await? {
                    Ok(revision) => {
                        (failures, resuming, next) = (0, false, Next::Watch(revision));
                        continue;
                    }
                    Err(error) => (error, Next::List),
                },
                Next::Watch(after) => {
                    match client.watch(KeyRange::prefix(self.prefix.clone()), after.next()).await {
                        Ok(mut stream) => {
                            if std::mem::take(&mut resuming) {
                                send(out, vec![Change::Resumed { revision: after }]).await?;
                            }
                            let mut seen = after;
                            let opened = Instant::now();
                            let error = self.drive(&mut stream, &mut seen, out).await?;
                            // One that lived is no failure in a row, though nothing happened on it.
                            if seen > after || opened.elapsed() > self.backoff.cap {
                                failures = 0;
                            }
                            let then = after_error(&error, seen);
                            (error, then)
                        }
                        Err(error) => {
                            let then = after_error(&error, after);
                            (error, then)
                        }
                    }
                }
            };
            next = then;
            resuming = matches!(next, Next::Watch(_));
            failures = self.lost(client, error, failures, out).await?;
        }
    }

    /// Tells the consumer, then waits; returns the number of failures in a row.
    async fn lost(
        &self,
        client: &dyn Client,
        error: WatchError,
        failures: u32,
        out: &mpsc::Sender<Vec<Change>>,
    ) -> Result<u32, FollowError> {
        let failures = failures.saturating_add(1);
        let error = Arc::new(error);
        let prefix = self.prefix.escape_ascii();
        if failures > QUIET_FAILURES {
            warn!(%prefix, failures, error = %Chain(&*error), "still no contact with the store");
        } else {
            info!(%prefix, failures, error = %Chain(&*error), "lost contact with the store");
        }
        send(out, vec![Change::Lost { error: Arc::clone(&error) }]).await?;
        if client.is_spent() {
            return Err(FollowError::ClientSpent(error));
        }
        tokio::time::sleep(self.backoff.delay(failures, rand::random())).await;
        Ok(failures)
    }

    /// One complete list; `Ok(Err)` is a failure of the store.
    async fn list(
        &mut self,
        client: &dyn Client,
        out: &mpsc::Sender<Vec<Change>>,
    ) -> Result<Result<Revision, WatchError>, FollowError> {
        let page_size = client.limits().page.unwrap_or(0);
        let mut range = KeyRange::prefix(self.prefix.clone());
        let mut at = None;
        self.mirror.begin_list();
        let revision = loop {
            let page = match client.list(&range, page_size, at).await {
                Ok(page) => page,
                Err(error) => return Ok(Err(error.into())),
            };
            let last = page.kvs.last().map(|kv| kv.key.clone());
            let mut changes = page.kvs.into_iter().map(|kv| self.mirror.listed(self.prefix.len(), kv));
            while changes.len() > 0 {
                let room = room(out).await?;
                room.send(changes.by_ref().take(BATCH).collect());
            }
            let revision = *at.get_or_insert(page.revision);
            match last {
                Some(key) if page.more => range = range.after(&key),
                Some(_) | None => break revision,
            }
        };
        let room = room(out).await?;
        let mut rest = self.mirror.end_list();
        let keys = self.mirror.len();
        debug!(prefix = %self.prefix.escape_ascii(), keys, stale = rest.len(), %revision, "list done");
        rest.push(Change::ListDone { keys, revision });
        room.send(rest);
        Ok(Ok(revision))
    }

    /// Feeds the watch to the consumer until it breaks; `seen` is how far it came.
    async fn drive(
        &mut self,
        stream: &mut WatchStream,
        seen: &mut Revision,
        out: &mpsc::Sender<Vec<Change>>,
    ) -> Result<WatchError, FollowError> {
        while let Some(batch) = stream.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Ok(error),
            };
            let room = room(out).await?;
            let changes: Vec<Change> = batch
                .events
                .into_iter()
                .filter_map(|event| self.mirror.apply(self.prefix.len(), event))
                .collect();
            if !changes.is_empty() {
                room.send(changes);
            }
            *seen = batch.revision.max(*seen);
        }
        Ok(WatchError::Closed)
    }
}

/// Resume where the stream merely broke; list again where the store said why.
fn after_error(error: &WatchError, seen: Revision) -> Next {
    use crate::client::Error;
    match error {
        WatchError::Closed
        | WatchError::TooSlow
        | WatchError::Store(Error::Unavailable(_) | Error::Transport(_) | Error::Credentials(_)) => {
            Next::Watch(seen)
        }
        WatchError::Compacted { .. } | WatchError::Cancelled { .. } | WatchError::Store(_) => Next::List,
    }
}

/// Room for one batch. Asked for before the mirror learns what is in it: who is stopped while waiting has then told all that
/// the mirror knows.
async fn room(out: &mpsc::Sender<Vec<Change>>) -> Result<mpsc::Permit<'_, Vec<Change>>, FollowError> {
    out.reserve().await.map_err(|_gone| FollowError::ConsumerGone)
}

async fn send(out: &mpsc::Sender<Vec<Change>>, batch: Vec<Change>) -> Result<(), FollowError> {
    out.send(batch).await.map_err(|_gone| FollowError::ConsumerGone)
}
