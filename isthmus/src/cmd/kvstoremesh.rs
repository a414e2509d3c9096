//! `isthmus kvstoremesh`.

use crate::daemon::{self, DaemonArgs, Spec};
use crate::duration;
use crate::exit::{Exit, Usage};
use crate::store::StoreArgs;
use anyhow::Context as _;
use clap::Subcommand;
use kvstore::EtcdClient;
use kvstoremesh::{EtcdDial, Mesh, Settings};
use mesh_types::LocalCluster;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod status;

const SPEC: Spec =
    Spec { name: "kvstoremesh", metrics_prefix: "cilium_kvstoremesh", health_port: HEALTH_PORT };
/// As Cilium's chart has it.
const HEALTH_PORT: u16 = 9881;

/// Arguments of `isthmus kvstoremesh`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    mirror: MirrorArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print how each remote cluster stands; exit code 3 if one is not ready.
    Status(status::Args),
}

#[derive(Debug, clap::Args)]
struct MirrorArgs {
    /// Name of this cluster.
    #[arg(long, value_name = "NAME", default_value = "default", env = "CILIUM_CLUSTER_NAME")]
    cluster_name: String,
    /// Id of this cluster: 1 to the maximum of clusters.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    cluster_id: u32,
    /// Clusters that the mesh can have: 255 or 511, the same in all of them.
    #[arg(long, value_name = "COUNT", default_value_t = 255)]
    max_connected_clusters: u32,
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
    #[arg(long)]
    enable_heartbeat: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Some(Command::Status(args)) => args.run(),
            None => self.mirror.run(),
        }
    }
}

impl MirrorArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let settings = self.settings()?;
        daemon::run(&SPEC, &self.daemon, async |daemon| {
            let local =
                EtcdClient::new(self.store.config()?).context("set up the client of the local store")?;
            let cluster = settings.local.clone();
            let mesh = Mesh::new(settings, Arc::new(local), Arc::new(EtcdDial));
            let board = mesh.board();
            board.register(&mut daemon.metrics);
            let pages = board.clone();
            daemon.page("/status", move || pages.status(&cluster, Instant::now()));
            daemon.page("/v1/cluster", move || board.cilium_status());
            mesh.start(&daemon.tasks, &daemon.readiness);
            Ok(())
        })
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let local = LocalCluster::new(&self.cluster_name, self.cluster_id, self.max_connected_clusters);
        let local = local.map_err(|error| {
            Usage::error(format!("--cluster-name, --cluster-id, --max-connected-clusters: {error}"))
        })?;
        Ok(Settings {
            lease_ttl: self.store.lease_ttl(),
            removal_grace: self.removal_grace,
            heartbeat_timeout: self.heartbeat_timeout,
            max_value_bytes: self.max_value_bytes,
            per_cluster_ready_timeout: self.per_cluster_ready_timeout,
            global_ready_timeout: self.global_ready_timeout,
            heartbeat: self.enable_heartbeat,
            ..Settings::new(local, &self.clustermesh_config)
        })
    }
}
