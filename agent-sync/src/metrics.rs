//! The agent's series, read when they are scraped. Names and labels are Cilium's where Cilium has the series.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::api::schema::{ClusterStatus, DatapathStatus, Status, Wireguard};

/// Makes the series part of `registry`, whose prefix is `cilium`.
pub(crate) fn register(
    registry: &mut Registry,
    status: watch::Receiver<Arc<Status>>,
    datapath: watch::Receiver<DatapathStatus>,
    wireguard: watch::Receiver<Wireguard>,
) {
    registry.register_collector(Box::new(Series { status, datapath, wireguard }));
}

#[derive(Debug)]
struct Series {
    status: watch::Receiver<Arc<Status>>,
    datapath: watch::Receiver<DatapathStatus>,
    wireguard: watch::Receiver<Wireguard>,
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = Arc::clone(&self.status.borrow());
        let count = i64::try_from(status.clusters.len()).unwrap_or(i64::MAX);
        let metric = encoder.encode_descriptor(
            "clustermesh_remote_clusters",
            "Known remote clusters",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(count).encode(metric)?;
        for (name, help, value) in per_cluster() {
            let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for cluster in &status.clusters {
                let labels = [("target_cluster", cluster.name.as_str())];
                ConstGauge::new(value(cluster)).encode(series.encode_family(&labels)?)?;
            }
        }
        let help = "Whether the first list of a kind is complete";
        let mut series =
            encoder.encode_descriptor("kvstore_initial_sync_completed", help, None, MetricType::Gauge)?;
        for cluster in &status.clusters {
            for kind in &cluster.kinds {
                let scope = format!("{}/v1", kind.kind);
                let labels = [("scope", &*scope), ("source_cluster", &cluster.name), ("action", "read")];
                let done = i64::from(kind.state != "never-synced");
                ConstGauge::new(done).encode(series.encode_family(&labels)?)?;
            }
        }
        let help = "Values of remote clusters that were not accepted";
        let mut series =
            encoder.encode_descriptor("clustermesh_rejected_values", help, None, MetricType::Counter)?;
        for rejections in &status.totals.rejections {
            let labels = [("target_cluster", &*rejections.cluster), ("reason", &rejections.reason)];
            ConstCounter::new(rejections.count).encode(series.encode_family(&labels)?)?;
        }
        self.encode_datapath(&mut encoder)?;
        self.encode_wireguard(&mut encoder)
    }
}

impl Series {
    fn encode_datapath(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let datapath = self.datapath.borrow().clone();
        let help = "Service frontends that are translated";
        let metric = encoder.encode_descriptor("datapath_frontends", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(datapath.frontends).unwrap_or(i64::MAX)).encode(metric)?;
        let help = "Writes of services to the datapath";
        let mut series = encoder.encode_descriptor("datapath_writes", help, None, MetricType::Counter)?;
        for (outcome, count) in [("success", datapath.writes), ("failure", datapath.failures)] {
            ConstCounter::new(count).encode(series.encode_family(&[("outcome", outcome)])?)?;
        }
        Ok(())
    }
}

impl Series {
    fn encode_wireguard(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let wireguard = self.wireguard.borrow().clone();
        if !wireguard.summary.enabled {
            return Ok(());
        }
        let metric =
            encoder.encode_descriptor("wireguard_peers", "Peers of the device", None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(wireguard.peers.len()).unwrap_or(i64::MAX)).encode(metric)?;
        let mut withheld: BTreeMap<&str, i64> = BTreeMap::new();
        for skipped in &wireguard.skipped {
            *withheld.entry(&skipped.reason).or_default() += 1;
        }
        let help = "Nodes and prefixes that are left out of encryption";
        let mut series = encoder.encode_descriptor("wireguard_withheld", help, None, MetricType::Gauge)?;
        for (reason, count) in withheld {
            ConstGauge::new(count).encode(series.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}

type PerCluster = (&'static str, &'static str, fn(&ClusterStatus) -> i64);

fn per_cluster() -> [PerCluster; 7] {
    fn entries(cluster: &ClusterStatus, kind: &str) -> i64 {
        let entries =
            cluster.kinds.iter().find(|status| status.kind == kind).map_or(0, |status| status.entries);
        i64::try_from(entries).unwrap_or(i64::MAX)
    }
    [
        (
            "clustermesh_remote_cluster_last_failure_ts",
            "When contact was last lost, in seconds since 1970",
            |cluster| {
                let at = cluster.last_failure.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
                at.map_or(0, Timestamp::as_second)
            },
        ),
        ("clustermesh_remote_cluster_readiness_status", "Whether the cluster is ready", |cluster| {
            i64::from(cluster.ready)
        }),
        ("clustermesh_remote_cluster_failures", "How often contact was lost", |cluster| {
            i64::try_from(cluster.failures).unwrap_or(i64::MAX)
        }),
        // Services are never revoked by time here; the series is there for dashboards that expect it.
        ("clustermesh_remote_cluster_cache_revocations", "How often services were revoked by time", |_| 0),
        ("clustermesh_remote_cluster_nodes", "Nodes of the cluster", |cluster| entries(cluster, "nodes")),
        ("clustermesh_remote_cluster_services", "Services of the cluster", |cluster| {
            entries(cluster, "services")
        }),
        ("clustermesh_remote_cluster_endpoints", "Addresses of the cluster", |cluster| {
            entries(cluster, "ip")
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::{KindStatus, RejectionCount, Totals, WireguardSkipped, WireguardSummary};

    #[test]
    fn series_have_cilium_s_names_and_labels() {
        let kind = KindStatus {
            kind: "nodes".to_owned(),
            state: "synced".to_owned(),
            entries: 3,
            ..KindStatus::default()
        };
        let east = ClusterStatus {
            name: "east".to_owned(),
            ready: true,
            failures: 2,
            last_failure: Some("1970-01-01T00:01:40Z".to_owned()),
            kinds: vec![kind],
            ..ClusterStatus::default()
        };
        let count =
            RejectionCount { cluster: "east".to_owned(), reason: "value-not-json".to_owned(), count: 4 };
        let totals = Totals { rejections: vec![count], ..Totals::default() };
        let status = Status { clusters: vec![east], totals, ..Status::default() };
        let (_status, status) = watch::channel(Arc::new(status));
        let (_datapath, datapath) =
            watch::channel(DatapathStatus { frontends: 5, ..DatapathStatus::default() });
        let mut registry = Registry::with_prefix("cilium");
        let skipped =
            |reason: &str| WireguardSkipped { reason: reason.to_owned(), ..WireguardSkipped::default() };
        let wireguard = Wireguard {
            summary: WireguardSummary { enabled: true, ..WireguardSummary::default() },
            skipped: vec![skipped("wireguard-key-invalid"), skipped("wireguard-key-invalid")],
            ..Wireguard::default()
        };
        let (_wireguard, wireguard) = watch::channel(wireguard);
        register(&mut registry, status, datapath, wireguard);
        let text = mesh_runtime::encode(&registry);
        for line in [
            "cilium_clustermesh_remote_clusters 1",
            "cilium_clustermesh_remote_cluster_readiness_status{target_cluster=\"east\"} 1",
            "cilium_clustermesh_remote_cluster_failures{target_cluster=\"east\"} 2",
            "cilium_clustermesh_remote_cluster_last_failure_ts{target_cluster=\"east\"} 100",
            "cilium_clustermesh_remote_cluster_nodes{target_cluster=\"east\"} 3",
            "cilium_kvstore_initial_sync_completed{scope=\"nodes/v1\",source_cluster=\"east\",action=\"read\"} 1",
            "cilium_clustermesh_rejected_values_total{target_cluster=\"east\",reason=\"value-not-json\"} 4",
            "cilium_datapath_frontends 5",
            "cilium_wireguard_peers 0",
            "cilium_wireguard_withheld{reason=\"wireguard-key-invalid\"} 2",
            "cilium_datapath_writes_total{outcome=\"success\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
