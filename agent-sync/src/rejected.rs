//! What was not accepted, per key, and how often. Pure.

use std::collections::BTreeMap;

use mesh_types::{Reason, Rejection};

/// Most keys that are kept with their reason; beyond it they are only counted.
const LIMIT: usize = 10_000;

/// Which value it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RejectedKey {
    /// The cluster that it comes from; the local one for objects of the own Kubernetes API.
    pub cluster: String,
    /// Kind: `nodes`, `ip`, `identities`, `services`, `cluster-config`, or a Kubernetes kind.
    pub kind: &'static str,
    /// The key after the prefix, or `namespace/name`.
    pub key: String,
}

/// The values that are not in effect because something is wrong with them.
#[derive(Debug, Default)]
pub struct Rejected {
    table: BTreeMap<RejectedKey, Rejection>,
    counts: BTreeMap<(String, Reason), u64>,
    overflow: u64,
}

impl Rejected {
    /// A value was rejected. Returns whether that is news: another value or reason than what is known of the key.
    pub fn reject(&mut self, key: RejectedKey, refused: Rejection) -> bool {
        *self.counts.entry((key.cluster.clone(), refused.reason)).or_default() += 1;
        if self.table.get(&key) == Some(&refused) {
            return false;
        }
        if self.table.len() >= LIMIT && !self.table.contains_key(&key) {
            self.overflow += 1;
            return false;
        }
        self.table.insert(key, refused);
        true
    }

    /// The key has a good value, or is gone.
    pub fn clear(&mut self, key: &RejectedKey) {
        // Nearly always empty: do not make every good key pay for a look-up.
        if !self.table.is_empty() {
            self.table.remove(key);
        }
    }

    /// The cluster is gone.
    pub fn clear_cluster(&mut self, cluster: &str) {
        self.table.retain(|key, _| key.cluster != cluster || key.kind == "cluster-config");
    }

    /// What is rejected at present, by cluster, kind and key.
    pub fn iter(&self) -> impl Iterator<Item = (&RejectedKey, &Rejection)> {
        self.table.iter()
    }

    /// How many keys are rejected at present, as far as they are kept.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is rejected.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many keys came when the table was full.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// How often each reason occurred per cluster, since the start.
    pub fn counts(&self) -> &BTreeMap<(String, Reason), u64> {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> RejectedKey {
        RejectedKey { cluster: "east".to_owned(), kind: "nodes", key: format!("n{n}") }
    }

    fn why(detail: &str) -> Rejection {
        Rejection::new(Reason::ValueNotJson, detail)
    }

    #[test]
    fn the_same_rejection_is_news_once_and_counted_always() {
        let mut rejected = Rejected::default();
        assert!(rejected.reject(key(1), why("a")));
        assert!(!rejected.reject(key(1), why("a")));
        assert!(rejected.reject(key(1), why("b")));
        rejected.clear(&key(1));
        assert!(rejected.is_empty());
        assert!(rejected.reject(key(1), why("b")));
        assert_eq!(rejected.counts()[&("east".to_owned(), Reason::ValueNotJson)], 4);
    }

    #[test]
    fn the_table_is_bounded_and_says_what_it_left_out() {
        let mut rejected = Rejected::default();
        for n in 0..LIMIT + 5 {
            rejected.reject(key(n), why("a"));
        }
        assert_eq!((rejected.len(), rejected.overflow()), (LIMIT, 5));
        assert!(rejected.reject(key(0), why("b")), "known keys are still kept up to date");
        rejected.clear_cluster("east");
        assert!(rejected.is_empty());
    }
}
