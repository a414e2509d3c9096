//! What a query name asks for; pure.

use std::borrow::Cow;
use std::str::FromStr;

use hickory_proto::ProtoError;
use hickory_proto::rr::Name;

/// The domain that the server is authoritative for, such as `clusterset.local`.
///
/// Lower case, at least one label, fully qualified.
/// Source: KEP-1645, "Multicluster DNS specification".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneName(Name);

/// Why a text names no zone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZoneNameError {
    /// It is no domain name.
    #[error("zone {name:?} is not a domain name: {source}")]
    Syntax {
        /// What was given.
        name: String,
        /// What is wrong with it.
        source: ProtoError,
    },
    /// The root is not ours to serve.
    #[error("the zone must have at least one label, for example clusterset.local")]
    Root,
}

impl ZoneName {
    /// The zone of the Multi-Cluster Services API.
    pub const DEFAULT: &str = "clusterset.local";

    pub(crate) fn name(&self) -> &Name {
        &self.0
    }

    /// `relative` within the zone; an error if that is longer than DNS allows.
    pub(crate) fn child(&self, relative: &str) -> Result<Name, ProtoError> {
        Name::from_ascii(relative)?.append_domain(&self.0)
    }
}

impl FromStr for ZoneName {
    type Err = ZoneNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = |source| ZoneNameError::Syntax { name: text.to_owned(), source };
        let mut name = Name::from_ascii(text).map_err(syntax)?.to_lowercase();
        name.set_fqdn(true);
        if name.is_root() { Err(ZoneNameError::Root) } else { Ok(Self(name)) }
    }
}

/// Without the final dot.
impl std::fmt::Display for ZoneName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.to_ascii().trim_end_matches('.'))
    }
}

/// What a name within the zone stands for. The texts are lower case if the name was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape<'a> {
    /// The zone itself.
    Apex,
    /// `dns-version`.
    DnsVersion,
    /// `dns`, which only has a name beneath it.
    Dns,
    /// `ns.dns`, the name server.
    NameServer,
    /// `svc`, which only has names beneath it.
    Svc,
    /// `pod`, reserved by the cluster-local specification.
    Pod,
    /// `<namespace>.svc`.
    Namespace(&'a str),
    /// `<service>.<namespace>.svc`.
    Service(ServiceRef<'a>),
    /// `_<protocol>.<service>.<namespace>.svc`, which only has names beneath it.
    Protocol(ServiceRef<'a>, &'a str),
    /// `_<port>._<protocol>.<service>.<namespace>.svc`, without the underscores.
    Port { service: ServiceRef<'a>, port: &'a str, protocol: &'a str },
    /// `<hostname>.<cluster>.<service>.<namespace>.svc`; a cluster id has one or two labels.
    Endpoint { service: ServiceRef<'a>, endpoint: Cow<'a, str> },
    /// Nothing that can exist.
    Nothing,
}

/// Names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRef<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Shape<'a> {
    /// Reads `name`, in lower case; `None` if it is not within `zone`.
    pub(crate) fn of(name: &'a Name, zone: &ZoneName) -> Option<Self> {
        let mut labels = name.iter();
        for expected in zone.0.iter().rev() {
            if labels.next_back()? != expected {
                return None;
            }
        }
        // From right to left, one more than any shape has.
        let mut left = [""; 7];
        for slot in &mut left {
            let Some(label) = labels.next_back() else { break };
            match std::str::from_utf8(label) {
                Ok(label) => *slot = label,
                Err(_) => return Some(Self::Nothing),
            }
        }
        let depth = left.iter().position(|label| label.is_empty()).unwrap_or(left.len());
        Some(Self::of_labels(&left[..depth]))
    }

    /// `labels` from right to left, without the zone's.
    fn of_labels(labels: &[&'a str]) -> Self {
        match *labels {
            [] => Self::Apex,
            ["dns-version"] => Self::DnsVersion,
            ["dns"] => Self::Dns,
            ["dns", "ns"] => Self::NameServer,
            ["pod"] => Self::Pod,
            ["svc"] => Self::Svc,
            ["svc", namespace] => Self::Namespace(namespace),
            ["svc", namespace, name, ref deeper @ ..] => Self::below(ServiceRef { namespace, name }, deeper),
            _ => Self::Nothing,
        }
    }

    /// `labels` from right to left, without those of the service.
    fn below(service: ServiceRef<'a>, labels: &[&'a str]) -> Self {
        let is_plain = |label: &&str| !label.starts_with('_');
        match *labels {
            [] => Self::Service(service),
            [label] => match label.strip_prefix('_') {
                Some(protocol) => Self::Protocol(service, protocol),
                // `<cluster>.<service>` is reserved and has no records.
                None => Self::Nothing,
            },
            [protocol, port] => match (protocol.strip_prefix('_'), port.strip_prefix('_')) {
                (Some(protocol), Some(port)) => Self::Port { service, port, protocol },
                (None, None) => {
                    Self::Endpoint { service, endpoint: Cow::Owned(format!("{port}.{protocol}")) }
                }
                _ => Self::Nothing,
            },
            [registry, cluster, host] if labels.iter().all(is_plain) => {
                Self::Endpoint { service, endpoint: Cow::Owned(format!("{host}.{cluster}.{registry}")) }
            }
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(text: &str) -> ZoneName {
        text.parse().unwrap()
    }

    #[test]
    fn kep_1645_every_shape_of_name_is_told_apart() {
        let service = ServiceRef { namespace: "mynamespace", name: "webs" };
        let endpoint = |text: &str| Shape::Endpoint { service, endpoint: Cow::Owned(text.to_owned()) };
        for (name, expected) in [
            ("inter.webs.tests.", Some(Shape::Apex)),
            ("dns-version.inter.webs.tests.", Some(Shape::DnsVersion)),
            ("dns.inter.webs.tests.", Some(Shape::Dns)),
            ("ns.dns.inter.webs.tests.", Some(Shape::NameServer)),
            ("a.ns.dns.inter.webs.tests.", Some(Shape::Nothing)),
            ("svc.inter.webs.tests.", Some(Shape::Svc)),
            ("pod.inter.webs.tests.", Some(Shape::Pod)),
            ("1-2-3-4.mynamespace.pod.inter.webs.tests.", Some(Shape::Nothing)),
            ("mynamespace.svc.inter.webs.tests.", Some(Shape::Namespace("mynamespace"))),
            ("webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Service(service))),
            ("webs.mynamespace.pood.inter.webs.tests.", Some(Shape::Nothing)),
            ("foo.inter.webs.tests.", Some(Shape::Nothing)),
            ("_tcp.webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Protocol(service, "tcp"))),
            ("cluster1.webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Nothing)),
            (
                "_http._tcp.webs.mynamespace.svc.inter.webs.tests.",
                Some(Shape::Port { service, port: "http", protocol: "tcp" }),
            ),
            ("http._tcp.webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Nothing)),
            ("_http.tcp.webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Nothing)),
            ("1-2-3-4.cluster1.webs.mynamespace.svc.inter.webs.tests.", Some(endpoint("1-2-3-4.cluster1"))),
            (
                "host.cluster1.registry.webs.mynamespace.svc.inter.webs.tests.",
                Some(endpoint("host.cluster1.registry")),
            ),
            ("_a._b._c.webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Nothing)),
            ("a.b.c.d.webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Nothing)),
            ("a.b.c.d.e.webs.mynamespace.svc.inter.webs.tests.", Some(Shape::Nothing)),
            (
                "*.mynamespace.svc.inter.webs.tests.",
                Some(Shape::Service(ServiceRef { name: "*", ..service })),
            ),
            ("webs.mynamespace.svc.inter.webs.tests.x.", None),
            ("xinter.webs.tests.", None),
            ("webs.tests.", None),
            (".", None),
        ] {
            let name = Name::from_ascii(name).unwrap();
            assert_eq!(Shape::of(&name, &zone("inter.webs.tests")), expected, "{name}");
        }
    }

    #[test]
    fn a_label_that_is_no_text_exists_nowhere() {
        let name = Name::from_labels([&b"\xff\xfe"[..], b"ns", b"svc", b"clusterset", b"local"]).unwrap();
        assert_eq!(Shape::of(&name, &zone("clusterset.local")), Some(Shape::Nothing));
    }

    #[test]
    fn a_zone_is_kept_in_lower_case_and_without_the_root() {
        assert_eq!(zone("ClusterSet.LOCAL.").to_string(), "clusterset.local");
        assert_eq!(zone("mesh"), zone("mesh."));
        for wrong in ["", "."] {
            assert!(matches!(wrong.parse::<ZoneName>(), Err(ZoneNameError::Root)), "{wrong:?}");
        }
        for wrong in ["a..b", &format!("{}.local", "x".repeat(64))] {
            assert!(matches!(wrong.parse::<ZoneName>(), Err(ZoneNameError::Syntax { .. })), "{wrong:?}");
        }
    }
}
