//! Whether a certificate does what it is for, judged by the library that the daemons use.

use super::{date, show};
use anyhow::Context as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What is asked.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    /// The certificate with its intermediates after it, PEM.
    pub(crate) chain: &'a str,
    /// What the chain must end in, PEM.
    pub(crate) authorities: &'a str,
    /// The private key, PEM.
    pub(crate) key: Option<&'a str>,
    /// What it is to be used as; as its own usages say, if nobody asks.
    pub(crate) role: Option<Role>,
    /// Names and addresses that a server is to have.
    pub(crate) names: &'a [String],
    /// What ends sooner is not well.
    pub(crate) soon: Duration,
    /// The time.
    pub(crate) now: SystemTime,
}

/// What a certificate is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Of a store.
    Server,
    /// Of a client of a store.
    Client,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// `dates`, `chain`, `usage`, `names` or `key`.
    pub(crate) check: &'static str,
    /// Whether it passed.
    pub(crate) ok: bool,
    /// What was found.
    pub(crate) text: String,
}

/// Makes all checks.
///
/// # Errors
/// When a text has no certificates, or damaged ones. Never contains any of the key.
pub(crate) fn verify(question: &Question<'_>) -> anyhow::Result<Vec<Check>> {
    let chain = certificates(question.chain).context("the certificate")?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(question.authorities).context("the CA")? {
        roots.add(authority).context("the CA cannot be one")?;
    }
    let (leaf, intermediates) = chain.split_first().context("no certificate")?;
    let shown = show::read(question.chain.as_bytes(), question.now)?;
    let roles = match question.role {
        Some(role) => vec![role],
        None => shown[0].roles(),
    };
    let mut checks = vec![dates(question, &shown)?];
    let judge = Judge { leaf, intermediates, roots: Arc::new(roots), now: unix(question.now) };
    let outcomes: Vec<(Role, Result<(), rustls::Error>)> =
        roles.iter().map(|role| (*role, judge.ask(*role, &first_name(question, &shown[0])))).collect();
    let failed = |is: fn(&CertificateError) -> bool| {
        let errors = outcomes.iter().filter_map(|(role, outcome)| Some((role, outcome.as_ref().err()?)));
        errors.into_iter().find(|(_, error)| cause(error).is_some_and(is))
    };
    let usages = shown[0].usages.join(", ");
    checks.push(match failed(|error| !is_usage(error) && !is_name(error)) {
        Some((_, error)) => no("chain", reason(error)),
        None if roles.is_empty() => no("chain", "nothing says what it is used as; give --for"),
        None => yes("chain", format!("{} leads to the CA", plural(intermediates.len()))),
    });
    checks.push(match failed(is_usage) {
        Some((role, _)) => no("usage", format!("is for {usages}, not for a {role:?}").to_lowercase()),
        None if usages.is_empty() => yes("usage", "any"),
        None => yes("usage", usages),
    });
    if roles.contains(&Role::Server) {
        checks.push(judge.names(question, &shown[0]));
    }
    if let Some(key) = question.key {
        checks.push(belongs(key, leaf));
    }
    Ok(checks)
}

struct Judge<'a> {
    leaf: &'a CertificateDer<'static>,
    intermediates: &'a [CertificateDer<'static>],
    roots: Arc<RootCertStore>,
    now: UnixTime,
}

impl Judge<'_> {
    fn ask(&self, role: Role, name: &str) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let general = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
        match role {
            Role::Server => {
                let name = ServerName::try_from(name.to_owned()).map_err(|error| general(&error))?;
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider).build();
                let verifier = verifier.map_err(|error| general(&error))?;
                verifier.verify_server_cert(self.leaf, self.intermediates, &name, &[], self.now).map(drop)
            }
            Role::Client => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider).build();
                let verifier = verifier.map_err(|error| general(&error))?;
                verifier.verify_client_cert(self.leaf, self.intermediates, self.now).map(drop)
            }
        }
    }

    /// Each name that is asked for; without any, that there is one.
    fn names(&self, question: &Question<'_>, shown: &show::Shown) -> Check {
        if question.names.is_empty() {
            let names = shown.names();
            return if names.is_empty() {
                no("names", "has none, and clients look at nothing else")
            } else {
                yes("names", names.join(", "))
            };
        }
        let missing = |name: &&String| match self.ask(Role::Server, name) {
            Ok(()) => false,
            Err(error) => cause(&error).is_none_or(is_name),
        };
        let missing: Vec<&str> = question.names.iter().filter(missing).map(String::as_str).collect();
        if missing.is_empty() {
            yes("names", question.names.join(", "))
        } else {
            no("names", format!("does not have {}; has {}", missing.join(", "), shown.names().join(", ")))
        }
    }
}

/// A name by which a server is asked for, when the name is not what is in question.
fn first_name(question: &Question<'_>, shown: &show::Shown) -> String {
    let own = shown.names().into_iter().next().map(|name| name.replacen('*', "any", 1));
    own.or_else(|| question.names.first().cloned()).unwrap_or_else(|| "localhost".to_owned())
}

fn dates(question: &Question<'_>, shown: &[show::Shown]) -> anyhow::Result<Check> {
    let authorities = show::read(question.authorities.as_bytes(), question.now)?;
    let all = || shown.iter().chain(&authorities);
    if let Some(wrong) = all().find(|shown| !shown.is_valid()) {
        return Ok(no("dates", format!("{} is not valid now: {}", wrong.subject, wrong.period())));
    }
    let soonest = all().min_by_key(|shown| shown.days_left);
    let Some(soonest) = soonest else { return Ok(no("dates", "no certificate")) };
    let (days, subject) = (soonest.days_left, &soonest.subject);
    let limit = i64::try_from(question.soon.as_secs() / (24 * 3600)).unwrap_or(i64::MAX);
    Ok(if days < limit {
        no("dates", format!("{subject} ends in {days} days, on {}", soonest.not_after))
    } else {
        yes("dates", format!("{days} days left, of {subject}"))
    })
}

/// Whether the key is that of the certificate.
fn belongs(key: &str, leaf: &CertificateDer<'static>) -> Check {
    let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else {
        return no("key", "is no private key in PEM form");
    };
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(vec![leaf.clone()], key, &provider) {
        Ok(_) => yes("key", "belongs to the certificate"),
        Err(_mismatch) => no("key", "is another certificate's, or of a kind that is not supported"),
    }
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    // The reason may quote the text, which may hold a key.
    let read = read.map_err(|_quote| anyhow::anyhow!("it is not PEM text"))?;
    anyhow::ensure!(!read.is_empty(), "expected PEM text with a CERTIFICATE block, found none");
    Ok(read)
}

fn unix(now: SystemTime) -> UnixTime {
    let seconds = u64::try_from(date::unix_seconds(now)).unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn cause(error: &rustls::Error) -> Option<&CertificateError> {
    if let rustls::Error::InvalidCertificate(cause) = error { Some(cause) } else { None }
}

fn is_usage(error: &CertificateError) -> bool {
    matches!(error, CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. })
}

fn is_name(error: &CertificateError) -> bool {
    matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
}

fn reason(error: &rustls::Error) -> String {
    match cause(error) {
        Some(CertificateError::UnknownIssuer) => {
            "does not lead to the CA: an intermediate is missing, or it is another CA's".to_owned()
        }
        Some(CertificateError::BadSignature) => {
            "is not signed by the CA, which has the same name as the one that did".to_owned()
        }
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

fn plural(intermediates: usize) -> String {
    match intermediates {
        0 => "it".to_owned(),
        1 => "it, by 1 intermediate,".to_owned(),
        more => format!("it, by {more} intermediates,"),
    }
}

fn yes(check: &'static str, text: impl Into<String>) -> Check {
    Check { check, ok: true, text: text.into() }
}

fn no(check: &'static str, text: impl Into<String>) -> Check {
    Check { check, ok: false, text: text.into() }
}

/// The checks for people.
pub(crate) fn text(checks: &[Check]) -> String {
    let line = |check: &Check| {
        format!("{} {:<6} {}\n", if check.ok { "ok  " } else { "FAIL" }, check.check, check.text)
    };
    checks.iter().map(line).collect()
}
