//! Clusters by their kubeconfig contexts: reading them, trying their stores, and carrying out a plan.
//!
//! ```text
//!  kubeconfig ──reach──▶ clients ──survey──▶ Members ──▶ mesh_connect: findings, plan ──apply──▶ API servers
//!                                    └──probe──▶ how the stores answer
//! ```

pub(crate) mod apply;
pub(crate) mod carry;
pub(crate) mod probe;
pub(crate) mod reach;
pub(crate) mod report;
pub(crate) mod survey;
