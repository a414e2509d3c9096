//! A network of stores in this process that can be cut and replaced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use kvstore::{
    Client, Error, EtcdConfig, Guard, Guarded, KeyRange, KeyValue, LeaseId, Limits, Page, Revision, Store,
    StoreConfig, StoreStatus, WatchError, WatchStream, Write,
};
use kvstoremesh::Dial;
use tokio_util::sync::CancellationToken;

/// Stores by endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    places: Arc<Mutex<BTreeMap<String, Place>>>,
}

#[derive(Clone, Debug)]
struct Place {
    store: Option<Arc<Store>>,
    /// Cancelled when the connections to the place break.
    wire: CancellationToken,
    dials: usize,
}

impl Net {
    /// What answers at `endpoint` from now on; connections to what was there break.
    pub(crate) fn put(&self, endpoint: &str, store: Option<Arc<Store>>) {
        let mut places = self.lock();
        let dials = places.get(endpoint).map_or(0, |place| place.dials);
        let place = Place { store, wire: CancellationToken::new(), dials };
        if let Some(before) = places.insert(endpoint.to_owned(), place) {
            before.wire.cancel();
        }
    }

    /// How often `endpoint` was dialled.
    pub(crate) fn dials(&self, endpoint: &str) -> usize {
        self.lock()[endpoint].dials
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        self.places.lock().unwrap()
    }

    fn place(&self, endpoint: &str) -> Result<(Arc<Store>, CancellationToken), Error> {
        let place = self.lock().get(endpoint).cloned();
        let place = place.and_then(|place| Some((place.store?, place.wire)));
        place.ok_or_else(|| Error::Transport("connection refused".into()))
    }
}

impl Dial for Net {
    fn dial<'a>(&'a self, config: &'a EtcdConfig) -> BoxFuture<'a, Result<Arc<dyn Client>, Error>> {
        Box::pin(async move {
            let endpoint = config.endpoints[0].clone();
            if let Some(place) = self.lock().get_mut(&endpoint) {
                place.dials += 1;
            }
            let pinned = self.place(&endpoint)?.0.config().cluster_id;
            Ok(Arc::new(Wire { net: self.clone(), endpoint, pinned, spent: Mutex::new(false) })
                as Arc<dyn Client>)
        })
    }
}

/// A client that stays with the store that it found first, as the etcd client does.
#[derive(Debug)]
struct Wire {
    net: Net,
    endpoint: String,
    pinned: u64,
    spent: Mutex<bool>,
}

impl Wire {
    fn store(&self) -> Result<(Arc<Store>, CancellationToken), Error> {
        let (store, wire) = self.net.place(&self.endpoint)?;
        let found = store.config().cluster_id;
        if found != self.pinned {
            *self.spent.lock().unwrap() = true;
            return Err(Error::ClusterChanged { pinned: self.pinned, found });
        }
        Ok((store, wire))
    }
}

#[async_trait]
impl Client for Wire {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        self.store()?.0.client().get(key).await
    }

    async fn list(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<Page, Error> {
        self.store()?.0.client().list(range, limit, at).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, WatchError> {
        let (store, wire) = self.store()?;
        let client = store.client();
        if from > client.status().await?.revision.next() {
            // A real store would wait for that revision to come.
            return Err(WatchError::Compacted { from, oldest: from });
        }
        let events = client.watch(range, from).await?;
        Ok(events.take_until(wire.cancelled_owned()).boxed())
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Revision, Error> {
        self.store()?.0.client().write(batch).await
    }

    async fn write_if(&self, guards: Vec<Guard>, batch: Vec<Write>) -> Result<Guarded, Error> {
        self.store()?.0.client().write_if(guards, batch).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.store()?.0.client().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.store()?.0.client().keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.store()?.0.client().revoke(lease).await
    }

    async fn status(&self) -> Result<StoreStatus, Error> {
        self.store()?.0.client().status().await
    }

    fn limits(&self) -> Limits {
        Limits { batch_operations: 128, batch_bytes: 1 << 20, keys_per_lease: None, page: Some(3) }
    }

    fn is_spent(&self) -> bool {
        *self.spent.lock().unwrap()
    }
}

/// An empty store with an id of its own.
pub(crate) fn store() -> Arc<Store> {
    Store::new(StoreConfig::default())
}

/// An empty store that calls itself the same as another.
pub(crate) fn store_like(other: &Store) -> Arc<Store> {
    Store::new(other.config().clone())
}
