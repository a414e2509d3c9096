//! List and watch of one Kubernetes resource, as typed events.
//!
//! In goes a [`Resource`] (group, version, kind, plural, and optionally a namespace and selectors) and a function
//! that decodes one object; out come [`Event`]s on a bounded channel and a [`WatchStatus`] that tells how far the
//! watch has come.
//!
//! ```text
//!  API server ──list pages──▶ ┌───────────┐ changed? ┌────────┐  Applied / Undecodable   ┌──────────┐
//!             ──watch lines─▶ │  Tracker  │ ───────▶ │ decode │ ───────────────────────▶ │ consumer │
//!                             │ (diff)    │ ─ gone ─────────────── Deleted ────────────▶ │          │
//!                             └───────────┘                                              └──────────┘
//! ```
//!
//! What always holds:
//!
//! - The consumer that applies every event holds what the API server holds: a relist after a lost watch is compared
//!   with what is known, and only the difference is sent.
//! - Nothing is ever deleted without evidence: a failed, partial or absent list deletes nothing, and it never counts as
//!   a list that is complete and empty.
//! - An object that does not decode stops only itself. It is reported as [`Event::Undecodable`]; the consumer keeps the
//!   older value, if there was one.
//! - A resource that the API server does not have (a CRD that is not installed) is [`WatchState::Absent`], not empty. It
//!   is asked for again, and followed once it appears.

use k8s_openapi as _;

mod client;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod object;
mod resource;
mod status;
mod tracker;
mod watch;
mod wire;

pub use client::{ClientConfig, ClientError, wrong_with};
pub use object::{DecodeError, ObjectKey, RawObject};
pub use resource::Resource;
pub use status::{WatchError, WatchState, WatchStatus};
pub use watch::{ConsumerGone, Event, Watch, WatchOptions, watch};
