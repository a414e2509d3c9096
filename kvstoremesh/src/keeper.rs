//! What the local store is to hold of one kind of one cluster, and which withdrawals are obeyed. Pure.
//!
//! ```text
//!  local store ──adopt──▶ ┌────────┐ ──wishes──▶ target (the writer)
//!  peer: batches ──take──▶│ keeper │
//!    its list ──complete─▶│        │──▶ skipped entries, held withdrawals, next deadline
//!    contact, clock, user ▶└────────┘
//! ```
//!
//! Four things look alike and are kept apart: the peer deleted a key; its list is not complete; it cannot be reached; it
//! does not have the kind any more. Only the first and the last withdraw, and not before [`Shrink`] has had its say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvstore::Revision;
use kvstore::sync::Change;
use mesh_types::{Reason, Rejection};

use crate::resource::check_entry;

mod named;
mod shrink;

pub(crate) use named::Named;
pub use shrink::Shrink;
use shrink::Sizes;

/// Above so many times the limit of keys the peer is not read any further: to remember what is left out costs memory too.
const FLOOD: usize = 4;

/// What a [`Keeper`] holds entries to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    /// Larger values are not mirrored.
    pub(crate) max_value_bytes: usize,
    /// More keys are not mirrored.
    pub(crate) max_keys: usize,
    /// Which withdrawals are held back.
    pub(crate) shrink: Shrink,
}

/// When the last state of a cluster that is out of contact is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Patience {
    /// So long after the peer's word was last current; `None` is never.
    pub(crate) drain_after: Option<Duration>,
    /// So long after the connection was lost, unless a new one found the cluster's configuration; `None` is never.
    pub(crate) revoke_after: Option<Duration>,
}

/// What the local store is to hold, and carries out what it is told.
pub(crate) trait Target {
    /// How many keys are wanted.
    fn wanted(&self) -> usize;
    /// To write, in order; each with the revision of the peer's store that it came with, or 0.
    fn put(&self, entries: Vec<(Bytes, Bytes, u64)>);
    /// To write (`Some`) or delete (`None`), in order.
    fn extend(&self, wishes: Vec<(Bytes, Option<Bytes>)>);
    /// The wanted keys that `named` lacks.
    fn omitted(&self, named: &Named) -> BTreeSet<Bytes>;
    /// Whether it is wanted.
    fn wants(&self, key: &[u8]) -> bool;
    /// Those of `keys` that are wanted.
    fn wanted_of(&self, keys: &BTreeSet<Bytes>) -> BTreeSet<Bytes>;
    /// The set is complete: leftovers may go, and the canary may be written.
    fn synced(&self);
}

/// The keys of one kind, for as long as its cluster is configured. Keys are relative to the kind's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Keeper {
    rules: Rules,
    /// What was named since contact was gained or lost; `None` while a watch tells of each change.
    named: Option<Named>,
    contact: Contact,
    /// Keys that are left out because there are too many.
    over: BTreeSet<Bytes>,
    sizes: Sizes,
    held: Option<Held>,
    given_up: Option<GivenUp>,
    /// Since the connection was lost, while no new one has found the cluster's configuration.
    out_since: Option<Instant>,
}

/// How the peer's word stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Contact {
    /// Nothing was complete yet, in this process or, as the local store shows, before.
    Never,
    /// What is known is what the peer says.
    Current,
    /// It was, until then.
    Stale(Instant),
}

/// Withdrawals that are not obeyed yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    /// How many keys there were before.
    pub(crate) before: usize,
    /// Why.
    pub(crate) reason: Reason,
    /// Each with the time since when: what follows later has its own time.
    pub(crate) keys: BTreeMap<Bytes, Instant>,
}

/// What was known has been withdrawn though the peer did not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GivenUp {
    /// When.
    pub(crate) at: Instant,
    /// By which rule.
    pub(crate) reason: Reason,
    /// How many keys.
    pub(crate) keys: usize,
}

/// What of a keeper others may have to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    stale_since: Option<Instant>,
    out_since: Option<Instant>,
    held: usize,
    given_up: Option<GivenUp>,
    current: bool,
    /// Out of contact, whether a list is under way and has named something: what it names is not given up.
    names: Option<bool>,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Entries that are not mirrored; an earlier value of them stays.
    pub(crate) skipped: Vec<(Bytes, Rejection)>,
    /// Entries that are mirrored or gone.
    pub(crate) settled: Vec<Bytes>,
    /// What the batch says of the view as a whole.
    pub(crate) signal: Option<Signal>,
}

/// What becomes of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The list is complete. If its store said so of itself then, call [`Keeper::complete`].
    Listed {
        /// As of when.
        revision: Revision,
    },
    /// Contact is lost.
    Lost,
    /// Contact is back and nothing was missed.
    Resumed,
    /// Contact is back, but what is known was given up meanwhile: only a new list brings it back.
    Outdated,
    /// There are far more keys than may be; it is not worth reading on.
    Flooded,
}

impl Held {
    /// Since when the first of them.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.keys.values().min().copied()
    }
}

impl Keeper {
    /// Knows nothing.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            named: None,
            contact: Contact::Never,
            over: BTreeSet::new(),
            sizes: Sizes::default(),
            held: None,
            given_up: None,
            out_since: None,
        }
    }

    /// Takes over what an earlier life has left in the local store. `complete`: with its canary; it was `since` that the
    /// peer's word was not current, as far as is known.
    ///
    /// From here on a restart is like a loss of contact: what is there stays, and is what a list is compared with.
    pub(crate) fn adopt(
        &mut self,
        found: Vec<(Bytes, Bytes)>,
        complete: bool,
        since: Instant,
        target: &impl Target,
    ) {
        if self.contact != Contact::Never || target.wanted() > 0 {
            return;
        }
        target.extend(found.into_iter().map(|(key, value)| (key, Some(value))).collect());
        self.note_size(since, target);
        if complete {
            self.contact = Contact::Stale(since);
            target.synced();
        }
    }

    /// A connection begins, where a list comes first.
    pub(crate) fn connect(&mut self) {
        self.named = Some(Named::default());
        self.over.clear();
    }

    /// The connection's peer has said what it is; what became of it is still to be heard.
    pub(crate) fn found(&mut self) {
        self.out_since = None;
    }

    /// The peer is not read any more, though it may be connected: its word is not current.
    pub(crate) fn unread(&mut self, now: Instant, target: &impl Target) {
        self.lost(now);
        self.named = None;
        self.give_up_again(now, target);
    }

    /// The connection is gone, or its peer is not accepted.
    pub(crate) fn disconnected(&mut self, now: Instant, target: &impl Target) {
        self.cut_off(now);
        self.unread(now, target);
    }

    /// Takes a batch as a follower gives it.
    pub(crate) fn take(&mut self, batch: Vec<Change>, now: Instant, target: &impl Target) -> Taken {
        let mut taken = Taken::default();
        let mut entries = Vec::with_capacity(batch.len());
        let mut gone = BTreeSet::new();
        // Deletions at the end of a list are a conclusion, which is drawn in `complete` if the list can be trusted.
        let ends_list = matches!(batch.last(), Some(Change::ListDone { .. }));
        let room = self.rules.max_keys.saturating_sub(self.peer_size(target));
        let is_tight = batch.len() > room;
        let mut added = BTreeSet::new();
        for change in batch {
            match change {
                Change::Put { key, value, mod_revision, .. } => {
                    gone.remove(&key);
                    // What a list names may have been written long ago.
                    let is_news = self.named.is_none();
                    let fits = match &mut self.named {
                        Some(named) => {
                            named.insert(&key);
                            named.len() <= self.rules.max_keys
                        }
                        // The peer's word that it is no new key would not do: it could have any number of them.
                        None => {
                            !is_tight
                                || added.contains(&key)
                                || (target.wants(&key) && !self.is_held(&key))
                                || (added.len() < room && added.insert(key.clone()))
                        }
                    };
                    match self.check(&key, &value, fits) {
                        Ok(()) => {
                            self.settle(&key);
                            taken.settled.push(key.clone());
                            let mark = if is_news { u64::try_from(mod_revision.0).unwrap_or(0) } else { 0 };
                            entries.push((key, value, mark));
                        }
                        Err(rejection) => taken.skipped.push((key, rejection)),
                    }
                }
                Change::Delete { .. } if ends_list => {}
                Change::Delete { key } => {
                    if let Some(named) = &mut self.named {
                        named.remove(&key);
                    }
                    self.over.remove(&key);
                    taken.settled.push(key.clone());
                    gone.insert(key);
                }
                Change::ListDone { revision, .. } => {
                    taken.signal = Some(Signal::Listed { revision });
                }
                Change::Lost { .. } => {
                    self.named = Some(Named::default());
                    self.cut_off(now);
                    // What the list has named so far, this batch included, is no complete set.
                    target.put(std::mem::take(&mut entries));
                    self.give_up_again(now, target);
                    taken.signal = Some(Signal::Lost);
                }
                Change::Resumed { .. } => {
                    self.named = None;
                    taken.signal = Some(match self.given_up {
                        None => {
                            self.is_current();
                            Signal::Resumed
                        }
                        Some(_) => Signal::Outdated,
                    });
                }
            }
        }
        target.put(entries);
        if !gone.is_empty() {
            self.withdraw(gone, Reason::WithdrawalAbrupt, now, target);
        }
        self.note_size(now, target);
        let far_above = self.rules.max_keys.saturating_mul(FLOOD);
        let named = self.named.as_ref().map_or(0, Named::len);
        if named > far_above || self.over.len() > far_above {
            taken.signal = Some(Signal::Flooded);
        }
        taken
    }

    /// The list was complete and can be trusted: exactly what it named exists. Returns how many keys that are.
    pub(crate) fn complete(&mut self, now: Instant, target: &impl Target) -> usize {
        let named = self.named.take().unwrap_or_default();
        self.over.retain(|key| named.contains(key));
        self.conclude(&named, Reason::WithdrawalAbrupt, now, target);
        named.len()
    }

    /// The peer does not have this kind (any more): it is empty, as the peer says itself.
    pub(crate) fn not_offered(&mut self, now: Instant, target: &impl Target) {
        self.named = None;
        self.over.clear();
        self.conclude(&Named::default(), Reason::CapabilityAbsent, now, target);
    }

    /// What is held back goes now, as the user says. Returns how many keys.
    pub(crate) fn release(&mut self, now: Instant, target: &impl Target) -> usize {
        let Some(held) = self.held.take() else { return 0 };
        let keys = held.keys.len();
        target.extend(held.keys.into_keys().map(|key| (key, None)).collect());
        self.sizes.reset(now, target.wanted());
        keys
    }

    /// Everything goes, because it may not be seen beside what comes.
    pub(crate) fn clear(&mut self, now: Instant, target: &impl Target) -> usize {
        let all = target.omitted(&Named::default());
        let keys = all.len();
        target.extend(all.into_iter().map(|key| (key, None)).collect());
        self.held = None;
        self.over.clear();
        self.sizes.reset(now, 0);
        keys
    }

    /// When [`Self::on_deadline`] has something to do.
    pub(crate) fn next_deadline(&self, patience: Patience, target: &impl Target) -> Option<Instant> {
        let released = self.held_until().filter(|_| self.contact == Contact::Current);
        let given_up = self.give_up_at(patience, target).map(|(at, _)| at);
        released.into_iter().chain(given_up).min()
    }

    /// Does what time has brought; returns how many keys it withdrew, and by which rule. Call it until it is `None`.
    pub(crate) fn on_deadline(
        &mut self,
        now: Instant,
        patience: Patience,
        target: &impl Target,
    ) -> Option<(Reason, usize)> {
        if self.contact == Contact::Current
            && let Some(until) = self.held_until().filter(|until| *until <= now)
        {
            return self.release_held_until(until, now, target);
        }
        let (_, reason) = self.give_up_at(patience, target).filter(|(at, _)| *at <= now)?;
        // What a list under way has named already is as the peer says.
        let gone = target.omitted(self.named.as_ref().unwrap_or(&Named::default()));
        let keys = gone.len();
        target.extend(gone.into_iter().map(|key| (key, None)).collect());
        self.held = None;
        self.sizes.reset(now, target.wanted());
        let before = self.given_up.map_or(0, |given_up| given_up.keys);
        self.given_up = Some(GivenUp { at: now, reason, keys: before + keys });
        Some((reason, keys))
    }

    fn release_held_until(
        &mut self,
        until: Instant,
        now: Instant,
        target: &impl Target,
    ) -> Option<(Reason, usize)> {
        let hold = self.rules.shrink.hold;
        let held = self.held.as_mut()?;
        let reason = held.reason;
        let due: Vec<_> =
            held.keys.extract_if(.., |_, since| until.saturating_duration_since(*since) >= hold).collect();
        let keys = due.len();
        target.extend(due.into_iter().map(|(key, _)| (key, None)).collect());
        self.held.take_if(|held| held.keys.is_empty());
        self.sizes.reset(now, self.peer_size(target));
        Some((reason, keys))
    }

    /// What others may have to act on when it changes.
    pub(crate) fn outline(&self) -> Outline {
        Outline {
            stale_since: self.stale_since(),
            out_since: self.out_since,
            held: self.held.as_ref().map_or(0, |held| held.keys.len()),
            given_up: self.given_up,
            current: self.contact == Contact::Current,
            names: self.stale_since().and(self.named.as_ref()).map(|named| named.len() > 0),
        }
    }

    /// What is held back.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// When the first of what is held back goes, if the peer stays in contact; `None` if nothing is, or for ever.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let first = self.held.as_ref()?.since()?;
        first.checked_add(self.rules.shrink.hold)
    }

    /// What was given up, until the peer is heard again.
    pub(crate) fn given_up(&self) -> Option<GivenUp> {
        self.given_up
    }

    /// Since when the peer's word is not current; `None` if it is or never was.
    pub(crate) fn stale_since(&self) -> Option<Instant> {
        match self.contact {
            Contact::Stale(since) => Some(since),
            Contact::Never | Contact::Current => None,
        }
    }

    /// How many keys are left out because there are too many.
    pub(crate) fn left_out(&self) -> usize {
        self.over.len()
    }

    /// Whether keys were left out for which there is room by now: a new list would bring them.
    pub(crate) fn has_room(&self, target: &impl Target) -> bool {
        // A tenth, so that it is not listed again for each key that goes.
        !self.over.is_empty() && self.peer_size(target) < self.rules.max_keys - self.rules.max_keys / 10
    }

    fn give_up_at(&self, patience: Patience, target: &impl Target) -> Option<(Instant, Reason)> {
        let Contact::Stale(since) = self.contact else { return None };
        let names = self.named.as_ref().is_some_and(|named| named.len() > 0);
        let listing = names && self.given_up.is_some();
        if listing || target.wanted() == 0 {
            return None;
        }
        // What is too far for the clock is never.
        let due = |since: Option<Instant>, after: Option<Duration>| since?.checked_add(after?);
        let drained = due(Some(since), patience.drain_after).map(|at| (at, Reason::ContactLostDrained));
        let revoked = due(self.out_since, patience.revoke_after).map(|at| (at, Reason::CacheTtlEnded));
        drained.into_iter().chain(revoked).min_by_key(|(at, _)| *at)
    }

    fn lost(&mut self, now: Instant) {
        if self.contact == Contact::Current {
            self.contact = Contact::Stale(now);
        }
    }

    /// A list broke off after everything was given up: what it has brought back goes again, since only a complete one
    /// says what exists.
    fn give_up_again(&mut self, now: Instant, target: &impl Target) {
        let Some(given_up) = &mut self.given_up else { return };
        let back = target.omitted(&Named::default());
        if back.is_empty() {
            return;
        }
        given_up.keys += back.len();
        target.extend(back.into_iter().map(|key| (key, None)).collect());
        self.held = None;
        self.sizes.reset(now, 0);
    }

    fn cut_off(&mut self, now: Instant) {
        self.lost(now);
        if self.contact != Contact::Never {
            self.out_since.get_or_insert(now);
        }
    }

    fn is_current(&mut self) {
        self.contact = Contact::Current;
        self.given_up = None;
        self.out_since = None;
    }

    fn check(&mut self, key: &Bytes, value: &Bytes, fits: bool) -> Result<(), Rejection> {
        check_entry(key, value, self.rules.max_value_bytes)?;
        if fits {
            return Ok(());
        }
        self.over.insert(key.clone());
        let what = format!(
            "the peer has more than {} keys of this kind; raise --max-keys-per-kind if that is right",
            self.rules.max_keys
        );
        Err(Rejection::new(Reason::TooManyKeys, what))
    }

    /// The key exists.
    fn settle(&mut self, key: &Bytes) {
        self.over.remove(key);
        if let Some(held) = &mut self.held {
            held.keys.remove(key);
            if held.keys.is_empty() {
                self.held = None;
            }
        }
    }

    fn is_held(&self, key: &Bytes) -> bool {
        self.held.as_ref().is_some_and(|held| held.keys.contains_key(key))
    }

    /// How many keys the peer has, as far as they are mirrored.
    fn peer_size(&self, target: &impl Target) -> usize {
        target.wanted().saturating_sub(self.held.as_ref().map_or(0, |held| held.keys.len()))
    }

    fn note_size(&mut self, now: Instant, target: &impl Target) {
        let size = self.peer_size(target);
        self.sizes.note(now, size, self.rules.shrink.window);
    }

    /// The peer's word is that there are these keys and no others.
    fn conclude(&mut self, named: &Named, reason: Reason, now: Instant, target: &impl Target) {
        let omitted = target.omitted(named);
        self.is_current();
        if let Some(held) = &mut self.held {
            // Named or not, this list has the last word on what earlier ones omitted.
            held.keys.retain(|key, _| omitted.contains(key));
            held.reason = reason;
        }
        let fresh = match &self.held {
            Some(held) => omitted.into_iter().filter(|key| !held.keys.contains_key(key)).collect(),
            None => omitted,
        };
        self.held.take_if(|held| held.keys.is_empty());
        let before = self.held.as_ref().map(|held| held.before);
        let left = self.peer_size(target).saturating_sub(fresh.len());
        if before.is_some_and(|before| !self.rules.shrink.is_abrupt(before, left)) {
            // The collapse was none: what is missing now is missing for good.
            self.release(now, target);
        }
        self.withdraw(fresh, reason, now, target);
        self.note_size(now, target);
        target.synced();
    }

    /// The peer does not have these keys: they go, or are held back.
    fn withdraw(&mut self, gone: BTreeSet<Bytes>, reason: Reason, now: Instant, target: &impl Target) {
        if let Some(held) = &mut self.held {
            for key in target.wanted_of(&gone) {
                held.keys.entry(key).or_insert(now);
            }
            return;
        }
        let (before, known) = (self.sizes.largest(now, self.rules.shrink.window), target.wanted());
        let is_abrupt = |gone: usize| self.rules.shrink.is_abrupt(before, known.saturating_sub(gone));
        if is_abrupt(gone.len()) {
            let wanted = target.wanted_of(&gone);
            if is_abrupt(wanted.len()) && !wanted.is_empty() {
                let keys = wanted.into_iter().map(|key| (key, now)).collect();
                self.held = Some(Held { before, reason, keys });
                return;
            }
        }
        target.extend(gone.into_iter().map(|key| (key, None)).collect());
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
