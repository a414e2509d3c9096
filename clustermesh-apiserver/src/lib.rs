//! From one cluster's Kubernetes API into the store that other clusters read, and (in [`mcs`]) from what other
//! clusters export into this one's.
//!
//! ```text
//!  Kubernetes API ──list+watch──▶ export::Exporter ──▶ SyncWriter × 6 ──▶ cilium/state/…, cilium/synced/…
//!                                 (pure)          └──▶ withheld, with reasons: /status, metrics, logs
//!                                        announce ───▶ cilium/cluster-config/…, cilium/.heartbeat
//!                                        stamps ─────▶ cilium/synced/<cluster>/isthmus/stamps/v1
//! ```
//!
//! [`start`] takes a [`Config`], a Kubernetes client and a store, and runs until its tasks are stopped. What always holds:
//! the canary of a resource is written only after everything that the resource is made of was listed completely and
//! written, and what an earlier life left behind was removed; nothing is removed before.

mod announce;
mod board;
mod config;
mod daemon;
mod discovery;
pub mod export;
mod identities;
mod leader;
pub mod mcs;
mod metrics;
mod round;
mod scopes;
mod stamps;
mod users;
mod watches;

pub use board::{KindStatus, ResourceStatus, Status, WithheldCount};
pub use config::{Cni, Config, ConfigError, Leases, ServiceFormat, UnknownCni, UnknownServiceFormat};
pub use daemon::{Handle, Scoping, start};
pub use leader::{elect, while_leading};
pub use scopes::{OutsideKey, ScopeStatus, Scopes, ScopesError};
pub use users::keep_users;
