//! Mirrors remote clusters into the local store, so that every node reads one store instead of one per cluster.
//!
//! What comes in: a directory with one etcd client configuration per remote cluster, and what their stores hold. What
//! goes out: the same entries under `cilium/cache/…`, a cluster-config and canaries for each cluster.
//!
//! ```text
//!   directory ──▶ config ──▶ slots ──▶ per cluster:  remote ──▶ keeper ──▶ sinks ──▶ local store
//!                 (what changed)       connection,  (what is    (writers,
//!                                      validation    to write)   leases)
//!                          board ◀── record ◀──┴──────────────────┘ ──▶ status, metrics, readiness
//! ```
//!
//! Invariants: a cluster that cannot be reached or is refused keeps what was mirrored from it. Something is deleted only
//! when the peer says so, when a complete list that can be trusted omits it, when the cluster's id changes, or some time
//! after its configuration is gone. No cluster's trouble touches another cluster. Stopping deletes nothing.

mod board;
mod clock;
mod config;
mod error;
mod forget;
mod ids;
mod keeper;
mod latency;
mod leader;
mod liveness;
mod lost_contact;
mod mesh;
mod metrics;
mod record;
mod remote;
mod removal;
mod resource;
mod settings;
mod sinks;
mod slots;
mod status;
mod timing;
pub mod troubleshoot;

pub use board::Board;
pub use config::{DirectoryError, RejectedFile};
pub use forget::{ForgetError, Forgotten, forget};
pub use keeper::Shrink;
pub use lost_contact::{LostContact, LostContactError};
pub use mesh::Mesh;
pub use remote::{Dial, EtcdDial};
pub use settings::Settings;
pub use status::{
    CiliumRemote, ConfigStatus, LatencyStatus, RejectedFileStatus, RemoteStatus, RemovalStatus,
    ResourceStatus, SkippedStatus, StatusPage, TroubleStatus, WithheldStatus,
};
