//! Certificates for the servers of the bed itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority, with its files in one directory.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct PemPair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority, whose certificate is `ca.crt` in `dir`.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).context("make the directory of the certificates")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test bed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.self_signed(&key).context("sign the authority")?;
        fs::write(dir.join("ca.crt"), certificate.pem()).context("write ca.crt")?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// The file with the authority's certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A certificate for a server reached by one of `names`, host names or addresses.
    ///
    /// # Errors
    /// If a name is not one, or the files cannot be written.
    pub fn server(&self, file: &str, names: &[&str]) -> Result<PemPair> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).context("read the server's names")?;
        params.distinguished_name.push(DnType::CommonName, file);
        // Servers that are peers of each other (etcd's) are clients too.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, params)
    }

    /// A certificate for a user of the name `user`, in `group` if any.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<PemPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, params)
    }

    /// The same, valid between two dates of year, month and day.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn client_between(
        &self,
        file: &str,
        user: &str,
        [from, until]: [(i32, u8, u8); 2],
    ) -> Result<PemPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        self.issue(file, params)
    }

    /// A key pair that is not certified, as the API server signs its tokens with: the files of the public and of the
    /// private key.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn bare_keys(&self, file: &str) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate().context("make a key")?;
        let (public, private) = (self.dir.join(format!("{file}.pub")), self.dir.join(format!("{file}.key")));
        fs::write(&public, key.public_key_pem()).context("write a key")?;
        fs::write(&private, key.serialize_pem()).context("write a key")?;
        Ok((public, private))
    }

    fn issue(&self, file: &str, mut params: CertificateParams) -> Result<PemPair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("sign {file}"))?;
        let path = |ending| self.dir.join(format!("{file}.{ending}"));
        let pair = PemPair { certificate: path("crt"), key: path("key") };
        fs::write(&pair.certificate, certificate.pem()).context("write a certificate")?;
        fs::write(&pair.key, key.serialize_pem()).context("write a key")?;
        Ok(pair)
    }
}
