//! agent
pub mod datapath;
pub mod ipcache;
pub mod local;
pub mod observe;
pub mod services;
