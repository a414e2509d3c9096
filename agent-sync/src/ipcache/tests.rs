use mesh_types::{Cidr, Node, NodeAddress};
use proptest::prelude::*;

use super::*;

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).unwrap()
}

fn record(ip: &str, id: u32) -> IpIdentityPair {
    IpIdentityPair {
        ip: Some(ip.parse().unwrap()),
        host_ip: Some("192.0.2.1".parse().unwrap()),
        id,
        k8s_namespace: "shop".to_owned(),
        k8s_pod_name: "cart-0".to_owned(),
        ..IpIdentityPair::default()
    }
}

fn address(kind: &str, ip: &str) -> NodeAddress {
    NodeAddress { address_type: kind.to_owned(), ip: Some(ip.parse().unwrap()) }
}

fn node() -> Node {
    Node {
        name: "worker-1".to_owned(),
        ip_addresses: vec![
            address("InternalIP", "192.0.2.1"),
            address("CiliumInternalIP", "10.2.0.1"),
            address("ExternalIP", "198.51.100.1"),
        ],
        ipv4_alloc_cidr: Some(Cidr(net("10.2.0.0/24"))),
        ipv6_alloc_cidr: Some(Cidr(net("fd00:2::/64"))),
        ipv4_secondary_alloc_cidrs: vec![Cidr(net("10.2.9.0/24"))],
        ipv4_health_ip: Some("10.2.0.2".parse().unwrap()),
        ipv4_ingress_ip: Some("10.2.0.3".parse().unwrap()),
        encryption_key: 3,
        ..Node::default()
    }
}

#[test]
fn a_node_contributes_what_the_table_says() {
    let claims = contributions(&cluster("east"), &node(), NodeOptions::default());
    let host = Some("192.0.2.1".parse().unwrap());
    let expected = [
        ("10.2.0.0/24", 2, host, 3, Source::Generated),
        ("10.2.0.1", 6, host, 0, Source::Clustermesh),
        ("10.2.0.2", 4, host, 3, Source::Clustermesh),
        ("10.2.0.3", 8, host, 3, Source::Clustermesh),
        ("10.2.9.0/24", 2, host, 3, Source::Generated),
        ("192.0.2.1", 6, None, 0, Source::Clustermesh),
        ("198.51.100.1", 6, None, 0, Source::Clustermesh),
        ("fd00:2::/64", 2, host, 3, Source::Generated),
    ];
    assert_eq!(claims.len(), expected.len());
    for (prefix, identity, host, key, source) in expected {
        let entry = &claims[&net(prefix)];
        assert_eq!(
            (entry.identity.0, entry.host, entry.key, entry.source),
            (identity, host, key, source),
            "{prefix}"
        );
        assert!(entry.remote_cluster, "{prefix}");
    }
}

#[test]
fn with_wireguard_health_and_ingress_are_encrypted_and_pod_cidrs_follow_the_node() {
    let options = NodeOptions { wireguard: true, dual_stack: true, ipv6_underlay: false };
    let claims = contributions(&cluster("east"), &Node { encryption_key: 0, ..node() }, options);
    let found = |prefix: &str| (claims[&net(prefix)].identity.0, claims[&net(prefix)].key);
    assert_eq!(found("10.2.0.2"), (4, 255));
    assert_eq!(found("10.2.0.3"), (8, 255));
    assert_eq!(found("10.2.0.0/24"), (9, 0), "a node that opted out");
    assert_eq!(found("fd00:2::/64"), (10, 0));
}

#[test]
fn the_host_of_another_cluster_is_a_remote_node() {
    let mut ipcache = Ipcache::default();
    ipcache.set_endpoint(&cluster("east"), &record("10.2.0.9", 1));
    assert_eq!(ipcache.get(net("10.2.0.9")).unwrap().identity, NumericIdentity::REMOTE_NODE);
}

#[test]
fn two_clusters_with_one_address_have_the_same_winner_in_any_order() {
    for order in [["east", "west"], ["west", "east"]] {
        let mut ipcache = Ipcache::default();
        for name in order {
            let id = if name == "east" { 65_600 } else { 131_100 };
            ipcache.set_endpoint(&cluster(name), &record("10.2.0.9", id));
        }
        let prefix = net("10.2.0.9");
        assert_eq!(ipcache.get(prefix).unwrap().identity.0, 65_600);
        let lost: Vec<_> =
            ipcache.overridden(prefix).map(|(e, why)| (e.claimant.cluster().clone(), why)).collect();
        assert_eq!(lost, [(cluster("west"), Reason::PrefixOverlap)]);

        ipcache.remove_endpoint(&cluster("west"), prefix);
        assert_eq!(
            ipcache.get(prefix).unwrap().identity.0,
            65_600,
            "the loser's delete removes nothing else"
        );
        ipcache.set_endpoint(&cluster("west"), &record("10.2.0.9", 131_100));
        ipcache.remove_endpoint(&cluster("east"), prefix);
        assert_eq!(ipcache.get(prefix).unwrap().identity.0, 131_100, "the other takes its place");
        ipcache.remove_endpoint(&cluster("west"), prefix);
        assert!(ipcache.is_empty());
    }
}

#[test]
fn sources_win_by_their_order_and_endpoints_before_nodes() {
    let east = cluster("east");
    let prefix = net("10.2.0.9");
    let from_node = |source| Entry {
        claimant: Claimant::Node(cluster("home"), "n".into()),
        source,
        identity: NumericIdentity(77),
        host: None,
        key: 0,
        remote_cluster: false,
        pod: None,
    };
    // Source of the node's claim, then whether it beats an endpoint of another cluster, and why the loser lost.
    let cases = [
        (Source::KubeApiserver, true, Reason::PrefixOverlapsLocal),
        (Source::Local, true, Reason::PrefixOverlapsLocal),
        (Source::Kvstore, true, Reason::PrefixOverlapsLocal),
        (Source::CustomResource, true, Reason::PrefixOverlapsLocal),
        (Source::K8s, true, Reason::PrefixOverlapsLocal),
        (Source::Clustermesh, false, Reason::PrefixOverlap),
        (Source::Generated, false, Reason::PrefixOverlap),
    ];
    for (source, wins, why) in cases {
        for endpoint_first in [true, false] {
            let mut ipcache = Ipcache::default();
            let set_node = |ipcache: &mut Ipcache| {
                ipcache.set_node(&cluster("home"), "n", [(prefix, from_node(source))].into());
            };
            if !endpoint_first {
                set_node(&mut ipcache);
            }
            ipcache.set_endpoint(&east, &record("10.2.0.9", 65_600));
            if endpoint_first {
                set_node(&mut ipcache);
            }
            let winner = ipcache.get(prefix).unwrap().identity.0;
            assert_eq!(winner == 77, wins, "{source:?}");
            assert_eq!(ipcache.overridden(prefix).next().unwrap().1, why, "{source:?}");
        }
    }
}

#[test]
fn an_exact_address_hides_the_fallback_and_uncovers_it() {
    let east = cluster("east");
    let mut ipcache = Ipcache::default();
    ipcache.set_node(&east, "worker-1", contributions(&east, &node(), NodeOptions::default()));
    let lookup =
        |ipcache: &Ipcache, ip: &str| ipcache.lookup(ip.parse().unwrap()).map(|(_, entry)| entry.identity.0);
    assert_eq!(lookup(&ipcache, "10.2.0.77"), Some(2));
    ipcache.set_endpoint(&east, &record("10.2.0.77", 65_600));
    assert_eq!(lookup(&ipcache, "10.2.0.77"), Some(65_600));
    ipcache.remove_endpoint(&east, net("10.2.0.77"));
    assert_eq!(lookup(&ipcache, "10.2.0.77"), Some(2));
    assert_eq!(lookup(&ipcache, "10.99.0.1"), None);
}

#[test]
fn a_node_update_withdraws_what_it_no_longer_has() {
    let east = cluster("east");
    let mut ipcache = Ipcache::default();
    ipcache.set_node(&east, "worker-1", contributions(&east, &node(), NodeOptions::default()));
    let moved = Node { ip_addresses: vec![address("InternalIP", "192.0.2.7")], ..node() };
    ipcache.set_node(&east, "worker-1", contributions(&east, &moved, NodeOptions::default()));
    assert!(ipcache.get(net("192.0.2.1")).is_none());
    assert_eq!(ipcache.get(net("10.2.0.0/24")).unwrap().host, Some("192.0.2.7".parse().unwrap()));
    ipcache.remove_node(&east, "worker-1");
    assert!(ipcache.is_empty());
}

#[test]
fn equally_named_nodes_of_two_clusters_do_not_touch_each_other() {
    let mut ipcache = Ipcache::default();
    for name in ["east", "west"] {
        ipcache.set_node(
            &cluster(name),
            "worker-1",
            contributions(&cluster(name), &node(), NodeOptions::default()),
        );
    }
    ipcache.remove_node(&cluster("east"), "worker-1");
    assert_eq!(ipcache.get(net("192.0.2.1")).unwrap().claimant.cluster(), &cluster("west"));
}

#[test]
fn only_changes_of_what_is_in_effect_count() {
    let mut ipcache = Ipcache::default();
    ipcache.set_endpoint(&cluster("east"), &record("10.2.0.9", 65_600));
    let revision = ipcache.revision();
    ipcache.set_endpoint(&cluster("east"), &record("10.2.0.9", 65_600));
    ipcache.set_endpoint(&cluster("west"), &record("10.2.0.9", 131_100));
    ipcache.remove_endpoint(&cluster("west"), net("10.2.0.9"));
    assert_eq!(ipcache.revision(), revision);
    ipcache.remove_cluster(&cluster("west"));
    assert_eq!(ipcache.revision(), revision);
    ipcache.remove_cluster(&cluster("east"));
    assert!(ipcache.revision() > revision && ipcache.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Endpoint(u8, u8, Option<u32>),
    Node(u8, u8, Option<u8>),
    Cluster(u8),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_u8..3, 0_u8..4, prop::option::of(256_u32..260))
            .prop_map(|(c, host, id)| Op::Endpoint(c, host, id)),
        (0_u8..3, 0_u8..2, prop::option::of(0_u8..4)).prop_map(|(c, n, host)| Op::Node(c, n, host)),
        (0_u8..3).prop_map(Op::Cluster),
    ]
}

fn small_node(name: u8, host: u8) -> Node {
    Node {
        name: format!("n{name}"),
        ip_addresses: vec![address("InternalIP", &format!("10.0.0.{host}"))],
        ipv4_alloc_cidr: Some(Cidr(net("10.0.0.0/24"))),
        ..Node::default()
    }
}

proptest! {
    /// The entry in effect depends on the last claims only, not on the way there.
    #[test]
    fn history_does_not_show(ops in prop::collection::vec(any_op(), 0..40)) {
        let name = |c: u8| cluster(&format!("c{c}"));
        let mut ipcache = Ipcache::default();
        let mut endpoints = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for op in ops {
            match op {
                Op::Endpoint(c, host, Some(id)) => {
                    ipcache.set_endpoint(&name(c), &record(&format!("10.0.0.{host}"), id));
                    endpoints.insert((c, host), id);
                }
                Op::Endpoint(c, host, None) => {
                    ipcache.remove_endpoint(&name(c), net(&format!("10.0.0.{host}")));
                    endpoints.remove(&(c, host));
                }
                Op::Node(c, n, Some(host)) => {
                    let claims = contributions(&name(c), &small_node(n, host), NodeOptions::default());
                    ipcache.set_node(&name(c), &format!("n{n}"), claims);
                    nodes.insert((c, n), host);
                }
                Op::Node(c, n, None) => {
                    ipcache.remove_node(&name(c), &format!("n{n}"));
                    nodes.remove(&(c, n));
                }
                Op::Cluster(c) => {
                    ipcache.remove_cluster(&name(c));
                    endpoints.retain(|(of, _), _| *of != c);
                    nodes.retain(|(of, _), _| *of != c);
                }
            }
        }
        let mut fresh = Ipcache::default();
        for ((c, n), host) in nodes.into_iter().rev() {
            let claims = contributions(&name(c), &small_node(n, host), NodeOptions::default());
            fresh.set_node(&name(c), &format!("n{n}"), claims);
        }
        for ((c, host), id) in endpoints.into_iter().rev() {
            fresh.set_endpoint(&name(c), &record(&format!("10.0.0.{host}"), id));
        }
        prop_assert_eq!(&ipcache.slots, &fresh.slots);
        prop_assert_eq!(&ipcache.nodes, &fresh.nodes);
    }
}
