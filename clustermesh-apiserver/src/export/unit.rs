//! What one object contributes to the store.

use std::sync::Arc;

use bytes::Bytes;
use mesh_types::Rejection;

use super::object::NamespaceName;

/// A key below its resource's prefix, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key after the prefix, such as `prod-eu/shop/cart` without the cluster: `shop/cart`.
    pub name: Arc<str>,
    /// The stored bytes.
    pub value: Bytes,
}

/// What one object contributes: entries, and what of it is withheld.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// The entries go out only while this namespace is global; `None` for what belongs to no namespace.
    pub(crate) namespace: Option<NamespaceName>,
    /// By name, each name once.
    entries: Vec<Entry>,
    /// What is left out, and why.
    pub(crate) withheld: Vec<Rejection>,
}

impl Unit {
    /// Contributes nothing (yet).
    pub(crate) fn in_namespace(namespace: Option<&str>) -> Self {
        Self { namespace: namespace.map(Into::into), ..Self::default() }
    }

    /// Nothing, for a reason.
    pub(crate) fn refused(namespace: Option<&str>, refused: Rejection) -> Self {
        Self { withheld: vec![refused], ..Self::in_namespace(namespace) }
    }

    /// One entry and nothing withheld.
    pub(crate) fn of(namespace: Option<&str>, name: &str, value: Vec<u8>) -> Self {
        let entries = vec![Entry { name: name.into(), value: value.into() }];
        Self { entries, ..Self::in_namespace(namespace) }
    }

    /// The same, with what of the object is left out.
    pub(crate) fn withholding(mut self, withheld: Vec<Rejection>) -> Self {
        self.withheld = withheld;
        self
    }

    /// Sets the entries; of two with one name the first stays and the name of the other is returned.
    pub(crate) fn set_entries(&mut self, mut entries: Vec<Entry>) -> Vec<Arc<str>> {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut doubles = Vec::new();
        entries.dedup_by(|later, first| {
            let same = later.name == first.name;
            if same {
                doubles.push(Arc::clone(&later.name));
            }
            same
        });
        self.entries = entries;
        doubles
    }

    /// In the order of their names.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What of the object is withheld, and why.
    pub fn withheld(&self) -> &[Rejection] {
        &self.withheld
    }

    pub(crate) fn value(&self, name: &str) -> Option<&Bytes> {
        let at = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        Some(&self.entries[at].value)
    }
}
