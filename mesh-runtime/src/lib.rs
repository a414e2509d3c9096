//! mesh-runtime.
