//! Writes and guards as transactions of `etcd-client`, and its keys as ours. Pure.

use std::iter::Peekable;

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp, TxnResponse,
    proto::{PbKeyValue, PbTxnOpResponse},
};

use super::{TXN_BYTES, TXN_OPERATIONS, error::Asked};
use crate::{
    client::{Expect, Guard, KeyValue, LeaseId, Revision, Write},
    range::KeyRange,
};

/// A batch in parts that each fit one transaction.
pub(super) struct Parts {
    writes: Peekable<std::vec::IntoIter<Write>>,
}

/// See [`Parts`].
pub(super) struct Part {
    pub(super) operations: Vec<TxnOp>,
    /// Its last lease.
    pub(super) asked: Asked,
}

impl Parts {
    pub(super) fn of(batch: Vec<Write>) -> Self {
        Self { writes: batch.into_iter().peekable() }
    }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let mut part = Part { operations: Vec::new(), asked: Asked::Nothing };
        let mut bytes = 0;
        // A write that is too large by itself goes alone; the store says what it thinks of it.
        while part.operations.len() < TXN_OPERATIONS
            && let Some(write) = self.writes.next_if(|next| bytes == 0 || bytes + size(next) <= TXN_BYTES)
        {
            bytes += size(&write);
            part.asked = lease_of(&write).map_or(part.asked, Asked::Lease);
            part.operations.push(operation(write));
        }
        (!part.operations.is_empty()).then_some(part)
    }
}

/// A batch that is written if every guard holds, and otherwise reads the guards' keys.
pub(super) fn guarded(guards: &[Guard], batch: Vec<Write>) -> (Txn, Asked) {
    let asked = batch.iter().find_map(lease_of).map_or(Asked::Nothing, Asked::Lease);
    let compares: Vec<Compare> = guards.iter().map(compare).collect();
    let writes: Vec<TxnOp> = batch.into_iter().map(operation).collect();
    let reads: Vec<TxnOp> = guards.iter().map(|guard| TxnOp::get(guard.key.clone(), None)).collect();
    (Txn::new().when(compares).and_then(writes).or_else(reads), asked)
}

/// What the reads of [`guarded`] found, one for each guard.
pub(super) fn found(answer: TxnResponse) -> Vec<Option<KeyValue>> {
    let found = |response| match response {
        Some(PbTxnOpResponse::ResponseRange(found)) => found.kvs.into_iter().next().map(key_value),
        Some(
            PbTxnOpResponse::ResponsePut(_)
            | PbTxnOpResponse::ResponseDeleteRange(_)
            | PbTxnOpResponse::ResponseTxn(_),
        )
        | None => None,
    };
    answer.0.responses.into_iter().map(|op| found(op.response)).collect()
}

pub(super) fn key_value(kv: PbKeyValue) -> KeyValue {
    KeyValue {
        key: kv.key.into(),
        value: kv.value.into(),
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

fn lease_of(write: &Write) -> Option<LeaseId> {
    match write {
        Write::Put { lease, .. } if *lease != LeaseId::NONE => Some(*lease),
        Write::Put { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => None,
    }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Put { key, value, .. } => key.len() + value.len() + 32,
        Write::Delete { key } => key.len() + 16,
        Write::DeleteRange { range } => 2 * range.start().len() + 32,
    }
}

fn operation(write: Write) -> TxnOp {
    match write {
        Write::Put { key, value, lease } => {
            TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease.0)))
        }
        Write::Delete { key } => delete(&KeyRange::key(key)),
        Write::DeleteRange { range } => delete(&range),
    }
}

fn delete(range: &KeyRange) -> TxnOp {
    let (key, range_end): (Bytes, Bytes) = range.to_wire();
    TxnOp::delete(key, Some(DeleteOptions::new().with_range(range_end)))
}

fn compare(guard: &Guard) -> Compare {
    let key = guard.key.clone();
    match &guard.expect {
        Expect::Absent => Compare::version(key, CompareOp::Equal, 0),
        Expect::Value(value) => Compare::value(key, CompareOp::Equal, value.clone()),
        Expect::CreatedAt(revision) => Compare::create_revision(key, CompareOp::Equal, revision.0),
        Expect::ModifiedAt(revision) => Compare::mod_revision(key, CompareOp::Equal, revision.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value_bytes: usize, lease: LeaseId) -> Write {
        Write::Put { key: "k".into(), value: vec![b'v'; value_bytes].into(), lease }
    }

    #[test]
    fn a_batch_is_cut_where_etcd_would_refuse_it() {
        let lengths = |sizes: &[usize]| -> Vec<usize> {
            let batch = sizes.iter().map(|&bytes| put(bytes, LeaseId::NONE)).collect();
            Parts::of(batch).map(|part| part.operations.len()).collect()
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[1; TXN_OPERATIONS]), [TXN_OPERATIONS]);
        assert_eq!(lengths(&[1; 2 * TXN_OPERATIONS + 1]), [TXN_OPERATIONS, TXN_OPERATIONS, 1]);
        let third = TXN_BYTES / 3;
        assert_eq!(lengths(&[third; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[1, 2 * TXN_BYTES, 1]), [1, 1, 1], "too large for any goes alone");
    }

    #[test]
    fn each_part_knows_a_lease_of_its_own() {
        let mut batch = vec![put(1, LeaseId(7)); TXN_OPERATIONS];
        batch.push(put(1, LeaseId::NONE));
        let asked: Vec<Asked> = Parts::of(batch).map(|part| part.asked).collect();
        assert!(matches!(asked[..], [Asked::Lease(LeaseId(7)), Asked::Nothing]), "{asked:?}");
    }
}
