//! What the store holds, as objects, and what changed of late: what watches and the janitor follow.
//!
//! One task follows the store and fills the cache; watchers read from the log of changes at their own pace. There is
//! no queue per watcher: one that falls behind the log is told that its version has expired, and lists again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kvstore::{Client, Event, KeyRange, KeyValue, Revision, WatchError};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::catalog::Catalog;
use crate::object;

/// Where all objects are.
pub(crate) const REGISTRY: &str = "/registry/";
const DEFINITIONS: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// How many changes a watcher may be behind.
const LOG: usize = 16_384;
/// How long to wait after the store could not be followed.
const PAUSE: Duration = Duration::from_millis(200);
/// Most changes that a watcher gets in one piece.
const PIECE: usize = 256;

/// Resource versions are revisions of the store above this number, which is of the store's making: a version that a
/// client kept from an earlier, forgotten store is below it, and so known to be too old.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(pub(crate) i64);

impl Epoch {
    pub(crate) fn version(self, revision: i64) -> String {
        (self.0 + revision).to_string()
    }

    /// The revision of a version; below 1 if it is of another store. `None` if it is no version.
    pub(crate) fn revision(self, version: &str) -> Option<i64> {
        Some(version.parse::<i64>().ok().filter(|version| *version >= 0)? - self.0)
    }

    /// Reads what is stored, and sets its version.
    pub(crate) fn object(self, kv: &KeyValue) -> Option<Value> {
        let mut object: Value = serde_json::from_slice(&kv.value).ok()?;
        self.stamp(&mut object, kv.mod_revision.0);
        Some(object)
    }

    /// Sets the version.
    pub(crate) fn stamp(self, object: &mut Value, revision: i64) {
        object::metadata(object).insert("resourceVersion".to_owned(), self.version(revision).into());
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) key: String,
    pub(crate) old: Option<Arc<Value>>,
    pub(crate) new: Option<Arc<Value>>,
}

/// Changes in the order in which they happened.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) changes: Vec<Change>,
    /// Go on from here.
    pub(crate) through: i64,
}

/// A version is older than what the cache remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooOld;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cache {
    epoch: Epoch,
    state: Mutex<State>,
    revision: watch::Sender<i64>,
}

#[derive(Debug)]
struct State {
    live: BTreeMap<String, Arc<Value>>,
    log: VecDeque<Change>,
    /// Every change after this revision is in the log.
    since: i64,
    revision: i64,
    catalog: Arc<Catalog>,
}

impl Cache {
    pub(crate) fn new(epoch: Epoch) -> Self {
        let state = State {
            live: BTreeMap::new(),
            log: VecDeque::new(),
            since: 0,
            revision: 0,
            catalog: Arc::new(Catalog::new(BTreeMap::new())),
        };
        Self { epoch, state: Mutex::new(state), revision: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.lock().catalog)
    }

    /// Tells when there is more; holds the revision that is known.
    pub(crate) fn news(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// The objects below a prefix now, and the revision at which they are so.
    pub(crate) fn live(&self, prefix: &str) -> (Vec<(String, Arc<Value>)>, i64) {
        let state = self.lock();
        let below = state.live.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        (below.map(|(key, object)| (key.clone(), Arc::clone(object))).collect(), state.revision)
    }

    /// What changed below `prefix` after a revision.
    pub(crate) fn after(&self, revision: i64, prefix: &str) -> Result<Piece, TooOld> {
        let state = self.lock();
        if revision < state.since {
            return Err(TooOld);
        }
        let start = state.log.partition_point(|change| change.revision <= revision);
        let mut changes = Vec::new();
        for change in state.log.range(start..) {
            // Never between two changes of one revision.
            if changes.len() >= PIECE
                && changes.last().is_some_and(|last: &Change| last.revision < change.revision)
            {
                let through = change.revision - 1;
                return Ok(Piece { changes, through });
            }
            if change.key.starts_with(prefix) {
                changes.push(change.clone());
            }
        }
        Ok(Piece { changes, through: state.revision.max(revision) })
    }

    /// Waits until the cache has seen a revision.
    pub(crate) async fn reached(&self, revision: i64) {
        // The sender lives as long as `self`.
        drop(self.news().wait_for(|seen| *seen >= revision).await);
    }

    /// Takes the whole of the store: what it does not name is gone, and what came before is forgotten.
    fn reset(&self, kvs: &[KeyValue], revision: i64) {
        let mut state = self.lock();
        let objects = kvs.iter().filter_map(|kv| Some((text(&kv.key), Arc::new(self.epoch.object(kv)?))));
        let live: BTreeMap<_, _> = objects.collect();
        // The janitor and the watchers start anew.
        state.live = live;
        state.log.clear();
        state.since = revision;
        state.revision = revision;
        state.refresh_catalog();
        drop(state);
        self.revision.send_replace(revision);
    }

    fn apply(&self, events: &[Event], revision: i64) {
        let mut state = self.lock();
        let mut definitions_changed = false;
        for event in events {
            let key = text(event.key());
            let new = match event {
                Event::Put(kv) => match self.epoch.object(kv) {
                    Some(object) => Some(Arc::new(object)),
                    None => {
                        warn!(key, "what is stored is no JSON object; ignored");
                        continue;
                    }
                },
                Event::Delete { .. } => None,
            };
            let old = match &new {
                Some(new) => state.live.insert(key.clone(), Arc::clone(new)),
                None => state.live.remove(&key),
            };
            definitions_changed |= key.starts_with(DEFINITIONS);
            state.log.push_back(Change { revision: event.mod_revision().0, key, old, new });
        }
        while state.log.len() > LOG {
            let Some(gone) = state.log.pop_front() else { break };
            state.since = gone.revision;
        }
        state.revision = state.revision.max(revision);
        if definitions_changed {
            state.refresh_catalog();
        }
        let revision = state.revision;
        drop(state);
        self.revision.send_replace(revision);
    }

    /// Lists once; after it returns, the cache has what the store has.
    pub(crate) async fn load(&self, store: &dyn Client) -> Result<(), kvstore::Error> {
        let limit = store.limits().page.unwrap_or(0);
        let mut range = KeyRange::prefix(REGISTRY.as_bytes());
        let (mut all, mut at) = (Vec::new(), None);
        loop {
            let page = store.list(&range, limit, at).await?;
            at = Some(page.revision);
            all.extend(page.kvs);
            match all.last() {
                Some(last) if page.more => range = range.after(&last.key),
                _ => break,
            }
        }
        self.reset(&all, at.unwrap_or_default().0);
        Ok(())
    }

    /// Follows the store until told to stop.
    pub(crate) async fn follow(&self, store: &dyn Client, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let ended = stop.run_until_cancelled(self.follow_once(store)).await;
            let Some(Err(error)) = ended else { continue };
            if let WatchError::TooSlow | WatchError::Closed = error {
                debug!(%error, "resuming the watch of the store");
            } else {
                warn!(error = &error as &dyn std::error::Error, "reading the store anew");
                if let Err(error) = self.load(store).await {
                    warn!(error = &error as &dyn std::error::Error, "the store cannot be read");
                }
            }
            // Nothing to do when told to stop meanwhile: the loop's condition sees it.
            stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
    }

    async fn follow_once(&self, store: &dyn Client) -> Result<(), WatchError> {
        let from = Revision(self.lock().revision).next();
        let mut events = store.watch(KeyRange::prefix(REGISTRY.as_bytes()), from).await?;
        while let Some(batch) = events.next().await {
            let batch = batch?;
            self.apply(&batch.events, batch.revision.0);
        }
        Err(WatchError::Closed)
    }
}

impl State {
    fn refresh_catalog(&mut self) {
        let definitions =
            self.live.range(DEFINITIONS.to_owned()..).take_while(|(key, _)| key.starts_with(DEFINITIONS));
        let by_name =
            definitions.map(|(key, object)| (key[DEFINITIONS.len()..].to_owned(), Arc::clone(object)));
        self.catalog = Arc::new(Catalog::new(by_name.collect()));
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvstore::LeaseId;
    use serde_json::json;

    use super::*;

    const EPOCH: Epoch = Epoch(1_000_000);

    fn put(key: &str, revision: i64, value: &Value) -> Event {
        Event::Put(KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.to_string().into(),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            version: 1,
            lease: LeaseId::NONE,
        })
    }

    fn delete(key: &str, revision: i64) -> Event {
        Event::Delete { key: Bytes::copy_from_slice(key.as_bytes()), mod_revision: Revision(revision) }
    }

    #[test]
    fn versions_of_another_store_are_known() {
        assert_eq!(EPOCH.version(7), "1000007");
        assert_eq!(EPOCH.revision("1000007"), Some(7));
        assert!(EPOCH.revision("7").unwrap() < 1);
        assert_eq!(EPOCH.revision("x"), None);
    }

    #[test]
    fn a_watcher_gets_what_is_below_its_prefix_with_what_was_before() {
        let cache = Cache::new(EPOCH);
        cache.apply(
            &[
                put("/registry/core/pods/a/x", 2, &json!({"v": 1})),
                put("/registry/core/nodes/x", 2, &json!({})),
            ],
            2,
        );
        cache.apply(
            &[put("/registry/core/pods/a/x", 3, &json!({"v": 2})), delete("/registry/core/pods/a/x", 4)],
            4,
        );
        let piece = cache.after(2, "/registry/core/pods/").unwrap();
        assert_eq!(piece.through, 4);
        let values = |object: &Option<Arc<Value>>| object.as_ref().map(|object| object["v"].clone());
        let seen: Vec<_> =
            piece.changes.iter().map(|change| (values(&change.old), values(&change.new))).collect();
        assert_eq!(seen, [(Some(json!(1)), Some(json!(2))), (Some(json!(2)), None)]);
        assert_eq!(cache.after(0, "/registry/core/nodes/").unwrap().changes.len(), 1);
    }

    #[test]
    fn who_falls_behind_the_log_is_told() {
        let cache = Cache::new(EPOCH);
        let total = i64::try_from(LOG).unwrap() + 10;
        for revision in 1..=total {
            cache.apply(&[put("/registry/core/pods/a/x", revision, &json!({}))], revision);
        }
        assert_eq!(cache.after(9, REGISTRY).unwrap_err(), TooOld);
        let mut at = 10;
        let mut seen = 0;
        while at < total {
            let piece = cache.after(at, REGISTRY).unwrap();
            seen += piece.changes.len();
            at = piece.through;
        }
        assert_eq!(seen, LOG, "in pieces, each change once");
    }

    #[test]
    fn reading_anew_forgets_what_came_before() {
        let cache = Cache::new(EPOCH);
        cache.apply(&[put("/registry/core/pods/a/x", 2, &json!({}))], 2);
        cache.reset(&[], 9);
        assert_eq!(cache.after(2, REGISTRY).unwrap_err(), TooOld);
        assert_eq!(cache.live(REGISTRY), (vec![], 9));
    }
}
