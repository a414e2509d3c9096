use super::*;

const A: &str = "192.0.2.1:51871";
const B: &str = "192.0.2.2:51871";
/// Pods of the two nodes, as one prefix each.
const PODS_A: &str = "10.1.0.0/16";
const PODS_B: &str = "10.2.0.0/16";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An IPv4 packet without payload; checksums do not matter here.
fn packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend(from);
    packet.extend(to);
    packet
}

const POD_A: [u8; 4] = [10, 1, 0, 5];
const POD_B: [u8; 4] = [10, 2, 0, 5];

struct Node {
    engine: Engine,
    address: SocketAddr,
    out: Vec<u8>,
    now: Instant,
}

impl Node {
    fn new(address: &str) -> Self {
        let engine = Engine::new(&PrivateKey::generate().unwrap());
        Self { engine, address: self::address(address), out: vec![0; 2048], now: Instant::now() }
    }

    fn key(&self) -> PublicKey {
        self.engine.public_key()
    }

    fn knows(&mut self, other: &Node, prefixes: &[&str]) {
        self.engine.set_peer(self.now, other.key(), Some(other.address), None, &nets(prefixes));
    }

    fn sends(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        self.engine.outbound(packet, &mut self.out).map(|(_, bytes)| bytes.to_vec())
    }

    /// Answers that leave, and packets that arrive at the node.
    fn receives(&mut self, from: SocketAddr, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut answers, mut delivered) = (Vec::new(), Vec::new());
        let waiting = match self.engine.inbound(self.now, from, datagram, &mut self.out) {
            Inbound::Nothing { waiting } => waiting,
            Inbound::Answer { to, bytes, waiting } => {
                assert_eq!(to, from);
                answers.push(bytes.to_vec());
                waiting
            }
            Inbound::Deliver { packet, waiting } => {
                delivered.push(packet.to_vec());
                waiting
            }
        };
        while let Some((_, bytes)) = waiting.and_then(|peer| self.engine.waiting(peer, &mut self.out)) {
            answers.push(bytes.to_vec());
        }
        (answers, delivered)
    }

    fn peer(&self, other: &Node) -> PeerStatus {
        let found = self.engine.peers().find(|(key, _)| **key == other.key());
        found.map(|(key, peer)| peer.status(*key, self.now)).expect("is a peer")
    }
}

/// Two nodes that know each other.
fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(A), Node::new(B));
    a.knows(&b, &[PODS_B]);
    b.knows(&a, &[PODS_A]);
    (a, b)
}

/// Passes `datagrams` from `from` to `to` and the answers back, until all is quiet. Returns what `to` and `from` deliver.
fn exchange(from: &mut Node, to: &mut Node, datagrams: Vec<Vec<u8>>) -> [Vec<Vec<u8>>; 2] {
    let mut delivered = [Vec::new(), Vec::new()];
    let (mut there, mut back) = (datagrams, Vec::new());
    for round in 0.. {
        assert!(round < 20, "the two never fall silent");
        for datagram in std::mem::take(&mut there) {
            let (answers, packets) = to.receives(from.address, &datagram);
            back.extend(answers);
            delivered[0].extend(packets);
        }
        for datagram in std::mem::take(&mut back) {
            let (answers, packets) = from.receives(to.address, &datagram);
            there.extend(answers);
            delivered[1].extend(packets);
        }
        if there.is_empty() {
            break;
        }
    }
    delivered
}

/// Sends one packet and returns what arrives at the other node.
fn send(from: &mut Node, to: &mut Node, packet: &[u8]) -> Vec<Vec<u8>> {
    let datagrams = from.sends(packet).into_iter().collect();
    let [arrived, _] = exchange(from, to, datagrams);
    arrived
}

#[test]
fn the_first_packet_waits_for_the_handshake_and_arrives() {
    let (mut a, mut b) = pair();
    let there = packet(POD_A, POD_B);
    assert_eq!(send(&mut a, &mut b, &there), [there]);
    let back = packet(POD_B, POD_A);
    assert_eq!(send(&mut b, &mut a, &back), [back]);
    for (node, other) in [(&a, &b), (&b, &a)] {
        let peer = node.peer(other);
        assert_eq!(peer.last_handshake, Some(Duration::ZERO));
        assert!(peer.rx_bytes > 0 && peer.tx_bytes > 0);
        assert_eq!(node.engine.counters, Counters::default());
    }
}

#[test]
fn both_sides_may_begin_at_once() {
    let (mut a, mut b) = pair();
    let (there, back) = (packet(POD_A, POD_B), packet(POD_B, POD_A));
    let init_a = a.sends(&there).unwrap();
    let init_b = b.sends(&back).unwrap();
    let (answers_b, _) = b.receives(a.address, &init_a);
    let (answers_a, _) = a.receives(b.address, &init_b);
    let [at_b, at_a] = exchange(&mut a, &mut b, answers_a);
    let [at_a_too, at_b_too] = exchange(&mut b, &mut a, answers_b);
    assert_eq!([at_b, at_b_too].concat(), [there]);
    assert_eq!([at_a, at_a_too].concat(), [back]);
}

#[test]
fn a_handshake_counts_as_done_only_when_the_other_side_proves_it() {
    let (mut a, mut b) = pair();
    let init = a.sends(&packet(POD_A, POD_B)).unwrap();
    let (answers, _) = b.receives(a.address, &init);
    assert_eq!(answers.len(), 1);
    assert_eq!(b.peer(&a).last_handshake, None, "the answer may have been lost");
    exchange(&mut b, &mut a, answers);
    assert_eq!(b.peer(&a).last_handshake, Some(Duration::ZERO));
}

#[test]
fn a_handshake_of_an_unknown_key_is_counted_and_not_answered() {
    let (mut a, mut b) = (Node::new(A), Node::new(B));
    a.knows(&b, &[PODS_B]);
    let init = a.sends(&packet(POD_A, POD_B)).unwrap();
    assert_eq!(b.receives(a.address, &init), (vec![], vec![]));
    assert_eq!(b.engine.counters, Counters { unknown_key: 1, ..Counters::default() });
}

#[test]
fn a_sender_outside_the_peers_prefixes_is_refused_and_counted() {
    let (mut a, mut b) = pair();
    for spoofed in [[10, 2, 0, 9], [10, 3, 0, 1], [192, 0, 2, 1]] {
        assert_eq!(send(&mut a, &mut b, &packet(spoofed, POD_B)), [[0u8; 0]; 0]);
    }
    assert_eq!(b.peer(&a).rx_refused, Some(3));
    let honest = packet(POD_A, POD_B);
    assert_eq!(send(&mut a, &mut b, &honest), [honest]);
}

#[test]
fn the_longest_prefix_chooses_the_peer() {
    let (mut a, mut b) = pair();
    let mut c = Node::new("192.0.2.3:51871");
    c.knows(&a, &[PODS_A]);
    a.knows(&c, &["10.2.0.5/32"]);
    let to_c = packet(POD_A, POD_B);
    assert_eq!(send(&mut a, &mut c, &to_c), [to_c]);
    let to_b = packet(POD_A, [10, 2, 0, 6]);
    assert_eq!(send(&mut a, &mut b, &to_b), [to_b]);
}

#[test]
fn a_packet_to_nobody_is_counted() {
    let (mut a, _b) = pair();
    for odd in [packet(POD_A, [10, 9, 0, 1]), Vec::new(), vec![0x60; 40], vec![0xff; 60]] {
        assert_eq!(a.sends(&odd), None);
    }
    assert_eq!(a.engine.counters, Counters { no_peer: 4, ..Counters::default() });
}

#[test]
fn a_removed_peer_is_neither_sent_to_nor_heard() {
    let (mut a, mut b) = pair();
    let to_b = packet(POD_A, POD_B);
    assert_eq!(send(&mut a, &mut b, &to_b), std::slice::from_ref(&to_b));
    b.engine.remove_peer(&a.key());
    assert_eq!(send(&mut a, &mut b, &to_b), [[0u8; 0]; 0]);
    assert_eq!(b.engine.counters, Counters { unknown_session: 1, ..Counters::default() });
    assert_eq!(b.sends(&packet(POD_B, POD_A)), None);
    assert_eq!(b.engine.peers().count(), 0);
}

#[test]
fn changing_one_peer_leaves_the_session_of_another_alone() {
    let (mut a, mut b) = pair();
    let to_b = packet(POD_A, POD_B);
    send(&mut a, &mut b, &to_b);
    let c = Node::new("192.0.2.3:51871");
    a.knows(&c, &["10.3.0.0/16"]);
    a.engine.disallow(&nets(&["10.3.0.0/16"]));
    a.engine.remove_peer(&c.key());
    let sealed = a.sends(&to_b).expect("the session still serves");
    assert_eq!(sealed[0], 4, "data, not a handshake");
    assert_eq!(b.receives(a.address, &sealed).1, [to_b]);
}

#[test]
fn a_prefix_moves_to_the_peer_that_is_given_it() {
    let (mut a, b) = pair();
    let c = Node::new("192.0.2.3:51871");
    a.knows(&c, &[PODS_B]);
    assert_eq!((a.peer(&b).allowed_ips, a.peer(&c).allowed_ips), (0, 1));
    a.engine.remove_peer(&b.key());
    assert_eq!(a.engine.owners.longest_match([10, 2, 0, 5].into()), a.engine.numbers.get(&c.key()));
}

#[test]
fn a_node_with_a_new_key_is_reached_again() {
    let (mut a, mut old) = pair();
    let to_b = packet(POD_A, POD_B);
    send(&mut a, &mut old, &to_b);
    let mut new = Node::new(B);
    new.knows(&a, &[PODS_A]);
    a.knows(&new, &[PODS_B]);
    a.engine.remove_peer(&old.key());
    assert_eq!(send(&mut a, &mut new, &to_b), [to_b]);
}

#[test]
fn a_restarted_node_is_heard_again_at_its_first_packet() {
    let (mut a, mut b) = pair();
    let (to_b, to_a) = (packet(POD_A, POD_B), packet(POD_B, POD_A));
    send(&mut a, &mut b, &to_b);
    let key = PrivateKey::from_secret_for_tests(&b.engine.secret);
    let mut again = Node { engine: Engine::new(&key), ..Node::new(B) };
    again.knows(&a, &[PODS_A]);
    assert_eq!(send(&mut a, &mut again, &to_b), [[0u8; 0]; 0], "it does not know the old session");
    assert_eq!(again.engine.counters.unknown_session, 1);
    assert_eq!(send(&mut again, &mut a, &to_a), [to_a]);
    assert_eq!(send(&mut a, &mut again, &to_b), [to_b]);
}

#[test]
fn the_endpoint_follows_an_authenticated_peer_until_it_is_planned_anew() {
    let (mut a, mut b) = pair();
    let to_b = packet(POD_A, POD_B);
    send(&mut a, &mut b, &to_b);
    let moved = address("198.51.100.9:4000");
    let sealed = a.sends(&to_b).unwrap();
    b.receives(moved, &sealed);
    assert_eq!(b.peer(&a).endpoint, Some(moved));
    b.receives(address("203.0.113.1:1"), &sealed);
    assert_eq!(b.peer(&a).endpoint, Some(moved), "a replayed packet moves nothing");
    b.knows(&a, &[]);
    assert_eq!(b.peer(&a).endpoint, Some(moved), "the same plan changes nothing");
    let planned = address("192.0.2.99:51871");
    b.engine.set_peer(b.now, a.key(), Some(planned), None, &BTreeSet::new());
    assert_eq!(b.peer(&a).endpoint, Some(planned));
}

#[test]
fn garbage_is_counted_and_disturbs_nothing() {
    let (mut a, mut b) = pair();
    let to_b = packet(POD_A, POD_B);
    send(&mut a, &mut b, &to_b);
    let mut forged = a.sends(&to_b).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let mut forged_init = vec![0; 148];
    forged_init[0] = 1;
    for garbage in [Vec::new(), vec![1, 2, 3], vec![0; 200], vec![0xff; 1500], forged_init, forged] {
        assert_eq!(b.receives(a.address, &garbage), (vec![], vec![]));
    }
    assert_eq!(b.engine.counters, Counters { malformed: 6, ..Counters::default() });
    assert_eq!(send(&mut a, &mut b, &to_b), [to_b]);
}

#[test]
fn a_flood_of_handshakes_is_answered_with_cookies() {
    let (mut a, mut b) = pair();
    let init = a.sends(&packet(POD_A, POD_B)).unwrap();
    let mut cookies = 0;
    for _ in 0..HANDSHAKES_PER_SECOND + 1 {
        let (answers, _) = b.receives(a.address, &init);
        cookies += answers.iter().filter(|answer| answer[0] == COOKIE_REPLY).count();
    }
    assert!(cookies > 0);
    assert_eq!(b.engine.counters.cookies, cookies as u64);
    assert_eq!(b.peer(&a).endpoint, Some(a.address));
}

#[test]
fn a_keepalive_opens_a_session_without_a_packet_and_repeats_when_due() {
    let (mut a, mut b) = pair();
    a.engine.set_peer(a.now, b.key(), Some(b.address), Some(25), &BTreeSet::new());
    let number = a.engine.numbers[&b.key()];
    let (_, init) = a.engine.tick(a.now, number, &mut a.out).expect("the first is due at once");
    let init = init.to_vec();
    exchange(&mut a, &mut b, vec![init]);
    assert_eq!(b.peer(&a).last_handshake, Some(Duration::ZERO));
    assert!(a.engine.tick(a.now + Duration::from_secs(24), number, &mut a.out).is_none());
    let (_, keepalive) =
        a.engine.tick(a.now + Duration::from_secs(25), number, &mut a.out).expect("due again");
    assert_eq!((keepalive[0], keepalive.len()), (4, 32), "an empty data packet");
    a.engine.set_peer(a.now, b.key(), Some(b.address), None, &BTreeSet::new());
    assert!(a.engine.tick(a.now + Duration::from_secs(99), number, &mut a.out).is_none(), "turned off");
}
