//! How the local store is reached.

use std::sync::Arc;

use futures::future::BoxFuture;
use kvstore::{Client, Error, EtcdClient, EtcdConfig, OnNewCluster};

/// How the local store is connected to. Tests put stores of their own behind it.
pub trait Dial: Send + Sync + 'static {
    /// A new client, which stays with the store that answers it first.
    fn dial(&self) -> BoxFuture<'_, Result<Arc<dyn Client>, DialError>>;
}

/// Why there is no connection to the local store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The store does not answer or refuses us.
    #[error("connect to the local store")]
    Store(#[source] Error),
}

/// A store that speaks etcd v3. Its TLS files are read again for each connection.
#[derive(Clone, Debug)]
pub struct EtcdStore(EtcdConfig);

impl EtcdStore {
    /// The store of `config`; whatever that says, a client ends when another store answers, since a reader must notice.
    pub fn new(config: EtcdConfig) -> Self {
        EtcdStore(EtcdConfig { on_new_cluster: OnNewCluster::Fail, ..config })
    }
}

impl Dial for EtcdStore {
    fn dial(&self) -> BoxFuture<'_, Result<Arc<dyn Client>, DialError>> {
        Box::pin(async {
            let client = EtcdClient::new(self.0.clone()).map_err(DialError::Store)?;
            Ok(Arc::new(client) as Arc<dyn Client>)
        })
    }
}
