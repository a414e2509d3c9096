//! From what a peer's store says of one kind to what is to be written. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;
use kvstore::Revision;
use kvstore::sync::Change;
use mesh_types::Rejection;

use crate::resource::check_entry;

/// The keys of one kind in the course of one connection. Keys are relative to the kind's prefix.
///
/// What was mirrored over earlier connections is not known here; a complete list says what is to stay of it.
#[derive(Debug)]
pub(crate) struct Intake {
    max_value_bytes: usize,
    /// What was named since contact was gained or lost; `None` while a watch tells of each change.
    named: Option<BTreeSet<Bytes>>,
    listed: bool,
}

/// What a batch of changes asks for.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// To write (`Some`) or delete (`None`), in order.
    pub(crate) wishes: Vec<(Bytes, Option<Bytes>)>,
    /// Entries that are not mirrored; an earlier value of them stays.
    pub(crate) skipped: Vec<(Bytes, Rejection)>,
    /// What the batch says of the view as a whole.
    pub(crate) signal: Option<Signal>,
}

/// What becomes of a view.
#[derive(Clone, Debug)]
pub(crate) enum Signal {
    /// The list is complete. If its store is the right one, keep what [`Intake::complete`] returns.
    Listed {
        /// As of when.
        revision: Revision,
        /// It is not the first of this connection: the store had forgotten where we were, or is another.
        again: bool,
    },
    /// Contact is lost.
    Lost,
    /// Contact is back and nothing was missed.
    Resumed,
}

impl Intake {
    /// At the begin of a connection, where a list comes first.
    pub(crate) fn new(max_value_bytes: usize) -> Self {
        Self { max_value_bytes, named: Some(BTreeSet::new()), listed: false }
    }

    /// Takes a batch as a follower gives it.
    pub(crate) fn take(&mut self, batch: Vec<Change>) -> Taken {
        let mut taken = Taken::default();
        // Deletions at the end of a list are a conclusion, which is drawn in `complete` if the list can be trusted.
        let ends_list = matches!(batch.last(), Some(Change::ListDone { .. }));
        for change in batch {
            match change {
                Change::Put { key, value, .. } => {
                    if let Some(named) = &mut self.named {
                        named.insert(key.clone());
                    }
                    match check_entry(&key, &value, self.max_value_bytes) {
                        Ok(()) => taken.wishes.push((key, Some(value))),
                        Err(rejection) => taken.skipped.push((key, rejection)),
                    }
                }
                Change::Delete { .. } if ends_list => {}
                Change::Delete { key } => {
                    if let Some(named) = &mut self.named {
                        named.remove(&key);
                    }
                    taken.wishes.push((key, None));
                }
                Change::ListDone { revision, .. } => {
                    let again = std::mem::replace(&mut self.listed, true);
                    taken.signal = Some(Signal::Listed { revision, again });
                }
                Change::Lost { .. } => {
                    self.named = Some(BTreeSet::new());
                    taken.signal = Some(Signal::Lost);
                }
                Change::Resumed { .. } => {
                    self.named = None;
                    taken.signal = Some(Signal::Resumed);
                }
            }
        }
        taken
    }

    /// The list was complete and can be trusted: exactly these keys exist.
    pub(crate) fn complete(&mut self) -> BTreeSet<Bytes> {
        self.named.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
