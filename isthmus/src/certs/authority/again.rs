//! What a certificate says, in the form in which it can be issued again.

use anyhow::{Context as _, bail};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType,
};
use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Subject, names and usages of `former`; no dates.
///
/// # Errors
/// When one of them is of a kind that is not known here: to leave it out would make another certificate.
pub(super) fn params(former: &X509Certificate<'_>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(former)?;
    let names = former.subject_alternative_name().context("the alternative names are damaged")?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        params.subject_alt_names.push(alternative_name(name)?);
    }
    let usage = former.key_usage().context("the key usage is damaged")?;
    params.key_usages = match usage {
        Some(usage) => {
            let all = [
                (usage.value.digital_signature(), KeyUsagePurpose::DigitalSignature),
                (usage.value.key_encipherment(), KeyUsagePurpose::KeyEncipherment),
                (usage.value.key_agreement(), KeyUsagePurpose::KeyAgreement),
            ];
            all.into_iter().filter_map(|(is_set, purpose)| is_set.then_some(purpose)).collect()
        }
        None => vec![KeyUsagePurpose::DigitalSignature],
    };
    let usage = former.extended_key_usage().context("the extended key usage is damaged")?;
    if let Some(usage) = usage {
        let all = [
            (usage.value.server_auth, ExtendedKeyUsagePurpose::ServerAuth),
            (usage.value.client_auth, ExtendedKeyUsagePurpose::ClientAuth),
            (usage.value.any, ExtendedKeyUsagePurpose::Any),
        ];
        params.extended_key_usages =
            all.into_iter().filter_map(|(is_set, purpose)| is_set.then_some(purpose)).collect();
    }
    Ok(params)
}

fn subject(former: &X509Certificate<'_>) -> anyhow::Result<DistinguishedName> {
    let mut subject = DistinguishedName::new();
    for attribute in former.subject().iter_attributes() {
        let kind = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => DnType::CommonName,
            "2.5.4.6" => DnType::CountryName,
            "2.5.4.7" => DnType::LocalityName,
            "2.5.4.8" => DnType::StateOrProvinceName,
            "2.5.4.10" => DnType::OrganizationName,
            "2.5.4.11" => DnType::OrganizationalUnitName,
            other => bail!("the subject has an attribute that is not known here: {other}"),
        };
        subject.push(kind, attribute.as_str().context("the subject has an attribute that is no text")?);
    }
    Ok(subject)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "kinds that no certificate of a mesh has are refused alike"
)]
fn alternative_name(name: &GeneralName<'_>) -> anyhow::Result<SanType> {
    let text = |text: &str| Ia5String::try_from(text).context("an alternative name is no ASCII text");
    Ok(match name {
        GeneralName::DNSName(name) => SanType::DnsName(text(name)?),
        GeneralName::URI(uri) => SanType::URI(text(uri)?),
        GeneralName::RFC822Name(name) => SanType::Rfc822Name(text(name)?),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_longer| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            SanType::IpAddress(address.context("an alternative name is a damaged address")?)
        }
        other => bail!("the certificate has a name of a kind that is not known here: {other}"),
    })
}
