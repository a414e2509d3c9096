//! The connection to the local store, and the clusters found there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore::Client;
use kvstore::sync::{Change, FollowError, Follower};
use mesh_runtime::{Backoff, Chain, Restart, Spawner, Task, jitter};
use mesh_types::{ClusterName, LocalCluster, MirrorWord, Resource, key, mirror_word_key};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cluster::{Followed, Memory, Session};
use super::directory::{Directory, Evidence, Order};
use super::{ClusterEvent, Dial, DialError, Event, StoreEvent};

/// Batches between the follower and us.
const QUEUE: usize = 4;
/// Limit for asking the store who it is, which only `status` needs.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// How an [`Observer`] works.
#[derive(Clone, Debug)]
pub struct ObserverSettings {
    /// This cluster.
    pub local: LocalCluster,
    /// Which kinds to read.
    pub kinds: Vec<Resource>,
    /// How long a cluster is kept whose configuration is absent from the store without evidence that it was removed;
    /// zero is for ever.
    pub absent_grace: Duration,
    /// Waits between attempts to connect, and before a failed task of a cluster runs again.
    pub backoff: Backoff,
}

/// Finds the clusters in the local store and follows each in a task of its own.
pub struct Observer {
    settings: ObserverSettings,
    dial: Arc<dyn Dial>,
    out: mpsc::Sender<Vec<Event>>,
    spawner: Spawner,
    directory: Directory,
    tasks: BTreeMap<ClusterName, Task>,
    sessions: watch::Sender<Option<Session>>,
}

/// The consumer of the events is gone: shutting down.
struct Gone;

impl Observer {
    /// Observes the store behind `dial`; events go to `out`, tasks are called `cluster/<name>` below `spawner`.
    pub fn new(
        settings: ObserverSettings,
        dial: Arc<dyn Dial>,
        out: mpsc::Sender<Vec<Event>>,
        spawner: &Spawner,
    ) -> Self {
        Observer {
            directory: Directory::new(settings.local.clone(), settings.absent_grace),
            settings,
            dial,
            out,
            spawner: spawner.branch("cluster"),
            tasks: BTreeMap::new(),
            sessions: watch::Sender::new(None),
        }
    }

    /// Observes until `stop`, over all connections. Stopping withdraws nothing.
    ///
    /// # Errors
    /// None: every failure is retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let sessions = self.observe(&stop);
        stop.run_until_cancelled(sessions).await;
        // The supervisor may live longer, as where one only observes while it leads.
        self.tasks.values().for_each(Task::stop);
        for task in self.tasks.values() {
            task.ended().await;
        }
        Ok(())
    }

    async fn observe(&mut self, stop: &CancellationToken) {
        let mut follower = Follower::new(key::CLUSTER_CONFIG_PREFIX);
        let mut retry = self.settings.backoff.retry();
        let mut number = 0;
        loop {
            match self.connect().await {
                Ok(client) => {
                    retry.reset();
                    number += 1;
                    self.sessions.send_replace(Some(Session { client: Arc::clone(&client), number }));
                    if self.session(&*client, &mut follower, stop).await.is_err() {
                        return;
                    }
                    info!(
                        "the local store was replaced; keeping what is known until the new one is complete"
                    );
                }
                Err(error) => {
                    let error = Chain(&error).to_string();
                    warn!(%error, "no connection to the local store");
                    if self.tell(Event::Store(StoreEvent::Lost(error))).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(retry.next_delay(jitter())).await;
        }
    }

    async fn connect(&self) -> Result<Arc<dyn Client>, DialError> {
        let client = self.dial.dial().await?;
        // The first answer decides which store this client belongs to.
        client.get(key::HEARTBEAT.as_bytes()).await.map_err(DialError::Store)?;
        Ok(client)
    }

    /// Follows the cluster-configs until the client is spent.
    async fn session(
        &mut self,
        client: &dyn Client,
        follower: &mut Follower,
        stop: &CancellationToken,
    ) -> Result<(), Gone> {
        let status = timeout(STATUS_LIMIT, client.status()).await;
        let id = status.ok().and_then(Result::ok).map(|status| status.cluster_id);
        self.tell(Event::Store(StoreEvent::Connected(id))).await?;
        let (changes_in, mut changes) = mpsc::channel(QUEUE);
        let follow = async {
            let ended = follower.run(client, &changes_in, stop).await;
            drop(changes_in);
            ended
        };
        let consume = async {
            let mut listed = false;
            loop {
                let deadline = self.directory.next_deadline();
                tokio::select! {
                    batch = changes.recv() => match batch {
                        Some(batch) => self.consume(client, batch, &mut listed).await?,
                        None => return Ok(()),
                    },
                    () = sleep_until(deadline) => {
                        let orders = self.directory.on_deadline(Instant::now());
                        self.carry_out(orders).await?;
                    }
                }
            }
        };
        let (ended, consumed) = futures::future::join(follow, consume).await;
        consumed?;
        match ended {
            Err(FollowError::ClientSpent(_)) => Ok(()),
            Ok(()) | Err(_) => Err(Gone),
        }
    }

    /// `listed`: this connection has shown all configurations once.
    async fn consume(
        &mut self,
        client: &dyn Client,
        batch: Vec<Change>,
        listed: &mut bool,
    ) -> Result<(), Gone> {
        for change in batch {
            match change {
                Change::Put { key, value, .. } => {
                    let orders = self.directory.announce(&key, &value);
                    self.carry_out(orders).await?;
                }
                Change::Delete { key } => {
                    // What a store omits that is new is still being written to it, in whatever order.
                    let evidence = if *listed { evidence(client, &key).await } else { Evidence::None };
                    let orders = self.directory.withdraw(&key, evidence, Instant::now());
                    self.carry_out(orders).await?;
                }
                Change::ListDone { .. } => {
                    *listed = true;
                    self.tell(Event::Store(StoreEvent::Listed)).await?;
                }
                Change::Lost { error } => {
                    let error = Chain(&*error).to_string();
                    self.tell(Event::Store(StoreEvent::Lost(error))).await?;
                }
                Change::Resumed { .. } => self.tell(Event::Store(StoreEvent::Resumed)).await?,
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, orders: Vec<Order>) -> Result<(), Gone> {
        for order in orders {
            let event = match order {
                Order::Start(peer, config) => {
                    let memory = Arc::new(Memory::new(&peer, &self.settings.kinds));
                    let name = peer.name.clone();
                    info!(cluster = %name, id = %peer.id, "following cluster");
                    let followed =
                        Followed { peer, config, sessions: self.sessions.subscribe(), out: self.out.clone() };
                    let task =
                        self.spawner.spawn(&name, Restart::WithBackoff(self.settings.backoff), move |stop| {
                            followed.clone().run(Arc::clone(&memory), stop)
                        });
                    self.tasks.insert(name, task);
                    continue;
                }
                Order::Drain(name) => {
                    // Once it has ended, nothing of the cluster comes after the word that it is gone.
                    if let Some(task) = self.tasks.remove(&name) {
                        info!(cluster = %name, "withdrawing cluster");
                        task.stop();
                        task.ended().await;
                    }
                    Event::Cluster(name, ClusterEvent::Removed)
                }
                Order::Show(name, standing) => Event::Cluster(name, ClusterEvent::Standing(standing)),
                Order::Refuse(key, refused) => Event::Config { key, refused },
                Order::OwnSeen => Event::Store(StoreEvent::OwnConfig),
            };
            self.tell(event).await?;
        }
        Ok(())
    }

    async fn tell(&self, event: Event) -> Result<(), Gone> {
        self.out.send(vec![event]).await.map_err(|_closed| Gone)
    }
}

/// Whether the mirror removed the cluster whose configuration is gone: it says so in the same write.
///
/// That canaries still stand would be none: each hangs on a lease of its own, so of a mirror that died they may end later than
/// the configuration. Cilium's mirror says nothing, and a store that does not answer neither; then the grace decides.
async fn evidence(client: &dyn Client, key: &[u8]) -> Evidence {
    let Some(name) = std::str::from_utf8(key).ok().and_then(|name| name.parse::<ClusterName>().ok()) else {
        return Evidence::None;
    };
    let word = client.get(mirror_word_key(&name).as_bytes()).await.ok().flatten();
    if !word.is_some_and(|word| MirrorWord::decode(&word.value).is_ok_and(|word| word.removed)) {
        return Evidence::None;
    }
    // Asked for last: the cluster may have come back meanwhile.
    match client.get(key::cluster_config(&name).as_bytes()).await {
        Ok(None) => Evidence::Removed,
        Ok(Some(_)) | Err(_) => Evidence::None,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
