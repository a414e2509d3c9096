//! The versions of each key, at a number that stays the same while the key is known.

use super::record::Record;

/// Number of a key's place; used again once the key is forgotten.
pub(crate) type SlotId = u32;

/// Slots per chunk; chunks keep the table from doubling (and copying) as it grows.
const CHUNK: usize = 1 << 12;

/// All versions of one key that are still kept.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The latest version; perhaps the mark of its deletion.
    pub(crate) current: Record,
    /// Earlier versions, oldest first. Most keys have none, so it is a pointer.
    #[expect(clippy::box_collection, reason = "8 bytes instead of 24 in each of millions of slots")]
    pub(crate) history: Option<Box<Vec<Record>>>,
    /// Where the key stands in its lease's list; only read if the record names a lease.
    pub(crate) lease_position: u32,
    /// Whether `current` marks a deletion; spares a look at the record.
    pub(crate) dead: bool,
}

impl Slot {
    /// The version that was there at `revision`; `None` if the key was not there.
    pub(crate) fn at(&self, revision: i64) -> Option<&Record> {
        self.version_at(revision).filter(|record| !record.is_tombstone())
    }

    /// The latest version, deletion included, not after `revision`.
    pub(crate) fn version_at(&self, revision: i64) -> Option<&Record> {
        if self.current.mod_revision() <= revision {
            return Some(&self.current);
        }
        self.history.as_ref()?.iter().rev().find(|record| record.mod_revision() <= revision)
    }

    /// Makes `record` the latest version and keeps the one before, unless that is of the same revision;
    /// returns the bytes freed.
    pub(crate) fn push(&mut self, record: Record) -> usize {
        self.dead = record.is_tombstone();
        let before = std::mem::replace(&mut self.current, record);
        if before.mod_revision() == self.current.mod_revision() {
            return before.encoded().len();
        }
        self.history.get_or_insert_default().push(before);
        0
    }

    /// Forgets what was superseded at or before `revision`; returns the bytes freed.
    pub(crate) fn forget_before(&mut self, revision: i64) -> usize {
        let Some(history) = &mut self.history else { return 0 };
        let current_is_older = self.current.mod_revision() <= revision;
        let keep_from = if current_is_older {
            history.len()
        } else {
            let newer = history.partition_point(|record| record.mod_revision() <= revision);
            // The last one not after `revision` is what a reader at `revision` sees, unless that is nothing.
            match newer.checked_sub(1) {
                Some(last) if !history[last].is_tombstone() || history[last].mod_revision() == revision => {
                    last
                }
                Some(_) | None => newer,
            }
        };
        let freed = history.drain(..keep_from).map(|record| record.encoded().len()).sum();
        if history.is_empty() {
            self.history = None;
        }
        freed
    }
}

/// Slots by number.
#[derive(Debug)]
pub(crate) struct Slots {
    chunks: Vec<Vec<Slot>>,
    free: Vec<SlotId>,
    /// What a free slot has.
    nothing: Record,
}

impl Default for Slots {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), nothing: Record::tombstone(b"", 0, &mut Vec::new()) }
    }
}

impl Slots {
    pub(crate) fn insert(&mut self, slot: Slot) -> SlotId {
        if let Some(id) = self.free.pop() {
            *self.get_mut(id) = slot;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first chunk grows as it must, so that an empty store is small.
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        let chunk = self.chunks.len() - 1;
        self.chunks[chunk].push(slot);
        (chunk * CHUNK + self.chunks[chunk].len() - 1) as SlotId
    }

    /// The number may be given to another key from now on.
    pub(crate) fn release(&mut self, id: SlotId) {
        let nothing = self.nothing.clone();
        let slot = self.get_mut(id);
        (slot.current, slot.history, slot.dead) = (nothing, None, true);
        self.free.push(id);
    }

    pub(crate) fn get(&self, id: SlotId) -> &Slot {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    pub(crate) fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}
