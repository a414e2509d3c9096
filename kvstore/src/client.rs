//! One way to talk to a store, whether it is in this process or an etcd v3 server.
//!
//! [`Client`] is what the daemons use. `EmbeddedClient` calls the store in process, without gRPC or encoding;
//! `EtcdClient` speaks to our server or to any etcd v3 over mutual TLS. Both pass the same tests
//! (`tests/battery/`).

mod config;
mod config_file;
mod connector;
mod etcd;
mod users;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use self::config_file::{ConfigFileError, EtcdConfigFile};
pub use self::{
    config::{EtcdConfig, EtcdTls, OnNewCluster},
    etcd::EtcdClient,
    users::Users,
};
use crate::{mvcc::Record, range::KeyRange};

/// A point in a store's history; each write that changes something takes the next one.
///
/// An empty store is at 1. Revisions of two stores (two cluster ids) cannot be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a lease; 0 is no lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// Not attached to a lease.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for LeaseId {
    /// As `etcdctl` prints it: 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A key as it is (or was) stored. Cheap to clone: the bytes are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision at which the key came into being, after its last deletion.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Number of changes since it came into being; 1 after the first put.
    pub version: i64,
    /// The lease that it hangs on.
    pub lease: LeaseId,
}

impl fmt::Debug for KeyValue {
    /// Values may hold what logs must not, so only their length shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &format_args!("{}", self.key.escape_ascii()))
            .field("value_bytes", &self.value.len())
            .field("mod_revision", &self.mod_revision.0)
            .finish_non_exhaustive()
    }
}

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// In the order of their keys.
    pub kvs: Vec<KeyValue>,
    /// The revision of the store that the page shows. Ask for the following pages at the first page's
    /// revision, then watch from the one after it.
    pub revision: Revision,
    /// Whether keys of the range were left out because of the limit.
    pub more: bool,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was created (`version` 1) or changed.
    Put(KeyValue),
    /// It was deleted, or its lease ended.
    Delete {
        /// The whole key.
        key: Bytes,
        /// Revision of the deletion.
        mod_revision: Revision,
    },
}

impl Event {
    /// The key that it happened to.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision at which it happened.
    pub fn mod_revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// Events that arrive together. All events of one revision are in one batch.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Everything up to and with this revision has been delivered; resume at the next.
    pub revision: Revision,
    /// In the order of their revisions; empty when only `revision` has news (progress).
    pub events: Vec<Event>,
}

/// The events of a watch, until its first error. Dropping it ends the watch.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, WatchError>>;

/// One change in a batch that is written together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Stores a value, whatever was there.
    Put {
        /// The whole key, not empty.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease that the key hangs on from now on, or [`LeaseId::NONE`].
        lease: LeaseId,
    },
    /// Deletes a key; no error when there is none.
    Delete {
        /// The whole key.
        key: Bytes,
    },
    /// Deletes every key of a range.
    DeleteRange {
        /// What to delete.
        range: KeyRange,
    },
}

/// What must be true of a key for a guarded write to take place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The whole key.
    pub key: Bytes,
    /// What must be true of it.
    pub expect: Expect,
}

/// See [`Guard`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such key.
    Absent,
    /// There is one, with this value.
    Value(Bytes),
    /// There is one, and it is still the one created at this revision.
    CreatedAt(Revision),
    /// There is one, unchanged since this revision.
    ModifiedAt(Revision),
}

/// What came of a guarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// The guards held and the batch is stored.
    Done(Revision),
    /// A guard did not hold; nothing was written.
    Refused {
        /// What is stored at the guards' keys, in their order.
        current: Vec<Option<KeyValue>>,
        /// When that was so.
        revision: Revision,
    },
}

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// Never 0. Another id is another store, whatever its address.
    pub cluster_id: u64,
    /// Never 0.
    pub member_id: u64,
    /// Revision of the last write.
    pub revision: Revision,
    /// Version of the server, like `3.7.0`.
    pub version: String,
    /// Bytes that the data takes in the store.
    pub db_size_bytes: i64,
    /// Words for what is wrong with the store; empty when it is well.
    pub errors: Vec<String>,
}

/// What a writer to this store should keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most changes in one transaction; [`Client::write`] splits at it.
    pub batch_operations: usize,
    /// Most bytes of keys and values in one transaction.
    pub batch_bytes: usize,
    /// Most keys to hang on one lease; `None` where it costs nothing.
    pub keys_per_lease: Option<usize>,
    /// Keys per page that a list should ask for; `None` is all at once.
    pub page: Option<usize>,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lease ended or never was; grant another and write its keys again.
    #[error("lease {0} is not known to the store")]
    LeaseNotFound(LeaseId),
    /// The revision asked for is gone; list again at the current one.
    #[error("revision {asked} is compacted")]
    Compacted {
        /// What was asked for.
        asked: Revision,
    },
    /// The revision asked for is not there yet; a sign that the store was replaced.
    #[error("revision {asked} is in the future")]
    FutureRevision {
        /// What was asked for.
        asked: Revision,
    },
    /// The user may not do this; retrying helps only after someone grants it.
    #[error("permission denied")]
    PermissionDenied,
    /// The store does not know the user, or wants one.
    #[error("the store does not accept this client's identity")]
    Unauthenticated(#[source] Option<tonic::Status>),
    /// The request breaks a rule of the store; the same request will always fail.
    #[error("the store refuses the request")]
    Invalid(#[source] tonic::Status),
    /// The store has reached its size limit; writes fail until it is compacted and disarmed.
    #[error("the store is full")]
    NoSpace,
    /// Another store answers at the address than the one that this client was made for. Final for a client
    /// with [`OnNewCluster::Fail`]: make a new one, and list again.
    #[error("the store was replaced: cluster id {found:016x} instead of {pinned:016x}")]
    ClusterChanged {
        /// The id that the first answer had.
        pinned: u64,
        /// The id that came now.
        found: u64,
    },
    /// An answer without a header, which no etcd sends.
    #[error("an answer of the store has no header")]
    NoHeader,
    /// The certificate, key or CA file cannot be used; names what and where.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The store cannot be reached or did not answer; retry with backoff.
    #[error("the store cannot be reached")]
    Unavailable(#[source] tonic::Status),
    /// Any other failure below us; retry with backoff.
    #[error("talk to the store")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A file of an [`EtcdTls`] that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds no PEM block of the kind that is needed.
    #[error("{path} holds no {what} in PEM form")]
    Empty {
        /// The file.
        path: std::path::PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Certificate and key are not for each other, or not usable.
    #[error("the TLS files cannot be used together")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An `https` endpoint, and nothing to verify it with.
    #[error("{endpoint} needs a CA file to verify the server with")]
    NoCa {
        /// The endpoint.
        endpoint: String,
    },
    /// An endpoint that is not a URL.
    #[error("{endpoint:?} is not an etcd endpoint: expected https://host:port")]
    Endpoint {
        /// The text.
        endpoint: String,
    },
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The caller lists again.
    #[error("revision {from} is compacted, oldest kept is {oldest}")]
    Compacted {
        /// Where the watch was to start or go on.
        from: Revision,
        /// The first revision that can be watched from.
        oldest: Revision,
    },
    /// The watcher was too slow and was cut off; it may resume at the revision after the last batch.
    #[error("the watcher was too slow")]
    TooSlow,
    /// The store refused or ended the watch with a reason of its own; the caller lists again.
    #[error("the store cancelled the watch: {reason}")]
    Cancelled {
        /// The store's words.
        reason: String,
    },
    /// The stream ended without a word; the caller may resume.
    #[error("the store closed the watch stream")]
    Closed,
    /// Anything that any other operation may fail with.
    #[error(transparent)]
    Store(#[from] Error),
}

/// A store, in process or at a distance.
///
/// Every method may be called concurrently; dropping its future abandons the call, which may or may not have
/// taken effect.
#[async_trait]
pub trait Client: Send + Sync + fmt::Debug + 'static {
    /// What is stored at `key` now.
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error>;

    /// The keys of `range` in order, at most `limit` of them (0 is no limit), as of revision `at` or now.
    ///
    /// # Errors
    /// [`Error::Compacted`] and [`Error::FutureRevision`] concern `at`.
    async fn list(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<Page, Error>;

    /// What happens to the keys of `range` from revision `from` on, which may lie in the past or be the next.
    ///
    /// # Errors
    /// Those that are known at once; later ones come as the stream's last item.
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, WatchError>;

    /// Writes a batch in its order. One revision in the embedded store; against etcd it is split at
    /// [`Limits::batch_operations`], so a failure may leave a first part written. A key must not occur twice
    /// (etcd refuses two puts of one key in one transaction).
    ///
    /// Returns the revision of the last write.
    async fn write(&self, batch: Vec<Write>) -> Result<Revision, Error>;

    /// The same; where the store is in this process, also what it holds then of each put, in their order, so that a
    /// writer need not keep the values too.
    async fn write_kept(&self, batch: Vec<Write>) -> Result<(Revision, Vec<Record>), Error> {
        Ok((self.write(batch).await?, Vec::new()))
    }

    /// Writes `batch` in one revision if every guard holds. The batch must fit one transaction.
    async fn write_if(&self, guards: Vec<Guard>, batch: Vec<Write>) -> Result<Guarded, Error>;

    /// A new lease that ends `ttl` (rounded up to seconds) after the last [`Self::keep_alive`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Renews a lease; returns the time that it has now.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error>;

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] when it has ended already.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// What the store says of itself.
    async fn status(&self) -> Result<StoreStatus, Error>;

    /// What a writer should keep to.
    fn limits(&self) -> Limits;

    /// Whether no later call can succeed, because another store answers at the address than the one that this
    /// client was made for ([`OnNewCluster::Fail`]).
    fn is_spent(&self) -> bool {
        false
    }
}
