//! Names that go into certificates.

use rustls_pki_types::DnsName;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest common name of X.509 (RFC 5280, upper bound `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

/// A certificate's common name. A client's is its user name in the store.
///
/// 1 to 64 printable ASCII characters, no space at either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommonName(String);

impl CommonName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CommonName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_COMMON_NAME {
            return Err(format!("expected 1 to {MAX_COMMON_NAME} characters, found {}", text.len()));
        }
        if text.trim() != text || !text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return Err("expected printable ASCII characters without spaces at the ends".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// A name by which clients reach a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServerName {
    /// A DNS name in lower case, its first label may be `*`.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl ServerName {
    /// Parses a DNS name such as `east.mesh.cilium.io` or `*.mesh.cilium.io`.
    pub(crate) fn dns(text: &str) -> Result<Self, String> {
        if text.parse::<IpAddr>().is_ok() {
            return Err("expected a DNS name, found an address: give it by --ip".to_owned());
        }
        let name = text.to_ascii_lowercase();
        let below_wildcard = name.strip_prefix("*.");
        let (plain, labels) = (below_wildcard.unwrap_or(&name), name.split('.').count());
        let wildcard_too_wide = below_wildcard.is_some() && labels < 3;
        match DnsName::try_from(plain) {
            Ok(_) if wildcard_too_wide => {
                Err("expected at least two labels after `*.`: clients refuse wider wildcards".to_owned())
            }
            Ok(_) if !plain.ends_with('.') => Ok(Self::Dns(name)),
            _ => Err("expected a DNS name such as `east.mesh.cilium.io` or `*.mesh.cilium.io`".to_owned()),
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_are_short_and_printable() {
        for name in ["remote-east", "Isthmus CA", "clustermesh-apiserver.cilium.io", &"x".repeat(64)] {
            assert_eq!(name.parse::<CommonName>().map(|name| name.0), Ok(name.to_owned()));
        }
        for name in ["", " east", "east ", "e\u{e4}st", "a\nb", "a\0b", &"x".repeat(65)] {
            assert!(name.parse::<CommonName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn server_names_are_dns_names_or_wildcards() {
        let good = ["localhost", "east.mesh.cilium.io", "*.mesh.cilium.io", "x.svc.cluster.local"];
        for name in good {
            assert_eq!(ServerName::dns(name), Ok(ServerName::Dns(name.to_owned())));
        }
        assert_eq!(ServerName::dns("East.Example"), Ok(ServerName::Dns("east.example".to_owned())));
        let bad = [
            "",
            "*",
            "*.io",
            "a.*.io",
            "*a.mesh.io",
            "a..b",
            "-a.b",
            "a b",
            "a/b",
            "east.example.",
            "https://a",
        ];
        for name in bad {
            assert!(ServerName::dns(name).is_err(), "{name:?}");
        }
        assert!(ServerName::dns("10.0.0.1").unwrap_err().contains("--ip"));
        assert!(ServerName::dns("fd00::1").unwrap_err().contains("--ip"));
    }
}
