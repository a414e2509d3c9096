//! `tests/client.rs` of the `etcd-client` package, compiled where it lies; `tests/etcd_client_crate.rs` builds and runs it.

include!(concat!(env!("ETCD_CLIENT_TESTS"), "/client.rs"));
