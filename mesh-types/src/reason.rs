//! Why something was skipped, filtered, withheld or chosen.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $code:literal,)+) => {
        /// One cause for which the mesh does not do the plain thing: it skips a key, filters a backend, withholds
        /// a route, refuses a peer.
        ///
        /// The code is part of the interface: logs, metrics (label `reason`), `status` and `explain` show it and
        /// users match on it. A code is never reused for another meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of declaration.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)+];

            /// The stable code, kebab-case.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Reason::$variant => $code,)+
                }
            }

            /// One paragraph for users: what it means and what to do.
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Reason::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

reasons! {
    // Configuration of a peer and its cluster-config.
    /// The file name is no valid cluster name: 1 to 32 characters of a-z, 0-9 and '-', first and last not '-'.
    ClusterNameInvalid => "cluster-name-invalid",
    /// The configuration names the local cluster itself, which needs no connection.
    ClusterIsLocal => "cluster-is-local",
    /// Two configurations name the same cluster; the first one stays in effect.
    ClusterNameInUse => "cluster-name-in-use",
    /// Cluster id 0 means "in no mesh"; give each cluster an id from 1 on.
    ClusterIdZero => "cluster-id-zero",
    /// The cluster id is above the local maximum (255 or 511).
    ClusterIdOutOfRange => "cluster-id-out-of-range",
    /// The peer has the same cluster id as the local cluster; ids must differ in the whole mesh.
    ClusterIdIsLocal => "cluster-id-is-local",
    /// Another connected peer already has this cluster id.
    ClusterIdInUse => "cluster-id-in-use",
    /// The peer counts identities for another maximum of clusters (255 or 511); all clusters must agree.
    MaxClustersMismatch => "max-clusters-mismatch",
    /// The peer answers, but has no cluster-config key: its exporter has not started yet, or it is no mesh store.
    ClusterConfigMissing => "cluster-config-missing",
    /// The peer's cluster-config cannot be read.
    ClusterConfigInvalid => "cluster-config-invalid",
    /// The peer's configuration file cannot be read or is no etcd client configuration.
    PeerConfigInvalid => "peer-config-invalid",
    /// A certificate, key or CA file that the configuration names is missing or holds no PEM of that kind.
    CertificateUnusable => "certificate-unusable",
    /// The client certificate that the configuration names has expired; a connection that stands goes on, the next one fails.
    CertificateExpired => "certificate-expired",
    /// The TLS handshake failed: wrong CA, wrong name, or an expired certificate.
    TlsFailed => "tls-failed",
    /// The peer's store refused the client: its certificate name has no user, or the user lacks the permission.
    PermissionDenied => "permission-denied",
    /// The peer's store cannot be reached at the configured address.
    PeerUnreachable => "peer-unreachable",
    /// The peer's store answers, but its owner has not renewed the heartbeat for longer than allowed; it may have
    /// stopped, or another store answers at its address.
    HeartbeatMissing => "heartbeat-missing",
    /// Another store answers at the peer's address than before; it is read from the start, and what is known stays in
    /// effect until it is complete.
    StoreReplaced => "store-replaced",
    /// The peer does not announce this kind of data, so it is neither watched nor expected.
    CapabilityAbsent => "capability-absent",

    // State of a view.
    /// The first complete list has not arrived yet, so nothing is known and nothing is withdrawn.
    NotSynced => "not-synced",
    /// The connection is lost; the last known state stays in effect.
    PeerDisconnected => "peer-disconnected",
    /// The store no longer has the cluster's configuration, and nothing says that the cluster was removed: the store
    /// may be new, or its mirror gone. What is known stays in effect until the grace ends or the mirror returns.
    ClusterConfigAbsent => "cluster-config-absent",
    /// Keys vanished together with the mirror's word that its copy is complete, as when its lease ends. They stay in
    /// effect until the mirror has written everything again.
    WithdrawalHeld => "withdrawal-held",
    /// A peer withdrew more of its keys at once than is usual, as an exporter does that restarts with an empty source. They
    /// stay in effect until the hold ends or they are released: isthmus kvstoremesh release.
    WithdrawalAbrupt => "withdrawal-abrupt",
    /// Contact with the peer was lost for as long as its policy (drain-after) allows; what was known is withdrawn and comes
    /// back with the contact.
    ContactLostDrained => "contact-lost-drained",
    /// Contact with the peer was lost for the time of --clustermesh-cache-ttl; its services are withdrawn and come back with
    /// the contact.
    CacheTtlEnded => "cache-ttl-ended",

    // Keys and values of the store.
    /// The key does not have the shape of its prefix.
    KeyMalformed => "key-malformed",
    /// The value is not JSON, or not of the expected types.
    ValueNotJson => "value-not-json",
    /// The value is not text where text is required.
    ValueNotText => "value-not-text",
    /// The value is not a zstd frame around a protobuf message of its kind.
    ValueNotProtobuf => "value-not-protobuf",
    /// The value is larger than the configured limit and is not mirrored; the last smaller one stays in effect.
    ValueTooLarge => "value-too-large",
    /// The peer has more keys of this kind than the configured limit; those beyond it are not mirrored.
    TooManyKeys => "too-many-keys",
    /// A field that must not be empty is empty or absent.
    FieldMissing => "field-missing",
    /// A field holds a value outside what the protocol knows.
    FieldInvalid => "field-invalid",
    /// The value belongs to another cluster than the one it was read from.
    ClusterMismatch => "cluster-mismatch",
    /// The value carries another cluster id than its cluster's configuration.
    ClusterIdMismatch => "cluster-id-mismatch",
    /// The name inside the value differs from the name in the key.
    NameMismatch => "name-mismatch",
    /// The numeric identity lies outside the range of its cluster.
    IdentityOutOfRange => "identity-out-of-range",
    /// The identity's labels lack k8s:io.cilium.k8s.policy.cluster with its own cluster, or name another cluster.
    IdentityClusterLabel => "identity-cluster-label",
    /// An address does not parse.
    AddressInvalid => "address-invalid",
    /// A CIDR does not parse or has a mask with holes.
    CidrInvalid => "cidr-invalid",

    // Kubernetes objects on their way into the store.
    /// The object cannot be decoded as its kind; the last good version of it stays in effect.
    ObjectUndecodable => "object-undecodable",
    /// The Service lacks the annotation service.cilium.io/global: "true".
    ServiceNotGlobal => "service-not-global",
    /// The Service is global but has service.cilium.io/shared: "false".
    ServiceNotShared => "service-not-shared",
    /// An ExternalName Service has no backends and cannot be exported.
    ServiceExternalName => "service-external-name",
    /// The Service is served by another proxy (label service.kubernetes.io/service-proxy-name).
    ServiceOtherProxy => "service-other-proxy",
    /// The namespace is not global (annotation clustermesh.cilium.io/global, or the default).
    NamespaceNotGlobal => "namespace-not-global",
    /// The namespace of the object is not known (yet).
    NamespaceUnknown => "namespace-unknown",
    /// The ServiceExport has no Service of its name.
    ExportWithoutService => "export-without-service",
    /// The identity has no security labels.
    IdentityWithoutLabels => "identity-without-labels",
    /// The identity has no namespace label, so it cannot be decided whether its namespace is global.
    IdentityWithoutNamespace => "identity-without-namespace",
    /// No free numeric identity is left in the cluster's range.
    IdentitiesExhausted => "identities-exhausted",
    /// The endpoint has no numeric identity yet.
    EndpointWithoutIdentity => "endpoint-without-identity",
    /// The endpoint has no address yet.
    EndpointWithoutAddress => "endpoint-without-address",
    /// The endpoint's node address is not known yet.
    EndpointWithoutNode => "endpoint-without-node",
    /// The pod uses its node's network, so its address is the node's.
    HostNetwork => "host-network",
    /// The pod has finished; its address may already serve another pod.
    PodFinished => "pod-finished",
    /// Another object owns this address; the first owner's entry is in effect until it goes.
    AddressInUse => "address-in-use",
    /// The endpoint is neither ready nor serving.
    BackendNotReady => "backend-not-ready",
    /// The port has no number or a protocol that load balancing does not know.
    PortUnusable => "port-unusable",
    /// The EndpointSlice holds backends that were imported from other clusters; they are not exported again.
    EndpointsImported => "endpoints-imported",
    /// The EndpointSlice has addresses of another type than IPv4 and IPv6.
    AddressTypeUnsupported => "address-type-unsupported",
    /// The custom resource definition is not installed, so the kind cannot be read.
    CrdAbsent => "crd-absent",
    /// The API server does not answer for this kind, or denies reading it; what is known stays in effect.
    SourceUnreadable => "source-unreadable",

    // Multi-Cluster Services API.
    /// An identical name is imported from other clusters with different properties; the oldest export decides.
    ExportConflict => "export-conflict",
    /// No cluster exports the service any more.
    NotExported => "not-exported",
    /// The namespace does not exist in this cluster, so the service is not imported.
    NamespaceAbsent => "namespace-absent",
    /// An object of the derived name exists and does not belong to the mesh; it is left alone.
    ForeignObject => "foreign-object",
    /// The clusters have no address family in common.
    FamilyUnsupported => "family-unsupported",

    // Service tables of the agent.
    /// No Service of this name exists in the local cluster, so there is no address to reach its backends by.
    ServiceNotLocal => "service-not-local",
    /// The Service has no cluster IP (headless), so there is no frontend to translate.
    ServiceHeadless => "service-headless",
    /// Affinity "local": healthy local backends exist, remote ones are not used.
    AffinityLocal => "affinity-local",
    /// Affinity "remote": remote backends exist, local ones are not used.
    AffinityRemote => "affinity-remote",
    /// The affinity annotation has a value other than local, remote or none and is ignored.
    AffinityUnknown => "affinity-unknown",
    /// The backend serves another protocol than the frontend.
    ProtocolMismatch => "protocol-mismatch",
    /// The backend has another address family than the frontend.
    FamilyMismatch => "family-mismatch",
    /// The backend has no port of the frontend's port name.
    PortNameMismatch => "port-name-mismatch",
    /// Traffic policy Local: the backend is on another node.
    TrafficPolicyLocal => "traffic-policy-local",
    /// A local backend has the same address and port; it is the one in use.
    ShadowedByLocal => "shadowed-by-local",
    /// Another remote cluster announces the same address and port; one of them is in use.
    ShadowedByRemote => "shadowed-by-remote",
    /// The backend is terminating: its connections stay, new ones go to others.
    BackendDraining => "backend-draining",
    /// A health check of the backend fails: its connections stay, new ones go to others.
    BackendUnhealthy => "backend-unhealthy",
    /// No backend of the frontend can take a connection, so connections are refused.
    NoBackends => "no-backends",

    // ipcache, nodes and tunnels.
    /// The entry describes the local node.
    LocalNode => "local-node",
    /// An entry of stronger source holds this prefix.
    SourcePrecedence => "source-precedence",
    /// Two clusters announce the same prefix; the first by name is in effect until it goes. Pod CIDRs must not overlap.
    PrefixOverlap => "prefix-overlap",
    /// The prefix overlaps one of the local cluster and is withheld.
    PrefixOverlapsLocal => "prefix-overlaps-local",
    /// The node publishes no WireGuard key, so it is no peer and traffic to it is not encrypted.
    WireguardKeyMissing => "wireguard-key-missing",
    /// The WireGuard key is not base64 of 32 bytes.
    WireguardKeyInvalid => "wireguard-key-invalid",
    /// The WireGuard key is all zero.
    WireguardKeyZero => "wireguard-key-zero",
    /// Another node already has this WireGuard key.
    WireguardKeyDuplicate => "wireguard-key-duplicate",
    /// The node has no address of a usable family.
    NodeWithoutAddress => "node-without-address",
    /// Another WireGuard peer holds this prefix.
    PrefixTaken => "prefix-taken",
    /// The prefix holds a node's address, so packets to it are not routed into the WireGuard device: the encrypted
    /// packets would enter it again.
    PrefixCoversNode => "prefix-covers-node",
    /// The kernel lacks what this datapath needs.
    KernelUnsupported => "kernel-unsupported",

    // DNS.
    /// The name is longer than DNS allows and is not served.
    NameTooLong => "name-too-long",

    // What each remote cluster may see.
    /// The object is not in the export scope of the cluster (--clustermesh-export-scopes): its namespace or its labels are
    /// not among those that the cluster may see.
    NotInScope => "not-in-scope",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// Something that was not accepted, and why, in a form for both logs and tables.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rejection {
    /// The stable cause.
    pub reason: Reason,
    /// What was expected and what was found, for people.
    pub detail: String,
}

impl Rejection {
    /// A rejection for `reason` with a sentence on what was found.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Rejection { reason, detail: detail.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.reason)
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for code in codes {
            assert!(code.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{code}");
        }
    }
}
