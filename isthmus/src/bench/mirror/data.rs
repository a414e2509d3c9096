//! What the stores of generated clusters hold: keys and values in Cilium's own form. Pure.

use mesh_types::{
    Capabilities, ClusterConfig, ClusterName, ClusterService, Form, IpIdentityPair, Labels, MaxClusters,
    Node, NodeAddress, PortMap, Resource,
};
use std::net::{IpAddr, Ipv4Addr};

/// Backends of a service, as where the peer was measured.
const BACKENDS: usize = 10;
/// Digits of a stamp, so that values keep their length.
const STAMP_DIGITS: usize = 16;
/// What comes before the name of a pod, which ends in the stamp.
const POD_NAME: &[u8] = b"\"K8sPodName\":\"";
/// In front of the stamp; its length gives keys and values together the mean of what the peer was measured with.
const POD: &str = "cart-v2-6c8f7d9b54-x7k2p";

/// How much a generated cluster exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shape {
    /// Nodes of each cluster.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub(crate) nodes: usize,
    /// Identities of each cluster.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub(crate) identities: usize,
    /// Endpoints of each cluster.
    #[arg(long, value_name = "COUNT", default_value_t = 5000)]
    pub(crate) endpoints: usize,
    /// Global services of each cluster, of ten backends.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub(crate) services: usize,
}

impl Shape {
    /// Keys that a mirror copies.
    pub(crate) fn keys(&self) -> usize {
        self.nodes + self.identities + self.endpoints + self.services
    }
}

/// One generated cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) name: ClusterName,
    /// From 2 on: 1 is the cluster that mirrors.
    pub(crate) id: u32,
    pub(crate) shape: Shape,
}

impl Cluster {
    /// Number `n`, from 0 on.
    pub(crate) fn new(n: usize, shape: Shape) -> Self {
        let name = format!("cluster-{n:03}").parse().expect("a valid name");
        Self { name, id: n as u32 + 2, shape }
    }

    /// Everything that is mirrored, in no particular order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        let nodes = (0..self.shape.nodes).map(|n| self.node(n));
        let identities = (0..self.shape.identities).map(|n| self.identity(n));
        let services = (0..self.shape.services).map(|n| self.service(n));
        let endpoints = (0..self.shape.endpoints).map(|n| self.endpoint(n, 0));
        nodes.chain(identities).chain(services).chain(endpoints)
    }

    /// What it says of itself, and that it is complete.
    pub(crate) fn announcement(&self, now: &str) -> Vec<(String, Vec<u8>)> {
        let config = ClusterConfig {
            id: self.id,
            capabilities: Capabilities {
                synced_canaries: true,
                max_connected_clusters: MaxClusters::C255.get(),
                service_exports_enabled: Some(true),
                ..Capabilities::default()
            },
        };
        let canaries = Resource::ALL.map(|kind| (kind.canary(Form::State, &self.name), now.into()));
        let config = (mesh_types::key::cluster_config(&self.name), config.encode());
        canaries.into_iter().chain([config]).collect()
    }

    /// Endpoint number `n` as of `stamp`, which [`stamp`] reads back.
    pub(crate) fn endpoint(&self, n: usize, stamp: u64) -> (String, Vec<u8>) {
        let ip = self.pod_ip(n);
        let pair = IpIdentityPair {
            ip: Some(ip),
            host_ip: Some(self.node_ip(n % self.shape.nodes.max(1))),
            id: self.identity_id(n % self.shape.identities.max(1)),
            k8s_namespace: format!("team-{:02}", n % 40),
            k8s_pod_name: format!("{POD}-{stamp:0STAMP_DIGITS$x}"),
            k8s_service_account: "default".to_owned(),
            ..IpIdentityPair::default()
        };
        (self.key(Resource::Ip, &ip.to_string()), pair.encode())
    }

    fn node(&self, n: usize) -> (String, Vec<u8>) {
        let name = format!("worker-{n:04}");
        let address =
            |address_type: &str, ip| NodeAddress { address_type: address_type.to_owned(), ip: Some(ip) };
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let node = Node {
            name: name.clone(),
            cluster: self.name.to_string(),
            ip_addresses: vec![
                address("InternalIP", self.node_ip(n)),
                address("CiliumInternalIP", self.pod_ip(60_000 + n)),
            ],
            ipv4_health_ip: Some(self.pod_ip(61_000 + n)),
            cluster_id: self.id,
            source: "custom-resource".to_owned(),
            labels: [
                label("kubernetes.io/hostname", &name),
                label("topology.kubernetes.io/region", "eu-1"),
                label("topology.kubernetes.io/zone", "eu-1a"),
            ]
            .into(),
            boot_id: format!("6f2c1b1e-52f2-4a5e-9b6e-{:04x}{n:08x}", self.id),
            ..Node::default()
        };
        (self.key(Resource::Nodes, &name), node.encode())
    }

    fn identity(&self, n: usize) -> (String, Vec<u8>) {
        let mut labels = Labels::default();
        labels.insert("k8s", "app", &format!("app-{n:05}"));
        labels.insert("k8s", "io.cilium.k8s.policy.cluster", self.name.as_str());
        labels.insert("k8s", "io.cilium.k8s.policy.serviceaccount", "default");
        labels.insert("k8s", "io.kubernetes.pod.namespace", &format!("team-{:02}", n % 40));
        (self.key(Resource::Identities, &self.identity_id(n).to_string()), labels.to_string().into())
    }

    fn service(&self, n: usize) -> (String, Vec<u8>) {
        let port = |port| {
            let http = mesh_types::L4Addr { protocol: "TCP".to_owned(), port };
            PortMap::from([("http".to_owned(), http)])
        };
        let (namespace, name) = (format!("team-{:02}", n % 40), format!("service-{n:04}"));
        let endpoints = self.shape.endpoints.max(1);
        let backend = |m: usize| (self.pod_ip((n * BACKENDS + m) % endpoints).to_string(), port(8080));
        let frontend = Ipv4Addr::new(172, 20, (n >> 8) as u8, n as u8).to_string();
        let service = ClusterService {
            cluster: self.name.to_string(),
            namespace: namespace.clone(),
            name: name.clone(),
            frontends: [(frontend, port(80))].into(),
            backends: (0..BACKENDS).map(backend).collect(),
            selector: [("app".to_owned(), name.clone())].into(),
            include_external: true,
            shared: true,
            cluster_id: self.id,
            ..ClusterService::default()
        };
        (self.key(Resource::Services, &format!("{namespace}/{name}")), service.encode())
    }

    fn key(&self, kind: Resource, name: &str) -> String {
        kind.prefix(Form::State, &self.name) + name
    }

    fn identity_id(&self, n: usize) -> u32 {
        (self.id << MaxClusters::C255.shift()) + 256 + n as u32
    }

    fn pod_ip(&self, n: usize) -> IpAddr {
        Ipv4Addr::new(10, self.id as u8, (n >> 8) as u8, n as u8).into()
    }

    fn node_ip(&self, n: usize) -> IpAddr {
        Ipv4Addr::new(192, 168 + (n >> 8) as u8, self.id as u8, n as u8).into()
    }
}

/// The stamp of an endpoint's value; `None` if it is no such value.
pub(crate) fn stamp(value: &[u8]) -> Option<u64> {
    let at = value.windows(POD_NAME.len()).position(|part| part == POD_NAME)?;
    let name = value.get(at + POD_NAME.len()..)?.split(|byte| *byte == b'"').next()?;
    let digits = name.get(name.len().checked_sub(STAMP_DIGITS)?..)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_types::Peer;
    use std::collections::BTreeSet;

    const STANDARD: Shape = Shape { nodes: 100, identities: 200, endpoints: 5000, services: 100 };

    #[test]
    fn a_standard_cluster_has_5400_keys_of_about_257_bytes_that_are_all_different() {
        let cluster = Cluster::new(17, STANDARD);
        let entries: Vec<_> = cluster.entries().collect();
        let keys: BTreeSet<_> = entries.iter().map(|(key, _)| key).collect();
        assert_eq!((keys.len(), STANDARD.keys()), (5400, 5400));
        let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        let mean = bytes / entries.len();
        assert!((247..=267).contains(&mean), "{mean}");
    }

    #[test]
    fn values_are_those_that_agents_accept() {
        let cluster = Cluster::new(249, STANDARD);
        let peer = Peer {
            name: cluster.name.clone(),
            id: mesh_types::ClusterId::new(cluster.id, MaxClusters::C255).unwrap(),
            max: MaxClusters::C255,
        };
        for n in [0, 99] {
            let name = |(key, value): (String, Vec<u8>), kind: Resource| {
                let prefix = kind.prefix(Form::State, &cluster.name);
                (key.strip_prefix(&prefix).unwrap().to_owned(), value)
            };
            let (key, value) = name(cluster.node(n), Resource::Nodes);
            Node::decode(&key, &value, &peer).unwrap();
            let (key, value) = name(cluster.identity(n), Resource::Identities);
            mesh_types::decode_identity(&key, &value, &peer).unwrap();
            let (key, value) = name(cluster.service(n), Resource::Services);
            assert_eq!(ClusterService::decode(&key, &value, &peer).unwrap().backends.len(), BACKENDS);
            let (key, value) = name(cluster.endpoint(n, 7), Resource::Ip);
            IpIdentityPair::decode(&key, &value, &peer).unwrap();
        }
    }

    #[test]
    fn a_stamp_is_read_back_and_changes_no_length() {
        let cluster = Cluster::new(0, STANDARD);
        let now = 1_800_000_000_123_456_789;
        let (old, new) = (cluster.endpoint(3, 0), cluster.endpoint(3, now));
        assert_eq!((old.0, old.1.len()), (new.0, new.1.len()));
        assert_eq!(stamp(&new.1), Some(now));
        for garbage in ["", "{}", "{\"K8sPodName\":\"", "{\"K8sPodName\":\"short\"}"] {
            assert_eq!(stamp(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
