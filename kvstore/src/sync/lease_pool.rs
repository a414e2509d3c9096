//! Which lease a key hangs on. Pure.
//!
//! In etcd each put to a lease costs more with every key that hangs on it already, so there keys are spread
//! over leases of a bounded size, as Cilium does with 1000.

use crate::client::LeaseId;

/// The leases of one writer and how many keys hang on each.
#[derive(Debug)]
pub(crate) struct LeasePool {
    leases: Vec<Lease>,
    keys_per_lease: usize,
}

#[derive(Debug)]
struct Lease {
    id: LeaseId,
    keys: usize,
    /// It is of an earlier life, and others may hang keys on it that are not known here: it gets none.
    adopted: bool,
}

impl LeasePool {
    pub(crate) fn new(keys_per_lease: Option<usize>) -> Self {
        Self { leases: Vec::new(), keys_per_lease: keys_per_lease.unwrap_or(usize::MAX).max(1) }
    }

    /// A place on a lease with room; `None` when a new lease is needed first.
    pub(crate) fn assign(&mut self) -> Option<LeaseId> {
        let limit = self.keys_per_lease;
        let lease = self.leases.iter_mut().rev().find(|lease| !lease.adopted && lease.keys < limit)?;
        lease.keys += 1;
        Some(lease.id)
    }

    /// A new lease is there.
    pub(crate) fn granted(&mut self, id: LeaseId) {
        self.leases.push(Lease { id, keys: 0, adopted: false });
    }

    /// A lease of an earlier life with so many of our keys. It goes with the last of them.
    pub(crate) fn adopted(&mut self, id: LeaseId, keys: usize) {
        self.leases.push(Lease { id, keys, adopted: true });
    }

    /// A key left its place.
    pub(crate) fn release(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.iter_mut().find(|lease| lease.id == id) {
            lease.keys = lease.keys.saturating_sub(1);
            let is_done = lease.adopted && lease.keys == 0;
            if is_done {
                self.lost(id);
            }
        }
    }

    /// The lease ended.
    pub(crate) fn lost(&mut self, id: LeaseId) {
        self.leases.retain(|lease| lease.id != id);
    }

    /// All leases ended.
    pub(crate) fn clear(&mut self) {
        self.leases.clear();
    }

    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        self.leases.iter().map(|lease| lease.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lease_asks_for_another_and_a_released_place_is_used_again() {
        let mut pool = LeasePool::new(Some(2));
        assert_eq!(pool.assign(), None);
        pool.granted(LeaseId(7));
        assert_eq!((pool.assign(), pool.assign(), pool.assign()), (Some(LeaseId(7)), Some(LeaseId(7)), None));
        pool.release(LeaseId(7));
        assert_eq!(pool.assign(), Some(LeaseId(7)));
        pool.granted(LeaseId(8));
        assert_eq!(pool.assign(), Some(LeaseId(8)));
        pool.lost(LeaseId(8));
        assert_eq!(pool.assign(), None);
        assert_eq!(pool.ids(), [LeaseId(7)]);
    }

    #[test]
    fn an_adopted_lease_gets_no_keys_and_goes_with_its_last() {
        let mut pool = LeasePool::new(None);
        pool.adopted(LeaseId(3), 2);
        assert_eq!(pool.assign(), None);
        pool.granted(LeaseId(4));
        assert_eq!(pool.assign(), Some(LeaseId(4)));
        pool.release(LeaseId(3));
        assert_eq!(pool.ids(), [LeaseId(3), LeaseId(4)]);
        pool.release(LeaseId(3));
        assert_eq!(pool.ids(), [LeaseId(4)]);
    }

    #[test]
    fn without_a_limit_one_lease_takes_all() {
        let mut pool = LeasePool::new(None);
        pool.granted(LeaseId(1));
        assert!((0..5000).all(|_| pool.assign() == Some(LeaseId(1))));
    }
}
