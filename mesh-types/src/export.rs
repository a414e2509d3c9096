//! Exports of the Multi-Cluster Services API: `cilium/state/serviceexports/v1/<cluster>/<namespace>/<service>`.

mod usable;

use std::collections::BTreeMap;

use crate::gojson::{self, go_struct, pointer};
use crate::{Peer, Reason, Rejection};

pub use usable::is_dns_label;

go_struct! {
    /// One (Service, ServiceExport) pair of a cluster.
    pub struct ServiceExport {
        /// Cluster that exports it.
        pub cluster: String = "cluster",
        /// Name.
        pub name: String = "name",
        /// Namespace.
        pub namespace: String = "namespace",
        /// `spec.exportedAnnotations`.
        pub annotations: BTreeMap<String, String> = "annotations" omitempty,
        /// `spec.exportedLabels`.
        pub labels: BTreeMap<String, String> = "labels" omitempty,
        /// Copy of `labels` for readers of 1.18.
        pub legacy_labels: BTreeMap<String, String> = "Labels" omitempty,
        /// Copy of `annotations` for readers of 1.18.
        pub legacy_annotations: BTreeMap<String, String> = "Annotations" omitempty,
        /// `metadata.creationTimestamp` of the ServiceExport, RFC 3339 in UTC; decides conflicts.
        pub export_creation_timestamp: String = "exportCreationTimestamp",
        /// Ports of the Service.
        pub ports: Vec<ExportPort> = "ports",
        /// `ClusterSetIP` or `Headless`.
        pub service_type: String = "type",
        /// `None`, `ClientIP`, or empty.
        pub session_affinity: String = "sessionAffinity",
        /// Only if a timeout is set.
        pub session_affinity_config: Option<SessionAffinityConfig> = "sessionAffinityConfig" omitempty,
        /// `IPv4`, `IPv6`.
        pub ip_families: Vec<String> = "ipFamilies" omitempty,
        /// `Cluster`, `Local`, or empty.
        pub internal_traffic_policy: String = "internalTrafficPolicy" omitempty,
        /// `PreferClose`, `PreferSameZone`, `PreferSameNode`, or empty.
        pub traffic_distribution: String = "trafficDistribution" omitempty,
    }
}

go_struct! {
    /// A port of an exported service; target ports do not travel here but with the backends.
    pub struct ExportPort {
        /// Name, empty if it has none.
        pub name: String = "name" omitempty,
        /// `TCP`, `UDP`, `SCTP`.
        pub protocol: String = "protocol" omitempty,
        /// Application protocol.
        pub app_protocol: String = "appProtocol" omitempty,
        /// Number.
        pub port: i32 = "port",
    }
}

go_struct! {
    /// `sessionAffinityConfig` of a Service.
    pub struct SessionAffinityConfig {
        /// Client IP affinity.
        pub client_ip: ClientIpConfig = "clientIP",
    }
}

go_struct! {
    /// `clientIP` of a session affinity.
    pub struct ClientIpConfig {
        /// Seconds.
        pub timeout_seconds: i32 = "timeoutSeconds",
    }
}

pointer!(SessionAffinityConfig);

impl ServiceExport {
    /// The stored bytes, in the form of Cilium 1.20: labels and annotations in both spellings.
    pub fn encode(&self) -> Vec<u8> {
        let mut both = self.clone();
        both.legacy_labels.clone_from(&both.labels);
        both.legacy_annotations.clone_from(&both.annotations);
        gojson::to_vec(&both)
    }

    /// Reads the value of `name` (`<namespace>/<service>`, the key after `…/serviceexports/v1/<cluster>/`) of `peer`.
    ///
    /// The legacy spellings move to `labels` and `annotations` where those are empty.
    ///
    /// # Errors
    /// Not JSON, empty names, no timestamp, a word outside the listed ones, another cluster, or a name that differs from the key.
    pub fn decode(name: &str, value: &[u8], peer: &Peer) -> Result<Self, Rejection> {
        let mut export: ServiceExport = gojson::from_slice(value).map_err(|error| {
            Rejection::new(Reason::ValueNotJson, format!("service export {name}: {error}"))
        })?;
        let refuse =
            |reason, what: &str| Err(Rejection::new(reason, format!("service export {name}: {what}")));
        if export.cluster.is_empty() || export.namespace.is_empty() || export.name.is_empty() {
            return refuse(Reason::FieldMissing, "cluster, namespace and name must not be empty");
        }
        crate::expect_cluster("service export", name, &export.cluster, peer)?;
        crate::expect_name("service export", name, &format!("{}/{}", export.namespace, export.name))?;
        if export.created().is_none() {
            return refuse(Reason::FieldMissing, "exportCreationTimestamp must be an RFC 3339 time");
        }
        let words = [
            ("type", &export.service_type, ["ClusterSetIP", "Headless"].as_slice()),
            ("sessionAffinity", &export.session_affinity, &["", "None", "ClientIP"]),
            ("internalTrafficPolicy", &export.internal_traffic_policy, &["", "Cluster", "Local"]),
            (
                "trafficDistribution",
                &export.traffic_distribution,
                &["", "PreferClose", "PreferSameZone", "PreferSameNode"],
            ),
        ];
        for (field, found, known) in words {
            if !known.contains(&found.as_str()) {
                return refuse(
                    Reason::FieldInvalid,
                    &format!("{field} is {found:?}, expected one of {known:?}"),
                );
            }
        }
        let (legacy_labels, legacy_annotations) =
            (std::mem::take(&mut export.legacy_labels), std::mem::take(&mut export.legacy_annotations));
        if export.labels.is_empty() {
            export.labels = legacy_labels;
        }
        if export.annotations.is_empty() {
            export.annotations = legacy_annotations;
        }
        Ok(export)
    }

    /// The creation time; `None` if it does not parse or is Go's zero time.
    pub fn created(&self) -> Option<jiff::Timestamp> {
        let time: jiff::Timestamp = self.export_creation_timestamp.parse().ok()?;
        (self.export_creation_timestamp != "0001-01-01T00:00:00Z").then_some(time)
    }
}
