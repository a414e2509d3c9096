//! The generator: the stores of many remote clusters in one process, each an etcd v3 server on a loopback port of its own.

use super::control::{Answer, Order};
use super::data::{Cluster, Shape};
use crate::bench::server::Credentials;
use crate::certs::files::{CA_CERTIFICATE, CERTIFICATE, KEY};
use crate::exit::Exit;
use anyhow::{Context as _, ensure};
use kvstore::server::{Server, ServerConfig, ServerTls};
use kvstore::{Client as _, LeaseId, Store, StoreConfig, Write};
use mesh_types::key;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// Where in the directory the mirror's configuration is: a file per cluster.
pub(crate) const CONFIGURATION: &str = "clustermesh";
/// Where in it the certificates are.
const TLS: &str = "tls";
/// Keys that are stored in one go.
const FILL: usize = 4096;
/// As exporters do.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);
/// Longer than any benchmark; nobody renews it.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// Changes that are due are made this often; below the resolution of any reading.
const CHANGE_EVERY: Duration = Duration::from_micros(500);
/// How far apart endpoints are that change one after the other, so that changes meet keys everywhere. A prime.
const STRIDE: usize = 7919;

/// Arguments of `isthmus bench peers`.
#[derive(Debug, clap::Args)]
pub(crate) struct PeersArgs {
    /// How many clusters; at most 254, with ids from 2 on.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=254))]
    clusters: u16,

    #[command(flatten)]
    shape: Shape,

    /// Where to write the configuration of a mirror (`clustermesh/`, a file per cluster) and certificates (`tls/`).
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,

    /// Serve by mutual TLS, with the certificates in the directory or new ones.
    #[arg(long)]
    tls: bool,

    /// Change so many endpoints per second, spread over all clusters, until stopped.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    changes_per_second: u32,

    /// Take orders on standard input, and end with it.
    #[arg(long, hide = true)]
    orders: bool,
}

/// A cluster that is served.
struct Peer {
    cluster: Cluster,
    store: Arc<Store>,
    address: SocketAddr,
    lease: LeaseId,
    stop: CancellationToken,
    serving: JoinSet<()>,
}

impl PeersArgs {
    /// Serves until SIGINT or SIGTERM.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                served = self.serve() => served.map(|()| Exit::Done),
                () = mesh_runtime::terminate_signal() => Ok(Exit::Done),
            }
        })
    }

    async fn serve(&self) -> anyhow::Result<()> {
        let tls = self.tls.then(|| self.certificates()).transpose()?;
        let configuration = self.directory.join(CONFIGURATION);
        fs::create_dir_all(&configuration)?;
        let mut peers = Vec::new();
        for n in 0..usize::from(self.clusters) {
            let peer = Peer::start(Cluster::new(n, self.shape), tls.as_ref()).await?;
            let content = self.configuration(&peer, tls.is_some());
            fs::write(configuration.join(peer.cluster.name.as_str()), content)?;
            peers.push(peer);
        }
        answer(Answer::Ready { clusters: peers.len(), keys: self.shape.keys() * peers.len() })?;
        let beat = beat(peers.iter().map(|peer| Arc::clone(&peer.store)).collect());
        let work = async {
            if self.orders {
                return obey(&mut peers, tls.as_ref()).await;
            }
            let mut changes = Changes::default();
            loop {
                changes.make(&peers, self.changes_per_second, HEARTBEAT_EVERY).await?;
            }
        };
        tokio::select! {
            ended = work => ended,
            ended = beat => ended,
        }
    }

    /// What the mirror reads of a peer.
    fn configuration(&self, peer: &Peer, tls: bool) -> String {
        if !tls {
            return format!("endpoints:\n- http://{}\n", peer.address);
        }
        let client = Credentials::client_directory(&self.directory.join(TLS));
        let file = |name: &str| client.join(name).display().to_string();
        format!(
            "endpoints:\n- https://{}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            peer.address,
            file(CA_CERTIFICATE),
            file(CERTIFICATE),
            file(KEY)
        )
    }

    fn certificates(&self) -> anyhow::Result<ServerTls> {
        let directory = fs::canonicalize(&self.directory)?.join(TLS);
        if !directory.join(CA_CERTIFICATE).is_file() {
            Credentials::issue(&directory)?;
        }
        Ok(server_tls(&directory))
    }
}

/// The server's side of the credentials in `directory`.
pub(super) fn server_tls(directory: &Path) -> ServerTls {
    ServerTls {
        cert_file: directory.join(CERTIFICATE),
        key_file: directory.join(KEY),
        client_ca_file: Some(directory.join(CA_CERTIFICATE)),
    }
}

impl Peer {
    async fn start(cluster: Cluster, tls: Option<&ServerTls>) -> anyhow::Result<Self> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (store, lease) = fill(&cluster).await?;
        let (address, stop, serving) = serve(&store, anywhere, tls).await?;
        Ok(Self { cluster, store, address, lease, stop, serving })
    }

    /// A new store, empty at first as after a restart of the pod, takes the place of the old one.
    async fn restart(&mut self, tls: Option<&ServerTls>) -> anyhow::Result<()> {
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
        (self.store, self.lease) = fill(&self.cluster).await?;
        (_, self.stop, self.serving) = serve(&self.store, self.address, tls).await?;
        Ok(())
    }

    async fn write(&self, entries: impl IntoIterator<Item = (String, Vec<u8>)>) -> anyhow::Result<()> {
        write(&self.store, entries, self.lease).await
    }
}

async fn serve(
    store: &Arc<Store>,
    address: SocketAddr,
    tls: Option<&ServerTls>,
) -> anyhow::Result<(SocketAddr, CancellationToken, JoinSet<()>)> {
    let server = Server::bind(ServerConfig::new(address, tls.cloned()), Arc::clone(store)).await?;
    let address = *server.client_addresses().first().context("a server without an address")?;
    let stop = CancellationToken::new();
    let mut serving = JoinSet::new();
    serving.spawn(server.run(stop.clone()));
    Ok((address, stop, serving))
}

/// A new store that holds what the cluster exports, and the lease of all that.
async fn fill(cluster: &Cluster) -> anyhow::Result<(Arc<Store>, LeaseId)> {
    let store = Store::new(StoreConfig::default());
    let lease = store.client().grant(LEASE).await?;
    let mut entries = cluster.entries();
    loop {
        let some: Vec<_> = entries.by_ref().take(FILL).collect();
        if some.is_empty() {
            break;
        }
        write(&store, some, lease).await?;
    }
    let heartbeat = (key::HEARTBEAT.to_owned(), time_of_day().into());
    write(&store, cluster.announcement(&time_of_day()).into_iter().chain([heartbeat]), lease).await?;
    Ok((store, lease))
}

async fn write(
    store: &Arc<Store>,
    entries: impl IntoIterator<Item = (String, Vec<u8>)>,
    lease: LeaseId,
) -> anyhow::Result<()> {
    let put = |(key, value): (String, Vec<u8>)| Write::Put { key: key.into(), value: value.into(), lease };
    store.client().write(entries.into_iter().map(put).collect()).await?;
    Ok(())
}

/// Heartbeats of all clusters. A store that was replaced has its first one, which lasts longer than a benchmark.
async fn beat(stores: Vec<Arc<Store>>) -> anyhow::Result<()> {
    let mut ticks = interval(HEARTBEAT_EVERY);
    loop {
        ticks.tick().await;
        for store in &stores {
            write(store, [(key::HEARTBEAT.to_owned(), time_of_day().into())], LeaseId::NONE).await?;
        }
    }
}

/// Carries out orders until their end.
async fn obey(peers: &mut [Peer], tls: Option<&ServerTls>) -> anyhow::Result<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut changes = Changes::default();
    while let Some(order) = orders.next_line().await? {
        let order: Order = serde_json::from_str(&order).with_context(|| format!("understand {order:?}"))?;
        answer(match order {
            Order::Change { per_second, millis } => {
                let made = changes.make(peers, per_second, Duration::from_millis(millis)).await?;
                Answer::Changed { changes: made }
            }
            Order::Restart { cluster } => {
                peers.get_mut(cluster).context("no such cluster")?.restart(tls).await?;
                Answer::Restarted
            }
        })?;
    }
    Ok(())
}

/// Which endpoint changes next.
#[derive(Debug, Default)]
struct Changes {
    made: usize,
}

impl Changes {
    /// Makes changes at this rate for so long; says how many. Each value bears the time when it was written.
    async fn make(&mut self, peers: &[Peer], per_second: u32, time: Duration) -> anyhow::Result<u64> {
        ensure!(!peers.is_empty(), "no clusters");
        let started = Instant::now();
        let mut ticks = interval(CHANGE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut made = 0;
        while started.elapsed() < time {
            if per_second == 0 {
                sleep_until(started + time).await;
                break;
            }
            ticks.tick().await;
            let due = (started.elapsed().min(time).as_secs_f64() * f64::from(per_second)) as u64;
            while made < due {
                self.one(peers).await?;
                made += 1;
            }
        }
        Ok(made)
    }

    async fn one(&mut self, peers: &[Peer]) -> anyhow::Result<()> {
        let peer = &peers[self.made % peers.len()];
        let endpoints = peer.cluster.shape.endpoints;
        ensure!(endpoints > 0, "no endpoints to change");
        let endpoint = (self.made / peers.len() * STRIDE) % endpoints;
        self.made += 1;
        peer.write([peer.cluster.endpoint(endpoint, now())]).await
    }
}

/// Nanoseconds since 1970, which two processes of one machine read alike.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

fn time_of_day() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn answer(answer: Answer) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&answer)?)?;
    Ok(out.flush()?)
}
