//! Address ranges, and how packets travel.

use super::pairs;
use crate::code::Code;
use crate::{Datapath, Finding, Member, Severity};
use ipnet::IpNet;

/// How many overlaps are named.
const SHOWN: usize = 3;

pub(super) fn check(members: &[Member], findings: &mut Vec<Finding>) {
    for (one, other) in pairs(members) {
        pods(one, other, findings);
        services(one, other, findings);
        nodes(one, other, findings);
        datapath(one, other, findings);
    }
}

fn overlaps(these: &[IpNet], those: &[IpNet]) -> Vec<(IpNet, IpNet)> {
    let both = these.iter().flat_map(|this| those.iter().map(move |that| (*this, *that)));
    both.filter(|(this, that)| this.contains(that) || that.contains(this)).collect()
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

fn pods(one: &Member, other: &Member, findings: &mut Vec<Finding>) {
    let overlaps = overlaps(&one.pod_cidrs(), &other.pod_cidrs());
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
fn services(one: &Member, other: &Member, findings: &mut Vec<Finding>) {
    for (services, pods) in [(one, other), (other, one)] {
        let overlaps = overlaps(&services.service_cidrs, &pods.pod_cidrs());
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
    let overlaps = overlaps(&one.service_cidrs, &other.service_cidrs);
    if !overlaps.is_empty() {
        findings.push(
            Finding::warning(Code::ServiceCidrOverlap, &[one.name(), other.name()])
                .expected("service CIDRs that do not overlap, so that an address says which cluster's service it is")
                .found(shown(one.name(), other.name(), &overlaps))
                .advice("global services work all the same; choose another --service-cluster-ip-range when you install a cluster anew"),
        );
    }
}

fn nodes(one: &Member, other: &Member, findings: &mut Vec<Finding>) {
    let nets = |member: &Member| -> Vec<IpNet> {
        member.nodes.iter().flat_map(|node| &node.addresses).map(|address| IpNet::from(*address)).collect()
    };
    let mut all = overlaps(&nets(one), &nets(other));
    all.extend(overlaps(&nets(one), &other.pod_cidrs()));
    all.extend(overlaps(&one.pod_cidrs(), &nets(other)));
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
