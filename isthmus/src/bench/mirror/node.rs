//! What is measured: a store and the mirror into it in one process, by the code of the daemons.

use super::peers::{CONFIGURATION, server_tls};
use crate::daemon::{self, DaemonArgs, Spec};
use crate::exit::Exit;
use kvstore::server::{Server, ServerConfig, ServerLimits};
use kvstore::{Store, StoreConfig};
use kvstoremesh::{EtcdDial, Mesh, Settings};
use mesh_types::LocalCluster;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

const SPEC: Spec = Spec { name: "bench-node", metrics_prefix: "cilium_kvstoremesh", health_port: 0 };

/// Arguments of `isthmus bench node`.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// Where [`super::peers`] wrote the configuration.
    #[arg(long)]
    directory: PathBuf,
    /// Where the store answers.
    #[arg(long)]
    listen: SocketAddr,
    /// Certificates of the store.
    #[arg(long)]
    tls: Option<PathBuf>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl NodeArgs {
    /// Runs until SIGINT or SIGTERM.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        daemon::run(&SPEC, &self.daemon, async |daemon| {
            let store = Store::new(StoreConfig::default());
            let mut config = ServerConfig::new(self.listen, self.tls.as_deref().map(server_tls));
            config.limits = ServerLimits { quota_bytes: 16 << 30, ..ServerLimits::default() };
            let server = Server::bind(config, Arc::clone(&store)).await?;
            daemon.tasks.spawn_once("server", |stop| async move {
                server.run(stop).await;
                Ok::<_, Infallible>(())
            });
            let cluster = LocalCluster::new("here", 1, 255)?;
            let settings = Settings::new(cluster, self.directory.join(CONFIGURATION));
            let mesh = Mesh::new(settings, Arc::new(store.client()), Arc::new(EtcdDial));
            mesh.register(&mut daemon.metrics);
            mesh.start(&daemon.tasks, &daemon.readiness);
            Ok(())
        })
    }
}
