//! kvstoremesh.
