//! From the tables to the records of the socket. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use mesh_types::{ClusterName, Label, Node, Reason};

use super::schema;
use crate::ipcache::{Claimant, Entry, Source};
use crate::services::{BackendState, Frontend, MergedService, Origin, Protocol};
use crate::tables::{ClusterView, KindView, Tables, ViewState};
use mesh_observe::{KINDS, Standing};

/// Which entries of a table are wanted.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Of this cluster only.
    pub(crate) cluster: Option<String>,
    /// The entry that holds this address only.
    pub(crate) address: Option<IpAddr>,
}

impl Wanted {
    fn takes(&self, cluster: &ClusterName) -> bool {
        self.cluster.as_ref().is_none_or(|wanted| wanted == cluster.as_str())
    }
}

/// The part of the status that comes from the tables.
pub(crate) fn status(tables: &Tables, now: Timestamp) -> schema::Status {
    let kubernetes = tables.kubernetes.iter().map(|(kind, view)| schema::KubernetesStatus {
        kind: kind.word().to_owned(),
        listed: view.listed,
        live: view.live,
        error: view.error.clone(),
    });
    let rejections = tables.rejected.counts().iter().map(|((cluster, reason), count)| {
        schema::RejectionCount { cluster: cluster.clone(), reason: reason.to_string(), count: *count }
    });
    schema::Status {
        cluster: schema::LocalClusterStatus {
            name: tables.local.name.to_string(),
            id: tables.local.id.get(),
            max_connected_clusters: tables.local.max.get(),
        },
        node: tables.node.to_string(),
        degraded: tables.is_degraded(),
        pending: tables.pending(),
        store: schema::StoreStatus {
            connected: tables.store.connected,
            cluster_id: tables.store.id.map(|id| format!("{id:016x}")),
            since: tables.store.since.map(|since| since.to_string()),
            own_config: tables.store.own_config,
            error: tables.store.error.clone(),
        },
        kubernetes: kubernetes.collect(),
        clusters: tables.clusters.iter().map(|(name, view)| cluster(name, view, now)).collect(),
        totals: schema::Totals {
            nodes: tables.nodes.len(),
            prefixes: tables.ipcache.len(),
            identities: tables.identities.len(),
            services: tables.services.merged().len(),
            rejected: tables.rejected.len(),
            rejections: rejections.collect(),
        },
        ..schema::Status::default()
    }
}

fn cluster(name: &ClusterName, view: &ClusterView, now: Timestamp) -> schema::ClusterStatus {
    let (standing, reason, detail) = match &view.standing {
        Standing::Accepted { .. } => ("accepted", None, None),
        Standing::Refused(refused) => ("refused", Some(refused.reason), Some(refused.detail.clone())),
        Standing::Absent { .. } => {
            let reason = Reason::ClusterConfigAbsent;
            ("absent", Some(reason), Some(reason.explanation().trim().to_owned()))
        }
    };
    let kinds = KINDS.iter().filter_map(|word| Some(kind(word.word(), view.kinds.get(word)?, now)));
    schema::ClusterStatus {
        name: name.to_string(),
        id: view.id,
        ready: view.is_ready(),
        standing: standing.to_owned(),
        reason: reason.map(code),
        detail,
        dropped_at: view.dropped_at.map(|at| at.to_string()),
        failures: view.failures,
        last_failure: view.last_failure.map(|at| at.to_string()),
        kinds: kinds.collect(),
    }
}

fn kind(word: &str, view: &KindView, now: Timestamp) -> schema::KindStatus {
    let (state, since) = match view.state {
        ViewState::NeverSynced => ("never-synced", None),
        ViewState::Synced => ("synced", None),
        ViewState::StaleSince(since) => ("stale", Some(since)),
    };
    let age = match view.state {
        ViewState::NeverSynced => None,
        ViewState::Synced => Some(0),
        ViewState::StaleSince(since) => Some(u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0)),
    };
    let reason = match view.state {
        ViewState::Synced => None,
        ViewState::NeverSynced => Some(Reason::NotSynced),
        ViewState::StaleSince(_) if view.withheld > 0 => Some(Reason::WithdrawalHeld),
        ViewState::StaleSince(_) => Some(Reason::PeerDisconnected),
    };
    schema::KindStatus {
        kind: word.to_owned(),
        state: state.to_owned(),
        since: since.map(|since| since.to_string()),
        age_seconds: age,
        heard: view.heard.map(|heard| heard.to_string()),
        entries: view.entries,
        withheld: view.withheld,
        reason: reason.map(code),
        error: view.error.clone(),
    }
}

pub(crate) fn nodes(tables: &Tables, wanted: &Wanted) -> schema::Nodes {
    let wanted = tables.nodes.iter().filter(|((cluster, _), _)| wanted.takes(cluster));
    schema::Nodes { nodes: wanted.map(|((cluster, _), record)| node(cluster, record)).collect() }
}

fn node(cluster: &ClusterName, node: &Node) -> schema::NodeRecord {
    let address = |address: &mesh_types::NodeAddress| {
        let ip = address.ip?.to_string();
        Some(schema::AddressRecord { kind: address.address_type.clone(), ip })
    };
    schema::NodeRecord {
        cluster: cluster.to_string(),
        name: node.name.clone(),
        node_ip: node.node_ip(false).or_else(|| node.node_ip(true)).map(|ip| ip.to_string()),
        addresses: node.ip_addresses.iter().filter_map(address).collect(),
        pod_cidrs: node.pod_cidrs().map(|cidr| cidr.to_string()).collect(),
        encryption_key: node.encryption_key,
        wireguard_public_key: Some(node.wireguard_pub_key.clone()).filter(|key| !key.is_empty()),
        labels: node.labels.clone(),
    }
}

pub(crate) fn ipcache(tables: &Tables, wanted: &Wanted) -> schema::Ipcache {
    let entry = |(prefix, entry): (IpNet, &Entry)| ipcache_record(tables, prefix, entry);
    let entries = match wanted.address {
        Some(address) => tables.ipcache.lookup(address).map(entry).into_iter().collect(),
        None => tables
            .ipcache
            .iter()
            .filter(|(_, entry)| wanted.takes(entry.claimant.cluster()))
            .map(entry)
            .collect(),
    };
    schema::Ipcache { entries }
}

fn ipcache_record(tables: &Tables, prefix: IpNet, entry: &Entry) -> schema::IpcacheRecord {
    let pod = entry.pod.as_deref();
    let text = |part: fn(&crate::ipcache::Pod) -> &str| pod.map(part).unwrap_or_default().to_owned();
    let named_ports = pod.map(|pod| &*pod.named_ports).unwrap_or_default().iter();
    let named_ports = named_ports.map(|port| schema::NamedPortRecord {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol.clone(),
    });
    let overridden = tables.ipcache.overridden(prefix).map(|(claim, reason)| schema::OverriddenRecord {
        cluster: claim.claimant.cluster().to_string(),
        identity: claim.identity.0,
        source: source(claim.source).to_owned(),
        reason: code(reason),
    });
    schema::IpcacheRecord {
        prefix: prefix.to_string(),
        identity: entry.identity.0,
        host: entry.host.map(|host| host.to_string()),
        key: entry.key,
        cluster: entry.claimant.cluster().to_string(),
        node: match &entry.claimant {
            Claimant::Node(_, node) => Some(node.to_string()),
            Claimant::Endpoint(_) => None,
        },
        source: source(entry.source).to_owned(),
        namespace: text(|pod| &pod.namespace),
        pod: text(|pod| &pod.name),
        service_account: text(|pod| &pod.service_account),
        named_ports: named_ports.collect(),
        overridden: overridden.collect(),
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::KubeApiserver => "kube-apiserver",
        Source::Local => "local",
        Source::Kvstore => "kvstore",
        Source::CustomResource => "custom-resource",
        Source::K8s => "k8s",
        Source::Clustermesh => "clustermesh",
        Source::Generated => "generated",
    }
}

pub(crate) fn identities(tables: &Tables, wanted: &Wanted) -> schema::Identities {
    let label = |(key, Label { source, value }): (&str, &Label)| format!("{source}:{key}={value}");
    let wanted = tables.identities.iter().filter(|(_, (cluster, _))| wanted.takes(cluster));
    let identities = wanted.map(|(id, (cluster, labels))| schema::IdentityRecord {
        id: id.0,
        cluster: cluster.to_string(),
        labels: labels.iter().map(label).collect(),
    });
    schema::Identities { identities: identities.collect() }
}

pub(crate) fn services(tables: &Tables, wanted: &Wanted) -> schema::Services {
    let takes = |service: &&std::sync::Arc<MergedService>| {
        wanted.cluster.is_none() || service.shares.iter().any(|share| wanted.takes(&share.cluster))
    };
    let services = tables.services.merged().values().filter(takes);
    schema::Services { services: services.map(|merged| service(tables, merged)).collect() }
}

fn service(tables: &Tables, merged: &MergedService) -> schema::ServiceRecord {
    let local = merged.local.as_ref();
    let share = |share: &crate::services::Share| schema::ShareRecord {
        name: share.cluster.to_string(),
        backends: share.backends,
        reasons: share.reasons.iter().copied().map(code).collect(),
    };
    let affinity = match local.map(|local| local.affinity).unwrap_or_default() {
        mesh_types::annotation::Affinity::None => "none",
        mesh_types::annotation::Affinity::Local => "local",
        mesh_types::annotation::Affinity::Remote => "remote",
    };
    schema::ServiceRecord {
        namespace: merged.name.namespace.to_string(),
        name: merged.name.name.to_string(),
        state: if local.is_some() { "local" } else { "waiting" }.to_owned(),
        global: merged.is_global(),
        shared: local.is_some_and(|local| local.not_shared.is_none()),
        affinity: affinity.to_owned(),
        reasons: merged.reasons.iter().copied().map(code).collect(),
        clusters: merged.shares.iter().map(share).collect(),
        frontends: merged.frontends.iter().map(|frontend| self::frontend(tables, merged, frontend)).collect(),
    }
}

fn frontend(tables: &Tables, merged: &MergedService, frontend: &Frontend) -> schema::FrontendRecord {
    let backends = merged.backends.iter().zip(&frontend.verdicts).map(|((origin, backend), verdict)| {
        let cluster = match origin {
            Origin::Local => &tables.local.name,
            Origin::Remote(cluster) => cluster,
        };
        schema::BackendRecord {
            address: backend.address.to_string(),
            port: backend.port,
            protocol: protocol(backend.protocol),
            cluster: cluster.to_string(),
            state: state(backend.state).to_owned(),
            selected: verdict.is_selected(),
            reason: verdict.reason().map(code),
        }
    });
    schema::FrontendRecord {
        address: frontend.address.to_string(),
        port: frontend.port.port,
        protocol: protocol(frontend.port.protocol),
        port_name: frontend.port.name.to_string(),
        backends: backends.collect(),
    }
}

pub(crate) fn protocol(protocol: Protocol) -> String {
    protocol.word().to_ascii_uppercase()
}

fn state(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "active",
        BackendState::Terminating => "terminating",
        BackendState::TerminatingNotServing => "terminating-not-serving",
        BackendState::Maintenance => "maintenance",
    }
}

pub(crate) fn rejected(tables: &Tables, wanted: &Wanted) -> schema::RejectedKeys {
    let takes = |cluster: &str| wanted.cluster.as_ref().is_none_or(|wanted| wanted == cluster);
    let keys = tables.rejected.iter().filter(|(key, _)| takes(&key.cluster));
    let rejected = keys.map(|(key, refused)| schema::RejectedRecord {
        cluster: key.cluster.clone(),
        kind: key.kind.to_owned(),
        key: key.key.clone(),
        reason: code(refused.reason),
        detail: refused.detail.clone(),
    });
    schema::RejectedKeys { rejected: rejected.collect(), overflow: tables.rejected.overflow() }
}

fn code(reason: Reason) -> String {
    reason.code().to_owned()
}
