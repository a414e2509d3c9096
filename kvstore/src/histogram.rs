//! Durations by size, as Prometheus counts them.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How many observations were at most so long, for each bound. Counting waits for nobody.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// In seconds, ascending.
    bounds: &'static [f64],
    /// One per bound and one beyond the last; not cumulative.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, nanoseconds: AtomicU64::new(0) }
    }

    /// Counts one.
    pub(crate) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Appends the series of `name` in Prometheus' text form, without its head. `labels` is empty or `a="b",c="d"`.
    pub(crate) fn render(&self, out: &mut String, name: &str, labels: &str) {
        let (comma, braced) = match labels {
            "" => ("", String::new()),
            _ => (",", format!("{{{labels}}}")),
        };
        let mut line = |text: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _infallible = writeln!(out, "{text}");
        };
        let mut count = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, counted) in bounds.zip(&self.counts) {
            count += counted.load(Ordering::Relaxed);
            line(format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"));
        }
        let seconds = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        line(format_args!("{name}_sum{braced} {seconds}"));
        line(format_args!("{name}_count{braced} {count}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it_and_buckets_add_up() {
        let histogram = Histogram::new(&[0.001, 0.5]);
        for milliseconds in [1, 2, 500, 501] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut text = String::new();
        histogram.render(&mut text, "x_seconds", "a=\"b\"");
        let expected = r#"x_seconds_bucket{a="b",le="0.001"} 1
x_seconds_bucket{a="b",le="0.5"} 3
x_seconds_bucket{a="b",le="+Inf"} 4
x_seconds_sum{a="b"} 1.004
x_seconds_count{a="b"} 4
"#;
        assert_eq!((text.as_str(), histogram.count()), (expected, 4));
        text.clear();
        Histogram::new(&[]).render(&mut text, "y", "");
        assert_eq!(text, "y_bucket{le=\"+Inf\"} 0\ny_sum 0\ny_count 0\n");
    }
}
