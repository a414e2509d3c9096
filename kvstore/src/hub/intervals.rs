//! Ranges by key: which of them hold a given one. Pure.
//!
//! A sorted list seen as a balanced tree (the middle is the root), each node knowing the furthest end below
//! it. Finding costs O(log ranges + found); adding and removing rebuild, which is rare against lookups.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::range::{KeyRange, RangeEnd};

/// Values by range.
#[derive(Debug)]
pub(crate) struct Intervals<T> {
    /// Sorted by start, then end.
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    range: KeyRange,
    /// Furthest end in the subtree whose root this entry is.
    reach: Reach,
    value: T,
}

/// The end of a range as something that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    /// Up to and with the key.
    Through(Bytes),
    /// Up to the key.
    Before(Bytes),
    Everything,
}

impl Reach {
    fn of(range: &KeyRange) -> Self {
        match range.end() {
            RangeEnd::Single => Self::Through(range.start().clone()),
            RangeEnd::Before(end) => Self::Before(end.clone()),
            RangeEnd::Unbounded => Self::Everything,
        }
    }

    fn holds(&self, key: &[u8]) -> bool {
        match self {
            Self::Through(end) => key <= &end[..],
            Self::Before(end) => key < &end[..],
            Self::Everything => true,
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        let rank = |reach: &Self| match reach {
            Self::Before(_) => 0,
            Self::Through(_) => 1,
            Self::Everything => 2,
        };
        let end = |reach: &Self| match reach {
            Self::Before(end) | Self::Through(end) => Some(end.clone()),
            Self::Everything => None,
        };
        match (end(self), end(other)) {
            (Some(mine), Some(theirs)) => mine.cmp(&theirs).then(rank(self).cmp(&rank(other))),
            (mine, theirs) => mine.is_none().cmp(&theirs.is_none()),
        }
    }
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T> Intervals<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// The value at a position that [`Self::stab`] gave.
    pub(crate) fn value(&self, at: usize) -> &T {
        &self.entries[at].value
    }

    pub(crate) fn get_or_insert_with(&mut self, range: &KeyRange, make: impl FnOnce() -> T) -> &T {
        let at = match self.find(range) {
            Ok(at) => at,
            Err(at) => {
                let entry = Entry { range: range.clone(), reach: Reach::of(range), value: make() };
                self.entries.insert(at, entry);
                rebuild(&mut self.entries);
                at
            }
        };
        &self.entries[at].value
    }

    pub(crate) fn remove(&mut self, range: &KeyRange) {
        if let Ok(at) = self.find(range) {
            self.entries.remove(at);
            rebuild(&mut self.entries);
        }
    }

    /// Calls `found` with the position of each range that holds `key`, in order.
    pub(crate) fn stab(&self, key: &[u8], mut found: impl FnMut(usize)) {
        stab(&self.entries, 0, key, &mut found);
    }

    fn find(&self, range: &KeyRange) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| {
            let by_start = entry.range.start().cmp(range.start());
            by_start.then_with(|| Reach::of(&entry.range).order(&Reach::of(range)))
        })
    }
}

fn rebuild<T>(entries: &mut [Entry<T>]) -> Option<Reach> {
    let middle = entries.len() / 2;
    let (left, rest) = entries.split_at_mut(middle);
    let (root, right) = rest.split_first_mut()?;
    let reaches = [Some(Reach::of(&root.range)), rebuild(left), rebuild(right)];
    let furthest = reaches.into_iter().flatten().max_by(Reach::order)?;
    root.reach = furthest.clone();
    Some(furthest)
}

fn stab<T>(entries: &[Entry<T>], offset: usize, key: &[u8], found: &mut impl FnMut(usize)) {
    let middle = entries.len() / 2;
    let (left, rest) = entries.split_at(middle);
    let Some((root, right)) = rest.split_first() else { return };
    if !root.reach.holds(key) {
        return;
    }
    stab(left, offset, key, found);
    if key >= &root.range.start()[..] {
        if root.range.contains(key) {
            found(offset + middle);
        }
        stab(right, offset + middle + 1, key, found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || "[ab]{0,3}".prop_map(Bytes::from);
        prop_oneof![
            key().prop_map(KeyRange::key),
            key().prop_map(KeyRange::prefix),
            key().prop_map(KeyRange::from),
            (key(), key()).prop_map(|(start, end)| KeyRange::between(start, end)),
        ]
    }

    proptest! {
        /// The ranges found for a key are those that hold it, whatever came and went before.
        #[test]
        fn stabbing_finds_what_holds_the_key(
            ranges in prop::collection::vec((range(), any::<bool>()), 0..24),
            keys in prop::collection::vec("[abc]{0,4}", 1..16),
        ) {
            let mut intervals = Intervals::default();
            for (range, _) in &ranges {
                intervals.get_or_insert_with(range, || range.clone());
            }
            for (range, _) in ranges.iter().filter(|(_, remove)| *remove) {
                intervals.remove(range);
            }
            for key in keys {
                let mut found = Vec::new();
                intervals.stab(key.as_bytes(), |at| found.push(intervals.value(at).clone()));
                let mut expected: Vec<KeyRange> = Vec::new();
                for (range, _) in &ranges {
                    let removed = ranges.iter().any(|(other, remove)| *remove && other == range);
                    if !removed && range.contains(key.as_bytes()) && !expected.contains(range) {
                        expected.push(range.clone());
                    }
                }
                let sorted = |mut ranges: Vec<KeyRange>| {
                    ranges.sort_by_key(|range| format!("{range:?}"));
                    ranges
                };
                prop_assert_eq!(sorted(found), sorted(expected));
            }
        }
    }
}
