//! What is mirrored, and where it lies on both sides. Pure.

use bytes::Bytes;
use mesh_types::{Capabilities, Reason, Rejection, Resource};

/// Every kind, in the order in which a removal deletes them (that of Cilium's names for them).
pub(crate) const KINDS: [Resource; 6] = [
    Resource::EndpointSlices,
    Resource::Ip,
    Resource::Identities,
    Resource::Nodes,
    Resource::ServiceExports,
    Resource::Services,
];

/// Label `scope` of Cilium's metrics, such as `nodes/v1`.
pub(crate) fn scope(kind: Resource) -> String {
    format!("{}/v1", kind.word())
}

/// Whether a peer with these capabilities has this kind at all; if not, it counts as complete and empty.
///
/// An export mode that is not known here does not hide anything: consumers judge it for themselves.
pub(crate) fn is_offered(kind: Resource, capabilities: &Capabilities) -> bool {
    let mode = capabilities.endpoint_slices_export_mode.as_str();
    match kind {
        Resource::ServiceExports => capabilities.service_exports_enabled.is_some(),
        Resource::Services => mode != "endpointslices-only",
        Resource::EndpointSlices => !mode.is_empty(),
        Resource::Nodes | Resource::Ip | Resource::Identities => true,
    }
}

/// Whether the kind is of those that Cilium withdraws when `--clustermesh-cache-ttl` ends: what traffic is sent to, as
/// opposed to what tells who sent it.
pub(crate) const fn is_revocable(kind: Resource) -> bool {
    matches!(kind, Resource::Services | Resource::ServiceExports | Resource::EndpointSlices)
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
        let exports = Resource::ServiceExports;
        let services = Resource::Services;
        let slices = Resource::EndpointSlices;
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
            let offered = [exports, services, slices].map(|kind| is_offered(kind, &capabilities));
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
