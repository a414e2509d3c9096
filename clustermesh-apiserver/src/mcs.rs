//! Multi-Cluster Services: exports of all clusters become imports, derived Services and EndpointSlices in this one.
//!
//! ```text
//!  ServiceExport, Service, EndpointSlice, Namespace ─┐
//!  exports of other clusters (the store's cache) ────┼─▶ World ─ plan(key) ─▶ actions ─▶ Kubernetes API
//!  ServiceImport, derived Service, mirrored slices ──┘   (pure)                          │
//!          ▲                                                                             │
//!          └──────────────────────────────── watched again ──────────────────────────────┘
//! ```
//!
//! Each cluster computes its imports by itself; they agree since the computation depends on the exports alone. Plans
//! are made only once every input has been listed, and an import changes only once every cluster in its status has been
//! read: it never disappears because something was not read yet.
//! Source: KEP-1645; names and annotations as Cilium writes them.

mod controller;
mod merge;
mod objects;
mod offer;
mod plan;
mod remote;
mod world;

pub use controller::{Config, RemoteEvent, Status, run};
pub use remote::{RemoteSettings, channel, follow, status_channel};
