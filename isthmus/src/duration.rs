//! Durations as people write them: `90s`, `1h30m`, `1095d`.

use jiff::{Span, SpanRelativeTo};
use std::time::Duration;

/// Parses a duration for clap. Days have 24 hours; months and years are refused because theirs vary.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as `90s`, `1h30m` or `365d`";
    let span: Span = text.parse().map_err(|error| format!("{EXPECTED} ({error})"))?;
    let exact = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_varies| format!("{EXPECTED}; write weeks, months and years as days"))?;
    Duration::try_from(exact).map_err(|_negative| format!("{EXPECTED}, not a negative one"))
}

/// As [`parse`], and not zero.
pub(crate) fn parse_positive(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("expected a duration longer than zero".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_and_charts_write_them() {
        let cases = [
            ("90s", 90),
            ("15m", 15 * 60),
            ("1h30m", 90 * 60),
            ("1h 30m", 90 * 60),
            ("1095d", 1095 * 86_400),
            ("0s", 0),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "10", "ten days", "-5s", "1y", "3mo", "5s ago"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("such as `90s`"), "{text}: {error}");
        }
        assert!(parse_positive("0s").is_err());
    }
}
