//! One service as its records: what an import and its slices come to; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use mesh_types::Reason;

use crate::name::ZoneName;

/// A ServiceImport, as far as DNS goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// Whether the service has an address of its own.
    pub(crate) kind: ImportKind,
    /// `spec.ports`.
    pub(crate) ports: Vec<Port>,
}

/// `spec.type` of an import, with what belongs to the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImportKind {
    /// `ClusterSetIP`, with `spec.ips`: empty until one is assigned.
    ClusterSetIp(Vec<IpAddr>),
    /// `Headless`: the addresses are those of the endpoints.
    Headless,
}

/// A port of an import or of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    /// Empty if it has none.
    pub(crate) name: String,
    /// In lower case: `tcp`, `udp`, `sctp`.
    pub(crate) protocol: String,
    /// The port number.
    pub(crate) number: u16,
}

/// An EndpointSlice that was imported from one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Label `multicluster.kubernetes.io/source-cluster`; one or two DNS labels.
    pub(crate) cluster: String,
    /// Those that have a number.
    pub(crate) ports: Vec<Port>,
    /// The ready endpoints.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A ready endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `hostname`; without it the endpoint is named after its address.
    pub(crate) hostname: Option<String>,
    /// At least one, of one family.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Addresses by family, each in order and once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
}

impl Addresses {
    pub(crate) fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut families = Self::default();
        for address in addresses.into_iter().collect::<BTreeSet<_>>() {
            match address {
                IpAddr::V4(v4) => families.v4.push(v4),
                IpAddr::V6(v6) => families.v6.push(v6),
            }
        }
        families
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// The records of a service that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its own name, lower case and with the zone.
    pub(crate) name: Name,
    /// Of the service's own name.
    pub(crate) addresses: Addresses,
    /// By `<hostname>.<cluster>`; of a headless service only.
    pub(crate) endpoints: BTreeMap<String, (Name, Addresses)>,
    /// SRV records by protocol and name of the port.
    ports: BTreeMap<(String, String), Targets>,
    /// SRV records of the service's own name: all its ports, named or not.
    all_ports: Targets,
}

/// The SRV records of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Pairs of address and port behind them; decides the weight.
    candidates: usize,
    /// Port number and key of the endpoint, empty for the service itself; each once.
    targets: BTreeSet<(u16, String)>,
}

impl Targets {
    fn add(&mut self, port: u16, endpoint: &str, addresses: usize) {
        if addresses > 0 {
            self.candidates += addresses;
            self.targets.insert((port, endpoint.to_owned()));
        }
    }

    /// Equal for all, and as CoreDNS gives it: 100 shared by the candidates, at least 1.
    pub(crate) fn weight(&self) -> u16 {
        u16::try_from(100 / self.candidates.max(1)).unwrap_or(100).max(1)
    }

    /// Port number and key of the endpoint.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (u16, &str)> {
        self.targets.iter().map(|(port, endpoint)| (*port, endpoint.as_str()))
    }
}

impl Service {
    /// The records of `import`, whose endpoints are in `slices`.
    ///
    /// `None` if no name of it exists: a headless service without a ready endpoint. What cannot be served is left out, with the
    /// reason and how often.
    pub(crate) fn new<'a>(
        zone: &ZoneName,
        namespace: &str,
        name: &str,
        import: &Import,
        slices: impl IntoIterator<Item = &'a Slice>,
    ) -> (Option<Self>, BTreeMap<Reason, usize>) {
        let mut skipped = BTreeMap::new();
        let relative = format!("{name}.{namespace}.svc");
        let (true, Ok(own)) = (is_label(name), zone.child(&relative)) else {
            skipped.insert(Reason::NameTooLong, 1);
            return (None, skipped);
        };
        let mut service = Self {
            name: own,
            addresses: Addresses::default(),
            endpoints: BTreeMap::new(),
            ports: BTreeMap::new(),
            all_ports: Targets::default(),
        };
        match &import.kind {
            ImportKind::ClusterSetIp(ips) => {
                service.addresses = Addresses::new(ips.iter().copied());
                service.add_ports(&import.ports, "", ips.len());
                (Some(service), skipped)
            }
            ImportKind::Headless => {
                let mut all = Vec::new();
                let mut hosts: BTreeMap<String, (Name, Vec<IpAddr>)> = BTreeMap::new();
                for slice in slices {
                    for endpoint in &slice.endpoints {
                        all.extend(&endpoint.addresses);
                        for (host, addresses) in hosts_of(endpoint) {
                            let key = format!("{host}.{}", slice.cluster);
                            let Ok(name) = zone.child(&format!("{key}.{relative}")) else {
                                *skipped.entry(Reason::NameTooLong).or_default() += 1;
                                continue;
                            };
                            service.add_ports(&slice.ports, &key, addresses.len());
                            hosts.entry(key).or_insert_with(|| (name, Vec::new())).1.extend(addresses);
                        }
                    }
                }
                service.addresses = Addresses::new(all);
                let named = |(key, (name, addresses))| (key, (name, Addresses::new(addresses)));
                service.endpoints = hosts.into_iter().map(named).collect();
                ((!service.addresses.is_empty()).then_some(service), skipped)
            }
        }
    }

    fn add_ports(&mut self, ports: &[Port], endpoint: &str, addresses: usize) {
        for port in ports {
            self.all_ports.add(port.number, endpoint, addresses);
            if !port.name.is_empty() {
                let key = (port.protocol.clone(), port.name.to_ascii_lowercase());
                self.ports.entry(key).or_default().add(port.number, endpoint, addresses);
            }
        }
    }

    /// The SRV records of `_<port>._<protocol>`; `None` if there is no such name.
    pub(crate) fn port(&self, protocol: &str, port: &str) -> Option<&Targets> {
        // A service has few ports; finding one this way allocates nothing.
        let mut ports = self.ports.iter();
        ports.find(|((of, name), _)| of == protocol && name == port).map(|(_, targets)| targets)
    }

    /// The SRV records of the service's own name.
    pub(crate) fn all_ports(&self) -> &Targets {
        &self.all_ports
    }

    /// Whether some name exists below `_<protocol>`.
    pub(crate) fn has_protocol(&self, protocol: &str) -> bool {
        self.ports.keys().any(|(of, _)| of == protocol)
    }

    /// Name and addresses of the target of an SRV record.
    pub(crate) fn target(&self, endpoint: &str) -> Option<(&Name, &Addresses)> {
        if endpoint.is_empty() {
            return Some((&self.name, &self.addresses));
        }
        self.endpoints.get(endpoint).map(|(name, addresses)| (name, addresses))
    }
}

/// An object's name may be several labels long, in which case no query name can mean it.
fn is_label(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && !name.contains('.')
}

/// The names of an endpoint: its hostname, else one for each address.
fn hosts_of(endpoint: &Endpoint) -> Vec<(String, Vec<IpAddr>)> {
    match &endpoint.hostname {
        Some(hostname) => vec![(hostname.to_ascii_lowercase(), endpoint.addresses.clone())],
        None => endpoint.addresses.iter().map(|address| (dashed(*address), vec![*address])).collect(),
    }
}

/// An address as one label: `172-0-0-2`, `5678-abcd--1`; never with a dash at its end.
fn dashed(address: IpAddr) -> String {
    let mut label = address.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, protocol: &str, number: u16) -> Port {
        Port { name: name.into(), protocol: protocol.into(), number }
    }

    fn zone() -> ZoneName {
        "clusterset.local".parse().unwrap()
    }

    #[test]
    fn addresses_become_labels_that_end_in_no_dash() {
        for (address, label) in [
            ("172.0.0.2", "172-0-0-2"),
            ("5678:abcd::1", "5678-abcd--1"),
            ("5678:abcd::", "5678-abcd--0"),
            ("::1", "--1"),
            ("::ffff:1.2.3.4", "--ffff-1-2-3-4"),
        ] {
            assert_eq!(dashed(address.parse().unwrap()), label);
        }
    }

    #[test]
    fn weights_share_100_and_are_at_least_1() {
        for (candidates, weight) in [(0, 100), (1, 100), (2, 50), (6, 16), (100, 1), (5000, 1)] {
            assert_eq!(Targets { candidates, ..Targets::default() }.weight(), weight, "{candidates}");
        }
    }

    #[test]
    fn names_that_dns_cannot_carry_are_left_out_with_a_reason() {
        let import =
            Import { kind: ImportKind::ClusterSetIp(vec!["10.0.0.1".parse().unwrap()]), ports: vec![] };
        for name in ["a.b", "", &"x".repeat(64)] {
            let (service, skipped) = Service::new(&zone(), "ns", name, &import, []);
            assert_eq!(service, None, "{name:?}");
            assert_eq!(skipped, BTreeMap::from([(Reason::NameTooLong, 1)]), "{name:?}");
        }
        let headless = Import { kind: ImportKind::Headless, ports: vec![] };
        let slice = Slice {
            cluster: "c".repeat(63),
            ports: vec![port("http", "tcp", 80)],
            endpoints: vec![
                Endpoint { hostname: Some("h".repeat(63)), addresses: vec!["10.0.0.1".parse().unwrap()] },
                Endpoint { hostname: Some("short".into()), addresses: vec!["10.0.0.2".parse().unwrap()] },
            ],
        };
        let (service, skipped) = Service::new(&zone(), &"n".repeat(63), &"s".repeat(43), &headless, [&slice]);
        let service = service.unwrap();
        assert_eq!(skipped, BTreeMap::from([(Reason::NameTooLong, 1)]));
        assert_eq!(service.addresses.v4.len(), 2, "the addresses are served all the same");
        assert_eq!(service.endpoints.len(), 1);
    }

    #[test]
    fn ports_are_found_by_protocol_and_name_without_regard_to_case() {
        let import = Import {
            kind: ImportKind::ClusterSetIp(vec!["10.0.0.1".parse().unwrap()]),
            ports: vec![port("Http", "tcp", 80), port("", "udp", 53)],
        };
        let service = Service::new(&zone(), "ns", "a", &import, []).0.unwrap();
        assert!(service.port("tcp", "http").is_some());
        assert!(service.port("udp", "http").is_none());
        assert!(service.port("udp", "").is_none());
        assert!(service.has_protocol("tcp"));
        assert!(!service.has_protocol("udp"), "no named port, so no name beneath");
        assert_eq!(service.all_ports().iter().len(), 2);
    }
}
