//! Whether clusters can be one mesh, and which writes make them one.
//!
//! ```text
//!  what each cluster has ──read elsewhere──▶ Member ─┬─▶ checks ──▶ Finding (code, severity, what to do)
//!                                                    └─▶ connect, disconnect ──▶ Plan (writes of single keys)
//! ```
//!
//! Pure: nothing here reads a clock, a file or an API. The checks look at the mesh as a whole, every pair of it. A plan
//! names each key that it sets or removes, in Secrets and ConfigMaps of Cilium's layout, and no other key is touched;
//! planned again over what it wrote, it is empty.

mod certificate;
mod checks;
mod code;
mod finding;
mod member;
mod plan;
mod settings;

#[cfg(test)]
mod samples;

pub use certificate::{Certificate, Names};
pub use checks::{MAX_CLOCK_SKEW, checks, has_error, is_asked};
pub use code::{Code, Group};
pub use finding::{Finding, Severity};
pub use member::{
    Address, Clock, Failure, Host, Member, Node, Objects, Observed, Probe, ProbeResult, StoreService,
    StoreServiceKind, TlsSecret, Trouble, Version,
};
pub use plan::{
    AGENTS_SECRET, Action, Change, Kind, MIRROR_SECRET, Plan, Trial, USERS_CONFIG_MAP, Write, connect,
    disconnect, not_connected, trial,
};
pub use settings::{Datapath, Settings};
