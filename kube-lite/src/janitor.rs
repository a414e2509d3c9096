//! Carries out what the [`Graph`] says must go.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::{Api, DeleteOptions};
use crate::cache::REGISTRY;
use crate::graph::{Action, Graph};
use crate::object::{self, text};
use crate::status::Result;

/// How long until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until told to stop.
pub(crate) async fn run(api: &Api, stop: &CancellationToken) {
    stop.run_until_cancelled(follow(api)).await;
}

async fn follow(api: &Api) {
    let mut graph = Graph::default();
    let mut concerned = BTreeSet::new();
    // Before any revision, so that the first look reads everything.
    let mut at = -1;
    let mut news = api.cache.news();
    loop {
        news.borrow_and_update();
        match api.cache.after(at, REGISTRY) {
            Ok(piece) => {
                for change in piece.changes {
                    concerned.extend(graph.put(&change.key, change.new));
                }
                let more = piece.through < *news.borrow();
                at = piece.through;
                if more {
                    continue;
                }
            }
            Err(_too_old) => {
                let (live, revision) = api.cache.live(REGISTRY);
                graph = Graph::default();
                for (key, object) in live {
                    concerned.extend(graph.put(&key, Some(object)));
                }
                at = revision;
                continue;
            }
        }
        let mut failed = BTreeSet::new();
        let catalog = api.cache.catalog();
        let is_served = |version: &str, kind: &str| {
            catalog.all().any(|resource| resource.kind == kind && resource.version.api_version() == version)
        };
        for key in std::mem::take(&mut concerned) {
            for action in graph.decide(&key, is_served) {
                debug!(?action, "cleaning up");
                if let Err(failure) = carry_out(api, &action).await {
                    warn!(key, why = failure.message, "cleaning up failed, will be tried again");
                    failed.insert(key.clone());
                }
            }
        }
        concerned = failed;
        if concerned.is_empty() {
            if news.changed().await.is_err() {
                return;
            }
        } else if timeout(RETRY, news.changed()).await.is_ok() {
            // Whatever failed is tried again in its time, not with every change.
            sleep(RETRY / 10).await;
        }
    }
}

async fn carry_out(api: &Api, action: &Action) -> Result<()> {
    let (Action::Delete { key, .. }
    | Action::Disown { key, .. }
    | Action::Release { key, .. }
    | Action::Finalize { key }) = action;
    let catalog = api.cache.catalog();
    let Some(resource) = catalog.of_key(key) else { return Ok(()) };
    let done = match action {
        Action::Delete { uid, foreground, .. } => {
            let propagation = foreground.then(|| "Foreground".to_owned());
            let options = DeleteOptions { uid: Some(uid.clone()), propagation, ..DeleteOptions::default() };
            match api.delete(resource, key, &options).await {
                // It is gone, or another by now.
                Err(failure) if matches!(failure.code, 404 | 409) => Ok(None),
                other => other.map(|_deleted| None),
            }
        }
        Action::Disown { owners, .. } => {
            let disown = |object: &mut Value| {
                retain(object, "ownerReferences", |owner| !owners.contains(text(owner, "/uid")))
            };
            api.amend(resource, key, disown).await
        }
        Action::Release { finalizer, .. } => {
            api.amend(resource, key, |object| retain(object, "finalizers", |found| found != finalizer)).await
        }
        Action::Finalize { .. } => {
            let finalize = |object: &mut Value| {
                let spec = object::child(object, "spec");
                spec.remove("finalizers").is_some()
            };
            api.amend(resource, key, finalize).await
        }
    };
    done.map(drop)
}

/// Filters a list of the metadata, which goes when it is empty; whether anything changed.
fn retain(object: &mut Value, field: &str, keep: impl Fn(&Value) -> bool) -> bool {
    let metadata = object::metadata(object);
    let Some(Value::Array(items)) = metadata.get_mut(field) else { return false };
    let before = items.len();
    items.retain(|item| keep(item));
    let changed = items.len() < before;
    if items.is_empty() {
        metadata.remove(field);
    }
    changed
}
