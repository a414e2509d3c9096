//! How fast a store is asked, by Cilium's options: `etcd.qps`, `etcd.bootstrapQps`, `etcd.maxInflight`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The limits that were asked for; none of them by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Requests per second, and how many of them may come at once.
    pub(crate) qps: Option<f64>,
    /// Takes the place of `qps` until the daemon is ready.
    pub(crate) bootstrap_qps: Option<f64>,
    /// Requests under way at a time; `qps` unless set.
    pub(crate) max_inflight: Option<usize>,
}

/// Tokens that come at a rate and are kept up to a number. Pure.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: f64,
    /// May be negative: tokens that are promised.
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: f64, now: Instant) -> Self {
        Self { rate, tokens: rate, at: now }
    }

    /// Takes one token; how long to wait until it is there.
    fn take(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(self.rate.max(1.0)) - 1.0;
        self.at = now;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.rate) }
    }
}

/// Keeps requests to [`Limits`]; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    limits: Limits,
    bucket: Mutex<Option<Bucket>>,
    inflight: Option<Semaphore>,
    under_way: AtomicUsize,
    bootstrapped: AtomicBool,
}

/// A limiter that may be gone with its client.
#[derive(Clone, Debug)]
pub(super) struct WeakLimiter(Weak<Shared>);

impl WeakLimiter {
    /// The limiter, if a client still has it.
    pub(super) fn upgrade(&self) -> Option<Limiter> {
        self.0.upgrade().map(|shared| Limiter { shared })
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    shared: &'a Shared,
    _slot: Option<SemaphorePermit<'a>>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        let qps = limits.bootstrap_qps.or(limits.qps);
        let bucket = qps.map(|rate| Bucket::new(rate, Instant::now()));
        let inflight = limits.max_inflight.map(|max| Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        let shared = Shared {
            limits,
            bucket: Mutex::new(bucket),
            inflight,
            under_way: AtomicUsize::new(0),
            bootstrapped: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// One that does not keep it alive.
    pub(super) fn downgrade(&self) -> WeakLimiter {
        WeakLimiter(Arc::downgrade(&self.shared))
    }

    /// The daemon is ready: from now on `qps` holds.
    pub(crate) fn bootstrapped(&self) {
        if !self.shared.bootstrapped.swap(true, Ordering::Relaxed) {
            *self.bucket() = self.shared.limits.qps.map(|rate| Bucket::new(rate, Instant::now()));
        }
    }

    /// Waits for its turn; also says how long.
    pub(crate) async fn enter(&self) -> (Permit<'_>, Duration) {
        let came = Instant::now();
        let slot = match &self.shared.inflight {
            Some(inflight) => Some(inflight.acquire().await.expect("nobody closes the semaphore")),
            None => None,
        };
        let wait = self.bucket().as_mut().map_or(Duration::ZERO, |bucket| bucket.take(Instant::now()));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.shared.under_way.fetch_add(1, Ordering::Relaxed);
        (Permit { shared: &self.shared, _slot: slot }, came.elapsed())
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::Relaxed)
    }

    /// What holds now: requests per second and requests at a time; infinite where there is no limit.
    pub(crate) fn in_force(&self) -> (f64, f64) {
        let rate = self.bucket().map_or(f64::INFINITY, |bucket| bucket.rate);
        (rate, self.shared.limits.max_inflight.map_or(f64::INFINITY, |max| max as f64))
    }

    fn bucket(&self) -> std::sync::MutexGuard<'_, Option<Bucket>> {
        // Each change is complete before anything that could panic.
        self.shared.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_keeps_to_its_rate() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(10.0, begin);
        for request in 0..10 {
            assert_eq!(bucket.take(begin), Duration::ZERO, "{request}");
        }
        assert_eq!(bucket.take(begin), Duration::from_millis(100));
        assert_eq!(bucket.take(begin), Duration::from_millis(200));
        // What was promised is paid for first.
        assert_eq!(bucket.take(begin + Duration::from_millis(300)), Duration::ZERO);
        let idle = begin + Duration::from_secs(60);
        assert!((0..10).all(|_| bucket.take(idle).is_zero()), "no more than a burst is saved up");
        assert!(!bucket.take(idle).is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_under_way_at_a_time() {
        let limiter = Limiter::new(Limits { max_inflight: Some(1), ..Limits::default() });
        let (first, waited) = limiter.enter().await;
        assert!(waited < Duration::from_secs(1));
        let second = tokio::time::timeout(Duration::from_secs(5), limiter.enter()).await;
        assert!(second.is_err() && limiter.under_way() == 1);
        drop(first);
        drop(limiter.enter().await);
        assert_eq!(limiter.under_way(), 0);
    }

    #[test]
    fn the_bootstrap_limit_ends_with_the_bootstrap() {
        let limits = Limits { qps: Some(20.0), bootstrap_qps: Some(10_000.0), max_inflight: None };
        let limiter = Limiter::new(limits);
        assert_eq!(limiter.in_force(), (10_000.0, f64::INFINITY));
        limiter.bootstrapped();
        assert_eq!(limiter.in_force(), (20.0, f64::INFINITY));
        assert_eq!(Limiter::new(Limits::default()).in_force(), (f64::INFINITY, f64::INFINITY));
    }
}
