//! The agent of each node: what the other clusters offer, as tables, and as address translation and encryption.
//!
//! ```text
//!  local store ──▶ observe ──┐                    ┌──▶ datapath  nftables: cluster IP → backends of all clusters
//!  (mirrored clusters)       ├─▶ tables (one task)┼──▶ encrypt   WireGuard: peers from nodes and ipcache
//!  Kubernetes ───▶ local ────┘   nodes · ipcache  └──▶ api       Unix socket, `isthmus agent …`
//!  (Services, slices)            identities · services
//! ```
//!
//! What always holds:
//!
//! - Nothing good is removed without evidence: not when the store or Kubernetes cannot be reached, not when the store is
//!   new and still being filled, not because one value is bad.
//! - What is not in effect says why, with a [`Reason`](mesh_types::Reason).
//! - Stopping changes nothing: rules, peers and routes stay until the next start knows better.
//!
//! Everything that decides is pure (`ipcache`, `services`, `tables`, the nftables
//! rules); the tasks around it wait, feed and carry out.

mod agent;
pub mod api;
pub mod datapath;
mod encrypt;
mod engine;
mod followed;
pub mod ipcache;
pub mod local;
mod metrics;
mod publish;
mod rejected;
pub mod services;
pub mod tables;

pub use agent::{AgentSettings, LocalSource, StartError, Surroundings, start};
pub use encrypt::{EncryptError, EncryptSettings};
pub use engine::Handle;
pub use followed::forget_followed;
pub use rejected::{Rejected, RejectedKey};
