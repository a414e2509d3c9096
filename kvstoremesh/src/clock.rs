//! Moments as others can read them. Pure, once it is set.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The calendar at one moment of the monotonic clock. One moment gives the same time whenever it is asked for, though the
/// calendar may be corrected meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    at: Instant,
    calendar: SystemTime,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { at: Instant::now(), calendar: SystemTime::now() }
    }

    /// When that was.
    pub(crate) fn calendar(&self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.at) {
            Some(later) => self.calendar + later,
            None => self.calendar.checked_sub(self.at - moment).unwrap_or(UNIX_EPOCH),
        }
    }

    /// In seconds of Unix time.
    pub(crate) fn unix(&self, moment: Instant) -> i64 {
        let since = self.calendar(moment).duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs().try_into().unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn earlier_and_later_moments_keep_their_distance() {
        let clock = Clock { at: Instant::now(), calendar: UNIX_EPOCH + Duration::from_secs(1000) };
        assert_eq!(clock.unix(clock.at + Duration::from_secs(5)), 1005);
        assert_eq!(clock.unix(clock.at - Duration::from_secs(5)), 995);
    }
}
