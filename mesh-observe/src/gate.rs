//! Which withdrawals are obeyed at once, and which only with evidence. Pure.
//!
//! A mirror whose leases end takes its canaries along, ours before its keys; a mirror that withdraws keys leaves the canary
//! standing. So when many keys vanish at once, a list omits keys, or the canary was seen to go, it is asked for. Without it
//! the withdrawals are held, until the keys come again or a list is complete under a canary.

use std::collections::BTreeSet;

use bytes::Bytes;
use kvstore::sync::Change;

/// The withdrawals of one kind of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Keys that the store has, as far as is known.
    known: usize,
    /// A list is under way or may come.
    listing: bool,
    held: BTreeSet<Bytes>,
}

impl Gate {
    /// A connection begins, with a list.
    pub(crate) fn begin(&mut self) {
        self.listing = true;
    }

    /// How many withdrawals are held.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether the canary must be asked for before the batch may [`pass`](Self::pass). `vanished`: as far as is known it is
    /// gone, as that of a mirror is whose keys hang on many leases that end one after the other.
    pub(crate) fn must_ask(&self, batch: &[Change], vanished: bool) -> bool {
        let deletes = batch.iter().filter(|change| matches!(change, Change::Delete { .. })).count();
        let listed = batch.iter().any(|change| matches!(change, Change::ListDone { .. }));
        let collapse = deletes > 0 && (vanished || self.listing || deletes * 2 >= self.known);
        collapse || (listed && !self.held.is_empty())
    }

    /// What of the batch takes effect now. `trusted`: the canary stands, or nobody needed to ask.
    pub(crate) fn pass(&mut self, batch: Vec<Change>, trusted: bool) -> Vec<Change> {
        let mut passed = Vec::with_capacity(batch.len());
        for change in batch {
            match &change {
                Change::Put { key, create_revision, mod_revision, .. } => {
                    self.held.remove(key);
                    self.known += usize::from(!self.listing && create_revision == mod_revision);
                }
                Change::Delete { key } => {
                    self.known = self.known.saturating_sub(1);
                    if !trusted {
                        self.held.insert(key.clone());
                        continue;
                    }
                }
                Change::ListDone { keys, .. } => {
                    self.known = *keys;
                    self.listing = false;
                    if trusted {
                        passed.extend(self.release());
                    }
                }
                Change::Lost { .. } => self.listing = true,
                Change::Resumed { .. } => self.listing = false,
            }
            passed.push(change);
        }
        passed
    }

    /// The canary was written anew, and the store then had the keys `present`: the other held ones are gone.
    pub(crate) fn settle(&mut self, present: &BTreeSet<Bytes>) -> Vec<Change> {
        self.held.retain(|key| !present.contains(key));
        self.release()
    }

    fn release(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.held).into_iter().map(|key| Change::Delete { key }).collect()
    }
}

#[cfg(test)]
mod tests {
    use kvstore::Revision;

    use super::*;

    fn put(key: &'static str) -> Change {
        Change::Put {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::new(),
            mod_revision: Revision(5),
            create_revision: Revision(5),
        }
    }

    fn delete(key: &'static str) -> Change {
        Change::Delete { key: Bytes::from_static(key.as_bytes()) }
    }

    fn done(keys: usize) -> Change {
        Change::ListDone { keys, revision: Revision(5) }
    }

    fn deleted(changes: &[Change]) -> Vec<&[u8]> {
        let deletes = changes.iter().filter_map(|change| match change {
            Change::Delete { key } => Some(&key[..]),
            Change::Put { .. } | Change::ListDone { .. } | Change::Lost { .. } | Change::Resumed { .. } => {
                None
            }
        });
        deletes.collect()
    }

    /// A gate that has listed `a` to `d`.
    fn listed() -> Gate {
        let mut gate = Gate::default();
        gate.begin();
        gate.pass(vec![put("a"), put("b"), put("c"), put("d"), done(4)], true);
        gate
    }

    #[test]
    fn a_few_live_withdrawals_pass_unasked() {
        let mut gate = listed();
        assert!(!gate.must_ask(&[delete("a")], false));
        assert_eq!(deleted(&gate.pass(vec![delete("a")], true)), [b"a"]);
    }

    #[test]
    fn half_of_all_keys_at_once_needs_evidence_and_so_does_the_last_one() {
        let mut gate = listed();
        assert!(gate.must_ask(&[delete("a"), delete("b")], false));
        gate.pass(vec![delete("a"), delete("b"), delete("c")], true);
        assert!(gate.must_ask(&[delete("d")], false));
        gate.pass(vec![put("e"), put("f")], true);
        assert!(!gate.must_ask(&[delete("d")], false), "new keys count");
    }

    #[test]
    fn a_few_need_evidence_too_once_the_canary_was_seen_to_go() {
        let gate = listed();
        assert!(gate.must_ask(&[delete("a")], true));
        assert!(!gate.must_ask(&[put("e")], true));
    }

    #[test]
    fn what_a_list_omits_needs_evidence() {
        let mut gate = listed();
        gate.begin();
        assert!(gate.must_ask(&[delete("a"), done(3)], false));
    }

    #[test]
    fn held_keys_that_come_again_are_never_withdrawn_and_the_others_are_in_the_end() {
        let mut gate = listed();
        assert!(deleted(&gate.pass(vec![delete("a"), delete("b"), delete("c")], false)).is_empty());
        assert_eq!(gate.held(), 3);
        gate.pass(vec![put("a")], true);
        // `b` is back in the store, though the follower has not come so far.
        let present = [Bytes::from_static(b"a"), Bytes::from_static(b"b")].into();
        assert_eq!(deleted(&gate.settle(&present)), [b"c"]);
        assert_eq!(gate.held(), 0);
    }

    #[test]
    fn a_complete_list_under_a_canary_settles_what_was_held() {
        let mut gate = listed();
        gate.pass(vec![delete("a"), delete("b")], false);
        gate.begin();
        let batch = vec![put("a"), done(3)];
        assert!(gate.must_ask(&batch, false));
        let passed = gate.pass(batch, true);
        assert_eq!(deleted(&passed), [b"b"]);
        assert!(matches!(passed.last(), Some(Change::ListDone { .. })), "the end of the list comes last");
    }

    #[test]
    fn a_list_without_a_canary_settles_nothing() {
        let mut gate = listed();
        gate.begin();
        assert!(deleted(&gate.pass(vec![delete("a"), done(3)], false)).is_empty());
        assert_eq!(gate.held(), 1);
    }
}
