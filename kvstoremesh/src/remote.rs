//! The connection to one remote cluster: connect, validate, mirror, and again after every end.
//!
//! ```text
//!   connect ─▶ heartbeat listed ─▶ cluster-config read ─▶ accepted, announced ─▶ per kind: canary ─▶ list ─▶ watch
//!      ▲             │ silent for 2 min                         │ refused: wait for another
//!      └── backoff ──┴── store replaced, connection refused     └── (nothing of what is mirrored is touched)
//! ```

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use kvstore::sync::{Change, FollowError, Follower};
use kvstore::{Client, Error, EtcdClient, EtcdConfig, KeyRange};
use mesh_runtime::jitter;
use mesh_types::{ClusterConfig, ClusterName, Form, Peer, Reason, Rejection, Resource, key};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::Settings;
use crate::board::Board;
use crate::config::PeerFile;
use crate::error::{explain_first, explain_follow, explain_return, explain_watch};
use crate::ids::Ids;
use crate::latency;
use crate::liveness::Liveness;
use crate::record::{Phase, Record};
use crate::resource::{KINDS, is_offered};
use crate::sinks::Sinks;

mod adopt;
mod announced;
mod mirror;
mod time;

pub(crate) use time::contact;

/// Limit for the first answer of a store.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// Limit for asking the store who it is, which only `status` needs.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// Batches between a follower and us; when it is full the follower waits, and the peer's store bounds the rest.
const QUEUE: usize = 4;

/// How a peer's store is connected to. Tests put stores of their own behind it.
pub trait Dial: Send + Sync + 'static {
    /// A new client, which stays with the store that answers it first.
    fn dial<'a>(&'a self, config: &'a EtcdConfig) -> BoxFuture<'a, Result<Arc<dyn Client>, Error>>;
}

/// Over the network, with the certificates that the configuration names.
#[derive(Clone, Copy, Debug, Default)]
pub struct EtcdDial;

impl Dial for EtcdDial {
    fn dial<'a>(&'a self, config: &'a EtcdConfig) -> BoxFuture<'a, Result<Arc<dyn Client>, Error>> {
        Box::pin(async move { Ok(Arc::new(EtcdClient::new(config.clone())?) as Arc<dyn Client>) })
    }
}

/// The reading side of one remote cluster.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) name: ClusterName,
    pub(crate) settings: Arc<Settings>,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) ids: Arc<Mutex<Ids>>,
    /// The store of the local cluster.
    pub(crate) local: Arc<dyn Client>,
    pub(crate) sinks: Arc<Sinks>,
    pub(crate) board: Board,
    pub(crate) files: watch::Receiver<Arc<PeerFile>>,
}

impl Remote {
    /// Connects and mirrors until `stop`, which deletes nothing.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        if stop.run_until_cancelled(self.adopt()).await.is_none() {
            return Ok(());
        }
        let time = self.clone();
        let keep_time = async move { match time.keep_time().await {} };
        first_of([self.connect_again_and_again(stop).boxed(), keep_time.boxed()]).await
    }

    async fn connect_again_and_again(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut retry = self.settings.backoff.retry();
        loop {
            let file = Arc::clone(&self.files.borrow_and_update());
            self.record(|record| record.endpoints.clone_from(&file.etcd.config.endpoints));
            let mut files = self.files.clone();
            let begun = Instant::now();
            let trouble = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = changed(&mut files) => {
                    info!(cluster = %self.name, "configuration changed, connecting again");
                    self.cut(Instant::now());
                    retry.reset();
                    continue;
                }
                trouble = self.session(&file.etcd.config) => trouble,
            };
            self.record(|record| record.interrupted(trouble.clone(), SystemTime::now()));
            self.cut(Instant::now());
            // One that is accepted and then refuses at once is no success.
            if begun.elapsed() >= self.settings.backoff.longest() {
                retry.reset();
            }
            let delay = retry.next_delay(jitter());
            let Rejection { reason, detail } = trouble;
            warn!(cluster = %self.name, %reason, detail, ?delay, "no contact with the remote cluster, what is known of it stays");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = changed(&mut files) => retry.reset(),
                () = sleep(delay) => {}
            }
        }
    }

    /// One connection, until it ends; returns why.
    async fn session(&self, config: &EtcdConfig) -> Rejection {
        match self.connect(config).await {
            Err(trouble) => trouble,
            Ok(client) => {
                let client = client.as_ref();
                let heartbeat = self.watch_heartbeat(client, config.tls.is_some());
                first_of([heartbeat.boxed(), self.obey(client).boxed()]).await
            }
        }
    }

    /// A client whose store has listed the heartbeat, which every peer may read.
    async fn connect(&self, config: &EtcdConfig) -> Result<Arc<dyn Client>, Rejection> {
        let too_late = |_elapsed| {
            Rejection::new(Reason::PeerUnreachable, format!("no answer within {} s", CONNECT_LIMIT.as_secs()))
        };
        let over_tls = config.tls.is_some();
        let connected = async {
            let client = self.dial.dial(config).await?;
            client.list(&KeyRange::prefix(key::HEARTBEAT), 1, None).await?;
            Ok::<_, Error>(client)
        };
        let client = timeout(CONNECT_LIMIT, connected)
            .await
            .map_err(too_late)?
            .map_err(|error| explain_first(&error, over_tls))?;
        let status = timeout(STATUS_LIMIT, client.status()).await;
        let store_id = status.ok().and_then(Result::ok).map(|status| status.cluster_id);
        info!(cluster = %self.name, store_id = store_id.map(|id| format!("{id:x}")), "connected to the remote cluster");
        self.sinks.timing().reset();
        self.record(|record| record.connected(store_id));
        Ok(client)
    }

    /// Ends when the store's owner was silent for too long.
    async fn watch_heartbeat(&self, client: &dyn Client, over_tls: bool) -> Rejection {
        let limit = self.settings.heartbeat_timeout;
        let mut liveness = Liveness::new(Instant::now(), limit);
        let mut listed = false;
        let mut feed = Feed::new(client, key::HEARTBEAT.to_owned());
        loop {
            let batch = tokio::select! {
                batch = feed.next() => batch,
                () = sleep_until(liveness.deadline().into()) => {
                    let what = format!("the heartbeat has not changed for {} s; expected every 60 s", limit.as_secs());
                    return Rejection::new(Reason::HeartbeatMissing, what);
                }
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(trouble) => return trouble,
            };
            let now = Instant::now();
            for change in batch {
                match change {
                    Change::Put { mod_revision, value, .. } if liveness.beat(mod_revision, now) => {
                        // What a list names may have been written long ago.
                        let late = listed.then(|| latency::behind(&value, SystemTime::now())).flatten();
                        self.record(|record| record.heartbeat(now, late));
                    }
                    Change::Lost { error } => {
                        // The end of what stood, or of an attempt to have it back.
                        let stood = std::mem::replace(&mut listed, false);
                        let trouble =
                            if stood { explain_watch(&error) } else { explain_return(&error, over_tls) };
                        self.record(|record| record.interrupted(trouble, SystemTime::now()));
                    }
                    Change::ListDone { .. } | Change::Resumed { .. } => {
                        listed = true;
                        self.record(|record| {
                            if !record.connected {
                                record.connected(None)
                            }
                        });
                    }
                    Change::Put { .. } | Change::Delete { .. } => {}
                }
            }
        }
    }

    /// Does what the peer's cluster-config says, whenever it says something new.
    async fn obey(&self, client: &dyn Client) -> Rejection {
        let (publish, mut announced) = watch::channel(None);
        let read = announced::follow(client, &self.name, &publish, || {
            self.not_accepted(announced::missing(&self.name))
        });
        let act = async {
            let mut retry = self.settings.backoff.retry();
            loop {
                let Some(bytes) = announced.borrow_and_update().clone() else {
                    changed(&mut announced).await;
                    continue;
                };
                match self.accept(&bytes).await {
                    Ok(config) => {
                        retry.reset();
                        tokio::select! {
                            trouble = self.mirror_all(client, &config) => return trouble,
                            () = changed(&mut announced) => info!(cluster = %self.name, "cluster-config changed"),
                        }
                    }
                    Err(trouble) => {
                        self.not_accepted(trouble);
                        // An id that is in use may become free.
                        tokio::select! {
                            () = sleep(retry.next_delay(jitter())) => {}
                            () = changed(&mut announced) => {}
                        }
                    }
                }
            }
        };
        first_of([read.boxed(), act.boxed()]).await
    }

    /// Validates what the peer announces, takes its id, and announces it to the readers of the local store.
    async fn accept(&self, bytes: &[u8]) -> Result<ClusterConfig, Rejection> {
        let config = ClusterConfig::decode(bytes)?;
        let peer = Peer::accept(&self.settings.local, &self.name, &config)?;
        let others = self.ids().reserve(&peer)?;
        if !others.is_empty() {
            // Readers must not see entries of the old id under the new one.
            warn!(cluster = %self.name, held = ?others, id = %peer.id, "the remote cluster has another id, removing what it had under the old one");
            self.sinks.drain(Instant::now()).await;
            self.ids().keep_only(&peer);
        }
        self.sinks.announce(&config).await;
        self.sinks.keep_all(|keeper, _| keeper.found());
        self.record(|record| record.accepted(config.clone()));
        info!(cluster = %self.name, id = %peer.id, "remote cluster accepted");
        Ok(config)
    }

    /// Mirrors every kind that the peer offers; returns when the first of them cannot go on.
    async fn mirror_all(&self, client: &dyn Client, config: &ClusterConfig) -> Rejection {
        let form = Form::of(config);
        let canaries = watch::Sender::default();
        let offered = |kind: &Resource| is_offered(*kind, &config.capabilities);
        for kind in KINDS.into_iter().filter(|kind| !offered(kind)) {
            self.sinks.keep(kind, |keeper, writer| keeper.not_offered(Instant::now(), writer));
            self.record(|record| record.view(kind).not_offered());
        }
        let kinds = KINDS.into_iter().filter(offered).map(|kind| {
            let canaries = config.capabilities.synced_canaries.then(|| canaries.subscribe());
            self.mirror(client, kind, form, canaries).boxed()
        });
        let read_canaries = async {
            if !config.capabilities.synced_canaries {
                return std::future::pending().await;
            }
            let mut feed = Feed::new(client, key::synced_prefix(&self.name));
            loop {
                match feed.next().await {
                    Ok(batch) => self.note_synced(&canaries, batch),
                    Err(trouble) => return trouble,
                }
            }
        };
        first_of(kinds.chain([read_canaries.boxed()])).await
    }

    /// The connection is gone; everything that was mirrored stays.
    fn cut(&self, now: Instant) {
        self.record(|record| record.disconnected(now));
        self.sinks.keep_all(|keeper, writer| keeper.disconnected(now, writer));
        self.sinks.stir();
    }

    /// The peer is not (any more) what it should be: what is known of it is kept as if it could not be reached.
    fn not_accepted(&self, trouble: Rejection) {
        self.refuse(trouble);
        let now = Instant::now();
        self.record(|record| record.wait(Phase::Refused, now));
        self.sinks.keep_all(|keeper, writer| keeper.disconnected(now, writer));
        self.sinks.stir();
    }

    fn refuse(&self, trouble: Rejection) {
        let news = self.record(|record| {
            let news = record.trouble.as_ref() != Some(&trouble);
            record.trouble(trouble.clone());
            news
        });
        let Rejection { reason, detail } = trouble;
        if news == Some(true) {
            warn!(cluster = %self.name, %reason, detail, "remote cluster not accepted, what is known of it stays");
        } else {
            debug!(cluster = %self.name, %reason, detail, "remote cluster still not accepted");
        }
    }

    fn record<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        self.board.remote(&self.name, change)
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, Ids> {
        // Nothing in `Ids` panics half-way through a change.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns at the next change; never, when nobody can change it any more.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the first of some futures returns. Only those that are woken are polled: of a peer with a watch for each kind, the
/// heartbeat and more, mostly one has news.
async fn first_of<'a, T>(futures: impl IntoIterator<Item = BoxFuture<'a, T>>) -> T {
    let mut running: FuturesUnordered<_> = futures.into_iter().collect();
    match running.next().await {
        Some(ended) => ended,
        None => std::future::pending().await,
    }
}

/// What a follower says, as it says it.
struct Feed<'a> {
    batches: mpsc::Receiver<Vec<Change>>,
    run: BoxFuture<'a, Result<(), FollowError>>,
}

impl<'a> Feed<'a> {
    /// Nothing runs before [`Self::next`] is polled; dropped, it ends.
    fn new(client: &'a dyn Client, prefix: impl Into<Bytes> + Send + 'a) -> Self {
        let (out, batches) = mpsc::channel(QUEUE);
        let run = Box::pin(async move {
            // What is known across connections is in the writers.
            let mut follower = Follower::forgetful(prefix);
            follower.run(client, &out, &CancellationToken::new()).await
        });
        Self { batches, run }
    }

    /// The next batch, or why there will be none. Not to be called after an error.
    async fn next(&mut self) -> Result<Vec<Change>, Rejection> {
        poll_fn(|context| {
            // Batches come from nowhere but the polls of `run`, so that nobody needs to be woken for them.
            if let Ok(batch) = self.batches.try_recv() {
                return Poll::Ready(Ok(batch));
            }
            match self.run.poll_unpin(context) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(explain_follow(&error))),
                Poll::Ready(Ok(())) => Poll::Ready(Err(Rejection::new(Reason::PeerDisconnected, "stopped"))),
                Poll::Pending => {
                    self.batches.try_recv().map_or(Poll::Pending, |batch| Poll::Ready(Ok(batch)))
                }
            }
        })
        .await
    }
}
