//! The ipcache: which identity and which node stand behind an address or prefix.
//!
//! Several claimants may name one prefix: endpoints and nodes of several clusters. All claims are kept; the strongest is
//! in effect, and when it goes the next one takes its place. Who wins depends on the claims alone, never on the order in
//! which they came (in Cilium the last writer wins, and a delete by either side removes the entry).
//!
//! Sources and what a node contributes: Cilium `pkg/source`, `pkg/node/manager`.

mod node;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_types::{ClusterName, IpIdentityPair, NamedPort, NumericIdentity, Reason};

pub use node::{NodeOptions, contributions};

/// Encryption key index that stands for WireGuard.
pub const WIREGUARD_KEY_INDEX: u8 = 255;

/// Who says it, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The API server's addresses.
    KubeApiserver,
    /// This node.
    Local,
    /// The own cluster's store.
    Kvstore,
    /// The own cluster's CiliumEndpoints.
    CustomResource,
    /// The own cluster's pods.
    K8s,
    /// Another cluster.
    Clustermesh,
    /// Derived: pod CIDRs stand for pods that are not known yet.
    Generated,
}

/// Whose claim it is. In the order in which claims of one source win.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claimant {
    /// An endpoint of the cluster; a cluster has one claim per prefix.
    Endpoint(ClusterName),
    /// A node of the cluster, by name.
    Node(ClusterName, Arc<str>),
}

impl Claimant {
    /// The cluster.
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Claimant::Endpoint(cluster) | Claimant::Node(cluster, _) => cluster,
        }
    }
}

/// What one claimant says of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who says it.
    pub claimant: Claimant,
    /// By which way it came.
    pub source: Source,
    /// The identity.
    pub identity: NumericIdentity,
    /// The node behind which the prefix lives.
    pub host: Option<IpAddr>,
    /// Encryption key index: 0 sends in clear, 255 is WireGuard.
    pub key: u8,
    /// The prefix is a node's of another cluster (endpoint flag 3 of the datapath).
    pub remote_cluster: bool,
    /// The pod, if it is one.
    pub pod: Option<Box<Pod>>,
}

/// What an address record says of its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Service account, may be empty.
    pub service_account: Box<str>,
    /// Ports with names.
    pub named_ports: Box<[NamedPort]>,
}

impl Entry {
    fn rank(&self, other: &Self) -> Ordering {
        (self.source, &self.claimant).cmp(&(other.source, &other.claimant))
    }

    /// Why `winner` is in effect and not this claim.
    fn lost_to(&self, winner: &Entry) -> Reason {
        if self.claimant.cluster() == winner.claimant.cluster() {
            Reason::SourcePrecedence
        } else if winner.source < Source::Clustermesh {
            Reason::PrefixOverlapsLocal
        } else {
            Reason::PrefixOverlap
        }
    }
}

/// All claims on all prefixes.
#[derive(Debug, Default)]
pub struct Ipcache {
    /// Per prefix the claims, strongest first; never empty.
    slots: BTreeMap<IpNet, Vec<Entry>>,
    /// What each node claims.
    nodes: BTreeMap<(ClusterName, Arc<str>), Vec<IpNet>>,
    revision: u64,
}

impl Ipcache {
    /// `cluster` says what is behind the record's prefix. A record without a usable prefix changes nothing.
    ///
    /// Returns whether the cluster had no claim on the prefix before.
    pub fn set_endpoint(&mut self, cluster: &ClusterName, record: &IpIdentityPair) -> bool {
        let Some(prefix) = record.prefix() else { return false };
        let identity = match NumericIdentity(record.id) {
            // The exporting cluster's own host is another node to us.
            NumericIdentity::HOST => NumericIdentity::REMOTE_NODE,
            identity => identity,
        };
        let has_pod = !record.k8s_namespace.is_empty()
            || !record.k8s_pod_name.is_empty()
            || !record.named_ports.is_empty();
        let pod = has_pod.then(|| {
            Box::new(Pod {
                namespace: record.k8s_namespace.as_str().into(),
                name: record.k8s_pod_name.as_str().into(),
                service_account: record.k8s_service_account.as_str().into(),
                named_ports: record.named_ports.clone().into(),
            })
        });
        let entry = Entry {
            claimant: Claimant::Endpoint(cluster.clone()),
            source: Source::Clustermesh,
            identity,
            host: record.host_ip,
            key: record.key,
            remote_cluster: false,
            pod,
        };
        self.put(prefix.trunc(), entry)
    }

    /// `cluster` withdraws what it said of `prefix`. Returns whether it had said something.
    pub fn remove_endpoint(&mut self, cluster: &ClusterName, prefix: IpNet) -> bool {
        self.remove(prefix.trunc(), &Claimant::Endpoint(cluster.clone()))
    }

    /// The node contributes exactly `claims` (see [`contributions`]); what it claimed before and does not now goes.
    pub fn set_node(&mut self, cluster: &ClusterName, node: &str, claims: BTreeMap<IpNet, Entry>) {
        let key = (cluster.clone(), Arc::from(node));
        let before = self.nodes.remove(&key).unwrap_or_default();
        let claimant = Claimant::Node(key.0.clone(), Arc::clone(&key.1));
        // New ones first: an address that moves between two forms is never without an entry.
        let prefixes: Vec<IpNet> = claims.keys().copied().collect();
        for (prefix, entry) in claims {
            self.put(prefix, Entry { claimant: claimant.clone(), ..entry });
        }
        for prefix in before.into_iter().filter(|prefix| prefixes.binary_search(prefix).is_err()) {
            self.remove(prefix, &claimant);
        }
        if !prefixes.is_empty() {
            self.nodes.insert(key, prefixes);
        }
    }

    /// The node is gone.
    pub fn remove_node(&mut self, cluster: &ClusterName, node: &str) {
        self.set_node(cluster, node, BTreeMap::new());
    }

    /// All claims of a cluster go.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) {
        let mut changed = false;
        self.slots.retain(|_, claims| {
            let winner = claims[0].claimant.cluster() == cluster;
            claims.retain(|entry| entry.claimant.cluster() != cluster);
            changed |= winner;
            !claims.is_empty()
        });
        self.nodes.retain(|(of, _), _| of != cluster);
        self.revision += u64::from(changed);
    }

    /// Returns whether the claimant had no claim before.
    fn put(&mut self, prefix: IpNet, entry: Entry) -> bool {
        let claims = self.slots.entry(prefix).or_default();
        let known = claims.iter().position(|claim| claim.claimant == entry.claimant);
        if known.is_some_and(|at| claims[at] == entry) {
            return false;
        }
        let mut shows = known == Some(0);
        if let Some(at) = known {
            claims.remove(at);
        }
        let at = claims.partition_point(|claim| claim.rank(&entry) == Ordering::Less);
        shows |= at == 0;
        claims.insert(at, entry);
        claims.shrink_to_fit();
        self.revision += u64::from(shows);
        known.is_none()
    }

    /// Returns whether there was such a claim.
    fn remove(&mut self, prefix: IpNet, claimant: &Claimant) -> bool {
        let Some(claims) = self.slots.get_mut(&prefix) else { return false };
        let Some(at) = claims.iter().position(|claim| claim.claimant == *claimant) else { return false };
        claims.remove(at);
        if claims.is_empty() {
            self.slots.remove(&prefix);
        }
        self.revision += u64::from(at == 0);
        true
    }

    /// Each prefix with the entry in effect, in the order of prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Entry)> {
        self.slots.iter().map(|(prefix, claims)| (*prefix, &claims[0]))
    }

    /// The claims on `prefix` that are not in effect, and why.
    pub fn overridden(&self, prefix: IpNet) -> impl Iterator<Item = (&Entry, Reason)> {
        let claims = self.slots.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        let winner = claims.first();
        claims.iter().skip(1).filter_map(move |entry| Some((entry, entry.lost_to(winner?))))
    }

    /// The entry in effect for exactly `prefix`.
    pub fn get(&self, prefix: IpNet) -> Option<&Entry> {
        self.slots.get(&prefix).map(|claims| &claims[0])
    }

    /// The entry of the longest prefix that holds `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, &Entry)> {
        let whole = IpNet::from(address);
        std::iter::successors(Some(whole), IpNet::supernet)
            .find_map(|prefix| self.get(prefix).map(|entry| (prefix, entry)))
    }

    /// How many prefixes have an entry.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no prefix has an entry.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Grows whenever an entry in effect changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}
