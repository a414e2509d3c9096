//! Nodes: `cilium/state/nodes/v1/<cluster>/<node>`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::gojson::{self, go_struct};
use crate::{Peer, Reason, Rejection};

/// Annotation with the node's WireGuard public key, base64.
pub const WIREGUARD_KEY_ANNOTATION: &str = "network.cilium.io/wg-pub-key";
/// Former name of [`WIREGUARD_KEY_ANNOTATION`].
pub const WIREGUARD_KEY_ANNOTATION_ALIAS: &str = "io.cilium.network.wg-pub-key";

go_struct! {
    /// A node as it travels. Pod CIDRs that are not the first of their family are *secondary*.
    pub struct Node {
        /// Name, as in Kubernetes.
        pub name: String = "Name",
        /// Name of its cluster.
        pub cluster: String = "Cluster",
        /// Addresses in the order of the source.
        pub ip_addresses: Vec<NodeAddress> = "IPAddresses" null,
        /// First IPv4 pod CIDR.
        pub ipv4_alloc_cidr: Option<Cidr> = "IPv4AllocCIDR",
        /// Further IPv4 pod CIDRs.
        pub ipv4_secondary_alloc_cidrs: Vec<Cidr> = "IPv4SecondaryAllocCIDRs" null,
        /// First IPv6 pod CIDR.
        pub ipv6_alloc_cidr: Option<Cidr> = "IPv6AllocCIDR",
        /// Further IPv6 pod CIDRs.
        pub ipv6_secondary_alloc_cidrs: Vec<Cidr> = "IPv6SecondaryAllocCIDRs" null,
        /// Health endpoint.
        pub ipv4_health_ip: Option<IpAddr> = "IPv4HealthIP",
        /// Health endpoint.
        pub ipv6_health_ip: Option<IpAddr> = "IPv6HealthIP",
        /// Ingress endpoint.
        pub ipv4_ingress_ip: Option<IpAddr> = "IPv4IngressIP",
        /// Ingress endpoint.
        pub ipv6_ingress_ip: Option<IpAddr> = "IPv6IngressIP",
        /// Id of its cluster.
        pub cluster_id: u32 = "ClusterID",
        /// Who wrote it, for people.
        pub source: String = "Source",
        /// IPsec key index; 0 for none, 255 with WireGuard.
        pub encryption_key: u8 = "EncryptionKey",
        /// Labels of the node object.
        pub labels: BTreeMap<String, String> = "Labels" null,
        /// Annotations of the node object.
        pub annotations: BTreeMap<String, String> = "Annotations" null,
        /// WireGuard public key, base64; empty for none.
        pub wireguard_pub_key: String = "WireguardPubKey",
        /// The kernel's boot id.
        pub boot_id: String = "BootID",
    }
}

go_struct! {
    /// One address of a node.
    pub struct NodeAddress {
        /// `InternalIP`, `ExternalIP`, `CiliumInternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`.
        pub address_type: String = "Type",
        /// The address.
        pub ip: Option<IpAddr> = "IP",
    }
}

impl Node {
    /// The stored bytes, in the form of Cilium 1.20.
    pub fn encode(&self) -> Vec<u8> {
        gojson::to_vec(self)
    }

    /// Reads the value of `name` (the key after `…/nodes/v1/<cluster>/`) of `peer`.
    ///
    /// # Errors
    /// Not JSON, an address or CIDR that does not parse or is of the wrong family, empty names, another cluster, another
    /// id, or a name that differs from the key.
    pub fn decode(name: &str, value: &[u8], peer: &Peer) -> Result<Self, Rejection> {
        let node: Node = gojson::from_slice(value)
            .map_err(|error| Rejection::new(gojson::reason_of(&error), format!("node {name}: {error}")))?;
        if node.name.is_empty() || node.cluster.is_empty() {
            return Err(Rejection::new(
                Reason::FieldMissing,
                format!("node {name}: Name and Cluster must not be empty"),
            ));
        }
        crate::expect_cluster("node", name, &node.cluster, peer)?;
        crate::expect_name("node", name, &node.name)?;
        crate::expect_cluster_id("node", name, node.cluster_id, peer)?;
        node.check_families(name)?;
        Ok(node)
    }

    /// A network of the other family in one of the fields would be routed as what it is not.
    fn check_families(&self, name: &str) -> Result<(), Rejection> {
        let fields = [
            ("IPv4", self.ipv4_alloc_cidr.iter().chain(&self.ipv4_secondary_alloc_cidrs)),
            ("IPv6", self.ipv6_alloc_cidr.iter().chain(&self.ipv6_secondary_alloc_cidrs)),
        ];
        for (family, mut cidrs) in fields {
            if let Some(other) = cidrs.find(|cidr| cidr.0.addr().is_ipv6() != (family == "IPv6")) {
                let what = format!("node {name}: pod CIDR {other} stands among those of {family}");
                return Err(Rejection::new(Reason::CidrInvalid, what));
            }
        }
        Ok(())
    }

    /// All pod CIDRs, primary ones first.
    pub fn pod_cidrs(&self) -> impl Iterator<Item = ipnet::IpNet> {
        let primary = self.ipv4_alloc_cidr.iter().chain(&self.ipv6_alloc_cidr);
        primary
            .chain(&self.ipv4_secondary_alloc_cidrs)
            .chain(&self.ipv6_secondary_alloc_cidrs)
            .map(|cidr| cidr.0)
    }

    /// Sets the pod CIDRs: of each family the first becomes primary, the others secondary.
    pub fn set_pod_cidrs(&mut self, cidrs: impl IntoIterator<Item = ipnet::IpNet>) {
        let (v4, v6): (Vec<_>, Vec<_>) =
            cidrs.into_iter().map(|net| Cidr(net.trunc())).partition(|cidr| cidr.0.addr().is_ipv4());
        let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
        self.ipv4_alloc_cidr = v4.next();
        self.ipv4_secondary_alloc_cidrs = v4.collect();
        self.ipv6_alloc_cidr = v6.next();
        self.ipv6_secondary_alloc_cidrs = v6.collect();
    }

    /// The address to which traffic for this node's pods is tunnelled: InternalIP, else ExternalIP, else any other but
    /// CiliumInternalIP, of the wanted family.
    pub fn node_ip(&self, ipv6: bool) -> Option<IpAddr> {
        let candidates = || {
            let typed =
                self.ip_addresses.iter().filter_map(|address| Some((&*address.address_type, address.ip?)));
            typed.filter(move |(kind, ip)| ip.is_ipv6() == ipv6 && *kind != "CiliumInternalIP")
        };
        let of_type = |wanted| candidates().find(|(kind, _)| *kind == wanted);
        of_type("InternalIP")
            .or_else(|| of_type("ExternalIP"))
            .or_else(|| candidates().next())
            .map(|(_, ip)| ip)
    }
}
