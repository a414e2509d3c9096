//! Series of the mirror, read from the board when they are scraped, so that a cluster that is gone leaves none.
//!
//! Names and labels are Cilium's where Cilium has the series (`cilium_kvstoremesh_…`).

use std::fmt;
use std::time::{Instant, UNIX_EPOCH};

use mesh_types::{ClusterName, Reason, Resource};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::board::{Board, State};
use crate::record::Record;
use crate::resource::{KINDS, scope};

impl Board {
    /// Registers the series of all remote clusters.
    pub(crate) fn register(&self, registry: &mut Registry) {
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
    type Value = fn(&Record, Resource) -> u64;
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
    safety(encoder, state)?;
    let help = "Entries of remote clusters that were not mirrored, by reason";
    let mut series = encoder.encode_descriptor("skipped_entries", help, None, MetricType::Counter)?;
    for (cluster, record) in &state.remotes {
        for ((kind, reason), count) in &record.skips {
            let scope = scope(*kind);
            let labels =
                [("scope", scope.as_str()), ("source_cluster", cluster.as_str()), ("reason", reason.code())];
            ConstCounter::new(*count).encode(series.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// What is old, held back, or given up.
fn safety(encoder: &mut DescriptorEncoder<'_>, state: &State) -> Result<(), fmt::Error> {
    let now = Instant::now();
    let age = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
    type Value<'a> = &'a dyn Fn(&Record, Resource) -> Option<f64>;
    let last_event = |record: &Record, kind| record.views.get(&kind)?.last_event.map(age);
    let as_of = |record: &Record, kind| record.as_of(kind).map(age);
    let left_out = |record: &Record, kind| Some(record.sinks.keeper(kind, |keeper| keeper.left_out()) as f64);
    let gauges: [(&str, &str, Value<'_>); 3] = [
        ("remote_cluster_data_age_seconds", "What the peer wrote before that long ago is mirrored", &as_of),
        (
            "remote_cluster_last_event_age_seconds",
            "Since the peer's store said anything of the kind",
            &last_event,
        ),
        ("remote_cluster_left_out_entries", "Entries not mirrored because there are too many", &left_out),
    ];
    for (name, help, value) in gauges {
        let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (cluster, record, kind, scope) in views(state) {
            if let Some(value) = value(record, kind) {
                let labels = [("scope", scope.as_str()), ("source_cluster", cluster.as_str())];
                ConstGauge::new(value).encode(series.encode_family(&labels)?)?;
            }
        }
    }
    let help = "Entries that the peer withdrew and that are held back, by reason";
    let mut series =
        encoder.encode_descriptor("remote_cluster_withheld_entries", help, None, MetricType::Gauge)?;
    for (cluster, record, kind, scope) in views(state) {
        let held =
            record.sinks.keeper(kind, |keeper| keeper.held().map(|held| (held.keys.len(), held.reason)));
        let (keys, reason) = held.unwrap_or((0, Reason::WithdrawalAbrupt));
        let labels =
            [("scope", scope.as_str()), ("source_cluster", cluster.as_str()), ("reason", reason.code())];
        ConstGauge::new(keys as u64).encode(series.encode_family(&labels)?)?;
    }
    let help = "Entries that were withdrawn for lack of contact, by reason";
    let mut series =
        encoder.encode_descriptor("remote_cluster_given_up_entries", help, None, MetricType::Gauge)?;
    for (cluster, record, kind, scope) in views(state) {
        if let Some(given_up) = record.sinks.keeper(kind, |keeper| keeper.given_up()) {
            let labels = [
                ("scope", scope.as_str()),
                ("source_cluster", cluster.as_str()),
                ("reason", given_up.reason.code()),
            ];
            ConstGauge::new(given_up.keys as u64).encode(series.encode_family(&labels)?)?;
        }
    }
    let help = "How often data was withdrawn by --clustermesh-cache-ttl";
    let mut series =
        encoder.encode_descriptor("remote_cluster_cache_revocations", help, None, MetricType::Gauge)?;
    for (cluster, record) in &state.remotes {
        let revoked = record.given_up.get(&Reason::CacheTtlEnded).copied().unwrap_or_default();
        let labels = [("target_cluster", cluster.as_str())];
        ConstGauge::new(revoked).encode(series.encode_family(&labels)?)?;
    }
    let help = "From a change at the peer, by its clock, until it is seen here";
    let name = "remote_cluster_change_visible_seconds";
    let mut series = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (cluster, record) in &state.remotes {
        for (source, latency) in record.latencies() {
            let labels = [("target_cluster", cluster.as_str()), ("source", source.word())];
            series.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                latency.sum_seconds(),
                latency.count(),
                &latency.buckets(),
                None,
            )?;
        }
    }
    let help = "Difference of the peer's clock to ours and the shortest way: the least of the latest changes";
    let name = "remote_cluster_clock_difference_seconds";
    let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (cluster, record) in &state.remotes {
        for (source, latency) in record.latencies() {
            let labels = [("target_cluster", cluster.as_str()), ("source", source.word())];
            ConstGauge::new(latency.least_seconds()).encode(series.encode_family(&labels)?)?;
        }
    }
    let help = "Changes that seem to have arrived before they were made, by both clocks; they count as zero";
    let name = "remote_cluster_changes_ahead";
    let mut series = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (cluster, record) in &state.remotes {
        for (source, latency) in record.latencies() {
            let labels = [("target_cluster", cluster.as_str()), ("source", source.word())];
            ConstCounter::new(latency.ahead()).encode(series.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn views(state: &State) -> impl Iterator<Item = (&ClusterName, &Record, Resource, String)> {
    state
        .remotes
        .iter()
        .flat_map(|(cluster, record)| KINDS.into_iter().map(move |kind| (cluster, record, kind, scope(kind))))
}
