//! How long each change of a peer that is Isthmus took until readers of the local store could see it.
//!
//! ```text
//!  peer: writes revision R at T ──▶ its stamps: (R, T), within a second ─────┐
//!        └─▶ watch ─▶ keeper ─▶ writer: R is stored here at V ──▶ seen: (R, V) ─▶ V - T
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kvstore::Revision;
use kvstore::sync::Witness;
use mesh_types::{MAX_STAMPS, Stamps};

use crate::latency::Latency;

/// The revisions of one peer, as its stamps and the writers of its kinds tell of them.
#[derive(Debug, Default)]
pub(crate) struct Timing {
    pairs: Mutex<Pairs>,
}

/// Both times of each revision. Pure.
#[derive(Debug, Default)]
struct Pairs {
    /// The peer says when it writes what.
    is_told: bool,
    /// When revisions became visible whose stamp is to come, in microseconds of Unix time.
    seen: BTreeMap<i64, i64>,
    /// When revisions were written that are not visible yet, or that were no change of what is mirrored.
    stamped: BTreeMap<i64, i64>,
    latency: Latency,
}

impl Pairs {
    fn saw(&mut self, revision: i64, at: i64) {
        if !self.is_told {
            return;
        }
        match self.stamped.remove(&revision) {
            Some(written) => self.latency.note(at.saturating_sub(written)),
            None => {
                self.seen.insert(revision, at);
                trim(&mut self.seen);
            }
        }
    }

    fn told(&mut self, Stamps(stamps): Stamps) {
        self.is_told = true;
        let newest = stamps.iter().map(|(revision, _)| *revision).max().unwrap_or_default();
        for (revision, written) in stamps {
            match self.seen.remove(&revision) {
                Some(at) => self.latency.note(at.saturating_sub(written)),
                None => {
                    self.stamped.insert(revision, written);
                }
            }
        }
        // Of many commits only some are told.
        self.seen = self.seen.split_off(&newest.saturating_add(1));
        trim(&mut self.stamped);
    }
}

/// Forgets the oldest of too many.
fn trim(times: &mut BTreeMap<i64, i64>) {
    while times.len() > MAX_STAMPS {
        times.pop_first();
    }
}

impl Timing {
    /// A connection begins, perhaps to another store with revisions of its own.
    pub(crate) fn reset(&self) {
        let mut pairs = self.pairs();
        *pairs = Pairs { latency: std::mem::take(&mut pairs.latency), ..Pairs::default() };
    }

    /// The peer says when it wrote what.
    pub(crate) fn told(&self, stamps: Stamps) {
        self.pairs().told(stamps);
    }

    /// What was measured so far.
    pub(crate) fn latency(&self) -> Latency {
        self.pairs().latency.clone()
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        // Nothing in `Pairs` panics half-way through a change.
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Timing {
    fn stored(&self, _: SystemTime, _: Revision, marks: &[u64]) {
        if marks.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let mut pairs = self.pairs();
        let mut before = 0;
        for mark in marks {
            // All keys of one revision are one change.
            if std::mem::replace(&mut before, *mark) != *mark {
                pairs.saw(i64::try_from(*mark).unwrap_or(i64::MAX), now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_change_counts_once_whether_its_stamp_or_its_write_comes_first() {
        let mut pairs = Pairs::default();
        pairs.saw(5, 1_000);
        assert!(pairs.seen.is_empty(), "a peer that stamps nothing costs nothing");
        pairs.told(Stamps(vec![(6, 1_000)]));
        pairs.saw(6, 3_000);
        pairs.saw(7, 5_000);
        assert_eq!(pairs.latency.count(), 1, "7 is not stamped yet");
        pairs.told(Stamps(vec![(7, 1_000), (8, 9_000)]));
        pairs.saw(7, 99_000);
        assert_eq!((pairs.latency.count(), pairs.latency.sum_seconds()), (2, 0.006));
    }

    #[test]
    fn a_clock_ahead_counts_as_zero_and_is_counted() {
        let mut pairs = Pairs { is_told: true, ..Pairs::default() };
        pairs.saw(1, 1_000);
        pairs.told(Stamps(vec![(1, 4_000)]));
        let status = pairs.latency.status();
        assert_eq!((status.count, status.ahead, status.max_seconds), (1, 1, 0.0));
        assert_eq!(status.least_seconds, -0.003);
    }

    #[test]
    fn what_was_left_out_of_the_stamps_is_forgotten_and_a_new_connection_starts_over() {
        let timing = Timing::default();
        timing.told(Stamps(vec![(1, 1)]));
        timing.stored(UNIX_EPOCH, Revision(9), &[2, 2, 3]);
        timing.told(Stamps(vec![(3, 1)]));
        assert_eq!(timing.latency().count(), 1);
        assert!(timing.pairs().seen.is_empty(), "2 will not be told any more");
        timing.reset();
        timing.stored(UNIX_EPOCH, Revision(9), &[1]);
        assert_eq!((timing.latency().count(), timing.pairs().seen.len()), (1, 0));
    }

    proptest! {
        /// Whatever a peer says, what is kept of it is bounded.
        #[test]
        fn it_keeps_little(told in prop::collection::vec(prop::collection::vec((1..i64::MAX, 0..i64::MAX), 0..MAX_STAMPS), 1..6)) {
            let mut pairs = Pairs::default();
            for stamps in told {
                pairs.told(Stamps(stamps));
                (0..2 * MAX_STAMPS as i64).for_each(|revision| pairs.saw(revision, i64::MAX));
                prop_assert!(pairs.seen.len() <= MAX_STAMPS && pairs.stamped.len() <= MAX_STAMPS);
            }
        }
    }
}
