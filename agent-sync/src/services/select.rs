//! Which backends a frontend uses, and why not the others.
//!
//! Two steps: filters that look at each backend alone (protocol, family, traffic policy, port name), then the choice
//! between the clusters. Source: Cilium docs, *Global Services* and *Service Affinity*.

use std::net::IpAddr;

use mesh_types::Reason;
use mesh_types::annotation::Affinity;

use super::{Backend, BackendState, Protocol};

/// What a frontend does with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New connections go to it.
    Selected,
    /// Existing connections stay, new ones go to the selected ones. Why:
    Kept(Reason),
    /// It is not used. Why:
    Filtered(Reason),
}

impl Verdict {
    /// Whether new connections go to it.
    pub fn is_selected(self) -> bool {
        self == Verdict::Selected
    }

    /// Why it is not selected.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Verdict::Selected => None,
            Verdict::Kept(reason) | Verdict::Filtered(reason) => Some(reason),
        }
    }
}

/// What the choice depends on besides the backends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frontline<'a> {
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port_name: &'a str,
    pub(crate) global: bool,
    pub(crate) affinity: Affinity,
    /// Set for traffic policy Local: the node that backends must be on.
    pub(crate) only_on: Option<&'a str>,
}

/// A backend as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) backend: &'a Backend,
    /// Of this cluster.
    pub(crate) local: bool,
    /// Another backend of the same address and port takes its place.
    pub(crate) shadowed: Option<Reason>,
}

/// The verdict on each candidate, in their order.
pub(crate) fn select(frontend: Frontline<'_>, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
    let mut verdicts: Vec<_> = candidates.iter().map(|candidate| filter(frontend, *candidate)).collect();
    choose_clusters(frontend, candidates, &mut verdicts);
    rank(candidates, &mut verdicts);
    verdicts
}

fn filter(frontend: Frontline<'_>, candidate: Candidate<'_>) -> Verdict {
    let Candidate { backend, local, shadowed } = candidate;
    let named_otherwise = || {
        let names = &backend.port_names;
        let named = !frontend.port_name.is_empty() && !names.is_empty();
        named && !names.iter().any(|name| **name == *frontend.port_name)
    };
    // A remote backend names no node, and passes, as in Cilium.
    let elsewhere = || match (frontend.only_on, &backend.node) {
        (Some(here), Some(node)) => **node != *here,
        (None, _) | (_, None) => false,
    };
    if let Some(reason) = shadowed {
        Verdict::Filtered(reason)
    } else if backend.protocol != frontend.protocol {
        Verdict::Filtered(Reason::ProtocolMismatch)
    } else if backend.address.is_ipv4() != frontend.address.is_ipv4() {
        Verdict::Filtered(Reason::FamilyMismatch)
    } else if elsewhere() {
        Verdict::Filtered(Reason::TrafficPolicyLocal)
    } else if named_otherwise() {
        Verdict::Filtered(Reason::PortNameMismatch)
    } else if !local && !frontend.global {
        Verdict::Filtered(Reason::ServiceNotGlobal)
    } else {
        Verdict::Selected
    }
}

/// The affinity: one side goes if the other can serve.
fn choose_clusters(frontend: Frontline<'_>, candidates: &[Candidate<'_>], verdicts: &mut [Verdict]) {
    let healthy = |backend: &Backend| {
        !backend.unhealthy && matches!(backend.state, BackendState::Active | BackendState::Terminating)
    };
    let any = |local: bool, good: &dyn Fn(&Backend) -> bool| {
        let mut left = candidates.iter().zip(&*verdicts).filter(|(_, verdict)| verdict.is_selected());
        left.any(|(candidate, _)| candidate.local == local && good(candidate.backend))
    };
    let local_active = any(true, &|backend| healthy(backend) && backend.state == BackendState::Active);
    let (local_healthy, remote_healthy) = (any(true, &healthy), any(false, &healthy));
    let dropped = match frontend.affinity {
        Affinity::Local if local_active || !remote_healthy => Some((false, Reason::AffinityLocal)),
        Affinity::Remote if remote_healthy || !local_healthy => Some((true, Reason::AffinityRemote)),
        Affinity::None | Affinity::Local | Affinity::Remote => None,
    };
    // Affinity means something for global services only.
    let Some((side, reason)) = dropped.filter(|_| frontend.global) else { return };
    for (candidate, verdict) in candidates.iter().zip(verdicts) {
        if candidate.local == side && verdict.is_selected() {
            *verdict = Verdict::Filtered(reason);
        }
    }
}

/// Of what is left, the healthy active ones take new connections; if there is none, the healthy terminating ones.
fn rank(candidates: &[Candidate<'_>], verdicts: &mut [Verdict]) {
    let takes =
        |candidate: &Candidate<'_>, state| !candidate.backend.unhealthy && candidate.backend.state == state;
    let any_active = candidates
        .iter()
        .zip(&*verdicts)
        .any(|(candidate, verdict)| verdict.is_selected() && takes(candidate, BackendState::Active));
    let taking = if any_active { BackendState::Active } else { BackendState::Terminating };
    for (candidate, verdict) in candidates.iter().zip(verdicts) {
        if !verdict.is_selected() || takes(candidate, taking) {
            continue;
        }
        *verdict = match candidate.backend.state {
            BackendState::Maintenance => Verdict::Filtered(Reason::BackendNotReady),
            BackendState::Terminating | BackendState::TerminatingNotServing => {
                Verdict::Kept(Reason::BackendDraining)
            }
            BackendState::Active => Verdict::Kept(Reason::BackendUnhealthy),
        };
    }
}
