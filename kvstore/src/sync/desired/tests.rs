use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn keys(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| std::str::from_utf8(&item.key).unwrap()).collect()
}

/// The set of a writer that found nothing in the store.
fn looked() -> DesiredSet {
    let mut set = DesiredSet::default();
    assert_eq!(set.step(), Step::Adopt);
    set.adopt([], |_| true);
    set
}

fn found(key: &str, value: &str, lease: i64) -> Found {
    Found { key: b(key), value: b(value), lease: LeaseId(lease) }
}

/// A list in parts of so many keys.
fn sweep(set: &mut DesiredSet, found: impl IntoIterator<Item = Found>, size: usize) {
    let mut found: Vec<Found> = found.into_iter().collect();
    let mut from = None;
    while found.len() > size {
        let rest = found.split_off(size);
        let last = found.last().map(|found| found.key.clone());
        set.sweep(from.as_deref(), std::mem::replace(&mut found, rest), false);
        from = last;
    }
    set.sweep(from.as_deref(), found, true);
    set.swept();
}

fn write_all(set: &mut DesiredSet) {
    while set.step() == Step::Write {
        let items = set.take(usize::MAX, usize::MAX);
        set.stored(items, Vec::new());
    }
}

#[test]
fn keys_that_come_and_go_while_the_store_is_away_leave_nothing_behind() {
    let mut set = looked();
    set.upsert(b("first"), b("1"));
    for n in 0..10_000 {
        let key = b(&format!("{n}"));
        set.upsert(key.clone(), b("1"));
        set.delete(&key);
        // One that goes and comes back keeps no second place.
        set.upsert(b("again"), b(&n.to_string()));
        set.delete(b"again");
    }
    set.upsert(b("again"), b("1"));
    set.upsert(b("last"), b("1"));
    assert!(set.queue.len() < 300, "{}", set.queue.len());
    let items = set.take(usize::MAX, usize::MAX);
    let mut named = keys(&items);
    assert_eq!(named[0], "first");
    named.sort_unstable();
    assert_eq!(named, ["again", "first", "last"]);
}

#[test]
fn an_equal_upsert_and_an_unknown_delete_are_nothing() {
    let mut set = looked();
    assert!(set.upsert(b("a"), b("1")));
    assert!(!set.upsert(b("a"), b("1")));
    assert!(!set.delete(b"x"));
    write_all(&mut set);
    assert!(!set.upsert(b("a"), b("1")));
    assert_eq!(set.step(), Step::Idle);
}

#[test]
fn a_sign_of_life_is_written_though_nothing_changed() {
    let mut set = looked();
    for beat in 0..3 {
        set.rewrite(b"a", b("1"));
        set.rewrite(b"a", b("1"));
        let items = set.take(10, 1000);
        assert_eq!((keys(&items), items[0].value.clone()), (vec!["a"], Some(b("1"))), "beat {beat}");
        set.stored(items, Vec::new());
        assert_eq!((set.step(), set.progress().wanted), (Step::Idle, 1));
    }
}

#[test]
fn the_later_of_two_wishes_is_written_once() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    set.upsert(b("a"), b("2"));
    let items = set.take(10, 1000);
    assert_eq!(keys(&items), ["a"]);
    assert_eq!(items[0].value, Some(b("2")));
}

#[test]
fn a_wish_during_a_write_is_written_after_it() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    let first = set.take(10, 1000);
    set.upsert(b("a"), b("2"));
    set.stored(first, Vec::new());
    assert_eq!(set.progress().pending, 1);
    assert_eq!(set.take(10, 1000)[0].value, Some(b("2")));
}

#[test]
fn a_batch_keeps_to_its_limits_but_is_never_empty() {
    let mut set = looked();
    for key in ["a", "b", "c"] {
        set.upsert(b(key), b("0123456789"));
    }
    assert_eq!(keys(&set.take(2, 1000)), ["a", "b"]);
    assert_eq!(keys(&set.take(10, 1)), ["c"]);
}

#[test]
fn the_canary_waits_for_early_writes_and_the_sweep_and_not_for_late_ones() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    set.synced();
    assert_eq!(set.step(), Step::Write);
    let items = set.take(10, 1000);
    set.upsert(b("late"), b("1"));
    set.failed(items);
    assert_eq!(set.step(), Step::Write, "the failed write is early");
    let items = set.take(1, 1000);
    assert_eq!(keys(&items), ["a"], "a failed write comes first");
    set.stored(items, Vec::new());
    assert_eq!(set.step(), Step::Sweep);
    sweep(&mut set, [found("a", "1", 0), found("left by an earlier life", "old", 0)], 1);
    assert_eq!(set.step(), Step::Write);
    write_all(&mut set);
    assert_eq!(set.step(), Step::Canary);
    assert!(!set.progress().synced);
    set.canary_stored();
    assert!(set.progress().synced);
    set.synced();
    assert_eq!(set.step(), Step::Idle, "only the first call counts");
}

#[test]
fn nothing_is_swept_before_the_set_is_complete() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    write_all(&mut set);
    assert_eq!(set.step(), Step::Idle);
}

#[test]
fn a_delete_frees_the_place_on_the_lease() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    let mut items = set.take(1, 10);
    items[0].lease = LeaseId(7);
    assert!(set.stored(items, Vec::new()).is_empty());
    set.delete(b"a");
    let items = set.take(1, 10);
    assert_eq!(set.stored(items, Vec::new()), [LeaseId(7)]);
    assert_eq!(set.progress(), Progress::default());
}

#[test]
fn a_lost_lease_brings_back_its_keys_only() {
    let mut set = looked();
    for (key, lease) in [("a", 1), ("b", 2)] {
        set.upsert(b(key), b("1"));
        let mut items = set.take(1, 10);
        items[0].lease = LeaseId(lease);
        set.stored(items, Vec::new());
    }
    set.lease_lost(LeaseId(2));
    assert_eq!(keys(&set.take(10, 100)), ["b"]);
}

#[test]
fn a_replaced_store_gets_everything_and_the_canary_last() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    set.synced();
    write_all(&mut set);
    sweep(&mut set, [found("a", "1", 0)], 1);
    set.canary_stored();
    set.all_lost();
    assert!(!set.progress().synced);
    assert_eq!(set.step(), Step::Adopt);
    set.adopt([], |_| true);
    assert_eq!(set.step(), Step::Write);
    write_all(&mut set);
    assert_eq!(set.step(), Step::Sweep);
}

#[test]
fn a_foreign_change_of_a_stored_key_is_reverted_and_our_own_is_not() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    assert!(!set.foreign(b"a", Some(&b("0"))), "our write is still to come");
    write_all(&mut set);
    assert!(!set.foreign(b"a", Some(&b("1"))));
    assert!(!set.foreign(b"x", None));
    assert!(set.foreign(b"a", None));
    assert_eq!(set.take(1, 10)[0].value, Some(b("1")));
}

#[derive(Clone, Debug)]
enum Op {
    Upsert(u8, u8),
    Delete(u8),
    WriteOk(usize),
    /// `done`: only its answer was lost.
    WriteFails {
        items: usize,
        done: bool,
    },
    Synced,
    Replaced,
    RunAgain {
        done: bool,
        foreign: Option<(u8, u8)>,
    },
    Adopt,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6u8, 0..3u8).prop_map(|(k, v)| Op::Upsert(k, v)),
        2 => (0..6u8).prop_map(Op::Delete),
        4 => (1..4usize).prop_map(Op::WriteOk),
        1 => (1..4usize, any::<bool>()).prop_map(|(items, done)| Op::WriteFails { items, done }),
        1 => Just(Op::Synced),
        1 => Just(Op::Replaced),
        1 => (any::<bool>(), prop::option::of((0..8u8, 0..3u8)))
            .prop_map(|(done, foreign)| Op::RunAgain { done, foreign }),
        2 => Just(Op::Adopt),
    ]
}

fn list(store: &BTreeMap<Bytes, Bytes>) -> Vec<Found> {
    let found = |(key, value): (&Bytes, &Bytes)| Found {
        key: key.clone(),
        value: value.clone(),
        lease: LeaseId::NONE,
    };
    store.iter().map(found).collect()
}

#[test]
fn what_an_earlier_life_stored_is_not_written_again() {
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    assert_eq!(set.step(), Step::Adopt);
    let leases = set.adopt(
        [
            found("a", "1", 7),
            found("b", "1", 7),
            found("c", "old", 7),
            found("d", "1", 7),
            found("e", "1", 8),
        ],
        |lease| lease == LeaseId(7),
    );
    assert_eq!(leases, BTreeMap::from([(LeaseId(7), 4)]));
    assert_eq!(set.step(), Step::Idle, "a is there");
    assert!(!set.delete(b"d"), "nobody wanted it");
    for key in ["b", "c", "e"] {
        set.upsert(b(key), b("1"));
    }
    assert_eq!(set.progress(), Progress { wanted: 4, pending: 2, synced: false });
    let items = set.take(10, 1000);
    assert_eq!(keys(&items), ["c", "e"], "another value, and a lease that cannot be kept");
    assert_eq!(items.iter().map(|item| item.lease).collect::<Vec<_>>(), [LeaseId(7), LeaseId::NONE]);
    set.stored(items, Vec::new());
    set.synced();
    assert_eq!(set.step(), Step::Sweep);
    let stored = ["a", "b", "c"].map(|key| found(key, "1", 7));
    sweep(&mut set, stored.into_iter().chain([found("d", "1", 7), found("e", "1", 0)]), 2);
    let items = set.take(10, 1000);
    assert_eq!((keys(&items), &items[0].value), (vec!["d"], &None));
    assert_eq!(set.stored(items, Vec::new()), [LeaseId(7)], "its place is free");
    assert_eq!(set.step(), Step::Canary);
}

#[test]
fn a_sweep_puts_right_what_others_changed_since_the_adoption() {
    let mut set = DesiredSet::default();
    set.adopt(["a", "b", "c", "d"].map(|key| found(key, "1", 7)), |_| true);
    for key in ["a", "b", "c", "d"] {
        set.upsert(b(key), b("1"));
    }
    set.synced();
    assert_eq!(set.step(), Step::Sweep, "nothing to write");
    sweep(&mut set, [found("a", "1", 7), found("b", "other", 7), found("c", "1", 9)], 1);
    let items = set.take(10, 1000);
    assert_eq!(keys(&items), ["b", "c", "d"], "another value, another's lease, gone");
    assert!(items.iter().all(|item| item.value == Some(b("1"))));
}

#[test]
fn what_is_wanted_no_more_before_the_store_was_looked_at_is_deleted_from_it() {
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    assert!(!set.is_flushed());
    set.delete(b"a");
    assert!(!set.is_flushed(), "an earlier life may have left it");
    set.adopt([found("a", "0", 7)], |_| true);
    let items = set.take(10, 100);
    assert_eq!(items[0].value, None);
    assert_eq!(set.stored(items, Vec::new()), [LeaseId(7)]);
    assert!(set.is_flushed());
}

#[test]
fn a_wish_that_returns_to_what_is_stored_is_not_written() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    write_all(&mut set);
    assert!(set.upsert(b("a"), b("2")));
    assert!(set.upsert(b("a"), b("1")));
    assert_eq!((set.progress().pending, set.step()), (0, Step::Idle));
    set.upsert(b("b"), b("1"));
    set.delete(b"b");
    assert_eq!(set.step(), Step::Idle, "it was never stored");
    set.upsert(b("a"), b("3"));
    assert_eq!(keys(&set.take(10, 100)), ["a"], "though it was in the queue before");
}

#[test]
fn a_wish_that_returns_during_a_write_is_written_after_it() {
    let mut set = looked();
    set.upsert(b("a"), b("1"));
    write_all(&mut set);
    set.upsert(b("a"), b("2"));
    let flying = set.take(1, 10);
    set.upsert(b("a"), b("1"));
    set.stored(flying, Vec::new());
    assert_eq!(set.take(1, 10)[0].value, Some(b("1")));
}

#[test]
fn a_store_in_this_process_holds_the_values() {
    let mut set = DesiredSet::under(2);
    set.adopt([], |_| true);
    set.upsert(b("a"), b("1"));
    let items = set.take(1, 10);
    let fields = crate::mvcc::Fields {
        key: b"p/a",
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        value: b"1",
        lease: 0,
    };
    let record = Record::encode(fields, &mut Vec::new());
    set.stored(items, vec![record]);
    assert!(!set.upsert(b("a"), b("1")), "it is known");
    set.all_lost();
    set.adopt([], |_| true);
    assert_eq!(set.take(1, 10)[0].value, Some(b("1")));
}

proptest! {
    /// Whatever happens on the way, in the end the store holds what is wanted, and the canary never stands
    /// over a store that lacks a key which was wanted when the set was declared complete.
    #[test]
    fn the_store_converges(ops in prop::collection::vec(op(), 0..80), left in prop::collection::btree_set(0..8u8, 0..4), page in 1..9usize) {
        let mut set = DesiredSet::default();
        let mut wanted = BTreeMap::new();
        let mut promised: Option<BTreeMap<Bytes, Bytes>> = None;
        let mut store: BTreeMap<Bytes, Bytes> = left.iter().map(|&k| (b(&k.to_string()), b("old"))).collect();
        let carry_out = |store: &mut BTreeMap<Bytes, Bytes>, items: &[Item]| {
            for item in items {
                match &item.value {
                    Some(value) => drop(store.insert(item.key.clone(), value.clone())),
                    None => drop(store.remove(&item.key)),
                }
            }
        };
        for op in ops.into_iter().chain([Op::Synced]) {
            match op {
                Op::Upsert(k, v) => {
                    set.upsert(b(&k.to_string()), b(&v.to_string()));
                    wanted.insert(b(&k.to_string()), b(&v.to_string()));
                }
                Op::Delete(k) => {
                    set.delete(k.to_string().as_bytes());
                    wanted.remove(&b(&k.to_string()));
                    if let Some(promised) = &mut promised {
                        promised.remove(&b(&k.to_string()));
                    }
                }
                Op::WriteOk(n) if set.step() == Step::Write => {
                    let items = set.take(n, 1000);
                    carry_out(&mut store, &items);
                    set.stored(items, Vec::new());
                }
                Op::WriteFails { items, done } if set.step() == Step::Write => {
                    let items = set.take(items, 1000);
                    if done {
                        carry_out(&mut store, &items);
                    }
                    set.failed(items);
                }
                Op::WriteOk(_) | Op::WriteFails { .. } => {}
                Op::Synced => {
                    set.synced();
                    promised.get_or_insert_with(|| wanted.clone());
                }
                Op::Replaced => {
                    store.clear();
                    set.all_lost();
                    promised = promised.is_some().then(|| wanted.clone());
                }
                // Stopped while a write is under way, which may or may not have taken effect; the next life may find
                // that others were here.
                Op::RunAgain { done, foreign } => {
                    if set.step() == Step::Write {
                        let items = set.take(2, 1000);
                        if done {
                            carry_out(&mut store, &items);
                        }
                    }
                    set.all_lost();
                    if let Some((key, value)) = foreign {
                        store.insert(b(&key.to_string()), b(&value.to_string()));
                    }
                    promised = promised.is_some().then(|| wanted.clone());
                }
                Op::Adopt => {
                    if set.step() == Step::Adopt {
                        set.adopt(list(&store), |_| true);
                    }
                }
            }
            prop_assert_eq!(set.progress().wanted, wanted.len());
        }
        loop {
            match set.step() {
                Step::Write => {
                    let items = set.take(3, 1000);
                    carry_out(&mut store, &items);
                    set.stored(items, Vec::new());
                }
                Step::Sweep => sweep(&mut set, list(&store), page),
                Step::Adopt => drop(set.adopt(list(&store), |_| true)),
                Step::Canary => {
                    let promised = promised.as_ref().expect("synced").keys();
                    for key in promised.filter(|key| wanted.contains_key(*key)) {
                        prop_assert!(store.contains_key(key));
                    }
                    set.canary_stored();
                }
                Step::Idle => break,
            }
        }
        prop_assert_eq!(store, wanted);
        prop_assert!(set.progress().synced);
        prop_assert_eq!(set.progress().pending, 0);
    }
}
