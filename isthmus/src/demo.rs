//! A mesh of clusters in one process tree, to look at and to try things with.
//!
//! ```text
//!  demo ─┬─ west:  kube-lite ◀─ mesh (store, export, mirror, controllers, DNS) ◀─ agent (tables only)
//!        │            ▲           ▲ │
//!        │  objects ──┘           │ └── links: a TCP proxy in this process for each direction, which can be cut
//!        │                        ▼
//!        └─ east:  the same
//! ```
//!
//! The daemons are this program again, as children that end with it. The clusters are connected by the objects that `isthmus
//! connect` writes, which [`mounts`] makes files of. [`observer`] asks the agents and mirrors how they stand, tells what
//! changed, and is what the scenes wait on.

pub(crate) mod child;
pub(crate) mod cluster;
pub(crate) mod link;
pub(crate) mod mounts;
pub(crate) mod objects;
pub(crate) mod observer;
pub(crate) mod ports;
pub(crate) mod scenes;
pub(crate) mod show;
pub(crate) mod view;

use crate::connect::apply::{self, Mode};
use crate::connect::reach::Reached;
use crate::connect::report;
use crate::connect::survey::{self, Given};
use crate::evidence::kube::Api;
use crate::out;
use anyhow::Context as _;
use cluster::Cluster;
use futures::future::try_join_all;
use jiff::Timestamp;
use link::Links;
use mesh_explain::Style;
use mounts::Mounts;
use observer::Observer;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

/// The clusters, in the order of their ids.
const NAMES: [&str; 8] = ["west", "east", "north", "south", "center", "coast", "hill", "lake"];

/// A mesh that runs. Dropping it ends all of it.
pub(crate) struct Demo {
    /// Its clusters.
    pub(crate) clusters: Vec<Cluster>,
    /// The connections between them.
    pub(crate) links: Links,
    /// How they stand.
    pub(crate) observer: Observer,
    _mounts: Mounts,
    /// When it was started.
    pub(crate) began: Instant,
    /// This program.
    pub(crate) program: PathBuf,
    // After the clusters, which write into it.
    dir: TempDir,
}

impl Demo {
    /// Starts the clusters, writes their objects, and returns when every agent and every DNS server knows all of them.
    pub(crate) async fn start(
        clusters: usize,
        first_port: Option<u16>,
        began: Instant,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let dir = tempfile::Builder::new().prefix("isthmus-demo-").tempdir();
        let dir = dir.context("make a directory in the temporary one of the system, or in $TMPDIR")?;
        let names = &NAMES[..clusters];
        let mut block = ports::Block::reserve(first_port, clusters * cluster::PORTS)?;
        let pki = cluster::Pki::new(dir.path(), names)?;
        let mut started = Vec::new();
        for (name, id) in names.iter().zip(1..) {
            let ports = block.take(cluster::PORTS);
            started.push(Cluster::start(&program, dir.path(), name, id, ports, &pki)?);
        }
        let stores: Vec<_> = started.iter().map(|cluster| (cluster.name, cluster.ports.store)).collect();
        let links = Links::open(dir.path(), &stores).await?;
        try_join_all(started.iter_mut().map(|cluster| cluster.prepare(&pki))).await?;
        connect(&started).await.context("connect the clusters")?;
        let mounts = Mounts::start(&started, &stores, &links).await?;
        for cluster in &mut started {
            cluster.join(&program, &pki)?;
        }
        cluster::write_mesh(dir.path(), &started)?;
        let observer = Observer::start(&started, &links, names)?;
        let mut demo = Self { clusters: started, links, observer, _mounts: mounts, began, program, dir };
        let seeded = demo.clusters.iter().map(async |cluster| {
            cluster.seed().await.with_context(|| format!("write the objects of {}", cluster.name))
        });
        try_join_all(seeded).await?;
        demo.settle().await?;
        Ok(demo)
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The cluster of that name.
    pub(crate) fn cluster(&self, name: &str) -> &Cluster {
        let found = self.clusters.iter().find(|cluster| cluster.name == name);
        found.expect("scenes name the first clusters only, and there are at least two")
    }

    /// Waits until everything is known everywhere.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let count = self.clusters.len();
        let all = |state: &observer::State| {
            state.views.len() == count
                && state.views.values().all(|view| {
                    let cart = view.get(objects::CART).is_some_and(|cart| cart.used() == 2 * count);
                    let payments =
                        view.get(objects::PAYMENTS).is_some_and(|service| service.known() == 2 * count);
                    // What the exported name leads to.
                    let derived = |(name, service): (&String, &view::Service)| {
                        objects::is_derived(name) && service.used() == 2
                    };
                    cart && payments && view.iter().any(derived)
                })
                && state.remotes.len() == count
                && state.remotes.values().flatten().all(|remote| remote.ready)
        };
        self.until("all agents know the services of all clusters", all).await?;
        let deadline = Instant::now() + observer::PATIENCE;
        for cluster in &self.clusters {
            while show::name_of(cluster, objects::ORDERS).await.is_none_or(|addresses| addresses.is_empty()) {
                anyhow::ensure!(
                    Instant::now() < deadline,
                    "the DNS server of {} does not answer for {} after {:?}",
                    cluster.name,
                    objects::ORDERS,
                    observer::PATIENCE
                );
                tokio::time::sleep(observer::PAUSE).await;
            }
        }
        Ok(())
    }

    /// Waits for a state; an error if it does not come, or if a daemon ends.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        reached: impl Fn(&observer::State) -> bool,
    ) -> anyhow::Result<std::time::Duration> {
        tokio::select! {
            ended = child::any_ends(&mut self.clusters) => Err(ended),
            waited = self.observer.until(what, reached) => waited,
        }
    }

    /// Returns when a daemon has ended, with why.
    pub(crate) async fn ends(&mut self) -> anyhow::Error {
        child::any_ends(&mut self.clusters).await
    }
}

/// Does what `isthmus connect --apply` does, which writes the same again if it is run on the demo.
async fn connect(clusters: &[Cluster]) -> anyhow::Result<()> {
    let reached = clusters.iter().map(|cluster| {
        let api = Api::of(cluster.api()?.client());
        Ok(Reached { context: cluster.name.to_owned(), api: Ok(api) })
    });
    let reached = reached.collect::<anyhow::Result<Vec<_>>>()?;
    let survey = survey::survey(&reached, mounts::NAMESPACE, &Given::new(), observer::PATIENCE).await;
    let now = Timestamp::now();
    let findings = mesh_connect::checks(&survey.members, &survey.failures, now);
    anyhow::ensure!(findings.is_empty(), "{}", report::findings(&findings, Style::default()));
    let plan = mesh_connect::connect(&survey.members, now);
    apply::apply(&plan, &reached, Mode::Persist, |_write| {}).await
}
