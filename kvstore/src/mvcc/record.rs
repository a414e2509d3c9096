//! One version of one key, kept in the form in which it goes over the wire.

use std::{fmt, sync::Arc};

use bytes::{BufMut, Bytes};

use crate::client::{KeyValue, LeaseId, Revision};

/// One version of a key, or the mark of its deletion: an encoded `mvccpb.KeyValue`.
///
/// Ranges and watch events copy these bytes instead of encoding anything. One allocation, shared by the
/// index, the history and every reader: 16 bytes of counters and about 20 of numbers over key and value.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Arc<[u8]>);

/// A record taken apart; see [`KeyValue`] for the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The whole key.
    pub key: &'a [u8],
    /// 0 in the mark of a deletion.
    pub create_revision: i64,
    /// When this version came to be.
    pub mod_revision: i64,
    /// 0 in the mark of a deletion.
    pub version: i64,
    /// Empty in the mark of a deletion.
    pub value: &'a [u8],
    /// 0 is none.
    pub lease: i64,
}

/// An encoded record as it is seen from below a prefix: two pieces that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Below<'a> {
    head: [u8; 11],
    head_len: usize,
    tail: &'a [u8],
}

impl Below<'_> {
    pub(crate) fn len(&self) -> usize {
        self.head_len + self.tail.len()
    }

    pub(crate) fn put(&self, out: &mut impl BufMut) {
        out.put_slice(&self.head[..self.head_len]);
        out.put_slice(self.tail);
    }
}

const KEY: u8 = 0x0a;
const CREATE: u8 = 0x10;
const MOD: u8 = 0x18;
const VERSION: u8 = 0x20;
const VALUE: u8 = 0x2a;
const LEASE: u8 = 0x30;

impl Record {
    /// Encodes; `scratch` is only there to be used again.
    pub fn encode(fields: Fields<'_>, scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        put_bytes(scratch, KEY, fields.key);
        put_number(scratch, CREATE, fields.create_revision);
        put_number(scratch, MOD, fields.mod_revision);
        put_number(scratch, VERSION, fields.version);
        put_bytes(scratch, VALUE, fields.value);
        put_number(scratch, LEASE, fields.lease);
        Self(Arc::from(&scratch[..]))
    }

    /// The mark of a deletion.
    pub fn tombstone(key: &[u8], revision: i64, scratch: &mut Vec<u8>) -> Self {
        let fields =
            Fields { key, create_revision: 0, mod_revision: revision, version: 0, value: b"", lease: 0 };
        Self::encode(fields, scratch)
    }

    /// How many hold it.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// The encoded `mvccpb.KeyValue`.
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    /// What is encoded without the first `strip` bytes of the key, for a caller who does not see them.
    pub(crate) fn below(&self, strip: usize) -> Below<'_> {
        let mut below = Below { head: [0; 11], head_len: 0, tail: &self.0 };
        if strip == 0 {
            return below;
        }
        let (key, rest) = self.split_key();
        let left = key.len().saturating_sub(strip);
        below.tail = &self.0[self.0.len() - rest.len() - left..];
        if left > 0 {
            below.head[0] = KEY;
            below.head_len = 1;
            let mut number = left;
            while number >= 0x80 {
                below.head[below.head_len] = (number as u8) | 0x80;
                number >>= 7;
                below.head_len += 1;
            }
            below.head[below.head_len] = number as u8;
            below.head_len += 1;
        }
        below
    }

    /// The whole key.
    pub fn key(&self) -> &[u8] {
        let (key, _) = self.split_key();
        key
    }

    /// When this version came to be.
    pub fn mod_revision(&self) -> i64 {
        let (_, mut rest) = self.split_key();
        take_number(&mut rest, CREATE);
        take_number(&mut rest, MOD)
    }

    /// Whether it is the mark of a deletion.
    pub fn is_tombstone(&self) -> bool {
        self.split_key().1.first() == Some(&MOD)
    }

    /// Everything.
    pub fn fields(&self) -> Fields<'_> {
        let (key, mut rest) = self.split_key();
        Fields {
            key,
            create_revision: take_number(&mut rest, CREATE),
            mod_revision: take_number(&mut rest, MOD),
            version: take_number(&mut rest, VERSION),
            value: take_bytes(&mut rest, VALUE),
            lease: take_number(&mut rest, LEASE),
        }
    }

    /// For callers in this process: the bytes stay shared with the store.
    pub fn to_key_value(&self) -> KeyValue {
        let fields = self.fields();
        let shared = Bytes::from_owner(self.clone());
        let part = |part: &[u8]| match part {
            [] => Bytes::new(),
            part => {
                let start = part.as_ptr() as usize - self.0.as_ptr() as usize;
                shared.slice(start..start + part.len())
            }
        };
        KeyValue {
            key: part(fields.key),
            value: part(fields.value),
            create_revision: Revision(fields.create_revision),
            mod_revision: Revision(fields.mod_revision),
            version: fields.version,
            lease: LeaseId(fields.lease),
        }
    }

    fn split_key(&self) -> (&[u8], &[u8]) {
        let mut rest = &self.0[..];
        let key = take_bytes(&mut rest, KEY);
        (key, rest)
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields();
        write!(f, "{}@{}", fields.key.escape_ascii(), fields.mod_revision)?;
        if fields.version == 0 { f.write_str(" deleted") } else { Ok(()) }
    }
}

/// Appends `number` as protobuf's base-128 varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Bytes that [`put_varint`] appends.
pub(crate) fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: i64) {
    if number != 0 {
        out.push(tag);
        put_varint(out, number as u64);
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Reads a varint; `None` if there is none.
pub(crate) fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (at, &byte) in rest.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *rest = &rest[at + 1..];
            return Some(number);
        }
    }
    None
}

/// A varint of a record, which only `encode` writes.
fn own_varint(rest: &mut &[u8]) -> u64 {
    take_varint(rest).expect("records are written by `encode` only")
}

fn take_number(rest: &mut &[u8], tag: u8) -> i64 {
    if rest.first() != Some(&tag) {
        return 0;
    }
    *rest = &rest[1..];
    own_varint(rest) as i64
}

fn take_bytes<'a>(rest: &mut &'a [u8], tag: u8) -> &'a [u8] {
    if rest.first() != Some(&tag) {
        return b"";
    }
    *rest = &rest[1..];
    let len = own_varint(rest) as usize;
    let (bytes, after) = rest.split_at(len);
    *rest = after;
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is encoded reads back the same, by us and by a protobuf decoder that knows nothing of us.
        #[test]
        fn records_read_back(
            key in prop::collection::vec(any::<u8>(), 1..200),
            value in prop::collection::vec(any::<u8>(), 0..200),
            numbers in prop::array::uniform4(prop_oneof![Just(0i64), 1..1000i64, Just(i64::MAX), Just(-1)]),
        ) {
            let [create_revision, mod_revision, version, lease] = numbers;
            let fields = Fields { key: &key, create_revision, mod_revision, version, value: &value, lease };
            let record = Record::encode(fields, &mut Vec::new());
            prop_assert_eq!(record.fields(), fields);
            prop_assert_eq!(record.key(), &key[..]);
            prop_assert_eq!(record.mod_revision(), mod_revision);
            let shared = record.to_key_value();
            prop_assert_eq!((&shared.key[..], &shared.value[..]), (&key[..], &value[..]));
            let decoded: crate::proto::mvccpb::KeyValue = prost::Message::decode(record.encoded()).unwrap();
            prop_assert_eq!((&decoded.key[..], &decoded.value[..]), (&key[..], &value[..]));
            for strip in [0, 1, key.len() / 2, key.len() - 1, key.len()] {
                let mut out = Vec::new();
                record.below(strip).put(&mut out);
                prop_assert_eq!(out.len(), record.below(strip).len());
                let below = Fields { key: &key[strip..], ..fields };
                let expected = Record::encode(below, &mut Vec::new());
                prop_assert_eq!(&out[..], expected.encoded());
            }
            prop_assert_eq!(
                [decoded.create_revision, decoded.mod_revision, decoded.version, decoded.lease],
                numbers
            );
        }
    }

    #[test]
    fn a_tombstone_has_only_key_and_revision() {
        let record = Record::tombstone(b"k", 7, &mut Vec::new());
        assert!(record.is_tombstone());
        assert_eq!((record.fields().version, record.mod_revision()), (0, 7));
        assert_eq!(varint_len(0), 1);
        assert_eq!(varint_len(127), 1);
        assert_eq!(varint_len(128), 2);
        assert_eq!(varint_len(u64::MAX), 10);
    }
}
