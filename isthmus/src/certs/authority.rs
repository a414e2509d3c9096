//! Making a CA, and issuing from one.

use super::names::{CommonName, ServerName};
use super::{CLOCK_SKEW, Issued, SecretPem, date};
use anyhow::{Context as _, bail, ensure};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::time::{Duration, SystemTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

mod again;

/// A CA that ends sooner issues nothing: what it issues would have to be replaced before anybody noticed.
const NEAR_END_SECONDS: i64 = 7 * 24 * 3600;

/// What a leaf certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// A store; clients check that it has the name they dialled.
    Server {
        /// Common name, for people.
        name: CommonName,
        /// All names and addresses it is reached by.
        reached_by: Vec<ServerName>,
    },
    /// A client; its common name is its user in the store.
    Client {
        /// The user, such as `remote-east`.
        user: CommonName,
    },
}

/// Makes a certificate authority that signs for itself.
///
/// # Errors
/// When the end of its life is beyond what a certificate can say.
pub(crate) fn new_ca(name: &CommonName, now: SystemTime, valid_for: Duration) -> anyhow::Result<Issued> {
    let key = new_key()?;
    let mut params = params(name, now, valid_for)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).context("sign the CA certificate")?;
    Ok(Issued { certificate: certificate.pem(), key: SecretPem(key.serialize_pem()) })
}

/// A CA that may issue.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The certificates between what it issues and a root, PEM; nothing if it is one itself.
    chain: String,
    ends: i64,
}

impl Authority {
    /// Takes a CA from its two PEM texts. It may be an intermediate, with the certificates above it after its own.
    ///
    /// # Errors
    /// When a text does not parse, the certificate is not a CA's, is not valid now, or the key is another's. Never
    /// contains the key.
    pub(crate) fn load(certificate: &str, key: &str, now: SystemTime) -> anyhow::Result<Self> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .context("the CA certificate is not PEM text with a CERTIFICATE block")?;
        let (_, parsed) = X509Certificate::from_der(&der).context("the CA certificate is damaged")?;
        check(&parsed, now)?;
        // The reason may quote the text, which is a key: only its kind is told.
        let key = KeyPair::from_pem(key).map_err(|_secret| {
            anyhow::anyhow!(
                "the CA key is not a PKCS#8 private key in PEM form (BEGIN PRIVATE KEY); \
                 convert others by `openssl pkcs8 -topk8 -nocrypt`"
            )
        })?;
        ensure!(
            key.subject_public_key_info() == parsed.public_key().raw,
            "the CA key does not belong to the CA certificate; take both from the same `isthmus certs ca` run"
        );
        let ends = parsed.validity().not_after.timestamp();
        let chain =
            if parsed.subject() == parsed.issuer() { String::new() } else { below_root(certificate)? };
        let issuer = Issuer::from_ca_cert_der(&der, key).context("the CA certificate cannot issue")?;
        Ok(Self { issuer, chain, ends })
    }

    /// Issues a certificate with a key of its own.
    ///
    /// # Errors
    /// When the certificate would outlive the CA.
    pub(crate) fn issue(&self, leaf: &Leaf, now: SystemTime, valid_for: Duration) -> anyhow::Result<Issued> {
        let name = match leaf {
            Leaf::Server { name, .. } => name,
            Leaf::Client { user } => user,
        };
        let mut params = params(name, now, valid_for)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        match leaf {
            Leaf::Server { reached_by, .. } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names =
                    reached_by.iter().map(alternative_name).collect::<anyhow::Result<_>>()?;
            }
            Leaf::Client { .. } => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
        self.sign(params, now, valid_for)
    }

    /// Issues the same certificate again, with a key of its own and a life that begins now.
    ///
    /// # Errors
    /// When it would outlive the CA, is a CA itself, or says what cannot be said again.
    pub(crate) fn renew(&self, former: &str, now: SystemTime, valid_for: Duration) -> anyhow::Result<Issued> {
        let der = CertificateDer::from_pem_slice(former.as_bytes())
            .context("the certificate is not PEM text with a CERTIFICATE block")?;
        let (_, former) = X509Certificate::from_der(&der).context("the certificate is damaged")?;
        ensure!(!former.is_ca(), "`{}` is a CA: make a new one by `isthmus certs ca`", former.subject());
        let mut params = again::params(&former)?;
        set_life(&mut params, now, valid_for)?;
        self.sign(params, now, valid_for)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        now: SystemTime,
        valid_for: Duration,
    ) -> anyhow::Result<Issued> {
        let left = self.ends - date::unix_seconds(now);
        ensure!(
            left >= NEAR_END_SECONDS,
            "the CA ends on {}, too soon to issue anything from it: renew the CA first by `isthmus certs ca --force` \
             and issue all its certificates again",
            date::text(self.ends)
        );
        let wanted = date::unix_seconds(ending(now, valid_for)?);
        if wanted > self.ends {
            bail!(
                "a certificate until {} would outlive its CA, which ends on {}: {}renew the CA first by \
                 `isthmus certs ca --force` and issue all its certificates again",
                date::text(wanted),
                date::text(self.ends),
                shorter(left)
            );
        }
        let key = new_key()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).context("sign the certificate")?;
        let certificate = format!("{}{}", certificate.pem(), self.chain);
        Ok(Issued { certificate, key: SecretPem(key.serialize_pem()) })
    }
}

/// The certificates of a bundle that are not their own issuers, in their order.
fn below_root(bundle: &str) -> anyhow::Result<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut below = String::new();
    for block in bundle.split(BEGIN).skip(1) {
        let end = block.find(END).context("the CA certificate is cut off")?;
        let pem = format!("{BEGIN}{}{END}\n", &block[..end]);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).context("the CA certificate is damaged")?;
        let (_, parsed) = X509Certificate::from_der(&der).context("the CA certificate is damaged")?;
        if parsed.subject() != parsed.issuer() {
            below.push_str(&pem);
        }
    }
    Ok(below)
}

/// Advice to ask for less, if there is some left beyond the minute in which the advice is followed.
fn shorter(seconds_left: i64) -> String {
    match seconds_left - 60 {
        ..60 => String::new(),
        left => format!("ask for less by `--valid-for {}`, or ", date::length(left)),
    }
}

fn check(ca: &X509Certificate<'_>, now: SystemTime) -> anyhow::Result<()> {
    let constraints = ca.basic_constraints().context("the CA certificate's constraints are damaged")?;
    ensure!(
        constraints.is_some_and(|constraints| constraints.value.ca),
        "`{}` is not a CA: its certificate says that it may not issue others; make one by `isthmus certs ca`",
        ca.subject()
    );
    let usage = ca.key_usage().context("the CA certificate's key usage is damaged")?;
    ensure!(
        usage.is_none_or(|usage| usage.value.key_cert_sign()),
        "the CA `{}` may not sign certificates by its key usage; make one by `isthmus certs ca`",
        ca.subject()
    );
    let (starts, ends) = (ca.validity().not_before.timestamp(), ca.validity().not_after.timestamp());
    let now = date::unix_seconds(now);
    ensure!(
        now >= starts,
        "the CA `{}` is valid only from {}; it is {} by this machine's clock",
        ca.subject(),
        date::text(starts),
        date::text(now)
    );
    ensure!(
        now <= ends,
        "the CA `{}` expired on {}: make a new one by `isthmus certs ca --force` and issue all its certificates again",
        ca.subject(),
        date::text(ends)
    );
    Ok(())
}

fn new_key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")
}

fn params(name: &CommonName, now: SystemTime, valid_for: Duration) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    set_life(&mut params, now, valid_for)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    Ok(params)
}

/// What is issued now begins a little earlier, and ends in time.
fn set_life(params: &mut CertificateParams, now: SystemTime, valid_for: Duration) -> anyhow::Result<()> {
    params.not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(SystemTime::UNIX_EPOCH).into();
    params.not_after = ending(now, valid_for)?.into();
    Ok(())
}

/// Years of certificates have four digits (RFC 5280 §4.1.2.5).
fn ending(now: SystemTime, valid_for: Duration) -> anyhow::Result<SystemTime> {
    /// The first second of the year 10000.
    const YEAR_10000: i64 = 253_402_300_800;
    let ends = now.checked_add(valid_for).filter(|&ends| date::unix_seconds(ends) < YEAR_10000);
    ends.context("the certificate would end after the year 9999; ask for less by --valid-for")
}

fn alternative_name(name: &ServerName) -> anyhow::Result<SanType> {
    Ok(match name {
        ServerName::Dns(name) => SanType::DnsName(
            Ia5String::try_from(name.as_str()).with_context(|| format!("DNS name `{name}`"))?,
        ),
        ServerName::Ip(address) => SanType::IpAddress(*address),
    })
}
