//! The embedded store as an etcd v3 server.

use crate::daemon::{self, Daemon, DaemonArgs, Spec};
use crate::duration;
use crate::exit::{Exit, Usage};
use crate::out;
use anyhow::Context as _;
use kvstore::server::{Listen, Server, ServerConfig, ServerLimits, ServerTls};
use kvstore::{AutoCompaction, Image, Store, StoreConfig, auth::Auth};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

mod etcd;

const SPEC: Spec = Spec { name: "store", metrics_prefix: "isthmus_store", health_port: 9882 };

/// Arguments of `isthmus store`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Keep the cluster's state in memory and serve it as an etcd v3 server over mutual TLS.
    Serve(Box<Serve>),
    /// The same by etcd's flags; what this program does when it is started as `etcd`.
    #[command(disable_help_flag = true)]
    Etcd {
        /// etcd's flags.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAG")]
        flags: Vec<OsString>,
    },
    /// Make the directory of a durable store from a snapshot that `etcdctl snapshot save` took of a store.
    Restore(Restore),
}

/// Arguments of `isthmus store restore`.
#[derive(Debug, clap::Args)]
struct Restore {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    snapshot: PathBuf,

    /// Directory to make; it must not hold a store yet.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Arguments of `isthmus store serve`.
#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    server: ServerArgs,

    /// Set up the users of this cluster as Cilium's etcdinit does, and check every call: `admin-NAME`, `local-NAME`,
    /// `remote`, `root`. Without it whoever has a valid certificate may do everything.
    #[arg(long, value_name = "NAME", env = "CILIUM_CLUSTER_NAME")]
    cluster_name: Option<String>,

    #[command(flatten)]
    daemon: DaemonArgs,
}

/// The embedded store and its server. What etcd has too has etcd's name.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Embedded store")]
pub(crate) struct ServerArgs {
    /// Where clients connect: `https://ADDRESS:PORT`, or `http://` on a loopback address.
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "https://127.0.0.1:2379")]
    listen_client_urls: Vec<ListenUrl>,

    /// Where health, version and metrics answer without TLS: `http://ADDRESS:PORT`.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    listen_metrics_urls: Vec<ListenUrl>,

    /// Whether metrics tell how long calls take, too (`extensive`).
    #[arg(long, value_name = "basic|extensive", default_value = "basic", value_parser = ["basic", "extensive"])]
    metrics: String,

    /// What the member list says of how to reach the store [default: --listen-client-urls].
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    advertise_client_urls: Vec<String>,

    /// Certificate of the server, in PEM, its chain after it.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,

    /// Private key of the server, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,

    /// Certificates, in PEM, that the certificate of a client must be signed by. Every client needs one.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    trusted_ca_file: Option<PathBuf>,

    /// Serve `http://` also on addresses that are not loopback.
    #[arg(long)]
    allow_plaintext: bool,

    /// Keep the store in --data-dir, written through to the disk before each answer. Without it, it is in memory only.
    #[arg(long, requires = "data_dir")]
    durable: bool,

    /// Directory of a durable store. Without --durable only users and roles are kept in it, not keys.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// How slow it is to check a password, as a power of two: 4 to 31.
    #[arg(long, value_name = "COST", default_value_t = ServerLimits::default().bcrypt_cost,
        value_parser = clap::value_parser!(u32).range(4..=31))]
    bcrypt_cost: u32,

    /// How long the token of a user with a password lives after its last use.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    auth_token_ttl: u64,

    /// Name of the member.
    #[arg(long, value_name = "NAME", default_value = "default")]
    name: String,

    /// How long old versions of keys can be read and watched; 0s is for ever.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    auto_compaction_retention: Duration,

    /// Most bytes of keys and values in a request.
    #[arg(long, value_name = "BYTES", default_value_t = ServerLimits::default().request_bytes)]
    max_request_bytes: usize,

    /// Most operations in a transaction.
    #[arg(long, value_name = "NUMBER", default_value_t = ServerLimits::default().txn_operations)]
    max_txn_ops: usize,

    /// Most calls at a time on one connection.
    #[arg(long, value_name = "NUMBER", default_value_t = ServerLimits::default().streams_per_connection)]
    max_concurrent_streams: u32,

    /// Most connections at a time on one address.
    #[arg(long, value_name = "NUMBER", default_value_t = ServerLimits::default().connections)]
    max_connections: usize,

    /// Most connections at a time from one address of a client.
    #[arg(long, value_name = "NUMBER", default_value_t = ServerLimits::default().connections_per_client)]
    max_connections_per_client: usize,

    /// Most watches on one stream.
    #[arg(long, value_name = "NUMBER", default_value_t = ServerLimits::default().watches_per_stream)]
    max_watches_per_stream: usize,

    /// Bytes of data from which on nothing more is stored.
    #[arg(long, value_name = "BYTES", default_value_t = ServerLimits::default().quota_bytes)]
    quota_backend_bytes: u64,

    /// How often a quiet peer is asked whether it is there.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse_positive)]
    grpc_keepalive_interval: Duration,

    /// How long a peer may take to answer that; then its connection is closed.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse_positive)]
    grpc_keepalive_timeout: Duration,

    /// How often quiet watches are told where they are, if they asked for it.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse_positive)]
    watch_progress_notify_interval: Duration,
}

/// An address with its scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenUrl {
    tls: bool,
    address: SocketAddr,
}

impl FromStr for ListenUrl {
    type Err = String;

    /// The host is an address or `localhost`; the port is 2379 unless given.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?}: expected https://ADDRESS:PORT or http://ADDRESS:PORT");
        let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(expected()),
        };
        let rest = rest.trim_end_matches('/').replace("localhost", "127.0.0.1");
        let address = rest
            .parse::<SocketAddr>()
            .or_else(|_no_port| {
                let ip = rest.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
                ip.map(|ip| SocketAddr::new(ip, 2379))
            })
            .or_else(|_no_address| {
                let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
                port.map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).ok_or_else(expected)
            })?;
        Ok(Self { tls, address })
    }
}

impl Args {
    /// Serves until it is asked to stop.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Serve(serve) => {
                let compaction = serve.server.compaction();
                serve.run(compaction, &[])
            }
            Command::Etcd { flags } => {
                let mut translated = etcd::translate(&flags)?;
                // What was restored into it, or kept by a durable store, is served as etcd would.
                if let Some(dir) = &translated.serve.server.data_dir {
                    translated.serve.server.durable =
                        kvstore::holds_keys(dir).context("look into --data-dir")?;
                }
                translated.serve.run(translated.compaction, &translated.ignored)
            }
            Command::Restore(restore) => restore.run(),
        }
    }
}

impl Restore {
    fn run(self) -> anyhow::Result<Exit> {
        let bytes =
            std::fs::read(&self.snapshot).with_context(|| format!("read {}", self.snapshot.display()))?;
        let image = Image::decode(&bytes).with_context(|| format!("read {}", self.snapshot.display()))?;
        kvstore::restore(&self.data_dir, &image)
            .with_context(|| format!("write {}", self.data_dir.display()))?;
        out::print(format_args!(
            "restored revision {}, {} keys, to {}",
            image.revision,
            image.records.len(),
            self.data_dir.display()
        ))?;
        Ok(Exit::Done)
    }
}

impl Serve {
    fn run(self, compaction: AutoCompaction, ignored: &[String]) -> anyhow::Result<Exit> {
        self.server.config()?;
        daemon::run(&SPEC, &self.daemon, async |daemon| {
            if !ignored.is_empty() {
                info!(flags = ignored.join(" "), "flags of etcd without effect");
            }
            self.server.start(daemon, self.cluster_name.as_deref(), compaction).await.map(drop)
        })
    }
}

impl ServerArgs {
    /// What `--auto-compaction-retention` asks for.
    pub(crate) fn compaction(&self) -> AutoCompaction {
        match self.auto_compaction_retention {
            Duration::ZERO => AutoCompaction::Off,
            retention => AutoCompaction::Periodic(retention),
        }
    }

    /// Opens the store and serves it, with the users of `cluster` if one is named.
    pub(crate) async fn start(
        &self,
        daemon: &mut Daemon,
        cluster: Option<&str>,
        compaction: AutoCompaction,
    ) -> anyhow::Result<Arc<Store>> {
        let config = self.config()?;
        let settings = StoreConfig { auto_compaction: compaction, ..StoreConfig::default() };
        let store = match (&self.data_dir, self.durable) {
            (Some(dir), true) => Store::durable(settings, dir).context("open the durable store")?,
            (Some(dir), false) => {
                info!(dir = %dir.display(), "users and roles are kept in --data-dir, keys in memory only");
                Store::keeping_users(settings, dir).context("read the users")?
            }
            (None, _) => Store::new(settings),
        };
        match cluster {
            Some(name) if store.auth().enabled() => {
                info!(cluster = name, "users are those of --data-dir")
            }
            Some(name) => {
                let users = Auth::of_cluster(name);
                store.change_auth(|auth| {
                    *auth = users;
                    Ok(())
                })?;
                info!(cluster = name, "users set up, every call is checked");
            }
            None if store.auth().enabled() => {}
            None => warn!("no --cluster-name: whoever has a valid certificate may do everything"),
        }
        let server = Server::bind(config, store.clone()).await?;
        let identity = format!("{:016x}", store.config().cluster_id);
        info!(clients = ?server.client_addresses(), cluster_id = identity, "serving");
        daemon.tasks.spawn_once("server", |stop| async move {
            server.run(stop).await;
            Ok::<_, std::convert::Infallible>(())
        });
        Ok(store)
    }

    fn config(&self) -> anyhow::Result<ServerConfig> {
        if let Some(url) = self.listen_metrics_urls.iter().find(|url| url.tls) {
            return Err(Usage::error(format!(
                "--listen-metrics-urls {}: only http:// is served there",
                url.address
            )));
        }
        let tls = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                if self.trusted_ca_file.is_none() {
                    return Err(Usage::error(
                        "--trusted-ca-file is missing: clients are known by certificates that it signed",
                    ));
                }
                Some(ServerTls {
                    cert_file: cert.clone(),
                    key_file: key.clone(),
                    client_ca_file: self.trusted_ca_file.clone(),
                })
            }
            (None, None) if self.listen_client_urls.iter().any(|url| url.tls) => {
                return Err(Usage::error(
                    "https:// needs --cert-file, --key-file and --trusted-ca-file; `isthmus certs` issues them",
                ));
            }
            _ => None,
        };
        let scheme = |url: &ListenUrl| if url.tls { "https" } else { "http" };
        let advertised = if self.advertise_client_urls.is_empty() {
            self.listen_client_urls.iter().map(|url| format!("{}://{}", scheme(url), url.address)).collect()
        } else {
            self.advertise_client_urls.clone()
        };
        let listen = |url: &ListenUrl| Listen { address: url.address, tls: url.tls };
        Ok(ServerConfig {
            listen: self.listen_client_urls.iter().map(listen).collect(),
            listen_metrics: self.listen_metrics_urls.iter().map(|url| url.address).collect(),
            tls,
            allow_plaintext: self.allow_plaintext,
            name: self.name.clone(),
            advertise_client_urls: advertised,
            advertise_peer_urls: vec!["http://localhost:2380".to_owned()],
            extensive_metrics: self.metrics == "extensive",
            limits: ServerLimits {
                request_bytes: self.max_request_bytes,
                txn_operations: self.max_txn_ops,
                streams_per_connection: self.max_concurrent_streams,
                connections: self.max_connections,
                connections_per_client: self.max_connections_per_client,
                watches_per_stream: self.max_watches_per_stream,
                quota_bytes: self.quota_backend_bytes,
                progress_interval: self.watch_progress_notify_interval,
                bcrypt_cost: self.bcrypt_cost,
                token_ttl: Duration::from_secs(self.auth_token_ttl),
                keepalive_interval: self.grpc_keepalive_interval,
                keepalive_timeout: self.grpc_keepalive_timeout,
                ..ServerLimits::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn config(args: &[&str]) -> anyhow::Result<ServerConfig> {
        match Cli::try_parse_from(["store", "serve"].iter().chain(args))?.args.command {
            Command::Serve(serve) => serve.server.config(),
            Command::Etcd { .. } | Command::Restore(_) => unreachable!("the command is serve"),
        }
    }

    const TLS: [&str; 3] = ["--cert-file=c", "--key-file=k", "--trusted-ca-file=ca"];

    #[test]
    fn urls_say_where_and_whether_with_tls() {
        for (text, expected) in [
            ("https://0.0.0.0:2379", Some((true, "0.0.0.0:2379"))),
            ("http://localhost:1/", Some((false, "127.0.0.1:1"))),
            ("https://[::]:2379", Some((true, "[::]:2379"))),
            ("https://10.0.0.1", Some((true, "10.0.0.1:2379"))),
            ("https://:2379", Some((true, "0.0.0.0:2379"))),
            ("10.0.0.1:2379", None),
            ("unix://x", None),
            ("https://name:1", None),
        ] {
            let parsed = text.parse::<ListenUrl>().ok();
            let expected =
                expected.map(|(tls, address)| ListenUrl { tls, address: address.parse().unwrap() });
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn what_is_advertised_is_what_is_listened_on_unless_said() {
        let urls = |more: &[&str]| config(&[&TLS, more].concat()).unwrap().advertise_client_urls;
        assert_eq!(urls(&[]), ["https://127.0.0.1:2379"]);
        assert_eq!(
            urls(&["--advertise-client-urls=https://a:1,https://b:1"]),
            ["https://a:1", "https://b:1"]
        );
    }

    #[test]
    fn settings_that_are_not_safe_stop_the_start() {
        assert!(config(&TLS).is_ok());
        assert!(config(&["--listen-client-urls=http://127.0.0.1:0"]).is_ok());
        for wrong in [
            &[][..],
            &["--cert-file=c"],
            &["--cert-file=c", "--key-file=k"],
            &["--listen-client-urls=http://127.0.0.1:0", "--listen-metrics-urls=https://127.0.0.1:0"],
        ] {
            assert!(config(wrong).is_err(), "{wrong:?}");
        }
    }
}
