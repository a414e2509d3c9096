//! Certificates of the mesh: a CA, servers and clients, as Cilium's chart lays them out.
//!
//! Names and clock come in, PEM texts go out; files are written by [`files`]. Keys are ECDSA P-256. A leaf never
//! outlives its CA, and a CA is only used with the key that belongs to it.
//!
//! Source of names, usages and lifetimes: Cilium's chart, `clustermesh-apiserver` TLS secrets.

mod authority;
mod date;
pub(crate) mod files;
mod names;
pub(crate) mod show;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub(crate) use authority::{Authority, Leaf, new_ca};
pub(crate) use names::{CommonName, ServerName};

use std::fmt;
use std::time::Duration;

/// Clocks of two clusters differ; what is issued now is valid since a little earlier.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// A certificate and its key.
#[derive(Debug)]
pub(crate) struct Issued {
    /// The certificate.
    pub(crate) certificate: String,
    /// Its private key, PKCS#8.
    pub(crate) key: SecretPem,
}

/// A private key in PEM form. `Debug` does not show it.
pub(crate) struct SecretPem(String);

impl SecretPem {
    /// For writing it into a file that only its owner reads.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(…)")
    }
}
