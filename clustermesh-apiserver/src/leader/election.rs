//! What a candidate knows of the Lease, and what it does about it. Pure.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

/// A candidate's view of the Lease.
#[derive(Clone, Debug)]
pub(super) struct Election {
    identity: String,
    duration: Duration,
    renew_deadline: Duration,
    seen: Option<Seen>,
    /// When our last renewal that succeeded was asked for.
    renewed: Option<Instant>,
}

/// The Lease as it was last read, and since when it is so.
#[derive(Clone, Debug)]
struct Seen {
    holder: String,
    version: String,
    duration: Duration,
    transitions: i32,
    acquired: Option<MicroTime>,
    since: Instant,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plan {
    /// There is no Lease.
    Create(LeaseSpec),
    /// It is ours or nobody's; only if it is still of this version.
    Replace(LeaseSpec, String),
    /// It is somebody else's.
    Wait,
}

impl Election {
    pub(super) fn new(identity: String, duration: Duration, renew_deadline: Duration) -> Self {
        Self { identity, duration, renew_deadline, seen: None, renewed: None }
    }

    /// The Lease was read at `now`.
    pub(super) fn observe(&mut self, lease: Option<&Lease>, now: Instant) {
        let Some(lease) = lease else {
            self.seen = None;
            return;
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_some_and(|seen| seen.version == version) {
            return;
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        self.seen = Some(Seen {
            holder: spec.holder_identity.unwrap_or_default(),
            version,
            duration: seconds.map_or(self.duration, Duration::from_secs),
            transitions: spec.lease_transitions.unwrap_or_default(),
            acquired: spec.acquire_time,
            since: now,
        });
        if !self.is_ours() {
            self.renewed = None;
        }
    }

    /// Our write, asked for at `asked`, was accepted as `lease`.
    pub(super) fn held(&mut self, lease: &Lease, asked: Instant) {
        self.observe(Some(lease), asked);
        if self.is_ours() {
            self.renewed = Some(asked);
        }
    }

    /// What to do at `now`.
    pub(super) fn plan(&self, now: Instant) -> Plan {
        let Some(seen) = &self.seen else { return Plan::Create(self.spec(0, None)) };
        if self.is_ours() {
            let spec = self.spec(seen.transitions, seen.acquired.clone());
            return Plan::Replace(spec, seen.version.clone());
        }
        let free = seen.holder.is_empty() || now.saturating_duration_since(seen.since) > seen.duration;
        if free {
            Plan::Replace(self.spec(seen.transitions.saturating_add(1), None), seen.version.clone())
        } else {
            Plan::Wait
        }
    }

    /// Whether we lead at `now`.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// Until when we lead unless we renew before.
    pub(super) fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.renew_deadline)
    }

    /// Who holds it, as far as we know.
    pub(super) fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |seen| &seen.holder)
    }

    /// The Lease given back, and of which version it must be for that.
    pub(super) fn released(&self) -> Option<(LeaseSpec, String)> {
        let seen = self.seen.as_ref().filter(|_| self.is_ours())?;
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..self.spec(seen.transitions, seen.acquired.clone())
        };
        Some((spec, seen.version.clone()))
    }

    fn is_ours(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.holder == self.identity)
    }

    fn spec(&self, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        // For people who read it; nobody reckons with it.
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs().max(1)).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DURATION: Duration = Duration::from_secs(15);
    const DEADLINE: Duration = Duration::from_secs(10);

    fn election(name: &str) -> Election {
        Election::new(name.to_owned(), DURATION, DEADLINE)
    }

    fn lease(spec: LeaseSpec, version: u64) -> Lease {
        let mut lease = Lease { spec: Some(spec), ..Lease::default() };
        lease.metadata.resource_version = Some(version.to_string());
        lease
    }

    #[test]
    fn an_absent_or_given_back_lease_is_taken_at_once() {
        let now = Instant::now();
        let mut a = election("a");
        let Plan::Create(spec) = a.plan(now) else { panic!("nobody holds it") };
        a.held(&lease(spec, 1), now);
        assert!(a.leads(now) && !a.leads(now + DEADLINE));
        let (given_back, version) = a.released().unwrap();
        assert_eq!(version, "1");
        let mut b = election("b");
        b.observe(Some(&lease(given_back, 2)), now);
        let Plan::Replace(spec, version) = b.plan(now) else { panic!("it was given back") };
        assert_eq!((version.as_str(), spec.lease_transitions), ("2", Some(1)));
    }

    #[test]
    fn a_lease_of_another_is_waited_out_from_when_it_was_seen_to_change() {
        let now = Instant::now();
        let mut b = election("b");
        // A clock that is years off says nothing.
        let old = MicroTime(Timestamp::UNIX_EPOCH);
        let of_a = LeaseSpec { renew_time: Some(old), ..election("a").spec(0, None) };
        b.observe(Some(&lease(of_a.clone(), 1)), now);
        assert_eq!(b.plan(now + DURATION), Plan::Wait);
        b.observe(Some(&lease(of_a.clone(), 1)), now + DURATION);
        assert!(matches!(b.plan(now + DURATION + Duration::from_millis(1)), Plan::Replace(..)));
        b.observe(Some(&lease(of_a, 2)), now + DURATION);
        assert_eq!(b.plan(now + DURATION + DURATION), Plan::Wait);
    }

    #[test]
    fn who_lost_the_lease_does_not_lead() {
        let now = Instant::now();
        let mut a = election("a");
        a.held(&lease(a.spec(0, None), 1), now);
        a.observe(Some(&lease(election("b").spec(1, None), 2)), now);
        assert!(!a.leads(now) && a.released().is_none());
    }

    proptest! {
        /// Two candidates that look and write at any times, with requests that are lost before or after they took
        /// effect: at no moment do both lead.
        #[test]
        fn two_never_lead_at_once(steps in proptest::collection::vec((0..2_usize, 0..6_000_u64, 0..3_u8), 1..200)) {
            let begin = Instant::now();
            let mut now = begin;
            let mut candidates = [election("a"), election("b")];
            let mut stored: Option<Lease> = None;
            let mut version = 0;
            for (who, passes, fate) in steps {
                now += Duration::from_millis(passes);
                prop_assert!(!(candidates[0].leads(now) && candidates[1].leads(now)), "{:?}", now - begin);
                let candidate = &mut candidates[who];
                candidate.observe(stored.as_ref(), now);
                let (spec, expected) = match candidate.plan(now) {
                    Plan::Wait => continue,
                    Plan::Create(spec) => (spec, None),
                    Plan::Replace(spec, expected) => (spec, Some(expected)),
                };
                let current = stored.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
                if current != expected || fate == 1 {
                    continue;
                }
                version += 1;
                let written = lease(spec, version);
                stored = Some(written.clone());
                // Else the answer is lost.
                if fate == 0 {
                    candidate.held(&written, now);
                }
                prop_assert!(!(candidates[0].leads(now) && candidates[1].leads(now)), "{:?}", now - begin);
            }
        }
    }
}
