//! The battery over our server, through mutual TLS, and what only a server can do wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

battery::battery! { battery::bed::ours }
