//! The one task that owns the tables: events in, answers and desired states out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mesh_runtime::ReadyGuard;
use mesh_types::ClusterName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::render;
use crate::api::schema::Status;
use crate::followed::Names;
use crate::services::MergedServices;
use crate::tables::{LocalEvent, Tables};
use mesh_observe::Event;

/// Batches of events that are taken together before anything is computed from them.
const TAKE: usize = 32;
/// Questions that wait for the tables.
const QUESTIONS: usize = 16;
/// How often the numbers for metrics are taken at most.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

type Question = Box<dyn FnOnce(&Tables) + Send>;

/// Asks the tables; clones ask the same ones.
#[derive(Clone, Debug)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
}

impl Handle {
    /// What `read` makes of the tables, between two changes of them; `None` if the agent is shutting down.
    pub async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Tables) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |tables| {
            // Whoever asked may have gone; then nobody wants the answer.
            drop(answer.send(read(tables)));
        });
        self.questions.send(question).await.ok()?;
        answered.await.ok()
    }
}

/// The services that shall be in effect.
#[derive(Clone, Debug, Default)]
pub(crate) struct DesiredServices {
    /// All of them.
    pub(crate) services: Arc<MergedServices>,
    /// Of what is known nothing is missing: they may be written where nothing is in effect yet.
    pub(crate) whole: bool,
    /// They are all there are: what is not among them may be taken away.
    pub(crate) complete: bool,
}

/// What the tables wait for before they count as complete.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// How long at most.
    pub(crate) sync_timeout: Duration,
    /// Clusters that an earlier life followed.
    pub(crate) expected: BTreeSet<ClusterName>,
}

/// A sign that nodes or addresses changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Grows with each change.
    pub(crate) revision: u64,
    /// They are all there are: what is not among them may be taken away.
    pub(crate) complete: bool,
}

/// Receivers of what the tables amount to.
#[derive(Clone, Debug)]
pub(crate) struct Outputs {
    /// For the datapath.
    pub(crate) services: watch::Receiver<DesiredServices>,
    /// For encryption.
    pub(crate) addresses: watch::Receiver<Addresses>,
    /// For the next life.
    pub(crate) followed: watch::Receiver<Names>,
    /// For metrics and `status`; as fresh as [`STATUS_INTERVAL`].
    pub(crate) status: watch::Receiver<Arc<Status>>,
}

/// The task.
pub(crate) struct Engine {
    tables: Tables,
    events: mpsc::Receiver<Vec<Event>>,
    local: mpsc::Receiver<Vec<LocalEvent>>,
    questions: mpsc::Receiver<Question>,
    services: watch::Sender<DesiredServices>,
    addresses: watch::Sender<Addresses>,
    followed: watch::Sender<Names>,
    status: watch::Sender<Arc<Status>>,
    ready: ReadyGuard,
    is_ready: bool,
    patience: Patience,
}

impl Engine {
    /// An engine for `tables`; it says `ready` when all is complete or its `patience` is over.
    pub(crate) fn new(
        tables: Tables,
        events: mpsc::Receiver<Vec<Event>>,
        local: mpsc::Receiver<Vec<LocalEvent>>,
        ready: ReadyGuard,
        patience: Patience,
    ) -> (Self, Handle, Outputs) {
        let (questions_in, questions) = mpsc::channel(QUESTIONS);
        let (services, services_out) = watch::channel(DesiredServices::default());
        let (addresses, addresses_out) = watch::channel(Addresses::default());
        let (status, status_out) = watch::channel(Arc::new(render::status(&tables, Timestamp::now())));
        let (followed, followed_out) = watch::channel(Arc::new(patience.expected.clone()));
        let outputs = Outputs {
            services: services_out,
            addresses: addresses_out,
            followed: followed_out,
            status: status_out,
        };
        let engine = Engine {
            tables,
            events,
            local,
            questions,
            services,
            addresses,
            followed,
            status,
            ready,
            is_ready: false,
            patience,
        };
        (engine, Handle { questions: questions_in }, outputs)
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// None.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let give_up = Instant::now() + self.patience.sync_timeout;
        let mut given_up = false;
        let mut next_status: Option<Instant> = None;
        let (mut events, mut local) = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                taken = self.events.recv_many(&mut events, TAKE), if !self.events.is_closed() => {
                    if taken == 0 {
                        continue;
                    }
                }
                taken = self.local.recv_many(&mut local, TAKE), if !self.local.is_closed() => {
                    if taken == 0 {
                        continue;
                    }
                }
                Some(question) = self.questions.recv() => {
                    question(&self.tables);
                    continue;
                }
                () = sleep_until(give_up), if !given_up => {
                    given_up = true;
                    self.give_up();
                }
                () = sleep_until(next_status.unwrap_or(give_up)), if next_status.is_some() => {
                    next_status = None;
                    self.publish_status();
                    continue;
                }
            }
            let now = Timestamp::now();
            events.drain(..).flatten().for_each(|event| self.tables.apply(event, now));
            local.drain(..).flatten().for_each(|event| self.tables.apply_local(event));
            self.publish(given_up);
            next_status.get_or_insert_with(|| Instant::now() + STATUS_INTERVAL);
        }
    }

    fn give_up(&mut self) {
        let mut pending = self.tables.pending();
        pending.extend(self.to_come().map(|name| format!("cluster/{name}")));
        if !pending.is_empty() {
            warn!(pending = pending.join(", "), waited = ?self.patience.sync_timeout, "not complete in time; going on without");
        }
    }

    /// The clusters that an earlier life followed, and this one has not heard of.
    fn to_come(&self) -> impl Iterator<Item = &ClusterName> {
        self.patience.expected.iter().filter(|name| !self.tables.clusters.contains_key(*name))
    }

    fn publish(&mut self, given_up: bool) {
        for (key, refused) in self.tables.take_news() {
            let (cluster, kind, key, reason) = (key.cluster, key.kind, key.key, refused.reason);
            warn!(cluster, kind, key, %reason, detail = refused.detail, "not accepted; what was known before stays");
        }
        let changed = self.tables.settle_services();
        let tables = &self.tables;
        // As long as no other cluster is known the mirror may not have begun; and it may not have come to those yet that
        // an earlier life knew.
        let known = || !tables.clusters.is_empty() && self.to_come().next().is_none();
        self.services.send_if_modified(|desired| {
            let before = (desired.whole, desired.complete);
            if !desired.complete {
                desired.whole |= given_up || tables.services_complete();
                desired.complete = given_up || (tables.services_complete() && known());
            }
            if changed {
                desired.services = Arc::new(tables.services.merged().clone());
            }
            changed || before != (desired.whole, desired.complete)
        });
        self.addresses.send_if_modified(|addresses| {
            let before = *addresses;
            addresses.revision = tables.revision();
            addresses.complete = before.complete || given_up || (tables.addresses_complete() && known());
            *addresses != before
        });
        let is_complete = self.services.borrow().complete && self.addresses.borrow().complete;
        self.followed.send_if_modified(|names| {
            let now =
                || tables.clusters.iter().filter(|(_, cluster)| cluster.is_followed()).map(|(name, _)| name);
            // Until all are here the next life is to wait for what this one waits for.
            let news =
                if is_complete { !now().eq(names.iter()) } else { now().any(|name| !names.contains(name)) };
            if news {
                let kept = if is_complete { BTreeSet::new() } else { BTreeSet::clone(names) };
                *names = Arc::new(kept.into_iter().chain(now().cloned()).collect());
            }
            news
        });
        if !self.is_ready && (given_up || tables.pending().is_empty()) {
            self.is_ready = true;
            info!(clusters = tables.clusters.len(), complete = !given_up, "ready");
            self.ready.ready();
            self.publish_status();
        }
    }

    fn publish_status(&self) {
        let status = Status { ready: self.is_ready, ..render::status(&self.tables, Timestamp::now()) };
        self.status.send_replace(Arc::new(status));
    }
}
