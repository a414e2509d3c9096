//! Which users live below a prefix, and since when.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tracing::info;

use super::Store;
use crate::{
    auth::ROOT_NOTES,
    client::{LeaseId, Write},
    mvcc::Keyspace,
    range::KeyRange,
};

/// How often the root of any user changed in this life of the store; never 0 where one ever did.
pub(super) fn root_changes(keyspace: &Keyspace) -> u64 {
    u64::from(keyspace.count_at(&KeyRange::prefix(ROOT_NOTES), keyspace.revision()) > 0)
}

impl Store {
    /// Grows whenever the root of any user changes; 0 while none ever did.
    pub(crate) fn root_changes(&self) -> u64 {
        self.root_changes.load(Ordering::Acquire)
    }

    /// What a user read at or before this revision is of another root than the one that it has.
    pub(crate) fn root_since(&self, user: &str) -> i64 {
        let note = self.get(format!("{ROOT_NOTES}{user}").as_bytes());
        note.map_or(0, |note| note.mod_revision())
    }

    /// Notes the roots that changed as a revision of their own, then has every watch find out whether it is over.
    pub(super) fn note_roots(&self, moved: Vec<(String, Bytes)>) {
        if moved.is_empty() {
            return;
        }
        let note = |(user, root): (String, Bytes)| {
            info!(user, root = %root.escape_ascii(), "what the user sees of the store is another part of it");
            Write::Put { key: format!("{ROOT_NOTES}{user}").into(), value: root, lease: LeaseId::NONE }
        };
        let notes: Vec<Write> = moved.into_iter().map(note).collect();
        // Refused only for a lease that is missing, and there is none.
        let _never_refused = self.write_batch(&notes, |_| ());
        self.root_changes.fetch_add(1, Ordering::AcqRel);
        self.hub.wake_all();
    }
}
