//! `isthmus kvstoremesh`.

use crate::cmd::cluster::{self, ClusterArgs, ServeArgs};
use crate::daemon::{self, Daemon, DaemonArgs, Spec};
use crate::duration;
use crate::exit::Exit;
use crate::listen;
use crate::store::{ObservedStore, StoreArgs, StoreSeries};
use anyhow::Context as _;
use clap::{ArgAction, Subcommand};
use kvstore::EtcdClient;
use kvstoremesh::{Board, LostContact, Mesh, Settings, Shrink};
use mesh_types::{ClusterName, LocalCluster};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod release;
mod status;
mod troubleshoot;

const SPEC: Spec =
    Spec { name: "kvstoremesh", metrics_prefix: "cilium_kvstoremesh", health_port: HEALTH_PORT };
/// As Cilium's chart has it.
const HEALTH_PORT: u16 = 9881;

/// Arguments of `isthmus kvstoremesh`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    daemon: Mirror,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print how each remote cluster stands; exit code 3 if one is not ready.
    Status(status::Args),
    /// Obey withdrawals of a remote cluster that the mirror holds back because they came so abruptly.
    Release(release::Args),
    /// Find out why a remote cluster cannot be mirrored: the layer that is in the way; exit code 3 if one is.
    Troubleshoot(troubleshoot::Args),
}

/// The daemon.
#[derive(Debug, clap::Args)]
struct Mirror {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    mirror: MirrorArgs,
    /// Where /v1/cluster answers too, such as `localhost:9889`, which is where Cilium's tools ask.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen::address)]
    api_serve_addr: Option<SocketAddr>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What is mirrored, and when it counts as ready.
#[derive(Debug, clap::Args)]
pub(crate) struct MirrorArgs {
    /// Directory with one etcd client configuration per remote cluster, named after the cluster.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cilium/clustermesh")]
    clustermesh_config: PathBuf,
    /// Readiness does not wait for a remote cluster that could not be reached for so long.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    per_cluster_ready_timeout: Duration,
    /// Readiness waits for nothing longer than this.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    global_ready_timeout: Duration,
    /// Time for readers to let go of a cluster whose configuration is gone, before its data is removed.
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration::parse)]
    removal_grace: Duration,
    /// Silence of a remote cluster's heartbeat after which it is connected to again.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::parse_positive)]
    heartbeat_timeout: Duration,
    /// Values of more bytes are not mirrored.
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024)]
    max_value_bytes: usize,
    /// More keys of one kind of one remote cluster are not mirrored.
    #[arg(long, value_name = "KEYS", default_value_t = 550_000, value_parser = keys)]
    max_keys_per_kind: usize,
    /// When more than so many percent of a kind of a remote cluster go within --withdrawal-window, they stay for
    /// --withdrawal-hold, unless they return or are released; 100 obeys every withdrawal at once, as Cilium does.
    #[arg(long, value_name = "PERCENT", default_value_t = Shrink::default().percent,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    withdrawal_share: u8,
    /// How far back a kind's size is looked at for --withdrawal-share.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration::parse_positive)]
    withdrawal_window: Duration,
    /// So many keys of a kind may go in any case.
    #[arg(long, value_name = "KEYS", default_value_t = Shrink::default().exempt)]
    withdrawal_exempt: usize,
    /// How long a withdrawal that came abruptly is held back.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse_positive)]
    withdrawal_hold: Duration,
    /// What becomes of the data of a remote cluster that is out of contact: keep, or drain-after:DURATION. A cluster's
    /// file may say otherwise for it, as `isthmus-lost-contact`.
    #[arg(long, value_name = "POLICY", default_value = "keep")]
    lost_contact: LostContact,
    /// The same for one cluster, whatever its file says. May be repeated.
    #[arg(long, value_name = "CLUSTER=POLICY", value_delimiter = ',', value_parser = policy_of)]
    lost_contact_of: Vec<(ClusterName, LostContact)>,
    /// Renew the heartbeat of this cluster's store, if nobody else does.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set)]
    enable_heartbeat: bool,
    /// How long after contact was lost services, exports and endpoint slices are withdrawn; 0s is never.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    clustermesh_cache_ttl: Duration,
    /// Leave what was mirrored of a cluster whose configuration is gone until its leases end.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set, hide = true)]
    disable_drain_on_disconnection: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Some(Command::Status(args)) => args.run(),
            Some(Command::Release(args)) => args.run(),
            Some(Command::Troubleshoot(args)) => args.run(),
            None => self.daemon.run(),
        }
    }
}

impl Mirror {
    fn run(self) -> anyhow::Result<Exit> {
        let local = self.cluster.local()?;
        daemon::run(&SPEC, &self.serve.of(&self.daemon), async |daemon| {
            self.serve.start(daemon).await?;
            if let Some(address) = self.api_serve_addr {
                daemon.listen("api", address).await?;
            }
            let client =
                EtcdClient::new(self.store.config()?).context("set up the client of the local store")?;
            let series = StoreSeries::register(daemon.series());
            let spawner = daemon.tasks.spawner();
            let store = self.store.observed(Arc::new(client), &series, &daemon.readiness, &spawner);
            cluster::measure_bootstrap(daemon);
            let board = self.mirror.start(daemon, local.clone(), &self.store, store, &series);
            daemon.page("/status", move || board.status(&local, Instant::now()));
            Ok(())
        })
    }
}

impl MirrorArgs {
    /// Starts the mirror into `store`; the status answers at `/remotes` and `/v1/cluster`.
    pub(crate) fn start(
        &self,
        daemon: &mut Daemon,
        local: LocalCluster,
        options: &StoreArgs,
        store: ObservedStore,
        series: &StoreSeries,
    ) -> Board {
        cluster::tell_version(daemon);
        let peers = Arc::new(options.peers(series));
        let mesh = Mesh::new(self.settings(local.clone(), options), store, peers);
        let board = mesh.board();
        mesh.register(daemon.series());
        let (remotes, clusters) = (board.clone(), board.clone());
        daemon.page("/remotes", move || remotes.status(&local, Instant::now()));
        daemon.page("/v1/cluster", move || clusters.cilium_status());
        let held = board.clone();
        daemon.action(release::PATH, move |question| release::answer(&held, &question));
        mesh.start(&daemon.tasks, &daemon.readiness);
        board
    }

    fn settings(&self, local: LocalCluster, options: &StoreArgs) -> Settings {
        Settings {
            lease_ttl: options.lease_ttl(),
            removal_grace: self.removal_grace,
            drain_on_removal: !self.disable_drain_on_disconnection,
            heartbeat_timeout: self.heartbeat_timeout,
            max_value_bytes: self.max_value_bytes,
            max_keys_per_kind: self.max_keys_per_kind,
            shrink: Shrink {
                percent: self.withdrawal_share,
                window: self.withdrawal_window,
                exempt: self.withdrawal_exempt,
                hold: self.withdrawal_hold,
            },
            lost_contact: self.lost_contact,
            lost_contact_of: self.lost_contact_of.iter().cloned().collect::<BTreeMap<_, _>>(),
            cache_ttl: Some(self.clustermesh_cache_ttl).filter(|ttl| !ttl.is_zero()),
            per_cluster_ready_timeout: self.per_cluster_ready_timeout,
            global_ready_timeout: self.global_ready_timeout,
            heartbeat: self.enable_heartbeat,
            ..Settings::new(local, &self.clustermesh_config)
        }
    }
}

/// At least one.
fn keys(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|keys| *keys > 0).ok_or_else(|| "expected a whole number above 0".to_owned())
}

fn policy_of(text: &str) -> Result<(ClusterName, LostContact), String> {
    let (cluster, policy) = text
        .split_once('=')
        .ok_or_else(|| "expected CLUSTER=POLICY, such as west=drain-after:1h".to_owned())?;
    let cluster = cluster.parse().map_err(|rejection: mesh_types::Rejection| rejection.to_string())?;
    let policy = policy.parse().map_err(|error: kvstoremesh::LostContactError| error.to_string())?;
    Ok((cluster, policy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn settings(line: &str) -> Result<Settings, String> {
        let words = ["kvstoremesh", "--cluster-name=east", "--cluster-id=1"].into_iter();
        let line =
            Line::try_parse_from(words.chain(line.split_whitespace())).map_err(|error| error.to_string())?;
        let mirror = line.args.daemon;
        Ok(mirror.mirror.settings(mirror.cluster.local().unwrap(), &mirror.store))
    }

    #[test]
    fn every_policy_of_withdrawal_and_lost_contact_has_its_flag() {
        let defaults = settings("").unwrap();
        assert_eq!(defaults.shrink, Shrink::default());
        let untold = Settings::new(defaults.local.clone(), "");
        assert_eq!(defaults.max_keys_per_kind, untold.max_keys_per_kind);
        assert_eq!((defaults.lost_contact, defaults.cache_ttl), (LostContact::Keep, None));
        assert!(defaults.drain_on_removal);
        assert!(!settings("--disable-drain-on-disconnection").unwrap().drain_on_removal);
        assert!(settings("--disable-drain-on-disconnection=false").unwrap().drain_on_removal);

        let line = "--withdrawal-share=20 --withdrawal-window=30s --withdrawal-exempt=3 --withdrawal-hold=1h \
            --max-keys-per-kind=7 --max-value-bytes=9 --clustermesh-cache-ttl=10m \
            --lost-contact=drain-after:2h --lost-contact-of=west=keep,north=drain-after:1m";
        let told = settings(line).unwrap();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let shrink = Shrink { percent: 20, window: minutes(1) / 2, exempt: 3, hold: minutes(60) };
        assert_eq!(told.shrink, shrink);
        assert_eq!((told.max_keys_per_kind, told.max_value_bytes), (7, 9));
        assert_eq!(
            (told.lost_contact, told.cache_ttl),
            (LostContact::DrainAfter(minutes(120)), Some(minutes(10)))
        );
        let of =
            told.lost_contact_of.iter().map(|(name, policy)| format!("{name} {policy}")).collect::<Vec<_>>();
        assert_eq!(of, ["north drain-after:60s", "west keep"]);
    }

    #[test]
    fn a_policy_that_means_nothing_is_refused_with_what_would() {
        for (line, expected) in [
            ("--lost-contact=drain", "expected keep or drain-after:DURATION"),
            ("--lost-contact-of=west", "expected CLUSTER=POLICY"),
            ("--lost-contact-of=West=keep", "West"),
            ("--withdrawal-share=101", "101 is not in 0..=100"),
            ("--withdrawal-hold=0s", "longer than zero"),
            ("--max-keys-per-kind=0", "above 0"),
        ] {
            let refused = settings(line).unwrap_err();
            assert!(refused.contains(expected), "{line}: {refused}");
        }
    }
}
