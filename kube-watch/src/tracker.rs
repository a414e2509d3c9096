//! What the consumer was told, and the difference that an answer makes to it; pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use crate::object::ObjectKey;

/// Identifies the content of an object: equal fingerprints mean that there is nothing new to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// Hashes the text and not just the resource version, which an API server restored from a backup hands out twice.
    ///
    /// What stands before the metadata is left out: a watch sends kind and version there, a list of a built-in resource does not.
    pub(crate) fn of(json: &str) -> Self {
        let from = json.find("\"metadata\"").unwrap_or(0);
        let mut hasher = DefaultHasher::new();
        hasher.write(&json.as_bytes()[from..]);
        Self(hasher.finish())
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    fingerprint: Fingerprint,
    decodable: bool,
    /// The list that named it last.
    list: u64,
}

/// The keys of one resource, across relists.
///
/// Holds no objects: per key its name, a fingerprint and which list named it.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    known: BTreeMap<ObjectKey, Known>,
    list: u64,
    /// The current list holds an object that has no name: nobody can say which one it did not omit.
    list_has_nameless: bool,
    undecodable: usize,
}

impl Tracker {
    /// A list begins. One that was under way is forgotten, with what it omitted so far.
    pub(crate) fn begin_list(&mut self) {
        self.list += 1;
        self.list_has_nameless = false;
    }

    /// An object was named, by a list or a watch. True if its content is new, and the consumer must hear of it.
    pub(crate) fn observe(&mut self, key: &ObjectKey, fingerprint: Fingerprint) -> bool {
        let list = self.list;
        if let Some(known) = self.known.get_mut(key) {
            known.list = list;
            return std::mem::replace(&mut known.fingerprint, fingerprint) != fingerprint;
        }
        self.known.insert(key.clone(), Known { fingerprint, decodable: true, list });
        true
    }

    /// Whether the latest content of an object decoded.
    pub(crate) fn decoded(&mut self, key: &ObjectKey, decodable: bool) {
        if let Some(known) = self.known.get_mut(key) {
            let before = std::mem::replace(&mut known.decodable, decodable);
            self.undecodable = self.undecodable + usize::from(!decodable) - usize::from(!before);
        }
    }

    /// The list holds an object without a name, so what it omits is no evidence.
    pub(crate) fn observe_nameless(&mut self) {
        self.list_has_nameless = true;
    }

    /// The list is complete: what it did not name is gone, in order of the keys.
    pub(crate) fn end_list(&mut self) -> Vec<ObjectKey> {
        if self.list_has_nameless {
            return Vec::new();
        }
        let list = self.list;
        let gone: Vec<_> = self.known.extract_if(.., |_, known| known.list != list).collect();
        self.undecodable -= gone.iter().filter(|(_, known)| !known.decodable).count();
        gone.into_iter().map(|(key, _)| key).collect()
    }

    /// The watch says that an object is gone. True if the consumer had been told of it.
    pub(crate) fn delete(&mut self, key: &ObjectKey) -> bool {
        let Some(known) = self.known.remove(key) else { return false };
        self.undecodable -= usize::from(!known.decodable);
        true
    }

    pub(crate) fn objects(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn undecodable(&self) -> usize {
        self.undecodable
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What an API server may answer; small domains, so that keys collide.
    #[derive(Clone, Debug)]
    enum Step {
        Applied(u8, Content),
        Deleted(u8),
        /// A list of these; it breaks off before its end if `complete` is false.
        List {
            items: BTreeMap<u8, Content>,
            complete: bool,
        },
    }

    /// `None` is content that does not decode.
    type Content = Option<u8>;

    fn content() -> impl Strategy<Value = Content> {
        prop_oneof![3 => (0u8..4).prop_map(Some), 1 => Just(None)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..6, content()).prop_map(|(key, content)| Step::Applied(key, content)),
            2 => (0u8..6).prop_map(Step::Deleted),
            2 => (proptest::collection::btree_map(0u8..6, content(), 0..6), any::<bool>())
                .prop_map(|(items, complete)| Step::List { items, complete }),
        ]
    }

    fn key(id: u8) -> ObjectKey {
        ObjectKey::new(if id.is_multiple_of(2) { "a" } else { "" }, &format!("o{id}"))
    }

    /// The consumer: applies what it is told, and fails on what it should not be told.
    #[derive(Default)]
    struct Consumer {
        tracker: Tracker,
        /// Latest value that decoded.
        values: BTreeMap<ObjectKey, u8>,
        /// Latest content told of each key.
        told: BTreeMap<ObjectKey, Content>,
        events: usize,
    }

    impl Consumer {
        fn observe(&mut self, id: u8, content: Content) {
            let key = key(id);
            if !self.tracker.observe(&key, Fingerprint::of(&format!("{content:?}"))) {
                return;
            }
            self.events += 1;
            self.tracker.decoded(&key, content.is_some());
            if let Some(value) = content {
                self.values.insert(key.clone(), value);
            }
            assert_ne!(self.told.insert(key, content), Some(content), "an unchanged object was told twice");
        }

        fn delete(&mut self, key: &ObjectKey) {
            assert!(self.told.remove(key).is_some(), "{key} was deleted but never told of");
            self.values.remove(key);
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Applied(id, content) => self.observe(*id, *content),
                Step::Deleted(id) => {
                    if self.tracker.delete(&key(*id)) {
                        self.delete(&key(*id));
                    }
                }
                Step::List { items, complete } => {
                    self.tracker.begin_list();
                    for (id, content) in items {
                        self.observe(*id, *content);
                    }
                    if *complete {
                        for key in self.tracker.end_list() {
                            self.delete(&key);
                        }
                    }
                }
            }
        }
    }

    proptest! {
        /// Whatever was known before, a complete list leaves exactly what it named.
        #[test]
        fn a_relist_converges_to_what_it_names(
            before in vec(step(), 0..40),
            items in proptest::collection::btree_map(0u8..6, content(), 0..6),
        ) {
            let mut consumer = Consumer::default();
            for step in &before {
                consumer.step(step);
            }
            consumer.step(&Step::List { items: items.clone(), complete: true });
            let named: BTreeMap<_, _> = items.iter().map(|(id, content)| (key(*id), *content)).collect();
            prop_assert_eq!(&consumer.told, &named);
            prop_assert_eq!(consumer.tracker.objects(), named.len());
            prop_assert_eq!(consumer.tracker.undecodable(), named.values().filter(|c| c.is_none()).count());
            let told = consumer.events;
            consumer.step(&Step::List { items, complete: true });
            prop_assert_eq!(consumer.events, told, "the same list again tells nothing");
        }

        /// Content that does not decode, and lists that break off, leave every older value in place.
        #[test]
        fn neither_undecodable_content_nor_a_broken_list_removes_a_good_value(
            before in vec(step(), 0..40),
            id in 0u8..6,
            partial in proptest::collection::btree_map(0u8..6, Just(None), 0..6),
        ) {
            let mut consumer = Consumer::default();
            for step in &before {
                consumer.step(step);
            }
            let good = consumer.values.clone();
            consumer.step(&Step::Applied(id, None));
            consumer.step(&Step::List { items: partial, complete: false });
            prop_assert_eq!(&consumer.values, &good);
        }

        /// The counters are those of a plain map that does the same.
        #[test]
        fn the_counters_agree_with_a_plain_map(steps in vec(step(), 0..60)) {
            let mut consumer = Consumer::default();
            for step in &steps {
                consumer.step(step);
                prop_assert_eq!(consumer.tracker.objects(), consumer.told.len());
                let undecodable = consumer.told.values().filter(|content| content.is_none()).count();
                prop_assert_eq!(consumer.tracker.undecodable(), undecodable);
            }
        }
    }

    #[test]
    fn an_object_is_the_same_in_a_list_and_in_a_watch() {
        let listed = r#"{"metadata":{"name":"a","resourceVersion":"3"},"spec":{}}"#;
        let watched =
            r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"3"},"spec":{}}"#;
        let changed = r#"{"metadata":{"name":"a","resourceVersion":"3"},"spec":{"x":1}}"#;
        assert_eq!(Fingerprint::of(listed), Fingerprint::of(watched));
        assert_ne!(Fingerprint::of(listed), Fingerprint::of(changed));
    }

    #[test]
    fn a_list_with_a_nameless_object_deletes_nothing_and_the_next_one_does() {
        let mut tracker = Tracker::default();
        tracker.begin_list();
        tracker.observe(&key(1), Fingerprint::of("x"));
        tracker.end_list();
        tracker.begin_list();
        tracker.observe_nameless();
        assert!(tracker.end_list().is_empty());
        tracker.begin_list();
        assert_eq!(tracker.end_list(), [key(1)]);
    }
}
