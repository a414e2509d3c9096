//! Which key ranges may be read and written. Pure.

use bytes::Bytes;

use crate::range::{KeyRange, RangeEnd};

/// What may be done with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and watch.
    Read,
    /// Put and delete.
    Write,
    /// Both.
    ReadWrite,
}

/// A permission of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// With which keys.
    pub range: KeyRange,
    /// What.
    pub access: Access,
}

/// Everything that a user may do: two lists of ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default)]
pub(super) struct Permissions {
    read: Vec<Span>,
    write: Vec<Span>,
}

/// `start..end`; no end is everything from the start on.
#[derive(Clone, Debug)]
struct Span {
    start: Bytes,
    end: Option<Bytes>,
}

impl Permissions {
    pub(super) fn merge<'a>(grants: impl Iterator<Item = &'a Grant>) -> Self {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for grant in grants.filter(|grant| !grant.range.is_empty()) {
            let span = Span::of(&grant.range);
            if grant.access != Access::Write {
                read.push(span.clone());
            }
            if grant.access != Access::Read {
                write.push(span);
            }
        }
        Self { read: join(read), write: join(write) }
    }

    /// Whether all of `range` may be accessed so.
    pub(super) fn covers(&self, range: &KeyRange, access: Access) -> bool {
        let one = |spans: &[Span]| {
            let asked = Span::of(range);
            // The spans are disjoint, so only the last one that starts early enough can hold the range.
            let before = spans.partition_point(|span| span.start <= asked.start);
            before.checked_sub(1).is_some_and(|at| spans[at].holds(&asked.start) && spans[at].reaches(&asked))
        };
        match access {
            Access::Read => one(&self.read),
            Access::Write => one(&self.write),
            Access::ReadWrite => one(&self.read) && one(&self.write),
        }
    }
}

impl Span {
    fn of(range: &KeyRange) -> Self {
        let start = range.start().clone();
        let end = match range.end() {
            RangeEnd::Single => {
                let mut next = start.to_vec();
                next.push(0);
                Some(next.into())
            }
            RangeEnd::Before(end) => Some(end.clone()),
            RangeEnd::Unbounded => None,
        };
        Self { start, end }
    }

    /// Whether `key`, which is not before the start, is before the end. Matters for ranges whose end is before
    /// their start: they hold no key, but whoever asks for one must still be allowed where it begins.
    fn holds(&self, key: &Bytes) -> bool {
        self.end.as_ref().is_none_or(|end| key < end)
    }

    fn reaches(&self, other: &Self) -> bool {
        match (&self.end, &other.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs <= mine,
        }
    }
}

/// Overlapping and touching spans become one.
fn join(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by(|a, b| a.start.cmp(&b.start));
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if last.end.as_ref().is_none_or(|end| span.start <= *end) => {
                if !last.reaches(&span) {
                    last.end = span.end;
                }
            }
            Some(_) | None => joined.push(span),
        }
    }
    joined
}
