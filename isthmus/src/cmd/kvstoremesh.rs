//! `isthmus kvstoremesh`.

use crate::cmd::cluster::{self, ClusterArgs, ServeArgs};
use crate::daemon::{self, Daemon, DaemonArgs, Spec};
use crate::duration;
use crate::exit::{Exit, Usage};
use crate::listen;
use crate::store::{ObservedStore, StoreArgs, StoreSeries};
use anyhow::Context as _;
use clap::{ArgAction, Subcommand};
use kvstore::EtcdClient;
use kvstoremesh::{Board, Mesh, Settings};
use mesh_types::LocalCluster;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod status;
mod troubleshoot;

const SPEC: Spec =
    Spec { name: "kvstoremesh", metrics_prefix: "cilium_kvstoremesh", health_port: HEALTH_PORT };
/// As Cilium's chart has it.
const HEALTH_PORT: u16 = 9881;

/// Arguments of `isthmus kvstoremesh`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    daemon: Mirror,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print how each remote cluster stands; exit code 3 if one is not ready.
    Status(status::Args),
    /// Find out why a remote cluster cannot be mirrored: the layer that is in the way; exit code 3 if one is.
    Troubleshoot(troubleshoot::Args),
}

/// The daemon.
#[derive(Debug, clap::Args)]
struct Mirror {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    mirror: MirrorArgs,
    /// Where /v1/cluster answers too, such as `localhost:9889`, which is where Cilium's tools ask.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen::address)]
    api_serve_addr: Option<SocketAddr>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What is mirrored, and when it counts as ready.
#[derive(Debug, clap::Args)]
pub(crate) struct MirrorArgs {
    /// Directory with one etcd client configuration per remote cluster, named after the cluster.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cilium/clustermesh")]
    clustermesh_config: PathBuf,
    /// Readiness does not wait for a remote cluster that could not be reached for so long.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    per_cluster_ready_timeout: Duration,
    /// Readiness waits for nothing longer than this.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    global_ready_timeout: Duration,
    /// Time for readers to let go of a cluster whose configuration is gone, before its data is removed.
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration::parse)]
    removal_grace: Duration,
    /// Silence of a remote cluster's heartbeat after which it is connected to again.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::parse_positive)]
    heartbeat_timeout: Duration,
    /// Values of more bytes are not mirrored.
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024)]
    max_value_bytes: usize,
    /// Renew the heartbeat of this cluster's store, if nobody else does.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set)]
    enable_heartbeat: bool,
    /// How long after contact was lost services, exports and endpoint slices are withdrawn; 0s is never.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    clustermesh_cache_ttl: Duration,
    /// Keep what was mirrored of a cluster whose configuration is gone.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set, hide = true)]
    disable_drain_on_disconnection: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Some(Command::Status(args)) => args.run(),
            Some(Command::Troubleshoot(args)) => args.run(),
            None => self.daemon.run(),
        }
    }
}

impl Mirror {
    fn run(self) -> anyhow::Result<Exit> {
        let local = self.cluster.local()?;
        self.mirror.check()?;
        daemon::run(&SPEC, &self.serve.of(&self.daemon), async |daemon| {
            self.serve.start(daemon).await?;
            if let Some(address) = self.api_serve_addr {
                daemon.listen("api", address).await?;
            }
            let client =
                EtcdClient::new(self.store.config()?).context("set up the client of the local store")?;
            let series = StoreSeries::register(daemon.series());
            let spawner = daemon.tasks.spawner();
            let store = self.store.observed(Arc::new(client), &series, &daemon.readiness, &spawner);
            cluster::measure_bootstrap(daemon);
            let board = self.mirror.start(daemon, local.clone(), &self.store, store, &series);
            daemon.page("/status", move || board.status(&local, Instant::now()));
            Ok(())
        })
    }
}

impl MirrorArgs {
    /// Starts the mirror into `store`; the status answers at `/remotes` and `/v1/cluster`.
    pub(crate) fn start(
        &self,
        daemon: &mut Daemon,
        local: LocalCluster,
        options: &StoreArgs,
        store: ObservedStore,
        series: &StoreSeries,
    ) -> Board {
        cluster::tell_version(daemon);
        let peers = Arc::new(options.peers(series));
        let mesh = Mesh::new(self.settings(local.clone(), options), store, peers);
        let board = mesh.board();
        mesh.register(daemon.series());
        let (remotes, clusters) = (board.clone(), board.clone());
        daemon.page("/remotes", move || remotes.status(&local, Instant::now()));
        daemon.page("/v1/cluster", move || clusters.cilium_status());
        mesh.start(&daemon.tasks, &daemon.readiness);
        board
    }

    /// What the mirror cannot do is refused, rather than left undone.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if !self.clustermesh_cache_ttl.is_zero() {
            return Err(Usage::error(
                "--clustermesh-cache-ttl: expected 0s, what is known of a lost cluster stays",
            ));
        }
        if self.disable_drain_on_disconnection {
            return Err(Usage::error(
                "--disable-drain-on-disconnection: expected false, a cluster without configuration is removed",
            ));
        }
        Ok(())
    }

    fn settings(&self, local: LocalCluster, options: &StoreArgs) -> Settings {
        Settings {
            lease_ttl: options.lease_ttl(),
            removal_grace: self.removal_grace,
            heartbeat_timeout: self.heartbeat_timeout,
            max_value_bytes: self.max_value_bytes,
            per_cluster_ready_timeout: self.per_cluster_ready_timeout,
            global_ready_timeout: self.global_ready_timeout,
            heartbeat: self.enable_heartbeat,
            ..Settings::new(local, &self.clustermesh_config)
        }
    }
}
