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
const KINDS: [Resource; 3] = [Resource::ServiceExports, Resource::Services, Resource::EndpointSlices];
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
        ClusterEvent::Put { item: Item::EndpointSlice(slice), .. } => {
            Some(RemoteEvent::SliceOffered { cluster, slice })
        }
        ClusterEvent::Gone { item: Some(ItemKey::EndpointSlice { namespace, name }), .. } => {
            Some(RemoteEvent::SliceWithdrawn { cluster, namespace, name })
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use kvstore::{Client, EmbeddedClient, LeaseId, Store, StoreConfig, Write};
    use mesh_observe::DialError;
    use mesh_runtime::Supervisor;
    use mesh_types::{
        Capabilities, ClusterConfig, ClusterEndpointSlice, Form, SERVICE_NAME_LABEL, SliceEndpoint, key,
    };

    struct Embedded(EmbeddedClient);

    impl Dial for Embedded {
        fn dial(&self) -> BoxFuture<'_, Result<Arc<dyn Client>, DialError>> {
            let client: Arc<dyn Client> = Arc::new(self.0.clone());
            Box::pin(async move { Ok(client) })
        }
    }

    /// Puts into the cache of a store what a mirror has there of `east`, which exports in that mode.
    async fn mirror(store: &EmbeddedClient, mode: &str) {
        let east: ClusterName = "east".parse().unwrap();
        let slice = ClusterEndpointSlice {
            cluster: "east".into(),
            cluster_id: 7,
            namespace: "shop".into(),
            name: "derived-ab-1".into(),
            labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), "derived-ab".into())]),
            address_type: "IPv4".into(),
            endpoints: vec![SliceEndpoint { addresses: vec!["10.2.0.1".into()], ..Default::default() }],
            ..Default::default()
        };
        let capabilities = Capabilities {
            synced_canaries: true,
            cached: true,
            service_exports_enabled: Some(true),
            endpoint_slices_export_mode: mode.into(),
            ..Default::default()
        };
        let slices = Resource::EndpointSlices.prefix(Form::Cache, &east);
        let mut pairs: Vec<(String, Vec<u8>)> = vec![(format!("{slices}shop/derived-ab-1"), slice.encode())];
        pairs.extend(KINDS.map(|kind| (kind.canary(Form::Cache, &east), b"now".to_vec())));
        pairs.push((key::cluster_config(&east), ClusterConfig { id: 7, capabilities }.encode()));
        let put = |(key, value): (String, Vec<u8>)| Write::Put {
            key: key.into(),
            value: value.into(),
            lease: LeaseId::NONE,
        };
        store.write(pairs.into_iter().map(put).collect()).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_has_endpoint_slices_alone_is_read_with_them() {
        for mode in ["endpointslices-only", "services-and-endpointslices"] {
            let store = Store::new(StoreConfig::default()).client();
            mirror(&store, mode).await;
            let tasks = Supervisor::new(Duration::from_secs(5));
            let (out, mut events) = channel();
            let settings = RemoteSettings {
                local: LocalCluster::new("west", 3, 255).unwrap(),
                absent_grace: Duration::from_secs(600),
            };
            let stop = CancellationToken::new();
            let reading = follow(settings, Arc::new(Embedded(store)), out, tasks.spawner(), stop.clone());
            let hearing = async {
                let mut found = Vec::new();
                while let Some(event) = events.recv().await {
                    if let RemoteEvent::SliceOffered { cluster, slice } = &event {
                        found.push(format!("{cluster} {}", slice.name));
                    } else if let RemoteEvent::Read(cluster) = &event {
                        found.push(format!("{cluster} is read"));
                        stop.cancel();
                    } else {
                        panic!("{mode}: {event:?}");
                    }
                }
                found
            };
            // The supervisor of the tasks goes on; what was started for this reading ends with it.
            let both = futures::future::join(reading, hearing);
            let (ended, found) = tokio::time::timeout(Duration::from_secs(60), both).await.expect(mode);
            ended.unwrap();
            assert_eq!(found, ["east derived-ab-1", "east is read"], "{mode}");
        }
    }
}
