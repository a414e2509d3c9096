//! What other clusters offer of derived Services, in either format.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_types::{
    ClusterEndpointSlice, ClusterName, ClusterService, L4Addr, PortMap, Reason, Rejection, is_dns_label,
};

use super::world::ServiceKey;

/// What one cluster offers of one derived Service: a record, slices, or both.
#[derive(Debug, Default)]
struct Offer {
    record: Option<ClusterService>,
    slices: BTreeMap<String, ClusterEndpointSlice>,
}

/// Endpoints by their address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backends {
    pub(super) ports: BTreeMap<String, PortMap>,
    pub(super) hostnames: BTreeMap<String, String>,
}

/// The offers of all clusters, by the derived Service.
#[derive(Debug, Default)]
pub(super) struct Offers {
    of: BTreeMap<ServiceKey, BTreeMap<ClusterName, Offer>>,
    /// The derived Service of each slice that counts.
    slices: BTreeMap<(ClusterName, ServiceKey), ServiceKey>,
}

impl Offers {
    /// The record of `service` in `cluster`, or that there is none. Returns whether it concerns a derived Service.
    pub(super) fn set_record(
        &mut self,
        cluster: &ClusterName,
        service: &ServiceKey,
        record: Option<ClusterService>,
    ) -> bool {
        let concerned = is_derived(&service.name);
        if concerned {
            self.change(cluster, service, |offer| offer.record = record);
        }
        concerned
    }

    /// The slice called `name` of `cluster`, or that there is none. Returns the derived Services that it concerns.
    pub(super) fn set_slice(
        &mut self,
        cluster: &ClusterName,
        name: &ServiceKey,
        slice: Option<ClusterEndpointSlice>,
    ) -> BTreeSet<ServiceKey> {
        let id = (cluster.clone(), name.clone());
        let mut concerned = BTreeSet::new();
        if let Some(former) = self.slices.remove(&id) {
            self.change(cluster, &former, |offer| drop(offer.slices.remove(&*name.name)));
            concerned.insert(former);
        }
        let service = slice.as_ref().and_then(ClusterEndpointSlice::service).filter(|name| is_derived(name));
        let service = service.map(|service| ServiceKey::new(&name.namespace, service));
        if let (Some(service), Some(slice)) = (service, slice) {
            self.change(cluster, &service, |offer| drop(offer.slices.insert(name.name.to_string(), slice)));
            self.slices.insert(id, service.clone());
            concerned.insert(service);
        }
        concerned
    }

    fn change(&mut self, cluster: &ClusterName, service: &ServiceKey, change: impl FnOnce(&mut Offer)) {
        let clusters = self.of.entry(service.clone()).or_default();
        let offer = clusters.entry(cluster.clone()).or_default();
        change(offer);
        if offer.record.is_none() && offer.slices.is_empty() {
            clusters.remove(cluster);
        }
        if clusters.is_empty() {
            self.of.remove(service);
        }
    }

    /// Forgets a cluster.
    pub(super) fn remove_cluster(&mut self, cluster: &ClusterName) {
        self.slices.retain(|(of, _), _| of != cluster);
        self.of.retain(|_, clusters| {
            clusters.remove(cluster);
            !clusters.is_empty()
        });
    }

    /// What each cluster offers of a derived Service.
    pub(super) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = (&ClusterName, Backends)> {
        let clusters = self.of.get(service).into_iter().flatten();
        clusters.map(|(cluster, offer)| (cluster, offer.backends()))
    }
}

fn is_derived(service: &str) -> bool {
    service.starts_with("derived-")
}

/// Whether an EndpointSlice of Kubernetes may have the address. An IPv4 address in the clothes of IPv6 has no family there.
///
/// Source: Kubernetes `core/validation/validation.go`, *ValidateEndpointIP*.
fn is_usable(address: IpAddr) -> bool {
    let own = address.is_unspecified() || address.is_loopback();
    let of_a_link = match address {
        IpAddr::V4(address) => address.is_link_local() || address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => {
            let is_multicast = address.segments()[0] & 0xff0f == 0xff02;
            address.is_unicast_link_local() || is_multicast || address.to_ipv4_mapped().is_some()
        }
    };
    !own && !of_a_link
}

impl Backends {
    /// Takes away what would keep the API server from accepting the slice that it is in, with all others in there: addresses
    /// that no endpoint may have, and host names that are none. Returns what that was.
    pub(super) fn drop_unusable(&mut self, cluster: &ClusterName) -> Vec<Rejection> {
        let mut dropped = Vec::new();
        let mut drop_from = |reason, all: usize, what: &str, first: Option<String>| {
            if let Some(first) = first {
                let detail = format!("{all} backends of {cluster} have {what}, such as {first}");
                dropped.push(Rejection::new(reason, detail));
            }
        };
        let bad = |address: &str| !address.parse().is_ok_and(is_usable);
        let addresses: Vec<_> = self.ports.keys().filter(|address| bad(address)).cloned().collect();
        self.ports.retain(|address, _| !bad(address));
        self.hostnames.retain(|address, _| self.ports.contains_key(address));
        let what = "an address that no endpoint may have";
        drop_from(Reason::AddressInvalid, addresses.len(), what, addresses.into_iter().next());
        let (usable, hostnames) = std::mem::take(&mut self.hostnames)
            .into_iter()
            .partition(|(_, hostname): &(String, String)| is_dns_label(hostname));
        self.hostnames = usable;
        let hostnames: BTreeMap<String, String> = hostnames;
        let first = hostnames.keys().next().cloned();
        drop_from(Reason::FieldInvalid, hostnames.len(), "a host name that is no DNS label", first);
        dropped
    }
}

impl Offer {
    /// Where both formats tell of an endpoint, its slice counts, as with agents.
    fn backends(&self) -> Backends {
        let mut backends = Backends::default();
        if let Some(record) = &self.record {
            backends.ports.clone_from(&record.backends);
            backends.hostnames.clone_from(&record.hostnames);
        }
        let said: BTreeSet<&String> = self.slices.values().flat_map(addresses).collect();
        for address in said {
            backends.ports.remove(address);
            backends.hostnames.remove(address);
        }
        for slice in self.slices.values() {
            let ports = ports(slice);
            for endpoint in slice.endpoints.iter().filter(|endpoint| {
                let conditions = &endpoint.conditions;
                conditions.ready.unwrap_or(true) || conditions.serving.unwrap_or(true)
            }) {
                for address in &endpoint.addresses {
                    backends.ports.entry(address.clone()).or_default().extend(ports.clone());
                    if let Some(hostname) = endpoint.hostname.as_ref().filter(|name| !name.is_empty()) {
                        backends.hostnames.insert(address.clone(), hostname.clone());
                    }
                }
            }
        }
        backends
    }
}

fn addresses(slice: &ClusterEndpointSlice) -> impl Iterator<Item = &String> {
    slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses)
}

/// The ports that have a number.
fn ports(slice: &ClusterEndpointSlice) -> PortMap {
    let port = |port: &mesh_types::SlicePort| {
        let number = port.port.and_then(|number| u16::try_from(number).ok())?;
        let protocol = port.protocol.clone().filter(|word| !word.is_empty());
        let protocol = protocol.unwrap_or_else(|| "TCP".to_owned());
        Some((port.name.clone().unwrap_or_default(), L4Addr { protocol, port: number }))
    };
    slice.ports.iter().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_types::{SERVICE_NAME_LABEL, SliceConditions, SliceEndpoint, SlicePort};

    const SERVICE: &str = "derived-ab";

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("shop", name)
    }

    fn east() -> ClusterName {
        "east".parse().unwrap()
    }

    /// A slice with one port called http; an address with a `!` is of an endpoint that can take nothing.
    fn slice(service: &str, port: Option<i32>, addresses: &[&str]) -> ClusterEndpointSlice {
        let endpoint = |text: &&str| SliceEndpoint {
            addresses: vec![text.trim_end_matches('!').to_owned()],
            conditions: if text.ends_with('!') {
                SliceConditions { ready: Some(false), serving: Some(false), ..Default::default() }
            } else {
                SliceConditions::default()
            },
            hostname: Some("cart-0".to_owned()),
            ..Default::default()
        };
        ClusterEndpointSlice {
            labels: BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), service.to_owned())]),
            endpoints: addresses.iter().map(endpoint).collect(),
            ports: vec![SlicePort { name: Some("http".to_owned()), port, ..Default::default() }],
            ..Default::default()
        }
    }

    fn record(addresses: &[&str]) -> ClusterService {
        let ports = PortMap::from([("http".to_owned(), L4Addr { protocol: "TCP".to_owned(), port: 80 })]);
        ClusterService {
            backends: addresses.iter().map(|text| ((*text).to_owned(), ports.clone())).collect(),
            ..Default::default()
        }
    }

    /// Addresses with the number of the port called http.
    fn offered(offers: &Offers) -> Vec<(String, Option<u16>)> {
        let service = key(SERVICE);
        let all = offers.of(&service).flat_map(|(_, backends)| backends.ports);
        all.map(|(address, ports)| (address, ports.get("http").map(|port| port.port))).collect()
    }

    #[test]
    fn a_backend_is_offered_once_as_its_slice_says() {
        let mut offers = Offers::default();
        let concerned = |names: &[&str]| names.iter().map(|name| key(name)).collect::<BTreeSet<_>>();
        assert!(offers.set_record(
            &east(),
            &key(SERVICE),
            Some(record(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]))
        ));
        let said = slice(SERVICE, Some(8080), &["10.0.0.2", "10.0.0.3!"]);
        assert_eq!(offers.set_slice(&east(), &key("a"), Some(said)), concerned(&[SERVICE]));
        assert_eq!(
            offered(&offers),
            [("10.0.0.1".to_owned(), Some(80)), ("10.0.0.2".to_owned(), Some(8080))]
        );

        assert!(offers.set_record(&east(), &key(SERVICE), None));
        assert_eq!(offered(&offers), [("10.0.0.2".to_owned(), Some(8080))]);
        // A slice that goes over to another Service is withdrawn from the first.
        let other = slice("derived-cd", Some(8080), &["10.0.0.2"]);
        assert_eq!(offers.set_slice(&east(), &key("a"), Some(other)), concerned(&[SERVICE, "derived-cd"]));
        assert_eq!(offered(&offers), []);
        assert_eq!(offers.set_slice(&east(), &key("a"), None), concerned(&["derived-cd"]));
        assert!(offers.of.is_empty() && offers.slices.is_empty(), "{offers:?}");
    }

    #[test]
    fn what_no_endpoint_may_have_goes_and_is_counted() {
        let names = ["cart-0", "Cart 0", ""];
        let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1"];
        let bad = [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.7",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "ff12::1",
            "::ffff:10.0.0.1",
        ];
        let mut backends = Backends::default();
        for address in addresses.iter().chain(&bad) {
            backends.ports.insert((*address).to_owned(), PortMap::new());
        }
        for (address, name) in addresses.iter().zip(names) {
            backends.hostnames.insert((*address).to_owned(), name.to_owned());
        }
        backends.hostnames.insert("127.0.0.1".to_owned(), "Also Bad".to_owned());
        let dropped = backends.drop_unusable(&east());
        assert_eq!(backends.ports.keys().collect::<Vec<_>>(), addresses.iter().collect::<Vec<_>>());
        assert_eq!(
            backends.hostnames.into_iter().collect::<Vec<_>>(),
            [("10.0.0.1".to_owned(), "cart-0".to_owned())]
        );
        let [addresses, hostnames] = dropped.as_slice() else { panic!("{dropped:?}") };
        assert_eq!((addresses.reason, hostnames.reason), (Reason::AddressInvalid, Reason::FieldInvalid));
        let wanted = "10 backends of east have an address that no endpoint may have, such as 0.0.0.0";
        assert_eq!(addresses.detail, wanted);
        let wanted = "2 backends of east have a host name that is no DNS label, such as 10.0.0.2";
        assert_eq!(hostnames.detail, wanted);
    }

    #[test]
    fn services_that_are_not_derived_are_passed_over() {
        let mut offers = Offers::default();
        assert!(!offers.set_record(&east(), &key("cart"), Some(record(&["10.0.0.1"]))));
        assert!(
            offers.set_slice(&east(), &key("a"), Some(slice("cart", Some(80), &["10.0.0.1"]))).is_empty()
        );
        assert!(offers.of.is_empty() && offers.slices.is_empty(), "{offers:?}");
    }

    #[test]
    fn a_cluster_leaves_nothing_behind_and_a_port_without_number_is_none() {
        let mut offers = Offers::default();
        for port in [None, Some(-1), Some(65_536)] {
            offers.set_slice(&east(), &key("a"), Some(slice(SERVICE, port, &["10.0.0.1"])));
            assert_eq!(offered(&offers), [("10.0.0.1".to_owned(), None)], "{port:?}");
        }
        offers.set_record(&east(), &key(SERVICE), Some(record(&["10.0.0.2"])));
        offers.remove_cluster(&east());
        assert!(offers.of.is_empty() && offers.slices.is_empty(), "{offers:?}");
    }
}
