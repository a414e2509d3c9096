//! The test bed: real clusters on one machine, and witnesses that know nothing of Isthmus.
//!
//! A [`Bed`] starts clusters; each has a real kube-apiserver with its own etcd. Nodes and pods are network
//! namespaces, and so is each cluster's control plane; all hosts hang on one bridge, the *underlay*:
//!
//! ```text
//!                  underlay  10.200.0.0/16  fd00:200::/64           (c: which cluster, n: which node, p: which pod)
//!      ┌───────────────┬───────────────┬───────────────┐
//!  10.200.c.1      10.200.c.11     10.200.c.12       the same of the next cluster …
//!  control plane   node 1          node 2
//!  kube-apiserver  │ 10.(70+c).1.0/24
//!  etcd, daemons   ├─ pod 10.(70+c).1.11
//!                  └─ pod 10.(70+c).1.12             services 10.(110+c).0.0/16
//! ```
//!
//! Nothing is routed between nodes but the underlay's own addresses: how a pod reaches another node's pod is what is
//! under test. Programs run inside of a host by [`NetNs::exec`] (or [`Node`]'s, [`Pod`]'s), daemons by [`Daemon`];
//! [`Bed::eventually`] waits for a state and prints what all sides see when it does not come.
//!
//! What always holds: **nothing outlives the test process.** Namespaces have no names, so the kernel removes them, and
//! the links in them, with the last process that uses them; each child is killed by the kernel when the test process
//! dies of whatever cause; a watcher removes the directory. Two beds never share a port or an address, because each
//! has namespaces of its own.
//!
//! It needs the rights of a network administrator: root's, or those that
//! `unshare --user --map-current-user --keep-caps` gives to anybody.
//!
//! | | |
//! | --- | --- |
//! | `make e2e` | builds what is needed, and runs all |
//! | `cargo test -p e2e --test e2e bed::` | one module; the servers are built if they are missing, `isthmus` is not |
//! | `cargo run -p e2e --bin bed -- prod-eu us-east` | holds a bed, for a look around |
//! | `ISTHMUS_BIN` | another program under test than the one in `target/` |
//! | `ISTHMUS_TOOLS_BIN` | the directory of the servers, else `tools/build` says it and builds what is missing |
//! | `ISTHMUS_E2E_KEEP=1` | leaves the directory with all logs, and names it |

mod audit;
mod bed;
mod capture;
mod certs;
mod cluster;
mod daemon;
mod diary;
mod etcdctl;
mod exec;
mod http;
mod kubectl;
mod mesh;
mod netns;
mod node;
pub mod objects;
mod plan;
mod process;
mod relay;
mod sys;
mod tools;
mod underlay;

pub use audit::Audited;
pub use bed::{Bed, BedBuilder};
pub use capture::{Capture, Captured};
pub use certs::{Authority, PemPair};
pub use cluster::{Cluster, ClusterSpec};
pub use daemon::{Daemon, DaemonSpec};
pub use diary::Diary;
pub use etcdctl::{Etcdctl, MeshEtcd};
pub use exec::{Exec, Output};
pub use http::{HttpAnswer, HttpServer};
pub use kubectl::Kubectl;
pub use mesh::{AgentView, Member, Mesh, MeshBuilder, MeshPki, Part};
pub use netns::NetNs;
pub use node::{Node, Pod};
pub use plan::Plan;
pub use process::{Process, Signal};
pub use relay::{Held, Relay};
pub use tools::{isthmus, tool};
pub use underlay::Host;
