//! Several exports of one service become one import (KEP-1645, *Constraints and Conflict Resolution*).

use std::collections::{BTreeMap, BTreeSet};

use mesh_types::{ClusterName, ExportPort, ServiceExport};

/// What all exports together say, with the older one deciding where they disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) headless: bool,
    pub(super) ports: Vec<ExportPort>,
    /// Families that reach every cluster's backends, in the oldest export's order; empty when nobody names any.
    pub(super) families: Vec<String>,
    /// This cluster has none of them.
    pub(super) unsupported: bool,
    pub(super) session_affinity: String,
    pub(super) affinity_timeout_seconds: Option<i32>,
    pub(super) internal_traffic_policy: String,
    pub(super) traffic_distribution: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Exporting clusters, by name.
    pub(super) clusters: BTreeSet<ClusterName>,
    /// What they disagree on.
    pub(super) conflicts: BTreeSet<Conflict>,
}

/// A disagreement between exports; the name is the reason of the `Conflict` condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Conflict {
    Ports,
    Type,
    SessionAffinity,
    SessionAffinityConfig,
    Labels,
    Annotations,
    InternalTrafficPolicy,
    TrafficDistribution,
    IpFamily,
}

impl Conflict {
    /// Reason of the condition, as `mcs-api` names it.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Conflict::Ports => "PortConflict",
            Conflict::Type => "TypeConflict",
            Conflict::SessionAffinity => "SessionAffinityConflict",
            Conflict::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Conflict::Labels => "LabelsConflict",
            Conflict::Annotations => "AnnotationsConflict",
            Conflict::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Conflict::TrafficDistribution => "TrafficDistributionConflict",
            Conflict::IpFamily => "IPFamilyConflict",
        }
    }
}

/// The protocol of a port; TCP is the default of the API.
pub(super) fn protocol(port: &ExportPort) -> &str {
    if port.protocol.is_empty() { "TCP" } else { &port.protocol }
}

fn affinity(export: &ServiceExport) -> &str {
    if export.session_affinity.is_empty() { "None" } else { &export.session_affinity }
}

fn timeout(export: &ServiceExport) -> Option<i32> {
    export.session_affinity_config.as_ref().map(|config| config.client_ip.timeout_seconds)
}

fn traffic_policy(export: &ServiceExport) -> &str {
    if export.internal_traffic_policy.is_empty() { "Cluster" } else { &export.internal_traffic_policy }
}

/// Merges the exports of one service; `None` if there is none.
///
/// The oldest export decides; equal times are decided by the cluster's name.
pub(super) fn merge(exports: &BTreeMap<ClusterName, ServiceExport>) -> Option<Merged> {
    let mut by_age: Vec<_> = exports.iter().collect();
    by_age.sort_by_key(|(cluster, export)| (export.created(), *cluster));
    let exports: Vec<&ServiceExport> = by_age.iter().map(|(_, export)| *export).collect();
    let oldest = *exports.first()?;
    let (ports, ports_agree) = merge_ports(&exports);
    let (families, families_agree) = merge_families(&exports);
    let agree = |same: &dyn Fn(&ServiceExport) -> bool| exports.iter().all(|export| same(export));
    let checks = [
        (Conflict::Ports, ports_agree),
        (Conflict::Type, agree(&|export| export.service_type == oldest.service_type)),
        (Conflict::SessionAffinity, agree(&|export| affinity(export) == affinity(oldest))),
        (Conflict::SessionAffinityConfig, agree(&|export| timeout(export) == timeout(oldest))),
        (Conflict::Labels, agree(&|export| export.labels == oldest.labels)),
        (Conflict::Annotations, agree(&|export| export.annotations == oldest.annotations)),
        (Conflict::InternalTrafficPolicy, agree(&|export| traffic_policy(export) == traffic_policy(oldest))),
        (
            Conflict::TrafficDistribution,
            agree(&|export| export.traffic_distribution == oldest.traffic_distribution),
        ),
        (Conflict::IpFamily, families_agree),
    ];
    Some(Merged {
        headless: oldest.service_type == "Headless",
        ports,
        families,
        unsupported: false,
        session_affinity: affinity(oldest).to_owned(),
        affinity_timeout_seconds: timeout(oldest),
        internal_traffic_policy: traffic_policy(oldest).to_owned(),
        traffic_distribution: oldest.traffic_distribution.clone(),
        labels: oldest.labels.clone(),
        annotations: oldest.annotations.clone(),
        clusters: by_age.iter().map(|(cluster, _)| (*cluster).clone()).collect(),
        conflicts: checks.into_iter().filter(|(_, agree)| !agree).map(|(conflict, _)| conflict).collect(),
    })
}

impl Merged {
    /// Leaves the families that this cluster offers too (none: not known). Where nobody names families, those are all.
    pub(super) fn within(mut self, offered: &[String]) -> Self {
        if self.families.is_empty() {
            offered.clone_into(&mut self.families);
        } else if !offered.is_empty() {
            let common: Vec<_> =
                self.families.iter().filter(|family| offered.contains(family)).cloned().collect();
            self.unsupported = common.is_empty();
            if !self.unsupported {
                self.families = common;
            }
        }
        self
    }
}

/// The name that a port without one has beside others: a Service with several ports must name each.
pub(super) fn name_among_others(port: &ExportPort) -> String {
    if port.name.is_empty() {
        format!("port-{}-{}", protocol(port).to_ascii_lowercase(), port.port)
    } else {
        port.name.clone()
    }
}

/// The union of ports: no name (also none that is given here) and no (protocol, number) twice, the older one wins. Says also
/// whether all agree.
fn merge_ports(exports: &[&ServiceExport]) -> (Vec<ExportPort>, bool) {
    let mut merged: Vec<ExportPort> = Vec::new();
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for port in exports.iter().flat_map(|export| &export.ports) {
        let (own, given, number) = (port.name.clone(), name_among_others(port), (protocol(port), port.port));
        if !names.contains(&own) && !names.contains(&given) && !numbers.contains(&number) {
            names.extend([own, given]);
            numbers.insert(number);
            merged.push(ExportPort { protocol: protocol(port).to_owned(), ..port.clone() });
        }
    }
    let as_set = |ports: &[ExportPort]| -> BTreeSet<(String, String, i32, String)> {
        let entry = |port: &ExportPort| {
            (port.name.clone(), protocol(port).to_owned(), port.port, port.app_protocol.clone())
        };
        ports.iter().map(entry).collect()
    };
    let all = as_set(&merged);
    let agree = exports.iter().all(|export| as_set(&export.ports) == all);
    (merged, agree)
}

/// The families that every export has. An export that would leave none is passed over and makes a conflict; one that
/// names none (a writer before Cilium 1.19) does not count.
fn merge_families(exports: &[&ServiceExport]) -> (Vec<String>, bool) {
    let mut named = exports.iter().map(|export| &export.ip_families).filter(|families| !families.is_empty());
    let Some(mut families) = named.next().cloned() else { return (Vec::new(), true) };
    let mut agree = true;
    for other in named {
        let common: Vec<String> = families.iter().filter(|family| other.contains(family)).cloned().collect();
        if common.is_empty() {
            agree = false;
        } else {
            families = common;
        }
    }
    (families, agree)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the older and the newer export say, what is merged, and whether that is a conflict.
    type Case = (&'static [&'static str], &'static [&'static str], &'static [&'static str], bool);

    fn port(text: &str) -> ExportPort {
        let (name, rest) = text.split_once('/').unwrap();
        let (protocol, rest) = rest.split_once('/').unwrap();
        let (number, app) = rest.split_once('=').unwrap_or((rest, ""));
        ExportPort {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            port: number.parse().unwrap(),
            app_protocol: app.to_owned(),
        }
    }

    fn export(second: u32, ports: &[&str]) -> ServiceExport {
        ServiceExport {
            export_creation_timestamp: format!("2026-01-05T08:30:{second:02}Z"),
            service_type: "ClusterSetIP".to_owned(),
            ports: ports.iter().map(|text| port(text)).collect(),
            ..Default::default()
        }
    }

    fn merged(exports: &[(&str, ServiceExport)]) -> Merged {
        merge(&exports.iter().map(|(cluster, export)| (cluster.parse().unwrap(), export.clone())).collect())
            .unwrap()
    }

    #[test]
    fn kep1645_port_merge_table() {
        let cases: [Case; 11] = [
            (&["/TCP/80"], &["port-tcp-80/TCP/81"], &["/TCP/80"], true),
            (&["port-tcp-80/TCP/81"], &["/TCP/80"], &["port-tcp-80/TCP/81"], true),
            (&["http/TCP/80"], &["http/TCP/80"], &["http/TCP/80"], false),
            (&["http/TCP/80"], &["http//80"], &["http/TCP/80"], false),
            (&["http/TCP/80"], &["https/TCP/443"], &["http/TCP/80", "https/TCP/443"], true),
            (&["http/TCP/80"], &["http/TCP/8080"], &["http/TCP/80"], true),
            (&["http/TCP/80"], &["web/TCP/80"], &["http/TCP/80"], true),
            (&["/TCP/80"], &["http/TCP/80"], &["/TCP/80"], true),
            (&["/TCP/80"], &["/TCP/81"], &["/TCP/80"], true),
            (&["dns/UDP/53"], &["dns-tcp/TCP/53"], &["dns/UDP/53", "dns-tcp/TCP/53"], true),
            (&["http/TCP/80=h2c"], &["http/TCP/80"], &["http/TCP/80=h2c"], true),
        ];
        for (older, newer, expected, conflict) in cases {
            let outcome = merged(&[("b", export(1, older)), ("a", export(2, newer))]);
            assert_eq!(
                outcome.ports,
                expected.iter().map(|text| port(text)).collect::<Vec<_>>(),
                "{older:?} {newer:?}"
            );
            assert_eq!(outcome.conflicts.contains(&Conflict::Ports), conflict, "{older:?} {newer:?}");
        }
    }

    #[test]
    fn ports_in_another_order_do_not_conflict() {
        let outcome =
            merged(&[("a", export(1, &["x/TCP/1", "y/TCP/2"])), ("b", export(2, &["y/TCP/2", "x/TCP/1"]))]);
        assert!(outcome.conflicts.is_empty());
    }

    #[test]
    fn the_oldest_export_decides_and_the_cluster_name_breaks_ties() {
        let of = |second, kind: &str| ServiceExport { service_type: kind.to_owned(), ..export(second, &[]) };
        assert!(merged(&[("a", of(2, "ClusterSetIP")), ("b", of(1, "Headless"))]).headless);
        let tie = merged(&[("b", of(1, "Headless")), ("a", of(1, "ClusterSetIP"))]);
        assert!(!tie.headless);
        assert_eq!(tie.conflicts.into_iter().map(Conflict::reason).collect::<Vec<_>>(), ["TypeConflict"]);
    }

    #[test]
    fn families_are_those_that_reach_every_backend() {
        let of = |second, families: &[&str]| ServiceExport {
            ip_families: families.iter().map(|family| (*family).to_owned()).collect(),
            ..export(second, &[])
        };
        let cases: [Case; 4] = [
            (&["IPv6", "IPv4"], &["IPv4", "IPv6"], &["IPv6", "IPv4"], false),
            (&["IPv4", "IPv6"], &["IPv6"], &["IPv6"], false),
            (&["IPv4"], &["IPv6"], &["IPv4"], true),
            (&["IPv4"], &[], &["IPv4"], false),
        ];
        for (older, newer, expected, conflict) in cases {
            let outcome = merged(&[("a", of(1, older)), ("b", of(2, newer))]);
            assert_eq!(outcome.families, expected, "{older:?} {newer:?}");
            assert_eq!(outcome.conflicts.contains(&Conflict::IpFamily), conflict, "{older:?} {newer:?}");
        }
    }

    #[test]
    fn families_are_narrowed_to_those_of_this_cluster_in_the_order_of_the_export() {
        let cases: [Case; 6] = [
            (&["IPv6", "IPv4"], &["IPv4", "IPv6"], &["IPv6", "IPv4"], false),
            (&["IPv6", "IPv4"], &["IPv4"], &["IPv4"], false),
            (&["IPv6"], &["IPv4"], &["IPv6"], true),
            (&["IPv6"], &[], &["IPv6"], false),
            (&[], &["IPv4"], &["IPv4"], false),
            (&[], &[], &[], false),
        ];
        let texts =
            |families: &[&str]| families.iter().map(|family| (*family).to_owned()).collect::<Vec<_>>();
        for (exported, offered, expected, unsupported) in cases {
            let export = ServiceExport { ip_families: texts(exported), ..export(1, &[]) };
            let outcome = merged(&[("a", export)]).within(&texts(offered));
            assert_eq!(
                (outcome.families, outcome.unsupported),
                (texts(expected), unsupported),
                "{exported:?} {offered:?}"
            );
        }
    }

    #[test]
    fn unset_words_equal_their_defaults() {
        let spelled = ServiceExport {
            session_affinity: "None".to_owned(),
            internal_traffic_policy: "Cluster".to_owned(),
            ..export(2, &[])
        };
        assert!(merged(&[("a", export(1, &[])), ("b", spelled)]).conflicts.is_empty());
        assert_eq!(merge(&BTreeMap::new()), None);
    }
}
