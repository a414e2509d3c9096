//! The figures: a load, and what is read from it.

use super::bed::{Node, Peers, Place};
use super::data::{Cluster, Shape};
use super::observer::{self, latencies, writes_until_change};
use crate::bench::latency::Latencies;
use crate::bench::proc::Usage;
use crate::bench::report::{Measured, Target, Unit};
use crate::bench::server::Server;
use mesh_types::{Form, Resource, key};
use std::time::{Duration, Instant};

/// What can be measured of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Figure {
    /// Store and mirror with nothing to do.
    Idle,
    /// From the start until all clusters are mirrored.
    Sync,
    /// Changes in 10 clusters, until a reader of the local store sees them.
    Changes,
    /// 250 small clusters: until they are mirrored, then changes in them.
    Small,
    /// A remote store that is replaced by a new one of the same content.
    Restart,
    /// 200 clusters of 15,900 keys each.
    Large,
}

/// How big the figures are.
pub(crate) struct Sizes {
    /// Whether targets apply.
    pub(crate) standard: bool,
    /// The usual remote cluster.
    shape: Shape,
    /// Numbers of clusters to mirror.
    clusters: Vec<usize>,
    /// Clusters in which changes are made, how many per second, and for how long.
    changing: usize,
    rates: Vec<u32>,
    phase: Duration,
    /// Small clusters and their number.
    small: Shape,
    small_clusters: usize,
    small_rate: u32,
    /// Clusters of which one restarts.
    restarting: usize,
    /// Large clusters and their number.
    large: Shape,
    large_clusters: usize,
    /// How long an idle process is left alone before it is looked at.
    settle: Duration,
    /// Most time that one figure gets.
    pub(crate) limit: Duration,
}

impl Sizes {
    /// Those of the targets.
    pub(crate) fn standard() -> Self {
        Self {
            standard: true,
            shape: Shape { nodes: 100, identities: 200, endpoints: 5000, services: 100 },
            clusters: vec![1, 10, 50, 100, 250],
            changing: 10,
            rates: vec![100, 500, 2000, 5000],
            phase: Duration::from_secs(10),
            small: Shape { nodes: 100, identities: 100, endpoints: 1000, services: 20 },
            small_clusters: 250,
            small_rate: 325,
            restarting: 100,
            large: Shape { nodes: 300, identities: 500, endpoints: 15_000, services: 100 },
            large_clusters: 200,
            settle: Duration::from_secs(3),
            limit: Duration::from_secs(180),
        }
    }

    /// Small enough to see in seconds that everything works.
    pub(crate) fn quick() -> Self {
        Self {
            standard: false,
            shape: Shape { nodes: 10, identities: 20, endpoints: 200, services: 10 },
            clusters: vec![1, 3],
            changing: 3,
            rates: vec![100, 1000],
            phase: Duration::from_secs(1),
            small: Shape { nodes: 2, identities: 5, endpoints: 50, services: 2 },
            small_clusters: 10,
            small_rate: 50,
            restarting: 3,
            large: Shape { nodes: 20, identities: 50, endpoints: 1000, services: 10 },
            large_clusters: 4,
            settle: Duration::from_millis(500),
            limit: Duration::from_secs(30),
        }
    }
}

impl Figure {
    /// Those that are measured unless told otherwise.
    pub(crate) const USUAL: [Self; 5] = [Self::Idle, Self::Sync, Self::Changes, Self::Small, Self::Restart];

    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Sync => "sync",
            Self::Changes => "changes",
            Self::Small => "small",
            Self::Restart => "restart",
            Self::Large => "large",
        }
    }

    /// Measures it. What fails or takes too long leaves a note beside what was read until then.
    pub(crate) async fn measure(self, place: &Place, sizes: &Sizes) -> Measured {
        let mut measured = Measured::default();
        let ended = tokio::time::timeout(sizes.limit, self.run(place, sizes, &mut measured)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => measured.notes.push(format!("failed: {error:#}")),
            Err(_) => measured.notes.push(format!("cut off after {} s", sizes.limit.as_secs())),
        }
        measured
    }

    async fn run(self, place: &Place, sizes: &Sizes, measured: &mut Measured) -> anyhow::Result<()> {
        match self {
            Self::Idle => idle(place, sizes, measured).await,
            Self::Sync => {
                for &clusters in &sizes.clusters {
                    let peers = Peers::start(place, clusters, sizes.shape).await?;
                    sync(place, &peers, measured).await?;
                }
                Ok(())
            }
            Self::Changes => {
                let mut peers = Peers::start(place, sizes.changing, sizes.shape).await?;
                let node = Node::start(place, &peers).await?;
                for &rate in &sizes.rates {
                    changes(&node.server, &mut peers, rate, sizes.phase, measured).await?;
                }
                account(&node.server.usage()?, measured);
                Ok(())
            }
            Self::Small => {
                let mut peers = Peers::start(place, sizes.small_clusters, sizes.small).await?;
                let server = sync(place, &peers, measured).await?;
                changes(&server, &mut peers, sizes.small_rate, sizes.phase, measured).await
            }
            Self::Restart => restart(place, sizes, measured).await,
            Self::Large => {
                let peers = Peers::start(place, sizes.large_clusters, sizes.large).await?;
                sync(place, &peers, measured).await.map(drop)
            }
        }
    }
}

async fn idle(place: &Place, sizes: &Sizes, measured: &mut Measured) -> anyhow::Result<()> {
    let server = Node::alone(place).await?;
    tokio::time::sleep(sizes.settle).await;
    let usage = server.usage()?;
    let anonymous = usage.anonymous_bytes as f64;
    measured.read("store and mirror: anonymous memory", Unit::Bytes, anonymous, at_most(10e6));
    measured.read("resident", Unit::Bytes, usage.resident_bytes as f64, Target::None);
    Ok(())
}

/// The first synchronisation.
async fn sync(place: &Place, peers: &Peers, measured: &mut Measured) -> anyhow::Result<Server> {
    let node = Node::start(place, peers).await?;
    let usage = node.server.usage()?;
    account(&usage, measured);
    let keys = peers.keys as f64;
    let name = |what: &str| format!("{} clusters, {} keys: {what}", peers.clusters, peers.keys);
    let (wall, per_key, memory, peak) = match (peers.clusters, peers.keys) {
        (1, 5400) => (at_most(0.2), Target::None, Target::None, Target::None),
        (100, 540_000) => (at_most(6.0), at_most(20e-6), at_most(700.0), Target::None),
        (250, 305_000) => (at_most(5.0), Target::None, Target::None, Target::None),
        (200, 3_180_000) => (Target::None, Target::None, Target::None, at_most(f64::from(1 << 30) * 2.0)),
        _ => (Target::None, Target::None, Target::None, Target::None),
    };
    let cpu = usage.cpu.as_secs_f64();
    measured.read(name("all synced"), Unit::Seconds, node.synced_after.as_secs_f64(), wall);
    measured.read(name("CPU"), Unit::CpuSeconds, cpu, Target::None);
    measured.read(name("CPU per key"), Unit::CpuSeconds, cpu / keys, per_key);
    measured.read(name("peak memory"), Unit::Bytes, usage.peak_bytes as f64, peak);
    measured.read(name("peak memory per key"), Unit::Bytes, usage.peak_bytes as f64 / keys, memory);
    Ok(node.server)
}

/// Changes at one rate.
async fn changes(
    server: &Server,
    peers: &mut Peers,
    rate: u32,
    phase: Duration,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let mut watch = observer::watch(server, key::CACHE_PREFIX).await?;
    let before = server.usage()?;
    let clusters = peers.clusters;
    let (seen, made) = latencies(&mut watch, peers.change(rate, phase)).await?;
    let after = server.usage()?;
    let visible = seen.len() as u64;
    let Latencies { p50, p99, max } = Latencies::of(seen);
    let (median, tail, each) = match (clusters, rate) {
        (10, 500) => (Target::None, at_most(2e-3), at_most(0.2e-3)),
        (10, 5000) => (Target::None, at_most(50e-3), Target::None),
        (250, 325) => (at_most(5e-3), Target::None, Target::None),
        _ => (Target::None, Target::None, Target::None),
    };
    let name = |what: &str| format!("{rate} changes/s, {clusters} clusters: {what}");
    measured.read(name("p50"), Unit::Seconds, p50.as_secs_f64(), median);
    measured.read(name("p99"), Unit::Seconds, p99.as_secs_f64(), tail);
    measured.read(name("longest"), Unit::Seconds, max.as_secs_f64(), Target::None);
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    measured.read(name("CPU per change"), Unit::CpuSeconds, cpu / made.max(1) as f64, each);
    let coalesced = made.saturating_sub(visible) as f64;
    measured.read(name("coalesced"), Unit::Count, coalesced, Target::None);
    if (made as f64) < 0.99 * phase.as_secs_f64() * f64::from(rate) {
        measured.notes.push(format!("{rate} changes/s: the generator made only {made}"));
    }
    Ok(())
}

/// Writes that a remote cluster's new store of the same content causes.
async fn restart(place: &Place, sizes: &Sizes, measured: &mut Measured) -> anyhow::Result<()> {
    let mut peers = Peers::start(place, sizes.restarting, sizes.shape).await?;
    let node = Node::start(place, &peers).await?;
    // What is mirrored and what announces clusters, but no canaries: those tell that a list was read again.
    let mut watch = observer::watch(&node.server, "cilium/c").await?;
    let before = node.server.usage()?;
    let (restarted, clusters) = (peers.clusters / 2, peers.clusters as u32);
    let started = Instant::now();
    peers.restart(restarted).await?;
    // One change in each cluster; that of the new store is seen once the mirror follows it.
    let change = peers.change(clusters * 5, Duration::from_millis(200));
    let prefix = Resource::Ip.prefix(Form::Cache, &Cluster::new(restarted, sizes.shape).name);
    let (writes, made) = tokio::try_join!(writes_until_change(&mut watch, &prefix), change)?;
    anyhow::ensure!(made >= u64::from(clusters), "only {made} changes were made");
    let name = |what: &str| format!("1 of {clusters} stores replaced: {what}");
    let none = at_most(0.0);
    measured.read(name("writes of unchanged keys"), Unit::Count, writes.unchanged as f64, none);
    measured.read(name("deletions"), Unit::Count, writes.deleted as f64, none);
    measured.read(name("followed again"), Unit::Seconds, started.elapsed().as_secs_f64(), Target::None);
    let after = node.server.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    measured.read("CPU", Unit::CpuSeconds, cpu, Target::None);
    account(&after, measured);
    Ok(())
}

fn at_most(value: f64) -> Target {
    Target::AtMost { value, anchor: None }
}

fn account(usage: &Usage, measured: &mut Measured) {
    measured.cpu_seconds += usage.cpu.as_secs_f64();
    measured.peak_bytes = measured.peak_bytes.max(usage.peak_bytes);
}
