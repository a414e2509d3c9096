//! The DNS server of `clusterset.local`.
//!
//! ServiceImports, Namespaces and imported EndpointSlices come in by list and watch; answers to A, AAAA and SRV questions go out over UDP
//! and TCP.
//!
//! ```text
//!  kube-watch ─▶ Table ─▶ Zone ──ArcSwap──▶ Reply ◀── Handler ◀── hickory-server's Request ◀── UDP, TCP
//!               (pure)   (pure, a snapshot) (pure)      └────────▶ hickory-server's MessageResponse ──▶
//! ```
//!
//! What always holds: before the first complete lists every question is answered SERVFAIL, never NXDOMAIN; after them, losing the API server
//! leaves the last zone in place; every negative answer carries the zone's SOA record.
//!
//! Source: KEP-1645 (multi-cluster DNS schema 1.0.0), RFC 1035, 2181, 2308, 2782, 6891, 8482.

#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod metrics;
mod name;
mod object;
mod packet;
mod published;
mod reply;
mod server;
mod service;
mod source;
mod table;
mod zone;

pub use metrics::Metrics;
pub use name::{ZoneName, ZoneNameError};
pub use packet::{Limit, Response, respond};
pub use published::Published;
pub use server::Server;
pub use source::{Observer, Source, Status, WatchView};
pub use table::{Kind, Skipped};
pub use zone::{NameTooLong, Zone, ZoneSettings};
