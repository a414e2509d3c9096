//! What a node of another cluster contributes to the ipcache.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_types::{ClusterName, Node, NumericIdentity};

use super::{Claimant, Entry, Source, WIREGUARD_KEY_INDEX};

/// World, seen over IPv4 in a cluster of both families.
const WORLD_IPV4: NumericIdentity = NumericIdentity(9);
/// World, seen over IPv6 in a cluster of both families.
const WORLD_IPV6: NumericIdentity = NumericIdentity(10);

/// What the contributions depend on besides the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// This node encrypts with WireGuard.
    pub wireguard: bool,
    /// This cluster has both address families.
    pub dual_stack: bool,
    /// Nodes are reached over IPv6.
    pub ipv6_underlay: bool,
}

/// What `node` of another cluster contributes: its addresses as *remote-node*, its health and ingress endpoints, and
/// its pod CIDRs as a fallback until the exact address is known.
pub fn contributions(cluster: &ClusterName, node: &Node, options: NodeOptions) -> BTreeMap<IpNet, Entry> {
    let host = node.node_ip(options.ipv6_underlay);
    let entry = |identity, source, host, key| Entry {
        claimant: Claimant::Node(cluster.clone(), Arc::from(node.name.as_str())),
        source,
        identity,
        host,
        key,
        remote_cluster: true,
        pod: None,
    };
    let endpoint_key = if options.wireguard { WIREGUARD_KEY_INDEX } else { node.encryption_key };
    let endpoints = |ips: [Option<IpAddr>; 2], identity| {
        let present = ips.into_iter().flatten();
        present.map(move |ip| (IpNet::from(ip), entry(identity, Source::Clustermesh, host, endpoint_key)))
    };
    let health = endpoints([node.ipv4_health_ip, node.ipv6_health_ip], NumericIdentity::HEALTH);
    let ingress = endpoints([node.ipv4_ingress_ip, node.ipv6_ingress_ip], NumericIdentity::INGRESS);
    let addresses = node.ip_addresses.iter().filter_map(|address| {
        // Traffic to the address itself is tunnelled only where nothing else leads there. Encrypting it is the
        // matter of node encryption, which is off.
        let host = host.filter(|_| address.address_type == "CiliumInternalIP");
        let entry = entry(NumericIdentity::REMOTE_NODE, Source::Clustermesh, host, 0);
        Some((IpNet::from(address.ip?), entry))
    });
    let pods = node.pod_cidrs().map(|cidr| {
        let world = match (options.dual_stack, cidr) {
            (false, _) => NumericIdentity::WORLD,
            (true, IpNet::V4(_)) => WORLD_IPV4,
            (true, IpNet::V6(_)) => WORLD_IPV6,
        };
        (cidr.trunc(), entry(world, Source::Generated, host, node.encryption_key))
    });
    let mut claims = BTreeMap::new();
    for (prefix, entry) in health.chain(ingress).chain(addresses).chain(pods) {
        claims.entry(prefix).or_insert(entry);
    }
    claims
}
