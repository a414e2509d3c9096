//! The store as an etcd v3 server: gRPC and HTTP over mutual TLS.
//!
//! What comes in: connections. What goes out: etcd's answers, codes and messages included. Each connection is
//! one task; each listener is one task; what they share is `Shared`.

mod auth;
mod clients;
mod cluster;
mod config;
mod connection;
mod convert;
mod election;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod grpc;
mod health;
mod http1;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod overlap;
mod queue;
mod root;
mod route;
mod status;
mod tls;
mod tokens;
mod watch;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{clients::Clients, metrics::Metrics, tls::Reloading, tokens::Tokens};
pub use self::{
    config::{Listen, ServerConfig, ServerLimits},
    tls::ServerTls,
};
use crate::{client::CredentialsError, proto::etcdserverpb as pb, store::Store};

/// How often certificate files are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// How long calls may go on after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(3);
/// A single-node etcd has had one election when it answers.
const RAFT_TERM: u64 = 2;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) tokens: Tokens,
    pub(crate) client_cert_auth: bool,
    pub(crate) tls: Option<Reloading>,
    pub(crate) limits: ServerLimits,
    pub(crate) metrics: Metrics,
    pub(crate) name: String,
    pub(crate) client_urls: Vec<String>,
    pub(crate) peer_urls: Vec<String>,
    clients: Arc<Clients>,
    alarms: Mutex<Vec<pb::AlarmMember>>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A TLS file cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Plaintext would be served to the network.
    #[error(
        "{address} would be served without TLS; use https, a loopback address, or allow plaintext explicitly"
    )]
    Plaintext {
        /// The address.
        address: SocketAddr,
    },
    /// A TLS listener has no files.
    #[error("{address} is to be served with TLS, but no certificate and key are given")]
    NoCertificate {
        /// The address.
        address: SocketAddr,
    },
}

/// A server that is bound to its addresses and not serving yet.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<(TcpListener, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// etcd's client port.
    Clients { tls: bool },
    /// HTTP only.
    Metrics,
}

impl Server {
    /// Reads the certificates and binds the addresses; a taken port stops the start.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn bind(config: ServerConfig, store: Arc<Store>) -> Result<Self, ServeError> {
        for listen in &config.listen {
            if listen.tls && config.tls.is_none() {
                return Err(ServeError::NoCertificate { address: listen.address });
            }
            if !listen.tls && !listen.address.ip().is_loopback() && !config.allow_plaintext {
                return Err(ServeError::Plaintext { address: listen.address });
            }
        }
        let client_cert_auth = config.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        let tls = config.tls.map(Reloading::load).transpose()?;
        let mut listeners = Vec::new();
        for listen in &config.listen {
            listeners.push((bind(listen.address).await?, Kind::Clients { tls: listen.tls }));
        }
        for &address in &config.listen_metrics {
            listeners.push((bind(address).await?, Kind::Metrics));
        }
        let shared = Shared {
            store,
            tokens: Tokens::new(config.limits.token_ttl),
            client_cert_auth,
            tls,
            limits: config.limits,
            metrics: Metrics::new(config.extensive_metrics),
            name: config.name,
            client_urls: config.advertise_client_urls,
            peer_urls: config.advertise_peer_urls,
            clients: Arc::default(),
            alarms: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), listeners })
    }

    /// The addresses that clients connect to, in the order of the configuration; with port 0 resolved.
    pub fn client_addresses(&self) -> Vec<SocketAddr> {
        self.addresses(|kind| matches!(kind, Kind::Clients { .. }))
    }

    /// The addresses of health and metrics.
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.addresses(|kind| kind == Kind::Metrics)
    }

    /// Serves until `stop`, then lets calls end for a few seconds. Keeps house for the store too.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for (listener, kind) in self.listeners {
            let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
            tasks.spawn(accept(shared, listener, kind, stop));
        }
        let (shared, until) = (Arc::clone(&self.shared), stop.clone());
        tasks.spawn(async move { shared.store.housekeep(&until).await });
        let (shared, until) = (Arc::clone(&self.shared), stop.clone());
        tasks.spawn(async move {
            if until.run_until_cancelled(shared.store.failure()).await.is_some() {
                until.cancel();
            }
        });
        let (shared, until) = (Arc::clone(&self.shared), stop.clone());
        tasks.spawn(async move { reload(&shared, &until).await });
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                // A listener or the housekeeper that is gone leaves a server that only looks alive.
                stop.cancel();
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    fn addresses(&self, wanted: impl Fn(Kind) -> bool) -> Vec<SocketAddr> {
        let listeners = self.listeners.iter().filter(|(_, kind)| wanted(*kind));
        listeners.filter_map(|(listener, _)| listener.local_addr().ok()).collect()
    }
}

/// Binds and serves until `stop`.
///
/// # Errors
/// See [`ServeError`]; nothing fails once it serves.
pub async fn serve(
    config: ServerConfig,
    store: Arc<Store>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    Server::bind(config, store).await?.run(stop).await;
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, kind: Kind, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, ?kind, "store listens");
    }
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        let (socket, client) = match accepted {
            Ok((socket, client)) => (socket, client.ip()),
            Err(error) => {
                // Out of file descriptors, most likely; some will be closed.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = shared.clients.place(client, shared.limits.connections_per_client) else {
            shared.metrics.connection_refused();
            continue;
        };
        if connections.len() >= shared.limits.connections {
            shared.metrics.connection_refused();
            continue;
        }
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        connections.spawn(async move {
            let (_counted, _place) = (shared.metrics.connection(), place);
            match kind {
                Kind::Clients { tls } => connection::serve(Arc::clone(&shared), socket, tls, stop).await,
                Kind::Metrics => drop(http1::serve(Arc::clone(&shared), socket, stop).await),
            }
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        warn!(connections = connections.len(), "connections cut off at the end of the time to drain");
    }
}

async fn reload(shared: &Shared, stop: &CancellationToken) {
    let Some(tls) = &shared.tls else { return };
    while stop.run_until_cancelled(tokio::time::sleep(RELOAD_EVERY)).await.is_some() {
        tls.refresh();
    }
}

impl Shared {
    /// The header of an answer that belongs to `revision`.
    pub(crate) fn header(&self, revision: i64) -> pb::ResponseHeader {
        let config = self.store.config();
        pb::ResponseHeader {
            cluster_id: config.cluster_id,
            member_id: config.member_id,
            revision,
            raft_term: RAFT_TERM,
        }
    }

    /// The header of an answer that belongs to no particular revision.
    pub(crate) fn header_now(&self) -> pb::ResponseHeader {
        self.header(self.store.revision())
    }

    /// The alarms that were raised; a full disk is one as long as it is full.
    pub(crate) fn alarms(&self) -> Vec<pb::AlarmMember> {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let alarm = pb::AlarmType::Nospace as i32;
        let full = pb::AlarmMember { member_id: self.store.config().member_id, alarm };
        if self.store.disk_is_full() && !alarms.contains(&full) {
            alarms.push(full);
        }
        alarms
    }

    /// Raises an alarm; returns it if it is news.
    pub(crate) fn activate(&self, member_id: u64, alarm: i32) -> Vec<pb::AlarmMember> {
        let raised = pb::AlarmMember { member_id, alarm };
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        if !alarms.contains(&raised) {
            alarms.push(raised);
        }
        vec![raised]
    }

    /// Ends an alarm; returns it if it was there.
    pub(crate) fn deactivate(&self, member_id: u64, alarm: i32) -> Vec<pb::AlarmMember> {
        let ended = pb::AlarmMember { member_id, alarm };
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let before = alarms.len();
        alarms.retain(|alarm| *alarm != ended);
        if alarms.len() < before { vec![ended] } else { Vec::new() }
    }

    /// Whether more may be stored. Raises the alarm when the limit is passed; only a human ends it, as in etcd.
    pub(crate) fn check_space(&self) -> Result<(), tonic::Status> {
        if self.store.disk_is_full() {
            return Err(status::no_space());
        }
        let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarms.iter().map(pb::AlarmMember::alarm).find(|alarm| *alarm != pb::AlarmType::None);
        drop(alarms);
        match alarm {
            Some(pb::AlarmType::Nospace) => return Err(status::no_space()),
            Some(pb::AlarmType::Corrupt) => return Err(status::corrupt()),
            Some(pb::AlarmType::None) | None => {}
        }
        if (self.store.bytes() as u64) < self.limits.quota_bytes {
            return Ok(());
        }
        warn!(quota_bytes = self.limits.quota_bytes, "the store is full: compact it, then disarm the alarm");
        self.activate(self.store.config().member_id, pb::AlarmType::Nospace as i32);
        Err(status::no_space())
    }
}
