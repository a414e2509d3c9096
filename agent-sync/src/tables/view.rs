//! How far each view is to be trusted: complete or not, followed or not, since when.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mesh_observe::{KINDS, Standing};
use mesh_types::Resource;

/// How a watch of the local Kubernetes API stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeView {
    /// The first list was complete.
    pub listed: bool,
    /// It is listed and followed right now.
    pub live: bool,
    /// What is wrong.
    pub error: Option<String>,
}

/// How far the view of one kind of one cluster is to be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewState {
    /// The first list is not complete.
    #[default]
    NeverSynced,
    /// Complete and followed.
    Synced,
    /// Complete as of then; not followed since.
    StaleSince(Timestamp),
}

/// The view of one kind of one cluster.
#[derive(Clone, Debug, Default)]
pub struct KindView {
    /// How far it is to be trusted.
    pub state: ViewState,
    /// Accepted values in effect.
    pub entries: usize,
    /// Withdrawals that are held back.
    pub withheld: usize,
    /// When something last came.
    pub heard: Option<Timestamp>,
    /// Why contact was lost.
    pub error: Option<String>,
}

/// One other cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// How it stands; its last accepted standing is kept beside an absence.
    pub standing: Standing,
    /// Its id, once it was accepted.
    pub id: Option<u32>,
    /// When it is dropped, if its configuration is absent.
    pub dropped_at: Option<Timestamp>,
    /// Its kinds.
    pub kinds: BTreeMap<Resource, KindView>,
    /// How often contact was lost.
    pub failures: u64,
    /// When it was lost last.
    pub last_failure: Option<Timestamp>,
}

impl ClusterView {
    pub(super) fn new(standing: Standing) -> Self {
        ClusterView {
            standing,
            id: None,
            dropped_at: None,
            kinds: BTreeMap::new(),
            failures: 0,
            last_failure: None,
        }
    }

    /// It is followed, also while its configuration is absent.
    pub fn is_followed(&self) -> bool {
        !matches!(self.standing, Standing::Refused(_))
    }

    /// Accepted, and all kinds are complete and followed.
    pub fn is_ready(&self) -> bool {
        matches!(self.standing, Standing::Accepted { .. })
            && KINDS
                .iter()
                .all(|kind| self.kinds.get(kind).is_some_and(|view| view.state == ViewState::Synced))
    }
}

/// The connection to the local store.
#[derive(Clone, Debug, Default)]
pub struct StoreView {
    /// A store answers.
    pub connected: bool,
    /// Its cluster id.
    pub id: Option<u64>,
    /// Since when it is connected or not.
    pub since: Option<Timestamp>,
    /// Its clusters were named once.
    pub listed: bool,
    /// It has the own cluster's configuration.
    pub own_config: bool,
    /// Why contact was lost.
    pub error: Option<String>,
}

/// A view that was complete is stale from now on, unless it already is.
pub(super) fn stale(state: ViewState, now: Timestamp) -> ViewState {
    match state {
        ViewState::Synced => ViewState::StaleSince(now),
        ViewState::NeverSynced | ViewState::StaleSince(_) => state,
    }
}
