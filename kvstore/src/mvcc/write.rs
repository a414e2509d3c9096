//! Changing the key space: everything between [`Keyspace::write`] and [`WriteTxn::commit`] is one revision.

use super::{
    Change, Keyspace,
    record::{Fields, Record},
    slots::Slot,
};
use crate::range::KeyRange;

/// One revision in the making. Reads see its changes.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    store: &'a mut Keyspace,
    revision: i64,
    events: Vec<Committed>,
}

/// A change of one key.
#[derive(Clone, Debug)]
pub struct Committed {
    /// What is there now: a version, or the mark of a deletion.
    pub record: Record,
    /// The version before.
    pub prev: Option<Record>,
}

/// What one revision changed.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The store's revision now. It only moved if there are events.
    pub revision: i64,
    /// In the order in which it happened.
    pub events: Vec<Committed>,
}

impl Keyspace {
    /// Fills an empty key space with the keys of an image, as of `revision`. Their leases must be granted before.
    pub fn load(&mut self, records: &[Record], revision: i64) {
        for record in records {
            self.insert(record.clone());
        }
        self.log.clear();
        self.revision = self.revision.max(revision);
        (self.compacted, self.purged) = (self.revision, self.revision);
    }

    /// Makes a revision again from its records. `None` if it is not the one that follows.
    pub fn replay(&mut self, records: &[Record]) -> Option<()> {
        let revision = records.first()?.mod_revision();
        if revision != self.revision + 1 || records.iter().any(|record| record.mod_revision() != revision) {
            return None;
        }
        for record in records {
            let id = self.insert(record.clone());
            self.log.push_back(Change { revision, slot: id });
        }
        self.revision = revision;
        Some(())
    }

    /// Makes `record` the latest version of its key.
    fn insert(&mut self, record: Record) -> super::slots::SlotId {
        let lease = record.fields().lease;
        let dead = record.is_tombstone();
        self.bytes += record.encoded().len();
        let (id, old_lease) = match self.index.find(&self.slots, record.key()) {
            Err(place) => {
                let id = self.slots.insert(Slot {
                    current: record,
                    history: None,
                    lease_position: 0,
                    dead: false,
                });
                self.index.insert(place, id, &self.slots);
                if dead {
                    self.slots.get_mut(id).dead = true;
                    self.index.set_live(place, false);
                }
                (id, 0)
            }
            Ok((place, id)) => {
                let slot = self.slots.get_mut(id);
                let (was_dead, old_lease) = (slot.dead, slot.current.fields().lease);
                self.bytes -= slot.push(record);
                if was_dead != dead {
                    self.index.set_live(place, !dead);
                }
                (id, old_lease)
            }
        };
        if old_lease != lease {
            if old_lease != 0 {
                self.leases.detach(old_lease, id, &mut self.slots);
            }
            if lease != 0 && self.leases.get(lease).is_some() {
                self.leases.attach(lease, id, &mut self.slots);
            }
        }
        id
    }

    /// Begins the next revision. Nothing else can see the store until [`WriteTxn::commit`].
    pub fn write(&mut self) -> WriteTxn<'_> {
        let revision = self.revision + 1;
        WriteTxn { store: self, revision, events: Vec::new() }
    }

    /// The latest version of `key`.
    pub(super) fn current(&self, key: &[u8]) -> Option<&Record> {
        let (_, id) = self.index.find(&self.slots, key).ok()?;
        let slot = self.slots.get(id);
        (!slot.dead).then_some(&slot.current)
    }
}

impl WriteTxn<'_> {
    /// The store with the changes so far.
    pub fn store(&self) -> &Keyspace {
        self.store
    }

    /// The revision that a read now belongs to.
    pub fn read_revision(&self) -> i64 {
        if self.events.is_empty() { self.revision - 1 } else { self.revision }
    }

    /// Stores a value; `lease` must exist (or be 0). Returns the version before.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Option<Record> {
        let store = &mut *self.store;
        let revision = self.revision;
        let fields = |create_revision, version| Fields {
            key,
            create_revision,
            mod_revision: revision,
            version,
            value,
            lease,
        };
        let found = store.index.find(&store.slots, key);
        let (id, prev) = match found {
            Err(place) => {
                let record = Record::encode(fields(revision, 1), &mut store.scratch);
                store.bytes += record.encoded().len();
                let slot = Slot { current: record, history: None, lease_position: 0, dead: false };
                let id = store.slots.insert(slot);
                store.index.insert(place, id, &store.slots);
                (id, None)
            }
            Ok((place, id)) => {
                let slot = store.slots.get_mut(id);
                let prev = (!slot.dead).then(|| slot.current.clone());
                let before = prev.as_ref().map(Record::fields);
                let (create, version) =
                    before.map_or((revision, 1), |old| (old.create_revision, old.version + 1));
                let record = Record::encode(fields(create, version), &mut store.scratch);
                store.bytes += record.encoded().len();
                store.bytes -= slot.push(record);
                if prev.is_none() {
                    store.index.set_live(place, true);
                }
                (id, prev)
            }
        };
        let old_lease = prev.as_ref().map_or(0, |record| record.fields().lease);
        if old_lease != lease {
            if old_lease != 0 {
                store.leases.detach(old_lease, id, &mut store.slots);
            }
            if lease != 0 {
                store.leases.attach(lease, id, &mut store.slots);
            }
        }
        let record = store.slots.get(id).current.clone();
        self.log(id, record, prev.clone());
        prev
    }

    /// Deletes a key; returns what it was.
    pub fn delete_key(&mut self, key: &[u8]) -> Option<Record> {
        let store = &mut *self.store;
        let (place, id) = store.index.find(&store.slots, key).ok()?;
        let slot = store.slots.get_mut(id);
        if slot.dead {
            return None;
        }
        let prev = slot.current.clone();
        let record = Record::tombstone(key, self.revision, &mut store.scratch);
        store.bytes += record.encoded().len();
        store.bytes -= slot.push(record.clone());
        store.index.set_live(place, false);
        let lease = prev.fields().lease;
        if lease != 0 {
            store.leases.detach(lease, id, &mut store.slots);
        }
        self.log(id, record, Some(prev.clone()));
        Some(prev)
    }

    /// Deletes every key of `range`; returns what they were, in order.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<Record> {
        let store = &*self.store;
        let records: Vec<Record> = store
            .index
            .iter(&store.slots, range)
            .map(|id| store.slots.get(id))
            .filter(|slot| !slot.dead)
            .map(|slot| slot.current.clone())
            .collect();
        for record in &records {
            self.delete_key(record.key());
        }
        records
    }

    /// Ends the revision; nothing can fail here.
    pub fn commit(self) -> Commit {
        Commit { revision: self.store.revision, events: self.events }
    }

    fn log(&mut self, slot: super::slots::SlotId, record: Record, prev: Option<Record>) {
        // A key that changes twice in one revision shows as its last state only.
        if prev.as_ref().is_some_and(|prev| prev.mod_revision() == self.revision)
            && let Some(event) = self.events.iter_mut().rev().find(|event| event.record.key() == record.key())
        {
            event.record = record;
            return;
        }
        self.store.revision = self.revision;
        self.store.log.push_back(Change { revision: self.revision, slot });
        self.events.push(Committed { record, prev });
    }
}
