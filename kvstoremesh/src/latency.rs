//! How long a change took from the peer to here, by the peer's own clock. Pure.
//!
//! Clocks of two clusters differ, so what is measured includes that difference; below zero counts as zero, and is counted.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::status::LatencyStatus;

/// Upper bounds of the buckets, in seconds.
pub(crate) const BUCKETS: [f64; 16] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// So many are the latest.
const LATEST: u64 = 256;

/// What tells the peer's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The value of its heartbeat, in whole seconds: up to a second too long.
    Heartbeat,
    /// The same to the microsecond, as Isthmus writes it.
    Stamp,
    /// The stamps of what Isthmus exports, for each revision until it is stored here.
    Revision,
}

impl Source {
    /// The label in metrics and status.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Stamp => "stamp",
            Self::Revision => "revision",
        }
    }
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency {
    /// The last is for everything above the bounds.
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
    max: Duration,
    last: Duration,
    /// How many were below zero.
    ahead: u64,
    /// The least in microseconds, among the latest and among those before them.
    least: (Option<i64>, Option<i64>),
}

impl Latency {
    /// In microseconds, as both clocks tell it.
    pub(crate) fn note(&mut self, micros: i64) {
        if self.count().is_multiple_of(LATEST) {
            self.least = (None, self.least.0);
        }
        self.least.0 = Some(self.least.0.map_or(micros, |least| least.min(micros)));
        self.ahead += u64::from(micros < 0);
        let latency = Duration::from_micros(micros.try_into().unwrap_or(0));
        let seconds = latency.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(latency);
        (self.max, self.last) = (self.max.max(latency), latency);
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many were below zero.
    pub(crate) fn ahead(&self) -> u64 {
        self.ahead
    }

    /// The least of the latest, as both clocks tell it: their difference and the shortest way.
    pub(crate) fn least_seconds(&self) -> f64 {
        let (now, before) = self.least;
        now.into_iter().chain(before).min().unwrap_or_default() as f64 / 1e6
    }

    pub(crate) fn sum_seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Bounds with the counts of what lies between them; the last bound is infinite.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        BUCKETS.into_iter().chain([f64::MAX]).zip(self.counts).collect()
    }

    pub(crate) fn status(&self) -> LatencyStatus {
        LatencyStatus {
            count: self.count(),
            p50_seconds: self.quantile(0.5),
            p99_seconds: self.quantile(0.99),
            max_seconds: self.max.as_secs_f64(),
            last_seconds: self.last.as_secs_f64(),
            ahead: self.ahead,
            least_seconds: self.least_seconds(),
        }
    }

    /// The bound below which that share lies.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.count() as f64 * share).ceil();
        let mut below = 0;
        for (bound, count) in self.buckets() {
            below += count;
            if below as f64 >= wanted {
                return bound.min(self.max.as_secs_f64());
            }
        }
        self.max.as_secs_f64()
    }
}

/// How long ago (in microseconds) a value was written that is an RFC 3339 time, and how exact that is; `None` if it is none.
pub(crate) fn behind(value: &[u8], now: SystemTime) -> Option<(Source, i64)> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let written: Timestamp = text.parse().ok()?;
    let source = if text.contains('.') { Source::Stamp } else { Source::Heartbeat };
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let late = match now.duration_since(SystemTime::from(written)) {
        Ok(late) => micros(late),
        Err(early) => -micros(early.duration()),
    };
    Some((source, late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let mut latency = Latency::default();
        for _ in 0..99 {
            latency.note(2_000);
        }
        latency.note(7_000_000);
        let status = latency.status();
        assert_eq!((status.count, status.p50_seconds, status.p99_seconds), (100, 0.0025, 0.0025));
        assert_eq!((status.max_seconds, status.last_seconds), (7.0, 7.0));
        latency.note(1_000_000_000);
        assert_eq!(latency.buckets().last().unwrap().1, 1, "above every bound");
    }

    #[test]
    fn the_least_is_that_of_the_latest() {
        let mut latency = Latency::default();
        latency.note(-5_000);
        latency.note(3_000);
        assert_eq!((latency.least_seconds(), latency.ahead()), (-0.005, 1));
        for _ in 0..2 * LATEST {
            latency.note(2_000);
        }
        assert_eq!((latency.least_seconds(), latency.ahead()), (0.002, 1), "a clock that was set right");
        latency.note(i64::MIN);
        latency.note(i64::MAX);
        assert_eq!(latency.count(), 4 + 2 * LATEST);
    }

    #[test]
    fn the_time_of_a_heartbeat_is_read_in_any_zone() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_113_475);
        for (value, expected) in [
            (&b"2026-02-03T10:11:12Z"[..], Some((Source::Heartbeat, 3000))),
            (b"2026-02-03T11:11:12+01:00", Some((Source::Heartbeat, 3000))),
            (b"2026-02-03T10:11:20Z", Some((Source::Heartbeat, -5000))),
            (b"2026-02-03T10:11:14.750000Z", Some((Source::Stamp, 250))),
            (b"2026-02-03T10:11:14.000000Z", Some((Source::Stamp, 1000))),
            (b"now", None),
            (b"\xff", None),
        ] {
            let found = behind(value, now).map(|(source, late)| (source, late / 1000));
            assert_eq!(found, expected, "{}", value.escape_ascii());
        }
    }
}
