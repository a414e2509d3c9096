//! Which remote cluster holds which cluster id. Pure.

use std::collections::BTreeMap;

use mesh_types::{ClusterId, ClusterName, Peer, Reason, Rejection};

/// Ids in use by remote clusters: each has one, and no two the same.
///
/// A cluster keeps its id while it is configured, connected or not, since what was mirrored from it stays in effect.
/// Source: Cilium `pkg/clustermesh/idsmgr.go`.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    holders: BTreeMap<ClusterId, ClusterName>,
}

impl Ids {
    /// The id that `name` holds.
    pub(crate) fn held_by(&self, name: &ClusterName) -> Option<ClusterId> {
        self.holders.iter().find(|(_, holder)| *holder == name).map(|(id, _)| *id)
    }

    /// Gives the peer its id, and takes back the one that it held before. The first to ask has it.
    ///
    /// # Errors
    /// [`Reason::ClusterIdInUse`]; the peer then keeps what it held.
    pub(crate) fn reserve(&mut self, peer: &Peer) -> Result<(), Rejection> {
        if let Some(holder) = self.holders.get(&peer.id) {
            if *holder == peer.name {
                return Ok(());
            }
            let what = format!(
                "cluster {} has id {}, which cluster {holder} has already; give one of them another id",
                peer.name, peer.id
            );
            return Err(Rejection::new(Reason::ClusterIdInUse, what));
        }
        self.release(&peer.name);
        self.holders.insert(peer.id, peer.name.clone());
        Ok(())
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
    fn a_changed_id_frees_the_old_one_only_when_it_is_granted() {
        let mut ids = Ids::default();
        ids.reserve(&peer("west", 2)).unwrap();
        ids.reserve(&peer("east", 3)).unwrap();
        ids.reserve(&peer("west", 3)).unwrap_err();
        assert_eq!(ids.held_by(&"west".parse().unwrap()), Some(peer("west", 2).id));
        ids.reserve(&peer("west", 4)).unwrap();
        ids.reserve(&peer("east", 2)).unwrap();
    }
}
