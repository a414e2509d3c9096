//! The battery over the store in this process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

battery::battery! { battery::bed::embedded }
