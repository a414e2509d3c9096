//! From nodes and ipcache entries to the tables of the device, and from one table to the next. Pure.
//!
//! Every prefix has one owner. When several nodes claim the same prefix, or a claim would take traffic away from the
//! local cluster, the choice depends on the claims alone (not on their order in time), and the loser is listed with its
//! reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mesh_types::Reason;
use serde::Serialize;

use crate::key::PublicKey;
use crate::prefix::PrefixMap;

mod diff;

pub use diff::{Change, diff};

/// UDP port of every node's device, on both ends.
pub const PORT: u16 = 51871;

/// A node's place in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NodeName {
    /// Its cluster.
    pub cluster: String,
    /// Its name in there.
    pub node: String,
}

impl fmt::Display for NodeName {
    /// `<cluster>/<node>`; only `<node>` in the cluster `default`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cluster.as_str() {
            "default" => f.write_str(&self.node),
            cluster => write!(f, "{cluster}/{}", self.node),
        }
    }
}

/// The node that plans.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// Its place in the mesh.
    pub name: NodeName,
    /// Its own key; a remote node that publishes the same one is refused.
    pub public_key: PublicKey,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its pods: no remote prefix may overlap them.
    pub pod_cidrs: Vec<IpNet>,
    /// What the other nodes of its cluster use, addresses and pod CIDRs, whether or not they are among the nodes to plan:
    /// no prefix of another cluster may overlap it.
    pub neighbours: Vec<IpNet>,
}

/// What another node publishes.
#[derive(Clone, Debug, Default)]
pub struct RemoteNode {
    /// `WireguardPubKey` as it was published; empty if it was not.
    pub public_key: String,
    /// Addresses of type `InternalIP`, in their order.
    pub internal_ips: Vec<IpAddr>,
    /// Addresses of type `ExternalIP`, in their order.
    pub external_ips: Vec<IpAddr>,
    /// Primary and secondary pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
}

impl RemoteNode {
    /// The address by which the node is reached: the first usable InternalIP of the family, else ExternalIP.
    fn node_ip(&self, ipv6: bool) -> Option<IpAddr> {
        let usable = |ip: &&IpAddr| {
            ip.is_ipv6() == ipv6 && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
        };
        self.internal_ips.iter().find(usable).or_else(|| self.external_ips.iter().find(usable)).copied()
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.internal_ips.iter().chain(&self.external_ips).copied()
    }
}

/// Which prefixes a peer may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Node addresses, pod CIDRs and ipcache prefixes: packets between pods enter the device as they are.
    #[default]
    Pods,
    /// Node addresses only: packets between pods are encapsulated from node to node before they enter the device.
    Nodes,
}

/// Settings of the whole mesh.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether IPv4 is enabled; addresses and prefixes of a disabled family are not planned.
    pub ipv4: bool,
    /// Whether IPv6 is enabled.
    pub ipv6: bool,
    /// Encrypted packets travel over IPv6 where a node has both.
    pub ipv6_underlay: bool,
    /// Which prefixes a peer may use.
    pub scope: Scope,
    /// UDP port of the peers.
    pub port: u16,
    /// Seconds between keepalives; `None` sends none.
    pub keepalive: Option<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
            ipv6_underlay: false,
            scope: Scope::default(),
            port: PORT,
            keepalive: None,
        }
    }
}

impl Settings {
    fn enabled(&self, address: IpAddr) -> bool {
        if address.is_ipv6() { self.ipv6 } else { self.ipv4 }
    }
}

/// Everything a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The node that plans.
    pub local: &'a LocalNode,
    /// Settings of the whole mesh.
    pub settings: Settings,
    /// All nodes; the local one may be among them.
    pub nodes: &'a BTreeMap<NodeName, RemoteNode>,
    /// The ipcache: prefix to the address of the node behind which it lives.
    pub entries: &'a BTreeMap<IpNet, IpAddr>,
}

/// One peer of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Where its encrypted packets go; `None` only for a peer found in a device that never heard of it.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives.
    pub keepalive: Option<u16>,
    /// What may come from it and goes to it.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// What a device holds, or shall hold. No prefix is allowed to two peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// Peers by key.
    pub peers: BTreeMap<PublicKey, Peer>,
    /// Prefixes whose packets the kernel hands to the device. Contains no node address, lest the encrypted packets
    /// enter the device again, and nothing that a wider one of them already covers.
    pub routes: BTreeSet<IpNet>,
}

/// A node or one of its prefixes that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The node.
    pub node: NodeName,
    /// The prefix; `None` if the whole node is left out.
    pub prefix: Option<IpNet>,
    /// The stable cause.
    pub reason: Reason,
    /// What was expected and what was found, for people.
    pub detail: String,
}

/// The desired state of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What the device shall hold.
    pub tables: Tables,
    /// Whose key is whose, for every peer.
    pub names: BTreeMap<PublicKey, NodeName>,
    /// What is left out, and why.
    pub skipped: Vec<Skipped>,
}

/// Plans the device of `input.local`.
///
/// Nodes of the own cluster come before others, then the order is by name; claims on a prefix are weighed by cluster
/// (own before others), by kind (node address, ipcache entry, pod CIDR), then by the order of the nodes. A prefix of
/// another cluster that overlaps anything of the own cluster is withheld.
pub fn plan(input: Input<'_>) -> Plan {
    let mut planner = Planner { input, plan: Plan::default(), hosts: BTreeMap::new() };
    let mut order: Vec<_> = input.nodes.iter().collect();
    order.sort_by_key(|(name, _)| planner.is_foreign(name));
    let accepted: Vec<_> = order.into_iter().filter_map(|(name, node)| planner.peer(name, node)).collect();
    let claims = planner.claims(&accepted);
    planner.share_out(claims);
    planner.plan
}

/// A node that becomes a peer.
struct Accepted<'a> {
    key: PublicKey,
    name: &'a NodeName,
    node: &'a RemoteNode,
}

/// In order of strength.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ClaimKind {
    NodeAddress,
    Entry,
    PodCidr,
}

/// A peer's wish to own a prefix; the least one wins.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    foreign: bool,
    kind: ClaimKind,
    name: &'a NodeName,
    prefix: IpNet,
    key: PublicKey,
}

struct Planner<'a> {
    input: Input<'a>,
    plan: Plan,
    /// Node addresses of the peers so far, to find the peer of an ipcache entry.
    hosts: BTreeMap<IpAddr, usize>,
}

impl<'a> Planner<'a> {
    fn is_foreign(&self, name: &NodeName) -> bool {
        name.cluster != self.input.local.name.cluster
    }

    fn skip(&mut self, node: &NodeName, prefix: Option<IpNet>, reason: Reason, detail: String) {
        self.plan.skipped.push(Skipped { node: node.clone(), prefix, reason, detail });
    }

    /// Makes `node` a peer, without prefixes yet, or notes why not.
    fn peer(&mut self, name: &'a NodeName, node: &'a RemoteNode) -> Option<Accepted<'a>> {
        let Input { local, settings, .. } = self.input;
        if *name == local.name {
            self.skip(name, None, Reason::LocalNode, "the node that plans".to_owned());
            return None;
        }
        let key: PublicKey = match node.public_key.parse() {
            Ok(key) => key,
            Err(error) => {
                self.skip(name, None, crate::key::KeyError::reason(error), error.to_string());
                return None;
            }
        };
        let holder = if key == local.public_key { Some(&local.name) } else { self.plan.names.get(&key) };
        if let Some(holder) = holder {
            let detail = format!("expected a key of its own, found that of {holder}");
            self.skip(name, None, Reason::WireguardKeyDuplicate, detail);
            return None;
        }
        let reachable = |ipv6: bool| {
            let ip = node.node_ip(ipv6)?;
            settings.enabled(ip).then_some(ip)
        };
        let endpoint = reachable(settings.ipv6_underlay).or_else(|| reachable(!settings.ipv6_underlay));
        let Some(endpoint) = endpoint else {
            let detail = "expected an InternalIP or ExternalIP of an enabled family, found none".to_owned();
            self.skip(name, None, Reason::NodeWithoutAddress, detail);
            return None;
        };
        let endpoint = Some(SocketAddr::new(endpoint, settings.port));
        let peer = Peer { endpoint, keepalive: settings.keepalive, allowed_ips: BTreeSet::new() };
        self.plan.tables.peers.insert(key, peer);
        self.plan.names.insert(key, name.clone());
        Some(Accepted { key, name, node })
    }

    /// All claims on prefixes, the strongest first.
    fn claims(&mut self, accepted: &[Accepted<'a>]) -> Vec<Claim<'a>> {
        let Input { local, settings, entries, .. } = self.input;
        let mut claims = Vec::new();
        let mut claim = |peer: &Accepted<'a>, kind, prefix: IpNet| {
            if settings.enabled(prefix.addr()) {
                let foreign = peer.name.cluster != local.name.cluster;
                claims.push(Claim { foreign, kind, name: peer.name, prefix: prefix.trunc(), key: peer.key });
            }
        };
        for (index, peer) in accepted.iter().enumerate() {
            for ip in [peer.node.node_ip(false), peer.node.node_ip(true)].into_iter().flatten() {
                claim(peer, ClaimKind::NodeAddress, ip.into());
                self.hosts.entry(ip).or_insert(index);
            }
            if settings.scope == Scope::Pods {
                peer.node.pod_cidrs.iter().for_each(|cidr| claim(peer, ClaimKind::PodCidr, *cidr));
            }
        }
        if settings.scope == Scope::Pods {
            for (prefix, host) in entries {
                if let Some(index) = self.hosts.get(host) {
                    claim(&accepted[*index], ClaimKind::Entry, *prefix);
                }
            }
        }
        claims.sort();
        claims
    }

    /// Gives each prefix to its strongest claim, and the prefixes of pods their routes.
    fn share_out(&mut self, claims: Vec<Claim<'_>>) {
        let mut owners: BTreeMap<IpNet, (PublicKey, NodeName)> = BTreeMap::new();
        let mut protected = self.protected();
        let mut nodes = PrefixMap::default();
        for ip in self.node_addresses() {
            nodes.insert(ip.into(), ());
        }
        for Claim { foreign, kind, name, prefix, key } in claims {
            if let Some((owner, owner_name)) = owners.get(&prefix) {
                if *owner != key {
                    let detail = format!("expected a prefix of its own, found it with {owner_name}");
                    self.skip(name, Some(prefix), Reason::PrefixTaken, detail);
                }
                continue;
            }
            let guarded = if foreign { &protected.cluster } else { &protected.node };
            if let Some((ours, ())) = guarded.overlapping(&prefix) {
                let detail = format!("overlaps {ours} of cluster {}", self.input.local.name.cluster);
                self.skip(name, Some(prefix), Reason::PrefixOverlapsLocal, detail);
                continue;
            }
            if !foreign {
                protected.cluster.insert(prefix, ());
            }
            owners.insert(prefix, (key, name.clone()));
            if let Some(peer) = self.plan.tables.peers.get_mut(&key) {
                peer.allowed_ips.insert(prefix);
            }
            match (kind, nodes.overlapping(&prefix)) {
                (ClaimKind::NodeAddress, _) => {}
                (ClaimKind::Entry | ClaimKind::PodCidr, None) => {
                    self.plan.tables.routes.insert(prefix);
                }
                (ClaimKind::Entry | ClaimKind::PodCidr, Some((inside, ()))) => {
                    let detail =
                        format!("holds the node address {inside}; packets to it are not sent encrypted");
                    self.skip(name, Some(prefix), Reason::PrefixCoversNode, detail);
                }
            }
        }
        let routes = &mut self.plan.tables.routes;
        let mut widest: Option<IpNet> = None;
        routes.retain(|route| {
            let covered = widest.is_some_and(|wide| wide.contains(route));
            if !covered {
                widest = Some(*route);
            }
            !covered
        });
    }

    /// What claims of others may not overlap. Pod CIDRs of the own cluster count even where its node is no peer.
    fn protected(&self) -> Protected {
        let Input { local, nodes, .. } = self.input;
        let mut node = PrefixMap::default();
        let own = local.addresses.iter().map(|ip| IpNet::from(*ip)).chain(local.pod_cidrs.iter().copied());
        own.for_each(|prefix| {
            node.insert(prefix, ());
        });
        let mut cluster = node.clone();
        for prefix in &local.neighbours {
            cluster.insert(*prefix, ());
        }
        for (_, neighbour) in nodes.iter().filter(|(name, _)| !self.is_foreign(name) && **name != local.name)
        {
            let theirs = neighbour.addresses().map(IpNet::from).chain(neighbour.pod_cidrs.iter().copied());
            theirs.for_each(|prefix| {
                cluster.insert(prefix, ());
            });
        }
        Protected { node, cluster }
    }

    fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let others = self.input.nodes.values().flat_map(RemoteNode::addresses);
        self.input.local.addresses.iter().copied().chain(others)
    }
}

struct Protected {
    /// Against nodes of the own cluster: what is of the local node.
    node: PrefixMap<()>,
    /// Against nodes of other clusters: what is of the own cluster.
    cluster: PrefixMap<()>,
}

#[cfg(test)]
mod tests;
