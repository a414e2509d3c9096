//! Encryption between nodes: WireGuard.
//!
//! Nodes and ipcache entries come in; a device that encrypts the packets between pods of different nodes goes out.
//!
//! ```text
//!  nodes ─┐                     ┌─ netlink    the kernel's WireGuard
//!         ├─▶ plan ─▶ diff ─▶ device ─ boringtun  in user space, on a TUN interface
//!  ipcache┘  (pure)  (pure)     └─ memory     for tests
//! ```
//!
//! - [`PrivateKey`] is made once per node and stays; [`PublicKey`] travels with the node record.
//! - [`plan()`] decides who is a peer, who owns which prefix and what is routed, with a [`Reason`](mesh_types::Reason) for
//!   whatever is left out. One prefix has one owner, at every moment.
//! - [`diff`] gives the [`Change`]s from one table to the next; a [`Device`] carries them out without disturbing peers
//!   that do not change, also across restarts.

mod device;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod netlink;
mod plan;
mod prefix;

pub use device::{
    ApplyError, Choice, Config, Counters, DEVICE_NAME, Device, DeviceError, DeviceKind, Driver, Failure,
    Memory, Opened, PeerStatus, Status, device_mtu, open, underlay_mtu,
};
pub use key::{FoundKey, KeyError, KeyFileError, PrivateKey, PublicKey};
pub use plan::{
    Change, Input, LocalNode, NodeName, PORT, Peer, Plan, RemoteNode, Scope, Settings, Skipped, Tables, diff,
    plan,
};
