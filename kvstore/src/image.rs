//! A store as bytes: what `etcdctl snapshot save` saves and what a durable store starts from. Pure.
//!
//! ```text
//!   magic (16) │ frames: kind, length (varint), content │ zeros up to a multiple of 512 │ SHA-256 of all that
//! ```
//!
//! The padding and the checksum are what etcd's clients expect of a snapshot; the rest is ours. Only the current
//! version of each key is in it, so a restored store begins compacted.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{
    auth::{Access, Auth, Grant},
    mvcc::{Keyspace, Millis, Record, put_varint, take_varint, varint_len},
    proto::{authpb, mvccpb},
    range::KeyRange,
};

const MAGIC: &[u8; 16] = b"isthmus-store-1\n";
/// etcd's clients take a snapshot for whole if its size without the checksum is a multiple of this.
const PAGE: usize = 512;
const CHECKSUM: usize = 32;

const META: u8 = 1;
const LEASE: u8 = 2;
const AUTH: u8 = 3;
const RECORD: u8 = 4;

/// A store at one moment.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its revision.
    pub revision: i64,
    /// Number of the last journal entry that it contains; 0 without a journal.
    pub sequence: u64,
    /// Leases: id and seconds to live.
    pub leases: Vec<(i64, i64)>,
    /// Users and roles.
    pub auth: Auth,
    /// Keys in order.
    pub records: Vec<Record>,
}

/// Why bytes are not a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// They begin otherwise.
    #[error("not a snapshot of an isthmus store (one of etcd's cannot be read)")]
    NotAnImage,
    /// They are not what was written.
    #[error("the checksum does not match: the snapshot is damaged or cut off")]
    Checksum,
    /// A frame cannot be read, though the checksum matches.
    #[error("frame at byte {offset} cannot be read")]
    Frame {
        /// Where it begins.
        offset: usize,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct Meta {
    #[prost(int64, tag = "1")]
    revision: i64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseFrame {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
}

/// Users and roles in the form in which they are kept.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AuthFrame {
    #[prost(bool, tag = "1")]
    enabled: bool,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    users: Vec<authpb::User>,
    #[prost(message, repeated, tag = "4")]
    roles: Vec<authpb::Role>,
}

impl Image {
    /// The store as it is now; the records are shared, not copied.
    pub fn of(keyspace: &Keyspace, auth: &Auth, sequence: u64) -> Self {
        let records = keyspace.chunk_at(&KeyRange::all(), keyspace.revision(), usize::MAX);
        Self { records, ..Self::without_records(keyspace, auth, sequence) }
    }

    /// All of the store as it is now but its keys.
    pub(crate) fn without_records(keyspace: &Keyspace, auth: &Auth, sequence: u64) -> Self {
        let leases = keyspace.lease_ids().into_iter();
        let with_ttl = leases.filter_map(|id| Some((id, keyspace.lease_ttl(id)?)));
        Self {
            revision: keyspace.revision(),
            sequence,
            leases: with_ttl.collect(),
            auth: auth.clone(),
            records: Vec::new(),
        }
    }

    /// A key space with this content, whose leases have their full time from `now`.
    pub fn to_keyspace(&self, now: Millis) -> Keyspace {
        let mut keyspace = Keyspace::new();
        for &(id, ttl) in &self.leases {
            // Ids of one store are distinct; a repeated one would be the same lease.
            let _already_there = keyspace.grant(id, ttl, now);
        }
        keyspace.load(&self.records, self.revision);
        keyspace
    }

    /// Bytes of the whole, padding and checksum included.
    pub fn encoded_len(&self) -> usize {
        let frame = |len: usize| 1 + varint_len(len as u64) + len;
        let head: usize = self.head().iter().map(|(_, content)| frame(content.len())).sum();
        let records: usize = self.records.iter().map(|record| frame(record.encoded().len())).sum();
        (MAGIC.len() + head + records).next_multiple_of(PAGE) + CHECKSUM
    }

    /// The bytes, in pieces of about `piece` bytes; the last one is the checksum.
    pub fn encode(&self, piece: usize, emit: impl FnMut(Bytes)) {
        self.pieces(piece).for_each(emit);
    }

    /// The same, each piece when it is asked for.
    pub(crate) fn pieces(&self, piece: usize) -> Pieces<'_> {
        Pieces { image: self, piece, rest: &self.records, written: 0, hash: Some(Sha256::new()) }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        if !bytes.starts_with(MAGIC) {
            return Err(ImageError::NotAnImage);
        }
        let (content, checksum) = bytes.split_at(bytes.len().saturating_sub(CHECKSUM));
        if content.len() % PAGE != 0 || Sha256::digest(content)[..] != *checksum {
            return Err(ImageError::Checksum);
        }
        let mut image =
            Self { revision: 1, sequence: 0, leases: Vec::new(), auth: Auth::default(), records: Vec::new() };
        let mut rest = &content[MAGIC.len()..];
        while rest.first().is_some_and(|&kind| kind != 0) {
            let offset = content.len() - rest.len();
            image.frame(&mut rest).ok_or(ImageError::Frame { offset })?;
        }
        if rest.iter().any(|&byte| byte != 0) {
            return Err(ImageError::Frame { offset: content.len() - rest.len() });
        }
        Ok(image)
    }

    fn head(&self) -> Vec<(u8, Vec<u8>)> {
        let meta = Meta { revision: self.revision, sequence: self.sequence };
        let mut head = vec![(META, meta.encode_to_vec()), (AUTH, auth_to_frame(&self.auth).encode_to_vec())];
        head.extend(self.leases.iter().map(|&(id, ttl)| (LEASE, LeaseFrame { id, ttl }.encode_to_vec())));
        head
    }

    fn frame(&mut self, rest: &mut &[u8]) -> Option<()> {
        let (&kind, after) = rest.split_first()?;
        *rest = after;
        let len = usize::try_from(take_varint(rest)?).ok()?;
        let content = rest.get(..len)?;
        *rest = &rest[len..];
        match kind {
            META => {
                let meta = Meta::decode(content).ok()?;
                (self.revision, self.sequence) = (meta.revision.max(1), meta.sequence);
            }
            LEASE => {
                let lease = LeaseFrame::decode(content).ok()?;
                self.leases.push((lease.id, lease.ttl));
            }
            AUTH => self.auth = auth_from_frame(AuthFrame::decode(content).ok()?),
            RECORD => self.records.push(to_record(content)?),
            _ => return None,
        }
        Some(())
    }
}

/// An image on its way into bytes.
pub(crate) struct Pieces<'a> {
    image: &'a Image,
    piece: usize,
    /// Records that are still to come.
    rest: &'a [Record],
    written: usize,
    /// Of what was written; none once it was written itself.
    hash: Option<Sha256>,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let put = |out: &mut Vec<u8>, kind: u8, content: &[u8]| {
            out.push(kind);
            put_varint(out, content.len() as u64);
            out.extend_from_slice(content);
        };
        let mut out = Vec::with_capacity(self.piece + 1024);
        if self.written == 0 {
            out.extend_from_slice(MAGIC);
            for (kind, content) in self.image.head() {
                put(&mut out, kind, &content);
            }
        } else if self.rest.is_empty() {
            return self.hash.take().map(|hash| Bytes::copy_from_slice(&hash.finalize()));
        }
        while out.len() < self.piece
            && let Some((record, rest)) = self.rest.split_first()
        {
            put(&mut out, RECORD, record.encoded());
            self.rest = rest;
        }
        if self.rest.is_empty() {
            let len = self.written + out.len();
            out.resize(out.len() + len.next_multiple_of(PAGE) - len, 0);
        }
        self.hash.as_mut()?.update(&out);
        self.written += out.len();
        Some(out.into())
    }
}

/// A record from bytes that may be anything.
pub(crate) fn to_record(bytes: &[u8]) -> Option<Record> {
    let kv = mvccpb::KeyValue::decode(bytes).ok()?;
    if kv.key.is_empty() || kv.mod_revision <= 0 {
        return None;
    }
    let fields = crate::mvcc::Fields {
        key: &kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: &kv.value,
        lease: kv.lease,
    };
    Some(Record::encode(fields, &mut Vec::new()))
}

pub(crate) fn auth_to_frame(auth: &Auth) -> AuthFrame {
    let users = auth.users().map(|(name, user)| authpb::User {
        name: Bytes::copy_from_slice(name.as_bytes()),
        password: user.password.clone().unwrap_or_default(),
        roles: user.roles.clone(),
        options: Some(authpb::UserAddOptions { no_password: user.password.is_none() }),
    });
    let roles = auth.roles().map(|(name, grants)| authpb::Role {
        name: Bytes::copy_from_slice(name.as_bytes()),
        key_permission: grants.iter().map(permission).collect(),
    });
    AuthFrame {
        enabled: auth.enabled(),
        revision: auth.revision(),
        users: users.collect(),
        roles: roles.collect(),
    }
}

pub(crate) fn auth_from_frame(frame: AuthFrame) -> Auth {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let users = frame.users.into_iter().map(|user| {
        let no_password = user.options.is_some_and(|options| options.no_password);
        (text(&user.name), (!no_password).then_some(user.password), user.roles)
    });
    let roles = frame.roles.into_iter().map(|role| {
        let grants = role.key_permission.into_iter().map(|permission| {
            let access = match permission.perm_type() {
                authpb::permission::Type::Read => Access::Read,
                authpb::permission::Type::Write => Access::Write,
                authpb::permission::Type::Readwrite => Access::ReadWrite,
            };
            Grant { range: KeyRange::from_wire(permission.key, permission.range_end), access }
        });
        (text(&role.name), grants.collect())
    });
    Auth::from_parts(frame.enabled, frame.revision, users.collect(), roles.collect())
}

/// A grant in the API's form.
pub(crate) fn permission(grant: &Grant) -> authpb::Permission {
    use authpb::permission::Type;
    let perm_type = match grant.access {
        Access::Read => Type::Read,
        Access::Write => Type::Write,
        Access::ReadWrite => Type::Readwrite,
    };
    let (key, range_end) = grant.range.to_wire();
    authpb::Permission { perm_type: perm_type as i32, key, range_end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Put;

    fn image() -> Image {
        let mut keyspace = Keyspace::new();
        keyspace.grant(7, 60, 0).unwrap();
        for n in 0..100 {
            let put = Put {
                key: format!("k/{n:03}").into(),
                value: vec![b'v'; n].into(),
                lease: if n % 2 == 0 { 7 } else { 0 },
                ..Put::default()
            };
            keyspace.put(&put).unwrap();
            keyspace.put(&put).unwrap();
        }
        let mut txn = keyspace.write();
        txn.delete_key(b"k/050");
        txn.commit();
        Image::of(&keyspace, &Auth::of_cluster("here"), 9)
    }

    fn bytes(image: &Image) -> Vec<u8> {
        let mut out = Vec::new();
        image.encode(1000, |piece| out.extend_from_slice(&piece));
        out
    }

    #[test]
    fn a_store_comes_back_from_its_image() {
        let image = image();
        let encoded = bytes(&image);
        assert_eq!(encoded.len(), image.encoded_len());
        assert_eq!(encoded.len() % 512, 32);
        let decoded = Image::decode(&encoded).unwrap();
        assert_eq!((decoded.revision, decoded.sequence, &decoded.leases), (202, 9, &vec![(7, 60)]));
        assert_eq!(decoded.records, image.records);
        assert_eq!(auth_to_frame(&decoded.auth), auth_to_frame(&image.auth));
        let mut keyspace = decoded.to_keyspace(0);
        assert_eq!((keyspace.revision(), keyspace.keys(), keyspace.compacted()), (202, 99, 202));
        assert_eq!(keyspace.time_to_live(7, 0, true).unwrap().2.len(), 49);
        assert_eq!(keyspace.revoke(7).unwrap().events.len(), 49);
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let encoded = bytes(&image());
        assert_eq!(Image::decode(b"bolt").unwrap_err(), ImageError::NotAnImage);
        assert_eq!(Image::decode(&encoded[..encoded.len() - 1]).unwrap_err(), ImageError::Checksum);
        for at in [20, encoded.len() / 2, encoded.len() - 1] {
            let mut damaged = encoded.clone();
            damaged[at] ^= 1;
            assert_eq!(Image::decode(&damaged).unwrap_err(), ImageError::Checksum, "byte {at}");
        }
    }
}
