//! The battery over the store in this process.

#[path = "battery/battery.rs"]
mod battery;

battery::battery! { battery::bed::embedded }
