//! The battery over a real etcd: what we ask of a store is what etcd does.

#[path = "battery/battery.rs"]
mod battery;

battery::battery! { battery::bed::etcd }
