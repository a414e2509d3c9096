//! How the local store is reached.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use kvstore::{Client, ConfigFileError, Error, EtcdClient, EtcdConfigFile, OnNewCluster};

/// How the local store is connected to. Tests put stores of their own behind it.
pub trait Dial: Send + Sync + 'static {
    /// A new client, which stays with the store that answers it first.
    fn dial(&self) -> BoxFuture<'_, Result<Arc<dyn Client>, DialError>>;
}

/// Why there is no connection to the local store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The configuration file cannot be used.
    #[error("configuration of the local store")]
    Config(#[source] ConfigFileError),
    /// The store does not answer or refuses us.
    #[error("connect to the local store")]
    Store(#[source] Error),
}

/// The store of an etcd client configuration file, which is read again for each connection.
#[derive(Clone, Debug)]
pub struct StoreFile(pub PathBuf);

impl Dial for StoreFile {
    fn dial(&self) -> BoxFuture<'_, Result<Arc<dyn Client>, DialError>> {
        Box::pin(async {
            let mut config = EtcdConfigFile::read(&self.0).map_err(DialError::Config)?.config;
            config.on_new_cluster = OnNewCluster::Fail;
            let client = EtcdClient::new(config).map_err(DialError::Store)?;
            Ok(Arc::new(client) as Arc<dyn Client>)
        })
    }
}
