//! What all tasks know, in one place for `status`, metrics and readiness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mesh_types::{ClusterName, Resource};
use tokio::sync::watch;
use tracing::info;

use crate::config::RejectedFile;
use crate::record::Record;
use crate::resource::KINDS;

/// Every remote cluster with its record; clones show the same.
#[derive(Clone, Debug)]
pub struct Board {
    state: Arc<watch::Sender<State>>,
}

/// What a [`Board`] shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) remotes: BTreeMap<ClusterName, Record>,
    /// Clusters under removal, and how far it is.
    pub(crate) removing: BTreeMap<ClusterName, &'static str>,
    pub(crate) rejected: Vec<RejectedFile>,
}

impl Default for Board {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::default()) }
    }
}

impl Board {
    /// Obeys the withdrawals of `cluster` that are held back, of one kind or of all. Returns how many keys of which kinds that
    /// were, or `None` if no such cluster is configured.
    pub fn release(
        &self,
        cluster: &ClusterName,
        only: Option<Resource>,
    ) -> Option<BTreeMap<Resource, usize>> {
        let sinks = self.read(|state| Some(Arc::clone(&state.remotes.get(cluster)?.sinks)))?;
        let kinds = KINDS.into_iter().filter(|kind| only.is_none_or(|only| only == *kind));
        let released = kinds.map(|kind| {
            let keys = sinks.keep(kind, |keeper, writer| keeper.release(Instant::now(), writer));
            info!(%cluster, %kind, keys, "withdrawals released by the user");
            (kind, keys)
        });
        Some(released.filter(|(_, keys)| *keys > 0).collect())
    }

    /// Everything, at this moment.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Changes the record of a cluster, if it (still) has one.
    pub(crate) fn remote<T>(&self, name: &ClusterName, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        let mut result = None;
        self.state.send_modify(|state| result = state.remotes.get_mut(name).map(change));
        result
    }

    /// The same for what nobody waits for: [`Self::wait_for`] does not hear of it. With every batch of a hundred clusters
    /// that list at a time, whoever waits would be woken.
    pub(crate) fn remote_quietly<T>(
        &self,
        name: &ClusterName,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Option<T> {
        let mut result = None;
        self.state.send_if_modified(|state| {
            result = state.remotes.get_mut(name).map(change);
            false
        });
        result
    }

    /// Returns when `is_so`, which is asked at every change.
    pub(crate) async fn wait_for(&self, mut is_so: impl FnMut(&State) -> bool) {
        let mut changes = self.state.subscribe();
        // An error means that the sender is gone, which `self` keeps alive.
        drop(changes.wait_for(|state| is_so(state)).await);
    }
}
