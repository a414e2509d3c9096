//! Two nodes in two network namespaces, joined by a wire: the user-space device as its users meet it. Needs root,
//! iproute2 and tcpdump.
#![expect(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::probe::{Capture, Echo, burst, ping_once, reaches};
use support::{Netns, Node, two_nodes, two_peers, wait_for};
use wireguard::{Choice, Config, DEVICE_NAME, DeviceError, PORT, Settings, Tables, open};

const MARKER: &[u8] = b"a payload that must not be seen on the wire";
/// Neighbour discovery and housekeeping of the wire itself.
const WIRE: &str = "arp or ip6[6] == 0 or (icmp6 and ip6[40] >= 130 and ip6[40] <= 143)";

/// Time for a packet that is not expected to come back.
const SHORT: Duration = Duration::from_millis(300);

fn counters(node: &mut Node) -> wireguard::Counters {
    node.device().status().unwrap().counters.unwrap()
}

#[test]
fn pods_reach_each_other_and_the_wire_shows_wireguard_only() {
    let (mut a, mut b) = two_nodes();
    let capture = Capture::start(&a.netns);
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
    let plain = capture.stop();
    assert!(plain.contains(MARKER), "without encryption the capture sees the payload");

    a.start();
    b.start();
    a.meet(&[&b]);
    b.meet(&[&a]);
    let capture = Capture::start(&a.netns);
    for (from, to) in [(&a, &b), (&b, &a)] {
        for family in [0, 1] {
            reaches(&from.netns, from.pods[family], to.pods[family], MARKER);
        }
    }
    let wire = capture.stop();
    assert!(wire.packets(&format!("udp port {PORT}")).len() >= 10);
    assert_eq!(wire.packets(&format!("not (udp port {PORT} or {WIRE})")), [""; 0]);
    assert!(!wire.contains(MARKER));

    let status = a.device().status().unwrap();
    let peer = &status.peers[0];
    assert_eq!(peer.public_key, b.public_key());
    assert!(peer.rx_bytes > 0 && peer.tx_bytes > 0 && peer.last_handshake.is_some(), "{peer:?}");
}

#[test]
fn the_underlay_may_be_ipv6() {
    let (mut a, mut b) = two_nodes();
    let settings = Settings { ipv6_underlay: true, ..Settings::default() };
    a.start();
    b.start();
    let (plan_a, plan_b) = (a.plan(settings, &[&b]), b.plan(settings, &[&a]));
    a.converge(&plan_a.tables);
    b.converge(&plan_b.tables);
    let capture = Capture::start(&b.netns);
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
    let wire = capture.stop();
    assert!(wire.packets(&format!("ip6 and udp port {PORT}")).len() >= 4);
    assert_eq!(wire.packets("ip"), [""; 0]);
}

#[test]
fn packets_as_large_as_the_device_allows_and_larger_ones_pass() {
    let (a, b) = two_peers();
    for size in [1, 1300, 1392, 1393, 4000, 20_000] {
        reaches(&a.netns, a.pods[0], b.pods[0], &vec![0x5a; size]);
    }
}

#[test]
fn a_path_narrower_than_planned_gets_fragments() {
    let (a, b) = two_peers();
    for node in [&a, &b] {
        node.netns.ip("link set wan mtu 1300");
    }
    reaches(&a.netns, a.pods[0], b.pods[0], &[0x5a; 1392]);
}

#[test]
fn a_burst_of_packets_arrives_whole() {
    let (a, b) = two_peers();
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
    assert_eq!(burst(&a.netns, a.pods[0], b.pods[0], 200), 200);
}

#[test]
fn the_interface_is_set_up_as_planned_and_uninstalled_without_trace() {
    let (mut a, b) = two_nodes();
    a.start();
    a.meet(&[&b]);
    let link = a.netns.ip(&format!("-d link show {DEVICE_NAME}"));
    assert!(link.contains("mtu 1420") && link.contains(",UP") && link.contains("tun type tun"), "{link}");
    let conf = format!("/proc/sys/net/ipv4/conf/{DEVICE_NAME}/rp_filter");
    let rp_filter = a.netns.run(|| std::fs::read_to_string(conf).unwrap());
    assert_eq!(rp_filter.trim(), "0");
    let route = a.netns.ip("route get 10.2.7.7");
    assert!(route.contains(DEVICE_NAME), "{route}");
    assert!(a.netns.ip("-6 route get fd00:2::7").contains(DEVICE_NAME));
    let own = a.netns.ip("route get 10.2.0.5 mark 0xe00");
    assert!(own.contains("dev wan"), "encrypted packets do not enter the device again: {own}");

    a.device().uninstall().unwrap();
    assert!(!a.netns.ip("link").contains(DEVICE_NAME));
    for rules in [a.netns.ip("rule"), a.netns.ip("-6 rule")] {
        assert!(!rules.contains("151"), "{rules}");
    }
    assert!(a.netns.ip("route get 10.2.0.5").contains("dev wan"));
    a.device().uninstall().unwrap();
}

#[test]
fn encrypted_packets_carry_the_mark() {
    let (mut a, b) = two_peers();
    a.netns.ip("rule add fwmark 0xe00/0xf00 pref 1 prohibit");
    assert_eq!(ping_once(&a.netns, a.pods[0], b.pods[0], MARKER, SHORT), Echo::Lost);
    wait_for("a packet that the rule for the mark stops", || (counters(&mut a).not_sent > 0).then_some(()));
    a.netns.ip("rule del pref 1");
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
}

#[test]
fn a_removed_peer_gets_nothing_through() {
    let (a, mut b) = two_peers();
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
    b.converge(&Tables::default());
    assert_eq!(ping_once(&a.netns, a.pods[0], b.pods[0], MARKER, SHORT), Echo::Lost);
    wait_for("the packet to arrive and to be refused", || {
        (counters(&mut b).unknown_session > 0).then_some(())
    });

    b.meet(&[&a]);
    reaches(&b.netns, b.pods[0], a.pods[0], MARKER);
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
}

#[test]
fn a_handshake_of_a_stranger_is_ignored_and_counted() {
    let (mut a, mut b) = two_nodes();
    a.start();
    b.start();
    a.meet(&[&b]);
    assert_eq!(ping_once(&a.netns, a.pods[0], b.pods[0], MARKER, SHORT), Echo::Lost);
    wait_for("the stranger to be counted", || (counters(&mut b).unknown_key > 0).then_some(()));
    assert_eq!(b.device().status().unwrap().peers.len(), 0);
    let peer = &a.device().status().unwrap().peers[0];
    assert_eq!((peer.last_handshake, peer.rx_bytes), (None, 0));
}

#[test]
fn a_node_with_a_new_key_is_reached_again() {
    let (mut a, mut b) = two_peers();
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
    let old = b.public_key();
    b.stop();
    b.key = Arc::new(wireguard::PrivateKey::generate().unwrap());
    b.start();
    b.meet(&[&a]);
    a.meet(&[&b]);
    assert_ne!(b.public_key(), old);
    assert_eq!(a.device().tables().unwrap().peers.keys().collect::<Vec<_>>(), [&b.public_key()]);
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
    reaches(&b.netns, b.pods[1], a.pods[1], MARKER);
}

#[test]
fn a_restarted_node_recovers_and_sends_nothing_in_clear_meanwhile() {
    let (a, mut b) = two_peers();
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
    let planned = b.device().tables().unwrap();
    b.stop();

    let capture = Capture::start(&b.netns);
    let clear = b"sent while nobody encrypts";
    assert_ne!(ping_once(&b.netns, b.pods[0], a.pods[0], clear, SHORT), Echo::Returned);
    let wire = capture.stop();
    assert!(!wire.contains(clear));

    b.start();
    let adopted = b.device().tables().unwrap();
    assert_eq!((adopted.peers.len(), &adopted.routes), (0, &planned.routes), "routes outlive the process");
    b.converge(&planned);
    reaches(&b.netns, b.pods[0], a.pods[0], MARKER);
    reaches(&a.netns, a.pods[0], b.pods[0], MARKER);
}

#[test]
fn stale_routes_of_an_earlier_life_go_with_the_first_plan() {
    let (mut a, b) = two_peers();
    a.stop();
    a.start();
    assert_eq!(a.device().tables().unwrap().routes.len(), 2);
    a.converge(&Tables::default());
    assert!(a.netns.ip("route get 10.2.0.5").contains("dev wan"));
    drop(b);
}

#[test]
fn without_persistence_the_interface_ends_with_the_process() {
    let (mut a, _b) = two_nodes();
    a.start_with(Config { persist: false, ..Config::default() }).unwrap();
    assert!(a.netns.ip("link").contains(DEVICE_NAME));
    a.stop();
    assert!(!a.netns.ip("link").contains(DEVICE_NAME));
}

#[test]
fn the_device_holds_what_the_model_holds_whatever_the_order_of_plans() {
    let (mut a, b) = two_nodes();
    a.start();
    let full = a.plan(Settings::default(), &[&b]).tables;
    let mut rekeyed = full.clone();
    let (_, peer) = rekeyed.peers.pop_first().unwrap();
    rekeyed.peers.insert(wireguard::PrivateKey::generate().unwrap().public(), peer.clone());
    let mut split = full.clone();
    let other = split.peers.first_entry().unwrap().into_mut().allowed_ips.pop_first().unwrap();
    let second = wireguard::Peer { allowed_ips: [other].into(), keepalive: Some(25), ..peer };
    split.peers.insert(wireguard::PrivateKey::generate().unwrap().public(), second);
    let states = [&Tables::default(), &full, &rekeyed, &split];
    for from in states {
        for to in states {
            a.converge(from);
            a.converge(to);
        }
    }
}

#[test]
fn what_stands_in_the_way_is_named() {
    let (mut a, _b) = two_nodes();
    let port = a.netns.run(|| std::net::UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    let error = a.start_with(Config::default()).unwrap_err();
    assert!(matches!(error, DeviceError::Port { port: PORT, .. }), "{error}");
    drop(port);
    a.netns.ip(&format!("link add {DEVICE_NAME} type bridge"));
    let error = a.start_with(Config::default()).unwrap_err();
    assert!(error.to_string().contains("found kind bridge"), "{error}");
    a.netns.ip(&format!("link del {DEVICE_NAME}"));
    a.start();
}

#[test]
fn the_choice_falls_on_the_kernel_if_it_can_and_on_user_space_with_a_reason_if_not() {
    let netns = Netns::new();
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let key = wireguard::PrivateKey::generate().unwrap();
        let kernel = open(Choice::Kernel, &Config::default(), &key)
            .map(|mut opened| opened.device.uninstall().unwrap());
        let mut auto = open(Choice::Auto, &Config::default(), &key).unwrap();
        let kind = auto.device.status().unwrap().kind;
        match (kernel, auto.passed_over) {
            (Ok(()), None) => assert_eq!(kind, wireguard::DeviceKind::Kernel),
            (Err(DeviceError::Unavailable(why)), Some(reason)) => {
                assert_eq!(kind, wireguard::DeviceKind::UserSpace);
                assert_eq!(why, reason);
                assert_eq!(reason.reason.code(), "kernel-unsupported");
                assert!(reason.detail.contains("load the module"), "{reason}");
            }
            (kernel, passed_over) => panic!("{kernel:?} {passed_over:?}"),
        }
    });
}

#[test]
fn the_mtu_of_the_underlay_is_that_of_the_nodes_wire() {
    let (a, _b) = two_nodes();
    a.netns.ip("link set wan mtu 1450");
    a.netns.run(|| {
        for ip in &a.ips {
            assert_eq!(wireguard::underlay_mtu(*ip).unwrap(), Some(1450));
        }
        assert_eq!(wireguard::underlay_mtu("203.0.113.1".parse().unwrap()).unwrap(), None);
    });
}
