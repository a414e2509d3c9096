//! Transactions that only read, as of one revision and without the lock: as long as they like.

use std::sync::atomic::Ordering;

use futures::{FutureExt, future::BoxFuture};

use super::{
    KeyspaceGuard, Store,
    reads::{Reading, SHORT, arrange},
};
use crate::mvcc::{Compare, Op, OpResult, Range, RangeResult, Refusal, Transaction, TxnResult};

/// One revision, which is kept from being forgotten meanwhile.
struct Snapshot<'a> {
    store: &'a Store,
    at: i64,
}

impl Store {
    /// A transaction. One that only reads, and may read much, is read in chunks, so that writers wait for none of it for
    /// long; one that writes is done whole under the lock, with what it reads and compares.
    pub(crate) async fn transact_in_turns(&self, txn: &Transaction) -> Result<(TxnResult, i64), Refusal> {
        if !txn.only_reads() || txn.most_keys() <= SHORT {
            return self.transact(txn);
        }
        let snapshot = Snapshot::take(self);
        let result = snapshot.carry_out(txn).await?;
        self.lock().count_txn(&result);
        Ok((result, snapshot.at))
    }
}

impl<'a> Snapshot<'a> {
    fn take(store: &'a Store) -> Self {
        let mut keyspace = store.lock();
        let at = keyspace.revision();
        keyspace.pin(at);
        Self { store, at }
    }

    fn carry_out<'b>(&'b self, txn: &'b Transaction) -> BoxFuture<'b, Result<TxnResult, Refusal>> {
        async move {
            let mut succeeded = true;
            for compare in &txn.compare {
                succeeded = succeeded && self.holds(compare).await;
            }
            let mut results = Vec::new();
            for op in txn.branch(succeeded) {
                match op {
                    Op::Range(ask) => results.push(OpResult::Range(self.range(ask).await?)),
                    Op::Txn(nested) => results.push(OpResult::Txn(self.carry_out(nested).await?)),
                    Op::Put(_) | Op::Delete(_) => unreachable!("it only reads"),
                }
            }
            Ok(TxnResult { succeeded, results })
        }
        .boxed()
    }

    async fn holds(&self, compare: &Compare) -> bool {
        let mut reading = {
            let mut keyspace = self.store.lock();
            let count = keyspace.count_at(&compare.range, self.at);
            Reading::begin(self.store, &mut keyspace, compare.range.clone(), self.at, count)
        };
        let mut found = false;
        loop {
            let more = reading.step();
            for record in reading.take() {
                found = true;
                if !compare.holds(&record.fields()) {
                    return false;
                }
            }
            if !more {
                return found || compare.holds_for_nothing();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn range(&self, ask: &Range) -> Result<RangeResult, Refusal> {
        self.store.ranges.fetch_add(1, Ordering::Relaxed);
        let (count, reading) = {
            let mut keyspace = self.store.lock();
            keyspace.check_revision(ask.revision, self.at)?;
            let at = if ask.revision <= 0 { self.at } else { ask.revision };
            let count = keyspace.count_at(&ask.range, at);
            if ask.count_only {
                return Ok(RangeResult { count, revision: self.at, ..RangeResult::default() });
            }
            let most = count.min(ask.cut());
            (count, Reading::begin(self.store, &mut keyspace, ask.range.clone(), at, most))
        };
        Ok(arrange(ask, reading.all().await, count, self.at).await)
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let mut keyspace = self.store.lock();
        keyspace.unpin(self.at);
        KeyspaceGuard::unlock_fair(keyspace);
    }
}
