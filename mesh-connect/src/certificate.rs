//! Certificates as PEM texts: what they say, and whether a CA vouches for them.

use crate::Host;
use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore};
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject; empty if it has none.
    pub common_name: String,
    /// Its subject.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Whom it is for.
    pub names: Names,
}

/// The names and addresses of a server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names; the first label may be `*`.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// Whether a server at `host` may show the certificate.
    pub fn cover(&self, host: &Host) -> bool {
        match host {
            Host::Ip(ip) => self.ips.contains(ip),
            Host::Name(name) => self.dns.iter().any(|pattern| matches(pattern, name)),
        }
    }
}

/// RFC 6125 §6.4: a wildcard stands for one whole label.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
    match pattern.strip_prefix("*.") {
        Some(rest) => name.split_once('.').is_some_and(|(label, parent)| !label.is_empty() && parent == rest),
        None => pattern == name,
    }
}

/// All certificates of a PEM text; `None` if there is none or one is damaged.
pub(crate) fn read(pem: &str) -> Option<Vec<Certificate>> {
    let ders: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    let all: Vec<_> = ders.iter().map(describe).collect::<Option<_>>()?;
    (!all.is_empty()).then_some(all)
}

fn describe(der: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Some(Certificate {
        common_name: common_name.unwrap_or_default().to_owned(),
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        names: names(&certificate),
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "names of other kinds do not name a server")]
fn names(certificate: &X509Certificate<'_>) -> Names {
    let mut names = Names::default();
    let alternative = certificate.subject_alternative_name().ok().flatten();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                names.ips.extend(v4.or_else(|_longer| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            _ => {}
        }
    }
    names
}

/// As whom a certificate is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Server,
    Client,
}

/// Whether the authorities of `ca` vouch for the chain of `pem` at `now`, whatever its dates and names are, of which
/// other checks tell.
///
/// # Errors
/// Why not, for people.
pub(crate) fn vouched(ca: &str, pem: &str, shown: Shown, now: Timestamp) -> Result<(), String> {
    let roots = roots(ca)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_quotes_the_text| "the certificate is not PEM text".to_owned())?;
    let (first, rest) = chain.split_first().ok_or("there is no certificate")?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let provider = Arc::new(ring::default_provider());
    let verified = match shown {
        Shown::Client => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            verifier.map_err(|error| error.to_string())?.verify_client_cert(first, rest, now).map(drop)
        }
        Shown::Server => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            let verifier = verifier.map_err(|error| error.to_string())?;
            // No certificate is for it: names are not what is asked for.
            let name = ServerName::try_from("name.invalid").map_err(|error| error.to_string())?;
            verifier.verify_server_cert(first, rest, &name, &[], now).map(drop)
        }
    };
    match verified {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(why)) if is_of_another_check(&why) => Ok(()),
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            let issuer = describe(chain.last().unwrap_or(first)).map(|last| last.issuer).unwrap_or_default();
            Err(format!("its issuer, {issuer}, is not among those that are trusted"))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn is_of_another_check(why: &CertificateError) -> bool {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
    };
    matches!(
        why,
        Expired
            | ExpiredContext { .. }
            | NotValidYet
            | NotValidYetContext { .. }
            | NotValidForName
            | NotValidForNameContext { .. }
    )
}

fn roots(ca: &str) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let der = der.map_err(|_quotes_the_text| "the CA is not PEM text".to_owned())?;
        roots.add(der).map_err(|error| format!("the CA cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no CA".to_owned());
    }
    Ok(Arc::new(roots))
}

/// A time for people.
pub(crate) fn date(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds)
        .map_or_else(|_range| format!("@{unix_seconds}"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let names = Names {
            dns: vec!["*.mesh.cilium.io".into(), "a.svc".into()],
            ips: vec!["10.0.0.1".parse().unwrap()],
        };
        let covers = |name: &str| names.cover(&Host::Name(name.into()));
        assert!(covers("West.mesh.cilium.io") && covers("a.svc"));
        assert!(!covers("mesh.cilium.io") && !covers("a.b.mesh.cilium.io") && !covers("b.svc"));
        assert!(names.cover(&Host::Ip("10.0.0.1".parse().unwrap())));
        assert!(!names.cover(&Host::Ip("10.0.0.2".parse().unwrap())));
    }
}
