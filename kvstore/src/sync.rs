//! Keeping up with a store, and keeping a store up with us.
//!
//! [`Follower`] reads: it lists a prefix, watches it, and after any interruption finds its way back without
//! inventing deletions. [`SyncWriter`] writes: it is told the desired keys and makes the store hold them.
//! What they decide is in `Mirror`, `DesiredSet` and `LeasePool`, which are pure; these two only wait and call.

mod backoff;
mod chain;
mod desired;
mod follow;
mod lease_pool;
mod lock;
mod mirror;
mod stored;
mod writer;

pub(crate) use self::chain::Chain;
pub use self::{
    backoff::Backoff,
    desired::Progress,
    follow::{FollowError, Follower},
    lock::{Lock, LockLost},
    mirror::Change,
    writer::{SyncWriter, Witness, WriterConfig, WriterError, WriterStatus},
};
