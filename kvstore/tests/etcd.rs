//! The battery over a real etcd: what we ask of a store is what etcd does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

battery::battery! { battery::bed::etcd }
