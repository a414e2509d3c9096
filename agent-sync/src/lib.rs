//! agent
pub mod ipcache;
pub mod services;
