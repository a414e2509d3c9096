//! Explanations of a mesh in which one thing at a time is not as it should be.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod fixture;
mod reasons;
mod walks;
