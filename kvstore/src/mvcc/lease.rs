//! Leases: which keys end together, and when.
//!
//! A lease's keys are a list of slot numbers, and each slot knows its position in it, so attaching and
//! detaching cost the same however many keys there are.

use std::collections::{BTreeMap, BTreeSet};

use super::slots::{SlotId, Slots};

/// Milliseconds of the caller's monotonic clock. The core has no clock of its own.
pub type Millis = u64;

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    by_end: BTreeSet<(Millis, i64)>,
}

/// One lease.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Seconds, as granted.
    pub(crate) ttl: i64,
    /// When it ends unless it is kept alive.
    pub(crate) end: Millis,
    pub(crate) keys: Vec<SlotId>,
}

impl Leases {
    pub(crate) fn get(&self, id: i64) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.by_id.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether the id was free.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: Millis) -> bool {
        if self.by_id.contains_key(&id) {
            return false;
        }
        let end = now.saturating_add((ttl as u64).saturating_mul(1000));
        self.by_id.insert(id, Lease { ttl, end, keys: Vec::new() });
        self.by_end.insert((end, id));
        true
    }

    /// The full time again; returns it in seconds. `None`: no such lease, or past its end.
    pub(crate) fn keep_alive(&mut self, id: i64, now: Millis) -> Option<i64> {
        let lease = self.by_id.get_mut(&id)?;
        if lease.end <= now {
            return None;
        }
        self.by_end.remove(&(lease.end, id));
        lease.end = now.saturating_add((lease.ttl as u64).saturating_mul(1000));
        self.by_end.insert((lease.end, id));
        Some(lease.ttl)
    }

    /// Every lease has at least its full time again: for a store that was not running.
    pub(crate) fn extend_all(&mut self, now: Millis) {
        let ids: Vec<i64> = self.ids().collect();
        for id in ids {
            if let Some(lease) = self.by_id.get_mut(&id) {
                self.by_end.remove(&(lease.end, id));
                lease.end = now.saturating_add((lease.ttl as u64).saturating_mul(1000));
                self.by_end.insert((lease.end, id));
            }
        }
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.by_end.remove(&(lease.end, id));
        Some(lease)
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Millis> {
        self.by_end.first().map(|&(end, _)| end)
    }

    /// Leases that ended by `now`, oldest first.
    pub(crate) fn ended(&self, now: Millis) -> Vec<i64> {
        self.by_end.iter().take_while(|&&(end, _)| end <= now).map(|&(_, id)| id).collect()
    }

    /// Hangs a slot on a lease that exists.
    pub(crate) fn attach(&mut self, lease: i64, id: SlotId, slots: &mut Slots) {
        if let Some(lease) = self.by_id.get_mut(&lease) {
            slots.get_mut(id).lease_position = lease.keys.len() as u32;
            lease.keys.push(id);
        }
    }

    /// Takes a slot off; the lease may be gone already.
    pub(crate) fn detach(&mut self, lease: i64, id: SlotId, slots: &mut Slots) {
        let Some(lease) = self.by_id.get_mut(&lease) else { return };
        let position = slots.get(id).lease_position as usize;
        lease.keys.swap_remove(position);
        if let Some(&moved) = lease.keys.get(position) {
            slots.get_mut(moved).lease_position = position as u32;
        }
    }
}
