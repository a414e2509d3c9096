//! kvstore.
