//! The stores and the way to them, and what is written already.

use crate::code::Code;
use crate::plan::users;
use crate::{Finding, Member, ProbeResult, StoreServiceKind};

pub(super) fn check(members: &[Member], findings: &mut Vec<Finding>) {
    for member in members {
        findings.extend(address(member));
        findings.extend(probe(member));
        findings.extend(unreadable(member));
    }
}

fn address(member: &Member) -> Option<Finding> {
    let name = member.name();
    let without = |found: &str| {
        Finding::error(Code::StoreWithoutAddress, &[name])
            .expected("an address at which the other clusters reach the store")
            .found(found)
            .advice(format!(
                "publish the Service {}/clustermesh-apiserver by a load balancer or node port, or give --address {name}=HOST:PORT",
                member.namespace
            ))
    };
    match &member.store {
        None => Some(without("there is no Service clustermesh-apiserver")),
        Some(store) if store.addresses.is_empty() => Some(without(match store.kind {
            StoreServiceKind::LoadBalancer => "the load balancer of the Service clustermesh-apiserver has no address yet",
            StoreServiceKind::NodePort => "the Service clustermesh-apiserver has no node port, or no node has an address",
            StoreServiceKind::ClusterIp | StoreServiceKind::Given => "the Service clustermesh-apiserver has no address",
        })),
        Some(store) if store.kind == StoreServiceKind::ClusterIp => Some(
            Finding::warning(Code::StoreInsideOnly, &[name])
                .expected("an address that other clusters can route to")
                .found(format!("{}, which is a ClusterIP", store.addresses[0]))
                .advice("fine if service addresses are routed between the clusters; else make the Service a LoadBalancer or NodePort"),
        ),
        Some(_) => None,
    }
}

fn probe(member: &Member) -> Option<Finding> {
    let probe = member.probe.as_ref()?;
    let name = member.name();
    let finding = match probe.result {
        ProbeResult::Well => return None,
        // The way from here is not that from the other clusters.
        ProbeResult::Unreachable => Finding::warning(Code::StoreUnreachable, &[name])
            .expected("an answer of the store, from where this command runs")
            .advice("look at firewalls and load balancers; fine if only the clusters themselves can reach it"),
        ProbeResult::Refused => Finding::error(Code::StoreRefused, &[name])
            .expected("a TLS handshake with the certificates of clustermesh-apiserver-remote-cert")
            .advice("see that the store serves the certificate of clustermesh-apiserver-server-cert, and that it was restarted after a change"),
        ProbeResult::Another => Finding::error(Code::StoreOfAnother, &[name])
            .expected(format!("the store of {name} at its address"))
            .advice("see where the address leads, and that the store's exporter runs with the cluster's name and id"),
    };
    Some(finding.found(&probe.detail))
}

fn unreadable(member: &Member) -> Option<Finding> {
    let object = member.objects.users.as_ref()?;
    let why = users::Users::of(object).err()?;
    Some(
        Finding::error(Code::UsersUnreadable, &[member.name()])
            .expected("users.yaml of the ConfigMap clustermesh-remote-users as a list of names with roles")
            .found(why)
            .advice("mend it, or delete the ConfigMap to have it written anew"),
    )
}
