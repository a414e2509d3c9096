//! Whatever is written can be read back, and whatever bytes come, reading them never panics.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use mesh_types::{
    BackendZone, Capabilities, Cidr, ClusterConfig, ClusterId, ClusterService, ExportPort, ForZone,
    IpIdentityPair, L4Addr, Labels, LocalCluster, Mask, MaxClusters, NamedPort, Node, NodeAddress, Peer,
    ServiceExport, decode_identity,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn peer() -> Peer {
    let local = LocalCluster::new("us-east", 9, 255).unwrap();
    let config = ClusterConfig { id: 7, ..Default::default() };
    Peer::accept(&local, &"prod-eu".parse().unwrap(), &config).unwrap()
}

/// Text with everything that JSON, HTML and Go treat specially.
fn text() -> impl Strategy<Value = String> {
    "[a-z<>&\"\\\\\u{2028}\u{2029}\u{1}é/.-]{0,8}"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,8}"
}

fn ip() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|ip| ip.to_canonical())
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), any::<prop::sample::Index>()).prop_map(|(ip, index)| {
        let bits = if ip.is_ipv4() { 33 } else { 129 };
        let ones = u8::try_from(index.index(bits)).unwrap();
        IpNet::new(ip, ones).unwrap().trunc()
    })
}

fn strings() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..3)
}

prop_compose! {
    fn node()(
        name in name(), addresses in vec((text(), option::of(ip())), 0..4), cidrs in vec(net(), 0..5),
        health in option::of(ip()), encryption_key in any::<u8>(), labels in strings(), annotations in strings(),
        key in text(), boot_id in text(),
    ) -> Node {
        let mut node = Node {
            name, cluster: "prod-eu".to_owned(), cluster_id: 7, ipv4_health_ip: health, encryption_key, labels, annotations,
            wireguard_pub_key: key, boot_id, source: "custom-resource".to_owned(), ..Default::default()
        };
        node.ip_addresses = addresses.into_iter().map(|(address_type, ip)| NodeAddress { address_type, ip }).collect();
        node.set_pod_cidrs(cidrs);
        node
    }
}

prop_compose! {
    fn pair()(
        ip in ip(), ones in option::of(0_u8..=128), host_ip in option::of(ip()), id in prop_oneof![0_u32..256, 458_752_u32..=524_287],
        key in any::<u8>(), metadata in text(), k8s_namespace in text(), ports in vec((text(), any::<u16>(), text()), 0..3),
    ) -> IpIdentityPair {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        IpIdentityPair {
            ip: Some(ip), mask: ones.map(|ones| Mask { ones: ones.min(bits), bits }), host_ip, id, key, metadata, k8s_namespace,
            named_ports: ports.into_iter().map(|(name, port, protocol)| NamedPort { name, port, protocol }).collect(),
            ..Default::default()
        }
    }
}

prop_compose! {
    fn service()(
        namespace in name(), name in name(),
        frontends in btree_map(ip().prop_map(|ip| ip.to_string()), btree_map(text(), (text(), any::<u16>()), 0..3), 0..3),
        backends in btree_map(ip().prop_map(|ip| ip.to_string()), btree_map(text(), (text(), any::<u16>()), 0..3), 0..3),
        hostnames in strings(), zones in btree_map(text(), (text(), vec(text(), 0..2)), 0..2), labels in strings(), shared in any::<bool>(),
    ) -> ClusterService {
        let ports = |map: BTreeMap<String, BTreeMap<String, (String, u16)>>| {
            let port = |(name, (protocol, port))| (name, L4Addr { protocol, port });
            map.into_iter().map(|(address, ports)| (address, ports.into_iter().map(port).collect())).collect()
        };
        let zone = |(address, (zone, names)): (String, (String, Vec<String>))| {
            (address, BackendZone { zone, for_zones: names.into_iter().map(|name| ForZone { name }).collect() })
        };
        ClusterService {
            cluster: "prod-eu".to_owned(), namespace, name, frontends: ports(frontends), backends: ports(backends), hostnames,
            zones: zones.into_iter().map(zone).collect(), labels, selector: BTreeMap::new(), include_external: true, shared, cluster_id: 7,
        }
    }
}

prop_compose! {
    fn export()(
        namespace in name(), name in name(), labels in strings(), annotations in strings(), seconds in 0_i64..4_000_000_000,
        ports in vec((text(), text(), any::<i32>()), 0..3), headless in any::<bool>(), families in vec("IPv[46]", 0..3),
    ) -> ServiceExport {
        ServiceExport {
            cluster: "prod-eu".to_owned(), namespace, name, labels, annotations,
            export_creation_timestamp: jiff::Timestamp::from_second(seconds).unwrap().to_string(),
            ports: ports.into_iter().map(|(name, protocol, port)| ExportPort { name, protocol, port, ..Default::default() }).collect(),
            service_type: if headless { "Headless" } else { "ClusterSetIP" }.to_owned(),
            session_affinity: "None".to_owned(), ip_families: families, ..Default::default()
        }
    }
}

proptest! {
    #[test]
    fn nodes_round_trip(node in node()) {
        prop_assert_eq!(Node::decode(&node.name, &node.encode(), &peer()).unwrap(), node);
    }

    #[test]
    fn ip_pairs_round_trip(pair in pair()) {
        let name = pair.key_name().unwrap();
        prop_assert_eq!(IpIdentityPair::decode(&name, &pair.encode(), &peer()).unwrap(), pair);
    }

    #[test]
    fn services_round_trip(service in service()) {
        let name = format!("{}/{}", service.namespace, service.name);
        prop_assert_eq!(ClusterService::decode(&name, &service.encode(), &peer()).unwrap(), service);
    }

    #[test]
    fn exports_round_trip(export in export()) {
        let name = format!("{}/{}", export.namespace, export.name);
        prop_assert_eq!(ServiceExport::decode(&name, &export.encode(), &peer()).unwrap(), export);
    }

    #[test]
    fn configs_round_trip(id in any::<u32>(), canaries in any::<bool>(), max in any::<u32>(), exports in any::<Option<bool>>(), mode in text()) {
        let capabilities = Capabilities {
            synced_canaries: canaries, max_connected_clusters: max, service_exports_enabled: exports,
            endpoint_slices_export_mode: mode, ..Default::default()
        };
        let config = ClusterConfig { id, capabilities };
        prop_assert_eq!(ClusterConfig::decode(&config.encode()).unwrap(), config);
    }

    #[test]
    fn labels_round_trip(labels in btree_map("[a-z./-]{1,8}", ("[a-z]{1,4}", "[a-z0-9=:<.-]{0,8}"), 0..6)) {
        let mut set = Labels::default();
        for (key, (source, value)) in &labels {
            set.insert(source, key, value);
        }
        prop_assert_eq!(Labels::parse(&set.to_string()), set);
    }

    #[test]
    fn unknown_fields_never_fail_a_read(node in node(), unknown in "[A-Z]{9}", value in any::<u32>()) {
        let text = String::from_utf8(node.encode()).unwrap();
        let text = format!("{{\"{unknown}\":[{{\"x\":{value}}}],{}", &text[1..]);
        prop_assert_eq!(Node::decode(&node.name, text.as_bytes(), &peer()).unwrap(), node);
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(key in text(), bytes in vec(any::<u8>(), 0..64)) {
        prop_assert!(Node::decode(&key, &bytes, &peer()).is_err());
        prop_assert!(IpIdentityPair::decode(&key, &bytes, &peer()).is_err());
        prop_assert!(ClusterService::decode(&key, &bytes, &peer()).is_err());
        prop_assert!(ServiceExport::decode(&key, &bytes, &peer()).is_err());
        prop_assert!(decode_identity(&key, &bytes, &peer()).is_err());
    }

    #[test]
    fn identities_of_different_clusters_never_meet(a in 1_u32..=511, b in 1_u32..=511, wide in any::<bool>()) {
        let max = if wide { MaxClusters::C511 } else { MaxClusters::C255 };
        if let (Ok(a), Ok(b)) = (ClusterId::new(a, max), ClusterId::new(b, max)) {
            let (range, other) = (a.identities(max), b.identities(max));
            prop_assert_eq!(a == b, range.contains(other.first) || range.contains(other.last));
        }
    }

    #[test]
    fn truncated_values_are_refused(node in node(), at in any::<prop::sample::Index>()) {
        let bytes = node.encode();
        prop_assert!(Node::decode(&node.name, &bytes[..at.index(bytes.len())], &peer()).is_err());
    }

    #[test]
    fn cidrs_keep_their_text(net in net()) {
        prop_assert_eq!(Cidr(net).to_string(), net.to_string());
    }
}
