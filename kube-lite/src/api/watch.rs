//! Watch: what changes, from a version on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Api, convert};
use crate::cache::Change;
use crate::kinds::Resource;
use crate::object;
use crate::path::Query;
use crate::select::Selector;
use crate::status::{Failure, Result};

/// How long a watch lasts that names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How often a watcher that asked for it hears how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Where a watch begins.
#[derive(Debug)]
pub(crate) struct WatchStart {
    /// After this revision.
    pub(crate) after: i64,
    /// First, as if they were added just now.
    pub(crate) initial: Vec<Value>,
    /// Whether a bookmark says when these are through.
    pub(crate) bookmark_after_initial: bool,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WatchEvent {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

struct Watcher {
    api: Api,
    resource: Arc<Resource>,
    prefix: String,
    selector: Selector,
    at: i64,
    news: watch::Receiver<i64>,
    ready: VecDeque<WatchEvent>,
    ends: Instant,
    next_bookmark: Option<Instant>,
    stop: CancellationToken,
    ended: bool,
}

impl Api {
    /// Where a watch with this query begins.
    ///
    /// # Errors
    /// A version that cannot be read, or is not of this store's history any more.
    pub(crate) async fn watch_start(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        query: &Query,
    ) -> Result<WatchStart> {
        let version = query.resource_version.as_str();
        let streams_list = query.send_initial_events == Some(true);
        if streams_list && !query.bookmarks {
            return Err(Failure::bad_request("sendInitialEvents needs allowWatchBookmarks"));
        }
        let from_now = matches!(version, "" | "0");
        if streams_list || from_now && query.send_initial_events.is_none() {
            let all =
                Query { limit: 0, next: String::new(), resource_version: String::new(), ..query.clone() };
            let list = self.list(resource, namespace, &all).await?;
            let after = self.epoch.revision(&list.resource_version).unwrap_or_default();
            return Ok(WatchStart { after, initial: list.items, bookmark_after_initial: streams_list });
        }
        let known = *self.cache.news().borrow();
        let after = if from_now {
            known
        } else {
            let revision = self.epoch.revision(version);
            revision.ok_or_else(|| Failure::bad_request(format!("invalid resourceVersion {version:?}")))?
        };
        // A version that is not there yet is of another store, as one from before it is.
        if after < 1 || !self.has_reached(after).await? || self.cache.after(after, "\0").is_err() {
            return Err(too_old(version, &self.epoch.version(known)));
        }
        Ok(WatchStart { after, initial: Vec::new(), bookmark_after_initial: false })
    }

    /// The events of a watch, until its time is over, the server stops, or it falls too far behind.
    ///
    /// # Errors
    /// A selector that cannot be read.
    pub(crate) fn watch(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        query: &Query,
        start: WatchStart,
        stop: CancellationToken,
    ) -> Result<impl Stream<Item = WatchEvent> + Send + 'static> {
        let selector = Selector::read(&query.labels, &query.fields, &resource.selectable)?;
        let namespace = namespace.filter(|_| resource.namespaced);
        let prefix = namespace
            .map_or_else(|| resource.prefix(), |namespace| format!("{}{namespace}/", resource.prefix()));
        let added = |object| WatchEvent { kind: "ADDED", object };
        let mut ready: VecDeque<_> = start.initial.into_iter().map(added).collect();
        if start.bookmark_after_initial {
            ready.push_back(self.bookmark(resource, start.after, true));
        }
        let now = Instant::now();
        let watcher = Watcher {
            api: self.clone(),
            resource: Arc::clone(resource),
            prefix,
            selector,
            at: start.after,
            news: self.cache.news(),
            ready,
            ends: now + query.timeout_seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            next_bookmark: query.bookmarks.then_some(now + BOOKMARK_EVERY),
            stop,
            ended: false,
        };
        Ok(futures::stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((event, watcher))
        }))
    }

    fn bookmark(&self, resource: &Resource, revision: i64, initial_end: bool) -> WatchEvent {
        let mut object = json!({
            "kind": resource.kind, "apiVersion": resource.version.api_version(),
            "metadata": {"resourceVersion": self.epoch.version(revision), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        WatchEvent { kind: "BOOKMARK", object }
    }
}

impl Watcher {
    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            self.news.borrow_and_update();
            match self.api.cache.after(self.at, &self.prefix) {
                Ok(piece) => {
                    self.at = piece.through;
                    let events = piece.changes.iter().filter_map(|change| self.event(change)).collect();
                    self.ready = events;
                    if !self.ready.is_empty() {
                        continue;
                    }
                }
                Err(_too_old) => {
                    self.ended = true;
                    let known = *self.news.borrow();
                    let failure = too_old(&self.api.epoch.version(self.at), &self.api.epoch.version(known));
                    return Some(WatchEvent { kind: "ERROR", object: failure.to_json() });
                }
            }
            let bookmark_at = self.next_bookmark.unwrap_or(self.ends).min(self.ends);
            tokio::select! {
                () = self.stop.cancelled() => return None,
                changed = self.news.changed() => changed.ok()?,
                () = sleep_until(bookmark_at) => {
                    self.ended = Instant::now() >= self.ends;
                    if self.next_bookmark.is_some() {
                        self.next_bookmark = Some(Instant::now() + BOOKMARK_EVERY);
                        self.ready.push_back(self.api.bookmark(&self.resource, self.at, false));
                    }
                }
            }
        }
    }

    /// What a change is to this watcher: an object that begins to match is added, one that ceases to is deleted.
    fn event(&self, change: &Change) -> Option<WatchEvent> {
        let before = change.old.as_ref().filter(|old| self.selector.matches(old));
        let after = change.new.as_ref().filter(|new| self.selector.matches(new));
        let (kind, object) = match (before, after) {
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old),
            (None, None) => return None,
        };
        let mut object = Value::clone(object);
        self.api.epoch.stamp(&mut object, change.revision);
        convert(&self.resource, &mut object);
        debug_assert!(!object::name(&object).is_empty(), "stored objects have names");
        Some(WatchEvent { kind, object })
    }
}

fn too_old(asked: &str, current: &str) -> Failure {
    Failure::expired(format!("too old resource version: {asked} ({current})"))
}
