//! What the API server holds, and the zone that follows from it; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube_watch::ObjectKey;
use mesh_types::Reason;
use serde::Serialize;

use crate::object::Decoded;
use crate::service::{Import, Service, Slice};
use crate::zone::Zone;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `serviceimports.multicluster.x-k8s.io`.
    ServiceImport,
    /// `endpointslices.discovery.k8s.io` with the label of an import.
    EndpointSlice,
    /// `namespaces`.
    Namespace,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::ServiceImport, Kind::EndpointSlice, Kind::Namespace];
}

/// Something that is not served, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Skipped {
    /// Kind of the object.
    pub kind: Kind,
    /// Its namespace, empty for a Namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Why.
    pub reason: Reason,
    /// How many parts of it (addresses, ports, endpoints), or 1 for the whole object.
    pub count: usize,
}

/// The objects, and which services they changed since the zone was brought up to date.
#[derive(Debug, Default)]
pub(crate) struct Table {
    imports: BTreeMap<ObjectKey, Import>,
    /// With the name of the import that they belong to.
    slices: BTreeMap<ObjectKey, (Arc<str>, Slice)>,
    /// Slices by import.
    slices_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    listed: BTreeSet<Kind>,
    changed_services: BTreeSet<ObjectKey>,
    changed_namespaces: BTreeMap<Arc<str>, bool>,
    /// Parts that the object's own decoding left out.
    skipped: BTreeMap<(Kind, ObjectKey), BTreeMap<Reason, usize>>,
    /// Whether something was or was no longer left out since it was asked.
    skipped_changed: bool,
    /// Parts of an import that have no name in DNS.
    unnamed: BTreeMap<ObjectKey, BTreeMap<Reason, usize>>,
}

impl Table {
    pub(crate) fn set_import(&mut self, key: ObjectKey, import: Decoded<Import>) {
        self.note(Kind::ServiceImport, &key, import.skipped);
        if self.imports.get(&key) != Some(&import.object) {
            self.changed_services.insert(key.clone());
            self.imports.insert(key, import.object);
        }
    }

    pub(crate) fn remove_import(&mut self, key: &ObjectKey) {
        self.note(Kind::ServiceImport, key, BTreeMap::new());
        if self.imports.remove(key).is_some() {
            self.changed_services.insert(key.clone());
        }
    }

    pub(crate) fn set_slice(&mut self, key: &ObjectKey, slice: Decoded<Option<(String, Slice)>>) {
        let Some((service, content)) = slice.object else {
            self.remove_slice(key);
            self.note(Kind::EndpointSlice, key, slice.skipped);
            return;
        };
        self.note(Kind::EndpointSlice, key, slice.skipped);
        if let Some((known, old)) = self.slices.get(key) {
            if **known == *service && *old == content {
                return;
            }
            self.detach_slice(key);
        }
        let service: Arc<str> = service.into();
        let import = ObjectKey { namespace: Arc::clone(&key.namespace), name: Arc::clone(&service) };
        self.slices_of.entry(import.clone()).or_default().insert(key.clone());
        self.changed_services.insert(import);
        self.slices.insert(key.clone(), (service, content));
    }

    pub(crate) fn remove_slice(&mut self, key: &ObjectKey) {
        self.note(Kind::EndpointSlice, key, BTreeMap::new());
        self.detach_slice(key);
    }

    fn detach_slice(&mut self, key: &ObjectKey) {
        let Some((service, _)) = self.slices.remove(key) else { return };
        let import = ObjectKey { namespace: Arc::clone(&key.namespace), name: service };
        if let Some(slices) = self.slices_of.get_mut(&import) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&import);
            }
        }
        self.changed_services.insert(import);
    }

    pub(crate) fn set_namespace(&mut self, name: Arc<str>, exists: bool) {
        self.changed_namespaces.insert(name, exists);
    }

    /// The latest content of an object cannot be decoded; what was known of it stays.
    pub(crate) fn undecodable(&mut self, kind: Kind, key: &ObjectKey) {
        self.note(kind, key, BTreeMap::from([(Reason::ObjectUndecodable, 1)]));
    }

    /// Every object of the first list of this kind is in the table.
    pub(crate) fn set_listed(&mut self, kind: Kind) {
        self.listed.insert(kind);
    }

    /// Brings `zone` up to date. True if an answer changed.
    pub(crate) fn update(&mut self, zone: &mut Zone) -> bool {
        let mut changed = false;
        for (name, exists) in std::mem::take(&mut self.changed_namespaces) {
            changed |= zone.set_namespace(&name, exists);
        }
        for key in std::mem::take(&mut self.changed_services) {
            let (service, unnamed) = match self.imports.get(&key) {
                None => (None, BTreeMap::new()),
                Some(import) => {
                    let keys = self.slices_of.get(&key).into_iter().flatten();
                    let slices = keys.filter_map(|slice| Some(&self.slices.get(slice)?.1));
                    let domain = &zone.settings().zone;
                    Service::new(domain, &key.namespace, &key.name, import, slices)
                }
            };
            changed |= zone.set_service(&key.namespace, &key.name, service);
            self.skipped_changed |= put(&mut self.unnamed, key, unnamed);
        }
        if !zone.is_synced() && self.listed.len() == Kind::ALL.len() {
            zone.set_synced();
            changed = true;
        }
        changed
    }

    /// Everything that is not served, in order.
    fn skipped(&self) -> impl Iterator<Item = Skipped> {
        let parts = self.skipped.iter().map(|((kind, key), reasons)| (*kind, key, reasons));
        let unnamed = self.unnamed.iter().map(|(key, reasons)| (Kind::ServiceImport, key, reasons));
        parts.chain(unnamed).flat_map(|(kind, key, reasons)| {
            reasons.iter().map(move |(reason, count)| Skipped {
                kind,
                namespace: Arc::clone(&key.namespace),
                name: Arc::clone(&key.name),
                reason: *reason,
                count: *count,
            })
        })
    }

    fn note(&mut self, kind: Kind, key: &ObjectKey, reasons: BTreeMap<Reason, usize>) {
        self.skipped_changed |= put(&mut self.skipped, (kind, key.clone()), reasons);
    }

    /// Everything that is not served, if that changed since it was asked last.
    pub(crate) fn take_skipped(&mut self) -> Option<Vec<Skipped>> {
        std::mem::take(&mut self.skipped_changed).then(|| self.skipped().collect())
    }
}

/// Keeps the reasons of one object; nothing is kept of one that has none. True if that changes anything.
fn put<K: Ord>(
    map: &mut BTreeMap<K, BTreeMap<Reason, usize>>,
    key: K,
    reasons: BTreeMap<Reason, usize>,
) -> bool {
    if reasons.is_empty() {
        return map.remove(&key).is_some();
    }
    map.get(&key) != Some(&reasons) && {
        map.insert(key, reasons);
        true
    }
}

#[cfg(test)]
mod tests;
