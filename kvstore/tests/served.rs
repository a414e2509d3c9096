//! The battery over our server, through mutual TLS, and what only a server can do wrong.

#[path = "battery/battery.rs"]
mod battery;

battery::battery! { battery::bed::ours }
