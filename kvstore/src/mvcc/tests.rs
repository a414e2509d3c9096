//! The key space against a model that keeps a whole map per revision.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::range::KeyRange;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    create: i64,
    modified: i64,
    version: i64,
    value: Bytes,
    lease: i64,
}

type State = BTreeMap<Bytes, Version>;

/// What the key space promises, in the simplest form.
#[derive(Debug)]
struct Model {
    /// States by revision; the first is revision 1.
    states: Vec<State>,
    leases: BTreeMap<i64, i64>,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        Self { states: vec![State::new()], leases: BTreeMap::new(), compacted: -1 }
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn at(&self, revision: i64) -> &State {
        &self.states[revision as usize - 1]
    }

    fn now(&self) -> &State {
        self.at(self.revision())
    }

    fn commit(&mut self, state: State) {
        if state != *self.now() {
            self.states.push(state);
        }
    }

    fn put(&mut self, state: &mut State, key: &Bytes, value: &Bytes, lease: i64) {
        let modified = self.revision() + 1;
        let old = state.get(key);
        let version = Version {
            create: old.map_or(modified, |old| old.create),
            modified,
            version: old.map_or(1, |old| old.version + 1),
            value: value.clone(),
            lease,
        };
        state.insert(key.clone(), version);
    }

    /// Changes at a revision: key, and whether it was deleted.
    fn changes(&self, revision: i64, range: &KeyRange) -> BTreeMap<Bytes, bool> {
        let (before, after) = (self.at(revision - 1), self.at(revision));
        let keys: BTreeSet<&Bytes> = before.keys().chain(after.keys()).collect();
        let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
        changed.filter(|key| range.contains(key)).map(|key| (key.clone(), !after.contains_key(key))).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Bytes, Bytes, usize),
    Delete(KeyRange),
    Txn { guard: Bytes, version: i64, puts: Vec<(Bytes, Bytes)>, otherwise: KeyRange },
    Grant(i64),
    Revoke(usize),
    Compact(u8),
    Purge(usize),
}

fn key() -> impl Strategy<Value = Bytes> {
    "[abc]{1,3}".prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    "[xyz]{0,2}".prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::key),
        2 => "[abc]{0,2}".prop_map(|prefix| KeyRange::prefix(Bytes::from(prefix))),
        1 => key().prop_map(KeyRange::from),
        1 => (key(), key()).prop_map(|(start, end)| KeyRange::between(start, end)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (key(), value(), 0..4usize).prop_map(|(k, v, l)| Step::Put(k, v, l)),
        3 => range().prop_map(Step::Delete),
        2 => (key(), 0..3i64, prop::collection::btree_map(key(), value(), 0..3), range()).prop_map(
            |(guard, version, puts, otherwise)| Step::Txn { guard, version, puts: puts.into_iter().collect(), otherwise }
        ),
        1 => (1..5i64).prop_map(Step::Grant),
        1 => (0..4usize).prop_map(Step::Revoke),
        1 => any::<u8>().prop_map(Step::Compact),
        2 => (1..4usize).prop_map(Step::Purge),
    ]
}

fn version_of(record: &Record) -> (Bytes, Version) {
    let fields = record.fields();
    let version = Version {
        create: fields.create_revision,
        modified: fields.mod_revision,
        version: fields.version,
        value: Bytes::copy_from_slice(fields.value),
        lease: fields.lease,
    };
    (Bytes::copy_from_slice(fields.key), version)
}

/// Carries out one step on both.
fn both(store: &mut Keyspace, model: &mut Model, step: Step) {
    match step {
        Step::Put(key, value, lease) => {
            let lease =
                lease.checked_sub(1).and_then(|nth| model.leases.keys().nth(nth).copied()).unwrap_or(0);
            store.put(&Put { key: key.clone(), value: value.clone(), lease, ..Put::default() }).unwrap();
            let mut state = model.now().clone();
            model.put(&mut state, &key, &value, lease);
            model.commit(state);
        }
        Step::Delete(range) => {
            let mut txn = store.write();
            let deleted = txn.delete_range(&range);
            let commit = txn.commit();
            assert_eq!(commit.events.len(), deleted.len());
            let mut state = model.now().clone();
            state.retain(|key, _| !range.contains(key));
            model.commit(state);
        }
        Step::Txn { guard, version, puts, otherwise } => {
            let holds = model.now().get(&guard).map_or(0, |found| found.version) == version;
            let compare = Compare {
                range: KeyRange::key(guard),
                target: CompareTarget::Version(version),
                result: CompareResult::Equal,
            };
            let put = |(key, value): &(Bytes, Bytes)| {
                Op::Put(Put { key: key.clone(), value: value.clone(), ..Put::default() })
            };
            let nested = Transaction { success: puts.iter().map(put).collect(), ..Transaction::default() };
            let txn = Transaction {
                compare: vec![compare],
                success: vec![Op::Txn(nested), Op::Range(Range::of(KeyRange::all()))],
                failure: vec![Op::Delete(otherwise.clone())],
            };
            let (result, _) = store.transact(&txn).unwrap();
            assert_eq!(result.succeeded, holds);
            let mut state = model.now().clone();
            if holds {
                for (key, value) in &puts {
                    model.put(&mut state, key, value, 0);
                }
                let OpResult::Range(seen) = &result.results[1] else { panic!("the second is the read") };
                let seen: State = seen.records.iter().map(version_of).collect();
                assert_eq!(seen, state, "a transaction reads its own writes");
            } else {
                state.retain(|key, _| !otherwise.contains(key));
            }
            model.commit(state);
        }
        Step::Grant(id) => {
            assert_eq!(store.grant(id, 60, 0).is_ok(), model.leases.insert(id, 60).is_none());
        }
        Step::Revoke(nth) => {
            let Some(id) = model.leases.keys().nth(nth).copied() else { return };
            model.leases.remove(&id);
            store.revoke(id).unwrap();
            let mut state = model.now().clone();
            state.retain(|_, version| version.lease != id);
            model.commit(state);
        }
        Step::Compact(part) => {
            let target = model.revision() * i64::from(part) / 255;
            assert_eq!(store.compact(target).is_ok(), target > model.compacted);
            model.compacted = model.compacted.max(target);
        }
        Step::Purge(steps) => drop(store.purge(steps)),
    }
}

fn agree(store: &Keyspace, model: &Model, range: &KeyRange) {
    assert_eq!(store.revision(), model.revision());
    assert_eq!(store.keys(), model.now().len());
    for revision in model.compacted.max(1)..=model.revision() {
        let expected: State = model
            .at(revision)
            .iter()
            .filter(|(key, _)| range.contains(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let found = store.range(&Range { revision, ..Range::of(range.clone()) }).unwrap();
        assert_eq!(found.records.iter().map(version_of).collect::<State>(), expected, "at {revision}");
        assert_eq!(found.count, expected.len(), "at {revision}");
        let page = store.range(&Range { revision, limit: 2, ..Range::of(range.clone()) }).unwrap();
        assert_eq!(
            (page.records.len(), page.count, page.more),
            (expected.len().min(2), expected.len(), expected.len() > 2)
        );
    }
    if model.compacted > 1 {
        let refused = store.range(&Range { revision: model.compacted - 1, ..Range::of(range.clone()) });
        assert!(matches!(refused, Err(Refusal::Compacted { .. })));
    }
    let mut from = model.compacted.max(1) + 1;
    let mut seen: BTreeMap<i64, BTreeMap<Bytes, bool>> = BTreeMap::new();
    while from <= model.revision() {
        let (events, next) = store.changes(range, from, 30, 3).unwrap();
        assert!(next > from);
        for event in events {
            let revision = event.record.mod_revision();
            let (key, version) = version_of(&event.record);
            let before = event.prev.as_ref().map(version_of);
            assert_eq!(before.as_ref().map(|(_, version)| version), model.at(revision - 1).get(&key));
            assert_eq!((version.version > 0).then_some(&version), model.at(revision).get(&key));
            let again = seen.entry(revision).or_default().insert(key, event.record.is_tombstone());
            assert_eq!(again, None, "each change once");
        }
        from = next;
    }
    for revision in model.compacted.max(1) + 1..=model.revision() {
        assert_eq!(
            seen.remove(&revision).unwrap_or_default(),
            model.changes(revision, range),
            "at {revision}"
        );
    }
    assert_eq!(store.lease_ids(), model.leases.keys().copied().collect::<Vec<_>>());
    for &lease in model.leases.keys() {
        let (_, _, keys) = store.time_to_live(lease, 0, true).unwrap();
        let expected: Vec<&Bytes> =
            model.now().iter().filter(|(_, version)| version.lease == lease).map(|(key, _)| key).collect();
        assert_eq!(keys.iter().map(Record::key).collect::<Vec<_>>(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), ..ProptestConfig::default() })]

    /// Every revision that can be read shows what the model has, the log names each change once, leases know
    /// their keys; whatever was compacted and forgotten on the way.
    #[test]
    fn the_key_space_is_what_the_model_is(steps in prop::collection::vec(step(), 0..60), range in range()) {
        let mut store = Keyspace::new();
        let mut model = Model::new();
        for step in steps {
            both(&mut store, &mut model, step);
            agree(&store, &model, &range);
        }
        agree(&store, &model, &KeyRange::all());
    }
}

fn put(store: &mut Keyspace, key: &str, lease: i64) {
    let key = Bytes::copy_from_slice(key.as_bytes());
    store.put(&Put { key, value: Bytes::from_static(b"v"), lease, ..Put::default() }).unwrap();
}

#[test]
fn many_keys_split_and_join_blocks_and_stay_in_order() {
    let mut store = Keyspace::new();
    let name = |n: u64| format!("{:05}", n.wrapping_mul(2_654_435_761) % 10_007);
    for n in 0..10_007 {
        put(&mut store, &name(n), 0);
    }
    let all = store.range(&Range::of(KeyRange::all())).unwrap();
    assert_eq!(all.count, 10_007);
    assert!(all.records.is_sorted_by(|a, b| a.key() < b.key()));
    for n in 0..10_000 {
        let mut txn = store.write();
        txn.delete_key(name(n).as_bytes());
        txn.commit();
    }
    let revision = store.revision();
    store.compact(revision).unwrap();
    while store.purge(100) {}
    assert_eq!(store.range(&Range::of(KeyRange::all())).unwrap().records.len(), 7);
    assert_eq!(store.log_len(), 1, "only the change at the compacted revision is kept");
}

#[test]
fn a_hint_where_to_look_first_never_changes_what_is_found() {
    let mut store = Keyspace::new();
    let name = |n: u64| format!("{:04}", n.wrapping_mul(2_654_435_761) % 2003);
    for n in 0..2003 {
        put(&mut store, &name(n), 0);
    }
    // Blocks whose first keys are gone, so that their floors lie below what they hold.
    let mut txn = store.write();
    for n in (0..2003).filter(|n| n % 256 < 40 || n % 3 == 0) {
        txn.delete_key(format!("{n:04}").as_bytes());
    }
    let revision = txn.commit().revision;
    put(&mut store, "0000", 0);
    store.compact(revision + 1).unwrap();
    while store.purge(100) {}
    let all: Vec<_> = store.index.iter(&store.slots, &KeyRange::all()).collect();
    assert!(all.len() < 1300, "some are forgotten");
    for id in all {
        let key = store.slots.get(id).current.key();
        let (near, _) = store.index.find(&store.slots, key).unwrap();
        for n in 0..2003 {
            let wanted = format!("{n:04}");
            let found = store.index.find_near(&store.slots, wanted.as_bytes(), Some(near));
            assert_eq!(found, store.index.find(&store.slots, wanted.as_bytes()), "{wanted} near {near:?}");
        }
    }
}

#[test]
fn a_commit_that_nobody_hears_changes_the_same() {
    let mut stores = [Keyspace::new(), Keyspace::new()];
    let mut events = Vec::new();
    for (store, heard) in stores.iter_mut().zip([true, false]) {
        store.set_heard(heard);
        let mut txn = store.write();
        for key in ["a", "b", "a"] {
            txn.put(key.as_bytes(), b"v", 0);
        }
        assert_eq!(txn.read_revision(), 2);
        let commit = txn.commit();
        assert_eq!(commit.revision, 2);
        events.push(commit.events.len());
        assert_eq!(store.revoke(1).unwrap_err(), Refusal::LeaseNotFound { lease: 1 });
        assert_eq!(store.changes(&KeyRange::all(), 2, usize::MAX, usize::MAX).unwrap().0.len(), 2);
    }
    assert_eq!(events, [2, 0]);
    let sums = stores.each_ref().map(|store| {
        checksum(&store.range(&Range { revision: 2, ..Range::of(KeyRange::all()) }).unwrap().records)
    });
    assert_eq!(sums[0], sums[1]);
    assert_ne!(sums[0], checksum(&[]));
}

#[test]
fn nothing_changes_when_a_transaction_is_refused() {
    let mut store = Keyspace::new();
    let put = |lease| Op::Put(Put { key: Bytes::from_static(b"k"), lease, ..Put::default() });
    let txn = Transaction {
        success: vec![put(0), Op::Txn(Transaction { success: vec![put(9)], ..Transaction::default() })],
        ..Transaction::default()
    };
    assert_eq!(store.transact(&txn).unwrap_err(), Refusal::LeaseNotFound { lease: 9 });
    assert_eq!((store.revision(), store.keys(), store.bytes()), (1, 0, 0));
}

#[test]
fn a_write_without_effect_takes_no_revision() {
    let mut store = Keyspace::new();
    let mut txn = store.write();
    assert!(txn.delete_range(&KeyRange::all()).is_empty());
    assert_eq!(txn.commit().revision, 1);
    assert_eq!(store.revision(), 1);
}

#[test]
fn a_pinned_revision_outlives_compaction_until_it_is_let_go() {
    let mut store = Keyspace::new();
    put(&mut store, "k", 0);
    store.pin(2);
    put(&mut store, "k", 0);
    store.compact(3).unwrap();
    while store.purge(10) {}
    assert_eq!(store.chunk_at(&KeyRange::all(), 2, 10).len(), 1);
    store.unpin(2);
    while store.purge(10) {}
    assert_eq!(store.chunk_at(&KeyRange::all(), 2, 10).len(), 0);
    assert_eq!(store.bytes(), store.get(b"k").unwrap().encoded().len());
}

#[test]
fn a_lease_that_is_over_is_not_kept_alive_and_ends_with_its_keys() {
    let mut store = Keyspace::new();
    store.grant(7, 10, 1_000).unwrap();
    put(&mut store, "a", 7);
    put(&mut store, "b", 7);
    put(&mut store, "b", 0);
    assert_eq!(store.keep_alive(7, 5_000), Ok(10));
    assert_eq!(store.time_to_live(7, 5_500, false).map(|(ttl, left, _)| (ttl, left)), Some((10, 9)));
    assert!(store.ended_leases(14_999).is_empty());
    assert_eq!(store.ended_leases(15_000), [7]);
    assert_eq!(store.keep_alive(7, 15_000), Err(Refusal::LeaseNotFound { lease: 7 }));
    let commit = store.revoke(7).unwrap();
    assert_eq!(commit.events.len(), 1);
    assert!(store.get(b"a").is_none() && store.get(b"b").is_some());
}

#[test]
fn sorting_filtering_and_limits_go_together_as_in_etcd() {
    let mut store = Keyspace::new();
    for key in ["c", "a", "b", "a"] {
        put(&mut store, key, 0);
    }
    let keys = |ask: Range| {
        let found = store.range(&ask).unwrap();
        let keys: String =
            found.records.iter().map(|r| String::from_utf8_lossy(r.key()).into_owned()).collect();
        (keys, found.count, found.more)
    };
    let all = || Range::of(KeyRange::all());
    assert_eq!(
        keys(Range { sort: Some((SortTarget::Key, Order::Descending)), limit: 2, ..all() }),
        ("cb".into(), 3, true)
    );
    assert_eq!(
        keys(Range { sort: Some((SortTarget::Create, Order::Ascending)), ..all() }),
        ("cab".into(), 3, false)
    );
    assert_eq!(
        keys(Range { sort: Some((SortTarget::Version, Order::Descending)), limit: 1, ..all() }),
        ("a".into(), 3, true)
    );
    let filters = Filters { min_mod: 4, ..Filters::default() };
    assert_eq!(keys(Range { filters, ..all() }), ("ab".into(), 3, false));
    let filters = Filters { max_create: 2, ..Filters::default() };
    assert_eq!(keys(Range { filters, limit: 1, ..all() }), ("c".into(), 3, false));
    assert_eq!(keys(Range { count_only: true, ..all() }), (String::new(), 3, false));
}

#[test]
fn a_lease_that_was_found_over_ends_only_if_it_still_is() {
    let mut store = Keyspace::new();
    store.grant(7, 10, 0).unwrap();
    assert_eq!(store.ended_leases(10_000), [7]);
    store.revoke(7).unwrap();
    store.grant(7, 10, 10_000).unwrap();
    assert!(store.revoke_if_ended(7, 10_000).is_none());
    assert_eq!(store.keep_alive(7, 12_000), Ok(10));
    assert!(store.revoke_if_ended(7, 20_000).is_none() && store.has_lease(7));
    assert!(store.revoke_if_ended(7, 22_000).is_some() && !store.has_lease(7));
}

#[test]
fn a_comparison_with_a_range_looks_no_further_than_it_must() {
    let mut store = Keyspace::new();
    let mut txn = store.write();
    for n in 0..500 {
        txn.put(format!("k{n:03}").as_bytes(), b"v", 0);
    }
    txn.delete_key(b"k000");
    txn.put(b"k200", b"v", 0);
    txn.commit();
    for (version, holds, looks) in [(1, false, 200), (2, false, 1), (0, false, 1)] {
        let (target, result) = (CompareTarget::Version(version), CompareResult::Equal);
        let compare = vec![Compare { range: KeyRange::all(), target, result }];
        let txn = Transaction { compare, ..Transaction::default() };
        let before = super::txn::COMPARED.get();
        assert_eq!(store.transact(&txn).unwrap().0.succeeded, holds);
        assert_eq!(
            super::txn::COMPARED.get() - before,
            looks,
            "up to the first key that is not of version {version}"
        );
    }
}

#[test]
fn a_key_that_is_forgotten_holds_nothing_any_more() {
    let mut store = Keyspace::new();
    let put = Put { key: "k".into(), value: "v".into(), ..Put::default() };
    // A block of the index keeps the record of its first key.
    store.put(&Put { key: "a".into(), ..put.clone() }).unwrap();
    let (_, commit) = store.put(&put).unwrap();
    let version = commit.events[0].record.clone();
    drop(commit);
    let mut txn = store.write();
    txn.delete_key(b"k");
    let commit = txn.commit();
    let mark = commit.events[0].record.clone();
    drop(commit);
    store.put(&Put { key: "a".into(), ..put }).unwrap();
    assert_eq!((version.holders(), mark.holders()), (2, 2));
    store.compact(store.revision()).unwrap();
    while store.purge(1) {}
    assert_eq!((version.holders(), mark.holders()), (1, 1));
    assert_eq!(store.get(b"a").unwrap().encoded().len(), store.bytes());
}
