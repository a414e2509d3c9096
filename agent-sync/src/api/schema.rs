//! The JSON of the agent's socket: what is stable about it. Fields are only ever added.
//!
//! Addresses, prefixes, reasons and times (RFC 3339) are text; every answer is an object, so that it can grow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! records {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $field_doc:literal])+ $(#[serde($($serde:tt)*)])? $field:ident: $type:ty,)+ })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(default, rename_all = "camelCase")]
            pub struct $name {
                $($(#[doc = $field_doc])+ $(#[serde($($serde)*)])? pub $field: $type,)+
            }
        )+
    };
}

records! {
    /// `/v1/status`.
    Status {
        /// This cluster.
        cluster: LocalClusterStatus,
        /// This node's name.
        node: String,
        /// Everything known was complete once, or the time for it has passed.
        ready: bool,
        /// Something is not complete, not kept up to date, refused or failing.
        degraded: bool,
        /// What was never complete.
        pending: Vec<String>,
        /// The local store.
        store: StoreStatus,
        /// The watches of the local Kubernetes API.
        kubernetes: Vec<KubernetesStatus>,
        /// The other clusters, by name.
        clusters: Vec<ClusterStatus>,
        /// How much there is.
        totals: Totals,
        /// The writer of services.
        datapath: DatapathStatus,
        /// Encryption.
        wireguard: WireguardSummary,
    }

    /// This cluster.
    LocalClusterStatus {
        /// Name.
        name: String,
        /// Id.
        id: u32,
        /// 255 or 511.
        max_connected_clusters: u32,
    }

    /// The connection to the local store.
    StoreStatus {
        /// A store answers.
        connected: bool,
        /// Its cluster id, 16 hexadecimal digits.
        #[serde(skip_serializing_if = "Option::is_none")]
        cluster_id: Option<String>,
        /// Since when it is connected, or not.
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// It holds the own cluster's configuration.
        own_config: bool,
        /// Why contact was lost.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }

    /// A watch of the local Kubernetes API.
    KubernetesStatus {
        /// Kind.
        kind: String,
        /// The first list was complete.
        listed: bool,
        /// It is followed right now.
        live: bool,
        /// What is wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }

    /// Another cluster.
    ClusterStatus {
        /// Name.
        name: String,
        /// Id, once it was accepted.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u32>,
        /// Accepted, and all kinds are complete and followed.
        ready: bool,
        /// `accepted`, `refused` or `absent` (its configuration is gone without evidence of a removal).
        standing: String,
        /// Code of why it is refused or absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The same for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// When an absent cluster is dropped.
        #[serde(skip_serializing_if = "Option::is_none")]
        dropped_at: Option<String>,
        /// How often contact was lost.
        failures: u64,
        /// When it was lost last.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_failure: Option<String>,
        /// `nodes`, `ip`, `identities`, `services`.
        kinds: Vec<KindStatus>,
    }

    /// The view of one kind of one cluster.
    KindStatus {
        /// Kind.
        kind: String,
        /// `never-synced`, `synced` or `stale`.
        state: String,
        /// Since when it is stale.
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// How old the view may be; 0 when it is synced, absent when it never was.
        #[serde(skip_serializing_if = "Option::is_none")]
        age_seconds: Option<u64>,
        /// When something last came.
        #[serde(skip_serializing_if = "Option::is_none")]
        heard: Option<String>,
        /// Values in effect.
        entries: usize,
        /// Withdrawals that are held back.
        withheld: usize,
        /// Code of why it is not synced.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Why contact was lost.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }

    /// How much there is.
    Totals {
        /// Nodes of other clusters.
        nodes: usize,
        /// Prefixes in the ipcache.
        prefixes: usize,
        /// Identities of other clusters.
        identities: usize,
        /// Services of this or other clusters.
        services: usize,
        /// Values that are not accepted.
        rejected: usize,
        /// How often each reason occurred per cluster, since the start.
        rejections: Vec<RejectionCount>,
    }

    /// How often a reason occurred.
    RejectionCount {
        /// Cluster.
        cluster: String,
        /// Code.
        reason: String,
        /// How often.
        count: u64,
    }

    /// The writer of services.
    DatapathStatus {
        /// `nftables` or `none`.
        writer: String,
        /// What is desired is in effect.
        in_effect: bool,
        /// What it waits for before the first write, lest it takes away what an earlier life wrote.
        waiting: bool,
        /// Frontends that are translated.
        frontends: usize,
        /// Writes so far.
        writes: u64,
        /// Failed writes so far.
        failures: u64,
        /// Why the last write failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Frontends that are not translated.
        skipped: Vec<SkippedStatus>,
    }

    /// A frontend that is not translated.
    SkippedStatus {
        /// `namespace/name`.
        service: String,
        /// Address.
        address: String,
        /// Port.
        port: u16,
        /// `TCP`, `UDP` or `SCTP`.
        protocol: String,
        /// Code of why.
        reason: String,
    }

    /// Encryption in short.
    WireguardSummary {
        /// It is switched on.
        enabled: bool,
        /// `kernel` or `user-space`, once the device is open.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// This node's key.
        #[serde(skip_serializing_if = "Option::is_none")]
        public_key: Option<String>,
        /// The key is published in Kubernetes.
        published: bool,
        /// Peers.
        peers: usize,
        /// What is wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }

    /// `/v1/nodes`.
    Nodes {
        /// Nodes of other clusters, by cluster and name.
        nodes: Vec<NodeRecord>,
    }

    /// A node of another cluster.
    NodeRecord {
        /// Its cluster.
        cluster: String,
        /// Its name.
        name: String,
        /// The address by which it is reached.
        #[serde(skip_serializing_if = "Option::is_none")]
        node_ip: Option<String>,
        /// Its addresses, in the order of the record.
        addresses: Vec<AddressRecord>,
        /// Its pod CIDRs.
        pod_cidrs: Vec<String>,
        /// Encryption key index; 255 is WireGuard.
        encryption_key: u8,
        /// WireGuard key.
        #[serde(skip_serializing_if = "Option::is_none")]
        wireguard_public_key: Option<String>,
        /// Labels.
        labels: BTreeMap<String, String>,
    }

    /// An address of a node.
    AddressRecord {
        /// `InternalIP` and the like.
        #[serde(rename = "type")]
        kind: String,
        /// Address.
        ip: String,
    }

    /// `/v1/ipcache`.
    Ipcache {
        /// Entries in effect, by prefix.
        entries: Vec<IpcacheRecord>,
    }

    /// An entry of the ipcache.
    IpcacheRecord {
        /// Prefix; a single address has full length.
        prefix: String,
        /// Numeric identity.
        identity: u32,
        /// The node behind which it lives.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Encryption key index.
        key: u8,
        /// Who says it.
        cluster: String,
        /// The node that contributes it, unless it is an endpoint.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// `clustermesh`, `generated`, `local` and so on.
        source: String,
        /// Namespace of the pod.
        #[serde(skip_serializing_if = "String::is_empty")]
        namespace: String,
        /// Name of the pod.
        #[serde(skip_serializing_if = "String::is_empty")]
        pod: String,
        /// Service account of the pod.
        #[serde(skip_serializing_if = "String::is_empty")]
        service_account: String,
        /// Ports with names.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        named_ports: Vec<NamedPortRecord>,
        /// Claims on the same prefix that are not in effect.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        overridden: Vec<OverriddenRecord>,
    }

    /// A port with a name.
    NamedPortRecord {
        /// Name.
        name: String,
        /// Number.
        port: u16,
        /// Protocol.
        protocol: String,
    }

    /// A claim that is not in effect.
    OverriddenRecord {
        /// Who says it.
        cluster: String,
        /// What it says.
        identity: u32,
        /// By which way.
        source: String,
        /// Code of why it is not in effect.
        reason: String,
    }

    /// `/v1/identities`.
    Identities {
        /// Identities of other clusters, by number.
        identities: Vec<IdentityRecord>,
    }

    /// An identity.
    IdentityRecord {
        /// Number.
        id: u32,
        /// Cluster.
        cluster: String,
        /// Labels, `source:key=value`, by key.
        labels: Vec<String>,
    }

    /// `/v1/services`.
    Services {
        /// Services of this or other clusters, by namespace and name.
        services: Vec<ServiceRecord>,
    }

    /// A service.
    ServiceRecord {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// `local` if this cluster has it; `waiting` if only others do.
        state: String,
        /// It is joined with those of its name in other clusters.
        global: bool,
        /// This cluster's backends are offered to others.
        shared: bool,
        /// `none`, `local` or `remote`.
        affinity: String,
        /// Codes of what is notable.
        reasons: Vec<String>,
        /// The other clusters that have it.
        clusters: Vec<ShareRecord>,
        /// One per address and port.
        frontends: Vec<FrontendRecord>,
    }

    /// What another cluster contributes to a service.
    ShareRecord {
        /// Cluster.
        name: String,
        /// How many backends.
        backends: usize,
        /// Codes of why some are left out.
        reasons: Vec<String>,
    }

    /// A frontend.
    FrontendRecord {
        /// Address.
        address: String,
        /// Port.
        port: u16,
        /// `TCP`, `UDP` or `SCTP`.
        protocol: String,
        /// Name of the port, empty for none.
        port_name: String,
        /// All backends of the service, also those that it does not use.
        backends: Vec<BackendRecord>,
    }

    /// A backend, as a frontend sees it.
    BackendRecord {
        /// Address.
        address: String,
        /// Port.
        port: u16,
        /// Protocol.
        protocol: String,
        /// Where it is.
        cluster: String,
        /// `active`, `terminating`, `terminating-not-serving` or `maintenance`.
        state: String,
        /// New connections go to it.
        selected: bool,
        /// Code of why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }

    /// `/v1/rejected`.
    RejectedKeys {
        /// Values that are not in effect, by cluster, kind and key.
        rejected: Vec<RejectedRecord>,
        /// How many more there were than are kept.
        overflow: u64,
    }

    /// A value that is not in effect.
    RejectedRecord {
        /// Where it comes from.
        cluster: String,
        /// Kind.
        kind: String,
        /// Key.
        key: String,
        /// Code of why.
        reason: String,
        /// The same for people.
        detail: String,
    }

    /// `/v1/wireguard`.
    Wireguard {
        /// In short.
        summary: WireguardSummary,
        /// Name of the interface.
        interface: String,
        /// UDP port.
        port: u16,
        /// MTU of the interface.
        mtu: u32,
        /// Peers, by cluster and node.
        peers: Vec<WireguardPeer>,
        /// Nodes and prefixes that are left out.
        skipped: Vec<WireguardSkipped>,
    }

    /// A peer.
    WireguardPeer {
        /// Its cluster; empty while it is only known from an earlier life.
        cluster: String,
        /// Its node.
        node: String,
        /// Its key.
        public_key: String,
        /// Where its packets go.
        #[serde(skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// What it may use.
        allowed_ips: Vec<String>,
        /// Bytes received.
        rx_bytes: u64,
        /// Bytes sent.
        tx_bytes: u64,
        /// Time since the last handshake.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_handshake_seconds: Option<u64>,
    }

    /// A node or prefix that is left out.
    WireguardSkipped {
        /// Cluster.
        cluster: String,
        /// Node.
        node: String,
        /// Prefix; absent if it is the whole node.
        #[serde(skip_serializing_if = "Option::is_none")]
        prefix: Option<String>,
        /// Code of why.
        reason: String,
        /// The same for people.
        detail: String,
    }
}
