//! What is known of one remote cluster and how old it is. Pure: every change comes with its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use mesh_types::{ClusterConfig, Reason, Rejection, Resource};

use crate::clock::Clock;
use crate::latency::{Latency, Source};
use crate::lost_contact::LostContact;
use crate::resource::KINDS;
use crate::sinks::Sinks;

/// Most entries whose refusal is remembered, per cluster; further ones are only counted.
const MAX_SKIPPED: usize = 100;

/// One remote cluster that is configured.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) sinks: Arc<Sinks>,
    pub(crate) endpoints: Vec<String>,
    pub(crate) connected: bool,
    /// It was, once.
    pub(crate) was_connected: bool,
    /// Cluster id of the store that answers or answered last.
    pub(crate) store_id: Option<u64>,
    /// The configuration that is in effect.
    pub(crate) config: Option<ClusterConfig>,
    pub(crate) views: BTreeMap<Resource, View>,
    pub(crate) last_heartbeat: Option<Instant>,
    /// Attempts that failed and connections that were lost.
    pub(crate) failures: u64,
    pub(crate) last_failure: Option<SystemTime>,
    /// What is in the way now.
    pub(crate) trouble: Option<Rejection>,
    /// How often each reason was in the way.
    pub(crate) troubles: BTreeMap<Reason, u64>,
    pub(crate) skipped: BTreeMap<(Resource, Bytes), Rejection>,
    /// How many entries were refused for each reason, once per entry and reason.
    pub(crate) skips: BTreeMap<(Resource, Reason), u64>,
    /// What becomes of its data without contact.
    pub(crate) policy: LostContact,
    /// How often what was known was withdrawn because a time was over, by rule.
    pub(crate) given_up: BTreeMap<Reason, u64>,
    pub(crate) clock: Clock,
    /// How long heartbeats took to get here.
    pub(crate) latency: BTreeMap<Source, Latency>,
}

/// How one kind of data of one cluster stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    /// A complete list arrived, once.
    pub(crate) complete: bool,
    /// What an earlier life of this process had completed was taken over.
    pub(crate) adopted: bool,
    /// Since when it may be older than the peer's; `None` while it follows.
    pub(crate) stale_since: Option<Instant>,
    /// When the peer's store last said anything of it.
    pub(crate) last_event: Option<Instant>,
    /// The same when it last followed.
    pub(crate) as_of: Option<Instant>,
}

/// What a view is waiting for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A connection, with its cluster-config.
    #[default]
    Unconnected,
    /// A cluster-config that can be accepted.
    Refused,
    /// The peer's word that its data is complete.
    Canary,
    /// The end of the list.
    Listing,
    /// That the peer has less of it: it is far above the limit and is not read.
    Flooded,
    /// Nothing: every change arrives as it happens.
    Following,
    /// Nothing: the peer does not have this kind.
    NotOffered,
}

impl Phase {
    /// Whether the view is as good as it gets.
    pub(crate) const fn is_current(self) -> bool {
        matches!(self, Phase::Following | Phase::NotOffered)
    }
}

impl Record {
    pub(crate) fn new(sinks: Arc<Sinks>) -> Self {
        Self {
            sinks,
            endpoints: Vec::new(),
            connected: false,
            was_connected: false,
            store_id: None,
            config: None,
            views: KINDS.into_iter().map(|kind| (kind, View::default())).collect(),
            last_heartbeat: None,
            failures: 0,
            last_failure: None,
            trouble: None,
            troubles: BTreeMap::new(),
            skipped: BTreeMap::new(),
            skips: BTreeMap::new(),
            policy: LostContact::Keep,
            given_up: BTreeMap::new(),
            clock: Clock::new(),
            latency: BTreeMap::new(),
        }
    }

    /// The store answers.
    pub(crate) fn connected(&mut self, store_id: Option<u64>) {
        self.connected = true;
        self.was_connected = true;
        self.store_id = store_id.or(self.store_id);
        self.trouble = None;
    }

    /// The store does not answer, and may answer again; what each view makes of that is its own matter.
    pub(crate) fn interrupted(&mut self, trouble: Rejection, clock: SystemTime) {
        self.failures += 1;
        self.last_failure = Some(clock);
        self.trouble(trouble);
        self.connected = false;
    }

    /// The connection is closed.
    pub(crate) fn disconnected(&mut self, now: Instant) {
        self.connected = false;
        self.wait(Phase::Unconnected, now);
    }

    /// No view follows any more, all wait for `phase`.
    pub(crate) fn wait(&mut self, phase: Phase, now: Instant) {
        self.views.values_mut().for_each(|view| view.wait(phase, now));
    }

    /// Something is in the way though the store answers. Repeated, it counts once until it changes.
    pub(crate) fn trouble(&mut self, trouble: Rejection) {
        if self.trouble.as_ref().is_none_or(|before| before.reason != trouble.reason) {
            *self.troubles.entry(trouble.reason).or_default() += 1;
        }
        self.trouble = Some(trouble);
    }

    /// The peer is accepted with this configuration.
    pub(crate) fn accepted(&mut self, config: ClusterConfig) {
        self.config = Some(config);
        self.trouble = None;
    }

    /// The heartbeat changed, and is so many microseconds late by the peer's clock.
    pub(crate) fn heartbeat(&mut self, now: Instant, late: Option<(Source, i64)>) {
        self.last_heartbeat = Some(now);
        if let Some((source, late)) = late {
            self.latency.entry(source).or_default().note(late);
        }
    }

    /// What was measured of how long changes take.
    pub(crate) fn latencies(&self) -> BTreeMap<Source, Latency> {
        let mut all = self.latency.clone();
        all.insert(Source::Revision, self.sinks.timing().latency());
        all.retain(|_, latency| latency.count() > 0);
        all
    }

    /// Up to when what the peer wrote is known: the kind's or the heartbeat's last sign of life on a connection that stood.
    pub(crate) fn as_of(&self, kind: Resource) -> Option<Instant> {
        let view = self.views.get(&kind)?;
        let heartbeat = |until: Option<Instant>| {
            self.last_heartbeat.filter(|heard| until.is_none_or(|until| *heard <= until))
        };
        match view.phase {
            Phase::Following | Phase::NotOffered => view.last_event.max(heartbeat(None)),
            Phase::Unconnected | Phase::Refused | Phase::Canary | Phase::Listing | Phase::Flooded => {
                view.stale_since?;
                view.as_of.max(heartbeat(view.stale_since)).or(view.stale_since)
            }
        }
    }

    pub(crate) fn view(&mut self, kind: Resource) -> &mut View {
        self.views.entry(kind).or_default()
    }

    /// An entry is not mirrored. Returns whether that is news.
    pub(crate) fn skip(&mut self, kind: Resource, key: Bytes, rejection: Rejection) -> bool {
        let reason = rejection.reason;
        let key = (kind, key);
        let known = self.skipped.get(&key).is_some_and(|before| before.reason == reason);
        if !known {
            *self.skips.entry((kind, reason)).or_default() += 1;
        }
        if self.skipped.len() < MAX_SKIPPED || self.skipped.contains_key(&key) {
            self.skipped.insert(key, rejection);
        }
        !known
    }

    /// An entry is good again, or gone.
    pub(crate) fn unskip(&mut self, kind: Resource, key: &Bytes) {
        if !self.skipped.is_empty() {
            self.skipped.remove(&(kind, key.clone()));
        }
    }

    /// Every kind was complete once, in this process.
    pub(crate) fn was_complete(&self) -> bool {
        self.views.values().all(|view| view.complete)
    }

    /// Connected, accepted, and every kind follows and is stored.
    pub(crate) fn is_ready(&self) -> bool {
        self.connected
            && self.config.is_some()
            && self.views.iter().all(|(kind, view)| view.phase.is_current() && self.sinks.is_synced(*kind))
    }
}

impl View {
    /// It does not follow any more, but waits for `phase`.
    pub(crate) fn wait(&mut self, phase: Phase, now: Instant) {
        if self.phase == Phase::Following {
            self.stale_since = Some(now);
            self.as_of = self.last_event;
        }
        self.phase = phase;
    }

    /// It is as an earlier life of this process left it, and was not current `since`.
    pub(crate) fn adopted(&mut self, since: Instant) {
        self.adopted = true;
        self.stale_since = Some(since);
    }

    /// Whether it is known as a whole, be it old.
    pub(crate) const fn is_whole(&self) -> bool {
        self.complete || self.adopted
    }

    /// It is complete and follows.
    pub(crate) fn follows(&mut self, now: Instant) {
        self.phase = Phase::Following;
        self.complete = true;
        self.stale_since = None;
        self.last_event = Some(now);
    }

    /// The peer does not have this kind: empty, and complete.
    pub(crate) fn not_offered(&mut self) {
        self.phase = Phase::NotOffered;
        self.complete = true;
        self.stale_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn record() -> Record {
        let settings = crate::Settings::new(mesh_types::LocalCluster::new("here", 1, 255).unwrap(), "/mesh");
        Record::new(Arc::new(Sinks::new(&"west".parse().unwrap(), &settings)))
    }

    #[test]
    fn a_view_is_stale_from_the_moment_contact_is_lost_until_it_follows_again() {
        let (mut record, start) = (record(), Instant::now());
        let kind = Resource::EndpointSlices;
        record.disconnected(start);
        assert_eq!(record.view(kind).stale_since, None, "never synced is not stale");
        record.view(kind).follows(start);
        let lost = start + Duration::from_secs(1);
        record.disconnected(lost);
        record.disconnected(lost + Duration::from_secs(9));
        assert_eq!((record.view(kind).complete, record.view(kind).stale_since), (true, Some(lost)));
        record.view(kind).wait(Phase::Listing, lost + Duration::from_secs(10));
        assert_eq!(record.view(kind).stale_since, Some(lost));
        record.view(kind).follows(lost + Duration::from_secs(11));
        assert_eq!(record.view(kind).stale_since, None);
    }

    #[test]
    fn a_reason_counts_once_while_it_lasts() {
        let mut record = record();
        for _ in 0..3 {
            record.trouble(Rejection::new(Reason::ClusterIdZero, "id 0"));
        }
        record.trouble(Rejection::new(Reason::ClusterIdIsLocal, "id 1"));
        record.trouble(Rejection::new(Reason::ClusterIdZero, "id 0"));
        assert_eq!(record.troubles[&Reason::ClusterIdZero], 2);
        assert_eq!(record.troubles[&Reason::ClusterIdIsLocal], 1);
        record.accepted(ClusterConfig::default());
        assert_eq!(record.trouble, None);
    }

    #[test]
    fn a_refused_entry_counts_once_and_is_forgotten_when_it_is_good_again() {
        let mut record = record();
        let key = Bytes::from_static(b"a");
        let rejection = || Rejection::new(Reason::ValueTooLarge, "large");
        assert!(record.skip(Resource::EndpointSlices, key.clone(), rejection()));
        assert!(!record.skip(Resource::EndpointSlices, key.clone(), rejection()));
        record.unskip(Resource::EndpointSlices, &key);
        assert!(record.skipped.is_empty());
        for number in 0..2 * MAX_SKIPPED {
            record.skip(Resource::EndpointSlices, Bytes::from(number.to_string()), rejection());
        }
        assert_eq!(record.skipped.len(), MAX_SKIPPED);
        assert_eq!(
            record.skips[&(Resource::EndpointSlices, Reason::ValueTooLarge)],
            1 + 2 * MAX_SKIPPED as u64
        );
    }
}
