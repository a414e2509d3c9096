//! The desired keys of all resources, as objects come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use kube_watch::{Event, ObjectKey};
use mesh_types::{Labels, LocalCluster, Reason, Resource};

use super::derived::allocation::Records;
use super::derived::node::{self as kube_node, KubeNode};
use super::derived::pod::{Pod, Pods};
use super::endpoint::{self, CiliumEndpoint, CiliumEndpointSlice};
use super::endpoint_slice::{self, EndpointSlice};
use super::identity::{self, CiliumIdentity};
use super::ledger::{Delta, Ledger};
use super::namespaces::{Namespace, Namespaces};
use super::node::{self, CiliumNode};
use super::object::Kind;
use super::service::{self, Service, Services};
use super::service_export::{self, ServiceExport};
use super::withheld::{Withheld, WithheldTable};
use crate::scopes::{Attached, Subject};

/// What the desired keys are made of besides the objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose keys they are.
    pub local: LocalCluster,
    /// Whether a namespace without the annotation is global.
    pub default_global_namespace: bool,
    /// Services are exported if their label `service.kubernetes.io/service-proxy-name` has this value; empty is none.
    pub proxy_name: String,
    /// Which kinds of objects the resources come from.
    pub sources: Sources,
}

/// Which kinds of objects the resources come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Cilium's objects; otherwise nodes, identities and endpoints are derived from Kubernetes' own.
    pub cilium: bool,
    /// CiliumEndpointSlice instead of CiliumEndpoint.
    pub endpoint_slices: bool,
    /// Whether service exports are exported.
    pub service_exports: bool,
    /// Whether global services go out in the older format too; their EndpointSlices always do.
    pub services: bool,
}

impl Sources {
    /// The kinds that a resource is made of; none is a resource that is empty by configuration.
    pub fn of(self, resource: Resource) -> &'static [Kind] {
        match (resource, self) {
            (Resource::Nodes, Self { cilium: true, .. }) => &[Kind::CiliumNode],
            (Resource::Nodes, Self { cilium: false, .. }) => &[Kind::Node],
            (Resource::Identities, Self { cilium: true, .. }) => &[Kind::Namespace, Kind::CiliumIdentity],
            (Resource::Ip, Self { cilium: true, endpoint_slices: true, .. }) => {
                &[Kind::Namespace, Kind::CiliumEndpointSlice]
            }
            (Resource::Ip, Self { cilium: true, .. }) => &[Kind::Namespace, Kind::CiliumEndpoint],
            (Resource::Identities | Resource::Ip, Self { cilium: false, .. }) => {
                &[Kind::Namespace, Kind::Node, Kind::Pod, Kind::IdentityRecord]
            }
            (Resource::Services, Self { services: false, .. }) => &[],
            (Resource::Services | Resource::EndpointSlices, _) => {
                &[Kind::Namespace, Kind::Service, Kind::EndpointSlice]
            }
            (Resource::ServiceExports, Self { service_exports: true, .. }) => {
                &[Kind::Namespace, Kind::Service, Kind::ServiceExport]
            }
            (Resource::ServiceExports, Self { service_exports: false, .. }) => &[],
        }
    }

    /// Every kind that some resource is made of, once.
    pub fn kinds(self) -> BTreeSet<Kind> {
        Resource::ALL.iter().flat_map(|resource| self.of(*resource)).copied().collect()
    }
}

/// What happened in Kubernetes.
#[derive(Debug)]
#[expect(missing_docs, reason = "each variant is the kind of its name")]
pub enum Input {
    Namespace(Event<Namespace>),
    CiliumNode(Event<CiliumNode>),
    CiliumIdentity(Event<CiliumIdentity>),
    CiliumEndpoint(Event<CiliumEndpoint>),
    CiliumEndpointSlice(Event<CiliumEndpointSlice>),
    Node(Event<KubeNode>),
    Pod(Event<Pod>),
    Service(Event<Service>),
    EndpointSlice(Event<EndpointSlice>),
    ServiceExport(Event<ServiceExport>),
    /// The numbers that label sets have by now.
    Identities(RecordsInput),
}

/// Numbers of label sets; made inside of this crate only.
#[derive(Debug)]
pub struct RecordsInput(pub(crate) Arc<Records>);

/// A key that must be written or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its resource.
    pub resource: Resource,
    /// The key after the resource's prefix.
    pub name: Arc<str>,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
}

/// What follows from an input.
#[derive(Debug, Default)]
pub struct Output {
    /// Resources whose desired set is complete with this input: take [`Exporter::desired`] of each, whole.
    pub completed: Vec<Resource>,
    /// Differences of resources that had been complete before.
    pub changes: Vec<Change>,
    /// Keys that stay as they are while the labels changed by which scopes choose: of their namespace, or their Service.
    pub relabelled: Vec<(Resource, Arc<str>)>,
}

/// The desired keys of all resources, as objects come and go. Pure.
#[derive(Debug)]
pub struct Exporter {
    settings: Settings,
    namespaces: Namespaces,
    ledgers: BTreeMap<Resource, Ledger>,
    services: Services,
    exports: BTreeMap<ObjectKey, ServiceExport>,
    pods: Pods,
    withheld: WithheldTable,
    /// What the sources ask for.
    kinds: BTreeSet<Kind>,
    listed: BTreeSet<Kind>,
    complete: BTreeSet<Resource>,
    /// Differences of the input that is being applied.
    changes: Vec<(Resource, Vec<Delta>)>,
    /// See [`Output::relabelled`].
    relabelled: Vec<(Resource, Arc<str>)>,
}

impl Exporter {
    /// No object is known yet. Resources that are empty by configuration are complete with the first input.
    pub fn new(settings: Settings) -> Self {
        let sources = settings.sources;
        let kind = |resource| match (resource, sources) {
            (Resource::Nodes, Sources { cilium: true, .. }) => Kind::CiliumNode,
            (Resource::Nodes, _) => Kind::Node,
            (Resource::Identities, Sources { cilium: true, .. }) => Kind::CiliumIdentity,
            (Resource::Identities, _) => Kind::IdentityRecord,
            (Resource::Ip, Sources { cilium: true, endpoint_slices: true, .. }) => Kind::CiliumEndpointSlice,
            (Resource::Ip, Sources { cilium: true, .. }) => Kind::CiliumEndpoint,
            (Resource::Ip, _) => Kind::Pod,
            (Resource::Services, _) => Kind::Service,
            (Resource::EndpointSlices, _) => Kind::EndpointSlice,
            (Resource::ServiceExports, _) => Kind::ServiceExport,
        };
        Self {
            namespaces: Namespaces::new(settings.default_global_namespace),
            ledgers: Resource::ALL
                .into_iter()
                .map(|resource| (resource, Ledger::new(kind(resource))))
                .collect(),
            services: Services::default(),
            exports: BTreeMap::new(),
            pods: Pods::default(),
            withheld: WithheldTable::default(),
            kinds: sources.kinds(),
            listed: BTreeSet::new(),
            complete: BTreeSet::new(),
            changes: Vec::new(),
            relabelled: Vec::new(),
            settings,
        }
    }

    /// Takes what happened and tells what follows. Inputs of kinds that are no source of anything are passed over.
    pub fn apply(&mut self, input: Input) -> Output {
        match input {
            Input::Namespace(event) => self.on(Kind::Namespace, event, Self::namespace),
            Input::CiliumNode(event) => self.on(Kind::CiliumNode, event, Self::cilium_node),
            Input::CiliumIdentity(event) => self.on(Kind::CiliumIdentity, event, Self::cilium_identity),
            Input::CiliumEndpoint(event) => self.on(Kind::CiliumEndpoint, event, Self::cilium_endpoint),
            Input::CiliumEndpointSlice(event) => {
                self.on(Kind::CiliumEndpointSlice, event, Self::cilium_endpoint_slice);
            }
            Input::Node(event) => self.on(Kind::Node, event, Self::kube_node),
            Input::Pod(event) => self.on(Kind::Pod, event, Self::pod),
            Input::Service(event) => self.on(Kind::Service, event, Self::service),
            Input::EndpointSlice(event) => self.on(Kind::EndpointSlice, event, Self::endpoint_slice),
            Input::ServiceExport(event) => self.on(Kind::ServiceExport, event, Self::service_export),
            Input::Identities(RecordsInput(records)) => self.identities(records),
        }
        self.output()
    }

    /// What a resource should be, whole. Only meaningful once it is complete.
    pub fn desired(&self, resource: Resource) -> impl Iterator<Item = (Arc<str>, Bytes)> {
        self.ledgers[&resource].desired()
    }

    /// A key as it should be, and what scopes ask of it.
    pub(crate) fn subject(
        &self,
        resource: Resource,
        name: &str,
        with_labels: bool,
    ) -> Option<(Bytes, Subject<'_>)> {
        let (namespace, value) = self.ledgers[&resource].entry(name)?;
        let namespace_labels = namespace.and_then(|namespace| self.namespaces.labels(namespace));
        let (value, mut subject) = (value.clone(), Subject { namespace, namespace_labels, labels: None });
        if with_labels {
            subject.labels = self.attached(resource, name, &value);
        }
        Some((value, subject))
    }

    /// The labels that a key's object is chosen by: an endpoint has those of its identity.
    fn attached(&self, resource: Resource, name: &str, value: &Bytes) -> Option<Attached<'_>> {
        let object = || {
            let (namespace, name) = name.split_once('/')?;
            Some(ObjectKey::new(namespace, name))
        };
        let identity =
            |value: &[u8]| Some(Attached::Identity(Labels::parse(std::str::from_utf8(value).ok()?)));
        match resource {
            Resource::Nodes => None,
            Resource::Identities => identity(value),
            Resource::Ip => {
                let id = identity_of(value)?;
                identity(self.ledgers[&Resource::Identities].entry(&id.to_string())?.1)
            }
            Resource::Services | Resource::ServiceExports => {
                Some(Attached::Service(&self.services.service(&object()?)?.metadata.labels))
            }
            Resource::EndpointSlices => {
                Some(Attached::Service(&self.services.slice(&object()?)?.1.metadata.labels))
            }
        }
    }

    /// How many keys a resource should have.
    pub fn len(&self, resource: Resource) -> usize {
        self.ledgers[&resource].len()
    }

    /// Whether every object that the resource is made of was seen.
    pub fn is_complete(&self, resource: Resource) -> bool {
        self.complete.contains(&resource)
    }

    /// Every row of what is withheld.
    pub fn withheld(&self) -> impl Iterator<Item = Withheld> {
        self.withheld.rows()
    }

    /// How many objects are withheld, by kind and reason; a pair that once occurred stays, with zero.
    pub fn withheld_counts(&self) -> &BTreeMap<(Kind, Reason), usize> {
        self.withheld.counts()
    }

    /// What is withheld since the last call, each object and reason once.
    ///
    /// Before a resource is complete, much of it merely waits for another kind to be listed; that is not told.
    pub fn take_news(&mut self) -> Vec<Withheld> {
        let (sources, complete) = (self.settings.sources, &self.complete);
        let concerned = |kind: Kind| {
            Resource::ALL.into_iter().filter(move |resource| sources.of(*resource).contains(&kind))
        };
        self.withheld.take_fresh(|kind| concerned(kind).all(|resource| complete.contains(&resource)))
    }

    /// The label sets of pods that need numbers.
    pub(crate) fn wanted_identities(&self) -> BTreeSet<Arc<str>> {
        self.pods.wanted().cloned().collect()
    }

    /// Changes whenever [`Self::wanted_identities`] does.
    pub(crate) fn wanted_generation(&self) -> u64 {
        self.pods.generation()
    }

    /// Whether [`Self::wanted_identities`] are all there are.
    pub(crate) fn wanted_is_complete(&self) -> bool {
        self.listed.contains(&Kind::Namespace) && self.listed.contains(&Kind::Pod)
    }

    fn on<T>(&mut self, kind: Kind, event: Event<T>, set: impl FnOnce(&mut Self, &ObjectKey, Option<T>)) {
        if !self.kinds.contains(&kind) {
            return;
        }
        match event {
            Event::Applied { key, object } => {
                self.withheld.decodable(kind, &key);
                set(self, &key, Some(object));
            }
            Event::Deleted { key } => {
                self.withheld.decodable(kind, &key);
                set(self, &key, None);
            }
            Event::Undecodable { key, error } => self.withheld.undecodable(kind, &key, error.to_string()),
            Event::InitialListDone => {
                self.listed.insert(kind);
            }
        }
    }

    fn output(&mut self) -> Output {
        let mut output = Output { relabelled: std::mem::take(&mut self.relabelled), ..Output::default() };
        for (resource, deltas) in std::mem::take(&mut self.changes) {
            if self.complete.contains(&resource) {
                let change = |(name, value)| Change { resource, name, value };
                output.changes.extend(deltas.into_iter().map(change));
            }
        }
        for resource in Resource::ALL {
            if !self.complete.contains(&resource) && self.has_everything(resource) {
                self.complete.insert(resource);
                output.completed.push(resource);
            }
        }
        output
    }

    fn has_everything(&self, resource: Resource) -> bool {
        let kinds = self.settings.sources.of(resource);
        let numbered = !kinds.contains(&Kind::IdentityRecord) || self.pods.is_settled();
        numbered && kinds.iter().all(|kind| self.listed.contains(kind))
    }

    fn put(&mut self, resource: Resource, object: &ObjectKey, unit: Option<super::unit::Unit>) {
        let ledger = self.ledgers.get_mut(&resource).expect("every resource has a ledger");
        let deltas = match unit {
            Some(unit) => ledger.put(object, unit, &self.namespaces, &mut self.withheld),
            None => ledger.remove(object, &mut self.withheld),
        };
        if !deltas.is_empty() {
            self.changes.push((resource, deltas));
        }
    }

    fn namespace(&mut self, object: &ObjectKey, namespace: Option<Namespace>) {
        let effect = self.namespaces.apply(&object.name, namespace);
        if effect.gate {
            for (resource, ledger) in &mut self.ledgers {
                let deltas = ledger.regate(&object.name, &self.namespaces, &mut self.withheld);
                if !deltas.is_empty() {
                    self.changes.push((*resource, deltas));
                }
            }
        }
        if effect.labels {
            for (resource, ledger) in &self.ledgers {
                let names = ledger.names_in(&object.name);
                self.relabelled.extend(names.into_iter().map(|name| (*resource, name)));
            }
        }
        if effect.gate || effect.labels {
            for pod in self.pods.of_namespace(&object.name) {
                self.export_pod(&pod);
            }
        }
    }

    fn cilium_node(&mut self, object: &ObjectKey, node: Option<CiliumNode>) {
        let unit = node.map(|node| node::unit(&self.settings.local, object, &node));
        self.put(Resource::Nodes, object, unit);
    }

    fn cilium_identity(&mut self, object: &ObjectKey, identity: Option<CiliumIdentity>) {
        let unit = identity.map(|identity| identity::unit(&self.settings.local, object, &identity));
        self.put(Resource::Identities, object, unit);
    }

    fn cilium_endpoint(&mut self, object: &ObjectKey, endpoint: Option<CiliumEndpoint>) {
        let unit = endpoint.map(|endpoint| {
            endpoint::unit(&object.namespace, endpoint::convert(&self.settings.local, object, &endpoint))
        });
        self.put(Resource::Ip, object, unit);
    }

    fn cilium_endpoint_slice(&mut self, object: &ObjectKey, slice: Option<CiliumEndpointSlice>) {
        let unit = slice.map(|slice| {
            endpoint::unit(slice.namespace(), endpoint::convert_slice(&self.settings.local, &slice))
        });
        self.put(Resource::Ip, object, unit);
    }

    fn kube_node(&mut self, object: &ObjectKey, node: Option<KubeNode>) {
        let mut encrypted: Vec<IpAddr> = Vec::new();
        let unit = node.map(|node| {
            let (value, withheld) = kube_node::convert(&self.settings.local, &object.name, &node);
            if !value.wireguard_pub_key.is_empty() {
                encrypted = value.ip_addresses.iter().filter_map(|address| address.ip).collect();
            }
            kube_node::unit(object, (&value, withheld))
        });
        self.put(Resource::Nodes, object, unit);
        for pod in self.pods.set_encrypted_host(&object.name, encrypted) {
            self.export_pod(&pod);
        }
    }

    fn pod(&mut self, object: &ObjectKey, pod: Option<Pod>) {
        self.pods.set(object, pod);
        self.export_pod(object);
    }

    fn export_pod(&mut self, object: &ObjectKey) {
        let unit = self.pods.unit(&self.settings.local, &self.namespaces, object);
        self.put(Resource::Ip, object, unit);
    }

    fn identities(&mut self, records: Arc<Records>) {
        self.listed.insert(Kind::IdentityRecord);
        let before = Arc::clone(self.pods.records());
        for (number, labels) in records.all() {
            if before.all().get(number) != Some(labels) {
                let object = ObjectKey::new("", &number.to_string());
                let unit = identity::labels_unit(&self.settings.local, &object.name, &Labels::parse(labels));
                self.put(Resource::Identities, &object, Some(unit));
            }
        }
        for number in before.all().keys().filter(|number| !records.all().contains_key(number)) {
            self.put(Resource::Identities, &ObjectKey::new("", &number.to_string()), None);
        }
        for pod in self.pods.set_records(records) {
            self.export_pod(&pod);
        }
    }

    fn service(&mut self, object: &ObjectKey, service: Option<Service>) {
        let before = self.goes_out(object);
        let former = self.services.set_service(object, service);
        self.export_service(object);
        let now = self.services.service(object).map(|service| &service.metadata.labels);
        if now != former.as_ref().map(|service| &service.metadata.labels) {
            self.relabel(object);
        }
        if self.goes_out(object) != before {
            for name in self.services.slice_names(object) {
                self.export_slice(&ObjectKey { namespace: Arc::clone(&object.namespace), name });
            }
        }
        if self.exports.contains_key(object) {
            self.export_export(object);
        }
    }

    /// What belongs to a Service is chosen by its labels.
    fn relabel(&mut self, service: &ObjectKey) {
        let own: Arc<str> = service.to_string().into();
        self.relabelled.push((Resource::Services, Arc::clone(&own)));
        self.relabelled.push((Resource::ServiceExports, own));
        let slices = self.services.slice_names(service).into_iter();
        let named = |name| (Resource::EndpointSlices, format!("{}/{name}", service.namespace).into());
        self.relabelled.extend(slices.map(named));
    }

    fn endpoint_slice(&mut self, object: &ObjectKey, slice: Option<EndpointSlice>) {
        for service in self.services.set_slice(object, slice) {
            self.export_service(&service);
        }
        self.export_slice(object);
    }

    /// Whether the Service is one whose slices are exported.
    fn goes_out(&self, object: &ObjectKey) -> bool {
        let service = self.services.service(object);
        service.is_some_and(|service| service.exported(&self.settings.proxy_name).is_ok())
    }

    fn service_export(&mut self, object: &ObjectKey, export: Option<ServiceExport>) {
        match export {
            Some(export) => drop(self.exports.insert(object.clone(), export)),
            None => drop(self.exports.remove(object)),
        }
        self.export_export(object);
    }

    fn export_slice(&mut self, object: &ObjectKey) {
        let Settings { local, proxy_name, .. } = &self.settings;
        let pair = self.services.slice(object);
        let unit = pair.and_then(|pair| endpoint_slice::unit(local, proxy_name, object, pair));
        self.put(Resource::EndpointSlices, object, unit);
    }

    fn export_service(&mut self, object: &ObjectKey) {
        if !self.settings.sources.services {
            return;
        }
        let Settings { local, proxy_name, .. } = &self.settings;
        let convert =
            |service| service::unit(local, proxy_name, object, service, self.services.slices(object));
        let unit = self.services.service(object).map(convert);
        self.put(Resource::Services, object, unit);
    }

    fn export_export(&mut self, object: &ObjectKey) {
        let Settings { local, proxy_name, .. } = &self.settings;
        let service = self.services.service(object);
        let convert = |export| service_export::unit(local, proxy_name, object, export, service);
        let unit = self.exports.get(object).map(convert);
        self.put(Resource::ServiceExports, object, unit);
    }
}

/// The identity that an address entry names.
pub(crate) fn identity_of(value: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Pair {
        #[serde(rename = "ID")]
        id: u32,
    }
    serde_json::from_slice(value).ok().map(|Pair { id }| id)
}

#[cfg(test)]
mod tests;
