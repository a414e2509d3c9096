//! What no Kubernetes object can have, and goes from an export before objects are made of it.
//!
//! Cilium checks nothing of this when it reads an export, so one bad entry would keep the API server from accepting the
//! import of all clusters. Source: Kubernetes `core/validation/validation.go` and `apimachinery/pkg/util/validation`.

use std::collections::BTreeSet;

use super::{ExportPort, ServiceExport};
use crate::{Reason, Rejection};

/// Protocols of a Service's port; none is TCP.
const PROTOCOLS: [&str; 4] = ["", "TCP", "UDP", "SCTP"];
/// Address families.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// Longest session affinity, a day.
const MAX_TIMEOUT_SECONDS: i32 = 86_400;
/// Kubernetes allows 256 KiB of annotations on an object; the rest is for those that the import has besides.
const MAX_ANNOTATION_BYTES: usize = 255 << 10;
/// Kubernetes has no limit for labels, but each EndpointSlice of an import has them all.
const MAX_LABEL_BYTES: usize = 16 << 10;
/// Kubernetes has no limit for ports, but objects of more than 1.5 MiB cannot be stored.
const MAX_PORT_BYTES: usize = 256 << 10;
/// What a port takes up beside its texts.
const PORT_BYTES: usize = 64;
/// Fields of one export that are named one by one; the others are counted.
const MAX_ROWS: usize = 16;
/// How much of a text is shown.
const SHOWN_CHARS: usize = 64;

/// Whether `text` is a DNS label in lower case (RFC 1123).
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// A label of a DNS subdomain, for which Kubernetes knows no length of its own.
fn is_part(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether `text` is a qualified name of Kubernetes: `[subdomain/]name`.
fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    !name.is_empty()
        && is_label_value(name)
        && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_part))
}

/// Whether `text` can be the value of a label: empty, or 1 to 63 of `[A-Za-z0-9-_.]` with alphanumeric ends.
fn is_label_value(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(inside)
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
}

/// The beginning of a text that may be of any length.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// What went, each with its field.
struct Dropped {
    of: String,
    rows: Vec<Rejection>,
    more: usize,
}

impl Dropped {
    fn row(&mut self, reason: Reason, what: &str) {
        if self.rows.len() < MAX_ROWS {
            self.rows.push(Rejection::new(reason, format!("{}: {what}", self.of)));
        } else {
            self.more += 1;
        }
    }

    fn invalid(&mut self, what: &str) {
        self.row(Reason::FieldInvalid, what);
    }

    fn finish(mut self) -> Vec<Rejection> {
        if self.more > 0 {
            let what = format!("{}: {} more fields are left out", self.of, self.more);
            self.rows.push(Rejection::new(Reason::FieldInvalid, what));
        }
        self.rows
    }
}

/// Whether there is room for so many bytes more, which are then taken.
fn fits(room: &mut usize, bytes: usize) -> bool {
    room.checked_sub(bytes).map(|left| *room = left).is_some()
}

impl ServiceExport {
    /// Takes away what no Service can have, and returns what that was and why, each by its field:
    ///
    /// - ports with a number outside of 1 to 65535, a protocol other than TCP, UDP or SCTP, a name that is no DNS label, or a
    ///   name or (protocol, number) that an earlier port has; application protocols that are no qualified names;
    /// - labels and annotations whose key is no qualified name, labels with a value that no label can have;
    /// - a session affinity outside of 1 second to 1 day, unknown address families, and one that is named twice;
    /// - what is more than 256 KiB of ports, 16 KiB of labels, or 255 KiB of annotations.
    pub fn drop_unusable(&mut self) -> Vec<Rejection> {
        let of = format!("service export {}/{} of {}", self.namespace, self.name, self.cluster);
        let mut dropped = Dropped { of, rows: Vec::new(), more: 0 };
        self.drop_ports(&mut dropped);
        self.drop_metadata(&mut dropped);
        if let Some(config) = &self.session_affinity_config {
            let seconds = config.client_ip.timeout_seconds;
            if !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds) {
                let what = format!("is {seconds}, expected 1 to {MAX_TIMEOUT_SECONDS}");
                dropped.invalid(&format!("sessionAffinityConfig.clientIP.timeoutSeconds {what}"));
                self.session_affinity_config = None;
            }
        }
        let mut families: Vec<String> = Vec::new();
        for (at, family) in std::mem::take(&mut self.ip_families).into_iter().enumerate() {
            if !FAMILIES.contains(&family.as_str()) {
                let what = format!("is {}, expected one of {FAMILIES:?}", shown(&family));
                dropped.invalid(&format!("ipFamilies[{at}] {what}"));
            } else if families.contains(&family) {
                dropped.invalid(&format!("ipFamilies[{at}] is {family:?} like an earlier one"));
            } else {
                families.push(family);
            }
        }
        self.ip_families = families;
        dropped.finish()
    }

    fn drop_ports(&mut self, dropped: &mut Dropped) {
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        let mut room = MAX_PORT_BYTES;
        let mut kept: Vec<ExportPort> = Vec::new();
        for (at, mut port) in std::mem::take(&mut self.ports).into_iter().enumerate() {
            let protocol = if port.protocol == "TCP" { "" } else { &port.protocol };
            let number = (protocol.to_owned(), port.port);
            if !(1..=i32::from(u16::MAX)).contains(&port.port) {
                let what = format!("ports[{at}].port is {}, expected 1 to 65535", port.port);
                dropped.row(Reason::PortUnusable, &what);
            } else if !PROTOCOLS.contains(&port.protocol.as_str()) {
                let what = format!("is {}, expected one of {PROTOCOLS:?}", shown(&port.protocol));
                dropped.row(Reason::PortUnusable, &format!("ports[{at}].protocol {what}"));
            } else if !port.name.is_empty() && !is_dns_label(&port.name) {
                dropped.invalid(&format!("ports[{at}].name is {}, which is no DNS label", shown(&port.name)));
            } else if names.contains(&port.name) {
                dropped.invalid(&format!("ports[{at}].name is {:?} like that of an earlier port", port.name));
            } else if numbers.contains(&number) {
                let what = format!("has protocol and number of an earlier port, {}", port.port);
                dropped.invalid(&format!("ports[{at}] {what}"));
            } else {
                if !port.app_protocol.is_empty() && !is_qualified_name(&port.app_protocol) {
                    let what = format!("is {}, which is no qualified name", shown(&port.app_protocol));
                    dropped.invalid(&format!("ports[{at}].appProtocol {what}"));
                    port.app_protocol.clear();
                }
                if fits(&mut room, port.name.len() + port.app_protocol.len() + PORT_BYTES) {
                    names.insert(port.name.clone());
                    numbers.insert(number);
                    kept.push(port);
                } else {
                    dropped.invalid(&format!("ports[{at}] is beyond the {MAX_PORT_BYTES} bytes of ports"));
                }
            }
        }
        self.ports = kept;
    }

    fn drop_metadata(&mut self, dropped: &mut Dropped) {
        let mut room = MAX_LABEL_BYTES;
        self.labels.retain(|key, value| {
            let why = if !is_qualified_name(key) {
                "has a key that is no qualified name".to_owned()
            } else if !is_label_value(value) {
                format!("is {}, which is no value of a label", shown(value))
            } else if !fits(&mut room, key.len() + value.len()) {
                format!("is beyond the {MAX_LABEL_BYTES} bytes of labels")
            } else {
                return true;
            };
            dropped.invalid(&format!("labels[{}] {why}", shown(key)));
            false
        });
        let mut room = MAX_ANNOTATION_BYTES;
        self.annotations.retain(|key, value| {
            // Kubernetes does not mind capitals there.
            let why = if !is_qualified_name(&key.to_ascii_lowercase()) {
                "has a key that is no qualified name".to_owned()
            } else if !fits(&mut room, key.len() + value.len()) {
                format!("is beyond the {MAX_ANNOTATION_BYTES} bytes of annotations")
            } else {
                return true;
            };
            dropped.invalid(&format!("annotations[{}] {why}", shown(key)));
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{ClientIpConfig, SessionAffinityConfig};

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
            let dropped = export.drop_unusable();
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
            let dropped = export.drop_unusable();
            let wanted = if kept { text } else { "" };
            assert_eq!(export.ports, [port("http", "", 80, wanted)]);
            let found = dropped.iter().any(|rejection| rejection.detail.contains("ports[0].appProtocol"));
            assert_eq!(found, !kept, "{text}");
        }
    }

    /// What is left of the labels or annotations, by their keys.
    fn keys(map: &BTreeMap<String, String>) -> Vec<&str> {
        map.keys().map(String::as_str).collect()
    }

    #[test]
    fn labels_and_annotations_that_no_object_can_have_go_by_themselves() {
        let long = "v".repeat(64);
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let mut export = ServiceExport {
            labels: pairs(&[
                ("a b", "v"),
                ("", "v"),
                ("a", &long),
                ("b", "v "),
                ("c", ""),
                ("example.org/d", "v.1_2"),
                ("Example.org/e", "v"),
                ("/f", "v"),
            ]),
            annotations: pairs(&[("a b", "v"), ("Example.org/c", "any text\n"), ("d", &long), ("-e", "v")]),
            ..Default::default()
        };
        let dropped = export.drop_unusable();
        assert_eq!(keys(&export.labels), ["c", "example.org/d"]);
        assert_eq!(keys(&export.annotations), ["Example.org/c", "d"]);
        let named = |what: &str| dropped.iter().any(|row| row.detail.contains(what));
        for what in ["labels[\"a b\"] has a key", "labels[\"b\"] is \"v \"", "annotations[\"-e\"] has a key"]
        {
            assert!(named(what), "{what}: {dropped:?}");
        }
        assert_eq!(dropped.len(), 8);
        assert!(dropped.iter().all(|row| row.reason == Reason::FieldInvalid));
        assert_eq!(export.drop_unusable(), [], "nothing more goes");
    }

    #[test]
    fn affinity_and_families_are_those_that_a_service_can_have() {
        for (seconds, kept) in [(0, false), (1, true), (86_400, true), (86_401, false), (-5, false)] {
            let client_ip = ClientIpConfig { timeout_seconds: seconds };
            let config = Some(SessionAffinityConfig { client_ip });
            let mut export = ServiceExport { session_affinity_config: config, ..Default::default() };
            assert_eq!(export.drop_unusable().is_empty(), kept, "{seconds}");
            assert_eq!(export.session_affinity_config.is_some(), kept, "{seconds}");
        }
        let families = ["IPv6", "IPX", "IPv6", "IPv4"].map(str::to_owned).to_vec();
        let mut export = ServiceExport { ip_families: families, ..Default::default() };
        let dropped = export.drop_unusable();
        assert_eq!(export.ip_families, ["IPv6", "IPv4"]);
        assert_eq!(dropped.len(), 2, "{dropped:?}");
    }

    /// An import of all clusters must fit into the API server's store, whatever one of them exports.
    #[test]
    fn what_is_too_much_goes_and_is_counted() {
        let many = |number: usize| -> BTreeMap<String, String> {
            (0..number).map(|nth| (format!("key-{nth:05}"), "v".repeat(63))).collect()
        };
        let ports = (1..=30_000).map(|number| port(&format!("p-{number}"), "TCP", number, ""));
        let mut export = ServiceExport {
            labels: many(10_000),
            annotations: many(10_000),
            ports: ports.collect(),
            ..Default::default()
        };
        let dropped = export.drop_unusable();
        let bytes =
            |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len()).sum();
        let (labels, annotations): (usize, usize) = (bytes(&export.labels), bytes(&export.annotations));
        assert!((15 << 10..=MAX_LABEL_BYTES).contains(&labels), "{labels}");
        assert!((254 << 10..=MAX_ANNOTATION_BYTES).contains(&annotations), "{annotations}");
        assert!((3_000..5_000).contains(&export.ports.len()), "{}", export.ports.len());
        assert_eq!(dropped.len(), MAX_ROWS + 1);
        let kept = export.ports.len() + export.labels.len() + export.annotations.len();
        let last = format!("{} more fields are left out", 50_000 - kept - MAX_ROWS);
        assert!(dropped[MAX_ROWS].detail.ends_with(&last), "{:?}", dropped[MAX_ROWS]);

        let mut long = ServiceExport { ip_families: vec!["é".repeat(1 << 20)], ..Default::default() };
        assert!(long.drop_unusable()[0].detail.len() < 300);
    }
}
