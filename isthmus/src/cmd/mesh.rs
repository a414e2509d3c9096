//! `isthmus mesh`: all daemons of a cluster in one process.
//!
//! ```text
//!  Kubernetes ──▶ export ──┐                 ┌──▶ controllers ──▶ Kubernetes
//!                          ├──▶ store ───────┤
//!  other clusters ▶ mirror ┘  (here or etcd) └──▶ agents, other clusters        dns ◀── Kubernetes
//! ```
//!
//! They start in the order store, export with its controllers, mirror, DNS, and stop in the reverse one. Between them
//! nothing goes over a socket where the store is embedded.

use crate::cmd::cluster::{self, ClusterArgs, KubernetesArgs, ServeArgs};
use crate::cmd::clustermesh_apiserver::{ExportArgs, HEALTH_PORT, LocalStore};
use crate::cmd::dns;
use crate::cmd::kvstoremesh::MirrorArgs;
use crate::cmd::store::ServerArgs;
use crate::daemon::{self, Daemon, DaemonArgs, Spec};
use crate::exit::{Exit, Usage};
use crate::listen;
use crate::store::{StoreArgs, StoreSeries};
use anyhow::Context as _;
use dns_plugin::{Zone, ZoneName, ZoneSettings};
use futures::future::BoxFuture;
use kvstore::{Client, EmbeddedClient, EtcdClient, Users};
use mesh_observe::{Dial, DialError, EtcdStore};
use mesh_types::LocalCluster;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

mod file;

pub(crate) use file::expand;

/// Its parts have prefixes of their own.
const SPEC: Spec = Spec { name: "mesh", metrics_prefix: "", health_port: HEALTH_PORT };

/// Arguments of `isthmus mesh`: those of its parts.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// Flags in a file: YAML, a flag's name without dashes and its value on each line. What is also on the command line
    /// counts as it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    export: ExportArgs,
    #[command(flatten)]
    mirror: MirrorArgs,
    /// Where /v1/cluster answers too, such as `localhost:9889`, which is where Cilium's tools ask.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen::address)]
    api_serve_addr: Option<SocketAddr>,
    /// Where to answer clusterset.local, by UDP and TCP [default: no DNS]. May be repeated.
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns_listen: Vec<SocketAddr>,
    /// The domain to answer for.
    #[arg(long, value_name = "DOMAIN", default_value = ZoneName::DEFAULT)]
    dns_zone: ZoneName,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Args {
    /// Runs all of them until it is asked to stop.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let local = self.cluster.local()?;
        self.export.config(&local, &self.store)?;
        let zone = ZoneSettings {
            zone: self.dns_zone.clone(),
            ttl_seconds: dns::TTL_SECONDS,
            name_server: self
                .dns_listen
                .iter()
                .map(SocketAddr::ip)
                .filter(|ip| !ip.is_unspecified())
                .collect(),
        };
        let zone = Zone::new(zone).map_err(|error| Usage::error(format!("--dns-zone: {error}")))?;
        daemon::run(&SPEC, &self.serve.of(&self.daemon), async |daemon| {
            self.serve.start(daemon).await?;
            if let Some(address) = self.api_serve_addr {
                daemon.listen("api", address).await?;
            }
            if let Some(file) = &self.config {
                info!(file = %file.display(), "flags read from the file");
            }
            let parts = self.parts(daemon, &local).await?;
            self.start(daemon, local, parts).await?;
            if !self.dns_listen.is_empty() {
                let kube = self.kubernetes.config().client().await.context("reach the Kubernetes API")?;
                daemon.part("isthmus_dns");
                dns::start(daemon, "/dns", &kube, zone, &self.dns_listen, dns::MAX_UDP_SIZE).await?;
            }
            Ok(())
        })
    }

    /// The store: that of `--kvstore-opt`, else one in this process.
    async fn parts(&self, daemon: &mut Daemon, local: &LocalCluster) -> anyhow::Result<Parts> {
        if self.store.is_external() {
            let etcd = self.store.config()?;
            let client = EtcdClient::new(etcd.clone()).context("set up the client of the local store")?;
            let client = Arc::new(client);
            return Ok(Parts { client: client.clone(), users: client, dial: Arc::new(EtcdStore::new(etcd)) });
        }
        let compaction = self.server.compaction();
        let store = self.server.start(daemon, Some(local.name.as_str()), compaction).await?;
        let client = Arc::new(store.client());
        Ok(Parts { client: client.clone(), users: client.clone(), dial: Arc::new(InProcess(client)) })
    }

    async fn start(&self, daemon: &mut Daemon, local: LocalCluster, parts: Parts) -> anyhow::Result<()> {
        let (readiness, spawner) = (daemon.readiness.clone(), daemon.tasks.spawner());
        daemon.part("cilium_clustermesh_apiserver");
        let series = StoreSeries::register(daemon.series());
        let store = LocalStore {
            client: self.store.observed(Arc::clone(&parts.client), &series, &readiness, &spawner),
            users: parts.users,
            dial: parts.dial,
        };
        let exporter = self.export.start(daemon, &local, &self.store, &self.kubernetes, store).await?;

        daemon.part("cilium_kvstoremesh");
        let series = StoreSeries::register(daemon.series());
        let store = self.store.observed(parts.client, &series, &readiness, &spawner);
        cluster::measure_bootstrap(daemon);
        let board = self.mirror.start(daemon, local.clone(), &self.store, store, &series);
        daemon.page(
            "/status",
            move || json!({ "export": exporter.status(), "remotes": board.status(&local, Instant::now()) }),
        );
        Ok(())
    }
}

/// The store by the ways in which its users want it.
struct Parts {
    client: Arc<dyn Client>,
    users: Arc<dyn Users>,
    dial: Arc<dyn Dial>,
}

/// The store in this process, for readers.
struct InProcess(Arc<EmbeddedClient>);

impl Dial for InProcess {
    fn dial(&self) -> BoxFuture<'_, Result<Arc<dyn Client>, DialError>> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { Ok(client as Arc<dyn Client>) })
    }
}
