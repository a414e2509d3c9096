//! What is mirrored, and where it lies on both sides. Pure.

use bytes::Bytes;
use mesh_types::{Capabilities, ClusterName, Form, Reason, Rejection, Resource};

/// A kind of data that is mirrored. Values are copied as they are, whatever is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mirrored {
    /// One that this version can read.
    Known(Resource),
    /// EndpointSlices of Cilium 1.20 (protobuf, compressed), which are passed on to those who can.
    EndpointSlices,
}

impl Mirrored {
    /// All of them, in the order in which a removal deletes them (that of Cilium's names for them).
    pub const ALL: [Mirrored; 6] = [
        Mirrored::EndpointSlices,
        Mirrored::Known(Resource::Ip),
        Mirrored::Known(Resource::Identities),
        Mirrored::Known(Resource::Nodes),
        Mirrored::Known(Resource::ServiceExports),
        Mirrored::Known(Resource::Services),
    ];

    /// The word in keys, such as `nodes`.
    pub const fn word(self) -> &'static str {
        match self {
            Mirrored::Known(resource) => resource.word(),
            Mirrored::EndpointSlices => "endpointslices",
        }
    }

    /// Label `scope` of Cilium's metrics, such as `nodes/v1`.
    pub(crate) fn scope(self) -> String {
        format!("{}/v1", self.word())
    }

    /// Where `cluster`'s entries lie, with the trailing slash.
    pub fn prefix(self, form: Form, cluster: &ClusterName) -> String {
        match (self, form) {
            (Mirrored::Known(resource), form) => resource.prefix(form, cluster),
            (Mirrored::EndpointSlices, Form::State) => format!("cilium/state/endpointslices/v1/{cluster}/"),
            (Mirrored::EndpointSlices, Form::Cache) => format!("cilium/cache/endpointslices/v1/{cluster}/"),
        }
    }

    /// What follows `cilium/synced/<cluster>/` in the key that says "everything has been written".
    pub fn canary_name(self, form: Form) -> String {
        match (self, form) {
            (Mirrored::Known(resource), form) => resource.canary_name(form),
            (Mirrored::EndpointSlices, Form::State) => "cilium/state/endpointslices/v1".to_owned(),
            (Mirrored::EndpointSlices, Form::Cache) => "cilium/cache/endpointslices/v1".to_owned(),
        }
    }

    /// The whole key that says so.
    pub fn canary(self, form: Form, cluster: &ClusterName) -> String {
        format!("{}{}", mesh_types::key::synced_prefix(cluster), self.canary_name(form))
    }

    /// Whether a peer with these capabilities has this kind at all; if not, it counts as complete and empty.
    ///
    /// An export mode that is not known here does not hide anything: consumers judge it for themselves.
    pub(crate) fn is_offered(self, capabilities: &Capabilities) -> bool {
        let mode = capabilities.endpoint_slices_export_mode.as_str();
        match self {
            Mirrored::Known(Resource::ServiceExports) => capabilities.service_exports_enabled.is_some(),
            Mirrored::Known(Resource::Services) => mode != "endpointslices-only",
            Mirrored::EndpointSlices | Mirrored::Known(Resource::EndpointSlices) => !mode.is_empty(),
            Mirrored::Known(Resource::Nodes | Resource::Ip | Resource::Identities) => true,
        }
    }
}

/// Checks a peer's entry before it is written below that peer's cache prefix; `key` is relative to the prefix.
///
/// What the value means is the consumers' business. The key is text of non-empty elements that cannot be mistaken for
/// steps of a path: up to Cilium 1.19 readers clean paths, and `a/../../east` would become another cluster's.
///
/// # Errors
/// [`Reason::KeyMalformed`] and [`Reason::ValueTooLarge`].
pub(crate) fn check_entry(key: &[u8], value: &Bytes, max_value_bytes: usize) -> Result<(), Rejection> {
    let malformed = || {
        Rejection::new(
            Reason::KeyMalformed,
            format!(
                "key ends in {:?}, expected non-empty elements of printable text",
                key.escape_ascii().to_string()
            ),
        )
    };
    let text = std::str::from_utf8(key).map_err(|_not_text| malformed())?;
    let usable = |element: &str| !matches!(element, "" | "." | "..") && !element.contains(char::is_control);
    if !text.split('/').all(usable) {
        return Err(malformed());
    }
    if value.len() > max_value_bytes {
        let found = value.len();
        let what = format!(
            "value of {text} has {found} bytes, expected at most {max_value_bytes}; raise --max-value-bytes if it is right"
        );
        return Err(Rejection::new(Reason::ValueTooLarge, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_offers_follows_its_capabilities() {
        let exports = Mirrored::Known(Resource::ServiceExports);
        let services = Mirrored::Known(Resource::Services);
        let slices = Mirrored::EndpointSlices;
        let cases = [
            ("an old peer", None, "", [false, true, false]),
            ("exports known but off", Some(false), "", [true, true, false]),
            ("Cilium 1.20", Some(true), "services-and-endpointslices", [true, true, true]),
            ("slices only", Some(true), "endpointslices-only", [true, false, true]),
            ("a mode of the future", None, "other", [false, true, true]),
        ];
        for (case, service_exports_enabled, mode, expected) in cases {
            let endpoint_slices_export_mode = mode.to_owned();
            let capabilities = Capabilities {
                service_exports_enabled,
                endpoint_slices_export_mode,
                ..Capabilities::default()
            };
            let offered = [exports, services, slices].map(|kind| kind.is_offered(&capabilities));
            assert_eq!(offered, expected, "{case}");
        }
    }

    #[test]
    fn keys_that_could_leave_their_prefix_are_refused() {
        let value = Bytes::from_static(b"v");
        for key in ["worker-1", "shop/cart", "10.0.0.0/24", "fd00::1", "shop/..data", "459008"] {
            check_entry(key.as_bytes(), &value, 1).unwrap();
        }
        for key in ["", "/a", "a/", "a//b", "..", "../east/x", "shop/./cart", "a\0b", "a\nb"] {
            let refused = check_entry(key.as_bytes(), &value, 1).unwrap_err();
            assert_eq!(refused.reason, Reason::KeyMalformed, "{key:?}");
        }
        assert_eq!(check_entry(b"\xff", &value, 1).unwrap_err().reason, Reason::KeyMalformed);
    }

    #[test]
    fn a_value_above_the_limit_is_refused_and_measured() {
        let value = Bytes::from_static(b"four");
        check_entry(b"a", &value, 4).unwrap();
        let refused = check_entry(b"a", &value, 3).unwrap_err();
        assert_eq!(refused.reason, Reason::ValueTooLarge);
        assert!(refused.detail.contains("4 bytes, expected at most 3"), "{refused}");
    }
}
