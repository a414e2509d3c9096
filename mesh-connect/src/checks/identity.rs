//! Names, ids, and who is in the mesh.

use super::pairs;
use crate::code::Code;
use crate::{Finding, Member};
use mesh_types::{ClusterId, ClusterName, MaxClusters};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(members: &[Member], findings: &mut Vec<Finding>) {
    for member in members {
        findings.extend(name(member));
        findings.extend(id(member));
    }
    for (one, other) in pairs(members) {
        if one.settings.id() == other.settings.id() && one.settings.id() != "0" {
            findings.push(
                Finding::error(Code::IdDuplicate, &[one.name(), other.name()])
                    .expected("an id of its own for each cluster")
                    .found(format!("both {} and {} have id {}", one.name(), other.name(), one.settings.id()))
                    .advice("change cluster-id (Helm: cluster.id) of one of them and restart its agents: identities are made from it"),
            );
        }
        if one.name() == other.name() {
            findings.push(
                Finding::error(Code::NameDuplicate, &[&one.context, &other.context])
                    .expected("a name of its own for each cluster")
                    .found(format!("the contexts {} and {} both are cluster {}", one.context, other.context, one.name()))
                    .advice("if they are one cluster, name one context only; else change cluster-name (Helm: cluster.name) of one"),
            );
        }
        if one.settings.max_clusters() != other.settings.max_clusters() {
            findings.push(
                Finding::error(Code::MaxClustersDiffer, &[one.name(), other.name()])
                    .expected("the same max-connected-clusters in all clusters")
                    .found(format!(
                        "{} counts for {}, {} for {}",
                        one.name(),
                        one.settings.max_clusters(),
                        other.name(),
                        other.settings.max_clusters()
                    ))
                    .advice("set both to the same (Helm: clustermesh.maxConnectedClusters); it cannot be changed while a cluster runs"),
            );
        }
    }
    whole(members, findings);
}

fn name(member: &Member) -> Option<Finding> {
    let name = member.name();
    let found = match name.parse::<ClusterName>() {
        Err(rejection) => rejection.detail,
        Ok(_) if name == "default" => {
            "the cluster has no name of its own, it is called \"default\"".to_owned()
        }
        Ok(_) => return None,
    };
    Some(
        Finding::error(Code::NameInvalid, &[&member.context])
            .expected("a name of 1 to 32 characters of a-z, 0-9 and '-', other than \"default\"")
            .found(found)
            .advice(format!("set cluster-name in {} (Helm: cluster.name)", member.settings.source)),
    )
}

fn id(member: &Member) -> Option<Finding> {
    let finding = |expected: String, found: String| {
        Finding::error(Code::IdInvalid, &[member.name()])
            .expected(expected)
            .found(found)
            .advice(format!("set cluster-id in {} (Helm: cluster.id)", member.settings.source))
    };
    let max = match member.settings.max_clusters().parse::<MaxClusters>() {
        Ok(max) => max,
        Err(rejection) => {
            return Some(finding("max-connected-clusters 255 or 511".to_owned(), rejection.detail));
        }
    };
    let expected = format!("a cluster id of 1 to {}", max.get());
    let Ok(id) = member.settings.id().parse::<u32>() else {
        return Some(finding(expected, format!("cluster id is {:?}", member.settings.id())));
    };
    ClusterId::new(id, max).err().map(|rejection| finding(expected, rejection.detail))
}

/// What only the whole mesh tells.
fn whole(members: &[Member], findings: &mut Vec<Finding>) {
    let names: BTreeSet<&str> = members.iter().map(Member::name).collect();
    // Those who know each cluster that is not among the members.
    let mut absent: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
    for member in members {
        for peer in member.peers().into_iter().filter(|peer| !names.contains(peer)) {
            absent.entry(peer).or_default().push(member);
        }
    }
    let size = names.len() + absent.len();
    let smallest =
        members.iter().filter_map(|member| member.settings.max_clusters().parse::<MaxClusters>().ok());
    if let Some(max) = smallest.map(MaxClusters::get).min()
        && size > max as usize
    {
        findings.push(
            Finding::error(Code::TooManyClusters, &names.iter().copied().collect::<Vec<_>>())
                .expected(format!("at most {max} clusters (max-connected-clusters)"))
                .found(format!("{size}"))
                .advice(
                    "disconnect clusters that are gone; 511 needs Cilium 1.15 and all clusters made anew",
                ),
        );
    }
    for (peer, knowing) in absent {
        let clusters: Vec<_> = knowing.iter().map(|member| member.name()).collect();
        findings.push(
            Finding::warning(Code::MemberNotLookedAt, &clusters)
                .expected("every cluster of the mesh among the contexts")
                .found(format!("{} is connected to {peer}, which is none of them", clusters.join(", ")))
                .advice(format!("add its --context, or `isthmus disconnect {peer}` if it is gone")),
        );
        let entries: BTreeSet<_> =
            knowing.iter().filter_map(|member| endpoints(member.entry(peer)?)).collect();
        if entries.len() > 1 {
            findings.push(
                Finding::warning(Code::PeerDiffers, &clusters)
                    .expected(format!("one way to {peer} in all clusters"))
                    .found(entries.iter().map(|each| each.join(", ")).collect::<Vec<_>>().join("; "))
                    .advice(format!(
                        "see which of them is {peer}; add its --context to have all of them written anew"
                    )),
            );
        }
    }
}

/// The endpoints of an etcd client configuration.
fn endpoints(entry: &[u8]) -> Option<Vec<String>> {
    let entry: serde_json::Value = serde_yaml_ng::from_slice(entry).ok()?;
    let endpoints = entry.get("endpoints")?.as_array()?.iter();
    Some(endpoints.filter_map(|endpoint| endpoint.as_str().map(str::to_owned)).collect())
}
