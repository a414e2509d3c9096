//! Series of stores' clients; names and labels are Cilium's.

use super::limiter::{Limiter, WeakLimiter};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper ends of the histograms, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    scope: String,
    kind: &'static str,
    action: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queued {
    scope: String,
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Processed {
    api_call: &'static str,
    outcome: &'static str,
    return_code: &'static str,
}

/// The series of all clients of a process; clones count into the same.
#[derive(Clone, Debug)]
pub(crate) struct StoreSeries {
    operations: Family<Operation, Histogram, fn() -> Histogram>,
    queued: Family<Queued, Histogram, fn() -> Histogram>,
    processed: Family<Processed, Counter>,
    limiters: Arc<Mutex<BTreeMap<&'static str, Measured>>>,
}

/// A limiter and the times of its requests.
#[derive(Debug)]
struct Measured {
    limiters: Vec<WeakLimiter>,
    processing: Times,
    waiting: Times,
}

/// Mean, shortest and longest of some times.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    count: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.min = if self.count == 0 { time } else { self.min.min(time) };
        self.max = self.max.max(time);
        self.sum += time;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum.as_secs_f64() / self.count as f64 }
    }
}

impl StoreSeries {
    /// Registers the series under the registry's prefix.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let series = Self {
            operations: Family::new_with_constructor(histogram),
            queued: Family::new_with_constructor(histogram),
            processed: Family::default(),
            limiters: Arc::default(),
        };
        registry.register(
            "kvstore_operations_duration_seconds",
            "How long requests to stores took",
            series.operations.clone(),
        );
        registry.register(
            "kvstore_events_queue_seconds",
            "How long events waited for the one before them",
            series.queued.clone(),
        );
        registry.register(
            "api_limiter_processed_requests",
            "Requests to stores that passed the limiter",
            series.processed.clone(),
        );
        registry.register_collector(Box::new(Limiters(Arc::clone(&series.limiters))));
        series
    }

    pub(super) fn limited(&self, call: &'static str, limiter: &Limiter) {
        let mut limiters = lock(&self.limiters);
        let measured = limiters.entry(call).or_insert_with(|| Measured {
            limiters: Vec::new(),
            processing: Times::default(),
            waiting: Times::default(),
        });
        measured.limiters.retain(|limiter| limiter.upgrade().is_some());
        measured.limiters.push(limiter.downgrade());
    }

    pub(super) fn operation(
        &self,
        kind: &'static str,
        action: &'static str,
        key: &[u8],
        outcome: Outcome,
        took: Duration,
    ) {
        let labels = Operation { scope: scope(key), kind, action, outcome: outcome.word() };
        self.operations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(super) fn queued(&self, events: &[(&'static str, String)], waited: Duration) {
        for (action, scope) in events {
            let labels = Queued { scope: scope.clone(), action };
            self.queued.get_or_create(&labels).observe(waited.as_secs_f64());
        }
    }

    pub(super) fn processed(&self, call: &'static str, outcome: Outcome, waited: Duration, took: Duration) {
        let return_code = match outcome {
            Outcome::Success => "200",
            Outcome::Fail => "500",
        };
        let labels = Processed { api_call: call, outcome: outcome.word(), return_code };
        self.processed.get_or_create(&labels).inc();
        if let Some(measured) = lock(&self.limiters).get_mut(call) {
            measured.processing.add(took);
            measured.waiting.add(waited);
        }
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Fail => "fail",
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is complete before anything that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Limiters(Arc<Mutex<BTreeMap<&'static str, Measured>>>);

/// One value of a gauge: the label `value`, and how it is found.
type Value = (&'static str, fn(&Measured) -> f64);

/// Name, help and values of each gauge.
const GAUGES: &[(&str, &str, &[Value])] = &[
    (
        "api_limiter_processing_duration_seconds",
        "How long requests to stores took on average",
        &[("mean", |measured| measured.processing.mean())],
    ),
    (
        "api_limiter_rate_limit",
        "Requests per second that are let through, and how many at once",
        &[
            ("limit", |measured| measured.least(|(rate, _)| rate)),
            ("burst", |measured| measured.least(|(rate, _)| rate)),
        ],
    ),
    (
        "api_limiter_requests_in_flight",
        "Requests under way, and how many may be",
        &[
            ("in-flight", |measured| measured.now().map(|limiter| limiter.under_way()).sum::<usize>() as f64),
            ("limit", |measured| measured.least(|(_, inflight)| inflight)),
        ],
    ),
    (
        "api_limiter_wait_duration_seconds",
        "How long requests waited for their turn",
        &[
            ("mean", |measured| measured.waiting.mean()),
            ("min", |measured| measured.waiting.min.as_secs_f64()),
            ("max", |measured| measured.waiting.max.as_secs_f64()),
        ],
    ),
];

impl Measured {
    fn least(&self, of: fn((f64, f64)) -> f64) -> f64 {
        self.now().map(|limiter| of(limiter.in_force())).fold(f64::INFINITY, f64::min)
    }

    fn now(&self) -> impl Iterator<Item = Limiter> {
        self.limiters.iter().filter_map(WeakLimiter::upgrade)
    }
}

impl Collector for Limiters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let limiters = lock(&self.0);
        for (name, help, values) in GAUGES {
            let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (call, measured) in &*limiters {
                for (value, of) in *values {
                    let labels = [("api_call", *call), ("value", *value)];
                    ConstGauge::new(of(measured)).encode(series.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Cilium's label for a key: its third and fourth element, such as `nodes/v1`, else its first twelve bytes.
pub(super) fn scope(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let mut elements = text.split('/').skip(2);
    match (elements.next(), elements.next()) {
        (Some(resource), Some(version)) => format!("{resource}/{version}"),
        _ => text.chars().take(12).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_ciliums() {
        for (key, expected) in [
            ("cilium/state/nodes/v1/west/n1", "nodes/v1"),
            ("cilium/cluster-config/west", "cilium/clust"),
            ("cilium/.heartbeat", "cilium/.hear"),
            ("cilium/synced/west/cilium/state/nodes/v1", "west/cilium"),
            ("", ""),
        ] {
            assert_eq!(scope(key.as_bytes()), expected, "{key}");
        }
    }
}
