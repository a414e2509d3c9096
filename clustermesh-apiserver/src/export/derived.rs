//! Nodes, identities and endpoints of a cluster whose CNI is not Cilium.
//!
//! ```text
//!  Node ─────────────────────────────────────────────▶ node value
//!  Pod ──┬─▶ label set ──▶ wanted ──▶ Allocator ──▶ Records ──▶ identity value
//!        │      ▲                     (ConfigMaps)     │
//!        │   Namespace                                 ▼
//!        └──────────────────────────────────────────▶ address value
//! ```
//!
//! An address is written only once its label set has a number that is recorded in the Kubernetes API, so that no restart
//! and no second replica ever gives it another one.

pub(crate) mod allocation;
pub(crate) mod labels;
pub(crate) mod node;
pub(crate) mod pod;
