//! Packets in, packets out: sessions, cryptokey routing and counters of a user-space device. No I/O.
//!
//! Time comes as an argument where this module counts; sessions inside `boringtun` read the clock themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use ipnet::IpNet;
use tracing::{debug, trace};

use super::super::{Counters, PeerStatus};
use crate::key::{PrivateKey, PublicKey};
use crate::prefix::PrefixMap;

/// Handshake messages per second before senders have to prove their address by a cookie. Each initiation is weighed
/// twice, here and in its session.
const HANDSHAKES_PER_SECOND: u64 = 200;
/// Session numbers of one peer share the upper bits of their number.
const SESSION_BITS: u32 = 8;
const COOKIE_REPLY: u8 = 3;
const COOKIE_REPLY_LENGTH: usize = 64;

/// What a datagram from the network leads to. `waiting` is the peer for which packets may have waited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inbound<'o> {
    Nothing { waiting: Option<u32> },
    Answer { to: SocketAddr, bytes: &'o [u8], waiting: Option<u32> },
    Deliver { packet: &'o [u8], waiting: Option<u32> },
}

/// One peer and its sessions.
pub(super) struct EnginePeer {
    session: Tunn,
    /// As planned.
    pub(super) configured: Option<SocketAddr>,
    /// Where it was last heard, else as planned.
    endpoint: Option<SocketAddr>,
    pub(super) keepalive: Option<u16>,
    next_keepalive: Option<Instant>,
    pub(super) allowed_ips: BTreeSet<IpNet>,
    /// The session whose handshake we answered and whose first packet would complete it.
    unconfirmed: Option<u32>,
    last_handshake: Option<Instant>,
    rx_bytes: u64,
    tx_bytes: u64,
    rx_refused: u64,
}

impl EnginePeer {
    pub(super) fn status(&self, public_key: PublicKey, now: Instant) -> PeerStatus {
        PeerStatus {
            public_key,
            endpoint: self.endpoint,
            allowed_ips: self.allowed_ips.len(),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            last_handshake: self.last_handshake.map(|at| now.saturating_duration_since(at)),
            rx_refused: Some(self.rx_refused),
        }
    }

    /// Counts what leaves for this peer.
    fn sealed<'o>(&mut self, bytes: &'o [u8]) -> Option<(SocketAddr, &'o [u8])> {
        let to = self.endpoint?;
        self.tx_bytes += bytes.len() as u64;
        Some((to, bytes))
    }
}

/// Sessions and tables of a device.
pub(super) struct Engine {
    secret: x25519::StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    numbers: BTreeMap<PublicKey, u32>,
    peers: BTreeMap<u32, EnginePeer>,
    owners: PrefixMap<u32>,
    next_number: u32,
    pub(super) counters: Counters,
}

impl Engine {
    pub(super) fn new(key: &PrivateKey) -> Self {
        let (secret, public) = (key.secret(), key.public());
        let limiter = Arc::new(RateLimiter::new(&public.x25519(), HANDSHAKES_PER_SECOND));
        Self {
            secret,
            public,
            limiter,
            numbers: BTreeMap::new(),
            peers: BTreeMap::new(),
            owners: PrefixMap::default(),
            // Packets of sessions of an earlier life must not meet a peer by chance.
            next_number: rand::random::<u32>() >> SESSION_BITS,
            counters: Counters::default(),
        }
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.public
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (&PublicKey, &EnginePeer)> {
        self.numbers.iter().filter_map(|(key, number)| Some((key, self.peers.get(number)?)))
    }

    pub(super) fn set_peer(
        &mut self,
        now: Instant,
        key: PublicKey,
        endpoint: Option<SocketAddr>,
        keepalive: Option<u16>,
        allow: &BTreeSet<IpNet>,
    ) {
        let number = match self.numbers.get(&key) {
            Some(number) => *number,
            None => self.new_peer(key),
        };
        for prefix in allow {
            if let Some(before) = self.owners.insert(*prefix, number)
                && let Some(peer) = self.peers.get_mut(&before)
            {
                peer.allowed_ips.remove(prefix);
            }
        }
        if let Some(peer) = self.peers.get_mut(&number) {
            if peer.configured != endpoint {
                (peer.configured, peer.endpoint) = (endpoint, endpoint);
            }
            if peer.keepalive != keepalive {
                (peer.keepalive, peer.next_keepalive) = (keepalive, keepalive.map(|_seconds| now));
            }
            peer.allowed_ips.extend(allow);
        }
    }

    fn new_peer(&mut self, key: PublicKey) -> u32 {
        loop {
            self.next_number = self.next_number.wrapping_add(1) & (u32::MAX >> SESSION_BITS);
            if !self.peers.contains_key(&self.next_number) {
                break;
            }
        }
        let number = self.next_number;
        let limiter = Some(Arc::clone(&self.limiter));
        // Keepalives are sent from `tick`, so that they can be changed and outlive an expired session.
        let session = Tunn::new(self.secret.clone(), key.x25519(), None, None, number, limiter);
        let peer = EnginePeer {
            session,
            configured: None,
            endpoint: None,
            keepalive: None,
            next_keepalive: None,
            allowed_ips: BTreeSet::new(),
            unconfirmed: None,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_refused: 0,
        };
        self.numbers.insert(key, number);
        self.peers.insert(number, peer);
        number
    }

    pub(super) fn disallow(&mut self, prefixes: &BTreeSet<IpNet>) {
        for prefix in prefixes {
            if let Some(number) = self.owners.remove(prefix)
                && let Some(peer) = self.peers.get_mut(&number)
            {
                peer.allowed_ips.remove(prefix);
            }
        }
    }

    pub(super) fn remove_peer(&mut self, key: &PublicKey) {
        let Some(peer) = self.numbers.remove(key).and_then(|number| self.peers.remove(&number)) else {
            return;
        };
        for prefix in peer.allowed_ips {
            self.owners.remove(&prefix);
        }
    }

    /// Seals a packet from the node. `None`: nobody to send it to, or it waits for a session.
    pub(super) fn outbound<'o>(
        &mut self,
        packet: &[u8],
        out: &'o mut [u8],
    ) -> Option<(SocketAddr, &'o [u8])> {
        let owner = Tunn::dst_address(packet).and_then(|to| self.owners.longest_match(to));
        let Some(peer) = owner.and_then(|number| self.peers.get_mut(number)) else {
            self.counters.no_peer += 1;
            return None;
        };
        to_network(peer.session.encapsulate(packet, out)).and_then(|bytes| peer.sealed(bytes))
    }

    /// Seals the next packet that waited for a session with peer `number`.
    pub(super) fn waiting<'o>(&mut self, number: u32, out: &'o mut [u8]) -> Option<(SocketAddr, &'o [u8])> {
        let peer = self.peers.get_mut(&number)?;
        to_network(peer.session.decapsulate(None, &[], out)).and_then(|bytes| peer.sealed(bytes))
    }

    /// Opens a datagram from the network.
    pub(super) fn inbound<'o>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        out: &'o mut [u8],
    ) -> Inbound<'o> {
        const NOTHING: Inbound<'static> = Inbound::Nothing { waiting: None };
        let Ok(packet) = Tunn::parse_incoming_packet(datagram) else {
            self.counters.malformed += 1;
            return NOTHING;
        };
        let (number, session, handshake) = match packet {
            Packet::HandshakeInit(_) => {
                let mut cookie = [0; COOKIE_REPLY_LENGTH];
                let init = match self.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
                    Ok(Packet::HandshakeInit(init)) => init,
                    Err(TunnResult::WriteToNetwork(_)) => {
                        self.counters.cookies += 1;
                        let answer = &mut out[..COOKIE_REPLY_LENGTH];
                        answer.copy_from_slice(&cookie);
                        return Inbound::Answer { to: from, bytes: answer, waiting: None };
                    }
                    Ok(_) | Err(_) => {
                        self.counters.malformed += 1;
                        return NOTHING;
                    }
                };
                let opened = parse_handshake_anon(&self.secret, &self.public.x25519(), &init);
                let Ok(sender) = opened.map(|half| PublicKey::from_bytes(half.peer_static_public)) else {
                    self.counters.malformed += 1;
                    return NOTHING;
                };
                let Some(number) = sender.ok().and_then(|key| self.numbers.get(&key)) else {
                    self.counters.unknown_key += 1;
                    debug!(%from, ?sender, "handshake of a key that is no peer");
                    return NOTHING;
                };
                (*number, None, Handshake::Init)
            }
            Packet::HandshakeResponse(packet) => {
                (packet.receiver_idx >> SESSION_BITS, None, Handshake::Response)
            }
            Packet::PacketCookieReply(packet) => {
                (packet.receiver_idx >> SESSION_BITS, None, Handshake::Cookie)
            }
            Packet::PacketData(packet) => {
                (packet.receiver_idx >> SESSION_BITS, Some(packet.receiver_idx), Handshake::Data)
            }
        };
        let Some(peer) = self.peers.get_mut(&number) else {
            self.counters.unknown_session += 1;
            return NOTHING;
        };
        // A cookie may still be asked for here, by a sender whose address is not proven; all else is authenticated.
        let opened = peer.session.decapsulate(Some(from.ip()), datagram, out);
        match opened {
            TunnResult::Err(error) => {
                trace!(%from, ?error, "datagram does not open");
                self.counters.malformed += 1;
                return NOTHING;
            }
            TunnResult::WriteToNetwork(bytes) if bytes.first() == Some(&COOKIE_REPLY) => {
                self.counters.cookies += 1;
                return Inbound::Answer { to: from, bytes, waiting: None };
            }
            TunnResult::Done
            | TunnResult::WriteToNetwork(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => {}
        }
        peer.rx_bytes += datagram.len() as u64;
        match handshake {
            Handshake::Response => peer.last_handshake = Some(now),
            Handshake::Data if session.is_some() && peer.unconfirmed == session => {
                (peer.unconfirmed, peer.last_handshake) = (None, Some(now));
            }
            Handshake::Init | Handshake::Data | Handshake::Cookie => {}
        }
        if handshake != Handshake::Cookie {
            peer.endpoint = Some(from);
        }
        // After an answered handshake the session serves once the other side has used it, not before.
        let waiting = matches!(handshake, Handshake::Response | Handshake::Data).then_some(number);
        let (packet, sender) = match opened {
            TunnResult::WriteToNetwork(bytes) => {
                if handshake == Handshake::Init {
                    peer.unconfirmed =
                        bytes.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
                }
                peer.tx_bytes += bytes.len() as u64;
                return Inbound::Answer { to: from, bytes, waiting };
            }
            TunnResult::WriteToTunnelV4(packet, sender) => (packet, sender.into()),
            TunnResult::WriteToTunnelV6(packet, sender) => (packet, sender.into()),
            TunnResult::Done | TunnResult::Err(_) => return Inbound::Nothing { waiting },
        };
        if self.owners.longest_match(sender) != Some(&number) {
            peer.rx_refused += 1;
            return Inbound::Nothing { waiting };
        }
        Inbound::Deliver { packet, waiting }
    }

    /// Fills `numbers` with the peers to [`tick`](Self::tick).
    pub(super) fn begin_tick(&self, numbers: &mut Vec<u32>) {
        self.limiter.reset_count();
        numbers.clear();
        numbers.extend(self.peers.keys());
    }

    /// What the passing of time demands of peer `number`: a handshake or a keepalive.
    pub(super) fn tick<'o>(
        &mut self,
        now: Instant,
        number: u32,
        out: &'o mut [u8],
    ) -> Option<(SocketAddr, &'o [u8])> {
        let peer = self.peers.get_mut(&number)?;
        // Expired sessions are an error at every tick; the next packet or keepalive starts anew.
        let due = to_network(peer.session.update_timers(out)).map(<[u8]>::len);
        if let Some(length) = due {
            return peer.sealed(&out[..length]);
        }
        if peer.next_keepalive.is_none_or(|at| now < at) {
            return None;
        }
        peer.next_keepalive = peer.keepalive.map(|seconds| now + Duration::from_secs(u64::from(seconds)));
        to_network(peer.session.encapsulate(&[], out)).and_then(|bytes| peer.sealed(bytes))
    }
}

/// The bytes for the network, if that is what a session says.
fn to_network(result: TunnResult<'_>) -> Option<&[u8]> {
    match result {
        TunnResult::WriteToNetwork(bytes) => Some(bytes),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Handshake {
    Init,
    Response,
    Cookie,
    Data,
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
