//! What the fuzzer calls: requests of etcd clients, and the file that says how to reach an etcd. Also replayed by an
//! ordinary test.
//!
//! Each takes any bytes, tells whether they were accepted, and panics if a rule is broken.

use std::path::Path;

use crate::{ConfigFileError, EtcdConfigFile, server};

/// Requests to the embedded store: see `server::fuzzing`.
pub fn requests(input: &[u8]) -> bool {
    server::fuzzing::requests(input)
}

/// Leases, watches, users and permissions over connections: see `server::fuzzing::sequences`.
pub fn sequences(input: &[u8]) -> bool {
    server::fuzzing::sequences(input)
}

/// An etcd client's configuration file.
pub fn config_file(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    match EtcdConfigFile::parse(text, Path::new("/etc/mesh")) {
        Ok(file) => {
            let config = &file.config;
            assert!(!config.endpoints.is_empty() && file.ignored.is_sorted());
            for endpoint in &config.endpoints {
                let uri: http::Uri = endpoint.parse().expect("an endpoint is a URI");
                assert!(uri.host().is_some_and(|host| !host.is_empty()), "{endpoint}");
                assert!(uri.scheme_str() != Some("https") || config.tls.is_some(), "{endpoint} without a CA");
            }
            true
        }
        Err(ConfigFileError::Read { .. }) => panic!("nothing is read from the disk"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

#[cfg(test)]
mod replays {
    fuzz_replay::replays! {
        requests: 5_000,
        sequences: 500,
        config_file: 10_000,
    }
}
