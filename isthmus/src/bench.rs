//! Measuring the store beside a real etcd, in one run and under the same load.
//!
//! ```text
//!  isthmus bench store ─┬─▶ figures::<name> ──wire (h2)──▶ server: `isthmus store serve` of this binary
//!                       │        │                    └──▶ server: etcd, its data on tmpfs
//!                       │        ▼
//!                       └── report: one row per reading, ours, etcd's, the ratio, the target
//! ```
//!
//! A figure gets a fresh server for each side, loads it and returns readings. What a side costs is read from its
//! process (`proc`), so the generator, which runs in this process, does not count; only figures of wall time feel it.
//! Nothing is asserted here: a missed target is a word in the table.
//!
//! [`mirror`] measures the mirror of remote clusters in the same way, [`export`] the exporter.

pub(crate) mod export;
mod figures;
mod keys;
mod latency;
mod load;
pub(crate) mod mirror;
mod proc;
mod report;
mod server;
mod sizes;
mod wire;

pub(crate) use figures::{Context, Figure};
pub(crate) use report::{Machine, Report};
pub(crate) use server::{Credentials, Side};
pub(crate) use sizes::Sizes;
