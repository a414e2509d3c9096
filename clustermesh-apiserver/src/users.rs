//! The store's users in step with a file: who of the other clusters may read.
//!
//! ```yaml
//! users:
//! - name: remote-west
//!   role: remote
//! ```
//!
//! The file is the ConfigMap `clustermesh-remote-users` of Cilium's chart. A user that is in it exists, with its role; one
//! that was in it and is no more is deleted. Users that never were in it are left alone.
//! Source: Cilium `clustermesh-apiserver/clustermesh/users_mgmt.go`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvstore::{Error, Users};
use mesh_runtime::{Backoff, Chain, Restart, Spawner, jitter};
use mesh_types::ClusterName;
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the file is read: a ConfigMap takes kubelet a minute, so this adds little.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Waits after the store did not do what was asked.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
/// Largest file that is read; 511 clusters take 30 KiB.
const MAX_BYTES: u64 = 1024 * 1024;

/// Keeps the users of `store` as `file` says, as a task of `tasks`.
///
/// An entry whose name is that of the `local` cluster is skipped. A file that cannot be read or understood changes
/// nothing, and is said once.
pub fn keep_users(store: Arc<dyn Users>, file: PathBuf, local: ClusterName, tasks: &Spawner) {
    tasks.spawn("users", Restart::WithBackoff(RETRY), move |stop| {
        let keeper = Keeper {
            store: Arc::clone(&store),
            file: file.clone(),
            local: local.clone(),
            applied: BTreeMap::new(),
            read: None,
            complained: None,
        };
        async move {
            keeper.run(stop).await;
            Ok::<(), Infallible>(())
        }
    });
}

/// User and role.
type Wanted = BTreeMap<String, String>;

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
    Ok(entries.filter(|entry| entry.name != local.as_str()).map(|entry| (entry.name, entry.role)).collect())
}

struct Keeper {
    store: Arc<dyn Users>,
    file: PathBuf,
    local: ClusterName,
    /// What the store has of us.
    applied: Wanted,
    /// The text that was last understood.
    read: Option<String>,
    complained: Option<String>,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut retry = RETRY.retry();
        let mut wanted = None;
        loop {
            if let Some(news) = self.look() {
                wanted = Some(news);
            }
            let mut wait = LOOK_EVERY;
            if let Some(users) = wanted.take() {
                match stop.run_until_cancelled(self.apply(&users)).await {
                    None => return,
                    Some(Ok(())) => retry.reset(),
                    Some(Err(error)) => {
                        wait = retry.next_delay(jitter());
                        warn!(error = %Chain(&error), ?wait, "users of the store cannot be changed");
                        wanted = Some(users);
                    }
                }
            }
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// What the file says, if that is news.
    fn look(&mut self) -> Option<Wanted> {
        let understood = read(&self.file).and_then(|text| {
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
                    warn!(file = %self.file.display(), error, "the file of users changes nothing");
                    self.complained = Some(error);
                }
                None
            }
        }
    }

    async fn apply(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let gone: Vec<String> =
            self.applied.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.store.delete_user(&name).await?;
            info!(user = name, "user of the store deleted");
            self.applied.remove(&name);
        }
        for (name, role) in wanted {
            if self.applied.get(name) == Some(role) {
                continue;
            }
            self.store.put_user(name, &[role]).await?;
            info!(user = name, role, "user of the store set up");
            self.applied.insert(name.clone(), role.clone());
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String, String> {
    let size = std::fs::metadata(file).map_err(|error| format!("it cannot be read: {error}"))?.len();
    if size > MAX_BYTES {
        return Err(format!("it has {size} bytes, expected at most {MAX_BYTES}"));
    }
    std::fs::read_to_string(file).map_err(|error| format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
