//! Transactions: compare, then do one of two lists, as etcd defines it.
//!
//! All comparisons, those of nested transactions too, see the state before the transaction; all checks are
//! made before anything is changed, so a transaction happens whole or not at all.

use bytes::Bytes;

use super::{
    Keyspace, Refusal,
    read::{Range, RangeResult},
    record::{Fields, Record},
    write::WriteTxn,
};
use crate::range::KeyRange;

/// If all of `compare` holds then `success`, else `failure`.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// What to do then.
    pub success: Vec<Op>,
    /// What to do otherwise.
    pub failure: Vec<Op>,
}

/// One comparison; for a range it must hold for every key in it.
#[derive(Clone, Debug)]
pub struct Compare {
    /// The keys.
    pub range: KeyRange,
    /// What of them, and with what.
    pub target: CompareTarget,
    /// How it must come out.
    pub result: CompareResult,
}

/// What is compared with what.
#[derive(Clone, Debug)]
pub enum CompareTarget {
    /// The number of changes; 0 for a key that does not exist.
    Version(i64),
    /// The revision of creation; 0 for a key that does not exist.
    Create(i64),
    /// The revision of the last change; 0 for a key that does not exist.
    Mod(i64),
    /// The value; never holds for a key that does not exist.
    Value(Bytes),
    /// The lease; 0 for a key that does not exist.
    Lease(i64),
    /// A target that is not known: equal to whatever is there, as in etcd.
    Unknown,
}

/// How the stored must stand to the given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// The same.
    Equal,
    /// Above it.
    Greater,
    /// Below it.
    Less,
    /// Not the same.
    NotEqual,
    /// A result that is not known: always holds, as in etcd.
    Unknown,
}

/// What a transaction may do.
#[derive(Clone, Debug)]
pub enum Op {
    /// Read.
    Range(Range),
    /// Keyspace.
    Put(Put),
    /// Delete.
    Delete(KeyRange),
    /// A transaction within it.
    Txn(Transaction),
}

/// A put.
#[derive(Clone, Debug, Default)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease, or 0.
    pub lease: i64,
    /// Keep the value that is there; there must be one.
    pub ignore_value: bool,
    /// Keep the lease that is there; there must be a key.
    pub ignore_lease: bool,
}

/// What an [`Op`] gave.
#[derive(Clone, Debug)]
pub enum OpResult {
    /// Of [`Op::Range`].
    Range(RangeResult),
    /// Of [`Op::Put`].
    Put {
        /// What was there.
        prev: Option<Record>,
        /// The revision that it belongs to.
        revision: i64,
    },
    /// Of [`Op::Delete`].
    Delete {
        /// What was there, in order.
        prev: Vec<Record>,
        /// The revision that it belongs to.
        revision: i64,
    },
    /// Of [`Op::Txn`].
    Txn(TxnResult),
}

/// What a transaction gave.
#[derive(Clone, Debug)]
pub struct TxnResult {
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// One per operation of the list that was done.
    pub results: Vec<OpResult>,
}

impl TxnResult {
    /// How many puts, deletions and ranges were done, those of nested transactions too.
    fn operations(&self) -> usize {
        let of = |result: &OpResult| match result {
            OpResult::Range(_) | OpResult::Put { .. } | OpResult::Delete { .. } => 1,
            OpResult::Txn(nested) => nested.operations(),
        };
        self.results.iter().map(of).sum()
    }
}

impl Keyspace {
    /// Carries out a put.
    ///
    /// # Errors
    /// [`Refusal::EmptyKey`], [`Refusal::LeaseNotFound`], [`Refusal::KeyNotFound`]; nothing is changed then.
    pub fn put(&mut self, put: &Put) -> Result<(Option<Record>, super::Commit), Refusal> {
        self.check_put(put)?;
        let mut txn = self.write();
        let prev = txn.carry_out_put(put);
        Ok((prev, txn.commit()))
    }

    /// Carries out a transaction in at most one revision.
    ///
    /// # Errors
    /// The refusal of its first operation that cannot be done; nothing is changed then.
    pub fn transact(&mut self, txn: &Transaction) -> Result<(TxnResult, super::Commit), Refusal> {
        let mut path = Vec::new();
        self.decide(txn, &mut path);
        self.check(txn, &mut path.iter().copied())?;
        let mut write = self.write();
        let result = write.carry_out(txn, &mut path.iter().copied())?;
        let commit = write.commit();
        self.count_txn(&result);
        Ok((result, commit))
    }

    /// Notes that a transaction was done.
    pub(crate) fn count_txn(&mut self, done: &TxnResult) {
        self.counts.txns += u64::from(done.operations() > 1);
    }

    /// Which branch each transaction takes, in depth-first order.
    fn decide(&self, txn: &Transaction, path: &mut Vec<bool>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in txn.branch(succeeded) {
            if let Op::Txn(nested) = op {
                self.decide(nested, path);
            }
        }
    }

    fn check(&self, txn: &Transaction, path: &mut impl Iterator<Item = bool>) -> Result<(), Refusal> {
        for op in txn.branch(path.next().unwrap_or_default()) {
            match op {
                Op::Range(range) => self.check_revision(range.revision, self.revision())?,
                Op::Put(put) => self.check_put(put)?,
                Op::Delete(_) => {}
                Op::Txn(nested) => self.check(nested, path)?,
            }
        }
        Ok(())
    }

    fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        if put.key.is_empty() {
            return Err(Refusal::EmptyKey);
        }
        if put.lease != 0 && !self.has_lease(put.lease) {
            return Err(Refusal::LeaseNotFound { lease: put.lease });
        }
        if (put.ignore_value || put.ignore_lease) && self.current(&put.key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range.is_single() {
            return match self.current(compare.range.start()) {
                Some(record) => compare.holds(&record.fields()),
                None => compare.holds_for_nothing(),
            };
        }
        let mut found = false;
        for slot in self.slots_of(&compare.range).filter(|slot| !slot.dead) {
            found = true;
            if !compare.holds(&slot.current.fields()) {
                return false;
            }
        }
        found || compare.holds_for_nothing()
    }
}

#[cfg(test)]
thread_local! {
    /// How many keys were compared.
    pub(super) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Transaction {
    /// Whether it puts and deletes nothing, whatever its comparisons say.
    pub(crate) fn only_reads(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Range(_) => true,
            Op::Put(_) | Op::Delete(_) => false,
            Op::Txn(nested) => nested.only_reads(),
        })
    }

    /// How many keys it looks at, at most, as far as it says itself.
    pub(crate) fn most_keys(&self) -> usize {
        let of_range = |range: &KeyRange, most| if range.is_single() { 1 } else { most };
        let compared = self.compare.iter().map(|compare| of_range(&compare.range, usize::MAX));
        let read = self.success.iter().chain(&self.failure).map(|op| match op {
            Op::Range(ask) if ask.count_only => 1,
            Op::Range(ask) => of_range(&ask.range, ask.cut()),
            Op::Put(_) => 1,
            Op::Delete(range) => of_range(range, usize::MAX),
            Op::Txn(nested) => nested.most_keys(),
        });
        compared.chain(read).fold(0, usize::saturating_add)
    }

    pub(crate) fn branch(&self, succeeded: bool) -> &[Op] {
        if succeeded { &self.success } else { &self.failure }
    }
}

impl Compare {
    /// Of a key that is not there, or a range without keys.
    pub(crate) fn holds_for_nothing(&self) -> bool {
        let nothing =
            Fields { key: b"", create_revision: 0, mod_revision: 0, version: 0, value: b"", lease: 0 };
        !matches!(self.target, CompareTarget::Value(_)) && self.holds(&nothing)
    }

    pub(crate) fn holds(&self, fields: &Fields<'_>) -> bool {
        #[cfg(test)]
        COMPARED.with(|compared| compared.set(compared.get() + 1));
        let stands = match &self.target {
            CompareTarget::Version(version) => fields.version.cmp(version),
            CompareTarget::Create(revision) => fields.create_revision.cmp(revision),
            CompareTarget::Mod(revision) => fields.mod_revision.cmp(revision),
            CompareTarget::Value(value) => fields.value.cmp(value),
            CompareTarget::Lease(lease) => fields.lease.cmp(lease),
            CompareTarget::Unknown => std::cmp::Ordering::Equal,
        };
        match self.result {
            CompareResult::Equal => stands.is_eq(),
            CompareResult::Greater => stands.is_gt(),
            CompareResult::Less => stands.is_lt(),
            CompareResult::NotEqual => stands.is_ne(),
            CompareResult::Unknown => true,
        }
    }
}

impl WriteTxn<'_> {
    fn carry_out(
        &mut self,
        txn: &Transaction,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<TxnResult, Refusal> {
        let succeeded = path.next().unwrap_or_default();
        let mut results = Vec::with_capacity(txn.branch(succeeded).len());
        for op in txn.branch(succeeded) {
            results.push(match op {
                Op::Range(ask) => {
                    self.count_range();
                    OpResult::Range(self.store().range_at(ask, self.read_revision())?)
                }
                Op::Put(put) => {
                    let prev = self.carry_out_put(put);
                    OpResult::Put { prev, revision: self.read_revision() }
                }
                Op::Delete(range) => {
                    let prev = self.delete_range(range);
                    OpResult::Delete { prev, revision: self.read_revision() }
                }
                Op::Txn(nested) => OpResult::Txn(self.carry_out(nested, path)?),
            });
        }
        Ok(TxnResult { succeeded, results })
    }

    /// A put that was checked.
    fn carry_out_put(&mut self, put: &Put) -> Option<Record> {
        if !put.ignore_value && !put.ignore_lease {
            return self.put(&put.key, &put.value, put.lease);
        }
        let before = self.store().current(&put.key).cloned()?;
        let fields = before.fields();
        let value = if put.ignore_value { fields.value } else { &put.value };
        let lease = if put.ignore_lease { fields.lease } else { put.lease };
        self.put(&put.key, value, lease)
    }
}
