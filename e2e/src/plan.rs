//! Which cluster, node and pod has which address: arithmetic only.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Where one cluster's addresses are. Clusters count from 1, nodes and pods too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    cluster: u8,
}

impl Plan {
    /// Of the `cluster`-th cluster, 1 to 100; more have no room in the pattern.
    #[must_use]
    pub fn new(cluster: u8) -> Self {
        assert!(
            (1..=100).contains(&cluster),
            "the bed's addresses allow for clusters 1 to 100, not {cluster}"
        );
        Self { cluster }
    }

    /// A machine on the underlay that belongs to no cluster.
    pub(crate) fn outside(number: u8) -> (Ipv4Addr, Ipv6Addr) {
        Self { cluster: 0 }.on_underlay(number)
    }

    /// The control plane, on the underlay.
    #[must_use]
    pub fn control_plane(self) -> (Ipv4Addr, Ipv6Addr) {
        self.on_underlay(1)
    }

    /// A node, on the underlay.
    #[must_use]
    pub fn node(self, node: u8) -> (Ipv4Addr, Ipv6Addr) {
        self.on_underlay(10 + node)
    }

    /// A node's own address within its pod range; also the pods' gateway.
    #[must_use]
    pub fn gateway(self, node: u8) -> (Ipv4Addr, Ipv6Addr) {
        self.in_pod_range(node, 1)
    }

    /// A pod.
    #[must_use]
    pub fn pod(self, node: u8, pod: u8) -> (Ipv4Addr, Ipv6Addr) {
        self.in_pod_range(node, 10 + pod)
    }

    /// A node's pod ranges, as CIDRs.
    #[must_use]
    pub fn pod_cidrs(self, node: u8) -> [String; 2] {
        let (v4, v6) = self.in_pod_range(node, 0);
        [format!("{v4}/24"), format!("{v6}/112")]
    }

    /// The ranges of services' addresses, as CIDRs.
    #[must_use]
    pub fn service_cidrs(self) -> [String; 2] {
        let cluster = 110 + self.cluster;
        [format!("10.{cluster}.0.0/16"), format!("fd00:{cluster}::/112")]
    }

    fn on_underlay(self, host: u8) -> (Ipv4Addr, Ipv6Addr) {
        let v6 = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, self.cluster.into(), host.into());
        (Ipv4Addr::new(10, 200, self.cluster, host), v6)
    }

    fn in_pod_range(self, node: u8, host: u8) -> (Ipv4Addr, Ipv6Addr) {
        let v6 = Ipv6Addr::new(0xfd00, 0x70, self.cluster.into(), 0, 0, 0, node.into(), host.into());
        (Ipv4Addr::new(10, 70 + self.cluster, node, host), v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_one_owner() {
        let mut all = Vec::new();
        for cluster in [1, 2, 100] {
            let plan = Plan::new(cluster);
            all.push(plan.control_plane());
            for node in 1..=9 {
                all.extend([plan.node(node), plan.gateway(node), plan.pod(node, 1), plan.pod(node, 200)]);
            }
        }
        let count = all.len();
        let v4: std::collections::BTreeSet<_> = all.iter().map(|both| both.0).collect();
        let v6: std::collections::BTreeSet<_> = all.iter().map(|both| both.1).collect();
        assert_eq!((v4.len(), v6.len()), (count, count));
    }

    #[test]
    fn the_pattern_is_the_one_of_the_front_page() {
        let plan = Plan::new(1);
        assert_eq!(plan.control_plane().0, Ipv4Addr::new(10, 200, 1, 1));
        assert_eq!(plan.node(2).0, Ipv4Addr::new(10, 200, 1, 12));
        assert_eq!(plan.pod(1, 1).0, Ipv4Addr::new(10, 71, 1, 11));
        assert_eq!(plan.pod_cidrs(1), ["10.71.1.0/24", "fd00:70:1::1:0/112"]);
        assert_eq!(plan.service_cidrs(), ["10.111.0.0/16", "fd00:111::/112"]);
    }
}
