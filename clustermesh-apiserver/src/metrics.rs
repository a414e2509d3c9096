//! Series of the exporter, read from the board when they are scraped.
//!
//! Names and labels are Cilium's where Cilium has the series (`cilium_clustermesh_apiserver_…`).

use std::fmt;

use kvstore::sync::WriterStatus;
use mesh_types::{Form, Resource};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::board::Board;

#[derive(Debug)]
pub(crate) struct Series(pub(crate) Board);

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.bootstrap(&mut encoder)?;
        self.writers(&mut encoder)?;
        self.withheld(&mut encoder)?;
        self.scopes(&mut encoder)?;
        self.kinds(&mut encoder)
    }
}

impl Series {
    fn bootstrap(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(seconds) = self.0.bootstrap_seconds() else { return Ok(()) };
        let help = "From the start until everything was written once";
        let series = encoder.encode_descriptor("bootstrap_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(seconds).encode(series)
    }

    fn writers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Value = fn(&WriterStatus) -> u64;
        let gauges: [(&str, &str, Value); 3] = [
            ("kvstore_sync_queue_size", "Keys to write that the store has not confirmed", |status| {
                status.progress.pending as u64
            }),
            ("kvstore_sync_keys", "Keys that the store should hold", |status| status.progress.wanted as u64),
            ("kvstore_initial_sync_completed", "1 once everything, and the canary, was written", |status| {
                u64::from(status.progress.synced)
            }),
        ];
        let statuses: Vec<_> = self.0.writer_statuses().collect();
        for (name, help, value) in gauges {
            let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (resource, status) in &statuses {
                let (scope, cluster) = (scope(*resource), self.0.cluster());
                let gauge = ConstGauge::new(value(status));
                if name == "kvstore_initial_sync_completed" {
                    let labels = [("scope", &*scope), ("source_cluster", cluster), ("action", "write")];
                    gauge.encode(series.encode_family(&labels)?)?;
                } else {
                    let labels = [("scope", &*scope), ("source_cluster", cluster)];
                    gauge.encode(series.encode_family(&labels)?)?;
                }
            }
        }
        let counters: [(&str, &str, Value); 3] = [
            ("kvstore_sync_errors", "Writes that failed", |status| status.failures),
            ("kvstore_sync_puts", "Keys written", |status| status.written),
            ("kvstore_sync_deletes", "Keys deleted", |status| status.deleted),
        ];
        for (name, help, value) in counters {
            let mut series = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (resource, status) in &statuses {
                let (scope, cluster) = (scope(*resource), self.0.cluster());
                let labels = [("scope", &*scope), ("source_cluster", cluster)];
                ConstCounter::new(value(status)).encode(series.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn withheld(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Objects of which something is not exported";
        let mut series = encoder.encode_descriptor("withheld_objects", help, None, MetricType::Gauge)?;
        for count in self.0.withheld_counts() {
            let labels = [("kind", count.kind.name()), ("reason", count.reason.code())];
            ConstGauge::new(count.objects as u64).encode(series.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn scopes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(trees) = self.0.trees() else { return Ok(()) };
        let scopes = trees.status(None);
        let help = "Keys that the clusters in an export scope see";
        let mut series = encoder.encode_descriptor("export_scope_keys", help, None, MetricType::Gauge)?;
        for (scope, (resource, keys)) in
            scopes.iter().flat_map(|scope| scope.keys.iter().map(move |keys| (scope, keys)))
        {
            let labels = [("export_scope", &*scope.name), ("resource", *resource)];
            ConstGauge::new(*keys as u64).encode(series.encode_family(&labels)?)?;
        }
        let help = "1 once everything that is in the scope was written";
        let mut series = encoder.encode_descriptor("export_scope_synced", help, None, MetricType::Gauge)?;
        for scope in &scopes {
            let synced = u64::from(scope.synced);
            ConstGauge::new(synced).encode(series.encode_family(&[("export_scope", &*scope.name)])?)?;
        }
        let help = "1 if the file of export scopes, as it is now, does not count";
        let series = encoder.encode_descriptor("export_scopes_rejected", help, None, MetricType::Gauge)?;
        ConstGauge::new(u64::from(trees.complaint().is_some())).encode(series)
    }

    fn kinds(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kinds = self.0.kinds();
        let help = "Kubernetes objects that are known";
        let mut series = encoder.encode_descriptor("kubernetes_objects", help, None, MetricType::Gauge)?;
        for kind in &kinds {
            let labels = [("kind", kind.kind.name())];
            ConstGauge::new(kind.objects as u64).encode(series.encode_family(&labels)?)?;
        }
        let help = "1 if the kind is listed and followed";
        let mut series = encoder.encode_descriptor("kubernetes_listed", help, None, MetricType::Gauge)?;
        for kind in &kinds {
            let labels = [("kind", kind.kind.name())];
            let listed = u64::from(kind.state == "listed");
            ConstGauge::new(listed).encode(series.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Cilium's label for a prefix: `nodes/v1`.
fn scope(resource: Resource) -> String {
    let name = resource.canary_name(Form::State);
    name.split('/').skip(2).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_those_of_cilium() {
        let scopes: Vec<_> = Resource::ALL.into_iter().map(scope).collect();
        let expected =
            ["nodes/v1", "ip/v1", "identities/v1", "services/v1", "serviceexports/v1", "endpointslices/v1"];
        assert_eq!(scopes, expected);
    }
}
