//! The tasks of the exporter.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvstore::Client;
use kvstore::sync::{SyncWriter, WriterConfig};
use mesh_runtime::{Backoff, Readiness, Restart, Spawner, Task};
use mesh_types::{Form, LocalCluster, Resource, key};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::announce::{self, ExportsReadable};
use crate::board::{Board, Status};
use crate::config::{Cni, Config, ConfigError};
use crate::discovery;
use crate::metrics::Series;
use crate::round::{self, Context};
use crate::scopes::Trees;
use crate::stamps::{self, Commits};

/// Waits before a task that failed starts again.
pub(crate) const RESTART: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// How often Cilium's definitions are looked for while they are waited for.
const DEFINITIONS_EVERY: Duration = Duration::from_secs(1);

/// An exporter that was started; clones show the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    board: Board,
    scoping: Option<Scoping>,
}

/// What an exporter needs to know of scopes, for whoever keeps users in step; see [`crate::keep_users`].
#[derive(Clone, Debug)]
pub struct Scoping {
    pub(crate) file: PathBuf,
    pub(crate) trees: Trees,
    pub(crate) board: Board,
}

impl Handle {
    /// What it reads, writes and withholds now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.board.status()
    }

    /// Its export scopes, if it has any: they are in force only while [`crate::keep_users`] runs with them.
    #[must_use]
    pub fn scoping(&self) -> Option<Scoping> {
        self.scoping.clone()
    }
}

/// Starts the exporter: from the Kubernetes API behind `kube` to `store`.
///
/// The tasks belong to `tasks`; readiness waits for each canary; the series are registered below the prefix of
/// `metrics`. Stopping deletes nothing: the keys stay until the next start, or until their leases end. Returns at
/// once, whether or not the API server or the store can be reached. Numeric identities are written only while `leading`;
/// see [`crate::elect`].
///
/// # Errors
/// [`ConfigError`] if the configuration cannot work.
pub fn start(
    config: Config,
    kube: kube::Client,
    store: Arc<dyn Client>,
    leading: watch::Receiver<bool>,
    tasks: &Spawner,
    readiness: &Readiness,
    metrics: &mut Registry,
) -> Result<Handle, ConfigError> {
    config.validate()?;
    if let Some(limit) = config.crd_wait.filter(|_| config.cni == Cni::Cilium) {
        let kube = kube.clone();
        tasks.spawn("definitions", Restart::Never, move |stop| {
            let awaited = await_definitions(kube.clone(), limit);
            async move {
                if let Some(late) = stop.run_until_cancelled(awaited).await {
                    late?;
                }
                // It is essential until it has found them, and has nothing to do from then on.
                stop.cancelled().await;
                Ok::<(), DefinitionsAbsent>(())
            }
        });
    }
    let commits = Arc::new(Commits::default());
    let writers: BTreeMap<_, _> = Resource::ALL
        .into_iter()
        .map(|resource| (resource, writer(&config.local, resource, config.lease_ttl, &commits)))
        .collect();
    let writers = Arc::new(writers);
    let board = Board::new(config.local.clone(), Arc::clone(&writers));
    metrics.register_collector(Box::new(Series(board.clone())));

    for (resource, writer) in &*writers {
        spawn_writer(tasks, &format!("write/{resource}"), &store, writer);
        let (guard, writer) = (readiness.guard(resource.word()), writer.clone());
        tasks.spawn(format!("ready/{resource}"), Restart::UntilDone(RESTART), move |stop| {
            let (guard, writer) = (guard.clone(), writer.clone());
            async move {
                if stop.run_until_cancelled(writer.wait_synced()).await.is_some() {
                    guard.ready();
                }
                Ok::<(), Infallible>(())
            }
        });
    }
    spawn_bootstrap(tasks, readiness.clone(), board.clone());

    let heartbeat = announce::heartbeat_writer(&key::HEARTBEAT.into(), config.lease_ttl);
    spawn_writer(tasks, "write/heartbeat", &store, &heartbeat);
    announce::spawn_beat(tasks, &heartbeat);

    let stamps = stamps::writer(&config.local.name, config.lease_ttl);
    spawn_writer(tasks, "write/stamps", &store, &stamps);
    tasks.spawn("stamps", Restart::WithBackoff(RESTART), move |stop| {
        let publish = stamps::publish(Arc::clone(&commits), stamps.clone(), stop);
        async move {
            publish.await;
            Ok::<(), Infallible>(())
        }
    });

    let (readable, readable_news) = watch::channel(ExportsReadable::default());
    let announcement =
        announce::config_writer(&key::cluster_config(&config.local.name).into(), config.lease_ttl);
    spawn_writer(tasks, "write/cluster-config", &store, &announcement);
    let services = (config.mcs_api, config.service_format);
    announce::spawn(tasks, &config.local, services, &store, &announcement, &readable_news);

    let scoping = config.export_scopes.clone().map(|file| {
        let about = (config.local.clone(), config.lease_ttl, services);
        let trees = Trees::new(about, Arc::clone(&store), tasks.clone(), readable_news);
        board.set_trees(trees.clone());
        Scoping { file, trees, board: board.clone() }
    });
    let context =
        Context { config: Arc::new(config), client: kube, board: board.clone(), writers, readable, leading };
    tasks.spawn("export", Restart::WithBackoff(RESTART), move |stop| round::run(context.clone(), stop));
    Ok(Handle { board, scoping })
}

/// Cilium's definitions did not appear in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "the API server does not have Cilium's definitions (CiliumNode, CiliumIdentity, CiliumEndpoint) after {limit:?}: is Cilium installed?"
)]
struct DefinitionsAbsent {
    limit: Duration,
}

/// Ends when all of them are there.
async fn await_definitions(kube: kube::Client, limit: Duration) -> Result<(), DefinitionsAbsent> {
    let all = async {
        while !discovery::has_cilium(&kube).await {
            tokio::time::sleep(DEFINITIONS_EVERY).await;
        }
    };
    tokio::time::timeout(limit, all).await.map_err(|_elapsed| DefinitionsAbsent { limit })
}

fn writer(
    local: &LocalCluster,
    resource: Resource,
    lease_ttl: Duration,
    commits: &Arc<Commits>,
) -> SyncWriter {
    let canary = resource.canary(Form::State, &local.name);
    SyncWriter::new(WriterConfig {
        canary: Some((Bytes::from(canary), announce::timestamp)),
        lease_ttl: Some(lease_ttl),
        witness: Some(Arc::clone(commits) as _),
        ..WriterConfig::new(resource.prefix(Form::State, &local.name))
    })
}

pub(crate) fn spawn_writer(
    tasks: &Spawner,
    name: &str,
    store: &Arc<dyn Client>,
    writer: &SyncWriter,
) -> Task {
    let (store, writer) = (Arc::clone(store), writer.clone());
    tasks.spawn(name, Restart::WithBackoff(RESTART), move |stop| {
        let (store, writer) = (Arc::clone(&store), writer.clone());
        async move { writer.run(&*store, &stop).await }
    })
}

fn spawn_bootstrap(tasks: &Spawner, readiness: Readiness, board: Board) {
    let began = Instant::now();
    tasks.spawn("bootstrap", Restart::UntilDone(RESTART), move |stop| {
        let (readiness, board) = (readiness.clone(), board.clone());
        async move {
            if stop.run_until_cancelled(readiness.wait()).await.is_some() {
                let elapsed = began.elapsed();
                tracing::info!(?elapsed, "everything is written, peers may read");
                board.bootstrapped(elapsed.as_secs_f64());
            }
            Ok::<(), Infallible>(())
        }
    });
}
