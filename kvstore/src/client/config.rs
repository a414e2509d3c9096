//! How to reach an etcd v3 server.

use std::{path::PathBuf, time::Duration};

/// How to reach an etcd v3 server, ours or another.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// URLs like `https://host:2379`; tried in turn, starting at a random one. `http` is plaintext.
    pub endpoints: Vec<String>,
    /// Needed for `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// HTTP/2 ping interval, also while idle. Cilium's default is 15 s.
    pub keep_alive: Duration,
    /// How long a ping may stay unanswered before the connection counts as dead. Cilium's default is 25 s.
    pub keep_alive_timeout: Duration,
    /// Limit for connecting, TLS handshake included.
    pub connect_timeout: Duration,
    /// Limit for each unary call; watches have none.
    pub request_timeout: Duration,
    /// What to do when another store answers than before.
    pub on_new_cluster: OnNewCluster,
}

impl EtcdConfig {
    /// Cilium's keepalive, 5 s to connect, 30 s per request, [`OnNewCluster::Fail`].
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>, tls: Option<EtcdTls>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls,
            keep_alive: Duration::from_secs(15),
            keep_alive_timeout: Duration::from_secs(25),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            on_new_cluster: OnNewCluster::Fail,
        }
    }
}

/// The PEM files of a mutual TLS client. Certificate and key are read again at every connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificates that the server's chain must end in.
    pub ca_file: PathBuf,
    /// Our certificate, its chain after it; its common name is the etcd user. None with password users only.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
    /// Verify the server as this name instead of the endpoint's host.
    pub server_name: Option<String>,
}

/// What a client does when a store with another cluster id answers.
///
/// Replicas of a clustermesh-apiserver have unrelated revisions behind one address, so answers of two must not
/// be mixed (as in Cilium's high-availability mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNewCluster {
    /// That call and every later one fails with `Error::ClusterChanged`: for readers, who make a new client.
    Fail,
    /// That call fails so; the client then reconnects and stays with the store that answers first: for writers
    /// of the own store, who write everything again.
    Reconnect,
}
