//! The mirror as a whole.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bed;
mod directory;
mod leader;
mod mirror;
mod servers;
mod tls;
