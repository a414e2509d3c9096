//! Measuring the mirror of many remote clusters into the local store.
//!
//! ```text
//!  isthmus bench mirror ──orders──▶ peers: `isthmus bench peers`, a store per remote cluster, etcd's protocol
//!         │                                    ▲ list, watch
//!         ├──/proc, watch──▶ node: store and mirror in one process
//!         ▼
//!       report: one row per reading, ours, Cilium's as measured once, the target
//! ```
//!
//! All of them are processes of this binary. Only that of the node counts; generator and observer share the processors
//! with it, so that wall times are those of a machine that does all three.

mod anchors;
mod bed;
mod control;
mod data;
mod figures;
mod node;
mod observer;
mod peers;

pub(crate) use anchors::{PEER, anchors};
pub(crate) use bed::Place;
pub(crate) use figures::{Figure, Sizes};
pub(crate) use node::NodeArgs;
pub(crate) use observer::count;
pub(crate) use peers::PeersArgs;
