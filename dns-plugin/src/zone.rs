//! What each name of the zone answers; pure.
//!
//! A [`Zone`] is a snapshot: readers hold one while they answer, and the next one shares what did not change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::name::{Shape, ZoneName};
use crate::service::{Addresses, Service, Targets};

/// Version of the multi-cluster DNS schema, as CoreDNS gives it; the KEP's text says 1.0.0.
const SCHEMA_VERSION: &str = "1.1.0";
/// The version changes with a release at most; the TTL is the example of the KEP.
const SCHEMA_TTL: u32 = 28_800;
/// SOA timers as CoreDNS has them. Nobody transfers the zone, so only their plausibility counts.
const REFRESH: i32 = 7200;
const RETRY: i32 = 1800;
const EXPIRE: i32 = 86_400;
/// The SOA may not be kept longer than this, whatever the TTL of the records.
const MAX_SOA_TTL: u32 = 300;

/// What does not depend on the services.
#[derive(Clone, Debug)]
pub struct ZoneSettings {
    /// The domain.
    pub zone: ZoneName,
    /// Seconds that a resolver may keep an answer, positive or negative.
    pub ttl_seconds: u32,
    /// Addresses of `ns.dns.<zone>`, the name server in the zone's NS record; may be empty.
    pub name_server: Vec<IpAddr>,
}

/// A snapshot of all names.
#[derive(Clone, Debug)]
pub struct Zone {
    settings: Arc<ZoneSettings>,
    apex: Apex,
    /// Nobody knows yet which names exist.
    synced: bool,
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
}

/// The records that are in many answers, made once.
#[derive(Clone, Debug)]
struct Apex {
    soa: Record,
    ns: Record,
    name_server: Name,
    addresses: Arc<Addresses>,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    /// The Namespace object exists; without it the namespace exists as long as it has services.
    exists: bool,
    services: BTreeMap<Arc<str>, Arc<Service>>,
}

/// One question, apart from its id and flags.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    /// As it was asked; answers give it back with the same case.
    pub(crate) name: &'a Name,
    pub(crate) kind: RecordType,
    /// Turns sets of records by so many places, so that clients that take the first are spread.
    pub(crate) turn: usize,
    /// At most so many records per set are needed: more do not fit.
    pub(crate) enough: usize,
}

/// The sections of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    /// Helpful, never needed.
    pub(crate) additional: Vec<Record>,
}

impl Answer {
    pub(crate) fn refusal(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }
}

/// What there is at a name.
enum Node<'a> {
    /// No such name, and none beneath it.
    Absent,
    /// Names beneath it, and no records.
    Empty,
    Apex,
    NameServer,
    DnsVersion,
    Addresses(&'a Addresses),
    Service(&'a Service),
    Port(&'a Service, &'a Targets),
}

impl Zone {
    /// The zone before anything is known: it answers SERVFAIL to every question within it.
    ///
    /// # Errors
    /// [`NameTooLong`] if the zone's name leaves no room for names within it.
    pub fn new(settings: ZoneSettings) -> Result<Self, NameTooLong> {
        let zone = &settings.zone;
        let name_server = zone.child("ns.dns").map_err(|_too_long| NameTooLong)?;
        let hostmaster = zone.child("hostmaster").map_err(|_too_long| NameTooLong)?;
        let soa = SOA::new(name_server.clone(), hostmaster, 0, REFRESH, RETRY, EXPIRE, settings.ttl_seconds);
        let soa_ttl = settings.ttl_seconds.min(MAX_SOA_TTL);
        let apex = Apex {
            soa: Record::from_rdata(zone.name().clone(), soa_ttl, RData::SOA(soa)),
            ns: Record::from_rdata(
                zone.name().clone(),
                settings.ttl_seconds,
                RData::NS(NS(name_server.clone())),
            ),
            name_server,
            addresses: Arc::new(Addresses::new(settings.name_server.iter().copied())),
        };
        Ok(Self { settings: Arc::new(settings), apex, synced: false, namespaces: BTreeMap::new() })
    }

    /// What does not depend on the services.
    pub fn settings(&self) -> &ZoneSettings {
        &self.settings
    }

    /// Whether the zone knows which names exist.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// How many services have names.
    pub fn services(&self) -> usize {
        self.namespaces.values().map(|namespace| namespace.services.len()).sum()
    }

    /// Serial of the SOA record.
    pub fn serial(&self) -> u32 {
        if let RData::SOA(soa) = &self.apex.soa.data { soa.serial } else { 0 }
    }

    pub(crate) fn set_serial(&mut self, serial: u32) {
        if let RData::SOA(soa) = &mut self.apex.soa.data {
            soa.serial = serial;
        }
    }

    /// From now on a name that is not there does not exist.
    pub(crate) fn set_synced(&mut self) {
        self.synced = true;
    }

    /// The Namespace object of this name came or went. True if that changes an answer.
    pub(crate) fn set_namespace(&mut self, name: &Arc<str>, exists: bool) -> bool {
        if exists {
            let namespace = self.namespaces.entry(Arc::clone(name)).or_default();
            return !namespace.exists && {
                Arc::make_mut(namespace).exists = true;
                true
            };
        }
        let Some(namespace) = self.namespaces.get_mut(name) else { return false };
        let changed = namespace.exists;
        if namespace.services.is_empty() {
            self.namespaces.remove(name);
        } else if changed {
            Arc::make_mut(namespace).exists = false;
        }
        changed
    }

    /// A service has these records from now on, or none. True if that changes an answer.
    pub(crate) fn set_service(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        service: Option<Service>,
    ) -> bool {
        let Some(service) = service else {
            let Some(inner) = self.namespaces.get_mut(namespace) else { return false };
            if !inner.services.contains_key(name) {
                return false;
            }
            let inner = Arc::make_mut(inner);
            inner.services.remove(name);
            if inner.services.is_empty() && !inner.exists {
                self.namespaces.remove(namespace);
            }
            return true;
        };
        let inner = self.namespaces.entry(Arc::clone(namespace)).or_default();
        if inner.services.get(name).is_some_and(|known| **known == service) {
            return false;
        }
        Arc::make_mut(inner).services.insert(Arc::clone(name), Arc::new(service));
        true
    }

    /// Answers a question of class IN.
    pub(crate) fn answer(&self, question: &Question<'_>) -> Answer {
        let lower = question.name.to_lowercase();
        let Some(shape) = Shape::of(&lower, &self.settings.zone) else {
            return Answer::refusal(ResponseCode::Refused);
        };
        if matches!(question.kind, RecordType::AXFR | RecordType::IXFR) {
            return Answer::refusal(ResponseCode::Refused);
        }
        if !self.synced {
            return Answer::refusal(ResponseCode::ServFail);
        }
        let node = self.node(&shape);
        let mut answer = Answer { authoritative: true, ..Answer::refusal(ResponseCode::NoError) };
        if question.kind == RecordType::ANY {
            // RFC 8482, 4.1: one of the sets is an answer to ANY.
            for kind in [RecordType::SOA, RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::SRV] {
                if answer.answers.is_empty() {
                    self.fill(&node, &Question { kind, ..*question }, &mut answer);
                }
            }
        } else {
            self.fill(&node, question, &mut answer);
        }
        if matches!(node, Node::Absent) {
            answer.code = ResponseCode::NXDomain;
        }
        if answer.answers.is_empty() {
            answer.authority.push(self.apex.soa.clone());
        }
        answer
    }

    fn node(&self, shape: &Shape<'_>) -> Node<'_> {
        let found = match shape {
            Shape::Apex => Some(Node::Apex),
            Shape::DnsVersion => Some(Node::DnsVersion),
            Shape::NameServer => Some(Node::NameServer),
            Shape::Dns | Shape::Svc | Shape::Pod => Some(Node::Empty),
            Shape::Namespace(name) => self.namespaces.contains_key(*name).then_some(Node::Empty),
            Shape::Service(service) => self.service(service.namespace, service.name).map(Node::Service),
            Shape::Protocol(service, protocol) => self
                .service(service.namespace, service.name)
                .filter(|service| service.has_protocol(protocol))
                .map(|_| Node::Empty),
            Shape::Port { service, port, protocol } => self
                .service(service.namespace, service.name)
                .and_then(|service| Some(Node::Port(service, service.port(protocol, port)?))),
            Shape::Endpoint { service, endpoint } => self
                .service(service.namespace, service.name)
                .and_then(|service| service.endpoints.get(endpoint.as_ref()))
                .map(|(_, addresses)| Node::Addresses(addresses)),
            Shape::Nothing => None,
        };
        found.unwrap_or(Node::Absent)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        Some(self.namespaces.get(namespace)?.services.get(name)?)
    }

    /// Adds the records of one type that `node` has.
    fn fill(&self, node: &Node<'_>, question: &Question<'_>, answer: &mut Answer) {
        let kind = question.kind;
        match node {
            Node::Absent | Node::Empty => {}
            Node::Apex if kind == RecordType::SOA => {
                answer.answers.push(renamed(&self.apex.soa, question.name));
            }
            Node::Apex if kind == RecordType::NS => {
                answer.answers.push(renamed(&self.apex.ns, question.name));
                self.push_glue(&self.apex.name_server, &self.apex.addresses, answer);
            }
            Node::Apex => {}
            Node::DnsVersion if kind == RecordType::TXT => {
                let text = RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]));
                answer.answers.push(Record::from_rdata(question.name.clone(), SCHEMA_TTL, text));
            }
            Node::DnsVersion => {}
            Node::NameServer => self.push_addresses(&self.apex.addresses, question, answer),
            Node::Addresses(addresses) => self.push_addresses(addresses, question, answer),
            Node::Service(service) if kind == RecordType::SRV => {
                self.push_targets(service, service.all_ports(), question, answer);
            }
            Node::Service(service) => self.push_addresses(&service.addresses, question, answer),
            Node::Port(service, targets) if kind == RecordType::SRV => {
                self.push_targets(service, targets, question, answer);
            }
            Node::Port(..) => {}
        }
    }

    fn push_addresses(&self, addresses: &Addresses, question: &Question<'_>, answer: &mut Answer) {
        let mut push = |data| answer.answers.push(self.record(question.name, data));
        if question.kind == RecordType::A {
            turned(&addresses.v4, question).for_each(|address| push(RData::A((*address).into())));
        } else if question.kind == RecordType::AAAA {
            turned(&addresses.v6, question).for_each(|address| push(RData::AAAA((*address).into())));
        }
    }

    fn push_targets(
        &self,
        service: &Service,
        targets: &Targets,
        question: &Question<'_>,
        answer: &mut Answer,
    ) {
        let mut glued = BTreeSet::new();
        let places = targets.iter().len();
        let all = targets.iter().chain(targets.iter()).skip(question.turn % places.max(1));
        for (port, endpoint) in all.take(places.min(question.enough)) {
            let Some((name, addresses)) = service.target(endpoint) else { continue };
            let srv = SRV::new(0, targets.weight(), port, name.clone());
            answer.answers.push(self.record(question.name, RData::SRV(srv)));
            if glued.insert(endpoint) {
                self.push_glue(name, addresses, answer);
            }
        }
    }

    fn push_glue(&self, name: &Name, addresses: &Addresses, answer: &mut Answer) {
        let v4 = addresses.v4.iter().map(|address| RData::A((*address).into()));
        let v6 = addresses.v6.iter().map(|address| RData::AAAA((*address).into()));
        answer.additional.extend(v4.chain(v6).map(|data| self.record(name, data)));
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.settings.ttl_seconds, data)
    }
}

fn renamed(record: &Record, name: &Name) -> Record {
    let mut record = record.clone();
    record.name = name.clone();
    record
}

/// The set, beginning at the question's place, and no more of it than fits.
fn turned<'a, T>(set: &'a [T], question: &Question<'_>) -> impl Iterator<Item = &'a T> {
    let (before, after) = set.split_at(question.turn % set.len().max(1));
    after.iter().chain(before).take(question.enough)
}

/// The zone's name is so long that no name fits beneath it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the zone's name is too long to hold other names")]
pub struct NameTooLong;

#[cfg(test)]
mod tests;
