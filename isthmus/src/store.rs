//! How a daemon is told where its cluster's store is, in the words of Cilium's chart: `--kvstore-opt`.

use crate::duration;
use crate::exit::Usage;
use futures::future::BoxFuture;
use kvstore::{Client, Error, EtcdClient, EtcdConfig, EtcdConfigFile, OnNewCluster};
use limiter::{Limiter, Limits};
use mesh_runtime::{Backoff, Chain, Readiness, Restart, Spawner};
use observed::Observed;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

mod limiter;
mod observed;
mod series;

pub(crate) use series::StoreSeries;

/// Arguments of daemons that use their cluster's store.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// The store: `etcd.config=FILE` (an etcd client configuration in YAML) or `etcd.address=URL`. Also
    /// etcd.keepaliveHeartbeat and etcd.keepaliveTimeout; etcd.qps, etcd.bootstrapQps (until the daemon is ready) and
    /// etcd.maxInflight limit requests, of which each may carry many keys [default: no limit]. etcd.limit is accepted
    /// and has no effect.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    kvstore_opt: Vec<StoreOption>,

    /// How long what the daemon wrote outlives it: 25s to 24h.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = lease_ttl)]
    kvstore_lease_ttl: Duration,
}

/// One `--kvstore-opt`.
#[derive(Clone, Debug, PartialEq)]
enum StoreOption {
    Config(PathBuf),
    Address(String),
    KeepAlive(Duration),
    KeepAliveTimeout(Duration),
    Qps(f64),
    BootstrapQps(f64),
    MaxInflight(usize),
    /// Pages have the size that suits the store.
    WithoutEffect(String),
}

impl FromStr for StoreOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| "expected KEY=VALUE, such as etcd.config=/path".to_owned())?;
        match key {
            "etcd.config" => Ok(Self::Config(value.into())),
            "etcd.address" => Ok(Self::Address(value.to_owned())),
            "etcd.keepaliveHeartbeat" => duration::parse_positive(value).map(Self::KeepAlive),
            "etcd.keepaliveTimeout" => duration::parse_positive(value).map(Self::KeepAliveTimeout),
            "etcd.qps" => number(value).map(Self::Qps),
            "etcd.bootstrapQps" => number(value).map(Self::BootstrapQps),
            "etcd.maxInflight" => number(value).map(|count| Self::MaxInflight(count as usize)),
            "etcd.limit" => number(value).map(|_| Self::WithoutEffect(key.to_owned())),
            _ => Err(format!("unknown option {key}: expected etcd.config or etcd.address")),
        }
    }
}

/// A positive whole number.
fn number(text: &str) -> Result<f64, String> {
    let count = text.parse::<u32>().ok().filter(|count| *count > 0);
    count.map(f64::from).ok_or_else(|| "expected a whole number above 0".to_owned())
}

/// A store's client that is counted, timed and limited.
pub(crate) type ObservedStore = Arc<dyn Client>;

impl StoreArgs {
    /// The time to live of what is written.
    pub(crate) fn lease_ttl(&self) -> Duration {
        self.kvstore_lease_ttl
    }

    /// Where the store is, for a writer: it stays with whatever store answers, and writes everything again to a new one.
    pub(crate) fn config(&self) -> anyhow::Result<EtcdConfig> {
        let mut config = None;
        for option in &self.kvstore_opt {
            match option {
                StoreOption::Config(path) => config = Some(read(path)?),
                StoreOption::Address(url) => config = Some(EtcdConfig::new([url], None)),
                StoreOption::WithoutEffect(key) => info!(key, "option without effect"),
                StoreOption::KeepAlive(_)
                | StoreOption::KeepAliveTimeout(_)
                | StoreOption::Qps(_)
                | StoreOption::BootstrapQps(_)
                | StoreOption::MaxInflight(_) => {}
            }
        }
        let mut config = config.ok_or_else(|| {
            Usage::error("expected --kvstore-opt etcd.config=FILE, the etcd client configuration of this cluster's store")
        })?;
        for option in &self.kvstore_opt {
            match option {
                StoreOption::KeepAlive(time) => config.keep_alive = *time,
                StoreOption::KeepAliveTimeout(time) => config.keep_alive_timeout = *time,
                StoreOption::Config(_)
                | StoreOption::Address(_)
                | StoreOption::Qps(_)
                | StoreOption::BootstrapQps(_)
                | StoreOption::MaxInflight(_)
                | StoreOption::WithoutEffect(_) => {}
            }
        }
        config.on_new_cluster = OnNewCluster::Reconnect;
        Ok(config)
    }

    /// Whether an external store was named.
    pub(crate) fn is_external(&self) -> bool {
        self.kvstore_opt
            .iter()
            .any(|option| matches!(option, StoreOption::Config(_) | StoreOption::Address(_)))
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for option in &self.kvstore_opt {
            match option {
                StoreOption::Qps(rate) => limits.qps = Some(*rate),
                StoreOption::BootstrapQps(rate) => limits.bootstrap_qps = Some(*rate),
                StoreOption::MaxInflight(count) => limits.max_inflight = Some(*count),
                StoreOption::Config(_)
                | StoreOption::Address(_)
                | StoreOption::KeepAlive(_)
                | StoreOption::KeepAliveTimeout(_)
                | StoreOption::WithoutEffect(_) => {}
            }
        }
        limits
    }

    /// `client` with what is asked of it counted in `series` and kept to the limits of `--kvstore-opt`.
    pub(crate) fn observed(
        &self,
        client: Arc<dyn Client>,
        series: &StoreSeries,
        readiness: &Readiness,
        tasks: &Spawner,
    ) -> ObservedStore {
        let limits = self.limits();
        let limiter = Limiter::new(limits);
        if limits.bootstrap_qps.is_some() {
            let (readiness, limiter) = (readiness.clone(), limiter.clone());
            tasks.spawn("bootstrap-limit", Restart::UntilDone(RESTART), move |stop| {
                let (readiness, limiter) = (readiness.clone(), limiter.clone());
                async move {
                    if stop.run_until_cancelled(readiness.wait()).await.is_some() {
                        limiter.bootstrapped();
                    }
                    Ok::<(), Infallible>(())
                }
            });
        }
        Arc::new(Observed::new(client, limiter, series.clone(), "etcd"))
    }

    /// Connects to peers, each with the limits that hold after the bootstrap.
    pub(crate) fn peers(&self, series: &StoreSeries) -> ObservedPeers {
        let limits = Limits { bootstrap_qps: None, ..self.limits() };
        ObservedPeers { limits, series: series.clone() }
    }
}

/// Waits before a task that has an end starts again.
const RESTART: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// Peers' stores over the network, counted, timed and limited.
#[derive(Debug)]
pub(crate) struct ObservedPeers {
    limits: Limits,
    series: StoreSeries,
}

impl kvstoremesh::Dial for ObservedPeers {
    fn dial<'a>(&'a self, config: &'a EtcdConfig) -> BoxFuture<'a, Result<Arc<dyn Client>, Error>> {
        Box::pin(async move {
            let client = Arc::new(EtcdClient::new(config.clone())?);
            let limiter = Limiter::new(self.limits);
            Ok(Arc::new(Observed::new(client, limiter, self.series.clone(), "etcd-peers")) as Arc<dyn Client>)
        })
    }
}

fn read(path: &Path) -> anyhow::Result<EtcdConfig> {
    let file = EtcdConfigFile::read(path).map_err(|error| {
        Usage::error(format!("--kvstore-opt etcd.config={}: {}", path.display(), Chain(&error)))
    })?;
    if !file.ignored.is_empty() {
        info!(file = %path.display(), keys = file.ignored.join(", "), "keys of the configuration that mean nothing here");
    }
    Ok(file.config)
}

/// Cilium's limits.
fn lease_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration::parse(text)?;
    if (Duration::from_secs(25)..=Duration::from_secs(24 * 60 * 60)).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("expected 25s to 24h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn parse(args: &[&str]) -> Result<StoreArgs, clap::Error> {
        Cli::try_parse_from([&["test"], args].concat()).map(|cli| cli.store)
    }

    #[test]
    fn the_chart_s_options_are_understood() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("etcd-config.yaml");
        std::fs::write(&file, "endpoints: ['https://localhost:2379']\ntrusted-ca-file: ca.crt\n").unwrap();
        let store = parse(&[
            &format!("--kvstore-opt=etcd.config={},etcd.qps=100,etcd.keepaliveTimeout=5s", file.display()),
            "--kvstore-opt=etcd.bootstrapQps=10000",
        ]);
        let store = store.unwrap();
        let config = store.config().unwrap();
        assert_eq!(config.endpoints, ["https://localhost:2379"]);
        assert_eq!(config.keep_alive_timeout, Duration::from_secs(5));
        assert_eq!(config.on_new_cluster, OnNewCluster::Reconnect);
        assert_eq!(config.tls.unwrap().ca_file, directory.path().join("ca.crt"));
        assert_eq!(store.lease_ttl(), Duration::from_secs(900));
        let limits = Limits { qps: Some(100.0), bootstrap_qps: Some(10_000.0), max_inflight: None };
        assert_eq!(store.limits(), limits);
        assert!(store.is_external() && !parse(&["--kvstore-opt=etcd.qps=1"]).unwrap().is_external());
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_would() {
        let cases = [
            (vec!["--kvstore-opt=etcd.config"], "expected KEY=VALUE"),
            (vec!["--kvstore-opt=consul.address=x"], "unknown option consul.address"),
            (vec!["--kvstore-opt=etcd.qps=0"], "expected a whole number above 0"),
            (vec!["--kvstore-lease-ttl=24s"], "expected 25s to 24h"),
            (vec!["--kvstore-lease-ttl=25h"], "expected 25s to 24h"),
        ];
        for (args, expected) in cases {
            let error = parse(&args).unwrap_err().to_string();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
        let missing = parse(&[]).unwrap().config().unwrap_err().to_string();
        assert!(missing.contains("expected --kvstore-opt etcd.config=FILE"), "{missing}");
        let unreadable = parse(&["--kvstore-opt=etcd.config=/nonexistent"]).unwrap().config().unwrap_err();
        assert!(unreadable.to_string().contains("read /nonexistent: No such file"), "{unreadable}");
    }
}
