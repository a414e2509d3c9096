//! How long calls took.

use std::time::Duration;

/// The value below which a share of `sorted` lies; zero of none.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

/// Latencies of many calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latencies {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Latencies {
    /// Of all of them, in any order.
    pub(crate) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self { p50: quantile(&all, 0.5), p99: quantile(&all, 0.99), max: quantile(&all, 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let ms = Duration::from_millis;
        let all = (1..=101).rev().map(ms).collect();
        assert_eq!(Latencies::of(all), Latencies { p50: ms(51), p99: ms(100), max: ms(101) });
        assert_eq!(Latencies::of(vec![ms(3)]), Latencies { p50: ms(3), p99: ms(3), max: ms(3) });
        assert_eq!(Latencies::of(Vec::new()), Latencies::default());
    }
}
