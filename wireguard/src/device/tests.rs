use std::collections::BTreeSet;

use ipnet::IpNet;

use super::*;
use crate::plan::{Peer, diff};

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32]).unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn tables(peer: u8, prefix: &str) -> Tables {
    let endpoint = Some("192.0.2.1:51871".parse().unwrap());
    let peer_of = Peer { endpoint, keepalive: None, allowed_ips: BTreeSet::from([net(prefix)]) };
    Tables { peers: [(key(peer), peer_of)].into(), routes: BTreeSet::from([net(prefix)]) }
}

#[test]
fn the_device_is_80_bytes_smaller_than_its_underlay_but_large_enough_for_ipv6() {
    for (underlay, device) in [(1500, 1420), (9000, 8920), (1360, 1280), (1300, 1280), (0, 1280)] {
        assert_eq!(device_mtu(underlay), device, "{underlay}");
    }
}

#[test]
fn a_step_that_fails_does_not_stop_the_others_and_is_tried_again_by_the_next_difference() {
    let mut device = Memory::new(key(9));
    device.refused_routes.insert(net("10.1.0.0/16"));
    let mut wanted = tables(1, "10.1.0.0/16");
    wanted.routes.insert(net("10.2.0.0/16"));
    let error = device.apply(&diff(&Tables::default(), &wanted)).unwrap_err();
    assert_eq!((error.failures.len(), error.steps), (1, 3));
    assert!(error.to_string().contains("add route 10.1.0.0/16: "), "{error}");
    assert_eq!(device.tables().unwrap().routes, BTreeSet::from([net("10.2.0.0/16")]));

    device.refused_routes.clear();
    let rest = diff(&device.tables().unwrap(), &wanted);
    assert_eq!(rest, [Change::AddRoute(net("10.1.0.0/16"))]);
    device.apply(&rest).unwrap();
    assert_eq!(device.tables().unwrap(), wanted);
}
