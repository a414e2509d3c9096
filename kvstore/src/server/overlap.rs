//! etcd's rule that no key is put twice, or put and deleted, by operations of one transaction that can both happen.
//!
//! A request can hold 100,000 operations in many levels, so sets are joined small into large and never copied.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tonic::Status;

use super::{convert, status};
use crate::{
    proto::etcdserverpb::{self as pb, request_op::Request},
    range::{KeyRange, RangeEnd},
};

/// What a list of operations touches.
#[derive(Debug, Default)]
struct Touched {
    puts: BTreeSet<Bytes>,
    deletes: Spans,
}

/// Ranges that neither overlap nor touch: start to end, or to no end.
#[derive(Debug, Default)]
struct Spans(BTreeMap<Bytes, Option<Bytes>>);

/// Whether a transaction keeps to the rule, in both of its branches.
pub(super) fn check(txn: &pb::TxnRequest) -> Result<(), Status> {
    touched(&txn.success)?;
    touched(&txn.failure)?;
    Ok(())
}

fn touched(ops: &[pb::RequestOp]) -> Result<Touched, Status> {
    let mut all = Touched::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.insert(&convert::range(&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else { continue };
        let (mut either, other) = (touched(&txn.success)?, touched(&txn.failure)?);
        // Only one of the branches happens, so these two may meet.
        either.puts = union(either.puts, other.puts);
        if all.deletes.meet(&either.puts) || !disjoint(&all.puts, &either.puts) {
            return Err(status::duplicate_key());
        }
        all.puts = union(all.puts, either.puts);
        all.deletes = all.deletes.union(either.deletes).union(other.deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if all.deletes.holds(&put.key) || !all.puts.insert(put.key.clone()) {
            return Err(status::duplicate_key());
        }
    }
    Ok(all)
}

fn union(a: BTreeSet<Bytes>, b: BTreeSet<Bytes>) -> BTreeSet<Bytes> {
    let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
    large.extend(small);
    large
}

fn disjoint(a: &BTreeSet<Bytes>, b: &BTreeSet<Bytes>) -> bool {
    let (large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
    !small.iter().any(|key| large.contains(key))
}

impl Spans {
    fn insert(&mut self, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        let end = match range.end() {
            RangeEnd::Single => {
                let mut next = range.start().to_vec();
                next.push(0);
                Some(next.into())
            }
            RangeEnd::Before(end) => Some(end.clone()),
            RangeEnd::Unbounded => None,
        };
        self.add(range.start().clone(), end);
    }

    fn add(&mut self, mut start: Bytes, mut end: Option<Bytes>) {
        // The one before may reach into it, and each one that begins in it becomes part of it.
        if let Some((before, reach)) = self.0.range(..=start.clone()).next_back()
            && reach.as_ref().is_none_or(|reach| *reach >= start)
        {
            start = before.clone();
        }
        while let Some((next, reach)) = self.0.range(start.clone()..).next() {
            if end.as_ref().is_some_and(|end| next > end) {
                break;
            }
            let (next, reach) = (next.clone(), reach.clone());
            self.0.remove(&next);
            end = match (end, reach) {
                (Some(end), Some(reach)) => Some(end.max(reach)),
                (None, _) | (_, None) => None,
            };
        }
        self.0.insert(start, end);
    }

    fn union(self, other: Self) -> Self {
        let (mut large, small) = if self.0.len() < other.0.len() { (other, self) } else { (self, other) };
        for (start, end) in small.0 {
            large.add(start, end);
        }
        large
    }

    fn holds(&self, key: &Bytes) -> bool {
        let before = self.0.range(..=key.clone()).next_back();
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end))
    }

    /// Whether any of the keys is in any of the spans; costs the smaller of the two.
    fn meet(&self, keys: &BTreeSet<Bytes>) -> bool {
        if keys.len() <= self.0.len() {
            return keys.iter().any(|key| self.holds(key));
        }
        self.0.iter().any(|(start, end)| {
            let next = keys.range(start.clone()..).next();
            next.is_some_and(|key| end.as_ref().is_none_or(|end| key < end))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(key: &str) -> pb::RequestOp {
        let put = pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &str, end: &str) -> pb::RequestOp {
        let (key, range_end) =
            (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(end.as_bytes()));
        pb::RequestOp {
            request: Some(Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                range_end,
                prev_kv: false,
            })),
        }
    }

    fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    #[test]
    fn operations_that_can_both_happen_may_not_meet() {
        for (name, ops, allowed) in [
            ("different puts", vec![put("a"), put("b")], true),
            ("one key twice", vec![put("a"), put("a")], false),
            ("put in a deleted range", vec![put("b"), delete("a", "c")], false),
            ("put beside it", vec![put("c"), delete("a", "c")], true),
            ("deletes that overlap", vec![delete("a", "c"), delete("b", "d")], true),
            ("both branches of one", vec![nested(vec![put("a")], vec![put("a")])], true),
            ("a branch and its parent", vec![nested(vec![], vec![put("a")]), put("a")], false),
            ("two nested ones", vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], false),
            ("nested delete and put", vec![nested(vec![delete("a", "c")], vec![]), put("b")], false),
            ("deleted after a nested put", vec![nested(vec![put("b")], vec![]), delete("a", "c")], false),
            ("put and deleted in two branches", vec![nested(vec![put("b")], vec![delete("a", "c")])], true),
        ] {
            let txn = pb::TxnRequest { compare: Vec::new(), success: ops, failure: Vec::new() };
            assert_eq!(check(&txn).is_ok(), allowed, "{name}");
        }
    }

    proptest! {
        /// Whatever is added in whatever order, a key is held if one of the ranges holds it.
        #[test]
        fn spans_hold_what_their_ranges_hold(
            ranges in prop::collection::vec(("[ab]{1,2}", "[abc]{0,2}|\0"), 0..8),
            others in prop::collection::vec(("[ab]{1,2}", "[abc]{0,2}|\0"), 0..4),
            keys in prop::collection::btree_set("[abcd]{1,3}", 0..8),
        ) {
            let wire = |(key, end): &(String, String)| KeyRange::from_wire(key.clone().into(), end.clone().into());
            let spans = |ranges: &[(String, String)]| {
                let mut spans = Spans::default();
                ranges.iter().for_each(|range| spans.insert(&wire(range)));
                spans
            };
            let all = spans(&ranges).union(spans(&others));
            let held = |key: &Bytes| ranges.iter().chain(&others).any(|range| wire(range).contains(key));
            let keys: BTreeSet<Bytes> = keys.into_iter().map(Bytes::from).collect();
            for key in &keys {
                prop_assert_eq!(all.holds(key), held(key));
            }
            prop_assert_eq!(all.meet(&keys), keys.iter().any(held));
        }
    }
}
