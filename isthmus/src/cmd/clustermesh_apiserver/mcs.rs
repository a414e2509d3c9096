//! The controllers of the Multi-Cluster Services API, beside the exporter.

use crate::daemon::Daemon;
use clustermesh_apiserver::{Config, mcs, while_leading};
use mesh_observe::Dial;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a cluster that is absent from the store, without evidence that it left, keeps its place in imports.
const ABSENT_GRACE: Duration = Duration::from_secs(15 * 60);

/// Imports what other clusters export, as the local store's cache tells it, while this replica leads.
pub(super) fn start(
    daemon: &mut Daemon,
    config: &Config,
    kube: kube::Client,
    store: Arc<dyn Dial>,
    leading: watch::Receiver<bool>,
) {
    let settings = mcs::RemoteSettings { local: config.local.clone(), absent_grace: ABSENT_GRACE };
    let (status, status_now) = mcs::status_channel();
    let controller = mcs::Config {
        cluster: config.local.name.clone(),
        namespaces_global_by_default: config.default_global_namespace,
    };
    let spawner = daemon.tasks.spawner().branch("mcs");
    // Each term begins with what is there then, and knows nothing of an earlier one.
    let term = move |over: CancellationToken| {
        let (exports, exports_of_others) = mcs::channel();
        let controller =
            mcs::run(controller.clone(), kube.clone(), exports_of_others, status.clone(), over.clone());
        let reader = mcs::follow(settings.clone(), Arc::clone(&store), exports, spawner.clone(), over);
        async move {
            let (ended, read) = futures::join!(controller, reader);
            read.unwrap_or_else(|never| match never {});
            ended
        }
    };
    daemon.tasks.spawn_once("mcs/controller", move |stop| while_leading(leading, stop, term));
    daemon.page("/mcs", move || status_now.borrow().clone());
}
