//! Reads that may be long: ranges, images, checksums. No hold of the lock is long, and no thread is kept for long from
//! whoever else it serves.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{KeyspaceGuard, Store};
use crate::{
    image::Image,
    journal::Journal,
    mvcc::{Keyspace, Range, RangeResult, Record, Refusal, checksum},
    range::KeyRange,
};

/// Keys of a read that needs no chunks.
pub(super) const SHORT: usize = 1024;
/// Keys of a long read that are read under one hold of the lock; 50 µs when none of them is in the processor's cache.
const CHUNK: usize = 256;
/// Keys that are sorted or filtered without a thread of its own.
const SORTED_HERE: usize = 8 * 1024;

/// What a checksum is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub(crate) hash: u32,
    /// The revision whose keys it is of.
    pub(crate) at: i64,
    /// The revision of the store.
    pub(crate) now: i64,
    /// The oldest revision that could be read; -1 if nothing was compacted.
    pub(crate) compacted: i64,
}

/// A read in the middle of a range, as of one revision, which is kept from being forgotten meanwhile.
pub(super) struct Reading<'a> {
    store: &'a Store,
    at: i64,
    rest: KeyRange,
    most: usize,
    records: Vec<Record>,
}

impl Store {
    /// What a range holds. Long ranges are read in chunks, as of one revision.
    pub(crate) async fn range(&self, ask: &Range) -> Result<RangeResult, Refusal> {
        self.ranges.fetch_add(1, Ordering::Relaxed);
        let (now, count, reading) = {
            let mut keyspace = self.lock();
            if ask.count_only || ask.cut() <= SHORT {
                return keyspace.range(ask);
            }
            let now = keyspace.revision();
            keyspace.check_revision(ask.revision, now)?;
            let at = if ask.revision <= 0 { now } else { ask.revision };
            let count = keyspace.count_at(&ask.range, at);
            (now, count, Reading::begin(self, &mut keyspace, ask.range.clone(), at, count.min(ask.cut())))
        };
        Ok(arrange(ask, reading.all().await, count, now).await)
    }

    /// Everything in it now. Takes its time with many keys: not for a task that others wait for.
    pub fn image(&self) -> Image {
        let (image, mut reading) = {
            let mut keyspace = self.lock();
            self.begin_image(&mut keyspace)
        };
        while reading.step() {}
        Image { records: reading.end(), ..image }
    }

    /// Everything in it at the moment when its journal turned to a new file.
    pub(super) async fn image_at_turn(
        &self,
        journal: &Journal,
    ) -> (Image, oneshot::Receiver<std::io::Result<()>>) {
        let (turned, (image, reading)) = {
            let mut keyspace = self.lock();
            (journal.turn(), self.begin_image(&mut keyspace))
        };
        (Image { records: reading.all().await, ..image }, turned)
    }

    /// A checksum of the keys as they were at `revision` (0: as they are). Two stores with the same history have the same
    /// one; it is not etcd's number.
    ///
    /// # Errors
    /// [`Refusal::Future`], [`Refusal::Compacted`].
    pub(crate) async fn checksum(&self, revision: i64) -> Result<Checksum, Refusal> {
        let (now, at, compacted, reading) = {
            let mut keyspace = self.lock();
            let now = keyspace.revision();
            keyspace.check_revision(revision, now)?;
            let at = if revision <= 0 { now } else { revision };
            let reading = Reading::begin(self, &mut keyspace, KeyRange::all(), at, usize::MAX);
            (now, at, keyspace.compacted(), reading)
        };
        let records = reading.all().await;
        let hash = tokio::task::spawn_blocking(move || checksum(&records)).await;
        let hash = hash.expect("adding up does not panic, and a runtime that ends drops who waits for it");
        Ok(Checksum { hash, at, now, compacted })
    }

    fn begin_image(&self, keyspace: &mut Keyspace) -> (Image, Reading<'_>) {
        let sequence = self.journal.as_ref().map_or(0, Journal::sequence);
        let image = Image::without_records(keyspace, &self.auth.load(), sequence);
        let at = image.revision;
        (image, Reading::begin(self, keyspace, KeyRange::all(), at, usize::MAX))
    }
}

/// Sorts and cuts, elsewhere if that is much.
pub(super) async fn arrange(ask: &Range, records: Vec<Record>, count: usize, now: i64) -> RangeResult {
    if records.len() <= SORTED_HERE || ask.is_plain() {
        return ask.arrange(records, count, now);
    }
    let ask = ask.clone();
    let arranged = tokio::task::spawn_blocking(move || ask.arrange(records, count, now)).await;
    arranged.expect("sorting does not panic, and a runtime that ends drops who waits for it")
}

impl<'a> Reading<'a> {
    /// Of at most `most` keys.
    pub(super) fn begin(
        store: &'a Store,
        keyspace: &mut Keyspace,
        range: KeyRange,
        at: i64,
        most: usize,
    ) -> Self {
        keyspace.pin(at);
        let records = Vec::with_capacity(most.min(keyspace.keys()));
        Self { store, at, rest: range, most, records }
    }

    /// Reads the next chunk; returns whether there may be more.
    pub(super) fn step(&mut self) -> bool {
        let left = CHUNK.min(self.most - self.records.len());
        let chunk = self.store.look(|keyspace| keyspace.chunk_at(&self.rest, self.at, left));
        let whole = chunk.len() == left && self.records.len() + left < self.most;
        let last = chunk.last().cloned();
        self.records.extend(chunk);
        match last {
            Some(last) if whole => self.rest = self.rest.after(last.key()),
            Some(_) | None => return false,
        }
        true
    }

    /// What was read since the last time; for who wants all of the range.
    pub(super) fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// Reads to the end, with room for others between the chunks.
    pub(super) async fn all(mut self) -> Vec<Record> {
        while self.step() {
            tokio::task::yield_now().await;
        }
        self.end()
    }

    fn end(mut self) -> Vec<Record> {
        self.take()
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut keyspace = self.store.lock();
        keyspace.unpin(self.at);
        KeyspaceGuard::unlock_fair(keyspace);
    }
}
