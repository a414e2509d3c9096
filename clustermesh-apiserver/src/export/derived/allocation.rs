//! Which label set has which number.
//!
//! The numbers are recorded in the Kubernetes API, in [`SHARDS`] objects that are each read and replaced as a whole, on
//! condition that nobody else replaced them meanwhile. The hash of a label set decides its shard, so everybody who looks
//! for the label set looks in the same object, and the condition makes what is there agreed: a label set has one number, a
//! number one label set. The hash also decides where in the shard's part of the cluster's range the search for a free number
//! begins, so that even a lost record comes back with the same number (unless two label sets collide).
//!
//! A record once made is never changed. It is removed when no pod has needed it for [`Allocator`]'s grace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_types::{IdentityRange, NumericIdentity, Reason, Rejection};
use sha2::{Digest, Sha256};

/// Number of objects that hold the records. With a full shard of 2048 records of 300 bytes, an object stays below the
/// API's limit of 1 MiB; with fewer shards it would not, with more of them small clusters would be littered with objects.
pub(crate) const SHARDS: u32 = 32;

/// What is known of the numbers, for the exporter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    numbers: BTreeMap<Arc<str>, NumericIdentity>,
    /// Label sets that found no free number.
    refused: BTreeMap<Arc<str>, Rejection>,
    /// Every record, needed now or not.
    all: BTreeMap<NumericIdentity, Arc<str>>,
}

impl Records {
    /// The number of a label set.
    ///
    /// # Errors
    /// There is none yet, or there will be none.
    pub(crate) fn number(&self, labels: &str) -> Result<NumericIdentity, Rejection> {
        if let Some(number) = self.numbers.get(labels) {
            return Ok(*number);
        }
        Err(self.refused.get(labels).cloned().unwrap_or_else(|| {
            Rejection::new(Reason::EndpointWithoutIdentity, "the pod's labels have no recorded number yet")
        }))
    }

    /// Whether nothing is to be expected for the label set.
    pub(crate) fn is_settled(&self, labels: &str) -> bool {
        self.numbers.contains_key(labels) || self.refused.contains_key(labels)
    }

    /// Every record.
    pub(crate) fn all(&self) -> &BTreeMap<NumericIdentity, Arc<str>> {
        &self.all
    }

    #[cfg(test)]
    pub(crate) fn with(mut self, labels: Arc<str>, number: NumericIdentity) -> Self {
        self.all.insert(number, Arc::clone(&labels));
        self.numbers.insert(labels, number);
        self
    }
}

/// The cluster's range, cut into shards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    range: IdentityRange,
}

impl Space {
    pub(crate) fn new(range: IdentityRange) -> Self {
        Self { range }
    }

    fn slots(self) -> u32 {
        (self.range.last.0 - self.range.first.0 + 1) / SHARDS
    }

    /// The shard of a label set, and the slot where its search begins.
    fn place(self, labels: &str) -> (u32, u32) {
        let digest = Sha256::digest(labels.as_bytes());
        let word = |at: usize| u32::from_be_bytes(digest[at..at + 4].try_into().expect("four bytes"));
        (word(0) % SHARDS, word(4) % self.slots())
    }

    fn number(self, shard: u32, slot: u32) -> NumericIdentity {
        NumericIdentity(self.range.first.0 + shard * self.slots() + slot)
    }

    /// The shard of a number; of numbers outside the range, one that does not exist.
    fn shard_of(self, number: NumericIdentity) -> u32 {
        number.0.checked_sub(self.range.first.0).map_or(SHARDS, |offset| offset / self.slots())
    }

    /// The first free number for a label set, beginning at its slot.
    fn free(self, labels: &str, taken: &Shard) -> Option<NumericIdentity> {
        let (shard, start) = self.place(labels);
        let slots = self.slots();
        let numbers = (0..slots).map(|step| self.number(shard, (start + step) % slots));
        numbers.into_iter().find(|number| !taken.contains_key(number))
    }
}

/// Records of one shard.
pub(crate) type Shard = BTreeMap<NumericIdentity, Arc<str>>;

/// A shard as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stored {
    /// `None` if the object does not exist.
    version: Option<String>,
    /// Those that stand in their place; others are left from another cluster id, and go with the next write.
    records: Shard,
}

/// A shard that must be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replacement {
    pub(crate) shard: u32,
    /// The version that it replaces; `None` if there must be none.
    pub(crate) version: Option<String>,
    pub(crate) records: Shard,
}

/// Decides which records to make and to remove; the shell carries it out.
#[derive(Debug)]
pub(crate) struct Allocator {
    space: Space,
    grace: Duration,
    stored: BTreeMap<u32, Stored>,
    wanted: BTreeSet<Arc<str>>,
    /// Numbers of wanted label sets, kept even when someone removes their record: it is made again with the same number.
    assigned: BTreeMap<Arc<str>, NumericIdentity>,
    /// Since when a record has not been wanted.
    unused: BTreeMap<Arc<str>, Instant>,
    refused: BTreeMap<Arc<str>, Rejection>,
}

impl Allocator {
    /// No record is known yet; call [`Self::observe`] for each before [`Self::replacements`].
    pub(crate) fn new(space: Space, grace: Duration) -> Self {
        Self {
            space,
            grace,
            stored: BTreeMap::new(),
            wanted: BTreeSet::new(),
            assigned: BTreeMap::new(),
            unused: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// A shard has this content; an older version than what is known says nothing.
    pub(crate) fn observe(&mut self, shard: u32, version: String, records: Shard) {
        let known = self.stored.entry(shard).or_default();
        let number = |version: &str| version.parse::<u64>().ok();
        let older = known
            .version
            .as_deref()
            .and_then(number)
            .zip(number(&version))
            .is_some_and(|(known, seen)| seen < known);
        if !older {
            let space = self.space;
            let in_place = |(number, labels): &(NumericIdentity, Arc<str>)| {
                space.shard_of(*number) == shard && space.place(labels).0 == shard
            };
            let records = records.into_iter().filter(in_place).collect();
            *known = Stored { version: Some(version), records };
            self.learn();
        }
    }

    /// A shard does not exist (any more).
    pub(crate) fn observe_gone(&mut self, shard: u32) {
        self.stored.remove(&shard);
    }

    /// These label sets need numbers, and no others.
    pub(crate) fn want(&mut self, wanted: BTreeSet<Arc<str>>) {
        self.assigned.retain(|labels, _| wanted.contains(labels));
        self.refused.retain(|labels, _| wanted.contains(labels));
        self.wanted = wanted;
        self.learn();
    }

    /// Takes over the recorded numbers of wanted label sets. Of two records for one label set (which only an edit by
    /// hand can make) the lower number counts.
    fn learn(&mut self) {
        for (number, labels) in self.stored.values().rev().flat_map(|stored| stored.records.iter().rev()) {
            if let Some(wanted) = self.wanted.get(labels) {
                self.assigned.insert(Arc::clone(wanted), *number);
                self.refused.remove(labels);
            }
        }
        // A record was removed and its number given away while we still used it: it is the other's now.
        let (space, stored) = (self.space, &self.stored);
        let taken = |number: NumericIdentity| stored.get(&space.shard_of(number))?.records.get(&number);
        self.assigned.retain(|labels, number| taken(*number).is_none_or(|owner| owner == labels));
    }

    fn is_recorded(&self, labels: &Arc<str>) -> bool {
        let recorded = |number: &NumericIdentity| {
            let shard = self.stored.get(&self.space.shard_of(*number))?;
            shard.records.get(number)
        };
        self.assigned.get(labels).and_then(recorded) == Some(labels)
    }

    /// The shards that must be replaced: to record numbers for wanted label sets, and, if `collect`, to remove records that
    /// were not wanted for the whole grace. Only set `collect` when the wanted label sets are complete.
    pub(crate) fn replacements(&mut self, now: Instant, collect: bool) -> Vec<Replacement> {
        let mut missing: BTreeMap<u32, Vec<Arc<str>>> = BTreeMap::new();
        for labels in self.wanted.iter().filter(|labels| !self.is_recorded(labels)) {
            missing.entry(self.space.place(labels).0).or_default().push(Arc::clone(labels));
        }
        let expired = if collect { self.expired(now) } else { BTreeSet::new() };
        let mut replacements = Vec::new();
        for shard in 0..SHARDS {
            let Stored { version, records: recorded } = self.stored.get(&shard).cloned().unwrap_or_default();
            let mut records = recorded.clone();
            records.retain(|_, labels| !expired.contains(labels));
            for labels in missing.remove(&shard).unwrap_or_default() {
                self.record(labels, &mut records);
            }
            if records != recorded {
                replacements.push(Replacement { shard, version, records });
            }
        }
        replacements
    }

    fn record(&mut self, labels: Arc<str>, records: &mut Shard) {
        let former = self.assigned.get(&labels).filter(|number| !records.contains_key(number));
        match former.copied().or_else(|| self.space.free(&labels, records)) {
            Some(number) => drop(records.insert(number, labels)),
            None => {
                let what = format!(
                    "all {} numbers of the part of {} to {} that these labels belong to are taken",
                    self.space.slots(),
                    self.space.range.first,
                    self.space.range.last
                );
                self.refused.insert(labels, Rejection::new(Reason::IdentitiesExhausted, what));
            }
        }
    }

    /// Label sets whose records have not been wanted for the grace.
    fn expired(&mut self, now: Instant) -> BTreeSet<Arc<str>> {
        let recorded = self.stored.values().flat_map(|stored| stored.records.values());
        let unwanted: BTreeSet<Arc<str>> =
            recorded.filter(|labels| !self.wanted.contains(*labels)).cloned().collect();
        self.unused.retain(|labels, _| unwanted.contains(labels));
        for labels in unwanted {
            self.unused.entry(labels).or_insert(now);
        }
        let grace = self.grace;
        let old = self.unused.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= grace);
        old.map(|(labels, _)| Arc::clone(labels)).collect()
    }

    /// For the exporter.
    pub(crate) fn records(&self) -> Records {
        let recorded = self.stored.values().flat_map(|stored| &stored.records);
        let mut all: Shard = recorded.map(|(number, labels)| (*number, Arc::clone(labels))).collect();
        for (labels, number) in &self.assigned {
            all.entry(*number).or_insert_with(|| Arc::clone(labels));
        }
        Records { numbers: self.assigned.clone(), refused: self.refused.clone(), all }
    }
}

#[cfg(test)]
mod tests;
