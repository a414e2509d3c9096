//! Keys, their versions, and what hangs on them. Pure: no async, no clock, no I/O.
//!
//! In: puts, deletes, transactions, leases, compactions. Out: records ([`Record`], already in wire form) and,
//! per revision, the events. Invariant: at every revision from the compacted one on, a read shows exactly the
//! keys as they were, and the log names each change once and in order.
//!
//! ```text
//!   Index: key order, counts ──▶ Slots: versions of a key ──▶ Record (shared bytes)
//!                                  ▲            ▲
//!   Log: revision, slot ───────────┘            └── Leases: slots that end together
//! ```
//!
//! Costs, n keys: put and delete O(log n); read O(log n + result); count O(n / 256); lease attach and detach
//! O(1); compaction O(changes since the last one), in steps. Memory per key over its own bytes: see
//! `docs/store.md`.

mod compact;
mod index;
mod lease;
mod read;
mod record;
mod slots;
mod txn;
mod write;

use std::collections::{BTreeMap, VecDeque};

use self::{
    index::Index,
    lease::Leases,
    slots::{SlotId, Slots},
};
pub use self::{
    lease::Millis,
    read::{Filters, Order, Range, RangeResult, SortTarget},
    record::{Fields, Record},
    txn::{Compare, CompareResult, CompareTarget, Op, OpResult, Put, Transaction, TxnResult},
    write::{Commit, Committed, WriteTxn},
};
pub(crate) use self::{
    read::checksum,
    record::{Below, put_varint, take_varint, varint_len},
};

/// Why the store cannot do what is asked; `server/status.rs` has etcd's words for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The revision is gone.
    #[error("revision {asked} is compacted, oldest kept is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: i64,
        /// The oldest that can be read.
        oldest: i64,
    },
    /// The revision is still to come.
    #[error("revision {asked} is in the future")]
    Future {
        /// What was asked for.
        asked: i64,
    },
    /// A key has at least one byte.
    #[error("no key is given")]
    EmptyKey,
    /// No such lease.
    #[error("no such lease")]
    LeaseNotFound {
        /// Its id.
        lease: i64,
    },
    /// The id is taken.
    #[error("lease exists already")]
    LeaseExists,
    /// The key must exist for a put that keeps its value or lease.
    #[error("no such key")]
    KeyNotFound,
    /// Compaction to where it has been already.
    #[error("revision is compacted already")]
    CompactedAlready,
}

/// A change in the log.
#[derive(Clone, Copy, Debug)]
struct Change {
    revision: i64,
    slot: SlotId,
}

/// What was done since the key space was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Puts of keys.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Deletions of a key or a range, whether something was there or not.
    pub deletes: u64,
    /// Ranges that were read in transactions.
    pub ranges: u64,
    /// Transactions of several operations.
    pub txns: u64,
    /// Leases that began.
    pub leases_granted: u64,
    /// Times that one was kept alive.
    pub leases_renewed: u64,
    /// Leases that ended.
    pub leases_revoked: u64,
    /// Those of them whose time was over.
    pub leases_expired: u64,
}

/// The store.
#[derive(Debug)]
pub struct Keyspace {
    index: Index,
    slots: Slots,
    leases: Leases,
    /// Every change from the compacted revision on.
    log: VecDeque<Change>,
    revision: i64,
    /// The oldest revision that can be read; -1 before the first compaction.
    compacted: i64,
    /// Changes before this revision are forgotten; follows `compacted` in steps.
    purged: i64,
    /// Revisions that readers are in the middle of; forgetting stops before the oldest.
    pins: BTreeMap<i64, usize>,
    /// Bytes of all kept records.
    bytes: usize,
    /// Whether anyone wants the events of commits.
    heard: bool,
    counts: Counts,
    scratch: Vec<u8>,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self::new()
    }
}

impl Keyspace {
    /// An empty store, at revision 1 as etcd's is.
    pub fn new() -> Self {
        Self {
            index: Index::default(),
            slots: Slots::default(),
            leases: Leases::default(),
            log: VecDeque::new(),
            revision: 1,
            compacted: -1,
            purged: -1,
            pins: BTreeMap::new(),
            bytes: 0,
            heard: true,
            counts: Counts::default(),
            scratch: Vec::new(),
        }
    }

    /// Revision of the last change.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The oldest revision that can be read; -1 if nothing was compacted, as in etcd.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Keys that exist now.
    pub fn keys(&self) -> usize {
        self.index.live()
    }

    /// Bytes of all records that are kept, old ones included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether commits have their events from now on: they cost something, and perhaps nobody listens.
    pub fn set_heard(&mut self, heard: bool) {
        self.heard = heard;
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Changes in the log.
    pub fn log_len(&self) -> usize {
        self.log.len()
    }

    /// Grants a lease of `ttl` seconds.
    ///
    /// # Errors
    /// [`Refusal::LeaseExists`].
    pub fn grant(&mut self, id: i64, ttl: i64, now: Millis) -> Result<(), Refusal> {
        if !self.leases.grant(id, ttl, now) {
            return Err(Refusal::LeaseExists);
        }
        self.counts.leases_granted += 1;
        Ok(())
    }

    /// Gives a lease its full time again; returns that in seconds.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`], also for a lease that is over but not yet revoked.
    pub fn keep_alive(&mut self, id: i64, now: Millis) -> Result<i64, Refusal> {
        let ttl = self.leases.keep_alive(id, now).ok_or(Refusal::LeaseNotFound { lease: id })?;
        self.counts.leases_renewed += 1;
        Ok(ttl)
    }

    /// Gives every lease its full time again: after a time when nobody could keep them alive.
    pub fn extend_leases(&mut self, now: Millis) {
        self.leases.extend_all(now);
    }

    /// Ends a lease and deletes its keys in one revision.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`].
    pub fn revoke(&mut self, id: i64) -> Result<Commit, Refusal> {
        let lease = self.leases.remove(id).ok_or(Refusal::LeaseNotFound { lease: id })?;
        self.counts.leases_revoked += 1;
        // In the order of their keys, whatever order they were attached in.
        let mut keys: Vec<Record> = lease.keys.iter().map(|&id| self.slots.get(id).current.clone()).collect();
        keys.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let mut txn = self.write();
        for record in keys {
            txn.delete_key(record.key());
        }
        Ok(txn.commit())
    }

    /// The same if its time is over by `now`. It may not be, even if it was just now: it was kept alive, or ended and
    /// granted anew.
    pub fn revoke_if_ended(&mut self, id: i64, now: Millis) -> Option<Commit> {
        if self.leases.get(id)?.end > now {
            return None;
        }
        let commit = self.revoke(id).ok()?;
        self.counts.leases_expired += 1;
        Some(commit)
    }

    /// Time to live as granted and what remains, in seconds (rounded down), and the keys on demand.
    pub fn time_to_live(&self, id: i64, now: Millis, with_keys: bool) -> Option<(i64, i64, Vec<Record>)> {
        let lease = self.leases.get(id)?;
        if lease.end <= now {
            return None;
        }
        let remaining = ((lease.end - now) / 1000) as i64;
        let mut keys = Vec::new();
        if with_keys {
            keys.extend(lease.keys.iter().map(|&id| self.slots.get(id).current.clone()));
            keys.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        }
        Some((lease.ttl, remaining, keys))
    }

    /// The keys that end with a lease, in no order; none if there is no such lease.
    pub fn lease_keys(&self, id: i64) -> Vec<Record> {
        let slots = self.leases.get(id).map_or(&[][..], |lease| &lease.keys);
        slots.iter().map(|&slot| self.slots.get(slot).current.clone()).collect()
    }

    /// Seconds that a lease was granted.
    pub fn lease_ttl(&self, id: i64) -> Option<i64> {
        self.leases.get(id).map(|lease| lease.ttl)
    }

    /// Whether a lease exists (it may be over, but not yet revoked).
    pub fn has_lease(&self, id: i64) -> bool {
        self.leases.get(id).is_some()
    }

    /// Ids of all leases, in order.
    pub fn lease_ids(&self) -> Vec<i64> {
        self.leases.ids().collect()
    }

    /// How many leases there are.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// When the next lease ends.
    pub fn next_lease_end(&self) -> Option<Millis> {
        self.leases.next_end()
    }

    /// Leases that ended by `now` and must be revoked.
    pub fn ended_leases(&self, now: Millis) -> Vec<i64> {
        self.leases.ended(now)
    }

    /// Position in the log of the first change at or after `revision`.
    fn log_position(&self, revision: i64) -> usize {
        self.log.partition_point(|change| change.revision < revision)
    }
}

#[cfg(test)]
mod tests;
