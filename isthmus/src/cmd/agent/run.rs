//! `isthmus agent run`.

use super::SocketArgs;
use crate::daemon::{self, DaemonArgs, Spec};
use crate::duration;
use crate::exit::{Exit, Usage};
use crate::store::StoreArgs;
use agent_sync::datapath::{Datapath, MakeDatapath, Memory, Nft, NftOptions, NftScope};
use agent_sync::{AgentSettings, EncryptSettings, LocalSource, Surroundings};
use anyhow::Context as _;
use clap::{ArgAction, ValueEnum};
use kube_watch::ClientConfig;
use mesh_observe::EtcdStore;
use mesh_types::LocalCluster;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Cilium's prefix and health port.
const SPEC: Spec = Spec { name: "agent", metrics_prefix: "cilium", health_port: 9879 };

/// Arguments of `isthmus agent run`; names and defaults are Cilium's where Cilium has them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of this cluster.
    #[arg(long, value_name = "NAME", default_value = "default", env = "CILIUM_CLUSTER_NAME")]
    cluster_name: String,
    /// Id of this cluster: 1 to the maximum of clusters.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    cluster_id: u32,
    /// Clusters that the mesh can have: 255 or 511, the same in all of them.
    #[arg(long, value_name = "COUNT", default_value_t = 255)]
    max_connected_clusters: u32,
    /// Name of this node in Kubernetes.
    #[arg(long, value_name = "NAME", env = "K8S_NODE_NAME")]
    node_name: String,

    /// Kubeconfig of the cluster; without it, the service account of the pod.
    #[arg(long, value_name = "FILE", alias = "kubeconfig", env = "KUBECONFIG")]
    k8s_kubeconfig_path: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", requires = "k8s_kubeconfig_path")]
    context: Option<String>,

    /// Whether this cluster has IPv4.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = true, action = ArgAction::Set)]
    enable_ipv4: bool,
    /// Whether this cluster has IPv6.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = true, action = ArgAction::Set)]
    enable_ipv6: bool,
    /// The family by which nodes reach each other.
    #[arg(long, value_name = "FAMILY", value_enum, default_value_t)]
    underlay_protocol: Family,

    /// Readiness, and the first removal of what an earlier agent left, wait for what is not synced no longer than this.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration::parse)]
    clustermesh_sync_timeout: Duration,
    /// How long a cluster is kept that the store no longer names, when nothing says that it was removed (a new store, a
    /// mirror that is gone); 0s is for ever.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    absent_cluster_grace: Duration,

    /// What translates the addresses of services to backends.
    #[arg(long, value_name = "DATAPATH", value_enum, default_value_t)]
    datapath: DatapathChoice,
    /// Which services are translated here: `global` leaves the others to kube-proxy, `all` takes its place.
    #[arg(long, value_name = "SERVICES", value_enum, default_value_t)]
    datapath_services: Services,

    #[command(flatten)]
    wireguard: WireguardArgs,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Encryption")]
struct WireguardArgs {
    /// Encrypt what goes to nodes of other clusters: with the kernel's WireGuard (netlink), in user space (boringtun),
    /// with the kernel's if there is one (auto), or not at all. All clusters of the mesh must agree.
    #[arg(long, value_name = "DEVICE", value_enum, default_value_t)]
    wireguard: Wireguard,
    /// The node's private key; made if the file is missing, and then kept.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/isthmus/wireguard.key")]
    wireguard_key_file: PathBuf,
    /// Name of the interface.
    #[arg(long, value_name = "NAME", default_value = wireguard::DEVICE_NAME)]
    wireguard_interface: String,
    /// UDP port of every node's device.
    #[arg(long, value_name = "PORT", default_value_t = wireguard::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    wireguard_port: u16,
    /// What enters the device: packets between pods as they are, or encapsulated between nodes.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    wireguard_scope: Scope,
    /// Time between keepalives, for firewalls that forget; 0s sends none.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    wireguard_persistent_keepalive: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Family {
    #[default]
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum DatapathChoice {
    #[default]
    Nftables,
    /// Tables only.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Services {
    #[default]
    Global,
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Wireguard {
    #[default]
    Off,
    Auto,
    Netlink,
    Boringtun,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Scope {
    #[default]
    Pods,
    Nodes,
}

impl Args {
    /// Runs until it is asked to stop, which leaves rules and peers in place.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let settings = self.settings()?;
        let kubernetes = ClientConfig {
            kubeconfig: self.k8s_kubeconfig_path.clone(),
            context: self.context.clone(),
            ..ClientConfig::default()
        };
        daemon::run(&SPEC, &self.daemon, async |daemon| {
            let surroundings = Surroundings {
                store: Arc::new(EtcdStore::new(self.store.config()?)),
                local: LocalSource::Kubernetes(
                    kubernetes.client().await.context("reach the Kubernetes API")?,
                ),
                datapath: self.datapath(),
            };
            agent_sync::start(settings, surroundings, &daemon.tasks, &daemon.readiness, &mut daemon.metrics)?;
            Ok(())
        })
    }

    fn settings(&self) -> anyhow::Result<AgentSettings> {
        let local = LocalCluster::new(&self.cluster_name, self.cluster_id, self.max_connected_clusters);
        let local = local.map_err(|error| {
            Usage::error(format!("--cluster-name, --cluster-id, --max-connected-clusters: {error}"))
        })?;
        if !self.enable_ipv4 && !self.enable_ipv6 {
            return Err(Usage::error("expected at least one of --enable-ipv4 and --enable-ipv6 to be true"));
        }
        Ok(AgentSettings {
            local,
            node: self.node_name.as_str().into(),
            dual_stack: self.enable_ipv4 && self.enable_ipv6,
            ipv6_underlay: self.underlay_protocol == Family::Ipv6,
            sync_timeout: self.clustermesh_sync_timeout,
            absent_grace: self.absent_cluster_grace,
            socket: self.socket.socket.clone(),
            encrypt: self.encrypt()?,
        })
    }

    fn encrypt(&self) -> anyhow::Result<Option<EncryptSettings>> {
        let args = &self.wireguard;
        let choice = match args.wireguard {
            Wireguard::Off => return Ok(None),
            Wireguard::Auto => wireguard::Choice::Auto,
            Wireguard::Netlink => wireguard::Choice::Kernel,
            Wireguard::Boringtun => wireguard::Choice::UserSpace,
        };
        let seconds = args.wireguard_persistent_keepalive.as_secs();
        let keepalive = u16::try_from(seconds)
            .map_err(|_too_long| Usage::error("--wireguard-persistent-keepalive: expected at most 65535s"))?;
        let plan = wireguard::Settings {
            ipv4: self.enable_ipv4,
            ipv6: self.enable_ipv6,
            ipv6_underlay: self.underlay_protocol == Family::Ipv6,
            scope: match args.wireguard_scope {
                Scope::Pods => wireguard::Scope::Pods,
                Scope::Nodes => wireguard::Scope::Nodes,
            },
            port: args.wireguard_port,
            keepalive: (keepalive > 0).then_some(keepalive),
        };
        Ok(Some(EncryptSettings {
            choice,
            key_file: args.wireguard_key_file.clone(),
            interface: args.wireguard_interface.clone(),
            plan,
        }))
    }

    fn datapath(&self) -> MakeDatapath {
        let scope = match self.datapath_services {
            Services::Global => NftScope::Global,
            Services::All => NftScope::All,
        };
        let choice = self.datapath;
        Arc::new(move || -> Box<dyn Datapath> {
            match choice {
                DatapathChoice::Nftables => Box::new(Nft::new(NftOptions { scope, ..NftOptions::default() })),
                DatapathChoice::None => Box::new(Memory::default()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Args {
        let needed = ["test", "--cluster-name=east", "--cluster-id=7", "--node-name=node-1"];
        Cli::try_parse_from([&needed, args].concat()).unwrap().args
    }

    #[test]
    fn without_a_word_services_go_to_nftables_and_nothing_is_encrypted() {
        let args = parse(&[]);
        let settings = args.settings().unwrap();
        assert!(settings.encrypt.is_none() && settings.dual_stack && !settings.ipv6_underlay);
        assert_eq!(settings.sync_timeout, Duration::from_secs(60));
        assert_eq!(args.datapath()().name(), "nftables");
        assert_eq!(parse(&["--datapath=none"]).datapath()().name(), "none");
    }

    #[test]
    fn encryption_takes_over_what_the_flags_say() {
        let args =
            parse(&["--wireguard=boringtun", "--wireguard-persistent-keepalive=25s", "--enable-ipv6=false"]);
        let encrypt = args.settings().unwrap().encrypt.unwrap();
        assert_eq!((encrypt.choice, encrypt.plan.keepalive), (wireguard::Choice::UserSpace, Some(25)));
        assert!(encrypt.plan.ipv4 && !encrypt.plan.ipv6);
    }

    #[test]
    fn what_cannot_work_says_what_would() {
        let cases = [
            (&["--cluster-name=east", "--cluster-id=256"][..], "expected 1 to 255"),
            (&["--cluster-id=7"], "give the cluster a name"),
            (
                &["--cluster-name=east", "--cluster-id=7", "--enable-ipv4=false", "--enable-ipv6=false"],
                "expected at least one of",
            ),
            (
                &[
                    "--cluster-name=east",
                    "--cluster-id=7",
                    "--wireguard=auto",
                    "--wireguard-persistent-keepalive=1d",
                ],
                "expected at most 65535s",
            ),
        ];
        for (flags, expected) in cases {
            let cli = Cli::try_parse_from([&["test", "--node-name=n"], flags].concat()).unwrap();
            let error = cli.args.settings().unwrap_err();
            assert!(error.to_string().contains(expected), "{flags:?}: {error}");
        }
    }
}
