//! Key ranges: half-open intervals of keys in byte order, as etcd has them.

use std::fmt;

use bytes::Bytes;

/// A set of keys: one key, a half-open interval, or everything from a key on.
///
/// Source: etcd `rpc.proto`, `RangeRequest.key` and `range_end`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    end: RangeEnd,
}

/// Where a [`KeyRange`] ends.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum RangeEnd {
    /// The range is the start key alone.
    Single,
    /// Up to this key, which is not part of the range.
    Before(Bytes),
    /// Every key from the start on.
    Unbounded,
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: RangeEnd::Single }
    }

    /// Every key that starts with `prefix`; the empty prefix is every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start).map_or(RangeEnd::Unbounded, RangeEnd::Before);
        Self { start, end }
    }

    /// Every key from `start` on.
    pub fn from(start: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: RangeEnd::Unbounded }
    }

    /// Every key.
    pub fn all() -> Self {
        Self { start: Bytes::new(), end: RangeEnd::Unbounded }
    }

    /// The keys of `start..end`; empty when `end` is not above `start`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: RangeEnd::Before(end.into()) }
    }

    /// From etcd's two fields: an empty `range_end` is a single key, one zero byte is no upper bound.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => RangeEnd::Single,
            [0] => RangeEnd::Unbounded,
            _ => RangeEnd::Before(range_end),
        };
        Self { start: key, end }
    }

    /// etcd's two fields, `key` and `range_end`; the inverse of [`Self::from_wire`].
    ///
    /// etcd refuses an empty `key` outside of a range, so an empty start becomes one zero byte.
    pub fn to_wire(&self) -> (Bytes, Bytes) {
        let end = match &self.end {
            RangeEnd::Single => Bytes::new(),
            RangeEnd::Before(end) => end.clone(),
            RangeEnd::Unbounded => Bytes::from_static(b"\0"),
        };
        let start = if self.start.is_empty() { Bytes::from_static(b"\0") } else { self.start.clone() };
        (start, end)
    }

    /// The same in memory of its own.
    pub(crate) fn copied(&self) -> Self {
        let end = match &self.end {
            RangeEnd::Before(end) => RangeEnd::Before(Bytes::copy_from_slice(end)),
            RangeEnd::Single => RangeEnd::Single,
            RangeEnd::Unbounded => RangeEnd::Unbounded,
        };
        Self { start: Bytes::copy_from_slice(&self.start), end }
    }

    /// First key of the range.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// Where it ends.
    pub fn end(&self) -> &RangeEnd {
        &self.end
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Single => key == self.start,
            RangeEnd::Before(end) => key >= &self.start[..] && key < &end[..],
            RangeEnd::Unbounded => key >= &self.start[..],
        }
    }

    /// Whether the range is one key.
    pub fn is_single(&self) -> bool {
        matches!(self.end, RangeEnd::Single)
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, RangeEnd::Before(end) if end <= &self.start)
    }

    /// Whether every key of `other` is in `self`.
    pub fn covers(&self, other: &Self) -> bool {
        if other.is_empty() {
            return true;
        }
        if !self.contains(&other.start) {
            return false;
        }
        match (&self.end, &other.end) {
            (_, RangeEnd::Single) | (RangeEnd::Unbounded, _) => true,
            (RangeEnd::Before(mine), RangeEnd::Before(theirs)) => theirs <= mine,
            (RangeEnd::Before(_), RangeEnd::Unbounded) | (RangeEnd::Single, _) => false,
        }
    }

    /// The part of the range that comes after `key`: how the next page of a list is asked for.
    pub fn after(&self, key: &[u8]) -> Self {
        let mut next = Vec::with_capacity(key.len() + 1);
        next.extend_from_slice(key);
        next.push(0);
        let end = match &self.end {
            // Nothing follows the only key.
            RangeEnd::Single => RangeEnd::Before(Bytes::copy_from_slice(&next)),
            RangeEnd::Before(_) | RangeEnd::Unbounded => self.end.clone(),
        };
        Self { start: next.into(), end }
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.start.escape_ascii();
        match &self.end {
            RangeEnd::Single => write!(f, "[{start}]"),
            RangeEnd::Before(end) => write!(f, "[{start} .. {})", end.escape_ascii()),
            RangeEnd::Unbounded => write!(f, "[{start} ..)"),
        }
    }
}

impl fmt::Debug for RangeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single => f.write_str("Single"),
            Self::Before(end) => write!(f, "Before({})", end.escape_ascii()),
            Self::Unbounded => f.write_str("Unbounded"),
        }
    }
}

/// The first key after every key that starts with `prefix`; `None` if there is none (all bytes 0xff).
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_starts_with_it_and_nothing_else() {
        let range = KeyRange::prefix(&b"a/"[..]);
        for (key, inside) in
            [("a/", true), ("a/x", true), ("a/\u{7f}", true), ("a", false), ("a0", false), ("b", false)]
        {
            assert_eq!(range.contains(key.as_bytes()), inside, "{key}");
        }
        assert!(KeyRange::prefix(&b"\xff\xff"[..]).contains(b"\xff\xff\xff"));
        assert!(!KeyRange::prefix(&b"\xff\xff"[..]).contains(b"\xff\xfe"));
        assert!(KeyRange::prefix(&b""[..]).contains(b""));
        assert_eq!(KeyRange::prefix(&b"a\xff"[..]).end(), &RangeEnd::Before(Bytes::from_static(b"b")));
    }

    #[test]
    fn the_wire_form_comes_back_as_it_was() {
        for range in [
            KeyRange::key(&b"k"[..]),
            KeyRange::prefix(&b"k/"[..]),
            KeyRange::from(&b"k"[..]),
            KeyRange::between(&b"a"[..], &b"b"[..]),
        ] {
            let (key, end) = range.to_wire();
            assert_eq!(KeyRange::from_wire(key, end), range);
        }
    }

    #[test]
    fn covering_is_containment() {
        let prefix = KeyRange::prefix(&b"a/"[..]);
        for (other, covered) in [
            (KeyRange::key(&b"a/x"[..]), true),
            (KeyRange::prefix(&b"a/x/"[..]), true),
            (prefix.clone(), true),
            (KeyRange::prefix(&b"a"[..]), false),
            (KeyRange::from(&b"a/"[..]), false),
            (KeyRange::between(&b"a/z"[..], &b"a1"[..]), false),
            (KeyRange::between(&b"z"[..], &b"b"[..]), true),
        ] {
            assert_eq!(prefix.covers(&other), covered, "{other:?}");
        }
        assert!(KeyRange::all().covers(&KeyRange::from(&b"x"[..])));
        assert!(!KeyRange::key(&b"a/"[..]).covers(&prefix));
    }

    #[test]
    fn what_follows_a_key_leaves_it_out() {
        let rest = KeyRange::prefix(&b"a/"[..]).after(b"a/m");
        assert!(!rest.contains(b"a/m"));
        assert!(rest.contains(b"a/m\0"));
        assert!(!rest.contains(b"b"));
        assert!(KeyRange::key(&b"k"[..]).after(b"k").is_empty());
    }
}
