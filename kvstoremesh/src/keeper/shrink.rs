//! When a set shrinks so abruptly that it is not believed at once. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The window is remembered in so many pieces.
const SLOTS: u32 = 8;

/// Which withdrawals are held back, and for how long.
///
/// An exporter that restarts with an empty source, or has a kind switched off by mistake, withdraws everything in good
/// form (cilium/cilium#47793). What is gone for good is gone a little later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shrink {
    /// Percent of the keys that may go within the window; 100 is all of them, so that nothing is held back.
    pub percent: u8,
    /// The window.
    pub window: Duration,
    /// So many keys may go in any case: small sets come and go as a whole.
    pub exempt: usize,
    /// How long a withdrawal is held back before it is obeyed after all.
    pub hold: Duration,
}

impl Default for Shrink {
    fn default() -> Self {
        Self { percent: 50, window: Duration::from_secs(60), exempt: 10, hold: Duration::from_secs(5 * 60) }
    }
}

impl Shrink {
    /// Whether a set of `before` keys may not become one of `left` keys at once.
    pub(crate) fn is_abrupt(&self, before: usize, left: usize) -> bool {
        let gone = before.saturating_sub(left);
        gone > self.exempt && gone.saturating_mul(100) > before.saturating_mul(usize::from(self.percent))
    }
}

/// How large a set was in the window that ends now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Sizes {
    now: usize,
    /// When each piece of the window began, and the largest size in it.
    slots: VecDeque<(Instant, usize)>,
}

impl Sizes {
    /// It has this size from `now` on.
    pub(super) fn note(&mut self, now: Instant, size: usize, window: Duration) {
        if size == self.now {
            return;
        }
        // Until now it had the size before.
        let largest = size.max(self.now);
        self.now = size;
        let slot = window / SLOTS;
        match self.slots.back_mut() {
            Some((begin, most)) if now.saturating_duration_since(*begin) < slot => *most = largest.max(*most),
            Some(_) | None => self.slots.push_back((now, largest)),
        }
        self.slots.retain(|(begin, _)| is_recent(*begin, now, window));
    }

    /// What it has is what it should have.
    pub(super) fn reset(&mut self, now: Instant, size: usize) {
        self.slots.clear();
        self.slots.push_back((now, size));
        self.now = size;
    }

    /// The largest size that it had since `now - window`, give or take an eighth.
    pub(super) fn largest(&self, now: Instant, window: Duration) -> usize {
        let recent = self.slots.iter().filter(|(begin, _)| is_recent(*begin, now, window));
        recent.map(|(_, most)| *most).max().unwrap_or_default().max(self.now)
    }
}

/// Whether a piece that began then reaches into the window that ends now.
fn is_recent(begin: Instant, now: Instant, window: Duration) -> bool {
    now.saturating_duration_since(begin) < window.saturating_add(window / SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_and_a_number_must_both_be_exceeded() {
        let shrink = Shrink::default();
        let cases = [
            ("half of a large set", 1000, 500, false),
            ("more than half of it", 1000, 499, true),
            ("all of a small set", 10, 0, false),
            ("all of one that is a little larger", 11, 0, true),
            ("growth", 5, 1000, false),
        ];
        for (case, before, left, expected) in cases {
            assert_eq!(shrink.is_abrupt(before, left), expected, "{case}");
        }
        assert!(!Shrink { percent: 100, ..shrink }.is_abrupt(1000, 0), "all may go");
    }

    #[test]
    fn what_was_long_ago_is_no_measure_and_what_stood_until_now_is() {
        let window = Duration::from_secs(60);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut sizes = Sizes::default();
        sizes.note(at(0), 100, window);
        assert_eq!(sizes.largest(at(3600), window), 100, "it stands");
        sizes.note(at(3600), 60, window);
        assert_eq!(sizes.largest(at(3601), window), 100, "it stood a second ago");
        assert_eq!(sizes.largest(at(3700), window), 60);
        sizes.note(at(3700), 30, window);
        sizes.reset(at(3701), 30);
        assert_eq!(sizes.largest(at(3702), window), 30);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (window, start) = (Duration::from_secs(60), Instant::now());
        let mut sizes = Sizes::default();
        for second in 0..1000 {
            sizes.note(start + Duration::from_secs(second), second as usize, window);
        }
        assert!(sizes.slots.len() <= SLOTS as usize + 2, "{}", sizes.slots.len());
    }
}
