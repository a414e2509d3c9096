//! mesh-types.
