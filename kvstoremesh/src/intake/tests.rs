use std::collections::BTreeMap;
use std::sync::Arc;

use kvstore::WatchError;
use mesh_types::Reason;
use proptest::prelude::*;

use super::*;

fn put(key: &str, value: &str) -> Change {
    Change::Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        mod_revision: Revision(1),
        create_revision: Revision(1),
    }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: Bytes::from(key.to_owned()) }
}

fn list_done() -> Change {
    Change::ListDone { keys: 0, revision: Revision(9) }
}

fn lost() -> Change {
    Change::Lost { error: Arc::new(WatchError::Closed) }
}

/// The mirrored keys, as a writer would hold them across connections.
#[derive(Default)]
struct Written(BTreeMap<Bytes, Bytes>);

impl Written {
    fn take(&mut self, intake: &mut Intake, batch: Vec<Change>, trusted: bool) -> Taken {
        let mut taken = intake.take(batch);
        for (key, value) in taken.wishes.drain(..) {
            match value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
        if trusted && matches!(taken.signal, Some(Signal::Listed { .. })) {
            let named = intake.complete();
            self.0.retain(|key, _| named.contains(key));
        }
        taken
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|key| std::str::from_utf8(key).unwrap()).collect()
    }
}

#[test]
fn the_list_of_a_new_connection_removes_what_it_omits_and_only_at_its_end() {
    let mut written = Written::default();
    written.take(&mut Intake::new(9), vec![put("a", "1"), put("b", "1"), list_done()], true);

    let mut intake = Intake::new(9);
    written.take(&mut intake, vec![put("b", "2")], true);
    assert_eq!(written.keys(), ["a", "b"]);
    written.take(&mut intake, vec![list_done()], true);
    assert_eq!(written.keys(), ["b"]);
}

#[test]
fn a_list_that_is_not_trusted_removes_nothing() {
    let (mut written, mut intake) = (Written::default(), Intake::new(9));
    written.take(&mut intake, vec![put("a", "1"), list_done()], true);
    written.take(&mut intake, vec![lost()], true);
    let taken = written.take(&mut intake, vec![delete("a"), list_done()], false);
    assert!(matches!(taken.signal, Some(Signal::Listed { again: true, .. })), "{:?}", taken.signal);
    assert_eq!(written.keys(), ["a"]);
}

#[test]
fn a_resumed_watch_removes_only_what_it_names() {
    let (mut written, mut intake) = (Written::default(), Intake::new(9));
    written.take(&mut intake, vec![put("a", "1"), put("b", "1"), list_done()], true);
    written.take(&mut intake, vec![lost()], true);
    written.take(&mut intake, vec![Change::Resumed { revision: Revision(9) }], true);
    written.take(&mut intake, vec![delete("a")], true);
    assert_eq!(written.keys(), ["b"]);
}

#[test]
fn an_entry_that_goes_bad_keeps_its_last_good_value() {
    let (mut written, mut intake) = (Written::default(), Intake::new(3));
    written.take(&mut intake, vec![put("a", "1"), list_done()], true);
    let taken = written.take(&mut intake, vec![put("a", "four")], true);
    assert_eq!(taken.skipped[0].1.reason, Reason::ValueTooLarge);
    assert_eq!(written.0[&b"a"[..]], "1");
    let mut next_connection = Intake::new(3);
    written.take(&mut next_connection, vec![put("a", "four"), put("../x", "1"), list_done()], true);
    assert_eq!(written.keys(), ["a"], "named by the list, though refused");
}

proptest! {
    /// Whatever was mirrored before, a trusted list leaves exactly what it named and what could be mirrored.
    #[test]
    fn a_list_converges(lists in prop::collection::vec(prop::collection::btree_map("[a-d]", "[x-z]{0,2}", 0..5), 1..6)) {
        let mut written = Written::default();
        for list in &lists {
            let mut batch: Vec<Change> = list.iter().map(|(key, value)| put(key, value)).collect();
            batch.push(list_done());
            written.take(&mut Intake::new(9), batch, true);
            prop_assert_eq!(written.keys(), list.keys().collect::<Vec<_>>());
        }
    }
}
