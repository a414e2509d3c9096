//! What `status` and the metrics read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use kube_watch::{WatchState, WatchStatus};
use kvstore::sync::{SyncWriter, WriterStatus};
use mesh_runtime::Chain;
use mesh_types::{LocalCluster, Reason, Resource};
use serde::Serialize;

use crate::discovery::Discovered;
use crate::export::{Exporter, Kind, Sources, Withheld};
use crate::scopes::{ScopeStatus, Trees};
use crate::watches::Statuses;

/// Rows of the table of withheld objects on the status page, per kind and reason; the counts have no such limit.
const ROWS: usize = 200;

/// Shared by the exporter's task and its readers.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    local: LocalCluster,
    writers: Arc<BTreeMap<Resource, SyncWriter>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    round: Option<Round>,
    /// Seconds from the start until everything was written once.
    bootstrap_seconds: Option<f64>,
    /// What each scope sees, where there are scopes.
    trees: Option<Trees>,
}

/// One life of the exporter, from discovery on.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) found: Discovered,
    pub(crate) sources: Sources,
    pub(crate) exporter: Exporter,
    pub(crate) watches: Statuses,
    /// Why numeric identities cannot be recorded.
    pub(crate) identity_failure: Option<String>,
}

/// The exporter's state, as `/status` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name of the cluster.
    pub cluster: String,
    /// Its id.
    pub cluster_id: u32,
    /// `cilium` or `derived`: where nodes, identities and endpoints come from; absent before the API server answered.
    pub source: Option<&'static str>,
    /// Version in which ServiceExports are read; absent if they are not.
    pub service_exports: Option<&'static str>,
    /// What is written.
    pub resources: Vec<ResourceStatus>,
    /// What is read.
    pub kinds: Vec<KindStatus>,
    /// How many objects are withheld, by kind and reason.
    pub withheld_counts: Vec<WithheldCount>,
    /// What is withheld, up to 200 rows of each kind and reason.
    pub withheld: Vec<Withheld>,
    /// Why numeric identities cannot be recorded, while that lasts.
    pub identity_failure: Option<String>,
    /// What clusters see that are in a scope; absent without scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<ScopeStatus>>,
    /// Why the file of scopes, as it is now, does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes_rejected: Option<String>,
}

/// One prefix of the store.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// The word in keys.
    pub resource: Resource,
    /// Keys that the store should hold.
    pub keys: usize,
    /// Keys that it has not confirmed.
    pub pending: usize,
    /// Whether everything was written, and the canary with it.
    pub synced: bool,
    /// Kinds that must be listed before anything is written, and why they are not.
    pub waiting_for: Vec<String>,
    /// Puts that the store confirmed.
    pub written: u64,
    /// Deletes that it confirmed.
    pub deleted: u64,
    /// Calls that failed.
    pub failures: u64,
    /// The latest failure, while it lasts.
    pub last_error: Option<String>,
}

/// One kind of Kubernetes object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KindStatus {
    /// The kind.
    pub kind: Kind,
    /// `not-listed`, `listed`, `absent` or `failing`.
    pub state: &'static str,
    /// The stable cause of a state that is not `listed`.
    pub reason: Option<Reason>,
    /// The latest failure, while it lasts.
    pub error: Option<String>,
    /// Objects that are known.
    pub objects: usize,
    /// Those whose latest form does not decode.
    pub undecodable: usize,
    /// Since the API server last said anything of the kind.
    pub heard_seconds_ago: Option<u64>,
}

/// How many objects of a kind are withheld for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WithheldCount {
    /// The kind.
    pub kind: Kind,
    /// The reason.
    pub reason: Reason,
    /// How many.
    pub objects: usize,
}

impl Board {
    pub(crate) fn new(local: LocalCluster, writers: Arc<BTreeMap<Resource, SyncWriter>>) -> Self {
        Self { local, writers, state: Arc::default() }
    }

    /// A new life begins.
    pub(crate) fn begin(&self, round: Round) {
        self.state().round = Some(round);
    }

    /// Works on the current life; the lock is held meanwhile, so `work` does not wait.
    ///
    /// # Panics
    /// Before [`Self::begin`].
    pub(crate) fn with_round<T>(&self, work: impl FnOnce(&mut Round) -> T) -> T {
        work(self.state().round.as_mut().expect("a round works on what it began"))
    }

    /// The same where there may be none yet.
    pub(crate) fn with_exporter<T>(&self, work: impl FnOnce(Option<&Exporter>) -> T) -> T {
        work(self.state().round.as_ref().map(|round| &round.exporter))
    }

    pub(crate) fn set_trees(&self, trees: Trees) {
        self.state().trees = Some(trees);
    }

    pub(crate) fn trees(&self) -> Option<Trees> {
        self.state().trees.clone()
    }

    pub(crate) fn bootstrapped(&self, seconds: f64) {
        self.state().bootstrap_seconds = Some(seconds);
    }

    pub(crate) fn bootstrap_seconds(&self) -> Option<f64> {
        self.state().bootstrap_seconds
    }

    pub(crate) fn cluster(&self) -> &str {
        self.local.name.as_str()
    }

    pub(crate) fn writer_statuses(&self) -> impl Iterator<Item = (Resource, WriterStatus)> {
        self.writers.iter().map(|(resource, writer)| (*resource, writer.status()))
    }

    pub(crate) fn withheld_counts(&self) -> Vec<WithheldCount> {
        let state = self.state();
        let Some(round) = &state.round else { return Vec::new() };
        let counts = round.exporter.withheld_counts();
        let count =
            |(&(kind, reason), &objects): (&(Kind, Reason), &usize)| WithheldCount { kind, reason, objects };
        counts.iter().map(count).collect()
    }

    /// One row per kind that is read.
    pub(crate) fn kinds(&self) -> Vec<KindStatus> {
        self.state().round.as_ref().map(kinds).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Status {
        let writers: Vec<_> = self.writer_statuses().collect();
        let state = self.state();
        let round = state.round.as_ref();
        let resource = |(resource, writer): (Resource, WriterStatus)| ResourceStatus {
            resource,
            keys: writer.progress.wanted,
            pending: writer.progress.pending,
            synced: writer.progress.synced,
            waiting_for: round.map(|round| waiting_for(round, resource)).unwrap_or_default(),
            written: writer.written,
            deleted: writer.deleted,
            failures: writer.failures,
            last_error: writer.last_error,
        };
        let counts = round.map(|round| round.exporter.withheld_counts().iter()).into_iter().flatten();
        let count =
            |(&(kind, reason), &objects): (&(Kind, Reason), &usize)| WithheldCount { kind, reason, objects };
        Status {
            cluster: self.local.name.to_string(),
            cluster_id: self.local.id.get(),
            source: round.map(|round| if round.found.cilium { "cilium" } else { "derived" }),
            service_exports: round.and_then(|round| round.found.exports),
            resources: writers.into_iter().map(resource).collect(),
            kinds: round.map(kinds).unwrap_or_default(),
            withheld_counts: counts.map(count).filter(|count| count.objects > 0).collect(),
            withheld: round.map(rows).unwrap_or_default(),
            identity_failure: round.and_then(|round| round.identity_failure.clone()),
            scopes: state.trees.as_ref().map(|trees| trees.status(round.map(|round| &round.exporter))),
            scopes_rejected: state.trees.as_ref().and_then(Trees::complaint),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The exporter's methods do not panic half-way; what it last said is still the best that is known.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rows(round: &Round) -> Vec<Withheld> {
    let mut seen: BTreeMap<(Kind, Reason), usize> = BTreeMap::new();
    let rows = round.exporter.withheld().filter(|row| {
        let seen = seen.entry((row.kind, row.reason)).or_default();
        *seen += 1;
        *seen <= ROWS
    });
    rows.collect()
}

fn waiting_for(round: &Round, resource: Resource) -> Vec<String> {
    if round.exporter.is_complete(resource) {
        return Vec::new();
    }
    let waiting = |kind: &&Kind| {
        let status = round.watches.get(kind).map(|status| status.borrow().clone());
        !status.is_some_and(|status| status.initial_list_done)
    };
    let describe = |kind: &Kind| match round.watches.get(kind) {
        None if *kind == Kind::ServiceExport => format!("{kind}: {}", Reason::CrdAbsent),
        None => kind.to_string(),
        Some(status) => format!("{kind}: {}", describe(&status.borrow()).0),
    };
    round.sources.of(resource).iter().filter(waiting).map(describe).collect()
}

fn kinds(round: &Round) -> Vec<KindStatus> {
    let known = round.watches.iter().map(|(kind, status)| {
        let status = status.borrow().clone();
        let (state, reason, error) = describe(&status);
        let heard = status.last_heard.and_then(|heard| SystemTime::now().duration_since(heard).ok());
        KindStatus {
            kind: *kind,
            state,
            reason,
            error,
            objects: status.objects,
            undecodable: status.undecodable,
            heard_seconds_ago: heard.map(|age| age.as_secs()),
        }
    });
    let absent = Kind::ServiceExport;
    let missing = round.sources.kinds().contains(&absent) && !round.watches.contains_key(&absent);
    known.chain(missing.then(|| absent_kind(absent))).collect()
}

/// A kind whose definition was not there when the watches began.
fn absent_kind(kind: Kind) -> KindStatus {
    let (state, reason, error) =
        describe(&WatchStatus { state: WatchState::Absent, ..WatchStatus::default() });
    KindStatus { kind, state, reason, error, objects: 0, undecodable: 0, heard_seconds_ago: None }
}

fn describe(status: &WatchStatus) -> (&'static str, Option<Reason>, Option<String>) {
    match &status.state {
        WatchState::NotListed => ("not-listed", Some(Reason::NotSynced), None),
        WatchState::Listed => ("listed", None, None),
        WatchState::Absent => ("absent", Some(Reason::CrdAbsent), None),
        WatchState::Failing { error, .. } => {
            ("failing", Some(Reason::SourceUnreadable), Some(Chain(&**error).to_string()))
        }
    }
}
