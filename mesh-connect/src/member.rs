//! What is known of one cluster.

use crate::Settings;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// A cluster that is, or is to be, of the mesh. All of it was read; nothing of it is trusted.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// The kubeconfig's context.
    pub context: String,
    /// The namespace of the mesh's objects.
    pub namespace: String,
    /// What its configuration says.
    pub settings: Settings,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// The ranges of its services' addresses; single addresses where only these are known.
    pub service_cidrs: Vec<IpNet>,
    /// Version of Kubernetes, such as `v1.35.4`.
    pub kubernetes_version: Option<String>,
    /// What runs the mesh there, if that could be told.
    pub version: Option<Version>,
    /// Its API server's clock, if it told.
    pub clock: Option<Clock>,
    /// The Service in front of its store.
    pub store: Option<StoreService>,
    /// `clustermesh-apiserver-server-cert`: the store's certificate, and whose clients the store accepts.
    pub server: Option<TlsSecret>,
    /// `clustermesh-apiserver-remote-cert`: the certificate by which this cluster reads other stores, and whose stores it
    /// trusts.
    pub remote: Option<TlsSecret>,
    /// Whether a mirror (KVStoreMesh) stands between the other stores and this cluster's nodes.
    pub mirrored: bool,
    /// What is written already.
    pub objects: Objects,
    /// How its store answered, from where the command runs.
    pub probe: Option<Probe>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The one at which others reach its ports: an external one if it has one, else an internal one.
    pub reached_at: Option<IpAddr>,
    /// The ranges of its pods.
    pub pod_cidrs: Vec<IpNet>,
}

/// A program and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Such as `Cilium`.
    pub product: String,
    /// Such as `v1.19.1`.
    pub text: String,
}

/// A clock beside the one of the machine that the command runs on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    /// How far it is ahead, in seconds; negative if it is behind.
    pub ahead_seconds: f64,
    /// The truth is not farther than this from it, either way.
    pub uncertainty_seconds: f64,
}

/// The Service `clustermesh-apiserver`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreService {
    /// Of which type it is.
    pub kind: StoreServiceKind,
    /// Where the store is reached by other clusters; empty if that is not decided yet.
    pub addresses: Vec<Address>,
}

/// How a Service is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreServiceKind {
    /// By a load balancer.
    LoadBalancer,
    /// At a port of each node.
    NodePort,
    /// Within the cluster only.
    ClusterIp,
    /// By the user, on the command line.
    Given,
}

/// One way to a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Of the host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A host, by name or address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected HOST:PORT, found {text:?}");
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = match bare.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_name) if bare.is_empty() || bare.contains([':', '/']) => return Err(expected()),
            Err(_name) => Host::Name(bare.to_owned()),
        };
        Ok(Self { host, port })
    }
}

/// A Secret of type `kubernetes.io/tls`, as PEM texts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsSecret {
    /// Its name.
    pub name: String,
    /// `ca.crt`.
    pub ca: String,
    /// `tls.crt`: the certificate, and intermediates after it.
    pub certificate: String,
    /// `tls.key`; empty where it was not needed.
    pub key: String,
}

impl fmt::Debug for TlsSecret {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The objects that connecting writes to; absent ones do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Secret `cilium-clustermesh`, which agents read.
    pub agents: Option<Observed>,
    /// Secret `cilium-kvstoremesh`, which the mirror reads.
    pub mirror: Option<Observed>,
    /// ConfigMap `clustermesh-remote-users`, which the exporter reads.
    pub users: Option<Observed>,
}

/// An object as it was read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// Its `data`, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Observed {
    /// Without the values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().collect();
        f.debug_struct("Observed").field("version", &self.resource_version).field("keys", &keys).finish()
    }
}

/// How a store answered from where the command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How far it came.
    pub result: ProbeResult,
    /// What was found there.
    pub detail: String,
}

/// The layer that is in the way to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// None.
    Well,
    /// Its name has no address, or nothing answers.
    Unreachable,
    /// One side does not accept the other's certificate.
    Refused,
    /// It is not the store of this cluster.
    Another,
}

/// A cluster of which not everything could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kubeconfig's context.
    pub context: String,
    /// Why.
    pub trouble: Trouble,
}

/// Why a cluster cannot be looked at, or not written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No answer, or none that is an API server's.
    Unreachable(String),
    /// It does not know who is asking.
    Unauthorised(String),
    /// The user may not do this.
    Forbidden {
        /// Such as `get`.
        verb: String,
        /// Such as `secrets/cilium-clustermesh`.
        resource: String,
        /// Where; empty for what is in no namespace.
        namespace: String,
        /// Who may not.
        user: String,
    },
    /// Neither `cilium-config` nor `isthmus-config` is there.
    NoConfig {
        /// The namespace that was looked into.
        namespace: String,
    },
}

impl Member {
    /// Its name in the mesh, as it is written.
    pub fn name(&self) -> &str {
        self.settings.name()
    }

    /// All ranges of its pods: the pools, and those of its nodes that are in no pool.
    pub(crate) fn pod_cidrs(&self) -> Vec<IpNet> {
        let mut all = self.settings.pod_cidrs();
        all.extend(self.nodes.iter().flat_map(|node| &node.pod_cidrs));
        IpNet::aggregate(&all)
    }

    /// Other clusters that it is connected to, by what is written.
    pub fn peers(&self) -> BTreeSet<&str> {
        let objects = [&self.objects.mirror, &self.objects.agents];
        let entries = objects.into_iter().flatten().flat_map(|object| &object.data);
        let named = entries.filter(|(_, content)| is_entry(content)).map(|(name, _)| name.as_str());
        named.filter(|name| *name != self.name()).collect()
    }

    /// What is written of the way to a peer's store.
    pub(crate) fn entry(&self, peer: &str) -> Option<&[u8]> {
        let object = if self.mirrored { &self.objects.mirror } else { &self.objects.agents };
        object.as_ref().and_then(|object| object.data.get(peer)).map(Vec::as_slice)
    }
}

/// Whether a key's content is a configuration, by the rule of those who read the directory.
fn is_entry(content: &[u8]) -> bool {
    const MARK: &[u8] = b"endpoints:";
    content.windows(MARK.len()).any(|part| part == MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["10.0.0.1:32379", "[fd00::1]:2379", "store.example:443"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "10.0.0.1", ":1", "x:0", "x:70000", "https://x:1", "fd00::1:2379x"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = TlsSecret { key: "PRIVATE".into(), ..TlsSecret::default() };
        let observed = Observed {
            data: [("x.etcd-client.key".into(), b"PRIVATE".to_vec())].into(),
            ..Observed::default()
        };
        assert!(!format!("{secret:?} {observed:?}").contains("PRIVATE"));
        assert!(!format!("{observed:?}").contains("80, 82"));
    }
}
