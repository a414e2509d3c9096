//! Which object contributes which key, and who of several owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kube_watch::ObjectKey;
use mesh_types::{Reason, Rejection};

use super::namespaces::Namespaces;
use super::object::{Kind, NamespaceName};
use super::unit::{Entry, Unit};
use super::withheld::WithheldTable;

/// A key that must be written (`Some`) or deleted (`None`).
pub(crate) type Delta = (Arc<str>, Option<Bytes>);

/// The desired keys of one resource, by the objects that contribute them.
///
/// The first object that claims a key owns it; later ones wait in the order of their arrival and take over without a
/// deletion in between. What lies in a namespace that is not global claims nothing.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// What the contributing objects are, for the table.
    kind: Kind,
    units: BTreeMap<ObjectKey, Held>,
    by_namespace: BTreeSet<(NamespaceName, ObjectKey)>,
    claims: BTreeMap<Arc<str>, Claim>,
}

#[derive(Debug)]
struct Held {
    unit: Unit,
    /// Whether its entries went out when last looked at, or why not.
    gate: Result<(), Reason>,
}

#[derive(Debug)]
struct Claim {
    owner: ObjectKey,
    waiting: Vec<ObjectKey>,
}

impl Held {
    fn claimed(&self) -> &[Entry] {
        if self.gate.is_ok() { self.unit.entries() } else { &[] }
    }
}

impl Ledger {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, units: BTreeMap::new(), by_namespace: BTreeSet::new(), claims: BTreeMap::new() }
    }

    /// The keys as they should be, in their order.
    pub(crate) fn desired(&self) -> impl Iterator<Item = (Arc<str>, Bytes)> {
        self.claims.iter().map(|(name, claim)| (Arc::clone(name), self.value(&claim.owner, name)))
    }

    /// A key as it should be, and the namespace of its owner.
    pub(crate) fn entry(&self, name: &str) -> Option<(Option<&str>, &Bytes)> {
        let claim = self.claims.get(name)?;
        let unit = &self.units.get(&claim.owner)?.unit;
        Some((unit.namespace.as_deref(), unit.value(name)?))
    }

    /// The keys that objects of a namespace claim, whoever owns them.
    pub(crate) fn names_in(&self, namespace: &str) -> Vec<Arc<str>> {
        let claimed = |object: &ObjectKey| self.units[object].claimed();
        let objects = self.in_namespace(namespace);
        objects.flat_map(claimed).map(|entry| Arc::clone(&entry.name)).collect()
    }

    /// How many keys there should be.
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }

    /// What an object contributes from now on.
    pub(crate) fn put(
        &mut self,
        object: &ObjectKey,
        unit: Unit,
        namespaces: &Namespaces,
        table: &mut WithheldTable,
    ) -> Vec<Delta> {
        let gate = namespaces.gate(unit.namespace.as_deref());
        self.transition(object, Some(Held { unit, gate }), table)
    }

    /// The object is gone.
    pub(crate) fn remove(&mut self, object: &ObjectKey, table: &mut WithheldTable) -> Vec<Delta> {
        self.transition(object, None, table)
    }

    /// The namespace became global, or stopped being so, or came or went.
    pub(crate) fn regate(
        &mut self,
        namespace: &str,
        namespaces: &Namespaces,
        table: &mut WithheldTable,
    ) -> Vec<Delta> {
        let objects: Vec<_> = self.in_namespace(namespace).cloned().collect();
        let mut deltas = Vec::new();
        for object in objects {
            let held = &self.units[&object];
            let gate = namespaces.gate(held.unit.namespace.as_deref());
            if gate != held.gate {
                let unit = held.unit.clone();
                deltas.extend(self.transition(&object, Some(Held { unit, gate }), table));
            }
        }
        deltas
    }

    fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a ObjectKey> {
        let from = (NamespaceName::from(namespace), ObjectKey::new("", ""));
        let inside = self.by_namespace.range(from..).take_while(move |(name, _)| &**name == namespace);
        inside.map(|(_, object)| object)
    }

    fn transition(&mut self, object: &ObjectKey, now: Option<Held>, table: &mut WithheldTable) -> Vec<Delta> {
        let before = self.units.remove(object);
        self.reindex(object, before.as_ref(), now.as_ref());
        let gone: Vec<Arc<str>> = {
            let keeps = |name: &str| {
                now.as_ref().is_some_and(|held| held.gate.is_ok() && held.unit.value(name).is_some())
            };
            let claimed = before.iter().flat_map(Held::claimed);
            claimed.filter(|entry| !keeps(&entry.name)).map(|entry| Arc::clone(&entry.name)).collect()
        };
        let mut deltas = Vec::new();
        if let Some(now) = now {
            for entry in now.claimed() {
                let unchanged = |before: &Held| {
                    before.gate.is_ok() && before.unit.value(&entry.name) == Some(&entry.value)
                };
                if self.claim(&entry.name, object) && !before.as_ref().is_some_and(unchanged) {
                    deltas.push((Arc::clone(&entry.name), Some(entry.value.clone())));
                }
            }
            self.units.insert(object.clone(), now);
        }
        let mut touched = BTreeSet::from([object.clone()]);
        for name in gone {
            let had = before.as_ref().and_then(|before| before.unit.value(&name));
            match self.release(&name, object, &mut touched) {
                Released::WasWaiting => {}
                Released::Free => deltas.push((name, None)),
                Released::PassedOn(value) if Some(&value) != had => deltas.push((name, Some(value))),
                Released::PassedOn(_same) => {}
            }
        }
        for object in &touched {
            table.replace(self.kind, object, &self.withheld(object));
        }
        deltas
    }

    fn reindex(&mut self, object: &ObjectKey, before: Option<&Held>, now: Option<&Held>) {
        let namespace = |held: Option<&Held>| held.and_then(|held| held.unit.namespace.clone());
        let (before, now) = (namespace(before), namespace(now));
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.by_namespace.remove(&(before, object.clone()));
        }
        if let Some(now) = now {
            self.by_namespace.insert((now, object.clone()));
        }
    }

    /// Whether `object` owns the key; otherwise it waits.
    fn claim(&mut self, name: &Arc<str>, object: &ObjectKey) -> bool {
        let Some(claim) = self.claims.get_mut(name) else {
            let claim = Claim { owner: object.clone(), waiting: Vec::new() };
            self.claims.insert(Arc::clone(name), claim);
            return true;
        };
        if claim.owner == *object {
            return true;
        }
        if !claim.waiting.contains(object) {
            claim.waiting.push(object.clone());
        }
        false
    }

    fn release(
        &mut self,
        name: &Arc<str>,
        object: &ObjectKey,
        touched: &mut BTreeSet<ObjectKey>,
    ) -> Released {
        let claim = self.claims.get_mut(name).expect("an object releases what it claimed");
        if claim.owner != *object {
            claim.waiting.retain(|waiting| waiting != object);
            return Released::WasWaiting;
        }
        if claim.waiting.is_empty() {
            self.claims.remove(name);
            return Released::Free;
        }
        claim.owner = claim.waiting.remove(0);
        touched.insert(claim.owner.clone());
        touched.extend(claim.waiting.iter().cloned());
        let owner = claim.owner.clone();
        Released::PassedOn(self.value(&owner, name))
    }

    fn value(&self, owner: &ObjectKey, name: &str) -> Bytes {
        let held = self.units.get(owner).and_then(|held| held.unit.value(name));
        held.expect("who claims a key has a value for it").clone()
    }

    fn withheld(&self, object: &ObjectKey) -> Vec<Rejection> {
        let Some(held) = self.units.get(object) else { return Vec::new() };
        match held.gate {
            Err(reason) if !held.unit.entries().is_empty() => {
                let namespace = held.unit.namespace.as_deref().unwrap_or_default();
                vec![Rejection::new(reason, format!("namespace {namespace}"))]
            }
            Ok(()) | Err(_) => {
                let mut withheld = held.unit.withheld.clone();
                for Entry { name, .. } in held.claimed() {
                    let claim = &self.claims[name];
                    if claim.owner != *object {
                        let detail = format!("{name} belongs to {}", claim.owner);
                        withheld.push(Rejection::new(Reason::AddressInUse, detail));
                    }
                }
                withheld
            }
        }
    }
}

enum Released {
    WasWaiting,
    Free,
    PassedOn(Bytes),
}

#[cfg(test)]
mod tests;
