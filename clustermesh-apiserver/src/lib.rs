//! clustermesh-apiserver.

pub mod export;
pub mod mcs;
