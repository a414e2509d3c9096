//! What the daemon says of itself: `/status`, and Cilium's `/v1/cluster`.
//!
//! Ages are counted when the page is asked for. Fields are only ever added.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use jiff::Timestamp;
use mesh_types::{ClusterConfig, ClusterName, LocalCluster, PeerContact, Reason, Rejection, Resource};
use serde::{Deserialize, Serialize};

use crate::board::{Board, State};
use crate::record::{Phase, Record};
use crate::remote::contact;
use crate::resource::{KINDS, is_offered};

/// The page `/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusPage {
    /// Name of the local cluster.
    pub cluster: String,
    /// Its id.
    pub cluster_id: u32,
    /// 255 or 511.
    pub max_connected_clusters: u32,
    /// The remote clusters that are configured, by name.
    pub remotes: Vec<RemoteStatus>,
    /// Clusters whose configuration is gone and whose data is being removed.
    pub removing: Vec<RemovalStatus>,
    /// Files that look like configurations and are not used.
    pub rejected_files: Vec<RejectedFileStatus>,
}

/// A file that is not used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RejectedFileStatus {
    /// Its name.
    pub file: String,
    /// Stable code.
    pub reason: String,
    /// What was expected and found.
    pub detail: String,
}

/// A cluster under removal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovalStatus {
    /// Its name.
    pub name: String,
    /// `deleting-cluster-config`, `grace`, `deleting-canaries`, `deleting-data` or `waiting-to-retry`.
    pub stage: String,
}

/// A remote cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteStatus {
    /// Its name.
    pub name: String,
    /// Everything that it offers is here and follows.
    pub ready: bool,
    /// Its store answers.
    pub connected: bool,
    /// Where its store is configured to be.
    pub endpoints: Vec<String>,
    /// Cluster id of its store, hexadecimal.
    pub store_cluster_id: Option<String>,
    /// What it announces; absent until it is accepted.
    pub config: Option<ConfigStatus>,
    /// By the word in keys: `nodes`, `ip`, `identities`, `services`, `serviceexports`, `endpointslices`.
    pub resources: BTreeMap<String, ResourceStatus>,
    /// What becomes of its data without contact: `keep`, or `drain-after:` and a time.
    #[serde(default)]
    pub lost_contact: String,
    /// How long changes took from the peer's clock to here, by what tells the peer's time: `heartbeat` in whole
    /// seconds; where the peer is Isthmus `stamp`, its heartbeat to the microsecond, and `revision`, each change until it
    /// was stored here.
    #[serde(default)]
    pub latency: BTreeMap<String, LatencyStatus>,
    /// Since its heartbeat changed.
    pub heartbeat_age_seconds: Option<f64>,
    /// Attempts that failed and connections that were lost.
    pub failures: u64,
    /// Of the last of them, RFC 3339.
    pub last_failure: Option<String>,
    /// What is in the way now.
    pub trouble: Option<TroubleStatus>,
    /// What the local store refuses now.
    pub write_error: Option<String>,
    /// Entries that are not mirrored (the first hundred).
    pub skipped: Vec<SkippedStatus>,
}

/// A reason with its words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TroubleStatus {
    /// Stable code.
    pub reason: String,
    /// What was expected and found.
    pub detail: String,
}

/// What a cluster announces of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// Its id.
    pub cluster_id: u32,
    /// 255 or 511; 0 when not announced.
    pub max_connected_clusters: u32,
    /// Its store is a mirror's.
    pub cached: bool,
    /// It says when its data is complete.
    pub synced_canaries: bool,
    /// Absent: not supported.
    pub service_exports_enabled: Option<bool>,
    /// Cilium 1.20; empty when not announced.
    pub endpoint_slices_export_mode: String,
}

/// One kind of data of a remote cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// `synced`, `stale` (was synced, may be old), `never-synced` or `not-offered`.
    pub state: String,
    /// What it waits for: `connection`, `cluster-config` (one that can be accepted), `canary`, `list`, `fewer-keys` or
    /// `write`; absent when synced.
    pub waiting_for: Option<String>,
    /// Entries that the local store is to hold.
    pub entries: usize,
    /// Of those, and of deletions, how many are not written yet.
    pub pending: usize,
    /// Since it could last be trusted to be as the peer's.
    pub stale_seconds: Option<f64>,
    /// Since the peer's store last said anything of it.
    pub last_event_seconds: Option<f64>,
    /// How the peer's word stands: `current`, `not-listed`, `unreachable` or `not-exported`.
    #[serde(default)]
    pub contact: String,
    /// What the peer wrote before that long ago is here: its age is at most this. Absent before the first list.
    #[serde(default)]
    pub age_bound_seconds: Option<f64>,
    /// Withdrawals of the peer that are not obeyed yet.
    #[serde(default)]
    pub withheld: Option<WithheldStatus>,
    /// What was withdrawn though the peer did not say so.
    #[serde(default)]
    pub given_up: Option<WithheldStatus>,
    /// Entries that are left out because there are too many.
    #[serde(default)]
    pub left_out: usize,
}

/// Entries that are held back, or withdrawn, by a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WithheldStatus {
    /// How many.
    pub keys: usize,
    /// Stable code.
    pub reason: String,
    /// Since the first of them.
    pub since_seconds: Option<f64>,
    /// Until the first of them goes, while the peer is in contact.
    #[serde(default)]
    pub goes_in_seconds: Option<f64>,
}

/// How long changes took to get here.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyStatus {
    /// How many were measured.
    pub count: u64,
    /// The bound below which half of them were.
    pub p50_seconds: f64,
    /// The bound below which 99 of 100 were.
    pub p99_seconds: f64,
    /// The longest.
    pub max_seconds: f64,
    /// The latest.
    pub last_seconds: f64,
    /// How many seem to have arrived before they were sent, by both clocks; they count as zero.
    #[serde(default)]
    pub ahead: u64,
    /// The least of the latest hundreds as both clocks tell it, below zero too: the difference of the clocks and the
    /// shortest way.
    #[serde(default)]
    pub least_seconds: f64,
}

/// An entry that is not mirrored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SkippedStatus {
    /// The word in keys.
    pub resource: String,
    /// Relative to the prefix; bytes that are no text are escaped.
    pub key: String,
    /// Stable code.
    pub reason: String,
    /// What was expected and found.
    pub detail: String,
}

/// One cluster in Cilium's form, an element of the array at `/v1/cluster`. Absent is zero, false or unknown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CiliumRemote {
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    ready: bool,
    #[serde(skip_serializing_if = "is_zero")]
    connected: bool,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<CiliumConfig>,
    synced: CiliumSynced,
    #[serde(skip_serializing_if = "is_zero")]
    num_nodes: usize,
    #[serde(skip_serializing_if = "is_zero")]
    num_endpoints: usize,
    #[serde(skip_serializing_if = "is_zero")]
    num_identities: usize,
    #[serde(skip_serializing_if = "is_zero")]
    num_shared_services: usize,
    #[serde(skip_serializing_if = "is_zero")]
    num_service_exports: usize,
    #[serde(skip_serializing_if = "is_zero")]
    num_endpoint_slices: usize,
    #[serde(skip_serializing_if = "is_zero")]
    num_failures: u64,
    last_failure: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct CiliumConfig {
    #[serde(skip_serializing_if = "is_zero")]
    required: bool,
    #[serde(skip_serializing_if = "is_zero")]
    retrieved: bool,
    #[serde(skip_serializing_if = "is_zero")]
    cluster_id: u32,
    #[serde(skip_serializing_if = "is_zero")]
    kvstoremesh: bool,
    #[serde(skip_serializing_if = "is_zero")]
    sync_canaries: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_exports_enabled: Option<bool>,
    #[serde(skip_serializing_if = "String::is_empty")]
    endpoint_slices_export_mode: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct CiliumSynced {
    #[serde(skip_serializing_if = "is_zero")]
    nodes: bool,
    #[serde(skip_serializing_if = "is_zero")]
    endpoints: bool,
    #[serde(skip_serializing_if = "is_zero")]
    identities: bool,
    #[serde(skip_serializing_if = "is_zero")]
    services: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_exports: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_slices: Option<bool>,
}

impl Board {
    /// The page `/status` at `now`.
    pub fn status(&self, local: &LocalCluster, now: Instant) -> StatusPage {
        self.read(|state| page(state, local, now))
    }

    /// The page `/v1/cluster`, as Cilium's `kvstoremesh` has it.
    pub fn cilium_status(&self) -> Vec<CiliumRemote> {
        self.read(|state| state.remotes.iter().map(|(name, record)| cilium(name, record)).collect())
    }
}

fn page(state: &State, local: &LocalCluster, now: Instant) -> StatusPage {
    let rejected = |file: &crate::RejectedFile| {
        let TroubleStatus { reason, detail } = trouble(&file.rejection);
        RejectedFileStatus { file: file.file.clone(), reason, detail }
    };
    let removal = |(name, stage): (&ClusterName, &&str)| RemovalStatus {
        name: name.to_string(),
        stage: (*stage).to_owned(),
    };
    StatusPage {
        cluster: local.name.to_string(),
        cluster_id: local.id.get(),
        max_connected_clusters: local.max.get(),
        remotes: state.remotes.iter().map(|(name, record)| remote(name, record, now)).collect(),
        removing: state.removing.iter().map(removal).collect(),
        rejected_files: state.rejected.iter().map(rejected).collect(),
    }
}

fn remote(name: &ClusterName, record: &Record, now: Instant) -> RemoteStatus {
    let skipped = record.skipped.iter().map(|((kind, key), rejection)| {
        let TroubleStatus { reason, detail } = trouble(rejection);
        SkippedStatus {
            resource: kind.word().to_owned(),
            key: key.escape_ascii().to_string(),
            reason,
            detail,
        }
    });
    let kinds = KINDS.into_iter();
    let write_error = kinds
        .clone()
        .map(|kind| record.sinks.status(kind))
        .chain([record.sinks.config_status()])
        .find_map(|writer| writer.last_error);
    RemoteStatus {
        name: name.to_string(),
        ready: record.is_ready(),
        connected: record.connected,
        endpoints: record.endpoints.clone(),
        store_cluster_id: record.store_id.map(|id| format!("{id:016x}")),
        config: record.config.as_ref().map(config),
        resources: kinds.map(|kind| (kind.word().to_owned(), resource(record, kind, now))).collect(),
        lost_contact: record.policy.to_string(),
        latency: latencies(record),
        heartbeat_age_seconds: age(record.last_heartbeat, now),
        failures: record.failures,
        last_failure: record.last_failure.map(rfc3339),
        trouble: record.trouble.as_ref().map(trouble),
        write_error,
        skipped: skipped.collect(),
    }
}

fn resource(record: &Record, kind: Resource, now: Instant) -> ResourceStatus {
    let view = &record.views[&kind];
    let progress = record.sinks.status(kind).progress;
    let not_current = if view.is_whole() { "stale" } else { "never-synced" };
    let (state, waiting_for) = match view.phase {
        Phase::NotOffered => ("not-offered", None),
        Phase::Following if progress.synced => ("synced", None),
        Phase::Following => ("never-synced", Some("write")),
        Phase::Unconnected => (not_current, Some("connection")),
        Phase::Refused => (not_current, Some("cluster-config")),
        Phase::Canary => (not_current, Some("canary")),
        Phase::Listing => (not_current, Some("list")),
        Phase::Flooded => (not_current, Some("fewer-keys")),
    };
    let (withheld, given_up, left_out) = record.sinks.keeper(kind, |keeper| {
        let held = keeper.held().map(|held| WithheldStatus {
            keys: held.keys.len(),
            reason: held.reason.code().to_owned(),
            since_seconds: age(held.since(), now),
            goes_in_seconds: keeper
                .held_until()
                .map(|until| until.saturating_duration_since(now).as_secs_f64()),
        });
        let given_up = keeper.given_up().map(|given_up| WithheldStatus {
            keys: given_up.keys,
            reason: given_up.reason.code().to_owned(),
            since_seconds: age(Some(given_up.at), now),
            goes_in_seconds: None,
        });
        (held, given_up, keeper.left_out())
    });
    ResourceStatus {
        contact: word_of(contact(view.phase)).to_owned(),
        age_bound_seconds: age(record.as_of(kind), now),
        withheld,
        given_up,
        left_out,
        state: state.to_owned(),
        waiting_for: waiting_for.map(str::to_owned),
        entries: progress.wanted,
        pending: progress.pending,
        stale_seconds: age(view.stale_since, now),
        last_event_seconds: age(view.last_event, now),
    }
}

const fn word_of(contact: PeerContact) -> &'static str {
    match contact {
        PeerContact::Current => "current",
        PeerContact::NotListed => "not-listed",
        PeerContact::Unreachable => "unreachable",
        PeerContact::NotExported => "not-exported",
    }
}

fn latencies(record: &Record) -> BTreeMap<String, LatencyStatus> {
    let all = record.latencies().into_iter();
    all.map(|(source, latency)| (source.word().to_owned(), latency.status())).collect()
}

fn config(config: &ClusterConfig) -> ConfigStatus {
    let capabilities = &config.capabilities;
    ConfigStatus {
        cluster_id: config.id,
        max_connected_clusters: capabilities.max_connected_clusters,
        cached: capabilities.cached,
        synced_canaries: capabilities.synced_canaries,
        service_exports_enabled: capabilities.service_exports_enabled,
        endpoint_slices_export_mode: capabilities.endpoint_slices_export_mode.clone(),
    }
}

fn cilium(name: &ClusterName, record: &Record) -> CiliumRemote {
    let is_synced = |kind: Resource| record.views[&kind].phase.is_current() && record.sinks.is_synced(kind);
    let known = |resource: Resource| is_synced(resource);
    let optional = |kind: Resource| {
        let offered = record.config.as_ref().is_some_and(|config| is_offered(kind, &config.capabilities));
        offered.then(|| is_synced(kind))
    };
    let entries = |kind: Resource| record.sinks.status(kind).progress.wanted;
    let exports = Resource::ServiceExports;
    CiliumRemote {
        name: name.to_string(),
        ready: record.is_ready(),
        connected: record.connected,
        status: connection_text(record),
        config: record.connected.then(|| cilium_config(record.config.as_ref())),
        synced: CiliumSynced {
            nodes: known(Resource::Nodes),
            endpoints: known(Resource::Ip),
            identities: known(Resource::Identities),
            services: known(Resource::Services),
            service_exports: optional(exports),
            endpoint_slices: optional(Resource::EndpointSlices),
        },
        num_nodes: entries(Resource::Nodes),
        num_endpoints: entries(Resource::Ip),
        num_identities: entries(Resource::Identities),
        num_shared_services: entries(Resource::Services),
        num_service_exports: entries(exports),
        num_endpoint_slices: entries(Resource::EndpointSlices),
        num_failures: record.failures,
        // Go's zero time stands for "never".
        last_failure: record.last_failure.map_or_else(|| "0001-01-01T00:00:00.000Z".to_owned(), rfc3339),
    }
}

fn cilium_config(config: Option<&ClusterConfig>) -> CiliumConfig {
    let retrieved = config.is_some();
    let config = config.cloned().unwrap_or_default();
    CiliumConfig {
        required: true,
        retrieved,
        cluster_id: config.id,
        kvstoremesh: config.capabilities.cached,
        sync_canaries: config.capabilities.synced_canaries,
        service_exports_enabled: config.capabilities.service_exports_enabled,
        endpoint_slices_export_mode: config.capabilities.endpoint_slices_export_mode,
    }
}

/// Cilium's words for a connection, which its tools show.
fn connection_text(record: &Record) -> String {
    match (&record.trouble, record.connected) {
        (Some(trouble), _) => trouble.to_string(),
        (None, false) => "Waiting for initial connection to be established".to_owned(),
        (None, true) => {
            let id = record.store_id.map(|id| format!(", ID: {id:x}")).unwrap_or_default();
            let endpoints = record.endpoints.len();
            format!(
                "etcd: {endpoints}/{endpoints} connected, leases=0, lock leases=0, has-quorum=true: endpoint status checks are disabled{id}"
            )
        }
    }
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn trouble(rejection: &Rejection) -> TroubleStatus {
    let reason: Reason = rejection.reason;
    TroubleStatus { reason: reason.code().to_owned(), detail: rejection.detail.clone() }
}

fn age(since: Option<Instant>, now: Instant) -> Option<f64> {
    since.map(|since| now.saturating_duration_since(since).as_secs_f64())
}

fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
