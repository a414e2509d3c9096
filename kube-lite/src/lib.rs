//! A Kubernetes API in one process, over the store of the mesh: for clusters without Kubernetes, for the demo, and for
//! quick tests.
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
mod patch;
mod path;
mod schema;
mod select;
mod server;
mod status;
mod view;

pub use auth::Token;
pub use server::{Config, Error, Server, Tls, serve_until as serve};
