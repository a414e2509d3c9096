//! Arguments that say which cluster a daemon belongs to, how it reaches Kubernetes, and where it answers.

use crate::cmd::version::{REVISION, VERSION};
use crate::daemon::{Daemon, DaemonArgs};
use crate::exit::Usage;
use crate::{duration, listen};
use kube_watch::ClientConfig;
use mesh_runtime::{Backoff, Restart};
use mesh_types::LocalCluster;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tracing::info;

/// The local cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Name of this cluster.
    #[arg(long, value_name = "NAME", default_value = "default", env = "CILIUM_CLUSTER_NAME")]
    cluster_name: String,
    /// Id of this cluster: 1 to the maximum of clusters.
    #[arg(long, value_name = "ID", default_value_t = 0, env = "CILIUM_CLUSTER_ID")]
    cluster_id: u32,
    /// Clusters that the mesh can have: 255 or 511, the same in all of them.
    #[arg(long, value_name = "COUNT", default_value_t = 255)]
    max_connected_clusters: u32,
}

impl ClusterArgs {
    /// The cluster.
    ///
    /// # Errors
    /// [`Usage`] with the rule that it breaks.
    pub(crate) fn local(&self) -> anyhow::Result<LocalCluster> {
        LocalCluster::new(&self.cluster_name, self.cluster_id, self.max_connected_clusters).map_err(|error| {
            Usage::error(format!("--cluster-name, --cluster-id, --max-connected-clusters: {error}"))
        })
    }
}

/// How to reach the Kubernetes API.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct KubernetesArgs {
    /// Kubeconfig of the cluster; without it, the service account of the pod.
    #[arg(long, value_name = "FILE", alias = "kubeconfig", env = "KUBECONFIG")]
    k8s_kubeconfig_path: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", requires = "k8s_kubeconfig_path")]
    context: Option<String>,
    /// URL of the API server, instead of that of the kubeconfig or service account; of several the first is used.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    k8s_api_server_urls: Vec<String>,
    /// At most so many requests per second to the Kubernetes API; a watch counts once [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    k8s_client_qps: Option<f32>,
    /// So many of them may come at once [default: those of one second].
    #[arg(long, value_name = "COUNT", requires = "k8s_client_qps")]
    k8s_client_burst: Option<u32>,
    /// How long connecting to the Kubernetes API may take.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse_positive)]
    k8s_client_connection_timeout: Duration,
}

impl KubernetesArgs {
    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig {
            kubeconfig: self.k8s_kubeconfig_path.clone(),
            context: self.context.clone(),
            server: self.k8s_api_server_urls.first().cloned(),
            qps: self.k8s_client_qps,
            burst: self.k8s_client_burst,
            connect_timeout: Some(self.k8s_client_connection_timeout),
        }
    }
}

fn rate(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|rate: &f32| rate.is_finite() && *rate >= 0.0)
        .ok_or_else(|| "expected a number".to_owned())
}

/// Where a daemon answers, besides `--health-listen`, by Cilium's flags.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Daemon")]
pub(crate) struct ServeArgs {
    /// Port of /healthz, /readyz, /metrics and /status [default: the daemon's own, on loopback only].
    #[arg(long, value_name = "PORT", conflicts_with = "health_listen")]
    health_port: Option<u16>,
    /// Address for --health-port [default: every address].
    #[arg(long, value_name = "ADDRESS", requires = "health_port")]
    health_addr: Option<IpAddr>,
    /// Where /metrics answers too, such as `:9962`.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen::address)]
    prometheus_serve_addr: Option<SocketAddr>,
    /// Flags of Cilium that were given and mean nothing here.
    #[arg(long, value_name = "FLAG", value_delimiter = ',', hide = true)]
    accepted: Vec<String>,
}

impl ServeArgs {
    /// The arguments of the daemon, with the health listener where these say.
    pub(crate) fn of(&self, daemon: &DaemonArgs) -> DaemonArgs {
        // As in Cilium: probes come to the pod's address, so a port alone is meant for all addresses.
        let address = self.health_port.map(|port| match self.health_addr {
            Some(address) => SocketAddr::new(address, port),
            None => listen::everywhere(port),
        });
        daemon.clone().or_health_listen(address)
    }

    /// Opens the listener for metrics, and says once what has no effect.
    pub(crate) async fn start(&self, daemon: &mut Daemon) -> anyhow::Result<()> {
        if !self.accepted.is_empty() {
            info!(flags = self.accepted.join(" "), "flags of Cilium without effect");
        }
        if let Some(address) = self.prometheus_serve_addr {
            daemon.listen("metrics", address).await?;
        }
        Ok(())
    }
}

/// Registers Cilium's `version`.
pub(crate) fn tell_version(daemon: &mut Daemon) {
    let version = Family::<[(&str, &str); 3], Gauge>::default();
    let labels = [("version", VERSION), ("revision", REVISION), ("arch", std::env::consts::ARCH)];
    version.get_or_create(&labels).set(1);
    daemon.series().register("version", "The program that answers, always 1", version);
}

/// Registers Cilium's `bootstrap_seconds`: from now until the daemon is ready.
pub(crate) fn measure_bootstrap(daemon: &mut Daemon) {
    let seconds = Gauge::<f64, AtomicU64>::default();
    let help = "From the start until everything was mirrored, or not waited for any more";
    daemon.series().register("bootstrap_seconds", help, seconds.clone());
    let (readiness, began) = (daemon.readiness.clone(), Instant::now());
    daemon.tasks.spawn("bootstrap", Restart::UntilDone(RESTART), move |stop| {
        let (readiness, seconds) = (readiness.clone(), seconds.clone());
        async move {
            if stop.run_until_cancelled(readiness.wait()).await.is_some() {
                seconds.set(began.elapsed().as_secs_f64());
            }
            Ok::<(), Infallible>(())
        }
    });
}

/// Waits before a task that has an end starts again.
const RESTART: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
        #[command(flatten)]
        kubernetes: KubernetesArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    }

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["x"], args].concat())
    }

    #[test]
    fn a_health_port_alone_is_meant_for_all_addresses() {
        let health = |args: &[&str]| {
            let cli = parse(args).unwrap();
            cli.serve.of(&cli.daemon).health_listen()
        };
        let any = health(&["--health-port=9999"]).unwrap();
        assert!(any.ip().is_unspecified() && any.port() == 9999, "{any}");
        assert_eq!(health(&["--health-port=1", "--health-addr=10.0.0.1"]), "10.0.0.1:1".parse().ok());
        assert_eq!(health(&["--health-listen=10.0.0.1:2"]), "10.0.0.1:2".parse().ok());
        assert_eq!(health(&[]), None);
    }

    #[test]
    fn combinations_that_mean_nothing_are_refused() {
        for args in [
            &["--health-addr=127.0.0.1"][..],
            &["--health-port=1", "--health-listen=127.0.0.1:2"],
            &["--prometheus-serve-addr=9962"],
            &["--k8s-client-qps=-1"],
            &["--k8s-client-burst=1"],
        ] {
            assert!(parse(args).is_err_and(|error| error.exit_code() == 2), "{args:?}");
        }
    }

    #[test]
    fn the_api_server_is_reached_as_ciliums_flags_say() {
        let args =
            ["--kubeconfig=/k", "--k8s-api-server-urls=https://a:1,https://b:1", "--k8s-client-qps=0.5"];
        let config = parse(&args).unwrap().kubernetes.config();
        assert_eq!(config.server.as_deref(), Some("https://a:1"));
        assert_eq!((config.kubeconfig, config.qps), (Some("/k".into()), Some(0.5)));
    }
}
