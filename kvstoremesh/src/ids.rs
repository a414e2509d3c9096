//! Which remote cluster holds which cluster id. Pure.

use std::collections::BTreeMap;

use mesh_types::{ClusterId, ClusterName, Peer, Reason, Rejection};

/// Ids in use by remote clusters: each has one, and no two the same.
///
/// Only while it changes its id it has both: what it had under the old one is still to be seen.
///
/// A cluster keeps its id while it is configured, connected or not, since what was mirrored from it stays in effect.
/// Source: Cilium `pkg/clustermesh/idsmgr.go`.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    holders: BTreeMap<ClusterId, ClusterName>,
}

impl Ids {
    /// Gives the peer its id. The first to ask has it. Returns what else it holds, until [`Self::keep_only`].
    ///
    /// # Errors
    /// [`Reason::ClusterIdInUse`]; the peer then keeps what it held.
    pub(crate) fn reserve(&mut self, peer: &Peer) -> Result<Vec<ClusterId>, Rejection> {
        if let Some(holder) = self.holders.get(&peer.id).filter(|holder| **holder != peer.name) {
            let what = format!(
                "cluster {} has id {}, which cluster {holder} has already; give one of them another id",
                peer.name, peer.id
            );
            return Err(Rejection::new(Reason::ClusterIdInUse, what));
        }
        self.holders.insert(peer.id, peer.name.clone());
        let theirs = self.holders.iter().filter(|(id, holder)| **holder == peer.name && **id != peer.id);
        Ok(theirs.map(|(id, _)| *id).collect())
    }

    /// Takes back what the peer holds beside its id.
    pub(crate) fn keep_only(&mut self, peer: &Peer) {
        self.holders.retain(|id, holder| *holder != peer.name || *id == peer.id);
    }

    /// The cluster is no longer configured.
    pub(crate) fn release(&mut self, name: &ClusterName) {
        self.holders.retain(|_, holder| holder != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_types::MaxClusters;

    fn peer(name: &str, id: u32) -> Peer {
        let id = ClusterId::new(id, MaxClusters::C255).unwrap();
        Peer { name: name.parse().unwrap(), id, max: MaxClusters::C255 }
    }

    #[test]
    fn the_first_to_ask_has_the_id() {
        let mut ids = Ids::default();
        ids.reserve(&peer("west", 2)).unwrap();
        ids.reserve(&peer("west", 2)).unwrap();
        let refused = ids.reserve(&peer("east", 2)).unwrap_err();
        assert_eq!(refused.reason, Reason::ClusterIdInUse);
        assert!(refused.detail.contains("west"), "{refused}");
        ids.release(&"west".parse().unwrap());
        ids.reserve(&peer("east", 2)).unwrap();
    }

    #[test]
    fn a_changed_id_frees_the_old_one_when_nothing_is_left_of_it() {
        let mut ids = Ids::default();
        ids.reserve(&peer("west", 2)).unwrap();
        ids.reserve(&peer("east", 3)).unwrap();
        ids.reserve(&peer("west", 3)).unwrap_err();
        assert!(ids.reserve(&peer("west", 2)).unwrap().is_empty(), "it has what it had");
        assert_eq!(ids.reserve(&peer("west", 4)).unwrap(), [peer("west", 2).id]);
        ids.reserve(&peer("east", 2)).unwrap_err();
        ids.keep_only(&peer("west", 4));
        assert!(ids.reserve(&peer("west", 4)).unwrap().is_empty());
        assert_eq!(ids.reserve(&peer("east", 2)).unwrap(), [peer("east", 3).id]);
    }
}
