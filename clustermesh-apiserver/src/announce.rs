//! What a cluster says of itself: its configuration and its sign of life.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvstore::Client;
use kvstore::sync::{SyncWriter, WriterConfig};
use mesh_runtime::{Backoff, Chain, Restart, Spawner, Task, jitter};
use mesh_types::{Capabilities, ClusterConfig, LocalCluster, key};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::ServiceFormat;
use crate::daemon::RESTART;

/// Readers give a store up two minutes after its last sign of life.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);
/// Waits after the store did not answer.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));

/// Whether the ServiceExports of this cluster can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ExportsReadable {
    /// Nobody asked yet.
    #[default]
    Unknown,
    /// The API server does not have them, or does not show them.
    No,
    /// They were listed.
    Yes,
}

/// The writer of `cilium/cluster-config/<cluster>`, or of the same key in the tree of a scope: it watches the key, and reverts what others make of it.
pub(crate) fn config_writer(key: &Bytes, lease_ttl: Duration) -> SyncWriter {
    SyncWriter::new(WriterConfig {
        enforce: true,
        remove_stale: false,
        lease_ttl: Some(lease_ttl),
        ..WriterConfig::single(key.clone())
    })
}

/// The writer of `cilium/.heartbeat`, or of the same key in the tree of a scope.
pub(crate) fn heartbeat_writer(key: &Bytes, lease_ttl: Duration) -> SyncWriter {
    SyncWriter::new(WriterConfig {
        remove_stale: false,
        lease_ttl: Some(lease_ttl),
        ..WriterConfig::single(key.clone())
    })
}

/// Starts the task of [`announce`].
pub(crate) fn spawn(
    tasks: &Spawner,
    local: &LocalCluster,
    services: (bool, ServiceFormat),
    store: &Arc<dyn Client>,
    writer: &SyncWriter,
    readable: &watch::Receiver<ExportsReadable>,
) -> Task {
    let (local, store) = (local.clone(), Arc::clone(store));
    let (writer, readable) = (writer.clone(), readable.clone());
    tasks.spawn("announce", Restart::WithBackoff(RESTART), move |stop| {
        let (local, store, writer) = (local.clone(), Arc::clone(&store), writer.clone());
        let announce = announce(local, services, store, writer, readable.clone(), stop);
        async move {
            announce.await;
            Ok::<(), Infallible>(())
        }
    })
}

/// Starts the task of [`beat`].
pub(crate) fn spawn_beat(tasks: &Spawner, writer: &SyncWriter) -> Task {
    let writer = writer.clone();
    tasks.spawn("heartbeat", Restart::WithBackoff(RESTART), move |stop| {
        let beat = beat(writer.clone(), stop);
        async move {
            beat.await;
            Ok::<(), Infallible>(())
        }
    })
}

/// Keeps the configuration of `local` announced until `stop`.
///
/// `serviceExportsEnabled` is false when exports are switched off. When they are switched on, it is true once they could be
/// read; until somebody tried, it stays as an earlier life announced it, so that a restart is no news to anybody.
async fn announce(
    local: LocalCluster,
    (mcs_api, services): (bool, ServiceFormat),
    store: Arc<dyn Client>,
    writer: SyncWriter,
    mut readable: watch::Receiver<ExportsReadable>,
    stop: CancellationToken,
) {
    let earlier = if mcs_api {
        let Some(earlier) = stop.run_until_cancelled(announced(&local, store)).await else { return };
        earlier
    } else {
        false
    };
    loop {
        let now = *readable.borrow_and_update();
        let exports = match now {
            ExportsReadable::Unknown => earlier,
            ExportsReadable::No => false,
            ExportsReadable::Yes => mcs_api,
        };
        let config = cluster_config(&local, exports, services);
        if writer.upsert(Bytes::new(), config.encode()) {
            info!(service_exports = exports, "announcing the cluster's configuration");
        }
        match stop.run_until_cancelled(readable.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_nobody_will_tell_more)) => {
                stop.cancelled().await;
                return;
            }
            None => return,
        }
    }
}

/// Writes a sign of life now and every minute until `stop`.
async fn beat(writer: SyncWriter, stop: CancellationToken) {
    let mut beats = tokio::time::interval(HEARTBEAT_EVERY);
    while stop.run_until_cancelled(beats.tick()).await.is_some() {
        // Also with the text of the last beat: a clock that stands still is no sign of death.
        writer.rewrite(&[], stamp());
    }
}

/// As [`timestamp`], to the microsecond, by which a mirror of ours sees how long a change takes to reach it. Cilium writes
/// seconds, and does not read it.
fn stamp() -> Bytes {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into()
}

/// The current time as such values have it: RFC 3339, in seconds.
pub(crate) fn timestamp() -> Bytes {
    let now = jiff::Timestamp::now();
    let seconds = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    seconds.to_string().into()
}

fn cluster_config(local: &LocalCluster, service_exports: bool, services: ServiceFormat) -> ClusterConfig {
    ClusterConfig {
        id: local.id.get(),
        capabilities: Capabilities {
            synced_canaries: true,
            max_connected_clusters: local.max.get(),
            service_exports_enabled: Some(service_exports),
            endpoint_slices_export_mode: services.announced().to_owned(),
            ..Capabilities::default()
        },
    }
}

/// What an earlier life announced of service exports; nothing is the same as false.
async fn announced(local: &LocalCluster, store: Arc<dyn Client>) -> bool {
    let key = key::cluster_config(&local.name);
    let mut retry = RETRY.retry();
    loop {
        match store.get(key.as_bytes()).await {
            Ok(found) => {
                let config = found.and_then(|found| ClusterConfig::decode(&found.value).ok());
                return config
                    .and_then(|config| config.capabilities.service_exports_enabled)
                    .unwrap_or(false);
            }
            Err(error) => {
                let wait = retry.next_delay(jitter());
                warn!(error = %Chain(&error), ?wait, "the store does not answer, asking again");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use kvstore::{KeyRange, Store, StoreConfig};

    #[test]
    fn the_configuration_is_written_as_cilium_writes_it() {
        let local = LocalCluster::new("prod-eu", 7, 255).unwrap();
        for (format, mode) in [
            (ServiceFormat::default(), "services-and-endpointslices"),
            (ServiceFormat::OnlyEndpointSlice, "endpointslices-only"),
        ] {
            let text = String::from_utf8(cluster_config(&local, false, format).encode()).unwrap();
            let expected = format!(
                r#"{{"id":7,"capabilities":{{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false,"endpointSlicesExportMode":"{mode}"}}}}"#
            );
            assert_eq!(text, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_beat_is_a_write_and_never_a_deletion() {
        let store: Arc<dyn Client> = Arc::new(Store::new(StoreConfig::default()).client());
        let from = store.status().await.unwrap().revision.next();
        let mut events = store.watch(KeyRange::prefix(key::HEARTBEAT), from).await.unwrap();
        let (writer, stop) =
            (heartbeat_writer(&key::HEARTBEAT.into(), Duration::from_secs(900)), CancellationToken::new());
        let mut tasks = tokio::task::JoinSet::new();
        let (writing, until) = (writer.clone(), stop.clone());
        let written = Arc::clone(&store);
        tasks.spawn(async move { drop(writing.run(&*written, &until).await) });
        let began = tokio::time::Instant::now();
        tasks.spawn(beat(writer, stop.clone()));
        for beat in 1..4 {
            let batch = events.next().await.unwrap().unwrap();
            let [kvstore::Event::Put(put)] = &batch.events[..] else { panic!("one put, not {batch:?}") };
            assert_eq!(put.version, beat, "the key is modified, not made anew");
        }
        assert_eq!(began.elapsed().as_secs(), 120, "the first beat comes at once");
        stop.cancel();
        tasks.join_all().await;
    }

    #[test]
    fn timestamps_are_rfc_3339_in_seconds_and_beats_in_microseconds() {
        let text = String::from_utf8(timestamp().to_vec()).unwrap();
        assert_eq!(text.len(), "2026-02-03T10:11:12Z".len(), "{text}");
        assert!(text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z'), "{text}");
        let text = String::from_utf8(stamp().to_vec()).unwrap();
        assert_eq!(text.len(), "2026-02-03T10:11:12.000000Z".len(), "{text}");
        assert!(text.parse::<jiff::Timestamp>().is_ok(), "{text}");
    }
}
