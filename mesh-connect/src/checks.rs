//! The checks, over the whole mesh.

use crate::code::Code;
use crate::{Failure, Finding, Member, Severity, Trouble};
use jiff::Timestamp;

mod certificates;
mod identity;
mod network;
mod store;
mod time;

pub use time::MAX_CLOCK_SKEW;

/// Whether any of them is in the way of writing.
pub fn has_error(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// Whether so much is known of the members that a check could be made: what was not asked is not well.
pub fn is_asked(code: Code, members: &[Member]) -> bool {
    let known = |is_known: fn(&Member) -> bool| members.iter().filter(|member| is_known(member)).count();
    // How many must be known for each, and how many are.
    let (needed, known) = match code {
        Code::StoreUnreachable | Code::StoreRefused | Code::StoreOfAnother => {
            (members.len().max(1), known(|member| member.probe.is_some()))
        }
        Code::ClockSkew => (2, known(|member| member.clock.is_some())),
        Code::VersionSkew => (2, known(|member| member.version.is_some())),
        Code::DatapathDiffers => (2, known(|member| member.settings.datapath().is_some())),
        Code::FamiliesDiffer => (2, known(|member| member.settings.families().is_some())),
        Code::EncryptionDiffers => (2, known(|member| member.settings.encryption().is_some())),
        Code::ApiUnreachable
        | Code::Unauthorised
        | Code::PermissionMissing
        | Code::NoClusterConfig
        | Code::NameInvalid
        | Code::IdInvalid
        | Code::MemberNotLookedAt
        | Code::TooManyClusters
        | Code::CertificateMissing
        | Code::CertificateExpired
        | Code::CertificateNotYetValid
        | Code::CertificateEndsSoon
        | Code::ChainBroken
        | Code::ServerNameMissing
        | Code::ClientNameUnexpected
        | Code::StoreWithoutAddress
        | Code::StoreInsideOnly
        | Code::UsersUnreadable => (1, members.len()),
        Code::IdDuplicate
        | Code::NameDuplicate
        | Code::MaxClustersDiffer
        | Code::PeerDiffers
        | Code::PodCidrOverlap
        | Code::ServiceCidrOverlap
        | Code::NodeAddressOverlap
        | Code::CaDiffers
        | Code::NotConnected => (2, members.len()),
    };
    known >= needed
}

/// All that is not as it should be at `now`, by code, then by cluster.
pub fn checks(members: &[Member], failures: &[Failure], now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = failures.iter().map(access).collect();
    identity::check(members, &mut findings);
    network::check(members, &mut findings);
    certificates::check(members, now, &mut findings);
    store::check(members, &mut findings);
    time::check(members, &mut findings);
    // Stable: findings of one code stay in the order of the clusters.
    findings.sort_by_key(|finding| finding.code);
    findings
}

/// Each two of them.
fn pairs(members: &[Member]) -> impl Iterator<Item = (&Member, &Member)> {
    members
        .iter()
        .enumerate()
        .flat_map(|(index, one)| members[index + 1..].iter().map(move |other| (one, other)))
}

fn access(failure: &Failure) -> Finding {
    let context = failure.context.as_str();
    match &failure.trouble {
        Trouble::Unreachable(why) => Finding::error(Code::ApiUnreachable, &[context])
            .expected("an answer of the API server")
            .found(why)
            .advice(format!("try `kubectl --context {context} version`; leave the context out if the cluster is gone")),
        Trouble::Unauthorised(why) => Finding::error(Code::Unauthorised, &[context])
            .expected("credentials that the API server accepts")
            .found(why)
            .advice(format!("renew the credentials of the context; `kubectl --context {context} auth whoami` says who you are")),
        Trouble::Forbidden { verb, resource, namespace, user } => {
            let place = match namespace.as_str() {
                "" => "in the whole cluster".to_owned(),
                namespace => format!("in namespace {namespace}"),
            };
            let who = if user.is_empty() { "the user" } else { user };
            let namespaced = if namespace.is_empty() { String::new() } else { format!(" -n {namespace}") };
            Finding::error(Code::PermissionMissing, &[context])
                .expected(format!("permission to {verb} {resource} {place}"))
                .found(format!("{who} may not"))
                .advice(format!(
                    "grant it by a Role or ClusterRole; `kubectl --context {context} auth can-i {verb} {resource}{namespaced}` asks again"
                ))
        }
        Trouble::NoConfig { namespace } => Finding::error(Code::NoClusterConfig, &[context])
            .expected(format!("a ConfigMap cilium-config or isthmus-config in namespace {namespace}, with cluster-name and cluster-id"))
            .found("neither")
            .advice("install Cilium or Isthmus there first; -n names another namespace"),
    }
}

#[cfg(test)]
mod tests;
