//! One service: what this cluster and the others say of it, merged.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_types::annotation::Affinity;
use mesh_types::{ClusterEndpointSlice, ClusterName, ClusterService, Reason};

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

/// What one other cluster says of a service, in both formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remote {
    /// The older format: one record with all backends that can take something.
    pub(crate) record: Option<RemoteRecord>,
    /// The newer one: slices by name, with the conditions of each backend.
    pub(crate) slices: BTreeMap<Arc<str>, RemoteRecord>,
}

/// What one record or one slice of another cluster says of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemoteRecord {
    pub(crate) backends: Vec<Backend>,
    pub(crate) reasons: BTreeSet<Reason>,
}

impl Remote {
    pub(crate) fn is_empty(&self) -> bool {
        self.record.is_none() && self.slices.is_empty()
    }

    /// Each backend once: as the slices have it if one does, else as the record has it. A backend that one format has
    /// not told of yet, or no more, is still there as long as the other one has it.
    pub(crate) fn backends(&self) -> Cow<'_, [Backend]> {
        match &self.record {
            Some(record) if self.slices.is_empty() => Cow::Borrowed(&record.backends),
            record => {
                let mut sliced = join(self.slices.values().flat_map(|slice| &slice.backends));
                for backend in record.iter().flat_map(|record| &record.backends) {
                    sliced.entry(backend.socket()).or_insert_with(|| backend.clone());
                }
                Cow::Owned(in_slots(sliced))
            }
        }
    }

    pub(crate) fn reasons(&self) -> BTreeSet<Reason> {
        let all = self.record.iter().chain(self.slices.values());
        all.flat_map(|record| &record.reasons).copied().collect()
    }
}

impl RemoteRecord {
    /// Reads a record. Ports without number or of unknown protocol are left out; several names of one port are one
    /// backend with all of them.
    pub(crate) fn read(record: &ClusterService) -> Self {
        if !record.shared {
            return RemoteRecord { reasons: [Reason::ServiceNotShared].into(), ..RemoteRecord::default() };
        }
        let (mut read, mut names) = (RemoteRecord::default(), Names::default());
        for (address, ports) in &record.backends {
            let ports = ports.iter().map(|(name, port)| (&**name, &*port.protocol, i32::from(port.port)));
            let sockets = read.sockets(ports, &mut names);
            read.add(address, &sockets, BackendState::Active);
        }
        read.finish()
    }

    /// Reads a slice, by the same rules.
    pub(crate) fn read_slice(slice: &ClusterEndpointSlice) -> Self {
        let (mut read, mut names) = (RemoteRecord::default(), Names::default());
        let ports = slice.ports.iter().map(|port| {
            (
                port.name.as_deref().unwrap_or(""),
                port.protocol.as_deref().unwrap_or(""),
                port.port.unwrap_or(0),
            )
        });
        let sockets = read.sockets(ports, &mut names);
        for endpoint in &slice.endpoints {
            let conditions = &endpoint.conditions;
            let state =
                BackendState::of_conditions(conditions.ready, conditions.serving, conditions.terminating);
            for address in &endpoint.addresses {
                read.add(address, &sockets, state);
            }
        }
        read.finish()
    }

    /// The usable ones among ports with name, protocol and number.
    fn sockets<'a>(
        &mut self,
        ports: impl Iterator<Item = (&'a str, &'a str, i32)>,
        names: &mut Names,
    ) -> Vec<(u16, Protocol, PortNames)> {
        let mut sockets: BTreeMap<(u16, Protocol), Vec<&str>> = BTreeMap::new();
        for (name, protocol, number) in ports {
            match (Protocol::read(protocol), u16::try_from(number)) {
                (Some(protocol), Ok(number)) if number != 0 => {
                    sockets.entry((number, protocol)).or_default().push(name);
                }
                _unusable => {
                    self.reasons.insert(Reason::PortUnusable);
                }
            }
        }
        let shared = |((port, protocol), port_names)| (port, protocol, names.shared(port_names));
        sockets.into_iter().map(shared).collect()
    }

    fn add(&mut self, address: &str, sockets: &[(u16, Protocol, PortNames)], state: BackendState) {
        let Ok(address) = address.parse::<IpAddr>() else {
            self.reasons.insert(Reason::AddressInvalid);
            return;
        };
        self.backends.extend(sockets.iter().map(|(port, protocol, port_names)| Backend {
            address: address.to_canonical(),
            port: *port,
            protocol: *protocol,
            port_names: Arc::clone(port_names),
            state,
            unhealthy: false,
            node: None,
        }));
    }

    fn finish(mut self) -> Self {
        self.backends.sort_by_key(Backend::slot_order);
        let mut seen = BTreeSet::new();
        self.backends.retain(|backend| seen.insert(backend.socket()));
        self
    }
}

/// One backend per address and port, with the names of all that have it, in the best state that one of them gives it.
fn join<'a>(all: impl Iterator<Item = &'a Backend>) -> BTreeMap<Socket, Backend> {
    let mut by_socket: BTreeMap<Socket, Backend> = BTreeMap::new();
    let mut names = Names::default();
    for backend in all {
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
    by_socket
}

fn in_slots(by_socket: BTreeMap<Socket, Backend>) -> Vec<Backend> {
    let mut backends: Vec<_> = by_socket.into_values().collect();
    backends.sort_by_key(Backend::slot_order);
    backends
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
    pub(crate) remote: BTreeMap<ClusterName, Remote>,
}

impl Inputs {
    pub(crate) fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.remote.is_empty()
    }

    /// Whether there is anything to show: slices alone are no service.
    pub(crate) fn is_service(&self) -> bool {
        self.service.is_some() || !self.remote.is_empty()
    }

    /// The backends of this cluster.
    fn local_backends(&self) -> Vec<Backend> {
        in_slots(join(self.slices.values().flat_map(|slice| &slice.backends)))
    }

    /// Merges. `node` is the local node, for traffic policy Local.
    pub(crate) fn merge(&self, name: &ServiceName, node: &str) -> MergedService {
        let mut backends: Vec<(Origin, Backend)> =
            self.local_backends().into_iter().map(|backend| (Origin::Local, backend)).collect();
        let mut shares = Vec::new();
        for (cluster, remote) in &self.remote {
            let theirs = remote.backends();
            let share = Share { cluster: cluster.clone(), backends: theirs.len(), reasons: remote.reasons() };
            shares.push(share);
            let origin = Origin::Remote(cluster.clone());
            backends.extend(theirs.iter().map(|backend| (origin.clone(), backend.clone())));
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
            shares,
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
