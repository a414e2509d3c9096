//! How long to wait before trying again; pure, the randomness is an argument.

use std::time::Duration;

/// Exponential backoff: `first`, then twice as long each time, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Longest wait after the first failure.
    pub first: Duration,
    /// Longest wait ever.
    pub max: Duration,
}

/// The failures in a row under one policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(policy: BackoffPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Counts a failure and tells how long to wait: between half and all of the current step, so that many clients that
    /// failed together do not come back together. `unit` is random in `[0, 1)`.
    pub(crate) fn next(&mut self, unit: f64) -> Duration {
        let doublings = self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let step = self.policy.first.saturating_mul(1 << doublings).min(self.policy.max);
        step.mul_f64(0.5 + unit.clamp(0.0, 1.0) / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy =
        BackoffPolicy { first: Duration::from_millis(100), max: Duration::from_secs(1) };

    #[test]
    fn the_wait_doubles_up_to_the_maximum_and_restarts_after_a_reset() {
        let mut backoff = Backoff::new(POLICY);
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), POLICY.first);
    }

    #[test]
    fn jitter_keeps_the_wait_between_half_and_all_of_the_step() {
        let mut backoff = Backoff::new(POLICY);
        assert_eq!(backoff.next(0.0), Duration::from_millis(50));
        assert_eq!(backoff.next(0.0), Duration::from_millis(100));
    }

    #[test]
    fn no_number_of_failures_overflows() {
        let mut backoff = Backoff { policy: POLICY, failures: u32::MAX };
        assert_eq!(backoff.next(1.0), POLICY.max);
    }
}
