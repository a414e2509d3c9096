//! What a peer says of itself: the one key of its cluster-config.

use bytes::Bytes;
use futures::StreamExt as _;
use kvstore::sync::Backoff;
use kvstore::{Client, Event, KeyRange, WatchError};
use mesh_runtime::Chain;
use mesh_types::{ClusterName, Reason, Rejection, key};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::error::explain;

/// Publishes the cluster-config of `name` as it changes, and calls `absent` when a read does not find it.
///
/// Exactly this key is read: the permissions of a peer end there. Its deletion is not published, since an exporter that
/// restarts writes it again; nor are failures after the first read, since the heartbeat decides on the connection.
/// Returns when the first read fails or the client is spent.
pub(super) async fn follow(
    client: &dyn Client,
    name: &ClusterName,
    publish: &watch::Sender<Option<Bytes>>,
    absent: impl Fn(),
) -> Rejection {
    let range = KeyRange::key(key::cluster_config(name));
    let tell = |value: Bytes| {
        publish.send_if_modified(|known| {
            let news = known.as_ref() != Some(&value);
            *known = Some(value);
            news
        });
    };
    let (mut first, mut failures) = (true, 0_u32);
    loop {
        let error = match client.list(&range, 1, None).await {
            Err(error) if first || client.is_spent() => return explain(&error),
            Err(error) => WatchError::Store(error),
            Ok(page) => {
                first = false;
                match page.kvs.into_iter().next() {
                    Some(found) => tell(found.value),
                    None if publish.borrow().is_none() => absent(),
                    None => {}
                }
                match client.watch(range.clone(), page.revision.next()).await {
                    Err(error) => error,
                    Ok(mut events) => loop {
                        match events.next().await {
                            Some(Ok(batch)) => {
                                failures = 0;
                                for event in batch.events {
                                    if let Event::Put(found) = event {
                                        tell(found.value);
                                    }
                                }
                            }
                            Some(Err(error)) => break error,
                            None => break WatchError::Closed,
                        }
                    },
                }
            }
        };
        failures = failures.saturating_add(1);
        debug!(cluster = %name, failures, error = %Chain(&error), "reading the cluster-config again");
        sleep(Backoff::default().delay(failures, mesh_runtime::jitter())).await;
    }
}

/// The peer answers but says nothing of itself.
pub(super) fn missing(name: &ClusterName) -> Rejection {
    let key = key::cluster_config(name);
    let what =
        format!("expected key {key}, found none; is the store that of {name}, and does its exporter run?");
    Rejection::new(Reason::ClusterConfigMissing, what)
}
