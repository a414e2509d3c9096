//! Two devices and a network that does as the input says.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use boringtun::x25519::StaticSecret;

use super::{Engine, Inbound};
use crate::key::PrivateKey;

/// Commands carried out, at most: each handshake costs milliseconds.
const MOST_COMMANDS: usize = 64;

/// One device and what it has sent and received.
struct Node {
    engine: Engine,
    address: SocketAddr,
    /// Packets that the node gave to the device.
    sent: BTreeSet<Vec<u8>>,
    /// How many packets the device gave to the node.
    delivered: usize,
    out: Vec<u8>,
}

impl Node {
    fn new(secret: u8, address: &str) -> Self {
        Self {
            engine: Engine::new(&PrivateKey::from_secret_for_tests(&StaticSecret::from([secret; 32]))),
            address: address.parse().expect("an address"),
            sent: BTreeSet::new(),
            delivered: 0,
            out: vec![0; 65_536 + 256],
        }
    }

    fn knows(&mut self, other: &Node, prefix: &str, now: Instant) {
        let allow = BTreeSet::from([prefix.parse().expect("a prefix")]);
        self.engine.set_peer(now, other.engine.public_key(), Some(other.address), Some(25), &allow);
    }

    /// A datagram arrives; what leaves in answer.
    fn receive(
        &mut self,
        sender: &BTreeSet<Vec<u8>>,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        let waiting = match self.engine.inbound(now, from, datagram, &mut self.out) {
            Inbound::Nothing { waiting } => waiting,
            Inbound::Answer { bytes, waiting, .. } => {
                answers.push(bytes.to_vec());
                waiting
            }
            Inbound::Deliver { packet, waiting } => {
                // Opened to the length that the packet's header gives.
                assert!(
                    sender.iter().any(|sent| sent.starts_with(packet)),
                    "never sent: {}",
                    packet.escape_ascii()
                );
                self.delivered += 1;
                waiting
            }
        };
        while let Some((_, bytes)) = waiting.and_then(|peer| self.engine.waiting(peer, &mut self.out)) {
            answers.push(bytes.to_vec());
        }
        answers
    }
}

/// Carries out commands, each a number, a length and so many bytes. Accepted if a packet reaches a node.
///
/// Even numbers are about what goes to the first node, odd ones to the second: `0` a packet of the other node for it,
/// `2` the next datagram arrives, `4` it arrives changed (place and value from the bytes), `6` it arrives twice, `8` it is
/// lost, `10` the bytes arrive as a datagram, `12` time passes.
pub(crate) fn packets(input: &[u8]) -> bool {
    let mut now = Instant::now();
    let mut nodes = [Node::new(1, "192.0.2.1:51871"), Node::new(2, "192.0.2.2:51871")];
    let [a, b] = &mut nodes;
    a.knows(b, "10.2.0.0/16", now);
    b.knows(a, "10.1.0.0/16", now);
    let mut network: [VecDeque<Vec<u8>>; 2] = Default::default();
    let mut rest = input;
    for _ in 0..MOST_COMMANDS {
        let [command, length, after @ ..] = rest else { break };
        let (bytes, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        let to = usize::from(command % 2);
        let mut arriving = Vec::new();
        match (command / 2) % 7 {
            0 => {
                let sender = &mut nodes[1 - to];
                sender.sent.insert(bytes.to_vec());
                let sealed = sender.engine.outbound(bytes, &mut sender.out);
                network[to].extend(sealed.map(|(_, bytes)| bytes.to_vec()));
            }
            1 => arriving.extend(network[to].pop_front()),
            2 => arriving.extend(network[to].pop_front().map(|datagram| changed(datagram, bytes))),
            3 => arriving.extend(
                network[to].pop_front().into_iter().flat_map(|datagram| [datagram.clone(), datagram]),
            ),
            4 => drop(network[to].pop_front()),
            5 => arriving.push(bytes.to_vec()),
            _ => {
                now += Duration::from_secs(u64::from(*length));
                let mut peers = Vec::new();
                let node = &mut nodes[to];
                node.engine.begin_tick(&mut peers);
                for peer in peers {
                    let sealed = node.engine.tick(now, peer, &mut node.out);
                    network[1 - to].extend(sealed.map(|(_, bytes)| bytes.to_vec()));
                }
            }
        }
        for datagram in arriving {
            let (from, sent) = (nodes[1 - to].address, nodes[1 - to].sent.clone());
            let answers = nodes[to].receive(&sent, from, &datagram, now);
            network[1 - to].extend(answers);
        }
        for node in &nodes {
            assert_eq!(node.engine.peers().count(), 1, "packets make no peers");
        }
    }
    nodes.iter().any(|node| node.delivered > 0)
}

/// Flips bits of a byte, which no value of it outlives, and cuts off the end if there is a third byte.
fn changed(mut datagram: Vec<u8>, how: &[u8]) -> Vec<u8> {
    if let [place, value, ..] = how
        && let Some(byte) = datagram.get_mut(usize::from(*place))
    {
        *byte ^= *value;
    }
    if let Some(cut) = how.get(2) {
        datagram.truncate(datagram.len().saturating_sub(usize::from(*cut)));
    }
    datagram
}
