//! The etcd client configuration files of Cilium: what `--kvstore-opt etcd.config=` and peer files hold.
//!
//! ```yaml
//! endpoints:
//! - https://west.mesh.cilium.io:2379
//! trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt
//! cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt
//! key-file: /var/lib/cilium/clustermesh/common-etcd-client.key
//! cilium-host-aliases:
//! - hostname: west.mesh.cilium.io
//!   ips: [203.0.113.10]
//! ```
//!
//! Source: etcd `clientv3/yaml`, Cilium `pkg/kvstore/etcd.go`. Relative paths are taken from the file's directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::IgnoredAny};

use super::config::{EtcdConfig, EtcdTls};

/// An etcd client configuration as a file describes it.
#[derive(Clone, Debug)]
pub struct EtcdConfigFile {
    /// How to reach the store. Host aliases are resolved already.
    pub config: EtcdConfig,
    /// Keys that mean nothing here, in alphabetical order, for one line in the log.
    pub ignored: Vec<String>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not YAML, or a key has another type than expected.
    #[error(
        "expected an etcd client configuration in YAML (endpoints, trusted-ca-file, cert-file, key-file)"
    )]
    Syntax(#[source] serde_yaml_ng::Error),
    /// A key is missing or has a value that cannot be used.
    #[error("{key}: expected {expected}, found {found}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it must be, and what to do.
        expected: &'static str,
        /// What it is; never a secret.
        found: String,
    },
}

impl EtcdConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigFileError`]; the files that it names are not opened, which each connect does.
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads the text of a file that lies in `directory`.
    ///
    /// # Errors
    /// [`ConfigFileError::Syntax`] and [`ConfigFileError::Value`].
    pub fn parse(text: &str, directory: &Path) -> Result<Self, ConfigFileError> {
        let file: File = serde_yaml_ng::from_str(text).map_err(ConfigFileError::Syntax)?;
        file.refuse_insecure()?;
        let endpoints = file.endpoints()?;
        let mut tls = file.tls(&endpoints, directory)?;
        let endpoints = resolve(endpoints, &file.aliases()?, tls.as_mut())?;
        let mut config = EtcdConfig::new(endpoints, tls);
        if let Some(nanos) = file.dial_timeout.filter(|nanos| *nanos > 0) {
            config.connect_timeout = Duration::from_nanos(nanos);
        }
        Ok(Self { config, ignored: file.ignored.into_keys().collect() })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    endpoints: Option<Vec<String>>,
    trusted_ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    /// Go's `time.Duration`: nanoseconds.
    dial_timeout: Option<u64>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    username: Option<IgnoredAny>,
    password: Option<IgnoredAny>,
    cilium_host_aliases: Option<Vec<Alias>>,
    #[serde(flatten)]
    ignored: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct Alias {
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    ips: Vec<String>,
}

/// `https://host:port` in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    secure: bool,
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: String,
    /// With the colon; empty when absent.
    port: String,
}

impl Endpoint {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let secure = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let port_at = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains(']') => colon,
            _ => rest.len(),
        };
        let (host, port) = rest.split_at(port_at);
        let port_fits = port.is_empty() || port[1..].parse::<u16>().is_ok_and(|port| port != 0);
        let host_fits = if let Some(v6) = host.strip_prefix('[') {
            v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok())
        } else {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        (port_fits && host_fits).then(|| Self { secure, host: host.to_owned(), port: port.to_owned() })
    }

    fn url(&self, host: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{host}{}", self.port)
    }
}

impl File {
    fn refuse_insecure(&self) -> Result<(), ConfigFileError> {
        if self.insecure_skip_tls_verify {
            return Err(ConfigFileError::Value {
                key: "insecure-skip-tls-verify",
                expected: "false or absent (the server must be verified; give its CA as trusted-ca-file)",
                found: "true".to_owned(),
            });
        }
        let secret = if self.username.is_some() {
            Some("username")
        } else {
            self.password.as_ref().map(|_| "password")
        };
        match secret {
            Some(key) => Err(ConfigFileError::Value {
                key,
                expected: "no password user (the common name of cert-file is the etcd user)",
                found: "a value".to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, ConfigFileError> {
        let given = self.endpoints.as_deref().unwrap_or_default();
        if given.is_empty() {
            return Err(ConfigFileError::Value {
                key: "endpoints",
                expected: "a list of at least one https://host:port",
                found: "none".to_owned(),
            });
        }
        let endpoint = |text: &String| {
            Endpoint::parse(text).ok_or_else(|| ConfigFileError::Value {
                key: "endpoints",
                expected: "https://host:port",
                found: format!("{text:?}"),
            })
        };
        given.iter().map(endpoint).collect()
    }

    fn tls(&self, endpoints: &[Endpoint], directory: &Path) -> Result<Option<EtcdTls>, ConfigFileError> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(ConfigFileError::Value {
                key: if self.cert_file.is_some() { "key-file" } else { "cert-file" },
                expected: "a path (cert-file and key-file go together)",
                found: "none".to_owned(),
            });
        }
        let Some(ca_file) = &self.trusted_ca_file else {
            if endpoints.iter().any(|endpoint| endpoint.secure) || self.cert_file.is_some() {
                return Err(ConfigFileError::Value {
                    key: "trusted-ca-file",
                    expected: "the path of the CA certificates that the server is verified by",
                    found: "none".to_owned(),
                });
            }
            return Ok(None);
        };
        let resolve = |path: &PathBuf| directory.join(path);
        Ok(Some(EtcdTls {
            ca_file: resolve(ca_file),
            cert_file: self.cert_file.as_ref().map(resolve),
            key_file: self.key_file.as_ref().map(resolve),
            server_name: None,
        }))
    }

    fn aliases(&self) -> Result<BTreeMap<&str, Vec<IpAddr>>, ConfigFileError> {
        let refuse = |expected, found: String| {
            Err(ConfigFileError::Value { key: "cilium-host-aliases", expected, found })
        };
        let mut aliases = BTreeMap::new();
        for Alias { hostname, ips } in self.cilium_host_aliases.iter().flatten() {
            if hostname.is_empty() {
                return refuse("a hostname in each entry", "none".to_owned());
            }
            if ips.is_empty() {
                return refuse("at least one address per hostname", format!("none for {hostname:?}"));
            }
            let mut addresses = Vec::with_capacity(ips.len());
            for ip in ips {
                match ip.parse() {
                    Ok(address) => addresses.push(address),
                    Err(_) => return refuse("IP addresses", format!("{ip:?} for {hostname:?}")),
                }
            }
            if aliases.insert(hostname.as_str(), addresses).is_some() {
                return refuse("each hostname once", format!("{hostname:?} twice"));
            }
        }
        Ok(aliases)
    }
}

/// Puts the addresses in the place of aliased hosts; the server is still verified as the host.
fn resolve(
    endpoints: Vec<Endpoint>,
    aliases: &BTreeMap<&str, Vec<IpAddr>>,
    tls: Option<&mut EtcdTls>,
) -> Result<Vec<String>, ConfigFileError> {
    let hosts: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.host.as_str()).collect();
    let Some(aliased) = hosts.iter().find(|host| aliases.contains_key(*host)) else {
        return Ok(endpoints.iter().map(|endpoint| endpoint.url(&endpoint.host)).collect());
    };
    if hosts.len() > 1 {
        // One client verifies its server by one name only.
        return Err(ConfigFileError::Value {
            key: "endpoints",
            expected: "one host name in all endpoints when it has cilium-host-aliases",
            found: hosts.into_iter().collect::<Vec<_>>().join(", "),
        });
    }
    if let Some(tls) = tls {
        tls.server_name = Some((*aliased).to_owned());
    }
    let literal = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let urls = endpoints.iter().flat_map(|endpoint| {
        aliases[endpoint.host.as_str()].iter().map(move |address| endpoint.url(&literal(address)))
    });
    Ok(urls.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EtcdConfigFile, ConfigFileError> {
        EtcdConfigFile::parse(text, Path::new("/etc/mesh"))
    }

    #[test]
    fn the_chart_s_file_is_understood() {
        let file = parse(
            "endpoints:\n- https://west.mesh.cilium.io:32379\ntrusted-ca-file: /ca.crt\nkey-file: west.key\ncert-file: west.crt\n",
        )
        .unwrap();
        assert_eq!(file.config.endpoints, ["https://west.mesh.cilium.io:32379"]);
        let tls = file.config.tls.unwrap();
        assert_eq!(tls.ca_file, Path::new("/ca.crt"), "absolute paths stay");
        assert_eq!(tls.cert_file.unwrap(), Path::new("/etc/mesh/west.crt"), "others are beside the file");
        assert_eq!(tls.key_file.unwrap(), Path::new("/etc/mesh/west.key"));
        assert_eq!(tls.server_name, None);
        assert!(file.ignored.is_empty());
    }

    #[test]
    fn aliases_take_the_place_of_the_host_and_keep_its_name_for_verification() {
        let file = parse(
            "endpoints: ['https://west.example:2379']\ntrusted-ca-file: ca\ncilium-host-aliases:\n- hostname: west.example\n  ips: [203.0.113.10, 'fd00::1']\n- hostname: other\n  ips: [203.0.113.11]\n",
        )
        .unwrap();
        assert_eq!(file.config.endpoints, ["https://203.0.113.10:2379", "https://[fd00::1]:2379"]);
        assert_eq!(file.config.tls.unwrap().server_name.as_deref(), Some("west.example"));
    }

    #[test]
    fn keys_without_meaning_are_named_and_harmless() {
        let file =
            parse("endpoints: [http://127.0.0.1:2379]\nzeta: {a: 1}\nauto-sync-interval: 5\ndial-timeout: 2000000000\n")
                .unwrap();
        assert_eq!(file.ignored, ["auto-sync-interval", "zeta"]);
        assert_eq!(file.config.connect_timeout, Duration::from_secs(2));
        assert!(file.config.tls.is_none());
    }

    #[test]
    fn errors_say_what_was_expected_and_what_was_found() {
        let cases = [
            ("no endpoints", "trusted-ca-file: ca\n", "endpoints: expected a list"),
            ("empty endpoints", "endpoints: []\n", "endpoints: expected a list"),
            (
                "no scheme",
                "endpoints: ['west:2379']\n",
                "endpoints: expected https://host:port, found \"west:2379\"",
            ),
            ("bad port", "endpoints: ['https://west:0']\n", "found \"https://west:0\""),
            ("path", "endpoints: ['https://west:2379/x']\n", "found \"https://west:2379/x\""),
            ("no CA", "endpoints: ['https://west:2379']\n", "trusted-ca-file: expected"),
            (
                "certificate without key",
                "endpoints: ['https://w:1']\ntrusted-ca-file: ca\ncert-file: c\n",
                "key-file: expected",
            ),
            ("not a mapping", "- endpoints:\n", "expected an etcd client configuration in YAML"),
            ("wrong type", "endpoints: 7\n", "expected an etcd client configuration in YAML"),
            (
                "unverified",
                "endpoints: ['https://w:1']\ninsecure-skip-tls-verify: true\n",
                "insecure-skip-tls-verify: expected",
            ),
            (
                "alias without address",
                "endpoints: ['http://w:1']\ncilium-host-aliases: [{hostname: w}]\n",
                "at least one address per hostname, found none for \"w\"",
            ),
            (
                "alias without name",
                "endpoints: ['http://w:1']\ncilium-host-aliases: [{ips: [10.0.0.1]}]\n",
                "a hostname in each entry",
            ),
            (
                "alias with a bad address",
                "endpoints: ['http://w:1']\ncilium-host-aliases: [{hostname: w, ips: [10.0.0]}]\n",
                "found \"10.0.0\" for \"w\"",
            ),
            (
                "alias twice",
                "endpoints: ['http://w:1']\ncilium-host-aliases: [{hostname: w, ips: [10.0.0.1]}, {hostname: w, ips: [10.0.0.1]}]\n",
                "found \"w\" twice",
            ),
            (
                "alias among several hosts",
                "endpoints: ['http://w:1', 'http://x:1']\ncilium-host-aliases: [{hostname: w, ips: [10.0.0.1]}]\n",
                "one host name in all endpoints",
            ),
        ];
        for (name, text, expected) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[test]
    fn a_password_is_refused_without_being_shown() {
        let error = parse("endpoints: ['http://w:1']\nusername: root\npassword: hunter2\n").unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("username: expected no password user") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = EtcdConfigFile::read(Path::new("/nonexistent/west")).unwrap_err();
        assert_eq!(error.to_string(), "read /nonexistent/west");
    }
}
