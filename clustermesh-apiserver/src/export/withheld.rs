//! The table of what is not exported, and why.

use std::collections::{BTreeMap, BTreeSet};

use kube_watch::ObjectKey;
use mesh_types::{Reason, Rejection};
use serde::Serialize;

use super::object::Kind;

/// Of several details for one reason, so many are spelled out.
const DETAILS: usize = 3;

/// One thing that is withheld of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// Kind of the object.
    pub kind: Kind,
    /// `namespace/name`, or the name alone.
    pub object: String,
    /// The stable cause.
    pub reason: Reason,
    /// What was expected and what was found, for people.
    pub detail: String,
}

/// What is withheld now: per object and reason one row.
#[derive(Debug, Default)]
pub(crate) struct WithheldTable {
    rows: BTreeMap<(Kind, ObjectKey), BTreeMap<Reason, String>>,
    counts: BTreeMap<(Kind, Reason), usize>,
    /// Rows that nobody was told of yet.
    fresh: BTreeSet<(Kind, ObjectKey, Reason)>,
}

impl WithheldTable {
    /// Everything that the conversion of an object withholds now. Whether the object decodes is another matter and stays.
    pub(crate) fn replace<'a>(
        &mut self,
        kind: Kind,
        object: &ObjectKey,
        withheld: impl IntoIterator<Item = &'a Rejection>,
    ) {
        let mut now = summarise(withheld);
        let id = (kind, object.clone());
        let before = self.rows.remove(&id).unwrap_or_default();
        if let Some(detail) = before.get(&Reason::ObjectUndecodable) {
            now.insert(Reason::ObjectUndecodable, detail.clone());
        }
        self.store(id, &before, now);
    }

    /// The latest content of the object cannot be read.
    pub(crate) fn undecodable(&mut self, kind: Kind, object: &ObjectKey, detail: String) {
        let id = (kind, object.clone());
        let before = self.rows.remove(&id).unwrap_or_default();
        let mut now = before.clone();
        now.insert(Reason::ObjectUndecodable, detail);
        self.store(id, &before, now);
    }

    /// The latest content of the object can be read, or the object is gone.
    pub(crate) fn decodable(&mut self, kind: Kind, object: &ObjectKey) {
        let id = (kind, object.clone());
        let Some(before) = self.rows.get(&id).filter(|rows| rows.contains_key(&Reason::ObjectUndecodable))
        else {
            return;
        };
        let before = before.clone();
        let mut now = before.clone();
        now.remove(&Reason::ObjectUndecodable);
        self.store(id, &before, now);
    }

    fn store(
        &mut self,
        id: (Kind, ObjectKey),
        before: &BTreeMap<Reason, String>,
        now: BTreeMap<Reason, String>,
    ) {
        for &gone in before.keys().filter(|reason| !now.contains_key(reason)) {
            self.fresh.remove(&(id.0, id.1.clone(), gone));
            if let Some(count) = self.counts.get_mut(&(id.0, gone)) {
                *count -= 1;
            }
        }
        for &new in now.keys().filter(|reason| !before.contains_key(reason)) {
            self.fresh.insert((id.0, id.1.clone(), new));
            *self.counts.entry((id.0, new)).or_default() += 1;
        }
        if now.is_empty() {
            self.rows.remove(&id);
        } else {
            self.rows.insert(id, now);
        }
    }

    /// Rows that came up since the last call, of the kinds that `settled` accepts.
    ///
    /// A row that went and came again is told again; one that merely changed its detail is not.
    pub(crate) fn take_fresh(&mut self, settled: impl Fn(Kind) -> bool) -> Vec<Withheld> {
        let told = self.fresh.extract_if(.., |(kind, ..)| settled(*kind));
        let rows = &self.rows;
        told.filter_map(|(kind, object, reason)| {
            let detail = rows.get(&(kind, object.clone()))?.get(&reason)?.clone();
            Some(Withheld { kind, object: object.to_string(), reason, detail })
        })
        .collect()
    }

    /// Every row, by kind and object.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Withheld> {
        self.rows.iter().flat_map(|((kind, object), reasons)| {
            reasons.iter().map(|(reason, detail)| Withheld {
                kind: *kind,
                object: object.to_string(),
                reason: *reason,
                detail: detail.clone(),
            })
        })
    }

    /// How many objects are withheld, by kind and reason; a pair that once occurred stays, with zero.
    pub(crate) fn counts(&self) -> &BTreeMap<(Kind, Reason), usize> {
        &self.counts
    }
}

/// One line per reason, of bounded length however many rejections there are.
fn summarise<'a>(withheld: impl IntoIterator<Item = &'a Rejection>) -> BTreeMap<Reason, String> {
    let mut details: BTreeMap<Reason, (String, usize)> = BTreeMap::new();
    for Rejection { reason, detail } in withheld {
        let (line, count) = details.entry(*reason).or_default();
        *count += 1;
        if *count <= DETAILS {
            if *count > 1 {
                line.push_str("; ");
            }
            line.push_str(detail);
        }
    }
    let finish = |(mut line, count): (String, usize)| {
        if count > DETAILS {
            line.push_str(&format!("; and {} more", count - DETAILS));
        }
        line
    };
    details.into_iter().map(|(reason, details)| (reason, finish(details))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(reason: Reason, detail: &str) -> Rejection {
        Rejection::new(reason, detail)
    }

    fn told(table: &mut WithheldTable) -> Vec<Reason> {
        table.take_fresh(|_| true).into_iter().map(|row| row.reason).collect()
    }

    #[test]
    fn a_row_is_told_once_until_it_goes_and_comes_back() {
        let mut table = WithheldTable::default();
        let cart = ObjectKey::new("shop", "cart");
        let other_proxy = [rejection(Reason::ServiceOtherProxy, "a")];
        table.replace(Kind::Service, &cart, &other_proxy);
        assert_eq!(told(&mut table), [Reason::ServiceOtherProxy]);
        table.replace(Kind::Service, &cart, &[rejection(Reason::ServiceOtherProxy, "b")]);
        assert_eq!(told(&mut table), []);
        assert_eq!(table.rows().next().unwrap().detail, "b", "the detail is the newest one");
        table.replace(Kind::Service, &cart, []);
        assert_eq!(table.rows().count(), 0);
        table.replace(Kind::Service, &cart, &other_proxy);
        assert_eq!(told(&mut table), [Reason::ServiceOtherProxy]);
        assert_eq!(table.counts()[&(Kind::Service, Reason::ServiceOtherProxy)], 1);
    }

    #[test]
    fn an_undecodable_object_stays_so_whatever_its_last_good_version_withholds() {
        let mut table = WithheldTable::default();
        let node = ObjectKey::new("", "worker-1");
        table.undecodable(Kind::CiliumNode, &node, "shape".into());
        table.replace(Kind::CiliumNode, &node, &[rejection(Reason::CidrInvalid, "x")]);
        assert_eq!(told(&mut table), [Reason::CidrInvalid, Reason::ObjectUndecodable]);
        table.decodable(Kind::CiliumNode, &node);
        assert_eq!(table.rows().map(|row| row.reason).collect::<Vec<_>>(), [Reason::CidrInvalid]);
        assert_eq!(table.counts()[&(Kind::CiliumNode, Reason::ObjectUndecodable)], 0);
    }

    #[test]
    fn rows_of_kinds_that_have_not_settled_wait() {
        let mut table = WithheldTable::default();
        table.replace(
            Kind::Pod,
            &ObjectKey::new("a", "b"),
            &[rejection(Reason::NamespaceUnknown, "not yet")],
        );
        assert!(table.take_fresh(|kind| kind != Kind::Pod).is_empty());
        assert_eq!(told(&mut table), [Reason::NamespaceUnknown]);
    }

    #[test]
    fn many_rejections_make_one_line_of_bounded_length() {
        let many: Vec<_> =
            (0..9).map(|n| rejection(Reason::BackendNotReady, &format!("10.0.0.{n}"))).collect();
        let lines = summarise(&many);
        assert_eq!(lines[&Reason::BackendNotReady], "10.0.0.0; 10.0.0.1; 10.0.0.2; and 6 more");
    }
}
