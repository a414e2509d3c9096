//! One service: what this cluster and the others say of it, merged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_types::annotation::Affinity;
use mesh_types::{ClusterName, ClusterService, Reason};

use super::backend::Socket;
use super::select::{Candidate, Frontline, select};
use super::{Backend, BackendState, PortNames, Protocol, ServiceName, Verdict};

/// A Service of this cluster, as far as load balancing goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalService {
    /// Joined with the services of its name in other clusters.
    pub global: bool,
    /// Why its backends are not exported; `None` if they are.
    pub not_shared: Option<Reason>,
    /// Which clusters' backends it prefers.
    pub affinity: Affinity,
    /// [`Reason::AffinityUnknown`] if the annotation says something else.
    pub affinity_reason: Option<Reason>,
    /// Addresses; empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`.
    pub only_local_node: bool,
    /// `sessionAffinity: ClientIP` and how long it lasts.
    pub client_ip_affinity: Option<Duration>,
    /// Why it has no frontends: headless, external name, or served by another proxy.
    pub no_frontends: Option<Reason>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, `""` for none.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the frontend.
    pub port: u16,
}

/// An EndpointSlice of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSlice {
    /// The service that it belongs to.
    pub service: ServiceName,
    /// Its endpoints times its ports.
    pub backends: Vec<Backend>,
    /// What could not be used.
    pub reasons: BTreeSet<Reason>,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In this cluster.
    Local,
    /// In another one.
    Remote(ClusterName),
}

/// A service with all backends that are known of it, and what each frontend does with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedService {
    /// Its name.
    pub name: ServiceName,
    /// The local Service; `None` while only other clusters have it, and it waits.
    pub local: Option<LocalService>,
    /// What is notable of the whole service.
    pub reasons: BTreeSet<Reason>,
    /// The other clusters that have it, by name.
    pub shares: Vec<Share>,
    /// All backends, local ones first, then in the order of slots.
    pub backends: Vec<(Origin, Backend)>,
    /// One per address and port.
    pub frontends: Vec<Frontend>,
}

/// What one other cluster contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The cluster.
    pub cluster: ClusterName,
    /// How many backends.
    pub backends: usize,
    /// Why some or all are left out.
    pub reasons: BTreeSet<Reason>,
}

/// An address and port that clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: ServicePort,
    /// For each of the service's backends, in their order.
    pub verdicts: Vec<Verdict>,
}

impl MergedService {
    /// The backends that new connections to `frontend` go to.
    pub fn selected<'a>(&'a self, frontend: &'a Frontend) -> impl Iterator<Item = &'a (Origin, Backend)> {
        let pairs = self.backends.iter().zip(&frontend.verdicts);
        pairs.filter(|(_, verdict)| verdict.is_selected()).map(|(backend, _)| backend)
    }

    /// Whether the local Service exists and is global.
    pub fn is_global(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.global)
    }
}

/// What one other cluster says of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemoteRecord {
    pub(crate) backends: Vec<Backend>,
    pub(crate) reasons: BTreeSet<Reason>,
}

impl RemoteRecord {
    /// Reads a record. Ports without number or of unknown protocol are left out; several names of one port are one
    /// backend with all of them.
    pub(crate) fn read(record: &ClusterService) -> Self {
        if !record.shared {
            return RemoteRecord { reasons: [Reason::ServiceNotShared].into(), ..RemoteRecord::default() };
        }
        let mut reasons = BTreeSet::new();
        let mut names = Names::default();
        let mut backends = Vec::new();
        for (address, ports) in &record.backends {
            let Ok(address) = address.parse::<IpAddr>() else {
                reasons.insert(Reason::AddressInvalid);
                continue;
            };
            let mut sockets: BTreeMap<(u16, Protocol), Vec<&str>> = BTreeMap::new();
            for (name, port) in ports {
                match Protocol::read(&port.protocol) {
                    Some(protocol) if port.port != 0 => {
                        sockets.entry((port.port, protocol)).or_default().push(name);
                    }
                    Some(_) | None => {
                        reasons.insert(Reason::PortUnusable);
                    }
                }
            }
            backends.extend(sockets.into_iter().map(|((port, protocol), port_names)| Backend {
                address: address.to_canonical(),
                port,
                protocol,
                port_names: names.shared(port_names),
                state: BackendState::Active,
                unhealthy: false,
                node: None,
            }));
        }
        backends.sort_by_key(Backend::slot_order);
        backends.dedup_by_key(|backend| backend.socket());
        RemoteRecord { backends, reasons }
    }
}

/// Sets of port names, each kept once: the backends of a service have mostly the same.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<Vec<Box<str>>, PortNames>);

impl Names {
    pub(crate) fn shared(&mut self, mut names: Vec<&str>) -> PortNames {
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        let key: Vec<Box<str>> = names.iter().map(|name| (*name).into()).collect();
        let make = || names.iter().map(|name| Arc::from(*name)).collect();
        Arc::clone(self.0.entry(key).or_insert_with(make))
    }
}

/// All that is known of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    pub(crate) service: Option<LocalService>,
    /// By slice name.
    pub(crate) slices: BTreeMap<Arc<str>, LocalSlice>,
    pub(crate) remote: BTreeMap<ClusterName, RemoteRecord>,
}

impl Inputs {
    pub(crate) fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.remote.is_empty()
    }

    /// Whether there is anything to show: slices alone are no service.
    pub(crate) fn is_service(&self) -> bool {
        self.service.is_some() || !self.remote.is_empty()
    }

    /// The backends of this cluster: one per address and port, with the names of all slices that have it, in the best
    /// state that one of them gives it.
    fn local_backends(&self) -> Vec<Backend> {
        let mut by_socket: BTreeMap<Socket, Backend> = BTreeMap::new();
        let mut names = Names::default();
        for backend in self.slices.values().flat_map(|slice| &slice.backends) {
            let Some(known) = by_socket.get_mut(&backend.socket()) else {
                by_socket.insert(backend.socket(), backend.clone());
                continue;
            };
            known.state = known.state.min(backend.state);
            known.unhealthy &= backend.unhealthy;
            if known.port_names != backend.port_names {
                let all = known.port_names.iter().chain(&*backend.port_names);
                known.port_names = names.shared(all.map(|name| &**name).collect());
            }
        }
        let mut backends: Vec<_> = by_socket.into_values().collect();
        backends.sort_by_key(Backend::slot_order);
        backends
    }

    /// Merges. `node` is the local node, for traffic policy Local.
    pub(crate) fn merge(&self, name: &ServiceName, node: &str) -> MergedService {
        let mut backends: Vec<(Origin, Backend)> =
            self.local_backends().into_iter().map(|backend| (Origin::Local, backend)).collect();
        for (cluster, record) in &self.remote {
            let origin = Origin::Remote(cluster.clone());
            backends.extend(record.backends.iter().map(|backend| (origin.clone(), backend.clone())));
        }
        // Local ones first, so that they shadow; clusters by name, so that the same one always wins.
        let shadowed = shadows(&backends);
        let mut order: Vec<usize> = (0..backends.len()).collect();
        order.sort_by_key(|&at| (backends[at].0 != Origin::Local, backends[at].1.slot_order(), at));
        let backends: Vec<_> = order.iter().map(|&at| backends[at].clone()).collect();
        let shadowed: Vec<_> = order.iter().map(|&at| shadowed[at]).collect();
        let frontends = self.frontends(&backends, &shadowed, node);
        MergedService {
            name: name.clone(),
            local: self.service.clone(),
            reasons: self.reasons(),
            shares: self.shares(),
            backends,
            frontends,
        }
    }

    fn frontends(
        &self,
        backends: &[(Origin, Backend)],
        shadowed: &[Option<Reason>],
        node: &str,
    ) -> Vec<Frontend> {
        let Some(local) = self.service.as_ref().filter(|local| local.no_frontends.is_none()) else {
            return Vec::new();
        };
        let candidates: Vec<_> = backends
            .iter()
            .zip(shadowed)
            .map(|((origin, backend), shadowed)| Candidate {
                backend,
                local: *origin == Origin::Local,
                shadowed: *shadowed,
            })
            .collect();
        let mut frontends = Vec::new();
        for &address in &local.cluster_ips {
            for port in &local.ports {
                let frontline = Frontline {
                    address,
                    protocol: port.protocol,
                    port_name: &port.name,
                    global: local.global,
                    affinity: local.affinity,
                    only_on: local.only_local_node.then_some(node),
                };
                let verdicts = select(frontline, &candidates);
                frontends.push(Frontend { address, port: port.clone(), verdicts });
            }
        }
        frontends
    }

    fn reasons(&self) -> BTreeSet<Reason> {
        let mut reasons: BTreeSet<Reason> =
            self.slices.values().flat_map(|slice| &slice.reasons).copied().collect();
        match &self.service {
            None => {
                reasons.insert(Reason::ServiceNotLocal);
            }
            Some(local) => {
                reasons.extend(local.not_shared);
                reasons.extend(local.affinity_reason);
                reasons.extend(local.no_frontends);
            }
        }
        reasons
    }

    fn shares(&self) -> Vec<Share> {
        let share = |(cluster, record): (&ClusterName, &RemoteRecord)| Share {
            cluster: cluster.clone(),
            backends: record.backends.len(),
            reasons: record.reasons.clone(),
        };
        self.remote.iter().map(share).collect()
    }
}

/// For each backend, whether an earlier one of the same address and port takes its place.
fn shadows(backends: &[(Origin, Backend)]) -> Vec<Option<Reason>> {
    let mut first: BTreeMap<Socket, &Origin> = BTreeMap::new();
    let mut verdicts = Vec::with_capacity(backends.len());
    for (origin, backend) in backends {
        let winner = first.entry(backend.socket()).or_insert(origin);
        verdicts.push(match winner {
            winner if std::ptr::eq(*winner, origin) => None,
            Origin::Local => Some(Reason::ShadowedByLocal),
            Origin::Remote(_) => Some(Reason::ShadowedByRemote),
        });
    }
    verdicts
}
