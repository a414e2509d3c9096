use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> NodeName {
    let (cluster, node) = text.split_once('/').unwrap();
    NodeName { cluster: cluster.to_owned(), node: node.to_owned() }
}

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32]).unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn node(number: u8, ips: &[&str], cidrs: &[&str]) -> RemoteNode {
    RemoteNode {
        public_key: key(number).to_string(),
        internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        external_ips: Vec::new(),
        pod_cidrs: cidrs.iter().map(|cidr| net(cidr)).collect(),
    }
}

/// A mesh seen from `home/local`, 192.0.2.1, with pods in 10.0.0.0/24.
#[derive(Debug)]
struct Mesh {
    local: LocalNode,
    settings: Settings,
    nodes: BTreeMap<NodeName, RemoteNode>,
    entries: BTreeMap<IpNet, IpAddr>,
}

impl Mesh {
    fn new<const N: usize>(nodes: [(&str, RemoteNode); N]) -> Self {
        Self {
            local: LocalNode {
                name: name("home/local"),
                public_key: key(200),
                addresses: vec!["192.0.2.1".parse().unwrap()],
                pod_cidrs: vec![net("10.0.0.0/24")],
                neighbours: Vec::new(),
            },
            settings: Settings::default(),
            nodes: nodes.into_iter().map(|(text, node)| (name(text), node)).collect(),
            entries: BTreeMap::new(),
        }
    }

    fn entry(mut self, prefix: &str, host: &str) -> Self {
        self.entries.insert(net(prefix), host.parse().unwrap());
        self
    }

    fn plan(&self) -> Plan {
        let Self { local, settings, nodes, entries } = self;
        plan(Input { local, settings: *settings, nodes, entries })
    }

    /// The reasons, as `node [prefix] code`.
    fn reasons(&self) -> Vec<String> {
        let text = |s: &Skipped| match s.prefix {
            Some(prefix) => format!("{} {prefix} {}", s.node, s.reason),
            None => format!("{} {}", s.node, s.reason),
        };
        self.plan().skipped.iter().map(text).collect()
    }

    fn allowed(&self, number: u8) -> BTreeSet<IpNet> {
        self.plan().tables.peers.get(&key(number)).map(|peer| peer.allowed_ips.clone()).unwrap_or_default()
    }
}

#[test]
fn a_node_is_a_peer_with_its_addresses_pods_and_entries() {
    let mesh =
        Mesh::new([("east/n1", node(1, &["198.51.100.7", "2001:db8::7"], &["10.1.0.0/24", "fd00:1::/64"]))])
            .entry("10.1.9.3/32", "198.51.100.7")
            .entry("fd00:9::3/128", "2001:db8::7")
            .entry("10.7.7.7/32", "198.51.100.99");
    let plan = mesh.plan();
    let peer = &plan.tables.peers[&key(1)];
    assert_eq!(peer.endpoint, Some("198.51.100.7:51871".parse().unwrap()));
    assert_eq!(peer.keepalive, None);
    let pods = ["10.1.0.0/24", "10.1.9.3/32", "fd00:1::/64", "fd00:9::3/128"];
    assert_eq!(plan.tables.routes, nets(&pods));
    let with_node = [&pods[..], &["198.51.100.7/32", "2001:db8::7/128"]].concat();
    assert_eq!(peer.allowed_ips, nets(&with_node));
    assert_eq!(plan.names[&key(1)].to_string(), "east/n1");
    assert_eq!(plan.skipped, [], "an entry behind an unknown host waits for its node");
}

#[test]
fn no_prefix_of_another_cluster_overlaps_what_a_neighbour_uses_though_it_is_no_peer() {
    let cidrs = ["10.0.1.0/24", "10.0.0.0/20", "10.3.0.0/24"];
    let mut mesh = Mesh::new([("east/n1", node(1, &["198.51.100.7"], &cidrs))])
        .entry("10.0.1.9/32", "198.51.100.7")
        .entry("192.0.2.2/32", "198.51.100.7");
    mesh.local.neighbours = vec![net("192.0.2.2/32"), net("10.0.1.0/24")];
    let refused = ["192.0.2.2/32", "10.0.1.9/32", "10.0.0.0/20", "10.0.1.0/24"];
    let reasons: BTreeSet<_> = mesh.reasons().into_iter().collect();
    assert_eq!(reasons, refused.map(|prefix| format!("east/n1 {prefix} prefix-overlaps-local")).into());
    assert_eq!(mesh.plan().tables.routes, nets(&["10.3.0.0/24"]));
    assert_eq!(mesh.allowed(1), nets(&["198.51.100.7/32", "10.3.0.0/24"]));
}

#[test]
fn nodes_of_the_cluster_default_are_named_without_it() {
    assert_eq!(name("default/n1").to_string(), "n1");
    assert_eq!(name("east/n1").to_string(), "east/n1");
}

#[test]
fn the_endpoint_is_internal_before_external_and_of_the_underlay_family() {
    let both = RemoteNode {
        external_ips: vec!["203.0.113.1".parse().unwrap(), "2001:db8::e".parse().unwrap()],
        ..node(1, &["2001:db8::1", "198.51.100.1", "198.51.100.2"], &[])
    };
    let external_v4 = RemoteNode { internal_ips: vec!["2001:db8::1".parse().unwrap()], ..both.clone() };
    let only_v6 = RemoteNode { external_ips: Vec::new(), ..external_v4.clone() };
    let odd = node(1, &["0.0.0.0", "127.0.0.1", "224.0.0.1", "198.51.100.3"], &[]);
    let v6_underlay = Settings { ipv6_underlay: true, ..Settings::default() };
    let v6_only = Settings { ipv4: false, ..Settings::default() };
    let v4_only = Settings { ipv6: false, ..Settings::default() };
    let cases = [
        ("internal first", &both, Settings::default(), Some("198.51.100.1:51871")),
        ("external if there is no internal", &external_v4, Settings::default(), Some("203.0.113.1:51871")),
        ("IPv6 if there is no IPv4", &only_v6, Settings::default(), Some("[2001:db8::1]:51871")),
        ("IPv6 underlay", &both, v6_underlay, Some("[2001:db8::1]:51871")),
        ("IPv6 underlay, but only IPv4", &odd, v6_underlay, Some("198.51.100.3:51871")),
        ("IPv4 disabled", &both, v6_only, Some("[2001:db8::1]:51871")),
        ("IPv6 disabled", &only_v6, v4_only, None),
        ("unusable addresses are passed over", &odd, Settings::default(), Some("198.51.100.3:51871")),
        ("another port", &odd, Settings { port: 7, ..Settings::default() }, Some("198.51.100.3:7")),
    ];
    for (case, node, settings, expected) in cases {
        let mesh = Mesh { settings, ..Mesh::new([("east/n1", node.clone())]) };
        let plan = mesh.plan();
        let endpoint = plan.tables.peers.values().next().and_then(|peer| peer.endpoint);
        assert_eq!(endpoint, expected.map(|text| text.parse().unwrap()), "{case}");
    }
}

#[test]
fn nodes_that_cannot_be_peers_are_left_out_with_a_reason() {
    let with_key = |text: &str| RemoteNode { public_key: text.to_owned(), ..node(1, &["198.51.100.1"], &[]) };
    let cases = [
        ("the local node", ("home/local", with_key(&key(1).to_string())), "home/local local-node"),
        ("no key", ("east/n1", with_key("")), "east/n1 wireguard-key-missing"),
        ("a short key", ("east/n1", with_key("AAEC")), "east/n1 wireguard-key-invalid"),
        ("no base64", ("east/n1", with_key("?")), "east/n1 wireguard-key-invalid"),
        (
            "the zero key",
            ("east/n1", with_key("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
            "east/n1 wireguard-key-zero",
        ),
        ("the local key", ("east/n1", with_key(&key(200).to_string())), "east/n1 wireguard-key-duplicate"),
        (
            "no address",
            ("east/n1", node(1, &["127.0.0.1"], &["10.1.0.0/24"])),
            "east/n1 node-without-address",
        ),
    ];
    for (case, bad, reason) in cases {
        let mesh = Mesh::new([bad, ("west/good", node(2, &["198.51.100.2"], &["10.2.0.0/24"]))]);
        assert_eq!(mesh.reasons(), [reason], "{case}");
        let tables = mesh.plan().tables;
        assert_eq!(tables.peers.keys().collect::<Vec<_>>(), [&key(2)], "{case}");
        assert_eq!(tables.routes, nets(&["10.2.0.0/24"]), "{case}");
    }
}

#[test]
fn of_two_nodes_with_one_key_the_own_cluster_then_the_lower_name_stays() {
    let mesh = Mesh::new([
        ("east/a", node(1, &["198.51.100.1"], &["10.1.0.0/24"])),
        ("east/b", node(1, &["198.51.100.2"], &["10.2.0.0/24"])),
        ("home/z", node(3, &["198.51.100.3"], &[])),
        ("east/c", node(3, &["198.51.100.4"], &[])),
    ]);
    assert_eq!(mesh.reasons(), ["east/b wireguard-key-duplicate", "east/c wireguard-key-duplicate"]);
    assert_eq!(mesh.allowed(1), nets(&["198.51.100.1/32", "10.1.0.0/24"]));
    assert_eq!(mesh.plan().names[&key(3)].to_string(), "home/z");
}

#[test]
fn a_prefix_claimed_twice_belongs_to_the_lower_name() {
    let mesh = Mesh::new([
        ("east/n1", node(1, &["198.51.100.1"], &["10.1.0.0/24"])),
        ("west/n1", node(2, &["198.51.100.2"], &["10.1.0.0/24", "10.2.0.0/24"])),
    ]);
    assert_eq!(mesh.reasons(), ["west/n1 10.1.0.0/24 prefix-taken"]);
    assert_eq!(mesh.allowed(2), nets(&["198.51.100.2/32", "10.2.0.0/24"]));
}

#[test]
fn a_node_address_is_stronger_than_an_entry_and_that_than_a_pod_cidr() {
    let mesh = Mesh::new([
        ("east/n1", node(1, &["198.51.100.1"], &["198.51.100.2/32", "10.9.0.0/24"])),
        ("west/n1", node(2, &["198.51.100.2"], &[])),
    ])
    .entry("10.9.0.0/24", "198.51.100.2");
    assert_eq!(mesh.allowed(2), nets(&["198.51.100.2/32", "10.9.0.0/24"]));
    assert_eq!(mesh.reasons(), ["east/n1 10.9.0.0/24 prefix-taken", "east/n1 198.51.100.2/32 prefix-taken"]);
}

#[test]
fn a_longer_prefix_of_another_peer_is_no_conflict_between_remote_nodes() {
    let mesh = Mesh::new([
        ("east/n1", node(1, &["198.51.100.1"], &["10.1.0.0/24"])),
        ("east/n2", node(2, &["198.51.100.2"], &[])),
    ])
    .entry("10.1.0.77/32", "198.51.100.2");
    assert_eq!(mesh.reasons(), [""; 0]);
    assert_eq!(mesh.allowed(2), nets(&["198.51.100.2/32", "10.1.0.77/32"]));
    assert_eq!(mesh.plan().tables.routes, nets(&["10.1.0.0/24"]), "one route covers both");
}

#[test]
fn nothing_remote_may_overlap_the_pods_or_addresses_of_the_local_node() {
    for bad in ["10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/8", "0.0.0.0/0", "192.0.2.0/24", "10.0.0.5/32"] {
        for cluster in ["east/n1", "home/n1"] {
            let mesh = Mesh::new([(cluster, node(1, &["198.51.100.1"], &[bad, "10.1.0.0/24"]))]);
            assert_eq!(mesh.reasons(), [format!("{cluster} {bad} prefix-overlaps-local")]);
            assert_eq!(mesh.allowed(1), nets(&["198.51.100.1/32", "10.1.0.0/24"]), "{bad}");
        }
    }
}

#[test]
fn another_cluster_cannot_draw_traffic_from_the_own_one() {
    let keyless = RemoteNode { public_key: String::new(), ..node(9, &["192.0.2.3"], &["10.0.3.0/24"]) };
    let own = |prefix: &str| {
        Mesh::new([
            ("east/n1", node(1, &["198.51.100.1"], &[prefix])),
            ("home/n2", node(2, &["192.0.2.2"], &["10.0.2.0/24"])),
            ("home/n3", keyless.clone()),
        ])
        .entry("10.5.5.5/32", "192.0.2.2")
    };
    for bad in ["10.0.2.0/24", "10.0.2.7/32", "10.0.0.0/16", "10.5.5.0/24", "192.0.2.2/32", "10.0.3.9/32"] {
        let expected = format!("east/n1 {bad} prefix-");
        let reasons = own(bad).reasons();
        assert!(reasons.iter().any(|reason| reason.starts_with(&expected)), "{bad}: {reasons:?}");
        assert_eq!(own(bad).allowed(1), nets(&["198.51.100.1/32"]), "{bad}");
        assert_eq!(own(bad).allowed(2), nets(&["192.0.2.2/32", "10.0.2.0/24", "10.5.5.5/32"]), "{bad}");
    }
}

#[test]
fn node_addresses_are_allowed_but_never_routed() {
    let mesh = Mesh::new([("east/n1", node(1, &["198.51.100.1"], &["198.51.100.0/24", "10.1.0.0/24"]))])
        .entry("198.51.100.1/32", "198.51.100.1");
    assert_eq!(mesh.plan().tables.routes, nets(&["10.1.0.0/24"]));
    assert_eq!(mesh.allowed(1), nets(&["198.51.100.1/32", "198.51.100.0/24", "10.1.0.0/24"]));
    assert_eq!(mesh.reasons(), ["east/n1 198.51.100.0/24 prefix-covers-node"]);
}

#[test]
fn in_the_scope_of_nodes_there_are_only_node_addresses() {
    let mut mesh = Mesh::new([("east/n1", node(1, &["198.51.100.1", "2001:db8::1"], &["10.1.0.0/24"]))])
        .entry("10.1.9.9/32", "198.51.100.1");
    mesh.settings.scope = Scope::Nodes;
    assert_eq!(mesh.allowed(1), nets(&["198.51.100.1/32", "2001:db8::1/128"]));
    assert_eq!(mesh.plan().tables.routes, nets(&[]));
}

#[test]
fn prefixes_of_a_disabled_family_are_not_planned() {
    let mut mesh =
        Mesh::new([("east/n1", node(1, &["198.51.100.1", "2001:db8::1"], &["10.1.0.0/24", "fd00::/64"]))]);
    mesh.settings.ipv6 = false;
    assert_eq!(mesh.allowed(1), nets(&["198.51.100.1/32", "10.1.0.0/24"]));
}

#[test]
fn a_new_key_moves_every_prefix_before_the_old_peer_goes() {
    let before = Mesh::new([("east/n1", node(1, &["198.51.100.1"], &["10.1.0.0/24"]))]).plan().tables;
    let after = Mesh::new([("east/n1", node(2, &["198.51.100.1"], &["10.1.0.0/24"]))]).plan().tables;
    let endpoint = Some("198.51.100.1:51871".parse().unwrap());
    let allow = nets(&["198.51.100.1/32", "10.1.0.0/24"]);
    let moved = Change::SetPeer { key: key(2), endpoint, keepalive: None, allow };
    assert_eq!(diff(&before, &after), [moved, Change::RemovePeer(key(1))]);
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (0u8..4, 0u8..4, prop_oneof![Just(8u8), Just(16), Just(24), Just(32)])
        .prop_map(|(b, c, length)| IpNet::new(IpAddr::from([10, b, c, 1]), length).unwrap())
}

fn any_mesh() -> impl Strategy<Value = Mesh> {
    let node = (0u8..6, 0u8..6, vec(any_net(), 0..3)).prop_map(|(number, ip, pod_cidrs)| RemoteNode {
        public_key: if number == 0 { String::new() } else { key(number).to_string() },
        internal_ips: vec![IpAddr::from([10, 0, ip, 1])],
        external_ips: Vec::new(),
        pod_cidrs,
    });
    let name = (prop_oneof!["home", "east", "west"], "n[0-2]")
        .prop_map(|(cluster, node)| NodeName { cluster, node });
    let entries = btree_map(any_net(), (0u8..6).prop_map(|ip| IpAddr::from([10, 0, ip, 1])), 0..6);
    (btree_map(name, node, 0..8), entries).prop_map(|(nodes, entries)| {
        let mut mesh = Mesh { nodes, entries, ..Mesh::new([]) };
        mesh.local.pod_cidrs = vec![net("10.3.3.0/24")];
        mesh
    })
}

proptest! {
    #[test]
    fn no_prefix_has_two_owners_and_no_route_loops_or_lacks_a_peer(mesh in any_mesh()) {
        let Plan { tables, names, .. } = mesh.plan();
        let mut seen = BTreeSet::new();
        for (key, peer) in &tables.peers {
            prop_assert!(peer.endpoint.is_some() && names.contains_key(key));
            for prefix in &peer.allowed_ips {
                prop_assert!(seen.insert(*prefix), "{prefix} is owned twice");
                prop_assert!(!mesh.local.pod_cidrs.iter().any(|own| own.contains(prefix) || prefix.contains(own)));
            }
        }
        let addresses = mesh.nodes.values().flat_map(RemoteNode::addresses).chain(mesh.local.addresses.iter().copied());
        for address in addresses {
            prop_assert!(!tables.routes.iter().any(|route| route.contains(&address)), "{address} is routed");
        }
        prop_assert!(tables.routes.is_subset(&seen));
    }

    #[test]
    fn every_claim_is_granted_or_has_a_reason(mesh in any_mesh()) {
        let Plan { tables, names, skipped } = mesh.plan();
        for (name, node) in &mesh.nodes {
            let key = names.iter().find(|(_, holder)| *holder == name).map(|(key, _)| key);
            let Some(key) = key else {
                prop_assert!(skipped.iter().any(|s| s.node == *name && s.prefix.is_none()));
                continue;
            };
            for cidr in &node.pod_cidrs {
                let cidr = cidr.trunc();
                let granted = tables.peers[key].allowed_ips.contains(&cidr);
                let refused = skipped.iter().any(|s| {
                    s.node == *name && s.prefix == Some(cidr) && s.reason != Reason::PrefixCoversNode
                });
                prop_assert!(granted != refused, "{name} {cidr}: granted {granted}, refused {refused}");
            }
        }
    }
}
