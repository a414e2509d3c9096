//! Reading the store, now or as it was.

use super::{Keyspace, Refusal, record::Record, slots::Slot};
use crate::range::KeyRange;

/// What to sort a range by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortTarget {
    /// The key; what every range is sorted by unless asked otherwise.
    Key,
    /// The number of changes.
    Version,
    /// The revision of creation.
    Create,
    /// The revision of the last change.
    Mod,
    /// The value.
    Value,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// Bounds on revisions, inclusive; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Least revision of the last change.
    pub min_mod: i64,
    /// Greatest revision of the last change.
    pub max_mod: i64,
    /// Least revision of creation.
    pub min_create: i64,
    /// Greatest revision of creation.
    pub max_create: i64,
}

/// A read of a range.
#[derive(Clone, Debug)]
pub struct Range {
    /// Which keys.
    pub range: KeyRange,
    /// At most so many; 0 is all.
    pub limit: usize,
    /// As of when; 0 is now.
    pub revision: i64,
    /// `None` is by key, ascending.
    pub sort: Option<(SortTarget, Order)>,
    /// Leave out those outside.
    pub filters: Filters,
    /// Only how many there are.
    pub count_only: bool,
}

impl Range {
    /// Everything in `range`, now.
    pub fn of(range: KeyRange) -> Self {
        Self { range, limit: 0, revision: 0, sort: None, filters: Filters::default(), count_only: false }
    }

    /// Whether it neither sorts nor filters.
    pub(crate) fn is_plain(&self) -> bool {
        self.sort.is_none() && !self.filters.any()
    }

    /// How many records [`Self::arrange`] needs to see: one over the limit, unless it sorts or filters.
    pub(crate) fn cut(&self) -> usize {
        if self.is_plain() && self.limit > 0 { self.limit.saturating_add(1) } else { usize::MAX }
    }

    /// The answer, from the records of the range in the order of their keys.
    pub(crate) fn arrange(&self, mut records: Vec<Record>, count: usize, revision: i64) -> RangeResult {
        if self.filters.any() {
            records.retain(|record| self.filters.passes(record));
        }
        if let Some((target, order)) = self.sort {
            sort(&mut records, target, order);
        }
        let more = self.limit > 0 && records.len() > self.limit;
        if more {
            records.truncate(self.limit);
        }
        RangeResult { records, count, more, revision }
    }
}

/// What a range holds.
#[derive(Clone, Debug, Default)]
pub struct RangeResult {
    /// In the order asked for.
    pub records: Vec<Record>,
    /// How many keys the range has, without limit and filters.
    pub count: usize,
    /// Whether the limit cut some off.
    pub more: bool,
    /// The store's revision at the time of reading.
    pub revision: i64,
}

impl Filters {
    fn any(&self) -> bool {
        *self != Self::default()
    }

    fn passes(&self, record: &Record) -> bool {
        let fields = record.fields();
        let within =
            |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        within(fields.mod_revision, self.min_mod, self.max_mod)
            && within(fields.create_revision, self.min_create, self.max_create)
    }
}

impl Keyspace {
    /// What `key` is now.
    pub fn get(&self, key: &[u8]) -> Option<&Record> {
        self.current(key)
    }

    /// Whether a read at `revision` (0: now) is possible while the store is at `now`.
    ///
    /// # Errors
    /// [`Refusal::Future`], [`Refusal::Compacted`].
    pub fn check_revision(&self, revision: i64, now: i64) -> Result<(), Refusal> {
        if revision > now {
            return Err(Refusal::Future { asked: revision });
        }
        if revision > 0 && revision < self.compacted {
            return Err(Refusal::Compacted { asked: revision, oldest: self.compacted });
        }
        Ok(())
    }

    /// Reads a range.
    ///
    /// # Errors
    /// Those of [`Self::check_revision`].
    pub fn range(&self, ask: &Range) -> Result<RangeResult, Refusal> {
        self.range_at(ask, self.revision)
    }

    /// [`Self::range`] within a transaction, whose revision is `now`.
    pub(super) fn range_at(&self, ask: &Range, now: i64) -> Result<RangeResult, Refusal> {
        self.check_revision(ask.revision, now)?;
        let at = if ask.revision <= 0 { now } else { ask.revision };
        let count = || {
            if at == now { self.index.count(&self.slots, &ask.range) } else { self.count_at(&ask.range, at) }
        };
        if ask.count_only {
            return Ok(RangeResult { count: count(), revision: now, ..RangeResult::default() });
        }
        let cut = ask.cut();
        let records = if at == now {
            let slots = self.index.iter(&self.slots, &ask.range).map(|id| self.slots.get(id));
            slots.filter(|slot| !slot.dead).map(|slot| slot.current.clone()).take(cut).collect()
        } else {
            self.slots_of(&ask.range).filter_map(|slot| slot.at(at).cloned()).take(cut).collect::<Vec<_>>()
        };
        // Only a range that was cut off needs counting.
        let count = if records.len() < cut { records.len() } else { count() };
        Ok(ask.arrange(records, count, now))
    }

    /// At most `limit` keys of `range` as they were at `revision`, which must not be forgotten meanwhile:
    /// see [`Self::pin`].
    pub fn chunk_at(&self, range: &KeyRange, revision: i64, limit: usize) -> Vec<Record> {
        if revision >= self.revision {
            let slots = self.index.iter(&self.slots, range).map(|id| self.slots.get(id));
            return slots.filter(|slot| !slot.dead).map(|slot| slot.current.clone()).take(limit).collect();
        }
        self.slots_of(range).filter_map(|slot| slot.at(revision).cloned()).take(limit).collect()
    }

    /// How many keys `range` had at `revision`.
    ///
    /// Costs the smaller of the changes since then and the keys of the range.
    pub fn count_at(&self, range: &KeyRange, revision: i64) -> usize {
        let since = self.log_position(revision + 1);
        let changes = self.log.len() - since;
        let now = self.index.count(&self.slots, range);
        if changes > now {
            return self.slots_of(range).filter(|slot| slot.at(revision).is_some()).count();
        }
        let mut count = now as i64;
        for change in self.log.range(since..) {
            let slot = self.slots.get(change.slot);
            if !range.contains(slot.current.key()) {
                continue;
            }
            let is = slot.at(change.revision).is_some();
            let was = slot.at(change.revision - 1).is_some();
            count += i64::from(was) - i64::from(is);
        }
        usize::try_from(count).unwrap_or(0)
    }

    /// The changes of keys in `range` from `from` to the newest revision, in whole revisions, until about
    /// `limit` bytes of them are found or `scan` changes are looked at; returns the first revision not looked at.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if `from` is.
    pub fn changes(
        &self,
        range: &KeyRange,
        from: i64,
        limit: usize,
        scan: usize,
    ) -> Result<(Vec<super::Committed>, i64), Refusal> {
        self.check_revision(from.min(self.revision), self.revision)?;
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut last = from - 1;
        for (looked, change) in self.log.range(self.log_position(from)..).enumerate() {
            if change.revision != last && (bytes >= limit || looked >= scan) {
                return Ok((found, change.revision));
            }
            last = change.revision;
            let slot = self.slots.get(change.slot);
            if range.contains(slot.current.key())
                && let Some(record) = slot.version_at(change.revision)
                && record.mod_revision() == change.revision
            {
                let prev = (change.revision > self.compacted).then(|| slot.at(change.revision - 1)).flatten();
                bytes += record.encoded().len();
                found.push(super::Committed { record: record.clone(), prev: prev.cloned() });
            }
        }
        Ok((found, self.revision + 1))
    }

    pub(super) fn slots_of<'a>(&'a self, range: &KeyRange) -> impl Iterator<Item = &'a Slot> + 'a {
        self.index.iter(&self.slots, range).map(|id| self.slots.get(id))
    }
}

/// A checksum of records: FNV-1a. Two stores with the same history have the same one; it is not etcd's number.
pub(crate) fn checksum(records: &[Record]) -> u32 {
    let bytes = records.iter().flat_map(Record::encoded);
    bytes.fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn sort(records: &mut [Record], target: SortTarget, order: Order) {
    match target {
        // They are sorted by key already.
        SortTarget::Key => {
            if order == Order::Descending {
                records.reverse();
            }
            return;
        }
        SortTarget::Version => records.sort_by_key(|record| record.fields().version),
        SortTarget::Create => records.sort_by_key(|record| record.fields().create_revision),
        SortTarget::Mod => records.sort_by_key(Record::mod_revision),
        SortTarget::Value => records.sort_by(|a, b| a.fields().value.cmp(b.fields().value)),
    }
    if order == Order::Descending {
        records.reverse();
    }
}
