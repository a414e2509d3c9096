//! The client of a store in the same process: no gRPC, no encoding, no copies of what is read.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    client::{
        Client, Error, Event, Expect, Guard, Guarded, KeyValue, LeaseId, Limits, Page, Revision, StoreStatus,
        WatchBatch, WatchError, WatchStream, Write,
    },
    hub::Signal,
    mvcc::{
        Committed, Compare, CompareResult, CompareTarget, Op, OpResult, Put, Range, Record, Refusal,
        Transaction,
    },
    range::KeyRange,
    store::Store,
};

/// What etcd's version the store's answers are those of.
pub(crate) const ETCD_VERSION: &str = "3.7.0";
/// The same as the version of a cluster.
pub(crate) const CLUSTER_VERSION: &str = "3.7";

/// A client of an embedded [`Store`].
#[derive(Clone, Debug)]
pub struct EmbeddedClient {
    store: Arc<Store>,
}

impl EmbeddedClient {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// See [`Store::settled`].
    async fn settled(&self) -> Result<(), Error> {
        settled(&self.store).await
    }

    async fn write_all(&self, batch: &[Write], kept: impl FnMut(&Record)) -> Result<Revision, Error> {
        self.has_room()?;
        let revision = Revision(self.store.write_batch(batch, kept)?);
        self.settled().await?;
        Ok(revision)
    }

    fn has_room(&self) -> Result<(), Error> {
        if self.store.disk_is_full() { Err(Error::NoSpace) } else { Ok(()) }
    }
}

async fn settled(store: &Store) -> Result<(), Error> {
    store.settled().await.map_err(|failed| Error::Unavailable(tonic::Status::unavailable(failed.to_string())))
}

#[async_trait]
impl Client for EmbeddedClient {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        let found = self.store.get(key);
        self.settled().await?;
        Ok(found.as_ref().map(Record::to_key_value))
    }

    async fn list(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<Page, Error> {
        let revision = at.map_or(0, |at| at.0);
        let ask = Range { limit, revision, ..Range::of(range.clone()) };
        let found = self.store.range(&ask).await?;
        self.settled().await?;
        Ok(Page {
            kvs: found.records.iter().map(Record::to_key_value).collect(),
            revision: at.unwrap_or(Revision(found.revision)),
            more: found.more,
        })
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, WatchError> {
        let signal = Arc::new(Signal::default());
        let watcher = self.store.watch(&range, from.0, 0, &signal);
        let oldest = self.store.look(crate::mvcc::Keyspace::compacted);
        if watcher.next() < oldest {
            return Err(WatchError::Compacted { from: Revision(watcher.next()), oldest: Revision(oldest) });
        }
        let store = Arc::clone(&self.store);
        let state = (store, watcher, signal, false);
        Ok(futures::stream::unfold(state, |(store, mut watcher, signal, ended)| async move {
            if ended {
                return None;
            }
            let mut again = false;
            loop {
                if !again {
                    signal.ready().await;
                }
                let looked = watcher.look(&store);
                match looked {
                    Ok(look) if look.batches.is_empty() => {
                        again = look.again;
                        if again {
                            // The log may be long, and others are served by this thread too.
                            tokio::task::yield_now().await;
                        }
                    }
                    Ok(look) => {
                        if look.again {
                            signal.name_again();
                        }
                        if let Err(failed) = settled(&store).await {
                            return Some((Err(WatchError::Store(failed)), (store, watcher, signal, true)));
                        }
                        let events = look.batches.iter().flat_map(|batch| batch.events.iter().map(to_event));
                        let batch = WatchBatch { revision: Revision(look.through), events: events.collect() };
                        return Some((Ok(batch), (store, watcher, signal, false)));
                    }
                    Err(refusal) => {
                        let error = to_watch_error(refusal, watcher.next());
                        return Some((Err(error), (store, watcher, signal, true)));
                    }
                }
            }
        })
        .boxed())
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Revision, Error> {
        self.write_all(&batch, |_| ()).await
    }

    async fn write_kept(&self, batch: Vec<Write>) -> Result<(Revision, Vec<Record>), Error> {
        let puts = batch.iter().filter(|write| matches!(write, Write::Put { .. })).count();
        let mut records = Vec::with_capacity(puts);
        let revision = self.write_all(&batch, |record| records.push(record.clone())).await?;
        Ok((revision, records))
    }

    async fn write_if(&self, guards: Vec<Guard>, batch: Vec<Write>) -> Result<Guarded, Error> {
        let txn = guarded(&guards, batch);
        self.has_room()?;
        let (result, revision) = self.store.transact(&txn)?;
        self.settled().await?;
        let revision = Revision(revision);
        if result.succeeded {
            return Ok(Guarded::Done(revision));
        }
        let current = result.results.into_iter().map(|result| match result {
            OpResult::Range(found) => found.records.first().map(Record::to_key_value),
            OpResult::Put { .. } | OpResult::Delete { .. } | OpResult::Txn(_) => None,
        });
        Ok(Guarded::Refused { current: current.collect(), revision })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.has_room()?;
        let lease = LeaseId(self.store.grant(0, whole_seconds(ttl))?);
        self.settled().await?;
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let seconds = self.store.keep_alive(lease.0)?;
        Ok(Duration::from_secs(seconds.unsigned_abs()))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke(lease.0)?;
        self.settled().await
    }

    async fn status(&self) -> Result<StoreStatus, Error> {
        let (revision, bytes) = self.store.look(|keyspace| (keyspace.revision(), keyspace.bytes()));
        Ok(StoreStatus {
            cluster_id: self.store.config().cluster_id,
            member_id: self.store.config().member_id,
            revision: Revision(revision),
            version: ETCD_VERSION.to_owned(),
            db_size_bytes: bytes as i64,
            errors: Vec::new(),
        })
    }

    fn limits(&self) -> Limits {
        Limits { batch_operations: 4096, batch_bytes: 4 << 20, keys_per_lease: None, page: None }
    }
}

/// The transaction that a guarded write is: the guards as comparisons; if they fail, reads of their keys.
pub(crate) fn guarded(guards: &[Guard], batch: Vec<Write>) -> Transaction {
    let compare = |guard: &Guard| {
        let (target, result) = match &guard.expect {
            Expect::Absent => (CompareTarget::Version(0), CompareResult::Equal),
            Expect::Value(value) => (CompareTarget::Value(value.clone()), CompareResult::Equal),
            Expect::CreatedAt(revision) => (CompareTarget::Create(revision.0), CompareResult::Equal),
            Expect::ModifiedAt(revision) => (CompareTarget::Mod(revision.0), CompareResult::Equal),
        };
        Compare { range: KeyRange::key(guard.key.clone()), target, result }
    };
    Transaction {
        compare: guards.iter().map(compare).collect(),
        success: batch.into_iter().map(to_op).collect(),
        failure: guards.iter().map(|guard| Op::Range(Range::of(KeyRange::key(guard.key.clone())))).collect(),
    }
}

/// Leases count in seconds; one never gets less than was asked for.
pub(crate) fn whole_seconds(ttl: Duration) -> i64 {
    let rounded_up = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(rounded_up).unwrap_or(i64::MAX)
}

fn to_op(write: Write) -> Op {
    match write {
        Write::Put { key, value, lease } => Op::Put(Put { key, value, lease: lease.0, ..Put::default() }),
        Write::Delete { key } => Op::Delete(KeyRange::key(key)),
        Write::DeleteRange { range } => Op::Delete(range),
    }
}

fn to_event(event: &Committed) -> Event {
    if event.record.is_tombstone() {
        let key = Bytes::copy_from_slice(event.record.key());
        Event::Delete { key, mod_revision: Revision(event.record.mod_revision()) }
    } else {
        Event::Put(event.record.to_key_value())
    }
}

fn to_watch_error(refusal: Refusal, from: i64) -> WatchError {
    match refusal {
        Refusal::Compacted { oldest, .. } => {
            WatchError::Compacted { from: Revision(from), oldest: Revision(oldest) }
        }
        Refusal::Future { .. }
        | Refusal::LeaseNotFound { .. }
        | Refusal::LeaseExists
        | Refusal::EmptyKey
        | Refusal::KeyNotFound
        | Refusal::CompactedAlready => WatchError::Store(refusal.into()),
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Compacted { asked, .. } => Self::Compacted { asked: Revision(asked) },
            Refusal::Future { asked } => Self::FutureRevision { asked: Revision(asked) },
            Refusal::LeaseNotFound { lease } => Self::LeaseNotFound(LeaseId(lease)),
            Refusal::EmptyKey | Refusal::LeaseExists | Refusal::KeyNotFound | Refusal::CompactedAlready => {
                Self::Invalid(tonic::Status::failed_precondition(refusal.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::StoreConfig;

    #[tokio::test]
    async fn a_watch_of_the_past_gives_way_between_its_steps_through_the_log() {
        let client = Store::new(StoreConfig::default()).client();
        let put = |key: String| Write::Put { key: key.into(), value: "v".into(), lease: LeaseId::NONE };
        for round in 0..5 {
            let other = (0..10_000).map(|n| put(format!("other/{round}/{n}"))).collect();
            client.write(other).await.unwrap();
        }
        let last = client.write(vec![put("mine".to_owned())]).await.unwrap();
        let mut watch = client.watch(KeyRange::key("mine"), Revision(2)).await.unwrap();
        let mut turns = 0;
        let batch = loop {
            if let Some(batch) = watch.next().now_or_never() {
                break batch.unwrap().unwrap();
            }
            turns += 1;
            assert!(turns < 1000, "it comes to the end");
        };
        assert_eq!((batch.revision, batch.events.len()), (last, 1));
        assert!(turns >= 4, "{turns} turns for 50,000 changes");
    }
}
