//! Whether the owner of a peer's store still lives. Pure.

use std::time::{Duration, Instant};

use kvstore::Revision;

/// A peer's heartbeat: any change of the key is a sign of life, what it says is not read.
///
/// The clock starts with the connection, so that a heartbeat that is not there yet has its time to come.
#[derive(Debug)]
pub(crate) struct Liveness {
    limit: Duration,
    heard: Instant,
    revision: Revision,
}

impl Liveness {
    /// Connected at `now`; silence of `limit` is too long.
    pub(crate) fn new(now: Instant, limit: Duration) -> Self {
        Self { limit, heard: now, revision: Revision::default() }
    }

    /// The heartbeat is at `revision`. Returns whether that is news: a list repeats what is known.
    pub(crate) fn beat(&mut self, revision: Revision, now: Instant) -> bool {
        let news = revision > self.revision;
        if news {
            self.revision = revision;
            self.heard = now;
        }
        news
    }

    /// When silence becomes too long.
    pub(crate) fn deadline(&self) -> Instant {
        self.heard + self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_of_the_heartbeat_is_a_sign_of_life() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start, Duration::from_secs(120));
        assert_eq!(liveness.deadline(), at(120), "an absent heartbeat has its time");
        assert!(liveness.beat(Revision(5), at(10)));
        assert_eq!(liveness.deadline(), at(130));
        assert!(!liveness.beat(Revision(5), at(60)), "listed again after a broken watch");
        assert_eq!(liveness.deadline(), at(130));
        assert!(liveness.beat(Revision(8), at(70)));
        assert_eq!(liveness.deadline(), at(190));
    }
}
