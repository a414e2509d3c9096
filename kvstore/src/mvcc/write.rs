//! Changing the key space: everything between [`Keyspace::write`] and [`WriteTxn::commit`] is one revision.

use super::{
    Change, Keyspace,
    index::Place,
    record::{Fields, Record},
    slots::{Slot, SlotId},
};
use crate::range::KeyRange;

/// One revision in the making. Reads see its changes.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    store: &'a mut Keyspace,
    revision: i64,
    /// Whether something was changed.
    changed: bool,
    events: Vec<Committed>,
    /// Where the last change was: what is written together is often close together.
    near: Option<Place>,
    /// What was stored last.
    latest: Option<SlotId>,
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
    /// The store's revision now. It only moved if something was changed.
    pub revision: i64,
    /// In the order in which it happened; empty if the key space was told that nobody wants it.
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
    fn insert(&mut self, record: Record) -> SlotId {
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
        WriteTxn { store: self, revision, changed: false, events: Vec::new(), near: None, latest: None }
    }

    /// The latest version of `key`.
    pub(super) fn current(&self, key: &[u8]) -> Option<&Record> {
        let (_, id) = self.index.find(&self.slots, key).ok()?;
        let slot = self.slots.get(id);
        (!slot.dead).then_some(&slot.current)
    }
}

impl WriteTxn<'_> {
    /// Notes that something was read in it.
    pub(super) fn count_range(&mut self) {
        self.store.counts.ranges += 1;
    }

    /// The store with the changes so far.
    pub fn store(&self) -> &Keyspace {
        self.store
    }

    /// The revision that a read now belongs to.
    pub fn read_revision(&self) -> i64 {
        if self.changed { self.revision } else { self.revision - 1 }
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
        store.counts.puts += 1;
        store.counts.put_bytes += (key.len() + value.len()) as u64;
        let found = store.index.find_near(&store.slots, key, self.near);
        let (id, prev) = match found {
            Err(place) => {
                let record = Record::encode(fields(revision, 1), &mut store.scratch);
                store.bytes += record.encoded().len();
                let slot = Slot { current: record, history: None, lease_position: 0, dead: false };
                let id = store.slots.insert(slot);
                self.near = Some(store.index.insert(place, id, &store.slots));
                (id, None)
            }
            Ok((place, id)) => {
                self.near = Some(place);
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
        self.latest = Some(id);
        self.log(id, prev.as_ref());
        prev
    }

    /// What [`Self::put`] stored last.
    pub fn latest(&self) -> Option<&Record> {
        self.latest.map(|id| &self.store.slots.get(id).current)
    }

    /// Deletes a key; returns what it was.
    pub fn delete_key(&mut self, key: &[u8]) -> Option<Record> {
        self.store.counts.deletes += 1;
        self.end_key(key)
    }

    fn end_key(&mut self, key: &[u8]) -> Option<Record> {
        let store = &mut *self.store;
        let (place, id) = store.index.find(&store.slots, key).ok()?;
        let slot = store.slots.get_mut(id);
        if slot.dead {
            return None;
        }
        let prev = slot.current.clone();
        let record = Record::tombstone(key, self.revision, &mut store.scratch);
        store.bytes += record.encoded().len();
        store.bytes -= slot.push(record);
        store.index.set_live(place, false);
        let lease = prev.fields().lease;
        if lease != 0 {
            store.leases.detach(lease, id, &mut store.slots);
        }
        self.log(id, Some(&prev));
        Some(prev)
    }

    /// Deletes every key of `range`; returns what they were, in order.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<Record> {
        self.store.counts.deletes += 1;
        let store = &*self.store;
        let records: Vec<Record> = store
            .index
            .iter(&store.slots, range)
            .map(|id| store.slots.get(id))
            .filter(|slot| !slot.dead)
            .map(|slot| slot.current.clone())
            .collect();
        for record in &records {
            self.end_key(record.key());
        }
        records
    }

    /// Ends the revision; nothing can fail here.
    pub fn commit(self) -> Commit {
        Commit { revision: self.store.revision, events: self.events }
    }

    /// Notes that a slot has a new latest version, in place of `prev`.
    fn log(&mut self, id: SlotId, prev: Option<&Record>) {
        self.changed = true;
        let store = &mut *self.store;
        let record = &store.slots.get(id).current;
        // A key that changes twice in one revision shows as its last state only.
        if prev.is_some_and(|prev| prev.mod_revision() == self.revision) {
            let before = self.events.iter_mut().rev().find(|event| event.record.key() == record.key());
            if let Some(event) = before {
                event.record = record.clone();
            }
            return;
        }
        if store.heard {
            self.events.push(Committed { record: record.clone(), prev: prev.cloned() });
        }
        store.revision = self.revision;
        store.log.push_back(Change { revision: self.revision, slot: id });
    }
}
