//! What needs a whole mesh: the demo, and the commands that look at one.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod demo;
mod gather;
mod running;
mod status;
mod terminal;
