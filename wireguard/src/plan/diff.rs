//! The way from one table to the next.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::{Peer, Tables};
use crate::key::PublicKey;

/// One step of a device, atomic for each prefix it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes the peer or changes it; what it already has stays.
    SetPeer {
        /// The peer.
        key: PublicKey,
        /// Where its packets go.
        endpoint: Option<SocketAddr>,
        /// Seconds between keepalives.
        keepalive: Option<u16>,
        /// Prefixes it gains. One that another peer has moves over in one step and is never without an owner.
        allow: BTreeSet<IpNet>,
    },
    /// Hands packets to this prefix to the device.
    AddRoute(IpNet),
    /// Takes prefixes away from whoever has them.
    Disallow(BTreeSet<IpNet>),
    /// Forgets the peer, its session and what it still owns.
    RemovePeer(PublicKey),
    /// Hands packets to this prefix to the device no longer.
    RemoveRoute(IpNet),
}

/// The steps from `old` to `new`.
///
/// What is gained comes before what is lost, so that a prefix that both tables have is served at every step; this also
/// holds for a node with a new key, whose old peer goes last. Routes come after the peers behind them and go after them:
/// in between, packets are dropped rather than sent in clear.
pub fn diff(old: &Tables, new: &Tables) -> Vec<Change> {
    let mut gained = BTreeSet::new();
    let mut changes = Vec::new();
    for (key, peer) in &new.peers {
        let before = old.peers.get(key);
        let allow = match before {
            Some(before) => &peer.allowed_ips - &before.allowed_ips,
            None => peer.allowed_ips.clone(),
        };
        let settled = |before: &Peer| (before.endpoint, before.keepalive) == (peer.endpoint, peer.keepalive);
        if !allow.is_empty() || !before.is_some_and(settled) {
            gained.extend(allow.iter().copied());
            let (endpoint, keepalive) = (peer.endpoint, peer.keepalive);
            changes.push(Change::SetPeer { key: *key, endpoint, keepalive, allow });
        }
    }
    changes.extend(new.routes.difference(&old.routes).map(|route| Change::AddRoute(*route)));

    let mut lost = BTreeSet::new();
    for (key, before) in &old.peers {
        if let Some(after) = new.peers.get(key) {
            let gone = before.allowed_ips.difference(&after.allowed_ips);
            lost.extend(gone.filter(|prefix| !gained.contains(*prefix)).copied());
        }
    }
    if !lost.is_empty() {
        changes.push(Change::Disallow(lost));
    }
    let leaving = old.peers.keys().filter(|key| !new.peers.contains_key(key));
    changes.extend(leaving.map(|key| Change::RemovePeer(*key)));
    changes.extend(old.routes.difference(&new.routes).map(|route| Change::RemoveRoute(*route)));
    changes
}

impl Tables {
    /// What a device does on `change`; the model that devices are tested against.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::SetPeer { key, endpoint, keepalive, allow } => {
                self.peers
                    .values_mut()
                    .for_each(|peer| peer.allowed_ips.retain(|prefix| !allow.contains(prefix)));
                let allowed_ips = BTreeSet::new();
                let peer =
                    self.peers.entry(*key).or_insert(Peer { endpoint: None, keepalive: None, allowed_ips });
                (peer.endpoint, peer.keepalive) = (*endpoint, *keepalive);
                peer.allowed_ips.extend(allow);
            }
            Change::AddRoute(route) => {
                self.routes.insert(*route);
            }
            Change::Disallow(prefixes) => {
                self.peers
                    .values_mut()
                    .for_each(|peer| peer.allowed_ips.retain(|prefix| !prefixes.contains(prefix)));
            }
            Change::RemovePeer(key) => {
                self.peers.remove(key);
            }
            Change::RemoveRoute(route) => {
                self.routes.remove(route);
            }
        }
    }

    /// The peer that owns `prefix` itself, not just something around it.
    pub fn owner(&self, prefix: &IpNet) -> Option<&PublicKey> {
        self.peers.iter().find(|(_, peer)| peer.allowed_ips.contains(prefix)).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32]).unwrap()
    }

    fn net(number: u8) -> IpNet {
        format!("10.0.{number}.0/24").parse().unwrap()
    }

    /// Small domains: prefixes wander between few peers.
    fn tables() -> impl Strategy<Value = Tables> {
        let peers = btree_map(1u8..5, (0u16..3, proptest::option::of(1u16..3)), 0..5);
        let owners = btree_map(0u8..8, 1u8..5, 0..8);
        (peers, owners, btree_set(0u8..6, 0..6)).prop_map(|(peers, owners, routes)| {
            let allowed_of =
                |number| owners.iter().filter(|(_, o)| **o == number).map(|(p, _)| net(*p)).collect();
            let peer = |number, port, keepalive| Peer {
                endpoint: Some(SocketAddr::from(([192, 0, 2, 1], port))),
                keepalive,
                allowed_ips: allowed_of(number),
            };
            let peers = peers
                .into_iter()
                .map(|(number, (port, keepalive))| (key(number), peer(number, port, keepalive)));
            Tables { peers: peers.collect(), routes: routes.into_iter().map(net).collect() }
        })
    }

    proptest! {
        #[test]
        fn applying_the_difference_arrives_at_the_new_table(old in tables(), new in tables()) {
            let mut device = old.clone();
            diff(&old, &new).iter().for_each(|change| device.apply(change));
            prop_assert_eq!(device, new);
        }

        #[test]
        fn what_both_tables_have_is_there_at_every_step(old in tables(), new in tables()) {
            let kept: Vec<_> = (0..8).map(net).filter(|p| old.owner(p).is_some() && new.owner(p).is_some()).collect();
            let mut device = old.clone();
            for change in diff(&old, &new) {
                device.apply(&change);
                for prefix in &kept {
                    prop_assert!(device.owner(prefix).is_some(), "{prefix} has no owner after {change:?}");
                }
                for route in old.routes.intersection(&new.routes) {
                    prop_assert!(device.routes.contains(route), "{route} is gone after {change:?}");
                }
            }
        }

        #[test]
        fn equal_tables_need_no_change(table in tables()) {
            prop_assert_eq!(diff(&table, &table), []);
        }

        #[test]
        fn a_peer_that_does_not_change_is_not_touched(old in tables(), new in tables()) {
            let same: BTreeSet<_> = old.peers.iter().filter(|(k, p)| new.peers.get(k) == Some(p)).map(|(k, _)| *k).collect();
            for change in diff(&old, &new) {
                match change {
                    Change::SetPeer { key, .. } | Change::RemovePeer(key) => prop_assert!(!same.contains(&key)),
                    Change::Disallow(prefixes) => {
                        let hit = prefixes.iter().find_map(|p| new.owner(p));
                        prop_assert_eq!(hit, None);
                    }
                    Change::AddRoute(_) | Change::RemoveRoute(_) => {}
                }
            }
        }
    }
}
