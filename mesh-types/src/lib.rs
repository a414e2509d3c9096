//! The language of the mesh.
//!
//! Bytes of a key or value come in, typed and validated values go out, and the other way round; nothing here does I/O,
//! reads a clock or knows of async. Texts and values are those of Cilium ClusterMesh, byte for byte.

mod reason;

pub use reason::{Reason, Rejection};
