use crate::supervisor::{Spawner, TaskStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;

/// Which program this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Version of the package, such as `0.1.0`.
    pub version: &'static str,
    /// Commit it was built from, or `unknown`.
    pub revision: &'static str,
}

/// `leader_election_master_status`: 1 while this replica leads, by the name of what is led. Name and label are those of
/// Kubernetes' client library.
pub struct MasterStatus<F> {
    name: &'static str,
    leads: F,
}

impl<F: Fn() -> bool + Send + Sync + 'static> MasterStatus<F> {
    /// Registers it in `registry`; `leads` is asked when the series is scraped.
    pub fn register(registry: &mut Registry, name: &'static str, leads: F) {
        registry.register_collector(Box::new(Self { name, leads }));
    }
}

impl<F> fmt::Debug for MasterStatus<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterStatus").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: Fn() -> bool + Send + Sync + 'static> Collector for MasterStatus<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "1 if this replica leads";
        let mut series =
            encoder.encode_descriptor("leader_election_master_status", help, None, MetricType::Gauge)?;
        ConstGauge::new(u64::from((self.leads)())).encode(series.encode_family(&[("name", self.name)])?)
    }
}

/// A registry whose series are called `<prefix>_…` and that holds `<prefix>_build_info` and, per task,
/// `<prefix>_task_restarts_total`.
#[must_use]
pub fn registry(prefix: &str, build: BuildInfo, tasks: Spawner) -> Registry {
    let mut registry = Registry::with_prefix(prefix);
    describe(&mut registry, build, tasks);
    registry
}

/// A registry for several daemons in one process: what is registered in it has the names of its own sub-registries,
/// and only the two series of [`registry`] have `prefix`.
#[must_use]
pub fn shared_registry(prefix: &str, build: BuildInfo, tasks: Spawner) -> Registry {
    let mut registry = Registry::default();
    describe(registry.sub_registry_with_prefix(prefix), build, tasks);
    registry
}

fn describe(registry: &mut Registry, build: BuildInfo, tasks: Spawner) {
    let labels = [("version", build.version), ("revision", build.revision)];
    registry.register("build", "The program that answers, always 1", Info::new(labels));
    registry.register_collector(Box::new(Tasks(tasks)));
}

/// The registry in OpenMetrics text form.
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string does not fail; a collector that does leaves its own series out.
    if let Err(fmt::Error) = prometheus_client::encoding::text::encode(&mut text, registry) {
        tracing::error!("a metric could not be encoded; the series after it are missing");
    }
    text
}

/// Reads the tasks when it is scraped, so that a task that is gone leaves no series behind.
#[derive(Debug)]
struct Tasks(Spawner);

impl Collector for Tasks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How often a task was started again after a failure";
        let mut series = encoder.encode_descriptor("task_restarts", help, None, MetricType::Counter)?;
        for TaskStatus { name, restarts, .. } in self.0.status() {
            let labels = [("task", name.as_ref())];
            ConstCounter::new(restarts).encode(series.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Restart, Supervisor};
    use std::time::Duration;

    #[tokio::test]
    async fn a_registry_has_its_prefix_and_names_the_build_and_the_tasks() {
        let tasks = Supervisor::new(Duration::from_secs(1));
        tasks.spawn("store", Restart::Never, |stop| async move {
            stop.cancelled().await;
            Ok::<(), std::io::Error>(())
        });
        let build = BuildInfo { version: "1.2.3", revision: "abc" };
        let text = encode(&registry("cilium_kvstoremesh", build, tasks.spawner()));
        assert!(
            text.contains("cilium_kvstoremesh_build_info{version=\"1.2.3\",revision=\"abc\"} 1"),
            "{text}"
        );
        assert!(text.contains("cilium_kvstoremesh_task_restarts_total{task=\"store\"} 0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");

        let mut shared = shared_registry("isthmus_mesh", build, tasks.spawner());
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        shared.sub_registry_with_prefix("cilium_kvstoremesh").register("x", "X", counter);
        let text = encode(&shared);
        assert!(
            text.contains("isthmus_mesh_build_info{") && text.contains("\ncilium_kvstoremesh_x_total 0"),
            "{text}"
        );
    }
}
