//! Messages of the generic netlink family `wireguard` (`linux/wireguard.h`), to and from bytes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Config;
use crate::key::{KEY_LEN, PrivateKey, PublicKey};
use crate::netlink::generic::{HEADER, message};
use crate::netlink::{DUMP, Message, attributes, number};

const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;

const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_FWMARK: u16 = 7;
const WGDEVICE_A_PEERS: u16 = 8;

const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_KEEPALIVE: u16 = 5;
const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
const WGPEER_A_RX_BYTES: u16 = 7;
const WGPEER_A_TX_BYTES: u16 = 8;
const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGPEER_F_REMOVE_ME: u32 = 1;

const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

/// Elements of a list have no type of their own.
const ELEMENT: u16 = 0;
/// Prefixes of one message: an IPv6 one takes 40 bytes, and a nested attribute ends at 65,535.
const PREFIXES_PER_MESSAGE: usize = 1000;
/// The key of the peer that prefixes are moved to in order to vanish with it.
const NOBODY: [u8; KEY_LEN] = [0; KEY_LEN];

/// Key, port and mark of the device; its peers stay.
pub(super) fn set_device(family: u16, config: &Config, key: &PrivateKey, mark: u32) -> Message {
    let mut message = set(family, &config.name);
    let secret = Zeroizing::new(key.secret().to_bytes());
    message
        .attribute(WGDEVICE_A_PRIVATE_KEY, secret.as_slice())
        .u16(WGDEVICE_A_LISTEN_PORT, config.port)
        .u32(WGDEVICE_A_FWMARK, mark);
    message
}

/// Asks for the device with all its peers.
pub(super) fn get_device(family: u16, name: &str) -> Message {
    let mut request = message(family, DUMP, WG_CMD_GET_DEVICE);
    request.text(WGDEVICE_A_IFNAME, name);
    request
}

fn set(family: u16, name: &str) -> Message {
    let mut message = message(family, 0, WG_CMD_SET_DEVICE);
    message.text(WGDEVICE_A_IFNAME, name);
    message
}

/// One peer in a list of peers.
fn peer(peers: &mut Message, key: &[u8; KEY_LEN], fill: impl FnOnce(&mut Message)) {
    peers.nest(ELEMENT, |peer| {
        peer.attribute(WGPEER_A_PUBLIC_KEY, key);
        fill(peer);
    });
}

fn allowed_ips(peer: &mut Message, prefixes: &[IpNet]) {
    peer.nest(WGPEER_A_ALLOWEDIPS, |list| {
        for prefix in prefixes {
            list.nest(ELEMENT, |entry| {
                match prefix.network() {
                    IpAddr::V4(ip) => {
                        entry.u16(WGALLOWEDIP_A_FAMILY, libc::AF_INET as u16);
                        entry.attribute(WGALLOWEDIP_A_IPADDR, &ip.octets())
                    }
                    IpAddr::V6(ip) => {
                        entry.u16(WGALLOWEDIP_A_FAMILY, libc::AF_INET6 as u16);
                        entry.attribute(WGALLOWEDIP_A_IPADDR, &ip.octets())
                    }
                };
                entry.attribute(WGALLOWEDIP_A_CIDR_MASK, &[prefix.prefix_len()]);
            });
        }
    });
}

fn chunks(prefixes: &BTreeSet<IpNet>) -> Vec<Vec<IpNet>> {
    let all: Vec<_> = prefixes.iter().copied().collect();
    all.chunks(PREFIXES_PER_MESSAGE).map(<[IpNet]>::to_vec).collect()
}

/// Makes or changes a peer; prefixes that others have move over.
pub(super) fn set_peer(
    family: u16,
    name: &str,
    key: &PublicKey,
    endpoint: Option<SocketAddr>,
    keepalive: Option<u16>,
    allow: &BTreeSet<IpNet>,
) -> Vec<Message> {
    let mut chunks = chunks(allow);
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let message = |prefixes: Vec<IpNet>| {
        let mut message = set(family, name);
        message.nest(WGDEVICE_A_PEERS, |peers| {
            peer(peers, key.as_bytes(), |peer| {
                if let Some(endpoint) = endpoint {
                    peer.attribute(WGPEER_A_ENDPOINT, &sockaddr(endpoint));
                }
                peer.u16(WGPEER_A_KEEPALIVE, keepalive.unwrap_or(0));
                if !prefixes.is_empty() {
                    allowed_ips(peer, &prefixes);
                }
            });
        });
        message
    };
    chunks.into_iter().map(message).collect()
}

/// Takes prefixes from their peers, leaving these undisturbed: they move to a peer that is then removed. (Kernels before
/// 6.16 can only replace the whole list of a peer, which drops packets meanwhile.)
pub(super) fn disallow(family: u16, name: &str, prefixes: &BTreeSet<IpNet>) -> Vec<Message> {
    let message = |prefixes: Vec<IpNet>| {
        let mut message = set(family, name);
        message.nest(WGDEVICE_A_PEERS, |peers| {
            peer(peers, &NOBODY, |nobody| allowed_ips(nobody, &prefixes));
            peer(peers, &NOBODY, |nobody| {
                nobody.u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME);
            });
        });
        message
    };
    chunks(prefixes).into_iter().map(message).collect()
}

pub(super) fn remove_peer(family: u16, name: &str, key: &PublicKey) -> Message {
    let mut message = set(family, name);
    message.nest(WGDEVICE_A_PEERS, |peers| {
        peer(peers, key.as_bytes(), |peer| {
            peer.u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME);
        });
    });
    message
}

/// `struct sockaddr_in` or `sockaddr_in6`: family in host order, the rest in network order.
fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn parse_sockaddr(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(number(bytes.get(2..)?)?);
    match i32::from(u16::from_ne_bytes(number(bytes)?)) {
        libc::AF_INET => Some(SocketAddr::new(Ipv4Addr::from(number::<4>(bytes.get(4..)?)?).into(), port)),
        libc::AF_INET6 => Some(SocketAddr::new(Ipv6Addr::from(number::<16>(bytes.get(8..)?)?).into(), port)),
        _ => None,
    }
}

/// A peer as the kernel describes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive: Option<u16>,
    pub(super) allowed_ips: BTreeSet<IpNet>,
    /// Since 1970; `None` if there was none.
    pub(super) last_handshake: Option<Duration>,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

/// The peers of a dump. A peer with many prefixes continues in the next message, with its key and more prefixes only.
pub(super) fn parse_peers<'a>(bodies: impl Iterator<Item = &'a [u8]>) -> BTreeMap<PublicKey, Found> {
    let mut peers: BTreeMap<PublicKey, Found> = BTreeMap::new();
    let lists =
        bodies.flat_map(|body| attributes(body, HEADER)).filter(|(kind, _)| *kind == WGDEVICE_A_PEERS);
    for (_, peer) in lists.flat_map(|(_, list)| attributes(list, 0)) {
        let key = attributes(peer, 0).find(|(kind, _)| *kind == WGPEER_A_PUBLIC_KEY);
        let key =
            key.and_then(|(_, value)| number(value)).and_then(|bytes| PublicKey::from_bytes(bytes).ok());
        if let Some(key) = key {
            fill(peers.entry(key).or_default(), peer);
        }
    }
    peers
}

fn fill(found: &mut Found, peer: &[u8]) {
    for (kind, value) in attributes(peer, 0) {
        match kind {
            WGPEER_A_ENDPOINT => found.endpoint = parse_sockaddr(value),
            WGPEER_A_KEEPALIVE => {
                found.keepalive = number(value).map(u16::from_ne_bytes).filter(|seconds| *seconds > 0)
            }
            WGPEER_A_RX_BYTES => found.rx_bytes = number(value).map_or(0, u64::from_ne_bytes),
            WGPEER_A_TX_BYTES => found.tx_bytes = number(value).map_or(0, u64::from_ne_bytes),
            WGPEER_A_LAST_HANDSHAKE_TIME => {
                let seconds = number(value).map_or(0, i64::from_ne_bytes);
                found.last_handshake =
                    u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
            }
            WGPEER_A_ALLOWEDIPS => {
                found.allowed_ips.extend(attributes(value, 0).filter_map(|(_, ip)| allowed_ip(ip)))
            }
            _ => {}
        }
    }
}

fn allowed_ip(entry: &[u8]) -> Option<IpNet> {
    let (mut address, mut length) = (None, None);
    for (kind, value) in attributes(entry, 0) {
        match kind {
            WGALLOWEDIP_A_IPADDR => {
                let v6 = number::<16>(value).map(IpAddr::from);
                address = v6.or_else(|| number::<4>(value).map(IpAddr::from));
            }
            WGALLOWEDIP_A_CIDR_MASK => length = value.first().copied(),
            _ => {}
        }
    }
    IpNet::new(address?, length?).ok()
}

#[cfg(test)]
mod tests;
