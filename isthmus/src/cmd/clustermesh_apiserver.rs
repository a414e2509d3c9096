//! `isthmus clustermesh-apiserver`.

use crate::cmd::cluster::{self, ClusterArgs, KubernetesArgs, ServeArgs};
use crate::daemon::{self, Daemon, DaemonArgs, Spec};
use crate::duration;
use crate::exit::{Exit, Usage};
use crate::store::{ObservedStore, StoreArgs, StoreSeries};
use anyhow::Context as _;
use clap::ArgAction;
use clustermesh_apiserver::{Cni, Config, Handle, Leases, Scopes, ServiceFormat};
use kvstore::{EtcdClient, Users};
use mesh_observe::EtcdStore;
use mesh_types::LocalCluster;
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
pub(crate) const HEALTH_PORT: u16 = 9880;

/// Arguments of `isthmus clustermesh-apiserver`; names and defaults are Cilium's where Cilium has them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    export: ExportArgs,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What is exported, and which controllers run.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Where nodes, identities and endpoints come from: Cilium's objects, or (none) Node, Pod and Namespace; auto takes
    /// Cilium's if their definitions are there, and changes over when they appear.
    #[arg(long, value_name = "CNI", default_value_t = Cni::Auto)]
    cni: Cni,
    /// How long to wait for Cilium's definitions, with --cni=cilium, before giving up [default: as long as it takes].
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    crd_wait_timeout: Option<Duration>,
    /// Read CiliumEndpointSlice instead of CiliumEndpoint.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set)]
    enable_cilium_endpoint_slice: bool,
    /// Take part in the Multi-Cluster Services API: export ServiceExports, and import those of other clusters.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set)]
    clustermesh_enable_mcs_api: bool,
    /// With --clustermesh-enable-mcs-api, whether this daemon imports; false where Cilium's operator does.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = true, action = ArgAction::Set)]
    mcs_controllers: bool,
    /// Whether a namespace without the annotation clustermesh.cilium.io/global takes part in the mesh.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = true, action = ArgAction::Set)]
    clustermesh_default_global_namespace: bool,
    /// In which formats global services go out: services and EndpointSlices (prefer-legacy, prefer-endpointslice), or
    /// EndpointSlices alone (only-endpointslice), which peers older than Cilium 1.20 do not read.
    #[arg(long, value_name = "FORMAT", default_value_t = ServiceFormat::PreferLegacy)]
    clustermesh_service_v2: ServiceFormat,
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

    /// Keep the store's users in step with --cluster-users-config-path.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = false, action = ArgAction::Set)]
    cluster_users_enabled: bool,
    /// The users of other clusters and their roles.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/cilium/etcd-config/users.yaml")]
    cluster_users_config_path: PathBuf,
    /// What each remote cluster may see: a YAML file of scopes, read again when it changes. Clusters in a scope see a tree of
    /// their own, and their users may read nothing else.
    #[arg(long, value_name = "FILE")]
    clustermesh_export_scopes: Option<PathBuf>,

    /// Of several replicas only the one that holds a Lease writes to Kubernetes; all export. False where there is one.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t = true, action = ArgAction::Set)]
    leader_election: bool,
    /// Namespace of the Lease.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    leader_election_namespace: String,
    /// How long the Lease holds when its holder is silent.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse_positive)]
    leader_election_lease_duration: Duration,
    /// How long its holder writes without having renewed it; shorter than the Lease holds.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse_positive)]
    leader_election_renew_deadline: Duration,
    /// How often it is renewed, or looked at.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse_positive)]
    leader_election_retry_period: Duration,
}

impl Args {
    /// Exports until it is asked to stop.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let local = self.cluster.local()?;
        // Before anything starts, so that wrong usage is told as such.
        self.export.config(&local, &self.store)?;
        daemon::run(&SPEC, &self.serve.of(&self.daemon), async |daemon| {
            self.serve.start(daemon).await?;
            let etcd = self.store.config()?;
            let client = EtcdClient::new(etcd.clone()).context("set up the client of the local store")?;
            let client = Arc::new(client);
            let series = StoreSeries::register(daemon.series());
            let store = LocalStore {
                users: Arc::clone(&client) as Arc<dyn Users>,
                client: self.store.observed(client, &series, &daemon.readiness, &daemon.tasks.spawner()),
                dial: Arc::new(EtcdStore::new(etcd)),
            };
            let exporter = self.export.start(daemon, &local, &self.store, &self.kubernetes, store).await?;
            daemon.page("/status", move || exporter.status());
            Ok(())
        })
    }
}

/// The store of this cluster, for its writer and for readers of what the mirror put there.
pub(crate) struct LocalStore {
    pub(crate) client: ObservedStore,
    pub(crate) users: Arc<dyn Users>,
    pub(crate) dial: Arc<dyn mesh_observe::Dial>,
}

impl ExportArgs {
    /// Starts the exporter, and the controllers and the keeper of users if they are asked for. The status answers at
    /// `/export` and `/mcs`.
    pub(crate) async fn start(
        &self,
        daemon: &mut Daemon,
        local: &LocalCluster,
        options: &StoreArgs,
        kubernetes: &KubernetesArgs,
        store: LocalStore,
    ) -> anyhow::Result<Handle> {
        cluster::tell_version(daemon);
        let config = self.config(local, options)?;
        let kube = kubernetes.config().client().await.context("reach the Kubernetes API")?;
        let spawner = daemon.tasks.spawner();
        let controllers = config.mcs_api && self.mcs_controllers;
        let leader =
            clustermesh_apiserver::elect(&config, controllers, kube.clone(), &spawner, daemon.series());
        if controllers {
            mcs::start(daemon, &config, kube.clone(), store.dial, leader.clone());
        }
        let readiness = daemon.readiness.clone();
        let exporter = clustermesh_apiserver::start(
            config,
            kube,
            store.client,
            leader,
            &spawner,
            &readiness,
            daemon.series(),
        )
        .map_err(Usage::error)?;
        if self.cluster_users_enabled || exporter.scoping().is_some() {
            let file = self.cluster_users_enabled.then(|| self.cluster_users_config_path.clone());
            let (name, scoping) = (local.name.clone(), exporter.scoping());
            clustermesh_apiserver::keep_users(store.users, file, scoping, name, &spawner);
        }
        let shown = exporter.clone();
        daemon.page("/export", move || shown.status());
        Ok(exporter)
    }

    /// The settings, checked.
    pub(crate) fn config(&self, local: &LocalCluster, store: &StoreArgs) -> anyhow::Result<Config> {
        if let Some(file) = &self.clustermesh_export_scopes {
            let scopes = Scopes::read(file, &local.name);
            scopes.map_err(|error| {
                Usage::error(format!("--clustermesh-export-scopes {}: {error}", file.display()))
            })?;
        }
        let config = Config {
            export_scopes: self.clustermesh_export_scopes.clone(),
            lease_ttl: store.lease_ttl(),
            cni: self.cni,
            crd_wait: self.crd_wait_timeout,
            cilium_endpoint_slices: self.enable_cilium_endpoint_slice,
            mcs_api: self.clustermesh_enable_mcs_api,
            service_format: self.clustermesh_service_v2,
            default_global_namespace: self.clustermesh_default_global_namespace,
            service_proxy_name: self.k8s_service_proxy_name.clone(),
            identity_namespace: self.identity_namespace.clone(),
            identity_grace: self.identity_grace,
            leases: self.leader_election.then(|| Leases {
                namespace: self.leader_election_namespace.clone(),
                duration: self.leader_election_lease_duration,
                renew_deadline: self.leader_election_renew_deadline,
                retry: self.leader_election_retry_period,
                ..Leases::default()
            }),
            ..Config::new(local.clone())
        };
        config.validate().map_err(Usage::error)?;
        Ok(config)
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

    fn config_of(args: &Args) -> anyhow::Result<Config> {
        args.export.config(&args.cluster.local()?, &args.store)
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
            "--crd-wait-timeout=5m0s",
        ])
        .unwrap();
        let config = config_of(&args).unwrap();
        assert_eq!((config.local.name.as_str(), config.local.max.get()), ("west", 511));
        assert_eq!((config.lease_ttl, config.cni), (Duration::from_secs(30), Cni::None));
        assert!(config.cilium_endpoint_slices && config.mcs_api && !config.default_global_namespace);
        assert_eq!(args.kubernetes.config().kubeconfig, Some("/k".into()));
        let config = config_of(&parse(&["--kubeconfig=/k"]).unwrap()).unwrap();
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
            let error = config_of(&cli.args).unwrap_err();
            assert!(error.to_string().contains(expected), "{args:?}: {error}");
            assert_eq!(Exit::of(&error), Exit::Usage, "{args:?}");
        }
    }

    #[test]
    fn words_and_combinations_that_mean_nothing_are_refused() {
        for args in
            [&["--cni=calico"][..], &["--clustermesh-enable-mcs-api=perhaps"], &["--identity-grace=0s"]]
        {
            assert_eq!(parse(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
        for args in ["--identity-namespace=A", "--leader-election-renew-deadline=15s"] {
            let error = config_of(&parse(&[args]).unwrap()).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage, "{args}");
        }
    }
}
