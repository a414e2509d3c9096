//! WireGuard of the kernel, configured over generic netlink.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime};

use tracing::info;

use super::interface::Interface;
use super::{ApplyError, Config, Device, DeviceError, DeviceKind, MARK, PeerStatus, Status, apply_each};
use crate::key::{PrivateKey, PublicKey};
use crate::netlink::Netlink;
use crate::plan::{Change, Peer, Tables};

mod message;

use message::Found;

/// Name of the generic netlink family and of the kind of link.
const FAMILY: &str = "wireguard";

/// The kernel device's handle.
pub(super) struct Kernel {
    netlink: Netlink,
    family: u16,
    interface: Interface,
    config: Config,
    public_key: PublicKey,
}

impl Kernel {
    /// Opens or adopts the device. Peers and their sessions that are there already stay.
    pub(super) fn open(config: &Config, key: &PrivateKey) -> Result<Self, DeviceError> {
        let mut netlink = Netlink::generic().map_err(DeviceError::system("open a generic netlink socket"))?;
        let family =
            netlink.family(FAMILY).map_err(DeviceError::system("look for WireGuard in the kernel"))?;
        let Some(family) = family else {
            let detail = "expected WireGuard in the kernel, found no netlink family of that name; load the module \
                          `wireguard` (Linux 5.6 or newer), or use the user-space device";
            return Err(DeviceError::unavailable(detail.to_owned()));
        };
        let mut route = Netlink::route().map_err(DeviceError::system("open a netlink socket"))?;
        if Interface::find(&mut route, config, FAMILY)?.is_none() {
            route
                .create_link(&config.name, FAMILY)
                .map_err(DeviceError::system("create the WireGuard interface"))?;
        }
        netlink.request(message::set_device(family, config, key, MARK)).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EADDRINUSE) => DeviceError::Port { port: config.port, source },
                _ => DeviceError::System { action: "configure the WireGuard interface", source },
            }
        })?;
        let link = Interface::find(&mut route, config, FAMILY)?.ok_or_else(|| {
            DeviceError::unavailable("the interface vanished while it was set up".to_owned())
        })?;
        let interface = Interface::raise(route, config, &link)?;
        info!(interface = config.name, port = config.port, mtu = config.mtu, "kernel WireGuard device is up");
        Ok(Self { netlink, family, interface, config: config.clone(), public_key: key.public() })
    }

    /// The peers as the kernel has them; one peer may come in several pieces.
    fn peers(&mut self) -> Result<BTreeMap<PublicKey, Found>, DeviceError> {
        let request = message::get_device(self.family, &self.config.name);
        let dump =
            self.netlink.request(request).map_err(DeviceError::system("ask the WireGuard interface"))?;
        Ok(message::parse_peers(dump.iter().map(Vec::as_slice)))
    }

    fn send(&mut self, messages: Vec<crate::netlink::Message>) -> io::Result<()> {
        messages.into_iter().try_for_each(|message| self.netlink.request(message).map(drop))
    }
}

impl Device for Kernel {
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        let (family, name) = (self.family, self.config.name.clone());
        apply_each(changes, |change| match change {
            Change::SetPeer { key, endpoint, keepalive, allow } => {
                self.send(message::set_peer(family, &name, key, *endpoint, *keepalive, allow))
            }
            Change::Disallow(prefixes) => self.send(message::disallow(family, &name, prefixes)),
            Change::RemovePeer(key) => self.send(vec![message::remove_peer(family, &name, key)]),
            Change::AddRoute(prefix) => self.interface.add_route(*prefix),
            Change::RemoveRoute(prefix) => self.interface.remove_route(*prefix),
        })
    }

    fn tables(&mut self) -> Result<Tables, DeviceError> {
        let peers = self.peers()?.into_iter().map(|(key, found)| {
            let Found { endpoint, keepalive, allowed_ips, .. } = found;
            (key, Peer { endpoint, keepalive, allowed_ips })
        });
        Ok(Tables { peers: peers.collect(), routes: self.interface.routes()? })
    }

    fn status(&mut self) -> Result<Status, DeviceError> {
        let now = SystemTime::now();
        let ago = |since_epoch: Duration| {
            now.duration_since(SystemTime::UNIX_EPOCH + since_epoch).unwrap_or_default()
        };
        let peers = self.peers()?.into_iter().map(|(key, found)| PeerStatus {
            public_key: key,
            endpoint: found.endpoint,
            allowed_ips: found.allowed_ips.len(),
            rx_bytes: found.rx_bytes,
            tx_bytes: found.tx_bytes,
            last_handshake: found.last_handshake.map(ago),
            rx_refused: None,
        });
        Ok(Status {
            kind: DeviceKind::Kernel,
            name: self.config.name.clone(),
            public_key: self.public_key,
            port: self.config.port,
            mtu: self.config.mtu,
            peers: peers.collect(),
            counters: None,
        })
    }

    fn uninstall(&mut self) -> Result<(), DeviceError> {
        self.interface.uninstall()
    }
}
