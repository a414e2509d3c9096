//! What a store holds under one prefix, as its writer knows it. Pure.

use bytes::Bytes;

use crate::{
    client::LeaseId,
    mvcc::{Fields, Record},
};

/// A full block is split in two.
const FULL: usize = 128;
/// Revision of records that are made here. Those of a store are above.
const OWN: i64 = 0;

/// Keys with values and leases, in the order of the keys, which are relative to the prefix.
///
/// An entry is a pointer of 16 bytes. Where the store is in this process it points to the store's own record, so that
/// neither key nor value is there twice; else to a record that is made for it.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Bytes of the prefix, with which the keys of a store's own records begin.
    prefix: usize,
    /// None is empty.
    blocks: Vec<Vec<Record>>,
}

/// Where a key is, or would be: block and place in it.
type Place = (usize, usize);

impl Stored {
    pub(super) fn under(prefix: usize) -> Self {
        Self { prefix, ..Self::default() }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        let (block, at) = self.find(key).ok()?;
        Some(self.entry(&self.blocks[block][at]))
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.find(key).is_ok()
    }

    /// Notes what the store holds at `key`; `kept` is its own record of that, if it is in this process. Returns the
    /// lease that the key was on before, if it was there.
    pub(super) fn insert(
        &mut self,
        key: &[u8],
        value: &[u8],
        lease: LeaseId,
        kept: Option<Record>,
    ) -> Option<LeaseId> {
        // Someone else may have written the key since.
        let is_it = |record: &Record| {
            let fields = record.fields();
            fields.key.get(self.prefix..) == Some(key)
                && fields.value == value
                && fields.lease == lease.0
                && fields.mod_revision > OWN
        };
        let own = || {
            let fields =
                Fields { key, create_revision: 0, mod_revision: OWN, version: 0, value, lease: lease.0 };
            Record::encode(fields, &mut Vec::new())
        };
        let record = kept.filter(is_it).unwrap_or_else(own);
        match self.find(key) {
            Ok((block, at)) => {
                let before = std::mem::replace(&mut self.blocks[block][at], record);
                Some(LeaseId(before.fields().lease))
            }
            Err(place) => {
                self.insert_at(place, record);
                None
            }
        }
    }

    /// Returns the lease that it was on.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<LeaseId> {
        let (block, at) = self.find(key).ok()?;
        let record = self.blocks[block].remove(at);
        if self.blocks[block].is_empty() {
            self.blocks.remove(block);
        }
        Some(LeaseId(record.fields().lease))
    }

    /// Forgets the entries for which `is_it` is true; returns them, in order.
    pub(super) fn extract(&mut self, is_it: impl Fn(Entry<'_>) -> bool) -> Vec<(Bytes, Bytes)> {
        let mut blocks = std::mem::take(&mut self.blocks);
        let mut extracted = Vec::new();
        for block in &mut blocks {
            block.retain(|record| {
                let entry = self.entry(record);
                let goes = is_it(entry);
                if goes {
                    extracted.push(entry.taken());
                }
                !goes
            });
        }
        blocks.retain(|block| !block.is_empty());
        self.blocks = blocks;
        extracted
    }

    /// All entries in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.blocks.iter().flatten().map(|record| self.entry(record))
    }

    /// Entries behind `from` up to `through`, in order; `None` is without a limit.
    pub(super) fn between<'a>(
        &'a self,
        from: Option<&[u8]>,
        through: Option<&'a [u8]>,
    ) -> impl Iterator<Item = Entry<'a>> {
        let (block, at) = match from.map(|key| self.find(key)) {
            None => (0, 0),
            Some(Ok((block, at))) => (block, at + 1),
            Some(Err(place)) => place,
        };
        let blocks = self.blocks.get(block..).unwrap_or_default();
        let records = blocks.iter().flatten().skip(at);
        records
            .map(|record| self.entry(record))
            .take_while(move |entry| through.is_none_or(|through| entry.key <= through))
    }

    fn find(&self, key: &[u8]) -> Result<Place, Place> {
        let compare = |record: &Record| self.key_of(record).cmp(key);
        let block = self.blocks.partition_point(|block| compare(&block[0]).is_le()).saturating_sub(1);
        let Some(entries) = self.blocks.get(block) else { return Err((0, 0)) };
        // What is stored first comes in order.
        if compare(&entries[entries.len() - 1]).is_lt() {
            return Err((block, entries.len()));
        }
        entries.binary_search_by(compare).map(|at| (block, at)).map_err(|at| (block, at))
    }

    fn insert_at(&mut self, (block, at): Place, record: Record) {
        let Some(entries) = self.blocks.get_mut(block) else {
            self.blocks.push(vec![record]);
            return;
        };
        if entries.len() < FULL {
            entries.insert(at, record);
        } else if at == FULL {
            // What comes in order leaves full blocks behind, not half-full ones.
            let mut next = Vec::with_capacity(FULL);
            next.push(record);
            self.blocks.insert(block + 1, next);
        } else {
            let mut right = Vec::with_capacity(FULL);
            right.extend(entries.drain(FULL / 2..));
            let (half, at) = if at <= FULL / 2 { (entries, at) } else { (&mut right, at - FULL / 2) };
            half.insert(at, record);
            self.blocks.insert(block + 1, right);
        }
    }

    fn entry<'a>(&self, record: &'a Record) -> Entry<'a> {
        let fields = record.fields();
        let key = &fields.key[self.prefix_of(record)..];
        Entry { key, value: fields.value, lease: LeaseId(fields.lease), record }
    }

    fn key_of<'a>(&self, record: &'a Record) -> &'a [u8] {
        &record.key()[self.prefix_of(record)..]
    }

    /// How much of a record's key is the prefix.
    fn prefix_of(&self, record: &Record) -> usize {
        if record.mod_revision() == OWN { 0 } else { self.prefix }
    }
}

/// A key as the store has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) lease: LeaseId,
    record: &'a Record,
}

impl Entry<'_> {
    /// Key and value for longer, without a copy.
    pub(super) fn taken(&self) -> (Bytes, Bytes) {
        let whole = self.record.to_key_value();
        (whole.key.slice(whole.key.len() - self.key.len()..), whole.value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn record(key: &str, value: &str, lease: i64) -> Record {
        let fields = Fields {
            key: key.as_bytes(),
            create_revision: 2,
            mod_revision: 3,
            version: 1,
            value: value.as_bytes(),
            lease,
        };
        Record::encode(fields, &mut Vec::new())
    }

    #[test]
    fn a_record_of_the_store_is_shared_if_it_is_what_was_written() {
        let mut stored = Stored::under(2);
        let kept = record("p/a", "1", 7);
        assert_eq!(stored.insert(b"a", b"1", LeaseId(7), Some(kept.clone())), None);
        let shares = |stored: &Stored, kept: &Record| {
            std::ptr::eq(stored.get(b"a").unwrap().value.as_ptr(), kept.fields().value.as_ptr())
        };
        assert!(shares(&stored, &kept));
        for other in
            [record("p/a", "2", 7), record("p/a", "1", 8), record("p/b", "1", 7), record("p", "1", 7)]
        {
            assert_eq!(stored.insert(b"a", b"1", LeaseId(7), Some(other.clone())), Some(LeaseId(7)));
            assert!(!shares(&stored, &other), "{other:?} is someone else's");
            let entry = stored.get(b"a").unwrap();
            assert_eq!((entry.key, entry.value, entry.lease), (&b"a"[..], &b"1"[..], LeaseId(7)));
            assert_eq!(entry.taken(), (Bytes::from_static(b"a"), Bytes::from_static(b"1")));
        }
    }

    proptest! {
        /// It is a map, whoever holds the records.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..400u16, any::<bool>(), 0..4u8), 0..600), from in 0..400u16, through in prop::option::of(0..400u16)) {
            let (mut stored, mut map) = (Stored::under(2), BTreeMap::new());
            let name = |key: u16| format!("{key:03}");
            for (key, shared, what) in steps {
                let key = name(key);
                if what == 0 {
                    let before = map.remove(&key).map(|_: (String, i64)| LeaseId(1));
                    prop_assert_eq!(stored.remove(key.as_bytes()), before);
                    continue;
                }
                let value = what.to_string();
                let kept = shared.then(|| record(&format!("p/{key}"), &value, 1));
                let before = stored.insert(key.as_bytes(), value.as_bytes(), LeaseId(1), kept);
                prop_assert_eq!(before.is_some(), map.insert(key, (value, 1)).is_some());
            }
            let entry = |(key, (value, lease)): (&String, &(String, i64))| (key.clone(), value.clone(), *lease);
            let found = |entry: Entry<'_>| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                (text(entry.key), text(entry.value), entry.lease.0)
            };
            prop_assert!(stored.iter().map(found).eq(map.iter().map(entry)));
            let (from, through) = (name(from), through.map(name));
            let part = map.iter().filter(|(key, _)| **key > from && through.as_ref().is_none_or(|end| *key <= end));
            let between = stored.between(Some(from.as_bytes()), through.as_ref().map(String::as_bytes));
            prop_assert!(between.map(found).eq(part.map(entry)));
            let is_one = |entry: Entry<'_>| entry.value == b"1";
            let extracted: Vec<String> =
                stored.extract(is_one).into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect();
            prop_assert!(extracted.iter().eq(map.iter().filter(|(_, (value, _))| value == "1").map(|(key, _)| key)));
            prop_assert!(stored.iter().map(found).eq(map.iter().filter(|(_, (value, _))| value != "1").map(entry)));
        }
    }
}
