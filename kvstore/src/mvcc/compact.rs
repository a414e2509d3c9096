//! Forgetting the past.

use super::{Keyspace, Refusal};

impl Keyspace {
    /// Makes every revision before `revision` unreadable at once; [`Self::purge`] then frees the memory.
    ///
    /// # Errors
    /// [`Refusal::CompactedAlready`] and [`Refusal::Future`].
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::CompactedAlready);
        }
        if revision > self.revision {
            return Err(Refusal::Future { asked: revision });
        }
        self.compacted = revision;
        Ok(())
    }

    /// Keeps what a reader of `revision` still needs, until [`Self::unpin`].
    pub fn pin(&mut self, revision: i64) {
        *self.pins.entry(revision).or_default() += 1;
    }

    /// Ends a [`Self::pin`].
    pub fn unpin(&mut self, revision: i64) {
        if let Some(count) = self.pins.get_mut(&revision) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(&revision);
            }
        }
    }

    /// Frees what compaction made unreadable, looking at no more than `steps` changes; returns whether some
    /// is left that can be freed now.
    pub fn purge(&mut self, steps: usize) -> bool {
        let until = self.pins.first_key_value().map_or(self.compacted, |(&pin, _)| pin.min(self.compacted));
        if self.purged >= until {
            return false;
        }
        for _ in 0..steps {
            let Some(&change) = self.log.front() else { break };
            // Changes at the compacted revision itself can still be watched.
            if change.revision >= until {
                break;
            }
            self.log.pop_front();
            let slot = self.slots.get_mut(change.slot);
            self.bytes -= slot.forget_before(until);
            if slot.dead && slot.current.mod_revision() == change.revision {
                let record = slot.current.clone();
                self.bytes -= record.encoded().len();
                if let Ok((place, id)) = self.index.find(&self.slots, record.key()) {
                    self.index.remove(place);
                    self.slots.release(id);
                }
            }
        }
        let done = self.log.front().is_none_or(|change| change.revision >= until);
        if done {
            self.purged = until;
            if self.log.capacity() > 4 * self.log.len() + 1024 {
                self.log.shrink_to(2 * self.log.len());
            }
        }
        !done
    }
}
