//! How a daemon is told where its cluster's store is, in the words of Cilium's chart: `--kvstore-opt`.

use crate::duration;
use crate::exit::Usage;
use kvstore::{EtcdConfig, EtcdConfigFile, OnNewCluster};
use mesh_runtime::Chain;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tracing::info;

/// Arguments of daemons that use their cluster's store.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// The store: `etcd.config=FILE` (an etcd client configuration in YAML) or `etcd.address=URL`. Also
    /// etcd.keepaliveHeartbeat and etcd.keepaliveTimeout; etcd.qps, etcd.bootstrapQps, etcd.maxInflight and
    /// etcd.limit are accepted and have no effect.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    kvstore_opt: Vec<StoreOption>,

    /// How long what the daemon wrote outlives it: 25s to 24h.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = lease_ttl)]
    kvstore_lease_ttl: Duration,
}

/// One `--kvstore-opt`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StoreOption {
    Config(PathBuf),
    Address(String),
    KeepAlive(Duration),
    KeepAliveTimeout(Duration),
    /// Limits that Cilium needs against etcd; the clients here send batches instead.
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
            "etcd.qps" | "etcd.bootstrapQps" | "etcd.maxInflight" | "etcd.limit" => {
                Ok(Self::WithoutEffect(key.to_owned()))
            }
            _ => Err(format!("unknown option {key}: expected etcd.config or etcd.address")),
        }
    }
}

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
                StoreOption::KeepAlive(_) | StoreOption::KeepAliveTimeout(_) => {}
            }
        }
        let mut config = config.ok_or_else(|| {
            Usage::error("expected --kvstore-opt etcd.config=FILE, the etcd client configuration of this cluster's store")
        })?;
        for option in &self.kvstore_opt {
            match option {
                StoreOption::KeepAlive(time) => config.keep_alive = *time,
                StoreOption::KeepAliveTimeout(time) => config.keep_alive_timeout = *time,
                StoreOption::Config(_) | StoreOption::Address(_) | StoreOption::WithoutEffect(_) => {}
            }
        }
        config.on_new_cluster = OnNewCluster::Reconnect;
        Ok(config)
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
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_would() {
        let cases = [
            (vec!["--kvstore-opt=etcd.config"], "expected KEY=VALUE"),
            (vec!["--kvstore-opt=consul.address=x"], "unknown option consul.address"),
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
