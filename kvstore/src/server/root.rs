//! A part of the key space that a caller has for the whole of it: keys of requests gain a prefix, keys of answers lose it.
//!
//! What always holds: no request of such a caller names a key outside of the prefix once it went through here, in whatever
//! form it names its range; permissions are checked after that, on whole keys. Pure.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    proto::etcdserverpb::{self as pb, request_op::Request},
    range::{KeyRange, RangeEnd},
};

/// The prefix below which a caller lives; empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root(Bytes);

impl Root {
    pub(crate) fn new(prefix: Bytes) -> Self {
        Self(prefix)
    }

    /// Whether the caller sees everything there is.
    pub(crate) fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that keys of answers lose.
    pub(crate) fn strip(&self) -> usize {
        self.0.len()
    }

    /// Whether the caller sees this key.
    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        key.starts_with(&self.0)
    }

    /// Places a key.
    pub(crate) fn place_key(&self, key: &mut Bytes) {
        if !self.is_everything() {
            *key = self.below(key);
        }
    }

    /// Places a range, as its two fields: one zero byte as the end, which means no end, becomes the end of the prefix.
    pub(crate) fn place_range(&self, key: &mut Bytes, range_end: &mut Bytes) {
        if self.is_everything() {
            return;
        }
        *key = self.below(key);
        *range_end = match &range_end[..] {
            [] => Bytes::new(),
            [0] => match KeyRange::prefix(self.0.clone()).end() {
                RangeEnd::Before(end) => end.clone(),
                // Nothing sorts after a prefix of 0xff alone.
                RangeEnd::Single | RangeEnd::Unbounded => Bytes::from_static(b"\0"),
            },
            end => self.below(end),
        };
    }

    /// Places everything that a transaction names.
    pub(crate) fn place_txn(&self, txn: &mut pb::TxnRequest) {
        if self.is_everything() {
            return;
        }
        for compare in &mut txn.compare {
            self.place_range(&mut compare.key, &mut compare.range_end);
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => self.place_range(&mut range.key, &mut range.range_end),
                Some(Request::RequestPut(put)) => self.place_key(&mut put.key),
                Some(Request::RequestDeleteRange(delete)) => {
                    self.place_range(&mut delete.key, &mut delete.range_end);
                }
                Some(Request::RequestTxn(nested)) => self.place_txn(nested),
                None => {}
            }
        }
    }

    fn below(&self, key: &[u8]) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.0.len() + key.len());
        whole.put_slice(&self.0);
        whole.put_slice(key);
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root() -> impl Strategy<Value = Bytes> {
        let bytes = prop_oneof![Just(0u8), Just(b'/'), Just(b'a'), Just(0xff)];
        prop::collection::vec(bytes, 1..4).prop_map(Bytes::from)
    }

    fn key() -> impl Strategy<Value = Bytes> {
        let bytes = prop_oneof![Just(0u8), Just(1), Just(b'/'), Just(b'a'), Just(b'b'), Just(0xff)];
        prop::collection::vec(bytes, 0..4).prop_map(Bytes::from)
    }

    proptest! {
        /// A placed range holds below the prefix what it held before, and nothing that is not below it.
        #[test]
        fn a_placed_range_holds_the_same_keys_below_the_prefix_and_no_others(
            prefix in root(),
            from in key(),
            to in key(),
            others in prop::collection::vec(key(), 0..16),
        ) {
            let asked = KeyRange::from_wire(from.clone(), to.clone());
            let (mut from, mut to) = (from, to);
            Root::new(prefix.clone()).place_range(&mut from, &mut to);
            let placed = KeyRange::from_wire(from, to);
            for other in others {
                let whole = [&prefix[..], &other[..]].concat();
                prop_assert_eq!(placed.contains(&whole), asked.contains(&other), "{:?} in {:?}", other, asked);
                prop_assert!(!placed.contains(&other) || other.starts_with(&prefix), "{:?} in {:?}", other, placed);
            }
            prop_assert!(KeyRange::prefix(prefix).covers(&placed));
        }
    }

    #[test]
    fn who_sees_everything_asks_for_what_was_asked() {
        let (mut key, mut end) = (Bytes::from_static(b"a"), Bytes::from_static(b"\0"));
        Root::default().place_range(&mut key, &mut end);
        assert_eq!((&key[..], &end[..]), (&b"a"[..], &b"\0"[..]));
    }
}
