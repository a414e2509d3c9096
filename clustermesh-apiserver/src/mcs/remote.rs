//! The exports of other clusters, from the local store's cache.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mesh_observe::{ClusterEvent, Dial, Event, Item, ItemKey, Observer, ObserverSettings};
use mesh_runtime::{Backoff, Spawner};
use mesh_types::{ClusterName, LocalCluster, Resource};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::RemoteEvent;

/// What imports are made of.
const KINDS: [Resource; 2] = [Resource::ServiceExports, Resource::Services];
/// Batches between the observer and the controller; when it is full the observer waits.
const QUEUE: usize = 16;
/// Waits between attempts to reach the local store.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// How the exports of other clusters are followed.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// This cluster.
    pub local: LocalCluster,
    /// How long a cluster that is absent from the store, without evidence that it left, keeps its place in imports.
    pub absent_grace: Duration,
}

/// Follows the exports of other clusters until `stop`; what changes goes to `out`.
///
/// # Errors
/// None: every failure is retried.
pub async fn follow(
    settings: RemoteSettings,
    dial: Arc<dyn Dial>,
    out: mpsc::Sender<RemoteEvent>,
    spawner: Spawner,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let (events_in, mut events) = mpsc::channel(QUEUE);
    let observed = ObserverSettings {
        local: settings.local,
        kinds: KINDS.to_vec(),
        absent_grace: settings.absent_grace,
        backoff: RECONNECT,
    };
    let observer = Observer::new(observed, dial, events_in, &spawner).run(stop.clone());
    let waited_enough = Instant::now() + settings.absent_grace;
    let translate = async {
        let mut waiting = true;
        let mut synced = BTreeMap::new();
        loop {
            let batch = tokio::select! {
                batch = events.recv() => batch,
                () = sleep_until(waited_enough), if waiting => {
                    waiting = false;
                    if out.send(RemoteEvent::WaitedEnough).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Some(batch) = batch else { return };
            for event in batch.into_iter().filter_map(|event| translate(event, &mut synced)) {
                if out.send(event).await.is_err() {
                    return;
                }
            }
        }
    };
    let (observed, ()) = futures::future::join(observer, translate).await;
    observed
}

/// The kinds of each cluster that are known in full.
type Synced = BTreeMap<ClusterName, BTreeSet<Resource>>;

/// What an event means for imports; `None` if nothing.
fn translate(event: Event, synced: &mut Synced) -> Option<RemoteEvent> {
    match event {
        Event::Cluster(cluster, event) => of_cluster(cluster, event, synced),
        Event::Config { key, refused: Some(refused) } => {
            warn!(cluster = key, reason = %refused.reason, "{}", refused.detail);
            None
        }
        Event::Config { refused: None, .. } => None,
        Event::Store(event) => {
            debug!(?event, "local store");
            None
        }
    }
}

fn of_cluster(cluster: ClusterName, event: ClusterEvent, synced: &mut Synced) -> Option<RemoteEvent> {
    match event {
        ClusterEvent::Put { item: Item::ServiceExport(export), .. } => {
            Some(RemoteEvent::Exported { cluster, export })
        }
        ClusterEvent::Gone { item: Some(ItemKey::ServiceExport(service)), .. } => {
            let (namespace, name) = (service.namespace.to_string(), service.name.to_string());
            Some(RemoteEvent::Withdrawn { cluster, namespace, name })
        }
        ClusterEvent::Put { item: Item::Service(service), .. } => {
            Some(RemoteEvent::Offered { cluster, service })
        }
        ClusterEvent::Gone { item: Some(ItemKey::Service(service)), .. } => {
            let (namespace, name) = (service.namespace.to_string(), service.name.to_string());
            Some(RemoteEvent::OfferWithdrawn { cluster, namespace, name })
        }
        ClusterEvent::Synced(kind) => {
            let kinds = synced.entry(cluster.clone()).or_default();
            kinds.insert(kind);
            KINDS.iter().all(|kind| kinds.contains(kind)).then_some(RemoteEvent::Read(cluster))
        }
        ClusterEvent::Removed => {
            synced.remove(&cluster);
            Some(RemoteEvent::ClusterGone(cluster))
        }
        ClusterEvent::Rejected { refused, .. } => {
            warn!(%cluster, reason = %refused.reason, "{}", refused.detail);
            None
        }
        ClusterEvent::Withheld { keys, .. } => {
            warn!(%cluster, keys, "withdrawn exports are held back until the mirror is complete");
            None
        }
        // Contact lost or back changes no import; other kinds are not asked for.
        ClusterEvent::Put { .. }
        | ClusterEvent::Gone { .. }
        | ClusterEvent::Standing(_)
        | ClusterEvent::Lost { .. }
        | ClusterEvent::Resumed(_) => None,
    }
}

/// The channel between [`follow`] and the controller.
pub fn channel() -> (mpsc::Sender<RemoteEvent>, mpsc::Receiver<RemoteEvent>) {
    mpsc::channel(256)
}

/// The channel for the controller's status.
pub fn status_channel() -> (watch::Sender<super::Status>, watch::Receiver<super::Status>) {
    watch::channel(super::Status::default())
}
