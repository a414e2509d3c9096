//! The keys of one prefix as a reader knows them, across reconnects. Pure.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::client::{Event, KeyValue, Revision, WatchError};

/// What a [`super::Follower`] tells its consumer. Keys are relative to the prefix.
#[derive(Clone, Debug)]
pub enum Change {
    /// The key has this value. After an interruption, keys are named again even if nothing changed.
    Put {
        /// The key without the prefix.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// When the value was written.
        mod_revision: Revision,
        /// When the key came into being.
        create_revision: Revision,
    },
    /// The key is gone: the store said so, or a complete list did not name it.
    Delete {
        /// The key without the prefix.
        key: Bytes,
    },
    /// A list ended; what was told until now is the complete set as of `revision`.
    ListDone {
        /// How many keys there are.
        keys: usize,
        /// As of when.
        revision: Revision,
    },
    /// Contact is lost. Nothing is deleted; [`Self::Resumed`] or a new list ending in [`Self::ListDone`] follows.
    Lost {
        /// Why.
        error: Arc<WatchError>,
    },
    /// Contact is back and nothing was missed.
    Resumed {
        /// The watch goes on after this revision.
        revision: Revision,
    },
}

/// The keys that are known, and which list last named them.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    /// Relative key to the number of the list (or the latest list before the event) that named it.
    known: BTreeMap<Box<[u8]>, u32>,
    list: u32,
    /// Keys that the latest list named.
    named: usize,
    /// Nothing is kept in `known`.
    forgetful: bool,
}

impl Mirror {
    /// Knows no keys, for a consumer that does: whatever the store deletes is told, and at the end of a list nothing.
    pub(crate) fn forgetful() -> Self {
        Self { forgetful: true, ..Self::default() }
    }

    /// How many keys are known; of a forgetful one, how many the latest list named.
    pub(crate) fn len(&self) -> usize {
        if self.forgetful { self.named } else { self.known.len() }
    }

    /// A new list begins: every key must be named again to stay.
    pub(crate) fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
        self.named = 0;
    }

    /// A key that the list names.
    pub(crate) fn listed(&mut self, prefix_len: usize, kv: KeyValue) -> Change {
        self.named += 1;
        self.put(prefix_len, kv)
    }

    /// A key that the list or the watch names.
    pub(crate) fn put(&mut self, prefix_len: usize, kv: KeyValue) -> Change {
        let key = kv.key.slice(prefix_len.min(kv.key.len())..);
        match self.known.get_mut(&key[..]) {
            Some(named_by) => *named_by = self.list,
            None if self.forgetful => {}
            None => drop(self.known.insert(key[..].into(), self.list)),
        }
        Change::Put {
            key,
            value: kv.value,
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
        }
    }

    /// What the consumer must hear of a watch event; a delete of an unknown key is nothing.
    pub(crate) fn apply(&mut self, prefix_len: usize, event: Event) -> Option<Change> {
        match event {
            Event::Put(kv) => Some(self.put(prefix_len, kv)),
            Event::Delete { key, .. } => {
                let key = key.slice(prefix_len.min(key.len())..);
                let was_known = self.known.remove(&key[..]).is_some();
                (was_known || self.forgetful).then_some(Change::Delete { key })
            }
        }
    }

    /// The list is complete: what it did not name is gone.
    pub(crate) fn end_list(&mut self) -> Vec<Change> {
        let list = self.list;
        let stale = self.known.extract_if(.., |_, named_by| *named_by != list);
        stale.map(|(key, _)| Change::Delete { key: key.into_vec().into() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::client::LeaseId;

    fn kv(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: Bytes::from(format!("p/{key}")),
            value: Bytes::copy_from_slice(value.as_bytes()),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            version: 1,
            lease: LeaseId::NONE,
        }
    }

    fn carry_out(consumer: &mut BTreeMap<Bytes, Bytes>, change: Change) {
        match change {
            Change::Put { key, value, .. } => drop(consumer.insert(key, value)),
            Change::Delete { key } => {
                assert!(consumer.remove(&key).is_some(), "deleted a key that the consumer never had");
            }
            Change::ListDone { .. } | Change::Lost { .. } | Change::Resumed { .. } => {}
        }
    }

    #[test]
    fn keys_are_relative_to_the_prefix() {
        let change = Mirror::default().put(2, kv("a/b", "v"));
        assert!(matches!(change, Change::Put { key, .. } if key == "a/b"));
    }

    #[test]
    fn a_delete_of_an_unknown_key_is_silent() {
        let event = Event::Delete { key: Bytes::from_static(b"p/x"), mod_revision: Revision(2) };
        assert!(Mirror::default().apply(2, event).is_none());
    }

    #[test]
    fn a_forgetful_one_tells_what_the_store_says_and_concludes_nothing() {
        let mut mirror = Mirror::forgetful();
        mirror.begin_list();
        for key in ["a", "b"] {
            assert!(matches!(mirror.listed(2, kv(key, "1")), Change::Put { .. }));
        }
        assert!(mirror.end_list().is_empty());
        assert_eq!(mirror.len(), 2);
        let gone =
            |key: &'static [u8]| Event::Delete { key: Bytes::from_static(key), mod_revision: Revision(2) };
        assert!(matches!(mirror.apply(2, gone(b"p/x")), Some(Change::Delete { key }) if key == "x"));
        mirror.begin_list();
        assert!(mirror.end_list().is_empty(), "the consumer knows what the list omitted");
    }

    #[test]
    fn an_interrupted_list_deletes_nothing() {
        let mut mirror = Mirror::default();
        mirror.begin_list();
        mirror.put(2, kv("a", "1"));
        mirror.put(2, kv("b", "1"));
        assert!(mirror.end_list().is_empty());
        mirror.begin_list();
        mirror.put(2, kv("a", "1"));
        // The connection breaks here; the next list names both.
        mirror.begin_list();
        mirror.put(2, kv("a", "1"));
        mirror.put(2, kv("b", "1"));
        assert!(mirror.end_list().is_empty());
        assert_eq!(mirror.len(), 2);
    }

    proptest! {
        /// Whatever was known before, a full list leaves the consumer with exactly what it named.
        #[test]
        fn a_list_converges(lists in prop::collection::vec(prop::collection::btree_map("[a-d]{1,2}", "[x-z]", 0..8), 1..6)) {
            let mut mirror = Mirror::default();
            let mut consumer = BTreeMap::new();
            for list in &lists {
                mirror.begin_list();
                for (key, value) in list {
                    carry_out(&mut consumer, mirror.put(2, kv(key, value)));
                }
                for change in mirror.end_list() {
                    carry_out(&mut consumer, change);
                }
                let named: BTreeSet<Bytes> = list.keys().map(|key| Bytes::from(key.clone())).collect();
                prop_assert_eq!(consumer.keys().cloned().collect::<BTreeSet<_>>(), named);
            }
        }
    }
}
