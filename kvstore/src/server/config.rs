//! What a server is told at its start.

use std::{net::SocketAddr, time::Duration};

use super::ServerTls;

/// A server's addresses, certificates and limits.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where clients connect.
    pub listen: Vec<Listen>,
    /// Where health, version and metrics are served without TLS.
    pub listen_metrics: Vec<SocketAddr>,
    /// Needed for every address with TLS.
    pub tls: Option<ServerTls>,
    /// Serve plaintext on addresses that are not loopback.
    pub allow_plaintext: bool,
    /// The member's name.
    pub name: String,
    /// What the member list says of how to reach it.
    pub advertise_client_urls: Vec<String>,
    /// The same for peers, of which there are none.
    pub advertise_peer_urls: Vec<String>,
    /// `--metrics=extensive`: how long calls take is counted too.
    pub extensive_metrics: bool,
    /// What a client may ask of it.
    pub limits: ServerLimits,
}

/// An address for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Port 0 is any free one.
    pub address: SocketAddr,
    /// Whether it is served with TLS.
    pub tls: bool,
}

/// Bounds of what clients may ask, each with etcd's flag where etcd has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// `--max-request-bytes`: keys and values of one request.
    pub request_bytes: usize,
    /// `--max-txn-ops`: operations of a transaction.
    pub txn_operations: usize,
    /// `--max-concurrent-streams`: calls at a time on one connection.
    pub streams_per_connection: u32,
    /// Watches on one stream.
    pub watches_per_stream: usize,
    /// Connections at a time on one listener; more are closed at once.
    pub connections: usize,
    /// Connections at a time from one address of a client; more are closed at once.
    pub connections_per_client: usize,
    /// `--quota-backend-bytes`: what the data may take; beyond it the NOSPACE alarm goes up.
    pub quota_bytes: u64,
    /// `--experimental-watch-progress-notify-interval`: how often quiet watches are told where they are.
    pub progress_interval: Duration,
    /// `--bcrypt-cost`: how slow checking a password is.
    pub bcrypt_cost: u32,
    /// `--auth-token-ttl`: how long a password user's token lives after its last use.
    pub token_ttl: Duration,
    /// `--grpc-keepalive-interval`: how often a quiet peer is asked whether it is there.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long it may take to answer; then its connection ends.
    pub keepalive_timeout: Duration,
    /// Shorter leases are granted so many seconds; etcd's follows from its election timeout.
    pub min_lease_ttl_seconds: i64,
}

impl Default for ServerLimits {
    /// etcd's defaults; of those that etcd lacks, what a mesh of 256 clusters stays well below.
    fn default() -> Self {
        Self {
            request_bytes: 3 << 19,
            txn_operations: 128,
            streams_per_connection: 4096,
            watches_per_stream: 16_384,
            connections: 65_536,
            connections_per_client: 16_384,
            quota_bytes: 8 << 30,
            progress_interval: Duration::from_secs(600),
            bcrypt_cost: 10,
            token_ttl: Duration::from_secs(300),
            // etcd's two hours would keep the connections of machines that are gone.
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(60),
            min_lease_ttl_seconds: 2,
        }
    }
}

impl ServerLimits {
    /// Largest gRPC message: a request and room for what is around it, as in etcd.
    pub(crate) fn message_bytes(&self) -> usize {
        self.request_bytes + (512 << 10)
    }
}

impl ServerConfig {
    /// One address, etcd's limits.
    pub fn new(address: SocketAddr, tls: Option<ServerTls>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self {
            listen: vec![Listen { address, tls: tls.is_some() }],
            listen_metrics: Vec::new(),
            tls,
            allow_plaintext: false,
            name: "default".to_owned(),
            advertise_client_urls: vec![format!("{scheme}://{address}")],
            advertise_peer_urls: vec!["http://localhost:2380".to_owned()],
            extensive_metrics: false,
            limits: ServerLimits::default(),
        }
    }
}
