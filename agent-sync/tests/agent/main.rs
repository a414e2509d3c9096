//! The whole agent: a real store behind gRPC on one side, the socket on the other.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bed;
mod kernel;
mod kubernetes;
mod mirror;
mod store;
