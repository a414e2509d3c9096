//! The mirror as a whole.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bad_input;
mod bed;
mod directory;
mod leader;
mod mirror;
mod recovery;
mod safety;
mod servers;
mod tls;
