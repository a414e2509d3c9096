//! The trees of all scopes, kept in step with the desired keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kvstore::sync::{SyncWriter, WriterConfig};
use kvstore::{Client, KeyRange, Write};
use mesh_runtime::{Chain, Spawner, Task};
use mesh_types::{Form, LocalCluster, Reason, Resource, key};
use serde::Serialize;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Outside, Scope, Scopes};
use crate::announce::{self, ExportsReadable};
use crate::config::ServiceFormat;
use crate::daemon::spawn_writer;
use crate::export::{Exporter, identity_of};

/// Above the trees of all scopes.
const TREES: &str = "isthmus/scope/";
/// Rows of what is not in a scope, on the status page.
const ROWS: usize = 200;

/// The trees of all scopes; clones are the same.
#[derive(Clone)]
pub(crate) struct Trees(Arc<Shared>);

struct Shared {
    local: LocalCluster,
    lease_ttl: Duration,
    services: (bool, ServiceFormat),
    store: Arc<dyn Client>,
    tasks: Spawner,
    readable: watch::Receiver<ExportsReadable>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    trees: BTreeMap<Arc<str>, Tree>,
    /// Which endpoints have which identity; kept only where some scope asks for labels.
    numbered: Numbered,
    /// What is wrong with the file.
    complaint: Option<String>,
}

struct Tree {
    scope: Scope,
    writers: BTreeMap<Resource, SyncWriter>,
    config: SyncWriter,
    tasks: Vec<Task>,
}

#[derive(Debug, Default)]
struct Numbered {
    of: BTreeMap<Arc<str>, u32>,
    endpoints: BTreeMap<u32, BTreeSet<Arc<str>>>,
}

/// A scope, as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeStatus {
    /// Its name.
    pub name: String,
    /// The clusters in it.
    pub clusters: Vec<String>,
    /// How many keys they see, by the word in keys.
    pub keys: BTreeMap<&'static str, usize>,
    /// Keys that the store has not confirmed.
    pub pending: usize,
    /// Whether everything was written, so that the clusters may read.
    pub synced: bool,
    /// How many keys are kept from them.
    pub withheld_keys: usize,
    /// Which, up to 200 of each resource.
    pub withheld: Vec<OutsideKey>,
}

/// A key that is not in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutsideKey {
    /// The word in keys.
    pub resource: Resource,
    /// The key after its prefix.
    pub key: String,
    /// `not-in-scope`.
    pub reason: Reason,
    /// Why, for people.
    pub detail: String,
}

impl std::fmt::Debug for Trees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trees").finish_non_exhaustive()
    }
}

impl Trees {
    pub(crate) fn new(
        (local, lease_ttl, services): (LocalCluster, Duration, (bool, ServiceFormat)),
        store: Arc<dyn Client>,
        tasks: Spawner,
        readable: watch::Receiver<ExportsReadable>,
    ) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { local, lease_ttl, services, store, tasks, readable, state }))
    }

    /// Begins the trees of scopes that are new and fits the others to what is declared now. `exporter` is the current one,
    /// if there is one yet. Trees of scopes that are not declared stay, as they were, until [`Self::retire`].
    pub(crate) fn declare(&self, scopes: &Scopes, exporter: Option<&Exporter>) {
        let mut state = self.state();
        for (name, scope) in &scopes.scopes {
            match state.trees.get_mut(name) {
                Some(tree) if tree.scope == *scope => continue,
                Some(tree) => tree.scope = scope.clone(),
                None => drop(state.trees.insert(Arc::clone(name), self.plant(name, scope))),
            }
            info!(scope = &**name, clusters = scope.clusters.len(), "export scope in force");
        }
        let State { trees, numbered, .. } = &mut *state;
        *numbered = Numbered::default();
        let Some(exporter) = exporter else { return };
        for resource in Resource::ALL {
            if exporter.is_complete(resource) {
                fill(trees, numbered, exporter, resource);
            }
        }
    }

    /// Removes the trees of all other scopes than those; nobody may be reading them.
    pub(crate) async fn retire(&self, stay: &BTreeSet<Arc<str>>) {
        let gone: Vec<(Arc<str>, Tree)> = {
            let mut state = self.state();
            state.trees.extract_if(.., |name, _| !stay.contains(name)).collect()
        };
        for (name, tree) in gone {
            tree.tasks.iter().for_each(Task::stop);
            for task in &tree.tasks {
                task.ended().await;
            }
            let range = KeyRange::prefix(place(&name));
            match self.0.store.write(vec![Write::DeleteRange { range }]).await {
                Ok(_) => info!(scope = &*name, "export scope removed"),
                // Its keys hang on leases that nobody renews.
                Err(error) => {
                    warn!(scope = &*name, error = %Chain(&error), "the keys of a scope end with their leases")
                }
            }
        }
    }

    /// Whether everything that the clusters in a scope see is written.
    pub(crate) fn is_complete(&self, scope: &str) -> bool {
        self.state().trees.get(scope).is_some_and(Tree::is_complete)
    }

    /// Takes what changed in `exporter`: resources that became complete, keys that changed or whose labels did.
    pub(crate) fn apply(
        &self,
        exporter: &Exporter,
        completed: &[Resource],
        touched: BTreeSet<(Resource, Arc<str>)>,
    ) {
        let mut state = self.state();
        let State { trees, numbered, .. } = &mut *state;
        if trees.is_empty() {
            return;
        }
        for resource in completed {
            fill(trees, numbered, exporter, *resource);
        }
        let whole = |resource: &Resource| exporter.is_complete(*resource) && !completed.contains(resource);
        let mut names: BTreeMap<Resource, BTreeSet<Arc<str>>> = BTreeMap::new();
        for (resource, name) in touched.into_iter().filter(|(resource, _)| whole(resource)) {
            if resource == Resource::Identities && trees.values().any(|tree| tree.scope.asks_for_labels()) {
                let endpoints = name.parse().ok().and_then(|id: u32| numbered.endpoints.get(&id));
                names.entry(Resource::Ip).or_default().extend(endpoints.into_iter().flatten().cloned());
            }
            names.entry(resource).or_default().insert(name);
        }
        for (resource, names) in names {
            update(trees, numbered, exporter, resource, names);
        }
    }

    /// Which store it is: another one has none of our users.
    pub(crate) async fn store_id(&self) -> Result<u64, kvstore::Error> {
        Ok(self.0.store.status().await?.cluster_id)
    }

    /// Whether the store has users who live below a prefix: it has noted so of this one.
    pub(crate) async fn knows_roots(&self, user: &str) -> Result<bool, kvstore::Error> {
        Ok(self.0.store.get(format!("{}{user}", kvstore::auth::ROOT_NOTES).as_bytes()).await?.is_some())
    }

    pub(crate) fn complain(&self, complaint: Option<&str>) {
        self.state().complaint = complaint.map(str::to_owned);
    }

    /// What is wrong with the file.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.state().complaint.clone()
    }

    /// One row per scope; with `exporter`, what is withheld from it too.
    pub(crate) fn status(&self, exporter: Option<&Exporter>) -> Vec<ScopeStatus> {
        let state = self.state();
        state.trees.iter().map(|(name, tree)| tree.status(name, exporter)).collect()
    }

    fn plant(&self, name: &Arc<str>, scope: &Scope) -> Tree {
        let Shared { local, lease_ttl, services, store, tasks, readable, .. } = &*self.0;
        let place = place(name);
        let below = |key: String| Bytes::from(format!("{place}{key}"));
        let tasks = tasks.branch(format!("scope/{name}"));
        let mut running = Vec::new();
        let mut writers = BTreeMap::new();
        for resource in Resource::ALL {
            let canary = below(resource.canary(Form::State, &local.name));
            let writer = SyncWriter::new(WriterConfig {
                canary: Some((canary, announce::timestamp)),
                lease_ttl: Some(*lease_ttl),
                ..WriterConfig::new(below(resource.prefix(Form::State, &local.name)))
            });
            running.push(spawn_writer(&tasks, &format!("write/{resource}"), store, &writer));
            writers.insert(resource, writer);
        }
        let heartbeat = announce::heartbeat_writer(&below(key::HEARTBEAT.to_owned()), *lease_ttl);
        running.push(spawn_writer(&tasks, "write/heartbeat", store, &heartbeat));
        running.push(announce::spawn_beat(&tasks, &heartbeat));
        let config = announce::config_writer(&below(key::cluster_config(&local.name)), *lease_ttl);
        running.push(spawn_writer(&tasks, "write/cluster-config", store, &config));
        running.push(announce::spawn(&tasks, local, *services, store, &config, readable));
        Tree { scope: scope.clone(), writers, config, tasks: running }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Wishes are told to writers one by one; a half-told set is told again with the next change of its keys.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree {
    fn is_complete(&self) -> bool {
        let config = self.config.status().progress;
        self.writers.values().all(|writer| writer.status().progress.synced)
            && config.wanted > 0
            && config.pending == 0
    }

    /// Whether everything is known by which keys of a resource are chosen.
    fn is_ready(&self, exporter: &Exporter, resource: Resource) -> bool {
        let of_identities = resource == Resource::Ip && self.scope.asks_for_labels();
        exporter.is_complete(resource) && (!of_identities || exporter.is_complete(Resource::Identities))
    }

    /// The value of a key, if it is in the scope.
    fn value(&self, exporter: &Exporter, resource: Resource, name: &str) -> Option<Bytes> {
        let (value, subject) = exporter.subject(resource, name, self.scope.asks_for_labels())?;
        self.scope.admits(resource, &subject).is_ok().then_some(value)
    }

    fn status(&self, name: &str, exporter: Option<&Exporter>) -> ScopeStatus {
        let (mut withheld, mut withheld_keys) = (Vec::new(), 0);
        for resource in Resource::ALL {
            let names = exporter.into_iter().flat_map(|exporter| exporter.desired(resource));
            let outside = names.filter(|(name, _)| !self.writers[&resource].wants(name.as_bytes()));
            for (nth, (key, _)) in outside.enumerate() {
                withheld_keys += 1;
                if nth < ROWS {
                    withheld
                        .extend(exporter.and_then(|exporter| self.outside(name, exporter, resource, &key)));
                }
            }
        }
        let progress = |resource: &Resource| self.writers[resource].status().progress;
        ScopeStatus {
            name: name.to_owned(),
            clusters: self.scope.clusters.iter().map(ToString::to_string).collect(),
            keys: Resource::ALL.iter().map(|resource| (resource.word(), progress(resource).wanted)).collect(),
            pending: Resource::ALL.iter().map(|resource| progress(resource).pending).sum(),
            synced: self.is_complete(),
            withheld_keys,
            withheld,
        }
    }

    fn outside(
        &self,
        scope: &str,
        exporter: &Exporter,
        resource: Resource,
        name: &str,
    ) -> Option<OutsideKey> {
        let (_, subject) = exporter.subject(resource, name, true)?;
        let why = match self.scope.admits(resource, &subject).err()? {
            Outside::Namespace => {
                format!("namespace {} is not in it", subject.namespace.unwrap_or("unknown"))
            }
            Outside::Labels => "its labels are not those of the scope".to_owned(),
        };
        let clusters: Vec<&str> = self.scope.clusters.iter().map(|cluster| cluster.as_str()).collect();
        let detail = format!("scope {scope} of {}: {why}", clusters.join(", "));
        Some(OutsideKey { resource, key: name.to_owned(), reason: Reason::NotInScope, detail })
    }
}

impl Numbered {
    fn set(&mut self, name: &Arc<str>, id: Option<u32>) {
        let before = match id {
            Some(id) => self.of.insert(Arc::clone(name), id),
            None => self.of.remove(name),
        };
        if before == id {
            return;
        }
        if let Some(before) = before
            && let Some(names) = self.endpoints.get_mut(&before)
        {
            names.remove(name);
            if names.is_empty() {
                self.endpoints.remove(&before);
            }
        }
        if let Some(id) = id {
            self.endpoints.entry(id).or_default().insert(Arc::clone(name));
        }
    }
}

/// Where the tree of a scope lies.
pub(crate) fn place(scope: &str) -> String {
    format!("{TREES}{scope}/")
}

/// The scope whose tree lies there.
pub(crate) fn scope_at(place: &str) -> Option<&str> {
    place.strip_prefix(TREES)?.strip_suffix('/').filter(|scope| !scope.is_empty())
}

/// Has every tree hold what it should of a resource that is complete.
fn fill(
    trees: &mut BTreeMap<Arc<str>, Tree>,
    numbered: &mut Numbered,
    exporter: &Exporter,
    resource: Resource,
) {
    let names: BTreeSet<Arc<str>> = exporter.desired(resource).map(|(name, _)| name).collect();
    if resource == Resource::Ip {
        *numbered = Numbered::default();
    }
    for tree in trees.values().filter(|tree| tree.is_ready(exporter, resource)) {
        // What an earlier life of the exporter wanted and this one does not.
        tree.writers[&resource].retain(|key| std::str::from_utf8(key).is_ok_and(|key| names.contains(key)));
    }
    update(trees, numbered, exporter, resource, names);
    for tree in trees.values().filter(|tree| tree.is_ready(exporter, resource)) {
        tree.writers[&resource].synced();
    }
    if resource == Resource::Identities && exporter.is_complete(Resource::Ip) {
        // Some tree may have waited for the labels of endpoints.
        fill(trees, numbered, exporter, Resource::Ip);
    }
}

/// Looks at keys again and tells each tree.
fn update(
    trees: &mut BTreeMap<Arc<str>, Tree>,
    numbered: &mut Numbered,
    exporter: &Exporter,
    resource: Resource,
    names: BTreeSet<Arc<str>>,
) {
    if resource == Resource::Ip && trees.values().any(|tree| tree.scope.asks_for_labels()) {
        for name in &names {
            let value = exporter.subject(resource, name, false).map(|(value, _)| value);
            numbered.set(name, value.and_then(|value| identity_of(&value)));
        }
    }
    for tree in trees.values().filter(|tree| tree.is_ready(exporter, resource)) {
        let wish =
            |name: &Arc<str>| (Bytes::copy_from_slice(name.as_bytes()), tree.value(exporter, resource, name));
        tree.writers[&resource].extend(names.iter().map(wish));
    }
}

#[cfg(test)]
mod tests;
