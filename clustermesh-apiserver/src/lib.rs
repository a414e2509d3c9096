//! clustermesh-apiserver.

pub mod mcs;
