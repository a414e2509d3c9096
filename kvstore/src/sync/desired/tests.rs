use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn keys(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| std::str::from_utf8(&item.key).unwrap()).collect()
}

fn write_all(set: &mut DesiredSet) {
    while set.step() == Step::Write {
        let items = set.take(usize::MAX, usize::MAX);
        set.stored(items);
    }
}

#[test]
fn an_equal_upsert_and_an_unknown_delete_are_nothing() {
    let mut set = DesiredSet::default();
    assert!(set.upsert(b("a"), b("1")));
    assert!(!set.upsert(b("a"), b("1")));
    assert!(!set.delete(b"x"));
    write_all(&mut set);
    assert!(!set.upsert(b("a"), b("1")));
    assert_eq!(set.step(), Step::Idle);
}

#[test]
fn the_later_of_two_wishes_is_written_once() {
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    set.upsert(b("a"), b("2"));
    let items = set.take(10, 1000);
    assert_eq!(keys(&items), ["a"]);
    assert_eq!(items[0].value, Some(b("2")));
}

#[test]
fn a_wish_during_a_write_is_written_after_it() {
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    let first = set.take(10, 1000);
    set.upsert(b("a"), b("2"));
    set.stored(first);
    assert_eq!(set.progress().pending, 1);
    assert_eq!(set.take(10, 1000)[0].value, Some(b("2")));
}

#[test]
fn a_batch_keeps_to_its_limits_but_is_never_empty() {
    let mut set = DesiredSet::default();
    for key in ["a", "b", "c"] {
        set.upsert(b(key), b("0123456789"));
    }
    assert_eq!(keys(&set.take(2, 1000)), ["a", "b"]);
    assert_eq!(keys(&set.take(10, 1)), ["c"]);
}

#[test]
fn the_canary_waits_for_early_writes_and_the_sweep_and_not_for_late_ones() {
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    set.synced();
    assert_eq!(set.step(), Step::Write);
    let items = set.take(10, 1000);
    set.upsert(b("late"), b("1"));
    set.failed(items);
    assert_eq!(set.step(), Step::Write, "the failed write is early");
    let items = set.take(1, 1000);
    assert_eq!(keys(&items), ["a"], "a failed write comes first");
    set.stored(items);
    assert_eq!(set.step(), Step::Sweep);
    set.sweep([b("a"), b("left by an earlier life")]);
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
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    write_all(&mut set);
    assert_eq!(set.step(), Step::Idle);
}

#[test]
fn a_delete_frees_the_place_on_the_lease() {
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    let mut items = set.take(1, 10);
    items[0].lease = LeaseId(7);
    assert!(set.stored(items).is_empty());
    set.delete(b"a");
    let items = set.take(1, 10);
    assert_eq!(set.stored(items), [LeaseId(7)]);
    assert_eq!(set.progress(), Progress::default());
}

#[test]
fn a_lost_lease_brings_back_its_keys_only() {
    let mut set = DesiredSet::default();
    for (key, lease) in [("a", 1), ("b", 2)] {
        set.upsert(b(key), b("1"));
        let mut items = set.take(1, 10);
        items[0].lease = LeaseId(lease);
        set.stored(items);
    }
    set.lease_lost(LeaseId(2));
    assert_eq!(keys(&set.take(10, 100)), ["b"]);
}

#[test]
fn a_replaced_store_gets_everything_and_the_canary_last() {
    let mut set = DesiredSet::default();
    set.upsert(b("a"), b("1"));
    set.synced();
    write_all(&mut set);
    set.sweep([]);
    set.canary_stored();
    set.all_lost();
    assert!(!set.progress().synced);
    assert_eq!(set.step(), Step::Write);
    write_all(&mut set);
    assert_eq!(set.step(), Step::Sweep);
}

#[test]
fn a_foreign_change_of_a_stored_key_is_reverted_and_our_own_is_not() {
    let mut set = DesiredSet::default();
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
    WriteFails(usize),
    Synced,
    Replaced,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6u8, 0..3u8).prop_map(|(k, v)| Op::Upsert(k, v)),
        2 => (0..6u8).prop_map(Op::Delete),
        4 => (1..4usize).prop_map(Op::WriteOk),
        1 => (1..4usize).prop_map(Op::WriteFails),
        1 => Just(Op::Synced),
        1 => Just(Op::Replaced),
    ]
}

proptest! {
    /// Whatever happens on the way, in the end the store holds what is wanted, and the canary never stands
    /// over a store that lacks a key which was wanted when the set was declared complete.
    #[test]
    fn the_store_converges(ops in prop::collection::vec(op(), 0..80), left in prop::collection::btree_set(0..8u8, 0..4)) {
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
                    set.stored(items);
                }
                Op::WriteFails(n) if set.step() == Step::Write => {
                    let items = set.take(n, 1000);
                    set.failed(items);
                }
                Op::WriteOk(_) | Op::WriteFails(_) => {}
                Op::Synced => {
                    set.synced();
                    promised.get_or_insert_with(|| wanted.clone());
                }
                Op::Replaced => {
                    store.clear();
                    set.all_lost();
                    promised = promised.is_some().then(|| wanted.clone());
                }
            }
            prop_assert_eq!(set.progress().wanted, wanted.len());
        }
        loop {
            match set.step() {
                Step::Write => {
                    let items = set.take(3, 1000);
                    carry_out(&mut store, &items);
                    set.stored(items);
                }
                Step::Sweep => set.sweep(store.keys().cloned().collect::<Vec<_>>()),
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
