//! What a durable store wrote since its last image: a file of checked frames. Pure but for `disk` and `writer`.
//!
//! ```text
//!   frame: content length (4) │ first sequence (8) │ CRC of these (4) │ CRC of the content (4) │ content
//!   content: entries that went to the disk together
//! ```
//!
//! The frame that was being written when the machine stopped is cut off at the end of the file: nobody was told of
//! what is in it. Damage anywhere else is not guessed around: the store refuses to start and says where.

mod crc;
mod disk;
mod lock;
mod times;
mod writer;

use bytes::Bytes;
use prost::Message;

use self::crc::crc32;
pub use self::disk::{DurableError, empty_data_dir, holds_keys, keep_users, restore};
pub(crate) use self::{
    disk::{open, users, write_image, write_users},
    lock::{Held, hold},
    times::DiskTimes,
    writer::{Failed, Journal},
};
use crate::{
    auth::Auth,
    image::{AuthFrame, auth_from_frame, auth_to_frame, to_record},
    mvcc::{Commit, Keyspace, Millis},
};

const HEADER: usize = 20;

/// One change of a store.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    /// Encoded records of one revision.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    records: Vec<Bytes>,
    /// A lease that was granted.
    #[prost(int64, tag = "2")]
    granted: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
    /// A lease that ended (before its keys, which are records of the same entry).
    #[prost(int64, tag = "4")]
    ended: i64,
    /// A compaction.
    #[prost(int64, tag = "5")]
    compacted: i64,
    /// Users and roles, whole.
    #[prost(message, optional, tag = "6")]
    auth: Option<AuthFrame>,
}

impl Entry {
    pub(crate) fn commit(commit: &Commit) -> Self {
        let records = commit.events.iter().map(|event| Bytes::copy_from_slice(event.record.encoded()));
        Self { records: records.collect(), ..Self::default() }
    }

    pub(crate) fn granted(id: i64, ttl: i64) -> Self {
        Self { granted: id, ttl, ..Self::default() }
    }

    pub(crate) fn ended(id: i64, commit: &Commit) -> Self {
        Self { ended: id, ..Self::commit(commit) }
    }

    pub(crate) fn compacted(revision: i64) -> Self {
        Self { compacted: revision, ..Self::default() }
    }

    pub(crate) fn auth(auth: &Auth) -> Self {
        Self { auth: Some(auth_to_frame(auth)), ..Self::default() }
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Does it again. `None` if it does not fit, which a journal of this store never gives.
    fn replay(self, keyspace: &mut Keyspace, auth: &mut Auth, now: Millis) -> Option<()> {
        if self.granted != 0 {
            keyspace.grant(self.granted, self.ttl, now).ok()?;
        }
        if !self.records.is_empty() {
            let records: Option<Vec<_>> = self.records.iter().map(|bytes| to_record(bytes)).collect();
            keyspace.replay(&records?)?;
        }
        if self.ended != 0 {
            keyspace.revoke(self.ended).ok()?;
        }
        // An image begins compacted at its own revision, which compactions after it need not reach.
        if self.compacted > keyspace.compacted() {
            keyspace.compact(self.compacted).ok()?;
        }
        if let Some(frame) = self.auth {
            *auth = auth_from_frame(frame);
        }
        Some(())
    }
}

/// Entries of one frame, as they are gathered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gathered {
    /// Number of the first one.
    pub(crate) first: u64,
    /// Number of the last one; below `first` if there is none.
    pub(crate) last: u64,
    content: Vec<u8>,
}

/// The content of a frame.
#[derive(Clone, PartialEq, prost::Message)]
struct Content {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

impl Gathered {
    /// Nothing yet; the first entry will have the number `first`.
    pub(crate) fn new(first: u64) -> Self {
        Self { first, last: first.saturating_sub(1), content: Vec::new() }
    }

    /// Bytes of the frame.
    pub(crate) fn bytes(&self) -> usize {
        HEADER + self.content.len()
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, entry: &Entry) {
        prost::encoding::message::encode(1, entry, &mut self.content);
        self.last += 1;
    }

    /// The frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        out.extend_from_slice(&(self.content.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        let header = crc32(&out);
        out.extend_from_slice(&header.to_le_bytes());
        out.extend_from_slice(&crc32(&self.content).to_le_bytes());
        out.extend_from_slice(&self.content);
        out
    }
}

/// What the bytes at some place of a journal are.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// Entries, numbered from `first` on, and where the next frame begins.
    Frame { entries: Vec<Entry>, first: u64, next: usize },
    /// The end.
    End,
    /// A frame that was not written to its end.
    Torn,
    /// Not what was written.
    Damaged,
}

/// Reads the frame at `offset`.
pub(crate) fn decode(bytes: &[u8], offset: usize) -> Found {
    let rest = &bytes[offset..];
    if rest.is_empty() {
        return Found::End;
    }
    // A file may have grown before its content arrived.
    if rest.len() < HEADER || rest.iter().all(|&byte| byte == 0) {
        return Found::Torn;
    }
    let word = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
    if crc32(&rest[..12]) != word(12) {
        return Found::Damaged;
    }
    let len = word(0) as usize;
    let first = u64::from(word(4)) | (u64::from(word(8)) << 32);
    let Some(content) = rest[HEADER..].get(..len) else { return Found::Torn };
    if crc32(content) != word(16) {
        return if rest.len() == HEADER + len { Found::Torn } else { Found::Damaged };
    }
    match Content::decode(content) {
        Ok(content) => Found::Frame { entries: content.entries, first, next: offset + HEADER + len },
        Err(_not_entries) => Found::Damaged,
    }
}

/// How much of a journal was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Bytes that are whole; what comes after is a torn frame.
    pub(crate) whole: usize,
    /// Number of the last entry so far.
    pub(crate) sequence: u64,
}

/// Does everything in a journal again that comes after `sequence`.
///
/// # Errors
/// The offset of the damage, or of the frame before which others are missing.
pub(crate) fn replay(
    bytes: &[u8],
    mut sequence: u64,
    keyspace: &mut Keyspace,
    auth: &mut Auth,
    now: Millis,
) -> Result<Replayed, usize> {
    let mut offset = 0;
    loop {
        match decode(bytes, offset) {
            Found::Frame { entries, first, next } => {
                if first > sequence + 1 {
                    return Err(offset);
                }
                for (entry, number) in entries.into_iter().zip(first..) {
                    if number > sequence {
                        entry.replay(keyspace, auth, now).ok_or(offset)?;
                        sequence = number;
                    }
                }
                offset = next;
            }
            Found::End | Found::Torn => return Ok(Replayed { whole: offset, sequence }),
            Found::Damaged => return Err(offset),
        }
    }
}

#[cfg(test)]
mod tests;
