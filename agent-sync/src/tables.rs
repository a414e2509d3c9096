//! All that the agent knows, and how it changes. Pure: the time is an argument.

mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use mesh_types::{ClusterName, Labels, LocalCluster, Node, NumericIdentity, Reason, Rejection, Resource};

use crate::ipcache::{Claimant, Entry, Ipcache, NodeOptions, Source, contributions};
use crate::local::KubeNode;
use crate::rejected::{Rejected, RejectedKey};
use crate::services::{LocalService, LocalSlice, ServiceName, ServiceTable};
use mesh_observe::{ClusterEvent, Event, Item, ItemKey, KINDS, Standing, StoreEvent};

pub use view::{ClusterView, KindView, KubeView, StoreView, ViewState};

use view::stale;

/// What the local Kubernetes API says.
#[derive(Debug)]
pub enum LocalEvent {
    /// A Service, or (`None`) its end.
    Service(ServiceName, Option<Box<LocalService>>),
    /// An EndpointSlice; `None` if it is gone or does not count.
    Slice {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Its content.
        content: Option<Box<LocalSlice>>,
    },
    /// This node, or (`None`) its end.
    OwnNode(Option<Box<KubeNode>>),
    /// What a node of this cluster uses, as its CiliumNode says or, of another node than this, its Node; nothing if that is
    /// gone.
    Neighbour(NodeSource, Arc<str>, Vec<IpNet>),
    /// Every CiliumNode was told, or there is no such kind.
    CiliumNodesListed,
    /// An object that does not decode; the one before stays. `None`: it does now, or is gone.
    Undecodable {
        /// Its kind.
        kind: LocalKind,
        /// `namespace/name`.
        key: String,
        /// Why.
        refused: Option<Rejection>,
    },
    /// How a watch stands.
    Watch(LocalKind, KubeView),
}

/// The kinds that are watched in the local Kubernetes API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalKind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// This node, and with encryption the others of the cluster.
    Node,
}

/// The kinds of objects that say what a node uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeSource {
    /// Nodes.
    Node,
    /// CiliumNodes.
    CiliumNode,
}

impl LocalKind {
    /// All of them.
    pub const ALL: [LocalKind; 3] = [LocalKind::Service, LocalKind::EndpointSlice, LocalKind::Node];

    /// Kubernetes' word.
    pub const fn word(self) -> &'static str {
        match self {
            LocalKind::Service => "Service",
            LocalKind::EndpointSlice => "EndpointSlice",
            LocalKind::Node => "Node",
        }
    }
}

/// All that the agent knows.
#[derive(Debug)]
pub struct Tables {
    /// This cluster.
    pub local: LocalCluster,
    /// This node's name.
    pub node: Arc<str>,
    /// The local store.
    pub store: StoreView,
    /// The other clusters.
    pub clusters: BTreeMap<ClusterName, ClusterView>,
    /// Their nodes.
    pub nodes: BTreeMap<(ClusterName, Arc<str>), Arc<Node>>,
    /// Their identities.
    pub identities: BTreeMap<NumericIdentity, (ClusterName, Labels)>,
    /// Addresses and prefixes.
    pub ipcache: Ipcache,
    /// Services.
    pub services: ServiceTable,
    /// This node in Kubernetes.
    pub own_node: Option<KubeNode>,
    /// What the nodes of this cluster use, by name; known only with encryption.
    pub neighbours: BTreeMap<(NodeSource, Arc<str>), Vec<IpNet>>,
    /// It is not yet known which CiliumNodes there are, and encryption has to know.
    pub awaits_cilium_nodes: bool,
    /// The watches of the local Kubernetes API.
    pub kubernetes: BTreeMap<LocalKind, KubeView>,
    /// What is not in effect.
    pub rejected: Rejected,
    options: NodeOptions,
    nodes_revision: u64,
    news: Vec<(RejectedKey, Rejection)>,
}

impl Tables {
    /// Nothing is known yet.
    pub fn new(local: LocalCluster, node: &str, options: NodeOptions) -> Self {
        Tables {
            local,
            node: node.into(),
            store: StoreView::default(),
            clusters: BTreeMap::new(),
            nodes: BTreeMap::new(),
            identities: BTreeMap::new(),
            ipcache: Ipcache::default(),
            services: ServiceTable::new(node),
            own_node: None,
            neighbours: BTreeMap::new(),
            awaits_cilium_nodes: false,
            kubernetes: LocalKind::ALL.into_iter().map(|kind| (kind, KubeView::default())).collect(),
            rejected: Rejected::default(),
            options,
            nodes_revision: 0,
            news: Vec::new(),
        }
    }

    /// Grows whenever nodes or entries of the ipcache in effect change.
    pub fn revision(&self) -> u64 {
        self.nodes_revision + self.ipcache.revision()
    }

    /// Takes over what the store says.
    pub fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Store(event) => self.apply_store(event, now),
            Event::Config { key, refused } => {
                let key = RejectedKey { cluster: key.clone(), kind: "cluster-config", key };
                match refused {
                    Some(refused) => self.reject(key, refused),
                    None => self.rejected.clear(&key),
                }
            }
            Event::Cluster(name, event) => self.apply_cluster(name, event, now),
        }
    }

    fn apply_store(&mut self, event: StoreEvent, now: Timestamp) {
        let was_connected = self.store.connected;
        match event {
            StoreEvent::Connected(id) => {
                self.store = StoreView {
                    connected: true,
                    id,
                    listed: self.store.listed,
                    since: self.store.since,
                    ..StoreView::default()
                };
            }
            StoreEvent::Listed => self.store.listed = true,
            StoreEvent::OwnConfig => self.store.own_config = true,
            StoreEvent::Resumed => (self.store.connected, self.store.error) = (true, None),
            StoreEvent::Lost(error) => (self.store.connected, self.store.error) = (false, Some(error)),
        }
        if self.store.connected != was_connected || self.store.since.is_none() {
            self.store.since = Some(now);
        }
    }

    fn apply_cluster(&mut self, name: ClusterName, event: ClusterEvent, now: Timestamp) {
        match event {
            ClusterEvent::Standing(standing) => self.stands(name, standing, now),
            ClusterEvent::Removed => self.remove_cluster(&name),
            ClusterEvent::Put { key, item } => {
                let kind = item.resource();
                self.rejected.clear(&rejected_key(&name, kind, &key));
                let added = self.put(&name, item);
                let view = self.view(&name, kind, now);
                view.entries += usize::from(added);
            }
            ClusterEvent::Gone { kind, key, item } => {
                self.rejected.clear(&rejected_key(&name, kind, &key));
                let removed = item.is_some_and(|item| self.remove(&name, &item));
                let view = self.view(&name, kind, now);
                view.entries -= usize::from(removed);
            }
            ClusterEvent::Rejected { kind, key, refused } => {
                self.view(&name, kind, now);
                self.reject(rejected_key(&name, kind, &key), refused);
            }
            ClusterEvent::Synced(kind) | ClusterEvent::Resumed(kind) => {
                let view = self.view(&name, kind, now);
                view.error = None;
                if view.withheld == 0 {
                    view.state = ViewState::Synced;
                }
            }
            ClusterEvent::Withheld { kind, keys } => {
                let view = self.view(&name, kind, now);
                view.withheld = keys;
                view.state = if keys == 0 { ViewState::Synced } else { stale(view.state, now) };
            }
            ClusterEvent::Lost { kind, error } => {
                let view = self.view(&name, kind, now);
                view.state = stale(view.state, now);
                view.error = Some(error);
                self.count_failure(&name, now);
            }
        }
    }

    /// Counts the first kind that loses contact, not the three that follow.
    fn count_failure(&mut self, name: &ClusterName, now: Timestamp) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if cluster.kinds.values().filter(|view| view.error.is_some()).count() == 1 {
            cluster.failures += 1;
            cluster.last_failure = Some(now);
        }
    }

    fn view(&mut self, name: &ClusterName, kind: Resource, now: Timestamp) -> &mut KindView {
        let unknown = || {
            ClusterView::new(Standing::Refused(Rejection::new(
                Reason::NotSynced,
                "no configuration was seen",
            )))
        };
        let cluster = self.clusters.entry(name.clone()).or_insert_with(unknown);
        let view = cluster.kinds.entry(kind).or_default();
        view.heard = Some(now);
        view
    }

    fn stands(&mut self, name: ClusterName, standing: Standing, now: Timestamp) {
        let cluster = self.clusters.entry(name).or_insert_with(|| ClusterView::new(standing.clone()));
        cluster.dropped_at = match &standing {
            Standing::Absent { remaining } if !remaining.is_zero() => {
                cluster.dropped_at.or(now.checked_add(*remaining).ok())
            }
            Standing::Absent { .. } | Standing::Accepted { .. } | Standing::Refused(_) => None,
        };
        if let Standing::Accepted { peer, .. } = &standing {
            cluster.id = Some(peer.id.get());
            for kind in KINDS {
                cluster.kinds.entry(kind).or_default();
            }
        }
        cluster.standing = standing;
    }

    /// Everything of the cluster goes; a standing that follows brings it back empty.
    fn remove_cluster(&mut self, name: &ClusterName) {
        self.clusters.remove(name);
        let nodes = self.nodes.len();
        self.nodes.retain(|(cluster, _), _| cluster != name);
        self.nodes_revision += u64::from(self.nodes.len() != nodes);
        self.identities.retain(|_, (cluster, _)| cluster != name);
        self.ipcache.remove_cluster(name);
        self.services.remove_cluster(name);
        self.rejected.clear_cluster(name.as_str());
    }

    /// Returns whether it is a new entry.
    fn put(&mut self, cluster: &ClusterName, item: Item) -> bool {
        match item {
            Item::Node(node) => {
                self.ipcache.set_node(cluster, &node.name, contributions(cluster, &node, self.options));
                let key = (cluster.clone(), Arc::from(node.name.as_str()));
                let before = self.nodes.insert(key, Arc::from(node));
                self.nodes_revision += 1;
                before.is_none()
            }
            Item::Ip(record) => self.ipcache.set_endpoint(cluster, &record),
            Item::Identity(id, labels) => self.identities.insert(id, (cluster.clone(), labels)).is_none(),
            Item::Service(service) => {
                let name = ServiceName::new(&service.namespace, &service.name);
                self.services.set_remote(&name, cluster, Some(&service))
            }
            Item::EndpointSlice(slice) => {
                self.services.set_remote_slice(&slice.namespace, &slice.name, cluster, Some(&slice))
            }
            // Not among the kinds that an agent asks for.
            Item::ServiceExport(_) => false,
        }
    }

    /// Returns whether there was one.
    fn remove(&mut self, cluster: &ClusterName, item: &ItemKey) -> bool {
        match item {
            ItemKey::Node(name) => {
                self.ipcache.remove_node(cluster, name);
                let removed = self.nodes.remove(&(cluster.clone(), Arc::from(name.as_str()))).is_some();
                self.nodes_revision += u64::from(removed);
                removed
            }
            ItemKey::Ip(prefix) => self.ipcache.remove_endpoint(cluster, *prefix),
            ItemKey::Identity(id) => self.identities.remove(id).is_some(),
            ItemKey::Service(name) => self.services.set_remote(name, cluster, None),
            ItemKey::EndpointSlice { namespace, name } => {
                self.services.set_remote_slice(namespace, name, cluster, None)
            }
            ItemKey::ServiceExport(_) => false,
        }
    }

    /// Takes over what the local Kubernetes API says.
    pub fn apply_local(&mut self, event: LocalEvent) {
        match event {
            LocalEvent::Service(name, service) => {
                self.services.set_service(&name, service.map(|service| *service))
            }
            LocalEvent::Slice { namespace, name, content } => {
                self.services.set_slice(&namespace, &name, content.map(|content| *content));
            }
            LocalEvent::OwnNode(node) => self.set_own_node(node.map(|node| *node)),
            LocalEvent::Neighbour(source, name, prefixes) => self.set_neighbour((source, name), prefixes),
            LocalEvent::CiliumNodesListed => {
                self.nodes_revision += u64::from(std::mem::take(&mut self.awaits_cilium_nodes));
            }
            LocalEvent::Undecodable { kind, key, refused } => {
                let cluster = self.local.name.to_string();
                let key = RejectedKey { cluster, kind: kind.word(), key };
                match refused {
                    Some(refused) => self.reject(key, refused),
                    None => self.rejected.clear(&key),
                }
            }
            LocalEvent::Watch(kind, view) => drop(self.kubernetes.insert(kind, view)),
        }
    }

    /// The own addresses are the host, whatever others say of them.
    fn set_own_node(&mut self, node: Option<KubeNode>) {
        if self.own_node == node {
            return;
        }
        let host = |address: &std::net::IpAddr| {
            let entry = Entry {
                claimant: Claimant::Node(self.local.name.clone(), Arc::clone(&self.node)),
                source: Source::Local,
                identity: NumericIdentity::HOST,
                host: None,
                key: 0,
                remote_cluster: false,
                pod: None,
            };
            (IpNet::from(*address), entry)
        };
        let addresses = node.iter().flat_map(|node| &node.addresses);
        let claims = addresses.map(host).collect();
        let (cluster, name) = (self.local.name.clone(), Arc::clone(&self.node));
        self.ipcache.set_node(&cluster, &name, claims);
        self.own_node = node;
        self.nodes_revision += 1;
    }

    /// Kubelets write their Nodes every few minutes; only what changes what they use counts.
    fn set_neighbour(&mut self, name: (NodeSource, Arc<str>), prefixes: Vec<IpNet>) {
        let before = match prefixes.is_empty() {
            true => self.neighbours.remove(&name),
            false => self.neighbours.insert(name, prefixes.clone()),
        };
        self.nodes_revision += u64::from(before.unwrap_or_default() != prefixes);
    }

    /// Whether a watch was complete once.
    pub(crate) fn is_listed(&self, kind: LocalKind) -> bool {
        self.kubernetes.get(&kind).is_some_and(|view| view.listed)
    }

    fn reject(&mut self, key: RejectedKey, refused: Rejection) {
        if self.rejected.reject(key.clone(), refused.clone()) {
            self.news.push((key, refused));
        }
    }

    /// What was rejected since the last call and is worth a line in the log: each key once per reason.
    pub fn take_news(&mut self) -> Vec<(RejectedKey, Rejection)> {
        std::mem::take(&mut self.news)
    }

    /// Computes the services that were touched; returns whether one changed.
    pub fn settle_services(&mut self) -> bool {
        !self.services.settle().is_empty()
    }

    /// What has not been complete once: names for `/readyz` and `status`.
    pub fn pending(&self) -> Vec<String> {
        let mut pending = self.pending_of(&KINDS, &LocalKind::ALL);
        pending.extend(self.awaits_cilium_nodes.then(|| "kubernetes/CiliumNode".to_owned()));
        pending
    }

    /// Whether services may be written without taking away what an earlier life had written.
    pub fn services_complete(&self) -> bool {
        let kinds = [Resource::Services, Resource::EndpointSlices];
        self.pending_of(&kinds, &[LocalKind::Service, LocalKind::EndpointSlice]).is_empty()
    }

    /// Whether nodes and addresses are complete, so that what is not among them is gone.
    pub fn addresses_complete(&self) -> bool {
        let kinds = [Resource::Nodes, Resource::Ip, Resource::Identities];
        self.pending_of(&kinds, &[LocalKind::Node]).is_empty()
    }

    fn pending_of(&self, kinds: &[Resource], local: &[LocalKind]) -> Vec<String> {
        let mut pending = Vec::new();
        if !self.store.listed {
            pending.push("store".to_owned());
        }
        let unlisted = local.iter().filter(|kind| !self.is_listed(**kind));
        pending.extend(unlisted.map(|kind| format!("kubernetes/{}", kind.word())));
        for (name, cluster) in self.clusters.iter().filter(|(_, cluster)| cluster.is_followed()) {
            let never = |kind: &&Resource| {
                cluster.kinds.get(*kind).is_none_or(|view| view.state == ViewState::NeverSynced)
            };
            pending.extend(kinds.iter().filter(never).map(|kind| format!("cluster/{name}/{kind}")));
        }
        pending
    }

    /// Whether something that was known is not kept up to date, or a cluster is not (yet) there.
    pub fn is_degraded(&self) -> bool {
        !self.store.connected
            || self.clusters.values().any(|cluster| !cluster.is_ready())
            || self.kubernetes.values().any(|view| !view.live)
    }
}

fn rejected_key(cluster: &ClusterName, kind: Resource, key: &[u8]) -> RejectedKey {
    RejectedKey { cluster: cluster.to_string(), kind: kind.word(), key: key.escape_ascii().to_string() }
}

#[cfg(test)]
mod tests;
