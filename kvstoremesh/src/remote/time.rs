//! What time brings to a cluster: withdrawals that were held back go, what is out of contact is given up, and readers hear
//! of it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use mesh_types::{KindWord, MirrorWord, PeerContact, Reason, Resource};
use tokio::time::sleep_until;
use tracing::warn;

use super::Remote;
use crate::keeper::Patience;
use crate::record::{Phase, Record};
use crate::resource::KINDS;

/// Readers are told of a loss of contact that lasts so long. One that is shorter costs the local store no write.
const TOLD_AFTER: Duration = Duration::from_secs(10);
/// A look at the clock is not further away than this.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

impl Remote {
    /// Acts whenever something is due; for ever.
    pub(super) async fn keep_time(&self) -> Infallible {
        loop {
            let now = Instant::now();
            let policy = self.settings.lost_contact(&self.name, self.files.borrow().lost_contact);
            self.record(|record| record.policy = policy);
            let mut next = now + FAR;
            let mut fired = BTreeSet::new();
            for kind in KINDS {
                let patience = self.settings.patience(policy, kind);
                let (done, then) = self.on_deadline(kind, patience, now);
                fired.extend(done);
                next = next.min(then);
            }
            let told = self.record(|record| {
                fired.into_iter().for_each(|reason| *record.given_up.entry(reason).or_default() += 1);
                word(record, now)
            });
            if let Some((word, again)) = told {
                self.sinks.say(&word);
                next = again.map_or(next, |again| next.min(again));
            }
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = self.sinks.stirred() => {}
            }
        }
    }

    fn on_deadline(&self, kind: Resource, patience: Patience, now: Instant) -> (Option<Reason>, Instant) {
        let (done, then) = self.sinks.keep(kind, |keeper, writer| {
            let done = keeper.on_deadline(now, patience, writer);
            (done, keeper.next_deadline(patience, writer))
        });
        if let Some((reason, keys)) = done {
            warn!(cluster = %self.name, %kind, %reason, keys, "withdrawn, since its time is over");
        }
        (done.map(|(reason, _)| reason), then.unwrap_or(now + FAR))
    }
}

/// What readers of the local store should know, and when there may be more to say.
fn word(record: &Record, now: Instant) -> (MirrorWord, Option<Instant>) {
    let mut word = MirrorWord::default();
    let mut again = None;
    for kind in KINDS {
        let (stale, held, given_up) = record.sinks.keeper(kind, |keeper| {
            let held = keeper.held().map(|held| (held.keys.len(), held.reason, held.since()));
            (keeper.stale_since(), held, keeper.given_up())
        });
        let told = stale.filter(|since| now >= *since + TOLD_AFTER);
        if let Some(since) = stale.filter(|_| told.is_none()) {
            again = Some(again.map_or(since + TOLD_AFTER, |at: Instant| at.min(since + TOLD_AFTER)));
        }
        if told.is_none() && held.is_none() && given_up.is_none() {
            continue;
        }
        let reason = given_up.map(|given| given.reason).or(held.map(|(_, reason, _)| reason));
        let since = given_up.map(|given| given.at).or(held.and_then(|(.., since)| since));
        let said = KindWord {
            contact: contact(record.views[&kind].phase),
            stale_since: stale.map(|since| record.clock.unix(since)),
            withheld: held.map_or(0, |(keys, ..)| keys),
            given_up: given_up.map_or(0, |given| given.keys),
            reason: reason.map(|reason| reason.code().to_owned()),
            since: since.map(|since| record.clock.unix(since)),
        };
        word.kinds.insert(kind.word().to_owned(), said);
    }
    (word, again)
}

/// Which of the four it is.
pub(crate) const fn contact(phase: Phase) -> PeerContact {
    match phase {
        Phase::Following => PeerContact::Current,
        Phase::Refused | Phase::Canary | Phase::Listing => PeerContact::NotListed,
        Phase::Unconnected | Phase::Flooded => PeerContact::Unreachable,
        Phase::NotOffered => PeerContact::NotExported,
    }
}
