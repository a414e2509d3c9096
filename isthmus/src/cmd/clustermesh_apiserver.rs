//! `isthmus clustermesh-apiserver`.

use crate::daemon::{self, DaemonArgs, Spec};
use crate::duration;
use crate::exit::{Exit, Usage};
use crate::store::StoreArgs;
use anyhow::Context as _;
use clap::ArgAction;
use clustermesh_apiserver::{Cni, Config};
use kube_watch::ClientConfig;
use kvstore::EtcdClient;
use mesh_types::LocalCluster;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod mcs;

const SPEC: Spec = Spec {
    name: "clustermesh-apiserver",
    metrics_prefix: "cilium_clustermesh_apiserver",
    health_port: HEALTH_PORT,
};
/// As Cilium's chart has it.
const HEALTH_PORT: u16 = 9880;

/// Arguments of `isthmus clustermesh-apiserver`; names and defaults are Cilium's where Cilium has them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of this cluster.
    #[arg(long, value_name = "NAME", default_value = "default", env = "CILIUM_CLUSTER_NAME")]
    cluster_name: String,
    /// Id of this cluster: 1 to the maximum of clusters.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    cluster_id: u32,
    /// Clusters that the mesh can have: 255 or 511, the same in all of them.
    #[arg(long, value_name = "COUNT", default_value_t = 255)]
    max_connected_clusters: u32,

    /// Where nodes, identities and endpoints come from: Cilium's objects, or (none) Node, Pod and Namespace; auto takes
    /// Cilium's if their definitions are there, and changes over when they appear.
    #[arg(long, value_name = "CNI", default_value_t = Cni::Auto)]
    cni: Cni,
    /// Read CiliumEndpointSlice instead of CiliumEndpoint.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set)]
    enable_cilium_endpoint_slice: bool,
    /// Take part in the Multi-Cluster Services API: export ServiceExports, and import those of other clusters.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set)]
    clustermesh_enable_mcs_api: bool,
    /// Whether a namespace without the annotation clustermesh.cilium.io/global takes part in the mesh.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = true, action = ArgAction::Set)]
    clustermesh_default_global_namespace: bool,
    /// Export the Services whose label service.kubernetes.io/service-proxy-name has this value [default: those without
    /// the label].
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    k8s_service_proxy_name: String,
    /// Namespace of the ConfigMaps that record numeric identities where the CNI is not Cilium. Another one later gives
    /// every pod another identity.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    identity_namespace: String,
    /// How long such a record stays when no pod needs it.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse_positive)]
    identity_grace: Duration,

    /// Kubeconfig of the cluster; without it, the service account of the pod.
    #[arg(long, value_name = "FILE", alias = "kubeconfig", env = "KUBECONFIG")]
    k8s_kubeconfig_path: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", requires = "k8s_kubeconfig_path")]
    context: Option<String>,
    /// At most so many requests per second to the Kubernetes API; a watch counts once [default: no limit].
    #[arg(long, value_name = "COUNT")]
    k8s_client_qps: Option<u32>,

    /// Port of /healthz, /readyz, /metrics and /status [default: 9880 on loopback only].
    #[arg(long, value_name = "PORT", conflicts_with = "health_listen")]
    health_port: Option<u16>,
    /// Address for --health-port [default: every IPv4 address].
    #[arg(long, value_name = "ADDRESS", requires = "health_port")]
    health_addr: Option<IpAddr>,

    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Args {
    /// Exports until it is asked to stop.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let config = self.config()?;
        let daemon = self.daemon.clone().or_health_listen(self.health());
        let kubernetes = ClientConfig {
            kubeconfig: self.k8s_kubeconfig_path.clone(),
            context: self.context.clone(),
            qps: self.k8s_client_qps,
        };
        daemon::run(&SPEC, &daemon, async |daemon| {
            let etcd = self.store.config()?;
            let store = EtcdClient::new(etcd.clone()).context("set up the client of the local store")?;
            let kube = kubernetes.client().await.context("reach the Kubernetes API")?;
            if config.mcs_api {
                mcs::start(daemon, &config, kube.clone(), etcd);
            }
            let spawner = daemon.tasks.spawner();
            let store = Arc::new(store);
            let exporter = clustermesh_apiserver::start(
                config,
                kube,
                store,
                &spawner,
                &daemon.readiness,
                &mut daemon.metrics,
            )
            .map_err(Usage::error)?;
            daemon.page("/status", move || exporter.status());
            Ok(())
        })
    }

    fn config(&self) -> anyhow::Result<Config> {
        let local = LocalCluster::new(&self.cluster_name, self.cluster_id, self.max_connected_clusters);
        let local = local.map_err(|error| {
            Usage::error(format!("--cluster-name, --cluster-id, --max-connected-clusters: {error}"))
        })?;
        let config = Config {
            lease_ttl: self.store.lease_ttl(),
            cni: self.cni,
            cilium_endpoint_slices: self.enable_cilium_endpoint_slice,
            mcs_api: self.clustermesh_enable_mcs_api,
            default_global_namespace: self.clustermesh_default_global_namespace,
            service_proxy_name: self.k8s_service_proxy_name.clone(),
            identity_namespace: self.identity_namespace.clone(),
            identity_grace: self.identity_grace,
            ..Config::new(local)
        };
        config.validate().map_err(Usage::error)?;
        Ok(config)
    }

    /// As Cilium: probes come to the pod's address, so a port alone is meant for all addresses.
    fn health(&self) -> Option<SocketAddr> {
        let address = self.health_addr.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        self.health_port.map(|port| SocketAddr::new(address, port))
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

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        let cluster = ["clustermesh-apiserver", "--cluster-name=west", "--cluster-id=3"];
        Cli::try_parse_from([&cluster, args].concat()).map(|cli| cli.args)
    }

    #[test]
    fn flags_are_ciliums() {
        let args = parse(&[
            "--max-connected-clusters=511",
            "--k8s-kubeconfig-path=/k",
            "--kvstore-opt=etcd.config=/x",
            "--kvstore-lease-ttl=30s",
            "--enable-cilium-endpoint-slice",
            "--clustermesh-enable-mcs-api=true",
            "--clustermesh-default-global-namespace=false",
            "--cni=none",
            "--health-port=9999",
        ])
        .unwrap();
        let config = args.config().unwrap();
        assert_eq!((config.local.name.as_str(), config.local.max.get()), ("west", 511));
        assert_eq!((config.lease_ttl, config.cni), (Duration::from_secs(30), Cni::None));
        assert!(config.cilium_endpoint_slices && config.mcs_api && !config.default_global_namespace);
        assert_eq!(args.health(), Some("0.0.0.0:9999".parse().unwrap()));
        assert_eq!(args.k8s_kubeconfig_path, Some("/k".into()));
        let config = parse(&["--kubeconfig=/k"]).unwrap().config().unwrap();
        assert!(!config.cilium_endpoint_slices && !config.mcs_api && config.default_global_namespace);
    }

    #[test]
    fn a_cluster_that_cannot_be_is_refused_with_the_rule() {
        let cases = [
            (["--cluster-name=default", "--cluster-id=3"], "name of its own"),
            (["--cluster-name=West", "--cluster-id=3"], "expected only a-z"),
            (["--cluster-name=a-name-of-more-than-thirty-two-ch", "--cluster-id=3"], "expected 1 to 32"),
            (["--cluster-name=west", "--cluster-id=0"], "expected 1 to 255"),
            (["--cluster-name=west", "--cluster-id=256"], "expected 1 to 255"),
        ];
        for (args, expected) in cases {
            let cli = Cli::try_parse_from([&["x"], &args[..]].concat()).unwrap();
            let error = cli.args.config().unwrap_err();
            assert!(error.to_string().contains(expected), "{args:?}: {error}");
            assert_eq!(Exit::of(&error), Exit::Usage, "{args:?}");
        }
    }

    #[test]
    fn words_and_combinations_that_mean_nothing_are_refused() {
        for args in [
            &["--cni=calico"][..],
            &["--health-addr=127.0.0.1"],
            &["--health-port=1", "--health-listen=127.0.0.1:2"],
            &["--clustermesh-enable-mcs-api=perhaps"],
            &["--identity-grace=0s"],
        ] {
            assert_eq!(parse(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
        let error = parse(&["--identity-namespace=A"]).unwrap().config().unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
    }
}
