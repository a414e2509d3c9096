//! A Kubernetes API in one process, over the store of the mesh: for clusters without Kubernetes, for the demo, and for
//! quick tests. No distribution: nothing is scheduled or run, and what is not here is answered with a Status that says
//! so.
//!
//! ```text
//!  kubectl ──TLS──▶ server ▶ http ─┬─▶ path, select, view, discovery, openapi          pure: read what is asked
//!                   (who?)         │
//!                                  ├─▶ api::read ───────────────────────────▶ Client ─▶ store
//!                                  ├─▶ api::write ─▶ body ▶ patch, apply ▶ kinds, schema ──▶ Client (guarded)
//!                                  │        ▲ starts over if a guard does not hold
//!                                  └─▶ api::watch ◀── cache ◀── follows the store ◀── Client
//!                                                       └─▶ janitor ▶ graph ▶ api::delete   owners, namespaces, CRDs
//! ```
//!
//! **A resource is data.** `kinds` has one table of the built-in ones, and makes the same `Resource` of
//! a CustomResourceDefinition; all verbs are generic over it. Objects are JSON values throughout. Built-ins are read
//! through their generated types, so that what they drop or refuse is what Go's types drop or refuse.
//!
//! **Keys.** An object is at `/registry/<group>/<plural>/<namespace>/<name>`, without the namespace if it has none, the
//! core group as `core`; its value is the object as JSON in the version that its resource is stored in, without
//! `resourceVersion`. `/kube-lite/claims/clusterips/<address>` and `…/nodeports/<port>` hold the key of the Service that
//! has them, written in one transaction with it. `/kube-lite/epoch` is the number that revisions of the store are added
//! to for a `resourceVersion`.
//!
//! **What always holds.** A write is stored only over what it was made from, and a new object only into a namespace that
//! is still as it was read. Versions only grow, also when the store is a new one: a version of an earlier store is 410,
//! never the start of a watch that silently misses something. A watch delivers every change after its version in order,
//! or ends.
//!
//! **Known differences** to Kubernetes, pinned by the tests in `tests/battery/lite_only.rs`:
//!
//! - A pod on a node is deleted at once: there is no kubelet that would confirm it.
//! - A CRD is established when it is stored. Its `x-kubernetes-validations` are not evaluated (a warning says so), and
//!   its conversion strategy must be `None`.
//! - Whoever has a certificate of the client authority, or a token, may do everything; nobody else may do anything.
//! - Answers are JSON. Protobuf is read for the small built-in kinds only, as Go's typed clients send it.

mod api;
mod apply;
mod auth;
mod body;
mod bootstrap;
mod cache;
mod catalog;
mod discovery;
mod graph;
mod http;
mod janitor;
mod jsonpath;
mod kinds;
mod object;
mod openapi;
mod options;
mod patch;
mod path;
mod proto;
mod schema;
mod select;
mod server;
mod status;
mod view;

pub use auth::Token;
pub use server::{Config, Error, Server, Tls, serve_until as serve};
