use std::time::Duration;

/// How long to wait before the next attempt: exponential with full jitter.
///
/// The wait before retry `n` (from 0) is drawn evenly from zero to `min(longest, first × 2ⁿ)`. Many clients that
/// lost the same server at the same moment therefore come back spread over the whole interval.
///
/// ```
/// # use std::time::Duration;
/// const BACKOFF: mesh_runtime::Backoff =
///     mesh_runtime::Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// A policy whose bound starts at `first` and doubles up to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The longest wait before retry `attempt`, counted from 0.
    #[must_use]
    pub fn bound(&self, attempt: u32) -> Duration {
        let factor = 2_u32.checked_pow(attempt).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// The wait before retry `attempt`, at the point `random` (0 to 1) of the interval.
    ///
    /// A `random` outside of 0 to 1, or not a number, is taken as the nearest bound (not a number: 1).
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let random = if random.is_nan() { 1.0 } else { random.clamp(0.0, 1.0) };
        self.bound(attempt).mul_f64(random)
    }

    /// The longest wait there is; an attempt that lived as long as this counts as a success.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        self.longest
    }

    /// A counter of attempts that follows this policy.
    #[must_use]
    pub const fn retry(self) -> Retry {
        Retry { policy: self, attempt: 0 }
    }
}

/// Where in a [`Backoff`] a sequence of attempts stands.
#[derive(Clone, Debug)]
pub struct Retry {
    policy: Backoff,
    attempt: u32,
}

impl Retry {
    /// The wait before the next attempt; the one after waits longer. `random` is 0 to 1, see [`jitter`].
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let delay = self.policy.delay(self.attempt, random);
        self.attempt = self.attempt.saturating_add(1);
        delay
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How many waits were handed out since the last success.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempt
    }
}

/// An even draw from 0 (included) to 1 (excluded), for [`Retry::next_delay`].
#[must_use]
pub fn jitter() -> f64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

    #[test]
    fn the_bound_doubles_up_to_the_longest() {
        let bounds: Vec<u128> = (0..8).map(|attempt| POLICY.bound(attempt).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(POLICY.bound(u32::MAX), Duration::from_secs(5), "no overflow after years");
    }

    #[test]
    fn jitter_spreads_over_the_whole_interval() {
        let cases = [
            ("lowest", 0.0, 0),
            ("middle", 0.5, 400),
            ("highest", 1.0, 800),
            ("below the interval", -3.0, 0),
            ("above the interval", 7.0, 800),
            ("not a number", f64::NAN, 800),
        ];
        for (name, random, millis) in cases {
            assert_eq!(POLICY.delay(3, random), Duration::from_millis(millis), "{name}");
        }
        assert!((0.0..1.0).contains(&jitter()));
    }

    #[test]
    fn a_success_starts_over() {
        let mut retry = POLICY.retry();
        assert_eq!(retry.next_delay(1.0), Duration::from_millis(100));
        assert_eq!(retry.next_delay(1.0), Duration::from_millis(200));
        assert_eq!(retry.attempts(), 2);
        retry.reset();
        assert_eq!(retry.next_delay(1.0), Duration::from_millis(100));
    }
}
