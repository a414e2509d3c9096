//! One watch: from the past through the present, without gap or duplicate.

use std::sync::Arc;

use crate::{
    hub::{Batch, Subscription, Taken},
    mvcc::Refusal,
    store::Store,
};

/// Bytes of events in one step through the log.
const STEP_BYTES: usize = 512 << 10;
/// Changes looked at in one step through the log, under one hold of the lock.
const STEP_CHANGES: usize = 2 * 1024;

/// A watch of a range.
#[derive(Debug)]
pub(crate) struct Watcher {
    subscription: Subscription,
    /// Everything before this revision is delivered.
    next: i64,
    /// Whether the log has to be read before the subscription.
    behind: bool,
}

/// What a look at a watch gave.
#[derive(Debug)]
pub(crate) struct Look {
    /// In order; may be empty.
    pub(crate) batches: Vec<Arc<Batch>>,
    /// Everything up to and with this revision is delivered then.
    pub(crate) through: i64,
    /// Whether to look again at once.
    pub(crate) again: bool,
}

impl Watcher {
    /// `behind`: `next` lies in the past. The watch will be named by its signal when there is news, at once if
    /// it is behind.
    pub(crate) fn new(subscription: Subscription, next: i64, behind: bool) -> Self {
        if behind {
            subscription.wake();
        }
        Self { subscription, next, behind }
    }

    /// Everything before this revision is delivered.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// Whether it has caught up with the present, as far as it knows.
    pub(crate) fn is_synced(&self) -> bool {
        !self.behind
    }

    /// What there is to deliver now.
    ///
    /// # Errors
    /// [`Refusal::Compacted`]: what should come next is gone.
    pub(crate) fn look(&mut self, store: &Store) -> Result<Look, Refusal> {
        if !self.behind {
            match self.subscription.take() {
                Taken::Batches(mut batches) => {
                    // A revision that was read from the log may be kept here as well.
                    batches.retain(|batch| batch.revision >= self.next);
                    if let Some(last) = batches.last() {
                        self.next = last.revision + 1;
                    }
                    return Ok(Look { batches, through: self.next - 1, again: false });
                }
                Taken::Behind { from } => {
                    // A quiet watch has not moved for long, and may be where the log was compacted since.
                    self.next = self.next.max(from);
                    self.behind = true;
                }
            }
        }
        let (events, next, synced) = store.look(|keyspace| {
            let (events, next) =
                keyspace.changes(self.subscription.range(), self.next, STEP_BYTES, STEP_CHANGES)?;
            let synced = next > keyspace.revision();
            if synced {
                // What was read here must not come again, and nothing can come in between: a change is
                // published only after the key space was locked for it, and if it was so before us, its
                // revision tells.
                self.subscription.skip();
            }
            Ok((events, next, synced))
        })?;
        self.next = next;
        self.behind = !synced;
        let mut batches: Vec<Arc<Batch>> = Vec::new();
        let mut of_revision = Vec::new();
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            let revision = event.record.mod_revision();
            of_revision.push(event);
            if events.peek().is_none_or(|next| next.record.mod_revision() != revision) {
                batches.push(Arc::new(Batch::new(revision, std::mem::take(&mut of_revision))));
            }
        }
        if !self.behind {
            // News between the reading and here named the watch, or is still kept.
            self.subscription.wake();
        }
        Ok(Look { batches, through: self.next - 1, again: self.behind })
    }
}
