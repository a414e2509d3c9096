use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use kvstore::WatchError;
use proptest::prelude::*;

use super::*;

pub(super) const SHRINK: Shrink =
    Shrink { percent: 50, window: Duration::from_secs(60), exempt: 2, hold: Duration::from_secs(300) };

pub(super) fn put(key: &str, value: &str) -> Change {
    let new = Revision(1);
    Change::Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        mod_revision: new,
        create_revision: new,
    }
}

pub(super) fn delete(key: &str) -> Change {
    Change::Delete { key: Bytes::from(key.to_owned()) }
}

pub(super) fn list_done() -> Change {
    Change::ListDone { keys: 0, revision: Revision(9) }
}

pub(super) fn lost() -> Change {
    Change::Lost { error: Arc::new(WatchError::Closed) }
}

pub(super) fn resumed() -> Change {
    Change::Resumed { revision: Revision(9) }
}

/// The mirrored keys, as a writer holds them across connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) keys: RefCell<BTreeMap<Bytes, Bytes>>,
    pub(super) synced: Cell<bool>,
}

impl Target for Written {
    fn wanted(&self) -> usize {
        self.keys.borrow().len()
    }

    fn put(&self, entries: Vec<(Bytes, Bytes, u64)>) {
        self.extend(entries.into_iter().map(|(key, value, _)| (key, Some(value))).collect());
    }

    fn extend(&self, wishes: Vec<(Bytes, Option<Bytes>)>) {
        for (key, value) in wishes {
            match value {
                Some(value) => drop(self.keys.borrow_mut().insert(key, value)),
                None => drop(self.keys.borrow_mut().remove(&key)),
            }
        }
    }

    fn omitted(&self, named: &Named) -> BTreeSet<Bytes> {
        self.keys.borrow().keys().filter(|key| !named.contains(key)).cloned().collect()
    }

    fn wants(&self, key: &[u8]) -> bool {
        self.keys.borrow().contains_key(key)
    }

    fn wanted_of(&self, keys: &BTreeSet<Bytes>) -> BTreeSet<Bytes> {
        self.keys.borrow().keys().filter(|key| keys.contains(*key)).cloned().collect()
    }

    fn synced(&self) {
        self.synced.set(true);
    }
}

impl Written {
    fn names(&self) -> Vec<String> {
        self.keys.borrow().keys().map(|key| key.escape_ascii().to_string()).collect()
    }
}

/// A keeper with its target and a clock.
struct Bench {
    keeper: Keeper,
    written: Written,
    start: Instant,
    seconds: u64,
    patience: Patience,
}

impl Bench {
    fn new(max_keys: usize) -> Self {
        let keeper = Keeper::new(Rules { max_value_bytes: 3, max_keys, shrink: SHRINK });
        let (start, patience) = (Instant::now(), Patience::default());
        Self { keeper, written: Written::default(), start, seconds: 0, patience }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds)
    }

    fn take(&mut self, batch: Vec<Change>) -> Taken {
        self.keeper.take(batch, self.now(), &self.written)
    }

    /// A connection lists these keys, and is believed.
    fn list(&mut self, keys: &[&str]) {
        self.keeper.connect();
        let mut batch: Vec<Change> = keys.iter().map(|key| put(key, "1")).collect();
        batch.push(list_done());
        self.take(batch);
        self.keeper.complete(self.now(), &self.written);
    }

    fn pass(&mut self, seconds: u64) -> Option<(Reason, usize)> {
        self.seconds += seconds;
        self.keeper.on_deadline(self.now(), self.patience, &self.written)
    }

    fn held(&self) -> usize {
        self.keeper.held().map_or(0, |held| held.keys.len())
    }
}

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

#[test]
fn a_list_removes_what_it_omits_and_only_at_its_end() {
    let mut bench = Bench::new(9);
    bench.list(&["a", "b"]);
    bench.keeper.connect();
    bench.take(vec![put("b", "2")]);
    assert_eq!(bench.written.names(), ["a", "b"]);
    bench.take(vec![list_done()]);
    assert_eq!(bench.written.names(), ["a", "b"], "nobody said that the list can be trusted");
    bench.keeper.complete(bench.now(), &bench.written);
    assert_eq!(bench.written.names(), ["b"]);
}

#[test]
fn a_list_that_is_not_trusted_removes_nothing() {
    let mut bench = Bench::new(9);
    bench.list(&["a"]);
    bench.take(vec![lost()]);
    let taken = bench.take(vec![delete("a"), list_done()]);
    assert!(matches!(taken.signal, Some(Signal::Listed { .. })), "{:?}", taken.signal);
    assert_eq!(bench.written.names(), ["a"]);
}

#[test]
fn a_resumed_watch_removes_only_what_it_names() {
    let mut bench = Bench::new(9);
    bench.list(&["a", "b"]);
    bench.take(vec![lost()]);
    bench.take(vec![resumed()]);
    bench.take(vec![delete("a")]);
    assert_eq!(bench.written.names(), ["b"]);
}

#[test]
fn an_entry_that_goes_bad_keeps_its_last_good_value() {
    let mut bench = Bench::new(9);
    bench.list(&["a"]);
    let taken = bench.take(vec![put("a", "four")]);
    assert_eq!(taken.skipped[0].1.reason, Reason::ValueTooLarge);
    assert_eq!(bench.written.keys.borrow()[&b"a"[..]], "1");
    bench.keeper.connect();
    bench.take(vec![put("a", "four"), put("../x", "1"), list_done()]);
    bench.keeper.complete(bench.now(), &bench.written);
    assert_eq!(bench.written.names(), ["a"], "named by the list, though refused");
}

#[test]
fn a_collapse_is_held_and_goes_with_time() {
    for live in [true, false] {
        let mut bench = Bench::new(9);
        bench.list(&FIVE);
        if live {
            bench.take(FIVE.map(delete).to_vec());
        } else {
            bench.list(&[]);
        }
        assert_eq!((bench.written.names().len(), bench.held()), (5, 5), "live: {live}");
        assert_eq!(bench.keeper.held().unwrap().reason, Reason::WithdrawalAbrupt);
        assert_eq!(bench.pass(299), None);
        assert_eq!(bench.pass(1), Some((Reason::WithdrawalAbrupt, 5)));
        assert!(bench.written.names().is_empty());
    }
}

#[test]
fn a_user_releases_what_is_held() {
    let mut bench = Bench::new(9);
    bench.list(&FIVE);
    bench.list(&["a"]);
    assert_eq!(bench.held(), 4);
    assert_eq!(bench.keeper.release(bench.now(), &bench.written), 4);
    assert_eq!(bench.written.names(), ["a"]);
    assert_eq!(bench.keeper.release(bench.now(), &bench.written), 0);
}

#[test]
fn held_keys_that_come_back_stay_and_a_full_list_settles_the_others() {
    let mut bench = Bench::new(9);
    bench.list(&FIVE);
    bench.list(&[]);
    bench.take(vec![put("a", "1"), put("b", "1"), put("c", "1")]);
    assert_eq!((bench.written.names().len(), bench.held()), (5, 2), "it may not have written all yet");
    bench.list(&["a", "b", "c", "d"]);
    assert_eq!(bench.written.names(), ["a", "b", "c", "d"]);
    assert_eq!(bench.held(), 0);
}

#[test]
fn what_is_held_is_not_given_up_while_the_peer_is_out_of_contact() {
    let mut bench = Bench::new(9);
    bench.list(&FIVE);
    bench.list(&[]);
    bench.keeper.disconnected(bench.now(), &bench.written);
    assert_eq!(bench.pass(1000), None);
    bench.list(&FIVE);
    assert_eq!((bench.written.names().len(), bench.held()), (5, 0));
    bench.keeper.disconnected(bench.now(), &bench.written);
    bench.list(&[]);
    assert_eq!(bench.held(), 5, "another collapse has its own time");
    bench.keeper.disconnected(bench.now(), &bench.written);
    bench.seconds += 400;
    bench.list(&[]);
    assert_eq!(bench.pass(0), Some((Reason::WithdrawalAbrupt, 5)), "said twice, and long enough ago");
}

#[test]
fn small_sets_and_small_shares_go_at_once() {
    let mut bench = Bench::new(9);
    bench.list(&["a", "b"]);
    bench.list(&[]);
    assert!(bench.written.names().is_empty());
    bench.list(&FIVE);
    bench.take(vec![delete("a"), delete("b")]);
    assert_eq!(bench.written.names(), ["c", "d", "e"]);
    bench.take(vec![delete("c")]);
    assert_eq!((bench.written.names().len(), bench.held()), (3, 1), "three of five within the window");
}

#[test]
fn a_kind_that_is_not_offered_any_more_is_a_collapse_with_a_reason_of_its_own() {
    let mut bench = Bench::new(9);
    bench.list(&FIVE);
    bench.keeper.not_offered(bench.now(), &bench.written);
    assert_eq!(bench.keeper.held().unwrap().reason, Reason::CapabilityAbsent);
    assert_eq!(bench.pass(300), Some((Reason::CapabilityAbsent, 5)));
}

#[test]
fn a_restart_is_like_a_loss_of_contact() {
    let mut bench = Bench::new(9);
    let found = FIVE.map(|key| (Bytes::from(key), Bytes::from_static(b"1"))).to_vec();
    bench.keeper.adopt(found, true, bench.now(), &bench.written);
    assert!(bench.written.synced.get(), "its canary stays alive");
    bench.list(&[]);
    assert_eq!((bench.written.names().len(), bench.held()), (5, 5), "what was there is the earlier set");
}

#[test]
fn what_was_left_without_a_canary_is_no_complete_set() {
    let mut bench = Bench::new(9);
    bench.keeper.adopt(vec![(Bytes::from("a"), Bytes::new())], false, bench.now(), &bench.written);
    assert!(!bench.written.synced.get());
    bench.patience.drain_after = Some(Duration::from_secs(1));
    bench.keeper.disconnected(bench.now(), &bench.written);
    assert_eq!(bench.pass(100), None, "nothing was ever current");
}

#[test]
fn policies_end_the_last_state_and_contact_brings_it_back() {
    let cases = [
        (
            Patience { drain_after: Some(Duration::from_secs(60)), revoke_after: None },
            Reason::ContactLostDrained,
        ),
        (Patience { drain_after: None, revoke_after: Some(Duration::from_secs(60)) }, Reason::CacheTtlEnded),
    ];
    for (patience, reason) in cases {
        let mut bench = Bench::new(9);
        bench.patience = patience;
        bench.keeper.disconnected(bench.now(), &bench.written);
        assert_eq!(bench.pass(1000), None, "{reason}: never before the first contact");
        bench.list(&FIVE);
        bench.keeper.disconnected(bench.now(), &bench.written);
        assert_eq!(bench.pass(59), None);
        bench.keeper.disconnected(bench.now(), &bench.written);
        assert_eq!(bench.pass(1), Some((reason, 5)), "attempts that fail do not wind the clock back");
        assert_eq!(bench.keeper.given_up().unwrap().reason, reason);
        assert_eq!(bench.pass(1000), None, "once");
        bench.list(&FIVE);
        assert_eq!((bench.written.names().len(), bench.keeper.given_up()), (5, None));
    }
    let mut kept = Bench::new(9);
    kept.list(&FIVE);
    kept.keeper.disconnected(kept.now(), &kept.written);
    assert_eq!(kept.pass(1_000_000), None);
}

#[test]
fn what_a_list_that_broke_off_has_named_does_not_outlive_the_policy() {
    let drained = || {
        let mut bench = Bench::new(9);
        bench.patience.drain_after = Some(Duration::from_secs(60));
        bench.list(&FIVE);
        bench.keeper.disconnected(bench.now(), &bench.written);
        assert_eq!(bench.pass(60), Some((Reason::ContactLostDrained, 5)));
        bench.keeper.connect();
        bench.take(vec![put("a", "1")]);
        assert_eq!(bench.pass(0), None, "as the peer says");
        bench
    };
    type Break = fn(&mut Bench);
    let breaks: [(&str, Break); 4] = [
        ("connection", |bench| bench.keeper.disconnected(bench.now(), &bench.written)),
        ("reader", |bench| bench.keeper.unread(bench.now(), &bench.written)),
        ("watch", |bench| drop(bench.take(vec![lost()]))),
        ("watch, with the last of it", |bench| drop(bench.take(vec![put("b", "1"), lost()]))),
    ];
    for (what, breaks) in breaks {
        let mut bench = drained();
        breaks(&mut bench);
        assert_eq!(bench.written.names(), [""; 0], "{what}");
        assert!(bench.keeper.given_up().unwrap().keys > 5, "{what}");
        bench.list(&FIVE);
        assert_eq!((bench.written.names().len(), bench.keeper.given_up()), (5, None), "{what}");
    }
}

/// Nothing was there to be given up when the time came, so it is due as soon as something is.
#[test]
fn whoever_keeps_the_time_hears_of_a_list_that_begins_and_breaks_off_out_of_contact() {
    let mut bench = Bench::new(9);
    bench.patience.drain_after = Some(Duration::from_secs(60));
    bench.list(&[]);
    bench.keeper.disconnected(bench.now(), &bench.written);
    bench.seconds += 100;
    bench.keeper.connect();
    let mut outlines = vec![bench.keeper.outline()];
    bench.take(vec![put("a", "1")]);
    outlines.push(bench.keeper.outline());
    bench.take(vec![lost()]);
    outlines.push(bench.keeper.outline());
    assert!(outlines[0] != outlines[1] && outlines[1] != outlines[2], "{outlines:?}");
    assert_eq!(bench.pass(0), Some((Reason::ContactLostDrained, 1)));
}

#[test]
fn whoever_keeps_the_time_hears_of_a_connection_that_ends_before_it_brought_a_list() {
    let mut bench = Bench::new(9);
    bench.list(&FIVE);
    bench.keeper.disconnected(bench.now(), &bench.written);
    let lost = bench.keeper.outline();
    bench.keeper.found();
    let found = bench.keeper.outline();
    bench.keeper.disconnected(bench.now(), &bench.written);
    assert!(lost != found && found != bench.keeper.outline(), "the cache's time stops and begins anew");
}

#[test]
fn times_beyond_the_clock_are_never() {
    let mut bench = Bench::new(9);
    let shrink = Shrink { hold: Duration::MAX, window: Duration::MAX, ..SHRINK };
    bench.keeper = Keeper::new(Rules { max_value_bytes: 3, max_keys: 9, shrink });
    bench.patience = Patience { drain_after: Some(Duration::MAX), revoke_after: Some(Duration::MAX) };
    bench.list(&FIVE);
    bench.list(&[]);
    assert_eq!((bench.held(), bench.keeper.held_until()), (5, None));
    bench.keeper.disconnected(bench.now(), &bench.written);
    assert_eq!(bench.keeper.next_deadline(bench.patience, &bench.written), None);
    assert_eq!(bench.pass(1_000_000), None);
}

#[test]
fn a_connection_that_finds_the_configuration_stops_the_cache_ttl_and_not_the_policy() {
    let mut bench = Bench::new(9);
    bench.patience =
        Patience { drain_after: Some(Duration::from_secs(90)), revoke_after: Some(Duration::from_secs(60)) };
    bench.list(&FIVE);
    bench.keeper.disconnected(bench.now(), &bench.written);
    bench.pass(50);
    bench.keeper.found();
    assert_eq!(bench.pass(39), None);
    assert_eq!(bench.pass(1), Some((Reason::ContactLostDrained, 5)), "no list came");
}

#[test]
fn keys_above_the_limit_are_left_out_until_there_is_room() {
    let mut bench = Bench::new(3);
    bench.keeper.connect();
    let taken = bench.take(FIVE.map(|key| put(key, "1")).into_iter().chain([list_done()]).collect());
    bench.keeper.complete(bench.now(), &bench.written);
    let reasons: Vec<Reason> = taken.skipped.iter().map(|(_, rejection)| rejection.reason).collect();
    assert_eq!(reasons, [Reason::TooManyKeys; 2]);
    assert_eq!(
        (bench.written.names(), bench.keeper.left_out()),
        (vec!["a".into(), "b".into(), "c".into()], 2)
    );
    assert_eq!(bench.take(vec![put("f", "1")]).skipped.len(), 1, "live ones too");
    assert!(!bench.keeper.has_room(&bench.written));
    bench.take(vec![delete("a")]);
    assert!(bench.keeper.has_room(&bench.written));
}

#[test]
fn a_peer_that_calls_new_keys_old_ones_has_no_more_room_for_them() {
    let old = |key: &str| match put(key, "1") {
        Change::Put { key, value, create_revision, .. } => {
            Change::Put { key, value, create_revision, mod_revision: Revision(7) }
        }
        other @ (Change::Delete { .. }
        | Change::ListDone { .. }
        | Change::Lost { .. }
        | Change::Resumed { .. }) => other,
    };
    let mut bench = Bench::new(3);
    bench.list(&["a", "b"]);
    let taken = bench.take(vec![old("b"), old("c"), old("d"), old("c"), old("a")]);
    assert_eq!(taken.skipped.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [b"d"]);
    assert_eq!(bench.written.names(), ["a", "b", "c"]);
    // What is held back is not the peer's any more, and has no place of its own when it returns.
    let mut bench = Bench::new(5);
    bench.list(&FIVE);
    bench.list(&[]);
    bench.take(["f", "g", "h"].map(|key| put(key, "1")).to_vec());
    let taken = bench.take(FIVE.map(old).to_vec());
    assert_eq!((taken.skipped.len(), bench.held()), (3, 3));
}

#[test]
fn a_flood_is_not_read_to_its_end() {
    let mut bench = Bench::new(1);
    bench.keeper.connect();
    let taken = bench.take(FIVE.map(|key| put(key, "1")).to_vec());
    assert_eq!(taken.signal, Some(Signal::Flooded));
    assert_eq!(bench.written.names(), ["a"]);
}

#[test]
fn neither_is_one_that_comes_key_by_key() {
    let mut bench = Bench::new(1);
    bench.list(&["0"]);
    let signals: Vec<_> = FIVE.iter().map(|key| bench.take(vec![put(key, "1")]).signal).collect();
    assert_eq!(signals, [None, None, None, None, Some(Signal::Flooded)]);
    bench.keeper.connect();
    assert_eq!((bench.keeper.left_out(), bench.take(vec![put("0", "1")]).signal), (0, None));
}

proptest! {
    /// Whatever was mirrored before, a trusted list leaves exactly what it named, at once or when the hold is over.
    #[test]
    fn a_list_converges(lists in prop::collection::vec(prop::collection::btree_set("[a-f]", 0..7), 1..6)) {
        let mut bench = Bench::new(9);
        for list in &lists {
            bench.list(&list.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert!(list.iter().all(|key| bench.written.names().contains(key)), "a good key is missing");
            if bench.held() > 0 {
                bench.pass(300);
            }
            prop_assert_eq!(bench.written.names(), list.iter().cloned().collect::<Vec<_>>());
            bench.seconds += 100;
        }
    }
}
