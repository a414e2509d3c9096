//! agent
pub mod datapath;
pub mod ipcache;
pub mod local;
pub mod observe;
pub mod rejected;
pub mod services;
pub mod tables;
