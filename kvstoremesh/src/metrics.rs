//! Series of the mirror, read from the board when they are scraped, so that a cluster that is gone leaves none.
//!
//! Names and labels are Cilium's where Cilium has the series (`cilium_kvstoremesh_…`).

use std::fmt;
use std::time::{Instant, UNIX_EPOCH};

use mesh_types::{ClusterName, Reason};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::board::{Board, State};
use crate::record::Record;
use crate::resource::Mirrored;

impl Board {
    /// Registers the series of all remote clusters under the registry's prefix (`cilium_kvstoremesh`).
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Series(self.clone())));
    }
}

#[derive(Debug)]
struct Series(Board);

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.read(|state| {
            configured(&mut encoder, state)?;
            per_cluster(&mut encoder, state)?;
            per_kind(&mut encoder, state)
        })
    }
}

fn configured(encoder: &mut DescriptorEncoder<'_>, state: &State) -> Result<(), fmt::Error> {
    let help = "Remote clusters that are configured";
    let series = encoder.encode_descriptor("remote_clusters", help, None, MetricType::Gauge)?;
    ConstGauge::new(state.remotes.len() as u64).encode(series)?;

    let help = "Files that look like a peer's configuration and are not used";
    let mut series = encoder.encode_descriptor("rejected_config_files", help, None, MetricType::Gauge)?;
    for &reason in Reason::ALL {
        let files = state.rejected.iter().filter(|file| file.rejection.reason == reason).count();
        if files > 0 {
            ConstGauge::new(files as u64).encode(series.encode_family(&[("reason", reason.code())])?)?;
        }
    }
    Ok(())
}

fn per_cluster(encoder: &mut DescriptorEncoder<'_>, state: &State) -> Result<(), fmt::Error> {
    type Value = fn(&Record) -> Option<f64>;
    let gauges: [(&str, &str, Value); 5] = [
        ("remote_cluster_failures", "Attempts that failed and connections that were lost", |record| {
            Some(record.failures as f64)
        }),
        (
            "remote_cluster_last_failure_ts",
            "When the last of them was, in Unix seconds; 0 is never",
            |record| {
                let since = record.last_failure.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                Some(since.unwrap_or_default().as_secs_f64())
            },
        ),
        (
            "remote_cluster_readiness_status",
            "1 if everything that it offers is mirrored and follows",
            |record| Some(f64::from(u8::from(record.is_ready()))),
        ),
        ("remote_cluster_connected", "1 if its store answers", |record| {
            Some(f64::from(u8::from(record.connected)))
        }),
        ("remote_cluster_heartbeat_age_seconds", "Since its heartbeat changed", |record| {
            record.last_heartbeat.map(|heard| Instant::now().saturating_duration_since(heard).as_secs_f64())
        }),
    ];
    for (name, help, value) in gauges {
        let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (cluster, record) in &state.remotes {
            if let Some(value) = value(record) {
                let labels = [("target_cluster", cluster.as_str())];
                ConstGauge::new(value).encode(series.encode_family(&labels)?)?;
            }
        }
    }
    let help = "How often something was in the way of a remote cluster, by reason";
    let mut series = encoder.encode_descriptor("remote_cluster_troubles", help, None, MetricType::Counter)?;
    for (cluster, record) in &state.remotes {
        for (reason, count) in &record.troubles {
            let labels = [("target_cluster", cluster.as_str()), ("reason", reason.code())];
            ConstCounter::new(*count).encode(series.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn per_kind(encoder: &mut DescriptorEncoder<'_>, state: &State) -> Result<(), fmt::Error> {
    let help = "1 once the first list was read, or written to the local store";
    let mut series =
        encoder.encode_descriptor("kvstore_initial_sync_completed", help, None, MetricType::Gauge)?;
    for (cluster, record, kind, scope) in views(state) {
        let read = record.views[&kind].complete;
        for (action, done) in [("read", read), ("write", record.sinks.is_synced(kind))] {
            let labels =
                [("scope", scope.as_str()), ("source_cluster", cluster.as_str()), ("action", action)];
            ConstGauge::new(u64::from(done)).encode(series.encode_family(&labels)?)?;
        }
    }
    type Value = fn(&Record, Mirrored) -> u64;
    let gauges: [(&str, &str, Value); 2] = [
        ("kvstore_sync_queue_size", "Entries to write or delete in the local store", |record, kind| {
            record.sinks.status(kind).progress.pending as u64
        }),
        ("remote_cluster_entries", "Entries that the local store is to hold", |record, kind| {
            record.sinks.status(kind).progress.wanted as u64
        }),
    ];
    for (name, help, value) in gauges {
        let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (cluster, record, kind, scope) in views(state) {
            let labels = [("scope", scope.as_str()), ("source_cluster", cluster.as_str())];
            ConstGauge::new(value(record, kind)).encode(series.encode_family(&labels)?)?;
        }
    }
    let counters: [(&str, &str, Value); 2] = [
        ("kvstore_sync_errors", "Writes to the local store that failed", |record, kind| {
            record.sinks.status(kind).failures
        }),
        (
            "kvstore_sync_writes",
            "Entries that the local store confirmed to have written or deleted",
            |record, kind| {
                let status = record.sinks.status(kind);
                status.written + status.deleted
            },
        ),
    ];
    for (name, help, value) in counters {
        let mut series = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (cluster, record, kind, scope) in views(state) {
            let labels = [("scope", scope.as_str()), ("source_cluster", cluster.as_str())];
            ConstCounter::new(value(record, kind)).encode(series.encode_family(&labels)?)?;
        }
    }
    let help = "Entries of remote clusters that were not mirrored, by reason";
    let mut series = encoder.encode_descriptor("skipped_entries", help, None, MetricType::Counter)?;
    for (cluster, record) in &state.remotes {
        for ((kind, reason), count) in &record.skips {
            let scope = kind.scope();
            let labels =
                [("scope", scope.as_str()), ("source_cluster", cluster.as_str()), ("reason", reason.code())];
            ConstCounter::new(*count).encode(series.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn views(state: &State) -> impl Iterator<Item = (&ClusterName, &Record, Mirrored, String)> {
    state.remotes.iter().flat_map(|(cluster, record)| {
        Mirrored::ALL.into_iter().map(move |kind| (cluster, record, kind, kind.scope()))
    })
}
