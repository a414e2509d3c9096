//! The channel that a client has now, and the store that it led to.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use etcd_client::{
    AuthClient, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, ResponseHeader, WatchClient,
};
use tokio::sync::OnceCell;
use tonic::transport::Channel;

use super::{
    ANSWER_BYTES,
    error::{Asked, error},
};
use crate::client::{
    Error, EtcdConfig, OnNewCluster, Revision,
    connector::{Connector, Endpoint},
};

/// What the server may send ahead on one stream and on the connection.
const WINDOW: u32 = 4 << 20;

/// What all calls of a client share.
pub(super) struct Shared {
    config: EtcdConfig,
    connector: Connector,
    connection: ArcSwap<Connection>,
    /// Whether another store answered, with [`OnNewCluster::Fail`].
    spent: AtomicBool,
}

/// A channel and the store that it led to.
struct Connection {
    channel: Channel,
    clients: OnceCell<Clients>,
    /// Cluster id of the first answer; 0 before.
    pinned: AtomicU64,
}

/// `etcd-client` over one channel.
pub(super) struct Clients {
    pub(super) kv: KvClient,
    /// Asks for a member that has a leader: without one a watch would be silent for ever.
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    pub(super) maintenance: MaintenanceClient,
    pub(super) auth: AuthClient,
}

/// What is needed to check the answers of one call.
pub(super) struct Pin {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Shared {
    pub(super) fn new(config: EtcdConfig, endpoints: Vec<Endpoint>) -> Self {
        let connector = Connector::new(endpoints, config.tls.clone(), config.connect_timeout);
        let connection = ArcSwap::from_pointee(Connection::new(&config, &connector));
        Self { config, connector, connection, spent: AtomicBool::new(false) }
    }

    pub(super) fn config(&self) -> &EtcdConfig {
        &self.config
    }

    pub(super) fn cluster_id(&self) -> Option<u64> {
        let id = self.connection.load().pinned.load(Ordering::Acquire);
        (id != 0).then_some(id)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("cluster_id", &self.cluster_id())
            .field("spent", &self.is_spent())
            .finish_non_exhaustive()
    }
}

impl Connection {
    fn new(config: &EtcdConfig, connector: &Connector) -> Self {
        // The connector decides where to and how; the URI only becomes the `:authority`.
        let authority = config.endpoints.first().and_then(|text| Endpoint::parse(text).ok());
        let uri = authority.map_or_else(|| "http://etcd".to_owned(), |endpoint| format!("http://{endpoint}"));
        let endpoint = tonic::transport::Endpoint::from_shared(uri)
            .unwrap_or_else(|_not_a_uri| tonic::transport::Endpoint::from_static("http://etcd"))
            .http2_keep_alive_interval(config.keep_alive)
            .keep_alive_timeout(config.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW);
        Self {
            channel: endpoint.connect_with_connector_lazy(connector.clone()),
            clients: OnceCell::new(),
            pinned: AtomicU64::new(0),
        }
    }
}

impl Clients {
    async fn over(channel: &Channel) -> Result<Self, etcd_client::Error> {
        let channel = || etcd_client::Channel::Tonic(channel.clone());
        let with_leader = ConnectOptions::new().with_require_leader(true);
        let watch = etcd_client::Client::from_channel(channel(), Some(with_leader)).await?.watch_client();
        let client = etcd_client::Client::from_channel(channel(), None).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(ANSWER_BYTES),
            watch: watch.max_decoding_message_size(ANSWER_BYTES),
            lease: client.lease_client(),
            maintenance: client.maintenance_client(),
            auth: client.auth_client(),
        })
    }
}

impl Pin {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), connection: shared.connection.load_full() }
    }

    pub(super) async fn clients(&self) -> Result<&Clients, Error> {
        let Connection { channel, clients, .. } = &*self.connection;
        let clients = clients.get_or_try_init(|| Clients::over(channel)).await;
        clients.map_err(|cause| error(cause, Asked::Nothing))
    }

    /// Whether an answer is of the store that the earlier ones were of.
    pub(super) fn check(&self, header: Option<&ResponseHeader>) -> Result<Revision, Error> {
        let header = header.filter(|header| header.cluster_id() != 0).ok_or(Error::NoHeader)?;
        let found = header.cluster_id();
        let pinned = &self.connection.pinned;
        match pinned.compare_exchange(0, found, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_first) => Ok(Revision(header.revision())),
            Err(pinned) if pinned == found => Ok(Revision(header.revision())),
            Err(pinned) => {
                let shared = &*self.shared;
                match shared.config.on_new_cluster {
                    OnNewCluster::Fail => shared.spent.store(true, Ordering::Release),
                    OnNewCluster::Reconnect => {
                        // Only the first to notice replaces it.
                        let new = Arc::new(Connection::new(&shared.config, &shared.connector));
                        shared.connection.compare_and_swap(&self.connection, new);
                    }
                }
                Err(Error::ClusterChanged { pinned, found })
            }
        }
    }
}
