//! Global services: `cilium/state/services/v1/<cluster>/<namespace>/<service>`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::gojson::{self, go_struct};
use crate::{Peer, Reason, Rejection};

/// Ports by name; the unnamed port has the name `""`.
pub type PortMap = BTreeMap<String, L4Addr>;

go_struct! {
    /// A service with its frontends and backends in one cluster.
    ///
    /// Addresses are text on the wire and here, since Go sorts them as text; [`ClusterService::decode`] guarantees
    /// that they parse.
    pub struct ClusterService {
        /// Cluster that exports it.
        pub cluster: String = "cluster",
        /// Namespace.
        pub namespace: String = "namespace",
        /// Name.
        pub name: String = "name",
        /// Cluster IP to service ports; empty for headless services.
        pub frontends: BTreeMap<String, PortMap> = "frontends",
        /// Backend address to its ports.
        pub backends: BTreeMap<String, PortMap> = "backends",
        /// Backend address to host name.
        pub hostnames: BTreeMap<String, String> = "hostnames" omitempty,
        /// Backend address to zone.
        pub zones: BTreeMap<String, BackendZone> = "zones" omitempty,
        /// Labels of the Service.
        pub labels: BTreeMap<String, String> = "labels",
        /// Its selector.
        pub selector: BTreeMap<String, String> = "selector",
        /// Always true on the wire.
        pub include_external: bool = "includeExternal",
        /// Always true on the wire; an unshared service is deleted.
        pub shared: bool = "shared",
        /// Id of the cluster.
        pub cluster_id: u32 = "clusterID",
    }
}

go_struct! {
    /// Protocol and number of a port.
    pub struct L4Addr {
        /// `TCP`, `UDP`, `SCTP`.
        pub protocol: String = "Protocol",
        /// Number.
        pub port: u16 = "Port",
    }
}

go_struct! {
    /// Zone of a backend.
    pub struct BackendZone {
        /// Its own zone.
        pub zone: String = "zone",
        /// Zones that should use it.
        pub for_zones: Vec<ForZone> = "forZones",
    }
}

go_struct! {
    /// One zone hint.
    pub struct ForZone {
        /// Zone.
        pub name: String = "name",
    }
}

impl ClusterService {
    /// The stored bytes, in the form of Cilium 1.20.
    pub fn encode(&self) -> Vec<u8> {
        gojson::to_vec(self)
    }

    /// Reads the value of `name` (`<namespace>/<service>`, the key after `…/services/v1/<cluster>/`) of `peer`.
    ///
    /// # Errors
    /// Not JSON, empty names, another cluster or id, a name that differs from the key, or an address that does not parse.
    pub fn decode(name: &str, value: &[u8], peer: &Peer) -> Result<Self, Rejection> {
        let service: ClusterService = gojson::from_slice(value)
            .map_err(|error| Rejection::new(Reason::ValueNotJson, format!("service {name}: {error}")))?;
        if service.cluster.is_empty() || service.namespace.is_empty() || service.name.is_empty() {
            let what = format!("service {name}: cluster, namespace and name must not be empty");
            return Err(Rejection::new(Reason::FieldMissing, what));
        }
        crate::expect_cluster("service", name, &service.cluster, peer)?;
        crate::expect_name("service", name, &format!("{}/{}", service.namespace, service.name))?;
        crate::expect_cluster_id("service", name, service.cluster_id, peer)?;
        for address in service.frontends.keys().chain(service.backends.keys()) {
            if address.parse::<IpAddr>().is_err() {
                let what = format!("service {name}: {address:?} is no IP address");
                return Err(Rejection::new(Reason::AddressInvalid, what));
            }
        }
        Ok(service)
    }
}
