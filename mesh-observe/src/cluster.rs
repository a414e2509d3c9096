//! One cluster: its canaries, and its kinds behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use kvstore::sync::{Change, FollowError, Follower};
use kvstore::{Client, KeyRange, Revision};
use mesh_runtime::{Backoff, Chain, jitter};
use mesh_types::{ClusterConfig, Form, Peer, Rejection, Resource, key};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::decode::{decode, decode_key};
use super::gate::Gate;
use super::{ClusterEvent, Event};

/// Batches between a follower and its consumer; when it is full the follower waits.
const QUEUE: usize = 4;
/// Waits between questions for a canary that the store does not answer.
const ASK_AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// A connection to the local store.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<dyn Client>,
    /// Tells connections apart.
    pub(crate) number: u64,
}

/// The session at present; `None` before the first.
pub(crate) type Sessions = watch::Receiver<Option<Session>>;

/// A cluster that is followed.
#[derive(Clone, Debug)]
pub(crate) struct Followed {
    pub(crate) peer: Peer,
    pub(crate) config: ClusterConfig,
    pub(crate) sessions: Sessions,
    pub(crate) out: mpsc::Sender<Vec<Event>>,
}

/// What is known of a cluster across connections and restarts of its task.
#[derive(Debug)]
pub(crate) struct Memory {
    canaries: Mutex<Follower>,
    kinds: BTreeMap<Resource, Mutex<(Follower, Gate)>>,
}

/// The canaries of the session `number`, and when each came into being.
#[derive(Clone, Debug, Default)]
struct Canaries {
    number: u64,
    written: BTreeMap<Resource, Revision>,
}

/// The consumer of the events is gone: shutting down.
struct Gone;

impl Memory {
    pub(crate) fn new(peer: &Peer, kinds: &[Resource]) -> Self {
        let kind = |kind: Resource| {
            let follower = Follower::new(kind.prefix(Form::Cache, &peer.name));
            (kind, Mutex::new((follower, Gate::default())))
        };
        Memory {
            canaries: Mutex::new(Follower::new(key::synced_prefix(&peer.name))),
            kinds: kinds.iter().copied().map(kind).collect(),
        }
    }
}

impl Followed {
    /// Follows the cluster over all sessions until `stop`, which withdraws nothing.
    pub(crate) async fn run(self, memory: Arc<Memory>, stop: CancellationToken) -> Result<(), Infallible> {
        let (canaries_in, canaries) = watch::channel(Canaries::default());
        let kinds =
            memory.kinds.iter().map(|(kind, state)| self.follow_kind(*kind, state, canaries.clone(), &stop));
        let all = futures::future::join(
            self.follow_canaries(&memory.canaries, &canaries_in, &stop),
            join_all(kinds),
        );
        stop.run_until_cancelled(all).await;
        Ok(())
    }

    /// The kind whose canary says that the mirror has written all of `kind`; `None` if nothing says so.
    ///
    /// A mirror that is older than a kind has no canary for it. Slices of a peer that does not announce them are not
    /// expected; that the services are complete then tells the store from one that is new and still empty.
    fn vouched_by(&self, kind: Resource) -> Option<Resource> {
        let capabilities = &self.config.capabilities;
        let by = match kind {
            Resource::ServiceExports => capabilities.service_exports_enabled.is_some().then_some(kind),
            Resource::EndpointSlices if capabilities.endpoint_slices_export_mode.is_empty() => {
                Some(Resource::Services)
            }
            Resource::Nodes
            | Resource::Ip
            | Resource::Identities
            | Resource::Services
            | Resource::EndpointSlices => Some(kind),
        };
        by.filter(|_| capabilities.synced_canaries)
    }

    /// The session after the one called `after`.
    async fn next_session(sessions: &mut Sessions, after: u64) -> Option<Session> {
        let newer =
            |session: &Option<Session>| session.as_ref().is_some_and(|session| session.number > after);
        sessions.wait_for(newer).await.ok().and_then(|session| session.clone())
    }

    async fn follow_canaries(
        &self,
        follower: &Mutex<Follower>,
        canaries: &watch::Sender<Canaries>,
        stop: &CancellationToken,
    ) {
        let mut follower = follower.lock().await;
        let mut sessions = self.sessions.clone();
        let mut last = 0;
        while let Some(session) = Self::next_session(&mut sessions, last).await {
            last = session.number;
            canaries.send_replace(Canaries { number: session.number, written: BTreeMap::new() });
            let (changes_in, mut changes) = mpsc::channel::<Vec<Change>>(QUEUE);
            let follow = async {
                let ended = follower.run(&*session.client, &changes_in, stop).await;
                drop(changes_in);
                ended
            };
            let note = async {
                while let Some(batch) = changes.recv().await {
                    canaries.send_modify(|canaries| batch.iter().for_each(|change| canaries.note(change)));
                }
            };
            let (ended, ()) = futures::future::join(follow, note).await;
            if ended.is_ok() {
                return;
            }
        }
    }

    async fn follow_kind(
        &self,
        kind: Resource,
        state: &Mutex<(Follower, Gate)>,
        mut canaries: watch::Receiver<Canaries>,
        stop: &CancellationToken,
    ) {
        let mut state = state.lock().await;
        let (follower, gate) = &mut *state;
        let mut sessions = self.sessions.clone();
        let mut last = 0;
        while let Some(session) = Self::next_session(&mut sessions, last).await {
            last = session.number;
            let mut canary = None;
            let by = self.vouched_by(kind);
            if let Some(by) = by {
                debug!(cluster = %self.peer.name, %kind, "waiting for the canary");
                let stands = |now: &Canaries| now.number == session.number && now.written.contains_key(&by);
                let newer =
                    |session: &Option<Session>| session.as_ref().is_some_and(|next| next.number > last);
                tokio::select! {
                    stands = canaries.wait_for(stands) => match stands {
                        Ok(now) => canary = now.written.get(&by).copied(),
                        Err(_over) => return,
                    },
                    // The store was replaced once more before the canary came.
                    next = sessions.wait_for(newer) => if next.is_err() { return } else { continue },
                }
            }
            gate.begin();
            let (changes_in, changes) = mpsc::channel(QUEUE);
            let follow = async {
                let ended = follower.run(&*session.client, &changes_in, stop).await;
                drop(changes_in);
                ended
            };
            let consume = self.consume(kind, gate, changes, &mut canaries, canary, &*session.client);
            match futures::future::join(follow, consume).await {
                (Err(FollowError::ClientSpent(_)), Ok(())) => {}
                (_, Err(Gone)) | (Ok(()) | Err(_), Ok(())) => return,
            }
        }
    }

    /// Consumes what the follower says in one session, whose list began under `canary`.
    async fn consume(
        &self,
        kind: Resource,
        gate: &mut Gate,
        mut changes: mpsc::Receiver<Vec<Change>>,
        canaries: &mut watch::Receiver<Canaries>,
        mut canary: Option<Revision>,
        client: &dyn Client,
    ) -> Result<(), Gone> {
        loop {
            let before = gate.held();
            let mut passed = Vec::new();
            let found = tokio::select! {
                batch = changes.recv() => {
                    let Some(batch) = batch else { return Ok(()) };
                    let vanished = self.vouched_by(kind).is_some_and(|by| !canaries.borrow().written.contains_key(&by));
                    let found = if gate.must_ask(&batch, vanished) { self.canary(client, kind).await } else { canary };
                    let unbroken = self.vouched_by(kind).is_none() || (found.is_some() && found == canary);
                    passed = gate.pass(batch, unbroken);
                    if gate.held() > before {
                        let (cluster, held) = (&self.peer.name, gate.held());
                        warn!(%cluster, %kind, held, "keys vanished together with their canary; holding them until it is back");
                    }
                    found.filter(|_| !unbroken)
                }
                written = written_anew(canaries, self.vouched_by(kind).unwrap_or(kind), canary), if before > 0 => {
                    // Asked of the store itself, since the watch of the canaries may lag behind.
                    let found = self.canary(client, kind).await;
                    canary = found.or(Some(written));
                    found
                }
            };
            if found.is_some() && gate.held() > 0 {
                // The mirror has filled the store again, perhaps further than the follower has come.
                canary = found;
                if let Some(present) = self.present(client, kind).await {
                    info!(cluster = %self.peer.name, %kind, held = gate.held(), "the mirror is back");
                    passed.extend(gate.settle(&present));
                }
            }
            let mut events: Vec<_> = passed.into_iter().map(|change| self.event(kind, change)).collect();
            if gate.held() != before {
                events.push(ClusterEvent::Withheld { kind, keys: gate.held() });
            }
            let events =
                events.into_iter().map(|event| Event::Cluster(self.peer.name.clone(), event)).collect();
            self.out.send(events).await.map_err(|_closed| Gone)?;
        }
    }

    /// When the canary of the kind came into being, if it stands: the mirror says that its copy is complete.
    async fn canary(&self, client: &dyn Client, kind: Resource) -> Option<Revision> {
        let canary = self.vouched_by(kind).unwrap_or(kind).canary(Form::Cache, &self.peer.name);
        let found = self.insist(client, kind, || client.get(canary.as_bytes())).await;
        found.flatten().map(|canary| canary.create_revision)
    }

    /// The keys that the store has of the kind, after the prefix.
    async fn present(&self, client: &dyn Client, kind: Resource) -> Option<BTreeSet<Bytes>> {
        let prefix = Bytes::from(kind.prefix(Form::Cache, &self.peer.name));
        let page_size = client.limits().page.unwrap_or(0);
        let (mut range, mut at) = (KeyRange::prefix(prefix.clone()), None);
        let mut present = BTreeSet::new();
        loop {
            let page = self.insist(client, kind, || client.list(&range, page_size, at)).await?;
            present.extend(page.kvs.iter().map(|kv| kv.key.slice(prefix.len()..)));
            at.get_or_insert(page.revision);
            match page.kvs.last() {
                Some(last) if page.more => range = range.after(&last.key),
                Some(_) | None => return Some(present),
            }
        }
    }

    /// Asks until the store answers; `None` if this client never will.
    async fn insist<'a, T>(
        &self,
        client: &dyn Client,
        kind: Resource,
        ask: impl Fn() -> BoxFuture<'a, Result<T, kvstore::Error>>,
    ) -> Option<T> {
        let mut retry = ASK_AGAIN.retry();
        loop {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    debug!(cluster = %self.peer.name, %kind, error = %Chain(&error), "the store does not say");
                }
            }
            if client.is_spent() {
                return None;
            }
            tokio::time::sleep(retry.next_delay(jitter())).await;
        }
    }

    fn event(&self, kind: Resource, change: Change) -> ClusterEvent {
        match change {
            Change::Put { key, value, .. } => match decode(kind, &key, &value, &self.peer) {
                Ok(item) => ClusterEvent::Put { key, item },
                Err(refused) => ClusterEvent::Rejected { kind, key, refused },
            },
            Change::Delete { key } => {
                let never_accepted = |_: Rejection| ();
                let item = decode_key(kind, &key, &self.peer).map_err(never_accepted).ok();
                ClusterEvent::Gone { kind, key, item }
            }
            Change::ListDone { .. } => ClusterEvent::Synced(kind),
            Change::Lost { error } => ClusterEvent::Lost { kind, error: Chain(&*error).to_string() },
            Change::Resumed { .. } => ClusterEvent::Resumed(kind),
        }
    }
}

impl Canaries {
    fn note(&mut self, change: &Change) {
        let kind_of = |key: &[u8]| {
            let found = Resource::from_canary_name(std::str::from_utf8(key).ok()?);
            found.filter(|(_, form)| *form == Form::Cache).map(|(kind, _)| kind)
        };
        match change {
            Change::Put { key, create_revision, .. } => {
                self.written.extend(kind_of(key).map(|kind| (kind, *create_revision)));
            }
            Change::Delete { key } => {
                if let Some(kind) = kind_of(key) {
                    self.written.remove(&kind);
                }
            }
            Change::ListDone { .. } | Change::Lost { .. } | Change::Resumed { .. } => {}
        }
    }
}

/// Waits for a canary of `kind` that came into being after `before`, and returns when that was; for ever if nobody
/// watches canaries any more.
async fn written_anew(
    canaries: &mut watch::Receiver<Canaries>,
    kind: Resource,
    before: Option<Revision>,
) -> Revision {
    let anew = |now: &Canaries| now.written.get(&kind).copied().filter(|written| Some(*written) > before);
    let written = match canaries.wait_for(|now| anew(now).is_some()).await {
        Ok(now) => anew(&now),
        Err(_over) => None,
    };
    match written {
        Some(written) => written,
        None => std::future::pending().await,
    }
}
