//! Address ranges, and how packets travel.

use crate::code::Code;
use crate::{Datapath, Finding, Member, Severity};
use ipnet::IpNet;

/// A cluster of a pair.
type Side<'a> = (&'a Member, &'a Ranges);

/// How many overlaps are named.
const SHOWN: usize = 3;

pub(super) fn check(members: &[Member], findings: &mut Vec<Finding>) {
    // Once for each member, as there are many more pairs.
    let ranges: Vec<Ranges> = members.iter().map(Ranges::of).collect();
    for (number, (one, mine)) in members.iter().zip(&ranges).enumerate() {
        for (other, theirs) in members.iter().zip(&ranges).skip(number + 1) {
            pods((one, mine), (other, theirs), findings);
            services((one, mine), (other, theirs), findings);
            nodes((one, mine), (other, theirs), findings);
            datapath(one, other, findings);
        }
    }
}

/// A member's ranges. Each list is sorted, and no two of a list overlap.
struct Ranges {
    pods: Vec<IpNet>,
    services: Vec<IpNet>,
    /// Single addresses.
    nodes: Vec<IpNet>,
}

impl Ranges {
    fn of(member: &Member) -> Self {
        let sorted = |mut nets: Vec<IpNet>| {
            nets.sort_unstable();
            nets.dedup();
            nets
        };
        let addresses = member.nodes.iter().flat_map(|node| &node.addresses);
        Self {
            pods: sorted(member.pod_cidrs()),
            services: sorted(IpNet::aggregate(&member.service_cidrs.to_vec())),
            nodes: sorted(addresses.map(|address| IpNet::from(*address)).collect()),
        }
    }
}

/// Where two lists overlap, both as those of [`Ranges`], in one walk over both.
fn overlaps(these: &[IpNet], those: &[IpNet]) -> Vec<(IpNet, IpNet)> {
    let (mut these, mut those) = (these.iter().peekable(), those.iter().peekable());
    let mut found = Vec::new();
    while let (Some(this), Some(that)) = (these.peek(), those.peek()) {
        if this.contains(*that) || that.contains(*this) {
            found.push((**this, **that));
        }
        // What ends first overlaps with nothing that comes later.
        if this.broadcast() < that.broadcast() {
            these.next()
        } else {
            those.next()
        };
    }
    found
}

fn shown(one: &str, other: &str, overlaps: &[(IpNet, IpNet)]) -> String {
    let named =
        overlaps.iter().take(SHOWN).map(|(this, that)| format!("{this} of {one} and {that} of {other}"));
    let mut text = named.collect::<Vec<_>>().join("; ");
    if overlaps.len() > SHOWN {
        text += &format!("; and {} more", overlaps.len() - SHOWN);
    }
    text
}

fn pods((one, mine): Side<'_>, (other, theirs): Side<'_>, findings: &mut Vec<Finding>) {
    let overlaps = overlaps(&mine.pods, &theirs.pods);
    if !overlaps.is_empty() {
        findings.push(
            Finding::error(Code::PodCidrOverlap, &[one.name(), other.name()])
                .expected("pod CIDRs that do not overlap: a pod's address must say which cluster it is in")
                .found(shown(one.name(), other.name(), &overlaps))
                .advice("install one of the clusters with other pod CIDRs (Helm: ipam.operator.clusterPoolIPv4PodCIDRList)"),
        );
    }
}

/// Services' addresses mean something within their cluster only, so the same ones may be used by two; but where they are
/// those of another cluster's pods, these cannot be reached.
fn services((one, mine): Side<'_>, (other, theirs): Side<'_>, findings: &mut Vec<Finding>) {
    for ((services, ranges), (pods, others)) in
        [((one, mine), (other, theirs)), ((other, theirs), (one, mine))]
    {
        let overlaps = overlaps(&ranges.services, &others.pods);
        if !overlaps.is_empty() {
            findings.push(
                Finding::error(Code::ServiceCidrOverlap, &[services.name(), pods.name()])
                    .expected("service CIDRs that no other cluster has for its pods")
                    .found(format!(
                        "services {}",
                        shown(services.name(), &format!("the pods of {}", pods.name()), &overlaps)
                    ))
                    .advice("install one of the clusters with another range"),
            );
        }
    }
    let overlaps = overlaps(&mine.services, &theirs.services);
    if !overlaps.is_empty() {
        findings.push(
            Finding::warning(Code::ServiceCidrOverlap, &[one.name(), other.name()])
                .expected("service CIDRs that do not overlap, so that an address says which cluster's service it is")
                .found(shown(one.name(), other.name(), &overlaps))
                .advice("global services work all the same; choose another --service-cluster-ip-range when you install a cluster anew"),
        );
    }
}

fn nodes((one, mine): Side<'_>, (other, theirs): Side<'_>, findings: &mut Vec<Finding>) {
    let mut all = overlaps(&mine.nodes, &theirs.nodes);
    all.extend(overlaps(&mine.nodes, &theirs.pods));
    all.extend(overlaps(&mine.pods, &theirs.nodes));
    if !all.is_empty() {
        findings.push(
            Finding::error(Code::NodeAddressOverlap, &[one.name(), other.name()])
                .expected("nodes with addresses that no other cluster has, neither for nodes nor for pods")
                .found(shown(one.name(), other.name(), &all))
                .advice("nodes reach each other by these addresses: give them others, or join networks where they differ"),
        );
    }
}

fn datapath(one: &Member, other: &Member, findings: &mut Vec<Finding>) {
    let clusters = [one.name(), other.name()];
    let differ = |code, severity, what: &str, [mine, theirs]: [String; 2], advice: &str| {
        let finding = match severity {
            Severity::Error => Finding::error(code, &clusters),
            Severity::Warning => Finding::warning(code, &clusters),
        };
        let found = format!("{} has {mine}, {} has {theirs}", clusters[0], clusters[1]);
        finding.expected(what).found(found).advice(advice)
    };
    if let (Some(mine), Some(theirs)) = (one.settings.datapath(), other.settings.datapath())
        && mine != theirs
    {
        findings.push(differ(
            Code::DatapathDiffers,
            Severity::Error,
            "the same routing mode and tunnel protocol in all clusters",
            [words(&mine), words(&theirs)],
            "set routing-mode and tunnel-protocol alike (Helm: routingMode, tunnelProtocol)",
        ));
    }
    if let (Some(mine), Some(theirs)) = (one.settings.families(), other.settings.families())
        && mine != theirs
    {
        let none = !(0..2).any(|family| mine[family] && theirs[family]);
        findings.push(differ(
            Code::FamiliesDiffer,
            if none { Severity::Error } else { Severity::Warning },
            "the same IP families in all clusters",
            [families(mine), families(theirs)],
            "set enable-ipv4 and enable-ipv6 alike (Helm: ipv4.enabled, ipv6.enabled)",
        ));
    }
    if let (Some(mine), Some(theirs)) = (one.settings.encryption(), other.settings.encryption())
        && mine != theirs
    {
        findings.push(differ(
            Code::EncryptionDiffers,
            Severity::Warning,
            "the same encryption in all clusters",
            [format!("encryption {mine}"), format!("encryption {theirs}")],
            "between these clusters nothing is encrypted: set it alike (Helm: encryption.enabled, encryption.type)",
        ));
    }
}

fn words(datapath: &Datapath) -> String {
    match datapath {
        Datapath::Native => "native routing".to_owned(),
        Datapath::Tunnel(protocol) => format!("{protocol} tunnels"),
    }
}

fn families([v4, v6]: [bool; 2]) -> String {
    match (v4, v6) {
        (true, true) => "IPv4 and IPv6",
        (true, false) => "IPv4 only",
        (false, true) => "IPv6 only",
        (false, false) => "neither family",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (0_u32..64, 26_u8..=32).prop_map(|(low, length)| {
            IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + low).into(), length).unwrap().trunc()
        });
        let v6 = (0_u128..16, 124_u8..=128).prop_map(|(low, length)| {
            IpNet::new(std::net::Ipv6Addr::from((0xfd00_u128 << 112) + low).into(), length).unwrap().trunc()
        });
        proptest::collection::vec(prop_oneof![v4, v6], 0..12).prop_map(|nets| {
            let mut nets = IpNet::aggregate(&nets);
            nets.sort_unstable();
            nets
        })
    }

    proptest! {
        /// One walk finds what comparing each with each does.
        #[test]
        fn a_walk_finds_every_overlap(these in nets(), those in nets()) {
            let each = these.iter().flat_map(|this| those.iter().map(move |that| (*this, *that)));
            let mut expected: Vec<_> = each.filter(|(this, that)| this.contains(that) || that.contains(this)).collect();
            let mut found = overlaps(&these, &those);
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
