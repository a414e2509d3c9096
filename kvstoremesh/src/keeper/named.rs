//! The keys that a list names. Pure.

use std::collections::BTreeSet;

/// A set of keys of which most are told in their order, as a list of a store does.
///
/// Those lie one behind the other: a key costs its bytes and 4 more, not a place in a tree and two allocations. With a
/// hundred clusters that list at a time this is the most that a mirror needs beside the entries themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Named {
    /// The keys that came in order, without anything between them.
    text: Vec<u8>,
    /// Where in `text` each of them ends.
    ends: Vec<u32>,
    /// Those that did not.
    strays: BTreeSet<Box<[u8]>>,
    /// Keys in `text` that were taken out again.
    removed: BTreeSet<Box<[u8]>>,
}

impl Named {
    pub(crate) fn insert(&mut self, key: &[u8]) {
        let is_known = self.removed.remove(key) || self.strays.contains(key);
        if is_known {
            return;
        }
        let in_order = self.ends.is_empty() || self.at(self.ends.len() - 1) < key;
        match u32::try_from(self.text.len() + key.len()) {
            Ok(end) if in_order => {
                self.text.extend_from_slice(key);
                self.ends.push(end);
            }
            Ok(_) | Err(_) => {
                if self.position(key).is_none() {
                    self.strays.insert(key.into());
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if !self.strays.remove(key) && self.position(key).is_some() {
            self.removed.insert(key.into());
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.strays.contains(key) || (self.position(key).is_some() && !self.removed.contains(key))
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - self.removed.len() + self.strays.len()
    }

    /// Which of the keys that came in order it is.
    fn position(&self, key: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.at(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn at(&self, position: usize) -> &[u8] {
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[position] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In whatever order keys come and go, it is the set that a tree would be.
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), "[a-c]{0,2}"), 0..40), sorted in prop::collection::btree_set("[a-c]{0,3}", 0..20)) {
            let (mut named, mut set) = (Named::default(), BTreeSet::new());
            let steps = sorted.into_iter().map(|key| (true, key)).chain(steps);
            for (comes, key) in steps {
                if comes {
                    named.insert(key.as_bytes());
                    set.insert(key.clone());
                } else {
                    named.remove(key.as_bytes());
                    set.remove(&key);
                }
                prop_assert_eq!(named.len(), set.len());
                prop_assert_eq!(named.contains(key.as_bytes()), comes);
            }
            for key in ["", "a", "ab", "abc", "b", "bb", "c", "cc", "ccc"] {
                prop_assert_eq!(named.contains(key.as_bytes()), set.contains(key), "{}", key);
            }
        }
    }

    #[test]
    fn keys_that_come_in_order_are_in_no_tree() {
        let mut named = Named::default();
        for key in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            named.insert(key.as_bytes());
        }
        assert_eq!((named.strays.len(), named.ends.len(), named.text.len()), (0, 3, 24));
    }
}
