//! What each remote cluster may see: export scopes.
//!
//! ```text
//!  file ──▶ Scopes ─┐                        ┌─▶ isthmus/scope/shop/cilium/state/…   (tree of scope shop)
//!                   ├─▶ Trees ── SyncWriter ─┼─▶ isthmus/scope/shop/cilium/synced/…
//!  Exporter ────────┘                        └─▶ …
//!  file of users ─────▶ users: remote-prod has the role root=isthmus/scope/shop/, which reads that tree alone
//! ```
//!
//! A scope has a tree of its own in the store, made of the same desired keys as `cilium/state/`, and the clusters in it have
//! users that can read nothing else: what a cluster must not see is not filtered on its way but is not there. What always holds:
//!
//! - A key is in the tree of a scope only while [`Scope::admits`] it; what is not known of a key keeps it out.
//! - A user is given a tree only once that tree is complete, and a tree is removed only after its last user: nobody takes a
//!   tree that is being written, or torn down, for a withdrawal.

mod declared;
mod file;
mod selector;
mod trees;

pub(crate) use declared::{Attached, Subject, Unscoped};
use declared::{Outside, Scope};
pub use declared::{Scopes, ScopesError};
pub(crate) use file::{ScopesFile, text_of};
pub use trees::{OutsideKey, ScopeStatus};
pub(crate) use trees::{Trees, place, scope_at};
