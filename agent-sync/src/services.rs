//! Global services: the local Service and its backends, joined with the backends of other clusters.
//!
//! In go single changes (a Service, a slice, another cluster's record); out comes, per service, one
//! [`MergedService`]. Frontends come from the local Service alone; a service that only other clusters have waits.
//!
//! What always holds: after [`ServiceTable::settle`] the merged table is what a new table fed with the same inputs
//! would hold, and only services that were touched since were computed again.

mod backend;
mod merge;
mod select;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_types::{ClusterEndpointSlice, ClusterName, ClusterService};

pub use backend::{Backend, BackendState, PortNames, Protocol};
pub(crate) use merge::Names;
pub use merge::{Frontend, LocalService, LocalSlice, MergedService, Origin, ServicePort, Share};
pub use mesh_types::ServiceName;
pub use select::Verdict;

use merge::{Inputs, RemoteRecord};

/// The merged services, by name; a snapshot is cheap, since each service is shared.
pub type MergedServices = BTreeMap<ServiceName, Arc<MergedService>>;

/// All services that this cluster or another one has.
#[derive(Debug)]
pub struct ServiceTable {
    node: Arc<str>,
    inputs: BTreeMap<ServiceName, Inputs>,
    /// The service that each slice (namespace, name) counts for.
    slices: BTreeMap<(Arc<str>, Arc<str>), ServiceName>,
    /// The service that each slice (cluster, namespace, name) of another cluster counts for.
    remote_slices: BTreeMap<(ClusterName, Arc<str>, Arc<str>), ServiceName>,
    /// Services to compute again.
    dirty: BTreeSet<ServiceName>,
    merged: MergedServices,
    merges: u64,
}

impl ServiceTable {
    /// No services, on the node called `node`.
    pub fn new(node: &str) -> Self {
        ServiceTable {
            node: node.into(),
            inputs: BTreeMap::new(),
            slices: BTreeMap::new(),
            remote_slices: BTreeMap::new(),
            dirty: BTreeSet::new(),
            merged: MergedServices::new(),
            merges: 0,
        }
    }

    /// The local Service has this content, or (`None`) is gone.
    pub fn set_service(&mut self, name: &ServiceName, service: Option<LocalService>) {
        self.change(name, |inputs| {
            let changed = inputs.service != service;
            inputs.service = service;
            changed
        });
    }

    /// The slice called `slice` in `namespace` has this content, or (`None`) is gone. Its service may change.
    pub fn set_slice(&mut self, namespace: &str, slice: &str, content: Option<LocalSlice>) {
        let (namespace, slice): (Arc<str>, Arc<str>) = (namespace.into(), slice.into());
        let key = (namespace, Arc::clone(&slice));
        let now = content.as_ref().map(|content| content.service.clone());
        let before = match &now {
            Some(service) => self.slices.insert(key, service.clone()),
            None => self.slices.remove(&key),
        };
        if let Some(before) = before.filter(|before| Some(before) != now.as_ref()) {
            self.change(&before, |inputs| inputs.slices.remove(&slice).is_some());
        }
        if let (Some(service), Some(content)) = (now, content) {
            self.change(&service, |inputs| {
                let changed = inputs.slices.get(&slice) != Some(&content);
                inputs.slices.insert(slice, content);
                changed
            });
        }
    }

    /// `cluster` announces this record, or (`None`) withdraws it. Returns whether the record came into being or went,
    /// as opposed to: was there and changed, or was not there.
    pub fn set_remote(
        &mut self,
        name: &ServiceName,
        cluster: &ClusterName,
        record: Option<&ClusterService>,
    ) -> bool {
        let record = record.map(RemoteRecord::read);
        let wanted = record.is_some();
        let mut had = false;
        self.change(name, |inputs| {
            let before = match &record {
                Some(record) => {
                    inputs.remote.entry(cluster.clone()).or_default().record.replace(record.clone())
                }
                None => inputs.remote.get_mut(cluster).and_then(|remote| remote.record.take()),
            };
            had = before.is_some();
            before != record
        });
        had != wanted
    }

    /// `cluster` announces this slice, or (`None`) withdraws it. Returns whether the slice came into being or went. One that
    /// belongs to no service counts as withdrawn.
    pub fn set_remote_slice(
        &mut self,
        namespace: &str,
        slice: &str,
        cluster: &ClusterName,
        content: Option<&ClusterEndpointSlice>,
    ) -> bool {
        let content =
            content.and_then(|content| Some((content.service()?, RemoteRecord::read_slice(content))));
        let key = (cluster.clone(), Arc::from(namespace), Arc::<str>::from(slice));
        let now = content.as_ref().map(|(service, _)| ServiceName::new(namespace, service));
        let before = match &now {
            Some(service) => self.remote_slices.insert(key, service.clone()),
            None => self.remote_slices.remove(&key),
        };
        let changed = before.is_some() != now.is_some();
        if let Some(before) = before.filter(|before| Some(before) != now.as_ref()) {
            self.change(&before, |inputs| {
                inputs.remote.get_mut(cluster).is_some_and(|remote| remote.slices.remove(slice).is_some())
            });
        }
        if let (Some(service), Some((_, record))) = (now, content) {
            self.change(&service, |inputs| {
                let slices = &mut inputs.remote.entry(cluster.clone()).or_default().slices;
                let changed = slices.get(slice) != Some(&record);
                slices.insert(slice.into(), record);
                changed
            });
        }
        changed
    }

    /// Withdraws all records of a cluster.
    pub fn remove_cluster(&mut self, cluster: &ClusterName) {
        let theirs: Vec<_> = self
            .inputs
            .iter()
            .filter(|(_, inputs)| inputs.remote.contains_key(cluster))
            .map(|(name, _)| name.clone())
            .collect();
        for name in theirs {
            self.change(&name, |inputs| inputs.remote.remove(cluster).is_some());
        }
        self.remote_slices.retain(|(of, ..), _| of != cluster);
    }

    fn change(&mut self, name: &ServiceName, change: impl FnOnce(&mut Inputs) -> bool) {
        let inputs = self.inputs.entry(name.clone()).or_default();
        let changed = change(inputs);
        inputs.remote.retain(|_, remote| !remote.is_empty());
        if inputs.is_empty() {
            self.inputs.remove(name);
        }
        if changed {
            self.dirty.insert(name.clone());
        }
    }

    /// Computes what was touched. Returns the services whose merged form changed, appeared or went.
    pub fn settle(&mut self) -> Vec<ServiceName> {
        let mut changed = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            let inputs = self.inputs.get(&name).filter(|inputs| inputs.is_service());
            let Some(inputs) = inputs else {
                if self.merged.remove(&name).is_some() {
                    changed.push(name);
                }
                continue;
            };
            self.merges += 1;
            let merged = inputs.merge(&name, &self.node);
            if self.merged.get(&name).is_some_and(|before| **before == merged) {
                continue;
            }
            self.merged.insert(name.clone(), Arc::new(merged));
            changed.push(name);
        }
        changed
    }

    /// The merged services as of the last [`Self::settle`].
    pub fn merged(&self) -> &MergedServices {
        &self.merged
    }

    /// How many services were computed so far; for tests and metrics of the work done.
    pub fn merges(&self) -> u64 {
        self.merges
    }
}
