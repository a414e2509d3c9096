//! A device that only remembers, for tests and for agents that plan without encrypting.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;

use super::{ApplyError, Device, DeviceError, DeviceKind, PeerStatus, Status, apply_each};
use crate::key::PublicKey;
use crate::plan::{Change, PORT, Tables};

/// Tables without packets.
#[derive(Clone, Debug)]
pub struct Memory {
    public_key: PublicKey,
    tables: Tables,
    /// Every step so far, also the failed ones.
    pub log: Vec<Change>,
    /// Routes that this device refuses, to try what happens then.
    pub refused_routes: BTreeSet<IpNet>,
}

impl Memory {
    /// An empty device of the node with this key.
    pub fn new(public_key: PublicKey) -> Self {
        Self { public_key, tables: Tables::default(), log: Vec::new(), refused_routes: BTreeSet::new() }
    }
}

impl Device for Memory {
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        apply_each(changes, |change| {
            self.log.push(change.clone());
            match change {
                Change::AddRoute(route) if self.refused_routes.contains(route) => {
                    Err(io::Error::from_raw_os_error(libc::ENETUNREACH))
                }
                Change::SetPeer { .. }
                | Change::AddRoute(_)
                | Change::Disallow(_)
                | Change::RemovePeer(_)
                | Change::RemoveRoute(_) => {
                    self.tables.apply(change);
                    Ok(())
                }
            }
        })
    }

    fn tables(&mut self) -> Result<Tables, DeviceError> {
        Ok(self.tables.clone())
    }

    fn status(&mut self) -> Result<Status, DeviceError> {
        let peers = self.tables.peers.iter().map(|(key, peer)| PeerStatus {
            public_key: *key,
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips.len(),
            rx_bytes: 0,
            tx_bytes: 0,
            last_handshake: None,
            rx_refused: None,
        });
        Ok(Status {
            kind: DeviceKind::Memory,
            name: super::DEVICE_NAME.to_owned(),
            public_key: self.public_key,
            port: PORT,
            mtu: super::device_mtu(1500),
            peers: peers.collect(),
            counters: None,
        })
    }

    fn uninstall(&mut self) -> Result<(), DeviceError> {
        self.tables = Tables::default();
        Ok(())
    }
}
