//! What a certificate says, for people and programs.

use super::date;
use super::verify::Role;
use anyhow::{Context as _, ensure};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use std::net::IpAddr;
use std::time::SystemTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// One certificate of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    pub(crate) subject: String,
    issuer: String,
    serial: String,
    not_before: String,
    pub(crate) not_after: String,
    /// Whole days until then; less than 0 if that is past.
    pub(crate) days_left: i64,
    state: State,
    is_ca: bool,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    pub(crate) usages: Vec<&'static str>,
    /// Lower-case hex; `cilium clustermesh connect` compares these to tell CAs apart.
    subject_key_id: Option<String>,
    authority_key_id: Option<String>,
}

/// Where now is in a certificate's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    NotYetValid,
    Valid,
    Expired,
}

impl Shown {
    /// Its names and addresses.
    pub(crate) fn names(&self) -> Vec<String> {
        let addresses = self.ip_addresses.iter().map(ToString::to_string);
        self.dns_names.iter().cloned().chain(addresses).collect()
    }

    /// What it may be used as.
    pub(crate) fn roles(&self) -> Vec<Role> {
        let any = self.usages.is_empty() || self.usages.contains(&"any");
        let is = |role: &Role| {
            any || self.usages.contains(match role {
                Role::Server => &"server",
                Role::Client => &"client",
            })
        };
        [Role::Server, Role::Client].into_iter().filter(is).collect()
    }

    /// From when to when it is valid.
    pub(crate) fn period(&self) -> String {
        format!("{} to {}", self.not_before, self.not_after)
    }

    /// When it begins and ends, and nothing else of it.
    pub(crate) fn dates(&self) -> serde_json::Value {
        serde_json::json!({
            "notBefore": self.not_before, "notAfter": self.not_after, "daysLeft": self.days_left, "state": self.state,
        })
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.state == State::Valid
    }
}

/// Reads all certificates of a PEM text.
///
/// # Errors
/// When there is none or one is damaged. Never contains any of the text, which may hold a key.
pub(crate) fn read(pem: &[u8], now: SystemTime) -> anyhow::Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for (number, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let which = || format!("certificate {} of the file is damaged", number + 1);
        // The reason may quote the file: it is not passed on.
        let der = der.map_err(|_quote| anyhow::anyhow!("it is not PEM text")).with_context(which)?;
        let (_, certificate) = X509Certificate::from_der(&der).with_context(which)?;
        shown.push(describe(&certificate, now));
    }
    ensure!(!shown.is_empty(), "expected PEM text with a CERTIFICATE block, found none");
    Ok(shown)
}

fn describe(certificate: &X509Certificate<'_>, now: SystemTime) -> Shown {
    let (starts, ends) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let now = date::unix_seconds(now);
    let state = match now {
        _ if now < starts => State::NotYetValid,
        _ if now > ends => State::Expired,
        _ => State::Valid,
    };
    let mut shown = Shown {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial_as_string(),
        not_before: date::text(starts),
        not_after: date::text(ends),
        days_left: (ends - now).div_euclid(24 * 3600),
        state,
        is_ca: certificate.is_ca(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        usages: Vec::new(),
        subject_key_id: None,
        authority_key_id: None,
    };
    for extension in certificate.extensions() {
        shown.add(extension.parsed_extension());
    }
    shown
}

impl Shown {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of the dozens of extensions these are the ones to show"
    )]
    fn add(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                names.general_names.iter().for_each(|name| match name {
                    GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => self.ip_addresses.extend(address(bytes)),
                    _ => {}
                })
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let named =
                    [(usage.server_auth, "server"), (usage.client_auth, "client"), (usage.any, "any")];
                self.usages = named.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect();
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(hex(id.0)),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| hex(id.0));
            }
            _ => {}
        }
    }
}

/// The text form of what was read, one block per certificate.
pub(crate) fn text(certificates: &[Shown]) -> String {
    let blocks: Vec<String> = certificates.iter().map(block).collect();
    blocks.join("\n")
}

fn block(shown: &Shown) -> String {
    let names = shown.dns_names.iter().cloned().chain(shown.ip_addresses.iter().map(ToString::to_string));
    let state = match shown.state {
        State::NotYetValid => " (not yet valid)",
        State::Valid => "",
        State::Expired => " (expired)",
    };
    let kind = if shown.is_ca { "CA".to_owned() } else { shown.usages.join(", ") };
    let rows = [
        ("Subject", shown.subject.clone()),
        ("Issuer", shown.issuer.clone()),
        ("For", kind),
        ("Names", names.collect::<Vec<_>>().join(", ")),
        ("Valid", format!("{} to {}{state}", shown.not_before, shown.not_after)),
        ("Serial", shown.serial.clone()),
        ("Key id", shown.subject_key_id.clone().unwrap_or_default()),
        ("CA key id", shown.authority_key_id.clone().unwrap_or_default()),
    ];
    let lines = rows
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<10} {value}\n"));
    lines.collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_longer| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
