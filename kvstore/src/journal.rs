//! What a durable store wrote since its last image: a file of checked frames. Pure but for `disk` and `writer`.
//!
//! ```text
//!   frame: content length (4) │ first sequence (8) │ CRC of these (4) │ CRC of the content (4) │ content
//!   content: entries that went to the disk together
//! ```
//!
//! One flush may be of several frames; those after the first have another checksum of the header. A flush begins when the
//! one before is on the disk. So what cannot be read and has no beginning of a flush behind it belongs to the flush that
//! was under way when the machine stopped, whose pages the disk may have written in any order: nobody was told of what is
//! in it, and it is cut off. What cannot be read and has one behind it was whole once: that is not guessed around, the store
//! refuses to start and says where. A journal that is closed ends with a frame without entries, which says of all before
//! it that it was whole.

mod crc;
mod disk;
mod lock;
mod times;
mod writer;

use bytes::Bytes;
use prost::Message;

use self::crc::crc32;
pub use self::disk::{DurableError, empty_data_dir, holds_keys, keep_users, restore};
#[cfg(test)]
pub(crate) use self::writer::tests::held_journal;
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
/// What the checksum of a header is combined with if the frame goes on with the flush of the one before.
const GOES_ON: u32 = 0x6f6e_666c;

/// What is before the content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Bytes of the content.
    len: usize,
    /// Number of the first entry.
    first: u64,
    /// Checksum of the content.
    content: u32,
    /// Whether it is the first of its flush.
    begins: bool,
}

impl Header {
    /// `None` if there is none, or not as it was written.
    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let (len, low, high, checked, content) = (word(0)?, word(4)?, word(8)?, word(12)?, word(16)?);
        let difference = crc32(&bytes[..12]) ^ checked;
        let header = Self {
            len: len as usize,
            first: u64::from(low) | (u64::from(high) << 32),
            content,
            begins: difference == 0,
        };
        (difference == 0 || difference == GOES_ON).then_some(header)
    }
}

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

    /// The frame, as the first of a flush or not.
    pub(crate) fn encode(&self, begins: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        out.extend_from_slice(&(self.content.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        let header = crc32(&out) ^ if begins { 0 } else { GOES_ON };
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
    /// A frame that was not written to its end, with nothing behind it.
    Torn,
    /// Something that has not arrived, or was damaged later: what is behind it decides.
    Unreadable,
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
    let Some(header) = Header::read(rest) else { return Found::Unreadable };
    let Some(content) = rest[HEADER..].get(..header.len) else { return Found::Torn };
    if crc32(content) != header.content {
        return Found::Unreadable;
    }
    match Content::decode(content) {
        Ok(content) => {
            Found::Frame { entries: content.entries, first: header.first, next: offset + HEADER + header.len }
        }
        Err(_not_entries) => Found::Damaged,
    }
}

/// Whether a flush began after the frame at `offset`, which cannot be read and comes after entry `sequence`.
fn was_flushed(bytes: &[u8], offset: usize, sequence: u64) -> bool {
    // There are no more entries than bytes. What else looks like a header is the content of some value.
    let numbers = sequence + 1..=sequence + bytes.len() as u64;
    let header = |at: usize| {
        let rest = &bytes[at..];
        let first = u64::from_le_bytes(*rest.get(4..)?.first_chunk()?);
        numbers.contains(&first).then(|| Header::read(rest)).flatten()
    };
    // From header to header; where one did not arrive, the next one may be anywhere.
    let mut at = offset + header(offset).map_or(1, |header| HEADER + header.len);
    while at < bytes.len() {
        match header(at) {
            Some(header) if header.begins => return true,
            Some(header) => at += HEADER + header.len,
            None => at += 1,
        }
    }
    false
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
            Found::Unreadable if was_flushed(bytes, offset, sequence) => return Err(offset),
            Found::End | Found::Torn | Found::Unreadable => return Ok(Replayed { whole: offset, sequence }),
            Found::Damaged => return Err(offset),
        }
    }
}

#[cfg(test)]
mod tests;
