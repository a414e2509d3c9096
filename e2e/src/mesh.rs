//! The daemons of a mesh over the clusters of a bed: every cluster mirrors every other.
//!
//! ```text
//!  control plane   store ◀── clustermesh-apiserver (with MCS) ◀── kube-apiserver ──▶ dns
//!  10.200.c.1        ▲ ◀── kvstoremesh ◀── the stores of the other clusters
//!                    │
//!  node            agent ──▶ nftables, WireGuard
//! ```

mod builder;
mod pki;
mod view;

pub use builder::MeshBuilder;
pub use pki::MeshPki;
pub use view::AgentView;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{Bed, Cluster, Daemon, Etcdctl, Node};

/// A daemon of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The store: `isthmus store serve`, or etcd.
    Store,
    /// `isthmus clustermesh-apiserver`.
    Exporter,
    /// `isthmus kvstoremesh`.
    Mirror,
    /// `isthmus dns`.
    Dns,
    /// `isthmus agent run` on the node of this index.
    Agent(usize),
}

/// All clusters with their daemons. Dropping it kills them.
#[derive(Debug)]
pub struct Mesh<'bed> {
    bed: &'bed Bed,
    pki: MeshPki,
    members: BTreeMap<String, Member<'bed>>,
}

/// One cluster of a mesh.
#[derive(Debug)]
pub struct Member<'bed> {
    cluster: &'bed Cluster,
    nodes: Vec<Node>,
    daemons: BTreeMap<Part, Daemon>,
    etcdctl: Etcdctl,
}

impl Part {
    /// Where it answers `/readyz`, on its own machine.
    #[must_use]
    pub fn health(self) -> SocketAddr {
        let port = match self {
            Self::Store => 9879,
            Self::Exporter => 9880,
            Self::Mirror => 9881,
            Self::Dns => 9882,
            Self::Agent(_) => 9883,
        };
        ([127, 0, 0, 1], port).into()
    }
}

impl<'bed> Mesh<'bed> {
    /// Says what runs where; nothing starts before [`MeshBuilder::start`].
    pub fn builder(bed: &'bed Bed) -> MeshBuilder<'bed> {
        MeshBuilder::new(bed)
    }

    /// The bed below.
    #[must_use]
    pub fn bed(&self) -> &'bed Bed {
        self.bed
    }

    /// The certificates.
    #[must_use]
    pub fn pki(&self) -> &MeshPki {
        &self.pki
    }

    /// A cluster by its name.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn member(&self, name: &str) -> &Member<'bed> {
        self.members.get(name).unwrap_or_else(|| panic!("the mesh has no cluster {name}"))
    }

    /// The same, to restart something of it.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn member_mut(&mut self, name: &str) -> &mut Member<'bed> {
        self.members.get_mut(name).unwrap_or_else(|| panic!("the mesh has no cluster {name}"))
    }

    /// All of them, by name.
    pub fn members(&self) -> impl Iterator<Item = &Member<'bed>> {
        self.members.values()
    }
}

impl Member<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.cluster.name()
    }

    /// The cluster below.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// Its nodes, in the order of the builder.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its first node.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.nodes.first().expect("the test asks for a node of a cluster that it made without")
    }

    /// `etcdctl` as the administrator of its store, who may do everything.
    #[must_use]
    pub fn etcdctl(&self) -> &Etcdctl {
        &self.etcdctl
    }

    /// A daemon of it.
    ///
    /// # Panics
    /// If it does not run that part.
    #[must_use]
    pub fn daemon(&self, part: Part) -> &Daemon {
        self.daemons.get(&part).unwrap_or_else(|| panic!("{} runs no {part:?}", self.cluster.name()))
    }

    /// The same, to stop, kill, freeze or restart it.
    ///
    /// # Panics
    /// If it does not run that part.
    pub fn daemon_mut(&mut self, part: Part) -> &mut Daemon {
        let name = self.cluster.name();
        self.daemons.get_mut(&part).unwrap_or_else(|| panic!("{name} runs no {part:?}"))
    }

    /// The parts that it runs.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        self.daemons.keys().copied().collect()
    }

    /// All that a daemon has logged.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self, part: Part) -> Result<String> {
        let log = self.daemon(part).log();
        std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))
    }

    /// The socket of the agent on the node of an index.
    #[must_use]
    pub fn socket(&self, node: usize) -> PathBuf {
        socket(self.cluster, node)
    }

    /// Where its mirror finds one configuration for each other cluster.
    #[must_use]
    pub fn remotes_dir(&self) -> PathBuf {
        remotes_dir(self.cluster)
    }
}

fn remotes_dir(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("clustermesh")
}

fn socket(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.dir().join(format!("agent-{node}.sock"))
}

fn store_endpoint(cluster: &Cluster) -> String {
    format!("https://{}:2379", cluster.host().address())
}
