//! The store's users in step with files: who of the other clusters may read, and what.
//!
//! ```yaml
//! users:
//! - name: remote-west
//!   role: remote
//! ```
//!
//! The first file is the ConfigMap `clustermesh-remote-users` of Cilium's chart. A user that is in it exists, with its role; one
//! that was in it and is no more is deleted, also if that happened while nobody looked: a user who was in it has the role
//! `isthmus-users` besides, which may do nothing. Users that never were in it are left alone.
//! Source: Cilium `clustermesh-apiserver/clustermesh/users_mgmt.go`.
//!
//! The second is that of the export scopes ([`crate::Scopes`]): the user `remote-<cluster>` of a cluster in a scope has the role
//! that makes it live in the tree of the scope, whatever the first file says.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvstore::auth::{REMOTE, ROOT_ROLE, root_role};
use kvstore::{Error, Users};
use mesh_runtime::{Backoff, Chain, Restart, Spawner, jitter};
use mesh_types::ClusterName;
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::daemon::Scoping;
use crate::scopes::{Scopes, ScopesFile, Trees, Unscoped, place, scope_at, text_of};

/// The role by which users are known after a restart that were set up here. It may do nothing.
const SET_UP_HERE: &str = "isthmus-users";

/// How often the file is read: a ConfigMap takes kubelet a minute, so this adds little.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Waits after the store did not do what was asked.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

/// How often to look whether the tree of a scope is complete.
const LOOK_WHILE_WAITING: Duration = Duration::from_millis(100);
/// Of the user of each cluster.
const OF_CLUSTER: &str = "remote-";

/// Keeps the users of `store` as `file` and the scopes say, as a task of `tasks`.
///
/// An entry whose name is that of the `local` cluster is skipped. A file that cannot be read or understood changes
/// nothing, and is said once. Without `file` the users of clusters in scopes exist, and others are left alone.
pub fn keep_users(
    store: Arc<dyn Users>,
    file: Option<PathBuf>,
    scoping: Option<Scoping>,
    local: ClusterName,
    tasks: &Spawner,
) {
    tasks.spawn("users", Restart::WithBackoff(RETRY), move |stop| {
        let scoping = scoping.clone();
        let keeper = Keeper {
            store: Arc::clone(&store),
            file: file.clone(),
            scopes: scoping.map(|scoping| (ScopesFile::new(scoping.file.clone(), local.clone()), scoping)),
            local: local.clone(),
            applied: BTreeMap::new(),
            readers: BTreeSet::new(),
            left: None,
            store_id: None,
            read: None,
            complained: None,
        };
        async move {
            keeper.run(stop).await;
            Ok::<(), Infallible>(())
        }
    });
}

/// User and role; none is a user that may do nothing.
type Wanted = BTreeMap<String, Option<String>>;

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    users: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    role: String,
}

/// What the file asks for.
fn parse(text: &str, local: &ClusterName) -> Result<Wanted, serde_yaml_ng::Error> {
    if text.trim().is_empty() {
        return Ok(Wanted::new());
    }
    let file: File = serde_yaml_ng::from_str(text)?;
    let entries = file.users.unwrap_or_default().into_iter();
    Ok(entries
        .filter(|entry| entry.name != local.as_str())
        .map(|entry| (entry.name, Some(entry.role)))
        .collect())
}

/// What users should have, and what has to be waited for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    users: Wanted,
    /// The scopes that users live in then.
    scopes: BTreeSet<Arc<str>>,
    /// Users whose scope has no complete tree yet; they keep what they have.
    waiting: BTreeSet<String>,
}

/// Who should have which role: `listed` by the file of users, if there is one, placed by `scopes`.
fn plan(
    listed: Option<&Wanted>,
    scopes: &Scopes,
    applied: &Wanted,
    is_complete: impl Fn(&str) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let in_scopes = || scopes.scopes.values().flat_map(|scope| &scope.clusters);
    let named = || in_scopes().map(|cluster| (format!("{OF_CLUSTER}{cluster}"), None)).collect();
    for (user, role) in listed.cloned().unwrap_or_else(named) {
        let cluster = user.strip_prefix(OF_CLUSTER);
        let role = match (cluster.and_then(|cluster| scopes.of(cluster)), scopes.unscoped) {
            (Some(scope), _) if is_complete(scope) => {
                plan.scopes.insert(Arc::clone(scope));
                Some(scope_role(scope))
            }
            (Some(_), _) => {
                plan.waiting.insert(user.clone());
                match applied.get(&user) {
                    Some(had) => had.clone(),
                    None => continue,
                }
            }
            (None, Unscoped::None) if cluster.is_some() || role.as_deref() == Some(REMOTE) => None,
            (None, Unscoped::All | Unscoped::None) => role,
        };
        plan.users.insert(user, role);
    }
    // The user of clusters that have none of their own cannot be told apart, so it is in no scope.
    match scopes.unscoped {
        Unscoped::None => drop(plan.users.insert(REMOTE.to_owned(), None)),
        Unscoped::All if applied.get(REMOTE) == Some(&None) => {
            plan.users.insert(REMOTE.to_owned(), Some(REMOTE.to_owned()));
        }
        // Once it was taken away and given back, it stays.
        Unscoped::All => {
            plan.users.extend(applied.get_key_value(REMOTE).map(|(user, role)| (user.clone(), role.clone())));
        }
    }
    plan
}

fn scope_role(scope: &str) -> String {
    root_role(&place(scope))
}

/// What was set up by an earlier life of the daemon.
#[derive(Debug, Default)]
struct Left {
    users: BTreeSet<String>,
    scopes: BTreeSet<Arc<str>>,
}

struct Keeper {
    store: Arc<dyn Users>,
    file: Option<PathBuf>,
    scopes: Option<(ScopesFile, Scoping)>,
    local: ClusterName,
    /// What the store has of us.
    applied: Wanted,
    /// Roles of scopes that were made.
    readers: BTreeSet<Arc<str>>,
    /// What an earlier life left in the store, until it is gone or wanted again; `None` before the store was asked.
    left: Option<Left>,
    /// The store that has them; known where there are scopes.
    store_id: Option<u64>,
    /// The text that was last understood.
    read: Option<String>,
    complained: Option<String>,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut retry = RETRY.retry();
        // Nothing is done to anybody before each file was understood once.
        let (mut listed, mut scopes) = (None, self.scopes.is_none().then(Scopes::default));
        loop {
            listed = self.look().or(listed);
            scopes = self.look_at_scopes().or(scopes);
            let mut wait = LOOK_EVERY;
            if let Some(scopes) = &scopes
                && (listed.is_some() || self.file.is_none())
            {
                match stop.run_until_cancelled(self.apply(listed.as_ref(), scopes)).await {
                    None => return,
                    Some(Ok(complete)) => {
                        retry.reset();
                        wait = if complete { LOOK_EVERY } else { LOOK_WHILE_WAITING };
                    }
                    Some(Err(error)) => {
                        wait = retry.next_delay(jitter());
                        warn!(error = %Chain(&error), ?wait, "users of the store cannot be changed");
                    }
                }
            }
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// What the file of scopes says, if that is news; the trees then follow it.
    fn look_at_scopes(&mut self) -> Option<Scopes> {
        let (file, scoping) = self.scopes.as_mut()?;
        let news = file.look();
        scoping.trees.complain(file.complaint());
        let news = news?;
        scoping.board.with_exporter(|exporter| scoping.trees.declare(&news, exporter));
        Some(news)
    }

    /// What the file says, if that is news.
    fn look(&mut self) -> Option<Wanted> {
        let file = self.file.clone()?;
        let understood = text_of(&file).map_err(|error| error.to_string()).and_then(|text| {
            if self.read.as_deref() == Some(&text) {
                return Ok(None);
            }
            let wanted =
                parse(&text, &self.local).map_err(|error| format!("it is not understood: {error}"))?;
            Ok(Some((text, wanted)))
        });
        match understood {
            Ok(news) => {
                self.complained = None;
                let (text, wanted) = news?;
                self.read = Some(text);
                Some(wanted)
            }
            Err(error) => {
                if self.complained.as_ref() != Some(&error) {
                    warn!(file = %file.display(), error, "the file of users changes nothing");
                    self.complained = Some(error);
                }
                None
            }
        }
    }

    /// Returns whether everyone has what is wanted.
    async fn apply(&mut self, listed: Option<&Wanted>, scopes: &Scopes) -> Result<bool, Error> {
        let trees = self.scopes.as_ref().map(|(_, scoping)| scoping.trees.clone());
        if let Some(trees) = &trees {
            let id = trees.store_id().await?;
            if self.store_id.replace(id).is_some_and(|had| had != id) {
                info!("the store was replaced, setting up its users again");
                self.applied.clear();
                self.readers.clear();
                self.left = None;
            }
        }
        if self.left.is_none() {
            self.left = Some(self.recall().await?);
        }
        let is_complete = |scope: &str| trees.as_ref().is_some_and(|trees| trees.is_complete(scope));
        let plan = plan(listed, scopes, &self.applied, is_complete);
        for scope in &plan.scopes {
            if !self.readers.contains(scope) {
                self.store.put_reader(&scope_role(scope), &place(scope)).await?;
                self.readers.insert(Arc::clone(scope));
            }
        }
        let stays = |name: &String| plan.users.contains_key(name) || plan.waiting.contains(name);
        let left = self.left.iter().flat_map(|left| &left.users);
        let gone: BTreeSet<String> =
            self.applied.keys().chain(left).filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            self.store.delete_user(&name).await?;
            info!(user = name, "user of the store deleted");
            self.applied.remove(&name);
            if let Some(left) = &mut self.left {
                left.users.remove(&name);
            }
        }
        for (name, role) in &plan.users {
            if self.applied.get(name) == Some(role) {
                continue;
            }
            // The user of clusters that have none of their own comes with the store, whatever is done to it.
            let ours = (name != REMOTE).then_some(SET_UP_HERE);
            let roles: Vec<&str> = ours.into_iter().chain(role.as_deref()).collect();
            self.store.put_user(name, &roles).await?;
            info!(user = name, role, "user of the store set up");
            self.applied.insert(name.clone(), role.clone());
            if let Some(trees) = &trees
                && role.as_ref().is_some_and(|role| role.starts_with(ROOT_ROLE))
                && !trees.knows_roots(name).await?
            {
                warn!(
                    user = name,
                    "the store does not know users who live below a prefix: the clusters in scopes are refused what they ask \
                     for (they see nothing at all); use the store of Isthmus"
                );
            }
        }
        // What an earlier life gave them may be more than they are to see.
        for name in plan.waiting.iter().filter(|name| !self.applied.contains_key(*name)) {
            let role =
                scopes.of(name.strip_prefix(OF_CLUSTER).unwrap_or(name)).map(|scope| scope_role(scope));
            let users = self.store.users().await?;
            let more = |had: &String| had != SET_UP_HERE && Some(had) != role.as_ref();
            if users.get(name).is_some_and(|roles| roles.iter().any(more)) {
                self.store.put_user(name, &[SET_UP_HERE]).await?;
            }
        }
        self.retire_left(scopes).await?;
        if let Some(trees) = &trees {
            self.retire(trees, scopes).await?;
        }
        Ok(plan.waiting.is_empty())
    }

    /// Asks the store for what an earlier life left there.
    async fn recall(&self) -> Result<Left, Error> {
        self.store.put_role(SET_UP_HERE).await?;
        let users = self.store.users().await?.into_iter();
        let ours = users.filter(|(_, roles)| roles.iter().any(|role| role == SET_UP_HERE));
        let roles = self.store.roles().await?;
        let scope = |role: &String| role.strip_prefix(ROOT_ROLE).and_then(scope_at).map(Arc::from);
        Ok(Left {
            users: ours.map(|(name, _)| name).collect(),
            scopes: roles.iter().filter_map(scope).collect(),
        })
    }

    /// Removes the roles of scopes that were gone when this life began, once nobody lives in them.
    async fn retire_left(&mut self, scopes: &Scopes) -> Result<(), Error> {
        let Some(left) = &mut self.left else { return Ok(()) };
        left.scopes.retain(|scope| !self.readers.contains(scope));
        let gone = |scope: &&Arc<str>| !scopes.scopes.contains_key(*scope);
        let gone: Vec<Arc<str>> = left.scopes.iter().filter(gone).cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let users = self.store.users().await?;
        for scope in gone {
            let role = scope_role(&scope);
            if !users.values().flatten().any(|had| *had == role) {
                self.store.delete_role(&role).await?;
                info!(scope = &*scope, "role of an export scope that is gone deleted");
                left.scopes.remove(&scope);
            }
        }
        Ok(())
    }

    /// Removes what belongs to scopes that are gone, once nobody lives in them.
    async fn retire(&mut self, trees: &Trees, scopes: &Scopes) -> Result<(), Error> {
        let lives = |scope: &Arc<str>| {
            let role = scope_role(scope);
            self.applied.values().any(|had| had.as_deref() == Some(&*role))
        };
        let readers = self.readers.iter();
        let empty: Vec<Arc<str>> =
            readers.filter(|scope| !scopes.scopes.contains_key(*scope) && !lives(scope)).cloned().collect();
        for scope in &empty {
            self.store.delete_role(&scope_role(scope)).await?;
            self.readers.remove(scope);
        }
        let stay = scopes.scopes.keys().chain(&self.readers).cloned().collect();
        trees.retire(&stay).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
