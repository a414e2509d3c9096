//! What a store should hold under one prefix, and what is still to be written. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::stored::{Entry, Stored};
use crate::{client::LeaseId, mvcc::Record};

/// The desired keys of one prefix and how far the store is behind them. Keys are relative to the prefix.
///
/// Memory: a key that a store in this process holds takes 16 bytes, one that another store holds its bytes and about 50
/// more; see [`Stored`]. What is not stored yet is kept as it was told.
#[derive(Debug, Default)]
pub(crate) struct DesiredSet {
    /// What the store holds, as far as is known. All of it is wanted, but for what a wish or `leftovers` names.
    stored: Stored,
    /// What should be there instead.
    wishes: BTreeMap<Bytes, Wish>,
    /// Keys of wishes in the order in which they became due. Those whose wish is no longer queued mean nothing.
    queue: VecDeque<Bytes>,
    /// Keys in `stored` that an earlier life left and nobody has wanted since.
    leftovers: BTreeSet<Box<[u8]>>,
    /// Counts the wishes, so that the answer to an older write is not taken for that of a newer one.
    wished: u64,
    /// Wishes that the canary waits for.
    early: usize,
    wanted: usize,
    canary: Canary,
    /// The store was looked at, and was not (perhaps) replaced since. Before, `stored` is empty.
    looked: bool,
}

/// What is left to do before others may take the prefix for complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Canary {
    /// The initial set is not complete.
    #[default]
    NotAsked,
    /// It is, but what an earlier life left behind is not removed yet.
    Unswept,
    /// Only the key itself is missing (and the early writes, if any).
    Due,
    /// Done.
    Stored,
}

#[derive(Debug)]
struct Wish {
    /// What the store should hold; `None` is nothing.
    value: Option<Bytes>,
    number: u64,
    mark: u64,
    /// A write of it (or of an earlier one) is under way.
    flying: bool,
    /// A write of it (or of an earlier one) failed, perhaps after it took effect: what the store holds is not known, so that
    /// even a wish for what it held before has to be written.
    unsure: bool,
    queued: bool,
    early: bool,
}

/// A key to write; `value: None` is a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
    pub(crate) number: u64,
    /// What whoever wished it knows it by; 0 is nothing.
    pub(crate) mark: u64,
    pub(crate) lease: LeaseId,
}

/// A key that a list of the store names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) lease: LeaseId,
}

/// What a writer should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// List the prefix and feed it to [`DesiredSet::adopt`].
    Adopt,
    /// Write what [`DesiredSet::take`] gives.
    Write,
    /// List the prefix and feed it to [`DesiredSet::sweep`].
    Sweep,
    /// Write the canary, then call [`DesiredSet::canary_stored`].
    Canary,
    /// Nothing.
    Idle,
}

/// How far a [`super::SyncWriter`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Keys that the store should hold.
    pub wanted: usize,
    /// Keys to write or delete that the store has not confirmed.
    pub pending: usize,
    /// Whether the initial set is stored, what an earlier life left is removed, and the canary (if any) written.
    pub synced: bool,
}

impl DesiredSet {
    /// Of a prefix of so many bytes.
    pub(crate) fn under(prefix: usize) -> Self {
        Self { stored: Stored::under(prefix), ..Self::default() }
    }

    /// The store should hold `value` at `key`. Returns whether that is news.
    pub(crate) fn upsert(&mut self, key: Bytes, value: Bytes) -> bool {
        self.upsert_marked(key, value, 0)
    }

    /// The same; [`Item::mark`] of its write is `mark`. A wish that comes before it is written takes its place, mark and all.
    pub(crate) fn upsert_marked(&mut self, key: Bytes, value: Bytes, mark: u64) -> bool {
        let stored = self.stored.get(&key[..]);
        let is_stored = stored.is_some_and(|stored| stored.value == &value[..]);
        match self.wishes.get(&key[..]) {
            Some(wish) if wish.value.as_ref() == Some(&value) => return false,
            Some(wish) => {
                self.wanted += usize::from(wish.value.is_none());
                if is_stored && !wish.flying && !wish.unsure {
                    self.fulfil(&key);
                    return true;
                }
            }
            None if stored.is_some() => {
                let left = self.leftovers.remove(&key[..]);
                self.wanted += usize::from(left);
                if is_stored {
                    return left;
                }
            }
            None => self.wanted += 1,
        }
        self.wish_marked(key, Some(value), mark);
        true
    }

    /// The same, and it is written also where the store holds it already: a sign of life.
    pub(crate) fn rewrite(&mut self, key: &[u8], value: Bytes) {
        self.wanted += usize::from(!self.wants(key));
        self.leftovers.remove(key);
        self.wish(Bytes::copy_from_slice(key), Some(value));
    }

    /// The store should not hold `key`. Returns whether that is news; a key that was never wanted is not.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        if !self.wants(key) {
            return false;
        }
        self.wanted -= 1;
        let nothing_to_undo =
            |wish: &Wish| self.looked && !wish.flying && !wish.unsure && !self.stored.contains(key);
        if self.wishes.get(key).is_some_and(nothing_to_undo) {
            self.fulfil(key);
        } else {
            self.wish(Bytes::copy_from_slice(key), None);
        }
        true
    }

    /// Whether the store should hold `key`.
    pub(crate) fn wants(&self, key: &[u8]) -> bool {
        match self.wishes.get(key) {
            Some(wish) => wish.value.is_some(),
            None => self.stored.contains(key) && !self.leftovers.contains(key),
        }
    }

    /// Deletes every key that is wanted now and for which `keep` is false.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) -> bool {
        let is_left = |key: &[u8]| !self.leftovers.is_empty() && self.leftovers.contains(key);
        let settled = |key: &[u8]| self.wishes.is_empty() || !self.wishes.contains_key(key);
        let stored = self.stored.iter().filter(|entry| settled(entry.key) && !is_left(entry.key));
        let wished = self.wishes.iter().filter(|(_, wish)| wish.value.is_some()).map(|(key, _)| &key[..]);
        let all = stored.map(|entry| entry.key).chain(wished);
        let gone: Vec<Bytes> = all.filter(|key| !keep(key)).map(Bytes::copy_from_slice).collect();
        for key in &gone {
            self.delete(key);
        }
        !gone.is_empty()
    }

    /// The initial set is complete; only the first call counts.
    pub(crate) fn synced(&mut self) {
        if self.canary == Canary::NotAsked {
            self.await_wishes();
        }
    }

    /// The canary comes after all that is wished by now.
    fn await_wishes(&mut self) {
        self.canary = Canary::Unswept;
        self.wishes.values_mut().for_each(|wish| wish.early = true);
        self.early = self.wishes.len();
    }

    pub(crate) fn step(&self) -> Step {
        match self.canary {
            _ if !self.looked => Step::Adopt,
            Canary::Unswept if self.early == 0 => Step::Sweep,
            Canary::Due if self.early == 0 => Step::Canary,
            _ if !self.wishes.is_empty() => Step::Write,
            Canary::NotAsked | Canary::Unswept | Canary::Due | Canary::Stored => Step::Idle,
        }
    }

    /// The next keys to write, at least one if any is due, else within the limits.
    pub(crate) fn take(&mut self, operations: usize, bytes: usize) -> Vec<Item> {
        let mut items = Vec::new();
        let mut size = 0;
        while items.len() < operations.max(1) {
            let Some(key) = self.queue.front() else { break };
            let due = self.wishes.get_mut(&key[..]).filter(|wish| wish.queued);
            if let Some(wish) = due {
                size += key.len() + wish.value.as_ref().map_or(0, Bytes::len);
                if size > bytes && !items.is_empty() {
                    break;
                }
                (wish.queued, wish.flying) = (false, true);
                let lease = self.stored.get(key).map_or(LeaseId::NONE, |stored| stored.lease);
                let Wish { value, number, mark, .. } = wish;
                let (value, number, mark) = (value.clone(), *number, *mark);
                items.push(Item { key: key.clone(), value, number, mark, lease });
            }
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            // What a first synchronisation needs is never needed again.
            self.queue.shrink_to(256);
        }
        items
    }

    /// The store confirmed `items`; `records` are what it holds of them, in the order of the puts, where it is in this
    /// process. Returns the leases on which a place became free.
    pub(crate) fn stored(&mut self, items: Vec<Item>, records: Vec<Record>) -> Vec<LeaseId> {
        let mut freed = Vec::new();
        let mut records = records.into_iter();
        for item in items {
            // A newer wish stays, with the rest of what is known.
            match self.wishes.get_mut(&item.key) {
                Some(wish) if wish.number != item.number => (wish.flying, wish.unsure) = (false, false),
                Some(_) | None => self.fulfil(&item.key),
            }
            let (left, now) = match &item.value {
                None => (self.stored.remove(&item.key), LeaseId::NONE),
                Some(value) => (self.stored.insert(&item.key, value, item.lease, records.next()), item.lease),
            };
            freed.extend(left.filter(|lease| *lease != LeaseId::NONE && *lease != now));
        }
        freed
    }

    /// `items` were not written; they are due again, first.
    pub(crate) fn failed(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            if self.not_written(&item.key) {
                self.queue.push_front(item.key);
            }
        }
    }

    /// A key that the store refuses is due again, after all others.
    pub(crate) fn postpone(&mut self, item: Item) {
        if self.not_written(&item.key) {
            self.queue.push_back(item.key);
        }
    }

    /// What the store held before we wrote to it. What hangs on a lease that is `usable` counts as ours: it is not
    /// written again if it is wanted as it is. `keys` on each such lease are returned.
    pub(crate) fn adopt(
        &mut self,
        found: impl IntoIterator<Item = Found>,
        usable: impl Fn(LeaseId) -> bool,
    ) -> BTreeMap<LeaseId, usize> {
        self.looked = true;
        let mut leases = BTreeMap::new();
        for Found { key, value, lease } in found {
            if !usable(lease) {
                continue;
            }
            *leases.entry(lease).or_default() += 1;
            match self.wishes.get(&key[..]) {
                Some(wish) if wish.value.as_ref() == Some(&value) => self.fulfil(&key),
                Some(_) => {}
                None => drop(self.leftovers.insert((&key[..]).into())),
            }
            self.stored.insert(&key, &value, lease, None);
        }
        leases
    }

    /// What the store holds under the prefix behind the key `from`, up to the last of `found` or, if this is the end of the
    /// list, without a limit. What is not wanted is due for deletion, and what is not as we left it is due again, all
    /// before the canary. Tell it the whole list part by part, then call [`Self::swept`].
    pub(crate) fn sweep(&mut self, from: Option<&[u8]>, found: Vec<Found>, ends: bool) {
        let through = found.last().map(|found| found.key.clone()).filter(|_| !ends);
        let mut named = BTreeSet::new();
        for Found { key, value, lease } in found {
            let left = self.leftovers.remove(&key[..]);
            let ours = self.stored.get(&key).filter(|_| !left);
            let intact = ours.is_some_and(|ours| ours.value == &value[..] && ours.lease == lease);
            if !intact && !self.wishes.contains_key(&key) {
                let wanted = ours.map(|ours| ours.taken().1);
                self.wish_early(key.clone(), wanted);
            }
            named.insert(key);
        }
        let lacks = |entry: &Entry<'_>| !named.contains(entry.key) && !self.wishes.contains_key(entry.key);
        let missing = self.stored.between(from, through.as_deref()).filter(lacks);
        for (key, value) in missing.map(|entry| entry.taken()).collect::<Vec<_>>() {
            self.stored.remove(&key);
            if !self.leftovers.remove(&key[..]) {
                self.wish_early(key, Some(value));
            }
        }
    }

    /// Nothing is (or is any more) to be removed that is not ours.
    pub(crate) fn swept(&mut self) {
        for key in std::mem::take(&mut self.leftovers) {
            self.stored.remove(&key);
        }
        if self.canary == Canary::Unswept {
            self.canary = Canary::Due;
        }
    }

    pub(crate) fn canary_stored(&mut self) {
        if self.canary == Canary::Due {
            self.canary = Canary::Stored;
        }
    }

    /// The canary is gone from the store.
    pub(crate) fn canary_lost(&mut self) {
        if self.canary == Canary::Stored {
            self.canary = Canary::Due;
        }
    }

    /// The store lost `lease` and its keys: they are due again.
    pub(crate) fn lease_lost(&mut self, lease: LeaseId) {
        self.lost_where(|entry| entry.lease == lease);
    }

    /// The store may have lost everything (it was replaced, or our leases are not kept alive any more): it has to be
    /// looked at, all is due again that is not found, and the canary comes last again.
    pub(crate) fn all_lost(&mut self) {
        self.lost_where(|_| true);
        // Whoever was writing may have been stopped half-way.
        for (key, wish) in self.wishes.iter_mut().filter(|(_, wish)| wish.flying) {
            (wish.flying, wish.unsure) = (false, true);
            if !std::mem::replace(&mut wish.queued, true) {
                self.queue.push_back(key.clone());
            }
        }
        self.looked = false;
        if self.canary != Canary::NotAsked {
            self.await_wishes();
        }
    }

    /// Someone else changed `key` to `found` in the store. Returns whether we mind.
    pub(crate) fn foreign(&mut self, key: &[u8], found: Option<&Bytes>) -> bool {
        let Some(stored) = self.stored.get(key) else { return false };
        let unchanged = found.is_some_and(|found| stored.value == &found[..]);
        if unchanged || self.wishes.contains_key(key) || self.leftovers.contains(key) {
            return false;
        }
        let (key, value) = stored.taken();
        self.wish(key, Some(value));
        true
    }

    /// Keys that the store should hold by now.
    pub(crate) fn stored_keys(&self) -> impl Iterator<Item = &[u8]> {
        self.stored
            .iter()
            .map(|entry| entry.key)
            .filter(|key| !self.wishes.contains_key(*key) && !self.leftovers.contains(*key))
    }

    /// Whether everything that was told is stored.
    pub(crate) fn is_flushed(&self) -> bool {
        self.wishes.is_empty() && matches!(self.canary, Canary::NotAsked | Canary::Stored)
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            wanted: self.wanted,
            pending: self.wishes.len(),
            synced: self.canary == Canary::Stored && self.early == 0,
        }
    }

    fn lost_where(&mut self, lost: impl Fn(Entry<'_>) -> bool) {
        let asked = self.canary != Canary::NotAsked;
        for (key, value) in self.stored.extract(lost) {
            if self.leftovers.remove(&key[..]) {
                continue;
            }
            let wished = self.wishes.get(&key).map(|wish| wish.value.clone());
            let value = wished.unwrap_or(Some(value));
            if asked {
                self.wish_early(key, value);
            } else {
                self.wish(key, value);
            }
        }
    }

    fn wish(&mut self, key: Bytes, value: Option<Bytes>) {
        self.wish_marked(key, value, 0);
    }

    fn wish_marked(&mut self, key: Bytes, value: Option<Bytes>, mark: u64) {
        self.wished += 1;
        let number = self.wished;
        let queue = match self.wishes.get_mut(&key) {
            Some(wish) => {
                (wish.value, wish.number, wish.mark) = (value, number, mark);
                !std::mem::replace(&mut wish.queued, true)
            }
            None => {
                let wish =
                    Wish { value, number, mark, flying: false, unsure: false, queued: true, early: false };
                self.wishes.insert(key.clone(), wish);
                true
            }
        };
        if queue {
            self.queue.push_back(key);
        }
    }

    fn wish_early(&mut self, key: Bytes, value: Option<Bytes>) {
        self.wish(key.clone(), value);
        if let Some(wish) = self.wishes.get_mut(&key) {
            self.early += usize::from(!std::mem::replace(&mut wish.early, true));
        }
    }

    /// The store is as the wish has it.
    fn fulfil(&mut self, key: &[u8]) {
        if let Some(wish) = self.wishes.remove(key) {
            self.early -= usize::from(wish.early);
            self.tidy_queue();
        }
    }

    /// Forgets what the queue names for nothing, once that is most of it: keys that come and go while nothing is written.
    fn tidy_queue(&mut self) {
        if self.queue.len() <= 2 * self.wishes.len() + 256 {
            return;
        }
        let wishes = &mut self.wishes;
        // The first place of each key is the one that counts.
        self.queue
            .retain(|key| wishes.get_mut(key).is_some_and(|wish| std::mem::replace(&mut wish.queued, false)));
        for key in &self.queue {
            if let Some(wish) = wishes.get_mut(key) {
                wish.queued = true;
            }
        }
    }

    /// Notes that a write is over without success. Returns whether the key is to be queued.
    fn not_written(&mut self, key: &[u8]) -> bool {
        let Some(wish) = self.wishes.get_mut(key) else { return false };
        (wish.flying, wish.unsure) = (false, true);
        !std::mem::replace(&mut wish.queued, true)
    }
}

#[cfg(test)]
mod tests;
