//! Dates for people.

use jiff::Timestamp;
use std::time::{Duration, SystemTime};

/// Seconds since 1970 as RFC 3339 in UTC; seconds that no calendar has are shown as they are.
pub(crate) fn text(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds)
        .map_or_else(|_range| format!("@{unix_seconds}"), |time| time.to_string())
}

/// Seconds since 1970, negative before.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => seconds(after),
        Err(before) => -seconds(before.duration()),
    }
}

/// A length of time in the largest unit that leaves it readable, rounded down: `1094d`, `35h`, `90s`.
pub(crate) fn length(seconds: i64) -> String {
    match seconds {
        ..7_200 => format!("{seconds}s"),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_lengths_are_readable() {
        assert_eq!(text(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(text(i64::MAX), format!("@{}", i64::MAX));
        assert_eq!([length(90), length(7_300), length(1_095 * 86_400 - 1)], ["90s", "2h", "1094d"]);
        assert_eq!(unix_seconds(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), -5);
    }
}
