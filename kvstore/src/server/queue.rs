//! Waiting in line: what locks and elections are made of.
//!
//! Who wants its turn puts a key under a common prefix, on a lease; the line is the keys in the order in which
//! they came into being, and the first has its turn. Source: etcd `client/v3/concurrency`.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;

use super::{
    Shared,
    route::{Call, Caller},
};
use crate::{
    auth::Access,
    hub::Signal,
    mvcc::{
        Compare, CompareResult, CompareTarget, Filters, Op, OpResult, Order, Put, Range, Record, SortTarget,
        Transaction,
    },
    range::KeyRange,
};

/// Time to live of a lease that is granted to a caller without one, as in etcd.
const TTL_SECONDS: i64 = 60;

/// A place in a line. Dropping it before [`Self::keep`] gives it up.
pub(crate) struct Place {
    shared: Arc<Shared>,
    prefix: Bytes,
    pub(crate) key: Bytes,
    pub(crate) created: i64,
    pub(crate) lease: i64,
    /// Revision of the store when it was taken.
    pub(crate) revision: i64,
    kept: bool,
}

/// The prefix under which the line of `name` stands.
pub(crate) fn prefix(name: &[u8]) -> Bytes {
    let mut prefix = name.to_vec();
    prefix.push(b'/');
    prefix.into()
}

/// The first in line.
pub(crate) async fn first(shared: &Shared, prefix: &Bytes) -> Result<Option<Record>, Status> {
    let ask = Range {
        sort: Some((SortTarget::Create, Order::Ascending)),
        limit: 1,
        ..Range::of(KeyRange::prefix(prefix.clone()))
    };
    Ok(shared.store.range(&ask).await?.records.into_iter().next())
}

/// A transaction that depends on a key having come into being at a revision (0: not being there).
pub(crate) fn if_created_at(key: &Bytes, created: i64, success: Op, failure: Vec<Op>) -> Transaction {
    let compare = Compare {
        range: KeyRange::key(key.clone()),
        target: CompareTarget::Create(created),
        result: CompareResult::Equal,
    };
    Transaction { compare: vec![compare], success: vec![success], failure }
}

impl Place {
    /// Takes a place, or finds the one that the lease has already.
    pub(crate) fn take(call: &Call, name: &[u8], value: Bytes, lease: i64) -> Result<Self, Status> {
        let shared = &call.shared;
        let prefix = prefix(name);
        shared.may_in_whole(&call.caller, &KeyRange::prefix(prefix.clone()), Access::ReadWrite)?;
        has_room(shared, prefix.len() + value.len())?;
        let lease = if lease == 0 { shared.store.grant(0, TTL_SECONDS)? } else { lease };
        let mut key = prefix.to_vec();
        key.extend_from_slice(format!("{lease:x}").as_bytes());
        let key = Bytes::from(key);
        let put = Op::Put(Put { key: key.clone(), value, lease, ..Put::default() });
        let read = Op::Range(Range::of(KeyRange::key(key.clone())));
        let (result, revision) = shared.store.transact(&if_created_at(&key, 0, put, vec![read]))?;
        let created = match result.results.first() {
            Some(OpResult::Range(found)) => {
                found.records.first().map_or(revision, |had| had.fields().create_revision)
            }
            Some(OpResult::Put { .. } | OpResult::Delete { .. } | OpResult::Txn(_)) | None => revision,
        };
        Ok(Self { shared: Arc::clone(shared), prefix, key, created, lease, revision, kept: false })
    }

    /// What is stored in it.
    pub(crate) fn value(&self) -> Option<Record> {
        self.shared.store.get(&self.key)
    }

    /// Waits until everyone before has left.
    pub(crate) async fn turn(&self) -> Result<(), Status> {
        let signal = Arc::new(Signal::default());
        let range = KeyRange::prefix(self.prefix.clone());
        let mut watcher = self.shared.store.watch(&range, 0, 0, &signal);
        loop {
            let filters = Filters { max_create: self.created - 1, ..Filters::default() };
            let before =
                self.shared.store.range(&Range { filters, limit: 1, ..Range::of(range.clone()) }).await?;
            if before.records.is_empty() {
                return Ok(());
            }
            signal.ready().await;
            watcher.look(&self.shared.store)?;
        }
    }

    /// The place outlives the call.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            let delete = Op::Delete(KeyRange::key(self.key.clone()));
            // Refused only if it is not ours any more.
            let _gone_either_way =
                self.shared.store.transact(&if_created_at(&self.key, self.created, delete, Vec::new()));
        }
    }
}

/// Whether a place of so many bytes may be stored.
pub(crate) fn has_room(shared: &Shared, bytes: usize) -> Result<(), Status> {
    let checked = shared.check_size(bytes).and_then(|()| shared.check_space());
    checked.map_err(|refused| without_code(&refused))
}

/// etcd's locks and elections are clients of its own store, and the codes of its errors are lost between the two.
pub(crate) fn without_code(refused: &Status) -> Status {
    Status::unknown(refused.message())
}

/// Whether the caller may change the place that it says is its own.
pub(crate) fn may_change(shared: &Shared, caller: &Caller, key: &Bytes) -> Result<(), Status> {
    Ok(shared.may_in_whole(caller, &KeyRange::key(key.clone()), Access::Write)?)
}
