//! Certificates: those of the files, and what any of them says.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use kvstore::EtcdTls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, crypto::ring};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::{Layer, Step};

const LAYER: Layer = Layer::Certificate;

/// What the files came to.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) steps: Vec<Step>,
    /// What a handshake needs; absent if the roots cannot be used, or TLS is not asked for.
    pub(super) tls: Option<Usable>,
}

/// What a handshake needs.
#[derive(Debug)]
pub(super) struct Usable {
    pub(super) roots: Arc<RootCertStore>,
    /// Our chain and key.
    pub(super) own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The name that the server is to have, instead of the endpoint's host.
    pub(super) server_name: Option<String>,
}

/// Looks into the files of a configuration at `now`.
pub(super) fn files(tls: Option<&EtcdTls>, now: SystemTime) -> Files {
    let Some(tls) = tls else {
        let step = Step::warning(LAYER, "no TLS: no certificates are named, the connection is in the clear");
        return Files { steps: vec![step], tls: None };
    };
    let mut steps = Vec::new();
    let roots = take(&mut steps, "trusted-ca-file", authorities(&tls.ca_file, now));
    let own = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => take(&mut steps, "cert-file, key-file", client(cert, key, now)),
        _ => {
            steps.push(Step::warning(LAYER, "no client certificate is named: most stores want one"));
            None
        }
    };
    if let (Some(roots), Some((chain, _))) = (&roots, &own)
        && let Err(error) = verify(roots, chain, now)
        // Of its dates there is a step already.
        && !matches!(error, rustls::Error::InvalidCertificate(ref why) if is_about_dates(why))
    {
        let what = format!("the CA of trusted-ca-file does not vouch for cert-file as a client: {error}");
        let mut step = Step::warning(LAYER, what);
        step.facts.push("fine if the other cluster's store trusts another CA that does".to_owned());
        steps.push(step);
    }
    let tls = roots.map(|roots| Usable { roots: Arc::new(roots), own, server_name: tls.server_name.clone() });
    Files { steps, tls }
}

/// A part that can be used, with facts about it; else the step that says why not.
type Part<T> = Result<(T, Vec<String>, Option<Step>), Step>;

fn take<T>(steps: &mut Vec<Step>, key: &str, part: Part<T>) -> Option<T> {
    match part {
        Ok((value, facts, dates)) => {
            steps
                .push(dates.unwrap_or_else(|| Step::passed(LAYER, format!("{key} can be used"))).with(facts));
            Some(value)
        }
        Err(step) => {
            steps.push(step);
            None
        }
    }
}

fn authorities(path: &Path, now: SystemTime) -> Part<RootCertStore> {
    let found = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &found {
        roots.add(certificate.clone()).map_err(|error| unusable(path, &error.to_string()))?;
    }
    let facts = found.iter().map(|certificate| facts(certificate)).collect::<Vec<_>>();
    let dates = found.iter().find_map(|certificate| dates(certificate, "the CA's certificate", now));
    Ok((roots, facts, dates))
}

fn client(
    cert: &Path,
    key: &Path,
    now: SystemTime,
) -> Part<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(cert)?;
    let pem = read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_quotes_the_file| unusable(key, "it holds no private key in PEM form"))?;
    let pair = CertifiedKey::from_der(chain.clone(), private.clone_key(), &ring::default_provider());
    if let Err(error) = pair {
        let why = format!("it is not the key of {}: {error}", cert.display());
        return Err(unusable(key, &why));
    }
    let dates = dates(&chain[0], "the client's certificate", now);
    let facts = vec![facts(&chain[0])];
    Ok(((chain, private), facts, dates))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Step> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| unusable(path, "it holds no certificate in PEM form"))
}

fn read(path: &Path) -> Result<Vec<u8>, Step> {
    std::fs::read(path).map_err(|error| unusable(path, &error.to_string()))
}

fn unusable(path: &Path, why: &str) -> Step {
    let advice =
        "mount the secret with the files that the configuration names, and see that they belong together";
    Step::failed(LAYER, format!("{} cannot be used: {why}", path.display()), advice)
}

fn verify(roots: &RootCertStore, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider).build();
    let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
    let (first, rest) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    verifier.verify_client_cert(first, rest, UnixTime::since_unix_epoch(since)).map(drop)
}

/// Whether a certificate was refused for when it is valid.
pub(super) fn is_about_dates(why: &rustls::CertificateError) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(why, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

/// The step for a certificate that is not valid at `now`.
fn dates(der: &CertificateDer<'_>, whose: &str, now: SystemTime) -> Option<Step> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let (starts, ends) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let what = if now < starts {
        format!("{whose} is not valid before {}", date(starts))
    } else if now > ends {
        format!("{whose} expired at {}", date(ends))
    } else {
        return None;
    };
    Some(Step::failed(LAYER, what, "issue the certificate anew (or set the clock), and mount it"))
}

/// What a certificate says, on one line.
#[expect(clippy::wildcard_enum_match_arm, reason = "of the dozens of extensions these are the ones to show")]
pub(super) fn facts(der: &CertificateDer<'_>) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return "a certificate that cannot be decoded".to_owned();
    };
    let mut line = format!(
        "subject {}, issuer {}, serial {}, valid {} to {}",
        certificate.subject(),
        certificate.issuer(),
        certificate.raw_serial_as_string(),
        date(certificate.validity().not_before.timestamp()),
        date(certificate.validity().not_after.timestamp()),
    );
    let names = names(&certificate);
    if !names.is_empty() {
        line += &format!(", for {}", names.join(", "));
    }
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => line += &format!(", key id {}", hex(id.0)),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                if let Some(id) = &id.key_identifier {
                    line += &format!(", CA's key id {}", hex(id.0));
                }
            }
            _ => {}
        }
    }
    line
}

/// The names and addresses that a certificate is for.
#[expect(clippy::wildcard_enum_match_arm, reason = "names of other kinds do not name a server")]
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.filter_map(name).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn date(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds)
        .map_or_else(|_| "an impossible time".to_owned(), |time| time.to_string())
}
