//! The golden bytes were laid out by hand after `linux/wireguard.h`, for a little-endian machine.
#![cfg(target_endian = "little")]

use super::*;

const FAMILY: u16 = 0x1c;

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32]).unwrap()
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Header with the sum of the pieces as length, then the pieces.
fn golden(pieces: &[&[u8]]) -> Vec<u8> {
    let rest = pieces.concat();
    let mut bytes = (16 + rest.len() as u32).to_le_bytes().to_vec();
    // Family, request with acknowledgement, sequence 1, port 0.
    bytes.extend([0x1c, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(rest);
    bytes
}

fn bytes(messages: Vec<Message>) -> Vec<Vec<u8>> {
    messages.into_iter().map(|message| message.finish(1).to_vec()).collect()
}

/// WG_CMD_SET_DEVICE version 1, and WGDEVICE_A_IFNAME "wg0".
const SET_WG0: &[u8] = &[1, 1, 0, 0, 8, 0, 2, 0, b'w', b'g', b'0', 0];

#[test]
fn a_device_gets_key_port_and_mark() {
    let config = Config { name: "wg0".to_owned(), ..Config::default() };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, [7; 32]).unwrap();
    let key = PrivateKey::load_or_create(&path).unwrap();
    let expected = golden(&[
        SET_WG0,
        &[36, 0, 3, 0],
        &[7; 32],
        &[6, 0, 6, 0, 0x9f, 0xca, 0, 0],
        &[8, 0, 7, 0, 0, 0x0e, 0, 0],
    ]);
    assert_eq!(*set_device(FAMILY, &config, &key, 0x0e00).finish(1), expected);
}

#[test]
fn a_peer_gets_endpoint_keepalive_and_prefixes() {
    let endpoint = Some("192.0.2.7:51871".parse().unwrap());
    let messages =
        set_peer(FAMILY, "wg0", &key(9), endpoint, Some(25), &nets(&["10.1.2.0/24", "fd00::1/128"]));
    #[rustfmt::skip]
    let expected = golden(&[
        SET_WG0,
        &[144, 0, 0x08, 0x80],                                  // WGDEVICE_A_PEERS
        &[140, 0, 0x00, 0x80],                                  // first peer
        &[36, 0, 1, 0], &[9; 32],                               // WGPEER_A_PUBLIC_KEY
        &[20, 0, 4, 0, 2, 0, 0xca, 0x9f, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0], // WGPEER_A_ENDPOINT
        &[6, 0, 5, 0, 25, 0, 0, 0],                             // WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL
        &[72, 0, 0x09, 0x80],                                   // WGPEER_A_ALLOWEDIPS
        &[28, 0, 0x00, 0x80],                                   // 10.1.2.0/24
        &[6, 0, 1, 0, 2, 0, 0, 0], &[8, 0, 2, 0, 10, 1, 2, 0], &[5, 0, 3, 0, 24, 0, 0, 0],
        &[40, 0, 0x00, 0x80],                                   // fd00::1/128
        &[6, 0, 1, 0, 10, 0, 0, 0],
        &[20, 0, 2, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        &[5, 0, 3, 0, 128, 0, 0, 0],
    ]);
    assert_eq!(bytes(messages), [expected]);
}

#[test]
fn a_peer_without_anything_still_sets_its_keepalive_to_zero() {
    let messages = set_peer(FAMILY, "wg0", &key(9), None, None, &BTreeSet::new());
    let expected = golden(&[
        SET_WG0,
        &[52, 0, 0x08, 0x80, 48, 0, 0x00, 0x80, 36, 0, 1, 0],
        &[9; 32],
        &[6, 0, 5, 0, 0, 0, 0, 0],
    ]);
    assert_eq!(bytes(messages), [expected]);
}

#[test]
fn an_ipv6_endpoint_is_a_sockaddr_in6() {
    let bytes = sockaddr("[2001:db8::5]:51871".parse().unwrap());
    #[rustfmt::skip]
    let expected = [
        10, 0, 0xca, 0x9f, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
    assert_eq!(parse_sockaddr(&bytes), Some("[2001:db8::5]:51871".parse().unwrap()));
}

#[test]
fn prefixes_are_taken_away_through_the_peer_that_is_nobody() {
    let messages = disallow(FAMILY, "wg0", &nets(&["10.1.2.0/24"]));
    #[rustfmt::skip]
    let expected = golden(&[
        SET_WG0,
        &[124, 0, 0x08, 0x80],
        &[72, 0, 0x00, 0x80], &[36, 0, 1, 0], &[0; 32],         // nobody gets the prefix
        &[32, 0, 0x09, 0x80, 28, 0, 0x00, 0x80],
        &[6, 0, 1, 0, 2, 0, 0, 0], &[8, 0, 2, 0, 10, 1, 2, 0], &[5, 0, 3, 0, 24, 0, 0, 0],
        &[48, 0, 0x00, 0x80], &[36, 0, 1, 0], &[0; 32],         // and leaves with it
        &[8, 0, 3, 0, 1, 0, 0, 0],
    ]);
    assert_eq!(bytes(messages), [expected]);
}

#[test]
fn a_peer_is_removed_by_its_flag() {
    let expected = golden(&[
        SET_WG0,
        &[52, 0, 0x08, 0x80, 48, 0, 0x00, 0x80, 36, 0, 1, 0],
        &[9; 32],
        &[8, 0, 3, 0, 1, 0, 0, 0],
    ]);
    assert_eq!(*remove_peer(FAMILY, "wg0", &key(9)).finish(1), expected);
}

#[test]
fn many_prefixes_are_spread_over_messages_that_fit() {
    let prefixes: BTreeSet<_> = (0u32..2500)
        .map(|n| IpNet::from(IpAddr::from(Ipv6Addr::from(u128::from(n) + (0xfd << 120)))))
        .collect();
    let messages = set_peer(FAMILY, "wg0", &key(9), None, None, &prefixes);
    assert_eq!(messages.len(), 3);
    let mut found = BTreeSet::new();
    for message in messages {
        let bytes = message.finish(1);
        assert!(bytes.len() < 65_000, "{}", bytes.len());
        found.extend(parse_peers([&bytes[16..]].into_iter()).remove(&key(9)).unwrap().allowed_ips);
    }
    assert_eq!(found, prefixes);
}

#[test]
fn a_dump_is_read_also_when_a_peer_comes_in_pieces() {
    let mut first = message(FAMILY, 0, WG_CMD_GET_DEVICE);
    first.text(WGDEVICE_A_IFNAME, "wg0").nest(WGDEVICE_A_PEERS, |peers| {
        peer(peers, key(9).as_bytes(), |peer| {
            peer.attribute(2, &[0; 32])
                .attribute(WGPEER_A_LAST_HANDSHAKE_TIME, &[1_700_000_000i64.to_le_bytes(), [0; 8]].concat())
                .u16(WGPEER_A_KEEPALIVE, 25)
                .attribute(WGPEER_A_TX_BYTES, &11u64.to_le_bytes())
                .attribute(WGPEER_A_RX_BYTES, &22u64.to_le_bytes())
                .u32(10, 1)
                .attribute(WGPEER_A_ENDPOINT, &sockaddr("192.0.2.7:51871".parse().unwrap()));
            allowed_ips(peer, &["10.1.2.0/24".parse().unwrap()]);
        });
    });
    let mut second = message(FAMILY, 0, WG_CMD_GET_DEVICE);
    second.nest(WGDEVICE_A_PEERS, |peers| {
        peer(peers, key(9).as_bytes(), |peer| allowed_ips(peer, &["fd00::/64".parse().unwrap()]));
        peer(peers, key(8).as_bytes(), |peer| {
            peer.u16(WGPEER_A_KEEPALIVE, 0).attribute(WGPEER_A_LAST_HANDSHAKE_TIME, &[0; 16]);
        });
    });
    let bodies = [first.finish(1)[16..].to_vec(), second.finish(2)[16..].to_vec()];
    let peers = parse_peers(bodies.iter().map(Vec::as_slice));
    let full = Found {
        endpoint: Some("192.0.2.7:51871".parse().unwrap()),
        keepalive: Some(25),
        allowed_ips: nets(&["10.1.2.0/24", "fd00::/64"]),
        last_handshake: Some(Duration::from_secs(1_700_000_000)),
        rx_bytes: 22,
        tx_bytes: 11,
    };
    assert_eq!(peers, BTreeMap::from([(key(9), full), (key(8), Found::default())]));
}
