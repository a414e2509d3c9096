//! Encryption between clusters: nodes and ipcache to a WireGuard device.
//!
//! Only nodes of other clusters become peers; within the cluster encryption is the matter of its CNI. Peers and prefixes
//! of an earlier life stay until all nodes and addresses are known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_runtime::Chain;
use mesh_types::{ClusterName, Node, Reason, WIREGUARD_KEY_ANNOTATION, WIREGUARD_KEY_ANNOTATION_ALIAS};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wireguard::{Change, Device, LocalNode, NodeName, Opened, Plan, PrivateKey, PublicKey, RemoteNode};

use crate::api::schema;
use crate::engine::{Addresses, Handle};
use crate::ipcache::Source;
use crate::tables::{LocalKind, Tables};

/// Pause between two plans, so that a storm of changes becomes a few.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the device is looked after when nothing changes: numbers for `status`, steps that failed.
const LOOK: Duration = Duration::from_secs(5);

/// How encryption is set up.
#[derive(Clone, Debug)]
pub struct EncryptSettings {
    /// Which device.
    pub choice: wireguard::Choice,
    /// File of the private key; made if it is missing.
    pub key_file: PathBuf,
    /// Name of the interface.
    pub interface: String,
    /// What is planned.
    pub plan: wireguard::Settings,
}

/// Why encryption does not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptError {
    /// The device cannot be had or asked.
    #[error("WireGuard device")]
    Device(#[from] wireguard::DeviceError),
    /// The packet loop ended.
    #[error("packet loop of the WireGuard device")]
    Driver(#[source] std::io::Error),
}

/// What a plan is made from.
#[derive(Clone, Debug)]
struct Input {
    local: LocalNode,
    nodes: BTreeMap<NodeName, RemoteNode>,
    entries: BTreeMap<IpNet, IpAddr>,
}

/// What the tables say; `None` while this node is not known, or what its neighbours use is not: their pods' prefixes must
/// not go to a peer for a moment either.
fn input(tables: &Tables, key: PublicKey) -> Option<Input> {
    let is_known = tables.is_listed(LocalKind::Node) && !tables.awaits_cilium_nodes;
    let own = tables.own_node.as_ref().filter(|_| is_known)?;
    let local = LocalNode {
        name: NodeName { cluster: tables.local.name.to_string(), node: tables.node.to_string() },
        public_key: key,
        addresses: own.addresses.clone(),
        pod_cidrs: own.pod_cidrs.clone(),
        neighbours: tables.neighbours.values().flatten().copied().collect(),
    };
    let nodes = tables.nodes.iter().map(|((cluster, name), node)| (node_name(cluster, name), remote(node)));
    // Pod CIDRs come with their node.
    let entries = tables.ipcache.iter().filter(|(_, entry)| entry.source == Source::Clustermesh);
    let entries = entries.filter_map(|(prefix, entry)| Some((prefix, entry.host?)));
    Some(Input { local, nodes: nodes.collect(), entries: entries.collect() })
}

fn node_name(cluster: &ClusterName, node: &str) -> NodeName {
    NodeName { cluster: cluster.to_string(), node: node.to_owned() }
}

fn remote(node: &Node) -> RemoteNode {
    let of_type = |wanted: &str| {
        let addresses = node.ip_addresses.iter().filter(|address| address.address_type == wanted);
        addresses.filter_map(|address| address.ip).collect()
    };
    let annotated = || {
        let value = |key| node.annotations.get(key);
        value(WIREGUARD_KEY_ANNOTATION).or_else(|| value(WIREGUARD_KEY_ANNOTATION_ALIAS)).cloned()
    };
    let published = Some(node.wireguard_pub_key.clone()).filter(|key| !key.is_empty());
    RemoteNode {
        public_key: published.or_else(annotated).unwrap_or_default(),
        internal_ips: of_type("InternalIP"),
        external_ips: of_type("ExternalIP"),
        pod_cidrs: node.pod_cidrs().collect(),
    }
}

/// The steps of `changes` that take nothing away.
fn only_gains(changes: Vec<Change>) -> Vec<Change> {
    let gains = |change: &Change| match change {
        Change::SetPeer { .. } | Change::AddRoute(_) => true,
        Change::Disallow(_) | Change::RemovePeer(_) | Change::RemoveRoute(_) => false,
    };
    changes.into_iter().filter(gains).collect()
}

/// What the task has to do with.
#[derive(Clone)]
pub(crate) struct Encrypt {
    pub(crate) settings: EncryptSettings,
    pub(crate) key: Arc<PrivateKey>,
    pub(crate) handle: Handle,
    pub(crate) addresses: watch::Receiver<Addresses>,
    pub(crate) view: watch::Sender<schema::Wireguard>,
}

impl Encrypt {
    /// Keeps the device as the tables want it until `stop`, which leaves it as it is.
    ///
    /// # Errors
    /// The device cannot be had, or is gone; the caller runs it again.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), EncryptError> {
        let worked = stop.run_until_cancelled(self.encrypt()).await;
        if let Some(Err(error)) = &worked {
            let error = Chain(error).to_string();
            self.view.send_modify(|view| view.summary.error = Some(error));
        }
        worked.map_or(Ok(()), |failed| failed.map(|never| match never {}))
    }

    async fn encrypt(&mut self) -> Result<std::convert::Infallible, EncryptError> {
        let own = self.own_addresses().await;
        let Opened { device, driver, passed_over } = self.open(&own)?;
        if let Some(passed_over) = passed_over {
            info!(reason = %passed_over.reason, detail = passed_over.detail, "kernel WireGuard not used");
        }
        // Dropped, and so ended, with this future.
        let mut loops = JoinSet::new();
        if let Some(driver) = driver {
            loops.spawn(driver.run(CancellationToken::new()));
        }
        let ended = async {
            match loops.join_next().await {
                None => std::future::pending().await,
                Some(Ok(Ok(()))) => std::io::Error::other("it ended by itself"),
                Some(Ok(Err(error))) => error,
                Some(Err(panicked)) => std::io::Error::other(panicked),
            }
        };
        tokio::select! {
            error = ended => Err(EncryptError::Driver(error)),
            kept = self.keep(device) => kept,
        }
    }

    /// Waits until Kubernetes has told this node's addresses.
    async fn own_addresses(&mut self) -> Vec<IpAddr> {
        loop {
            let own =
                self.handle.read(|tables| tables.own_node.as_ref().map(|own| own.addresses.clone())).await;
            match own.flatten() {
                Some(own) if !own.is_empty() => return own,
                Some(_) | None => {
                    if self.addresses.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    fn open(&self, own: &[IpAddr]) -> Result<Opened, EncryptError> {
        let mtu = own.iter().find_map(|address| wireguard::underlay_mtu(*address).ok().flatten());
        let mut config = wireguard::Config {
            name: self.settings.interface.clone(),
            port: self.settings.plan.port,
            ..wireguard::Config::default()
        };
        if let Some(mtu) = mtu {
            config.mtu = wireguard::device_mtu(mtu);
        }
        Ok(wireguard::open(self.settings.choice, &config, &self.key)?)
    }

    async fn keep(&mut self, mut device: Box<dyn Device>) -> Result<std::convert::Infallible, EncryptError> {
        let mut next = Instant::now();
        let mut planned: Option<(Addresses, Plan)> = None;
        let mut withheld = Withheld::new();
        loop {
            sleep_until(next).await;
            let addresses = *self.addresses.borrow_and_update();
            if planned.as_ref().is_none_or(|(of, _)| *of != addresses) {
                let key = self.key.public();
                let input = self.handle.read(move |tables| input(tables, key)).await.flatten();
                planned = input.map(|input| {
                    let Input { local, nodes, entries } = &input;
                    let settings = self.settings.plan;
                    (addresses, wireguard::plan(wireguard::Input { local, settings, nodes, entries }))
                });
            }
            if let Some((_, plan)) = &planned {
                withheld = tell(plan, &withheld);
                let error = carry_out(&mut *device, plan, addresses.complete)?;
                let status = device.status()?;
                self.view.send_modify(|view| show(view, plan, &status, error));
            }
            next = Instant::now() + PAUSE;
            // Whether something changed or time is up, the next round looks after the device.
            drop(timeout(LOOK, self.addresses.changed()).await);
        }
    }
}

/// Nodes and prefixes that are left out, and why.
type Withheld = BTreeSet<(NodeName, Option<IpNet>, Reason)>;

/// Logs what is left out and was not `before`; returns all of it.
fn tell(plan: &Plan, before: &Withheld) -> Withheld {
    let mut now = Withheld::new();
    for skipped in &plan.skipped {
        let what = (skipped.node.clone(), skipped.prefix, skipped.reason);
        if !before.contains(&what) {
            let (node, reason, detail) = (&skipped.node, skipped.reason, &skipped.detail);
            let prefix = skipped.prefix.map(|prefix| prefix.to_string());
            warn!(%node, prefix, %reason, detail, "left out of encryption");
        }
        now.insert(what);
    }
    now
}

/// Makes the device what the plan says; returns what failed, which the next round tries again.
fn carry_out(
    device: &mut dyn Device,
    plan: &Plan,
    complete: bool,
) -> Result<Option<String>, wireguard::DeviceError> {
    let mut changes = wireguard::diff(&device.tables()?, &plan.tables);
    if !complete {
        changes = only_gains(changes);
    }
    if changes.is_empty() {
        return Ok(None);
    }
    match device.apply(&changes) {
        Ok(()) => {
            info!(changes = changes.len(), peers = plan.tables.peers.len(), "WireGuard peers updated");
            Ok(None)
        }
        Err(error) => {
            warn!(%error, "WireGuard peers not all updated; trying again");
            Ok(Some(error.to_string()))
        }
    }
}

fn show(view: &mut schema::Wireguard, plan: &Plan, status: &wireguard::Status, error: Option<String>) {
    view.summary.device = Some(status.kind.to_string());
    view.summary.public_key = Some(status.public_key.to_string());
    view.summary.peers = status.peers.len();
    view.summary.error = error;
    view.interface.clone_from(&status.name);
    (view.port, view.mtu) = (status.port, status.mtu);
    view.peers = status.peers.iter().map(|peer| shown_peer(plan, peer)).collect();
    view.peers.sort_by(|a, b| (&a.cluster, &a.node).cmp(&(&b.cluster, &b.node)));
    let skipped = |skipped: &wireguard::Skipped| schema::WireguardSkipped {
        cluster: skipped.node.cluster.clone(),
        node: skipped.node.node.clone(),
        prefix: skipped.prefix.map(|prefix| prefix.to_string()),
        reason: skipped.reason.to_string(),
        detail: skipped.detail.clone(),
    };
    view.skipped = plan.skipped.iter().map(skipped).collect();
}

fn shown_peer(plan: &Plan, peer: &wireguard::PeerStatus) -> schema::WireguardPeer {
    let name = plan.names.get(&peer.public_key);
    let planned = plan.tables.peers.get(&peer.public_key);
    schema::WireguardPeer {
        cluster: name.map(|name| name.cluster.clone()).unwrap_or_default(),
        node: name.map(|name| name.node.clone()).unwrap_or_default(),
        public_key: peer.public_key.to_string(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
        allowed_ips: planned.iter().flat_map(|peer| &peer.allowed_ips).map(IpNet::to_string).collect(),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        last_handshake_seconds: peer.last_handshake.map(|age| age.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipcache::NodeOptions;
    use crate::local::KubeNode;
    use crate::tables::{KubeView, LocalEvent, NodeSource};
    use mesh_observe::{ClusterEvent, Event, Item};
    use mesh_types::{Cidr, IpIdentityPair, LocalCluster, NodeAddress};

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32]).unwrap()
    }

    fn tables(wireguard_pub_key: &str) -> Tables {
        let mut tables =
            Tables::new(LocalCluster::new("home", 1, 255).unwrap(), "node-1", NodeOptions::default());
        let own = KubeNode {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
            wireguard_key: None,
        };
        tables.apply_local(LocalEvent::OwnNode(Some(Box::new(own))));
        let listed = KubeView { listed: true, live: true, error: None };
        tables.apply_local(LocalEvent::Watch(LocalKind::Node, listed));
        let address =
            NodeAddress { address_type: "InternalIP".to_owned(), ip: Some("192.0.2.7".parse().unwrap()) };
        let node = Node {
            name: "n7".to_owned(),
            ip_addresses: vec![address],
            ipv4_alloc_cidr: Some(Cidr("10.7.0.0/24".parse().unwrap())),
            wireguard_pub_key: wireguard_pub_key.to_owned(),
            ..Node::default()
        };
        let pod = IpIdentityPair {
            ip: Some("10.99.0.1".parse().unwrap()),
            host_ip: Some("192.0.2.7".parse().unwrap()),
            id: 458_752,
            ..IpIdentityPair::default()
        };
        for item in [Item::Node(Box::new(node)), Item::Ip(Box::new(pod))] {
            let event = ClusterEvent::Put { key: bytes::Bytes::new(), item };
            tables.apply(Event::Cluster("east".parse().unwrap(), event), jiff::Timestamp::UNIX_EPOCH);
        }
        tables
    }

    fn planned(tables: &Tables) -> Plan {
        let Input { local, nodes, entries } = input(tables, key(1)).unwrap();
        let settings = wireguard::Settings::default();
        wireguard::plan(wireguard::Input { local: &local, settings, nodes: &nodes, entries: &entries })
    }

    #[test]
    fn nodes_of_other_clusters_become_peers_with_their_pods_and_addresses() {
        let plan = planned(&tables(&key(7).to_string()));
        let [(peer_key, peer)] = &*plan.tables.peers.iter().collect::<Vec<_>>() else { panic!("{plan:?}") };
        assert_eq!(**peer_key, key(7));
        let allowed: Vec<_> = peer.allowed_ips.iter().map(IpNet::to_string).collect();
        assert_eq!(allowed, ["10.7.0.0/24", "10.99.0.1/32", "192.0.2.7/32"]);
    }

    #[test]
    fn what_a_neighbour_uses_goes_to_no_peer_for_as_long_as_it_is_there() {
        let mut tables = tables(&key(7).to_string());
        let at = |tables: &Tables| tables.revision();
        let neighbour = |prefixes: &[&str]| {
            let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
            LocalEvent::Neighbour(NodeSource::Node, "node-2".into(), prefixes)
        };
        let before = at(&tables);
        tables.apply_local(neighbour(&["192.0.2.2/32", "10.7.0.0/16"]));
        assert_ne!(at(&tables), before, "the device has to follow");
        let plan = planned(&tables);
        let reasons: Vec<_> =
            plan.skipped.iter().map(|one| (one.prefix.unwrap().to_string(), one.reason)).collect();
        assert_eq!(reasons, [("10.7.0.0/24".to_owned(), mesh_types::Reason::PrefixOverlapsLocal)]);
        let routes: Vec<_> = plan.tables.routes.iter().map(IpNet::to_string).collect();
        assert_eq!(routes, ["10.99.0.1/32"]);

        let before = at(&tables);
        tables.apply_local(neighbour(&["192.0.2.2/32", "10.7.0.0/16"]));
        assert_eq!(at(&tables), before, "a Node that was written and says the same costs no plan");
        let pools = vec!["10.7.0.128/25".parse().unwrap()];
        tables.apply_local(LocalEvent::Neighbour(NodeSource::CiliumNode, "node-2".into(), pools));
        tables.apply_local(neighbour(&[]));
        assert_eq!(planned(&tables).skipped.len(), 1, "its CiliumNode says so still");
        tables.apply_local(LocalEvent::Neighbour(NodeSource::CiliumNode, "node-2".into(), Vec::new()));
        assert!(at(&tables) != before && planned(&tables).skipped.is_empty());
    }

    #[test]
    fn nothing_is_planned_before_the_neighbours_are_known() {
        let mut tables = tables(&key(7).to_string());
        assert!(input(&tables, key(1)).is_some());
        tables.awaits_cilium_nodes = true;
        assert!(
            input(&tables, key(1)).is_none() && tables.pending().contains(&"kubernetes/CiliumNode".into())
        );
        let before = tables.revision();
        tables.apply_local(LocalEvent::CiliumNodesListed);
        assert!(input(&tables, key(1)).is_some() && tables.revision() != before);
        tables.apply_local(LocalEvent::CiliumNodesListed);
        assert_eq!(tables.revision(), before + 1, "once");
        tables.apply_local(LocalEvent::Watch(LocalKind::Node, KubeView::default()));
        assert!(input(&tables, key(1)).is_none());
    }

    #[test]
    fn a_node_with_a_bad_key_is_left_out_and_named() {
        for (published, expected) in [
            ("", mesh_types::Reason::WireguardKeyMissing),
            ("c2hvcnQ=", mesh_types::Reason::WireguardKeyInvalid),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", mesh_types::Reason::WireguardKeyZero),
        ] {
            let plan = planned(&tables(published));
            assert!(plan.tables.peers.is_empty());
            assert_eq!(plan.skipped[0].reason, expected, "{published:?}");
        }
    }

    #[test]
    fn peers_of_an_earlier_life_stay_until_everything_is_known() {
        let mut device = wireguard::Memory::new(key(1));
        let stale = Change::SetPeer {
            key: key(9),
            endpoint: Some("192.0.2.9:51871".parse().unwrap()),
            keepalive: None,
            allow: ["10.9.0.0/24".parse().unwrap()].into(),
        };
        device.apply(&[stale]).unwrap();
        let plan = planned(&tables(&key(7).to_string()));
        carry_out(&mut device, &plan, false).unwrap();
        let peers =
            |device: &mut wireguard::Memory| device.tables().unwrap().peers.into_keys().collect::<Vec<_>>();
        assert_eq!(peers(&mut device), [key(7), key(9)]);
        carry_out(&mut device, &plan, true).unwrap();
        assert_eq!(peers(&mut device), [key(7)]);
    }
}
