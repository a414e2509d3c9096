//! clustermesh-apiserver.
