//! The controllers of the Multi-Cluster Services API, beside the exporter.

use crate::daemon::Daemon;
use clustermesh_apiserver::{Config, mcs};
use kvstore::EtcdConfig;
use mesh_observe::{Dial, EtcdStore};
use mesh_runtime::{Backoff, Restart};
use std::sync::Arc;
use std::time::Duration;

/// Waits before the reader of other clusters' exports starts again.
const RESTART: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// How long a cluster that is absent from the store, without evidence that it left, keeps its place in imports.
const ABSENT_GRACE: Duration = Duration::from_secs(15 * 60);

/// Imports what other clusters export, as the local store's cache tells it.
pub(super) fn start(daemon: &mut Daemon, config: &Config, kube: kube::Client, etcd: EtcdConfig) {
    let settings = mcs::RemoteSettings { local: config.local.clone(), absent_grace: ABSENT_GRACE };
    let (exports, exports_of_others) = mcs::channel();
    let (status, status_now) = mcs::status_channel();
    let controller = mcs::Config {
        cluster: config.local.name.clone(),
        namespaces_global_by_default: config.default_global_namespace,
    };
    daemon.tasks.spawn_once("mcs/controller", move |stop| {
        mcs::run(controller, kube, exports_of_others, status, stop)
    });
    let (spawner, dial) = (daemon.tasks.spawner().branch("mcs"), Arc::new(EtcdStore::new(etcd)));
    daemon.tasks.spawn("mcs/remote", Restart::WithBackoff(RESTART), move |stop| {
        mcs::follow(
            settings.clone(),
            Arc::clone(&dial) as Arc<dyn Dial>,
            exports.clone(),
            spawner.clone(),
            stop,
        )
    });
    daemon.page("/mcs", move || status_now.borrow().clone());
}
