//! The store of the mesh and how to talk to it.
//!
//! What comes in: writes of desired keys, reads and watches, in process or as etcd v3 over gRPC.
//! What goes out: key-values, and watch events in the order of their revisions, without gap or duplicate.
//!
//! ```text
//!   daemons ──▶ sync (Follower, SyncWriter) ──▶ Client ─┬─ EmbeddedClient ──▶ Store ──▶ mvcc (pure)
//!                                                       └─ EtcdClient ──gRPC──▶ server ──▶ Store
//!                                                                        └────▶ a real etcd
//! ```
//!
//! Everything below `mvcc` is pure: no async, no clock, no I/O. `Store` adds the lock and the wake-ups,
//! `server` the wire.

pub mod auth;
mod client;
mod embedded;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod histogram;
mod hub;
mod image;
mod journal;
pub mod mvcc;
pub mod proto;
mod range;
pub mod server;
mod store;
pub mod sync;
mod tls_files;
mod turn;
mod watcher;

pub use client::{
    Client, ConfigFileError, CredentialsError, Error, EtcdClient, EtcdConfig, EtcdConfigFile, EtcdTls, Event,
    Expect, Guard, Guarded, KeyValue, LeaseId, Limits, OnNewCluster, Page, Revision, StoreStatus, Users,
    WatchBatch, WatchError, WatchStream, Write,
};
pub use embedded::EmbeddedClient;
pub use image::{Image, ImageError};
pub use journal::{DurableError, empty_data_dir, holds_keys, keep_users, restore};
pub use mvcc::Record;
pub use range::{KeyRange, RangeEnd};
pub use store::{AutoCompaction, Store, StoreConfig};
pub use turn::{OneTurn, in_one_turn};
