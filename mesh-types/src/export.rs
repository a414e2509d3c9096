//! Exports of the Multi-Cluster Services API: `cilium/state/serviceexports/v1/<cluster>/<namespace>/<service>`.

use std::collections::{BTreeMap, BTreeSet};

use crate::gojson::{self, go_struct, pointer};
use crate::{Peer, Reason, Rejection};

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

/// Protocols of a Service's port; none is TCP.
const PROTOCOLS: [&str; 4] = ["", "TCP", "UDP", "SCTP"];

impl ExportPort {
    /// What no two ports of a Service have in common.
    fn protocol_and_number(&self) -> (String, i32) {
        let protocol = if self.protocol.is_empty() { "TCP" } else { &self.protocol };
        (protocol.to_owned(), self.port)
    }
}

/// Whether `text` is a DNS label in lower case (RFC 1123).
fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is a qualified name of Kubernetes: `[subdomain/]name`.
fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |text: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        edge(text.bytes().next()) && edge(text.bytes().last())
    };
    (1..=63).contains(&name.len())
        && name.bytes().all(inside)
        && ends(name)
        && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label))
}

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

    /// Takes away what no Service can have, and returns what that was and why, each by its field: ports with a number outside
    /// of 1 to 65535, a protocol other than TCP, UDP or SCTP, a name that is no DNS label, or a name or (protocol, number)
    /// that an earlier port has; and application protocols that are no qualified names.
    ///
    /// Cilium checks nothing of this when it reads an export, so one bad port would keep the API server from accepting the
    /// import of all clusters.
    pub fn drop_unusable_ports(&mut self) -> Vec<Rejection> {
        let of = format!("service export {}/{} of {}", self.namespace, self.name, self.cluster);
        let mut dropped = Vec::new();
        let mut kept: Vec<ExportPort> = Vec::new();
        // A value has room for many thousands: they are not compared one by one.
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for (at, mut port) in std::mem::take(&mut self.ports).into_iter().enumerate() {
            let mut refuse = |reason, field: &str, what: String| {
                dropped.push(Rejection::new(reason, format!("{of}: ports[{at}]{field} {what}")));
            };
            if !(1..=i32::from(u16::MAX)).contains(&port.port) {
                refuse(Reason::PortUnusable, ".port", format!("is {}, expected 1 to 65535", port.port));
            } else if !PROTOCOLS.contains(&port.protocol.as_str()) {
                let what = format!("is {:?}, expected one of {PROTOCOLS:?}", port.protocol);
                refuse(Reason::PortUnusable, ".protocol", what);
            } else if !port.name.is_empty() && !is_label(&port.name) {
                refuse(Reason::FieldInvalid, ".name", format!("is {:?}, which is no DNS label", port.name));
            } else if names.contains(&port.name) {
                refuse(
                    Reason::FieldInvalid,
                    ".name",
                    format!("is {:?} like that of an earlier port", port.name),
                );
            } else if !numbers.insert(port.protocol_and_number()) {
                let what = format!("has protocol and number of an earlier port, {}", port.port);
                refuse(Reason::FieldInvalid, "", what);
            } else {
                if !port.app_protocol.is_empty() && !is_qualified_name(&port.app_protocol) {
                    let what = format!("is {:?}, which is no qualified name", port.app_protocol);
                    refuse(Reason::FieldInvalid, ".appProtocol", what);
                    port.app_protocol.clear();
                }
                names.insert(port.name.clone());
                kept.push(port);
            }
        }
        self.ports = kept;
        dropped
    }

    /// The creation time; `None` if it does not parse or is Go's zero time.
    pub fn created(&self) -> Option<jiff::Timestamp> {
        let time: jiff::Timestamp = self.export_creation_timestamp.parse().ok()?;
        (self.export_creation_timestamp != "0001-01-01T00:00:00Z").then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, protocol: &str, number: i32, app: &str) -> ExportPort {
        ExportPort { name: name.into(), protocol: protocol.into(), app_protocol: app.into(), port: number }
    }

    #[test]
    fn a_port_that_no_service_can_have_goes_by_itself_and_its_field_is_named() {
        let good = port("http", "TCP", 80, "");
        let cases = [
            (port("a", "TCP", 0, ""), Reason::PortUnusable, "ports[1].port is 0"),
            (port("a", "TCP", 65_536, ""), Reason::PortUnusable, "ports[1].port is 65536"),
            (port("a", "TCP", -1, ""), Reason::PortUnusable, "ports[1].port is -1"),
            (port("a", "ICMP", 81, ""), Reason::PortUnusable, "ports[1].protocol is \"ICMP\""),
            (port("a b", "TCP", 81, ""), Reason::FieldInvalid, "ports[1].name is \"a b\""),
            (port("-a", "TCP", 81, ""), Reason::FieldInvalid, "ports[1].name is \"-a\""),
            (port(&"a".repeat(64), "TCP", 81, ""), Reason::FieldInvalid, "ports[1].name is"),
            (port("http", "TCP", 81, ""), Reason::FieldInvalid, "ports[1].name is \"http\" like"),
            (port("a", "", 80, ""), Reason::FieldInvalid, "ports[1] has protocol and number"),
        ];
        for (bad, reason, what) in cases {
            let last = port("dns", "UDP", 80, "");
            let mut export =
                ServiceExport { ports: vec![good.clone(), bad.clone(), last.clone()], ..Default::default() };
            let dropped = export.drop_unusable_ports();
            assert_eq!(export.ports, [good.clone(), last], "{bad:?}");
            let [rejection] = dropped.as_slice() else { panic!("{bad:?}: {dropped:?}") };
            assert_eq!(rejection.reason, reason, "{bad:?}");
            assert!(rejection.detail.contains(what), "{bad:?}: {}", rejection.detail);
        }
    }

    #[test]
    fn an_application_protocol_that_is_no_name_goes_without_its_port() {
        for (text, kept) in [
            ("kubernetes.io/h2c", true),
            ("mysql", true),
            ("Ex.org/h2c", false),
            ("a/b/c", false),
            ("/h2c", false),
            ("h2c_", false),
            ("h c", false),
        ] {
            let mut export = ServiceExport { ports: vec![port("http", "", 80, text)], ..Default::default() };
            let dropped = export.drop_unusable_ports();
            let wanted = if kept { text } else { "" };
            assert_eq!(export.ports, [port("http", "", 80, wanted)]);
            let found = dropped.iter().any(|rejection| rejection.detail.contains("ports[0].appProtocol"));
            assert_eq!(found, !kept, "{text}");
        }
    }
}
