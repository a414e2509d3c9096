//! The daemon: which tasks run, for which cluster, and when it is ready.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use kvstore::sync::{SyncWriter, WriterConfig, WriterError};
use kvstore::{Client, in_one_turn};
use mesh_runtime::{Backoff, MasterStatus, Readiness, ReadyGuard, Restart, Spawner, Supervisor, Task};
use mesh_types::{ClusterName, key};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::board::Board;
use crate::config::{self, Change, Directory, PeerFile};
use crate::ids::Ids;
use crate::leader::{self, Standing};
use crate::record::Record;
use crate::remote::{Dial, Remote};
use crate::removal::remove;
use crate::settings::Settings;
use crate::sinks::{Sinks, time_of_day};
use crate::slots::{Action, Slots};

/// For tasks of one cluster that fail though they handle every failure they know of.
const RESTART: Restart =
    Restart::WithBackoff(Backoff::new(Duration::from_millis(500), Duration::from_secs(30)));
/// For tasks that have an end.
const RETRY: Restart = Restart::UntilDone(Backoff::new(Duration::from_millis(500), Duration::from_secs(30)));
/// How often an own heartbeat is renewed; peers give up after two that are missing.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Mirrors every remote cluster of a directory into the local store.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Arc<Settings>,
    local: Arc<dyn Client>,
    dial: Arc<dyn Dial>,
    board: Board,
    ids: Arc<Mutex<Ids>>,
    clusters: Mutex<Clusters>,
    standing: watch::Sender<Standing>,
}

#[derive(Default)]
struct Clusters {
    slots: Slots,
    running: BTreeMap<ClusterName, Running>,
}

/// The tasks of one cluster.
struct Running {
    write: Task,
    read: Task,
    files: watch::Sender<Arc<PeerFile>>,
}

impl Mesh {
    /// Reads remote stores by `dial` and writes to `local`, which stays with whatever store answers
    /// (`OnNewCluster::Reconnect`). Nothing runs yet.
    pub fn new(settings: Settings, local: Arc<dyn Client>, dial: Arc<dyn Dial>) -> Self {
        let shared = Shared {
            settings: Arc::new(settings),
            local,
            dial,
            board: Board::default(),
            ids: Arc::default(),
            clusters: Mutex::default(),
            standing: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is known, for status pages and metrics.
    pub fn board(&self) -> Board {
        self.shared.board.clone()
    }

    /// Registers the series of the mirror under the registry's prefix (`cilium_kvstoremesh`).
    pub fn register(&self, registry: &mut Registry) {
        self.board().register(registry);
        let standing = self.shared.standing.subscribe();
        MasterStatus::register(registry, "kvstoremesh", move || *standing.borrow() == Standing::Leads);
    }

    /// Starts the tasks; returns at once. Of several mirrors of one store only one works at a time. Essential are `config`,
    /// which ends with [`crate::DirectoryError`] if the directory cannot be read at the start, and `leader`, which fails when
    /// another mirror has taken over.
    pub fn start(&self, tasks: &Supervisor, readiness: &Readiness) {
        let spawner = tasks.spawner();
        let (local, standing) = (Arc::clone(&self.shared.local), self.shared.standing.clone());
        let patience = self.shared.settings.standby_patience;
        tasks.spawn_once("leader", move |stop| leader::run(local, patience, standing, stop));
        if self.shared.settings.heartbeat {
            let mesh = self.clone();
            tasks.spawn("heartbeat", RESTART, move |stop| mesh.clone().beat(stop));
        }
        let mesh = self.clone();
        let (readiness, first) = (readiness.clone(), readiness.guard("configuration"));
        tasks.spawn_once("config", async move |stop: CancellationToken| {
            let stood_by = stop.run_until_cancelled(mesh.until_it_leads(&first)).await;
            let Some(stood_by) = stood_by else { return Ok(()) };
            // Ready stays ready: who stood by leaves none waiting for what it begins only now.
            let readiness = if stood_by { Readiness::new() } else { readiness };
            let settings = Arc::clone(&mesh.shared.settings);
            let directory = Directory::new(settings.local.name.clone());
            let mut first = Some(first);
            let take = |changes: Vec<Change>, rejected| {
                mesh.shared.board.change(|state| state.rejected = rejected);
                let started = changes.into_iter().filter_map(|change| mesh.apply(&spawner, change)).collect();
                if let Some(first) = first.take() {
                    mesh.await_readiness(&spawner, &readiness, started);
                    first.ready();
                }
            };
            config::watch(&settings.directory, directory, take, &stop).await
        });
    }

    /// Waits for the lead; returns whether somebody else had it for a while, during which it was `ready`.
    async fn until_it_leads(&self, ready: &ReadyGuard) -> bool {
        let mut standing = self.shared.standing.subscribe();
        let stands_by = |standing: &Standing| *standing != Standing::Asking;
        // The sender lives as long as the mesh does.
        if standing.wait_for(stands_by).await.is_ok_and(|now| *now == Standing::Leads) {
            return false;
        }
        ready.ready();
        drop(standing.wait_for(|now| *now == Standing::Leads).await);
        true
    }

    /// Carries out a change of the configuration; returns the cluster if it was started.
    fn apply(&self, spawner: &Spawner, change: Change) -> Option<ClusterName> {
        let mut clusters = self.clusters();
        let action = clusters.slots.apply(change)?;
        self.act(&mut clusters, spawner, action)
    }

    fn act(&self, clusters: &mut Clusters, spawner: &Spawner, action: Action) -> Option<ClusterName> {
        match action {
            Action::Start(name, file) => {
                info!(cluster = %name, "remote cluster configured");
                let running = self.start_cluster(spawner, &name, file);
                clusters.running.insert(name.clone(), running);
                Some(name)
            }
            Action::Update(name, file) => {
                if let Some(running) = clusters.running.get(&name) {
                    running.files.send_replace(file);
                }
                None
            }
            Action::Remove(name) => {
                info!(cluster = %name, "remote cluster no longer configured");
                if let Some(running) = clusters.running.remove(&name) {
                    self.remove_cluster(spawner, name, running);
                }
                None
            }
        }
    }

    fn start_cluster(&self, spawner: &Spawner, name: &ClusterName, file: Arc<PeerFile>) -> Running {
        let shared = &self.shared;
        let sinks = Arc::new(Sinks::new(name, &shared.settings));
        let record = Record::new(Arc::clone(&sinks));
        shared.board.change(|state| drop(state.remotes.insert(name.clone(), record)));
        let (files, receiver) = watch::channel(file);

        let local = Arc::clone(&shared.local);
        let writers = Arc::clone(&sinks);
        let write = spawner.spawn(format!("remote/{name}/write"), RESTART, move |stop| {
            let (writers, local) = (Arc::clone(&writers), Arc::clone(&local));
            async move { in_one_turn(writers.run(local.as_ref(), &stop)).await }
        });
        let remote = Remote {
            name: name.clone(),
            settings: Arc::clone(&shared.settings),
            dial: Arc::clone(&shared.dial),
            ids: Arc::clone(&shared.ids),
            local: Arc::clone(&shared.local),
            sinks,
            board: shared.board.clone(),
            files: receiver,
        };
        let read = spawner
            .spawn(format!("remote/{name}/read"), RESTART, move |stop| in_one_turn(remote.clone().run(stop)));
        Running { write, read, files }
    }

    fn remove_cluster(&self, spawner: &Spawner, name: ClusterName, running: Running) {
        let (mesh, again) = (self.clone(), spawner.clone());
        let running = Arc::new(running);
        self.shared.board.change(|state| {
            state.removing.insert(name.clone(), "stopping");
        });
        spawner.spawn(format!("remote/{name}/removal"), RETRY, move |stop| {
            let (mesh, again, name, running) =
                (mesh.clone(), again.clone(), name.clone(), Arc::clone(&running));
            async move {
                // Stopped, the rest goes when its leases end.
                stop.run_until_cancelled(mesh.remove(&again, &name, &running)).await;
                Ok::<(), Infallible>(())
            }
        });
    }

    async fn remove(&self, spawner: &Spawner, name: &ClusterName, running: &Running) {
        let shared = &self.shared;
        running.read.stop();
        running.read.ended().await;
        running.write.stop();
        running.write.ended().await;
        shared.board.change(|state| drop(state.remotes.remove(name)));
        let show = |stage| {
            shared.board.change(|state| {
                state.removing.insert(name.clone(), stage);
            });
        };
        if shared.settings.drain_on_removal {
            let times = (shared.settings.removal_grace, shared.settings.lease_ttl);
            remove(name, times, &shared.local, show).await;
        } else {
            let lasts = shared.settings.lease_ttl;
            warn!(cluster = %name, ?lasts, "what was mirrored is not removed, since that is switched off: it lasts as long as its leases");
        }
        shared.ids.lock().unwrap_or_else(PoisonError::into_inner).release(name);
        let mut clusters = self.clusters();
        shared.board.change(|state| {
            state.removing.remove(name);
        });
        if let Some(action) = clusters.slots.removed(name) {
            self.act(&mut clusters, spawner, action);
        }
    }

    /// Ready when every cluster of the start is mirrored once, or is not worth waiting for.
    fn await_readiness(&self, spawner: &Spawner, readiness: &Readiness, started: Vec<ClusterName>) {
        let guards: Vec<(ClusterName, ReadyGuard)> = started
            .into_iter()
            .map(|name| {
                let guard = readiness.guard(format!("remote/{name}"));
                (name, guard)
            })
            .collect();
        let (mesh, guards) = (self.clone(), Arc::new(guards));
        spawner.spawn("readiness", RETRY, move |stop| {
            let (mesh, guards) = (mesh.clone(), Arc::clone(&guards));
            async move {
                let all = join_all(guards.iter().map(|(name, guard)| mesh.await_cluster(name, guard)));
                let limit = mesh.shared.settings.global_ready_timeout;
                if let Some(Err(_late)) = stop.run_until_cancelled(timeout(limit, all)).await {
                    info!(?limit, "ready though not every remote cluster is mirrored");
                    guards.iter().for_each(|(_, guard)| guard.ready());
                }
                Ok::<(), Infallible>(())
            }
        });
    }

    async fn await_cluster(&self, name: &ClusterName, guard: &ReadyGuard) {
        let board = &self.shared.board;
        let Some(sinks) = board.read(|state| Some(Arc::clone(&state.remotes.get(name)?.sinks))) else {
            return guard.ready();
        };
        let complete = async {
            board.wait_for(|state| state.remotes.get(name).is_none_or(Record::was_complete)).await;
            sinks.wait_synced().await;
        };
        let limit = self.shared.settings.per_cluster_ready_timeout;
        let unreachable = async {
            sleep(limit).await;
            // Once connected, it is worth waiting for.
            board.wait_for(|state| state.remotes.get(name).is_none_or(|record| !record.was_connected)).await;
        };
        tokio::select! {
            () = complete => {}
            () = unreachable => info!(cluster = %name, ?limit, "not waiting for the remote cluster to be ready"),
        }
        guard.ready();
    }

    /// Renews the heartbeat of the local store until `stop`.
    async fn beat(self, stop: CancellationToken) -> Result<(), WriterError> {
        let mut standing = self.shared.standing.subscribe();
        let leads = standing.wait_for(|now| *now == Standing::Leads);
        if stop.run_until_cancelled(leads).await.is_none() {
            return Ok(());
        }
        let mut config = WriterConfig::single(Bytes::from_static(key::HEARTBEAT.as_bytes()));
        config.lease_ttl = Some(self.shared.settings.lease_ttl);
        config.remove_stale = false;
        let writer = SyncWriter::new(config);
        let beat = async {
            let mut ticks = interval(HEARTBEAT);
            loop {
                ticks.tick().await;
                writer.rewrite(&[], time_of_day());
            }
        };
        tokio::select! {
            ended = writer.run(self.shared.local.as_ref(), &stop) => ended,
            () = beat => Ok(()),
        }
    }

    fn clusters(&self) -> std::sync::MutexGuard<'_, Clusters> {
        // Each change is complete before anything that could panic.
        self.shared.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
