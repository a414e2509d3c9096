//! What a store should hold under one prefix, and what is still to be written. Pure.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::client::LeaseId;

/// The desired keys of one prefix and how far the store is behind them. Keys are relative to the prefix.
#[derive(Debug, Default)]
pub(crate) struct DesiredSet {
    entries: BTreeMap<Bytes, Entry>,
    /// Keys to write, each once, in the order in which they became due.
    queue: VecDeque<Bytes>,
    /// Entries whose latest wish is not known to be stored.
    pending: usize,
    /// Of those, the ones that the canary waits for.
    early: usize,
    wanted: usize,
    canary: Canary,
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
struct Entry {
    /// What the store should hold; `None` is nothing.
    value: Option<Bytes>,
    /// Counts the wishes, so that the answer to an older write is not taken for that of a newer one.
    wish: u32,
    pending: bool,
    queued: bool,
    early: bool,
    lease: LeaseId,
}

/// A key to write; `value: None` is a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
    pub(crate) wish: u32,
    pub(crate) lease: LeaseId,
}

/// What a writer should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
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
    /// The store should hold `value` at `key`. Returns whether that is news.
    pub(crate) fn upsert(&mut self, key: Bytes, value: Bytes) -> bool {
        match self.entries.get(&key) {
            Some(entry) if entry.value.as_ref() == Some(&value) => return false,
            Some(entry) if entry.value.is_some() => {}
            Some(_) | None => self.wanted += 1,
        }
        self.wish(key, Some(value));
        true
    }

    /// The store should not hold `key`. Returns whether that is news; a key that was never wanted is not.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let Some((key, entry)) = self.entries.get_key_value(key) else { return false };
        if entry.value.is_none() {
            return false;
        }
        self.wanted -= 1;
        self.wish(key.clone(), None);
        true
    }

    /// Deletes every key that is wanted now and for which `keep` is false.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) -> bool {
        let wanted = self.entries.iter().filter(|(_, entry)| entry.value.is_some());
        let gone: Vec<Bytes> = wanted.map(|(key, _)| key).filter(|key| !keep(key)).cloned().collect();
        for key in &gone {
            self.delete(key);
        }
        !gone.is_empty()
    }

    /// The initial set is complete; only the first call counts.
    pub(crate) fn synced(&mut self) {
        if self.canary == Canary::NotAsked {
            self.canary = Canary::Unswept;
            for entry in self.entries.values_mut() {
                entry.early = entry.pending;
            }
            self.early = self.pending;
        }
    }

    pub(crate) fn step(&self) -> Step {
        match self.canary {
            Canary::Unswept if self.early == 0 => Step::Sweep,
            Canary::Due if self.early == 0 => Step::Canary,
            _ if !self.queue.is_empty() => Step::Write,
            Canary::NotAsked | Canary::Unswept | Canary::Due | Canary::Stored => Step::Idle,
        }
    }

    /// The next keys to write, at least one if any is due, else within the limits.
    pub(crate) fn take(&mut self, operations: usize, bytes: usize) -> Vec<Item> {
        let mut items = Vec::new();
        let mut size = 0;
        while items.len() < operations.max(1) {
            let Some(key) = self.queue.front() else { break };
            let entry = self.entries.get_mut(key).expect("queued keys have entries");
            size += key.len() + entry.value.as_ref().map_or(0, Bytes::len);
            if size > bytes && !items.is_empty() {
                break;
            }
            entry.queued = false;
            let key = self.queue.pop_front().expect("it was looked at");
            items.push(Item { key, value: entry.value.clone(), wish: entry.wish, lease: entry.lease });
        }
        items
    }

    /// The store confirmed `items`. Returns the leases on which a place became free.
    pub(crate) fn stored(&mut self, items: Vec<Item>) -> Vec<LeaseId> {
        let mut freed = Vec::new();
        for item in items {
            let Some(entry) = self.entries.get_mut(&item.key) else { continue };
            let before = std::mem::replace(
                &mut entry.lease,
                if item.value.is_some() { item.lease } else { LeaseId::NONE },
            );
            if before != LeaseId::NONE && before != entry.lease {
                freed.push(before);
            }
            if entry.wish != item.wish {
                continue;
            }
            if entry.pending {
                entry.pending = false;
                self.pending -= 1;
                self.early -= usize::from(std::mem::take(&mut entry.early));
            }
            if item.value.is_none() {
                self.entries.remove(&item.key);
            }
        }
        freed
    }

    /// `items` were not written; they are due again, first.
    pub(crate) fn failed(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            let Some(entry) = self.entries.get_mut(&item.key) else { continue };
            if entry.pending && !entry.queued {
                entry.queued = true;
                self.queue.push_front(item.key);
            }
        }
    }

    /// A key that the store refuses is due again, after all others.
    pub(crate) fn postpone(&mut self, item: Item) {
        if let Some(entry) = self.entries.get_mut(&item.key)
            && entry.pending
            && !entry.queued
        {
            entry.queued = true;
            self.queue.push_back(item.key);
        }
    }

    /// What the store holds under the prefix; what is not wanted is due for deletion, before the canary.
    pub(crate) fn sweep(&mut self, stored: impl IntoIterator<Item = Bytes>) {
        for key in stored {
            if !self.entries.contains_key(&key) {
                self.wish(key.clone(), None);
                let entry = self.entries.get_mut(&key).expect("just wished");
                entry.early = true;
                self.early += 1;
            }
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

    /// The store lost everything (it was replaced): all is due again, and the canary comes last again.
    pub(crate) fn all_lost(&mut self) {
        self.lost_where(|_| true);
        if self.canary != Canary::NotAsked {
            self.canary = Canary::Unswept;
        }
    }

    /// Someone else changed `key` to `found` in the store. Returns whether we mind.
    pub(crate) fn foreign(&mut self, key: &[u8], found: Option<&Bytes>) -> bool {
        let Some((key, entry)) = self.entries.get_key_value(key) else { return false };
        if entry.pending || entry.value.as_ref() == found {
            return false;
        }
        let (key, value) = (key.clone(), entry.value.clone());
        self.wish(key, value);
        true
    }

    /// Keys that the store should hold by now.
    pub(crate) fn stored_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.iter().filter(|(_, entry)| !entry.pending && entry.value.is_some()).map(|(key, _)| key)
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            wanted: self.wanted,
            pending: self.pending,
            synced: self.canary == Canary::Stored && self.early == 0,
        }
    }

    fn lost_where(&mut self, lost: impl Fn(&Entry) -> bool) {
        let asked = self.canary != Canary::NotAsked;
        for (key, entry) in &mut self.entries {
            if !lost(entry) {
                continue;
            }
            entry.lease = LeaseId::NONE;
            entry.wish = entry.wish.wrapping_add(1);
            if !entry.pending {
                entry.pending = true;
                self.pending += 1;
            }
            if asked && !entry.early {
                entry.early = true;
                self.early += 1;
            }
            if !entry.queued {
                entry.queued = true;
                self.queue.push_back(key.clone());
            }
        }
    }

    fn wish(&mut self, key: Bytes, value: Option<Bytes>) {
        let entry = self.entries.entry(key.clone()).or_insert(Entry {
            value: None,
            wish: 0,
            pending: false,
            queued: false,
            early: false,
            lease: LeaseId::NONE,
        });
        entry.value = value;
        entry.wish = entry.wish.wrapping_add(1);
        if !entry.pending {
            entry.pending = true;
            self.pending += 1;
        }
        if !entry.queued {
            entry.queued = true;
            self.queue.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests;
