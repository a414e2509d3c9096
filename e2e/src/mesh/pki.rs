//! Certificates of the mesh, all from one authority, made by `isthmus certs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tools::isthmus;
use crate::{Cluster, Exec, PemPair};

/// The mesh's authority and what it has issued.
#[derive(Clone, Debug)]
pub struct MeshPki {
    dir: PathBuf,
}

impl MeshPki {
    /// A new authority in `dir`.
    ///
    /// # Errors
    /// If `isthmus certs` fails.
    pub fn new(dir: &Path) -> Result<Self> {
        let pki = Self { dir: dir.to_owned() };
        Exec::new(isthmus()?, None).args(["certs", "ca", "--out"]).arg(pki.dir.join("ca")).stdout()?;
        Ok(pki)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca/ca.crt")
    }

    /// The certificate of a cluster's store, issued at the first call.
    ///
    /// # Errors
    /// If `isthmus certs` fails.
    pub fn server(&self, cluster: &Cluster) -> Result<PemPair> {
        self.server_at(cluster.name(), &[cluster.host().address().to_string()])
    }

    /// The certificate of a server at several addresses, issued at the first call; `name` is for its files.
    ///
    /// # Errors
    /// If `isthmus certs` fails.
    pub fn server_at(&self, name: &str, addresses: &[String]) -> Result<PemPair> {
        let args: Vec<&str> = addresses.iter().flat_map(|address| ["--ip", address]).collect();
        self.issue("server", name, &args)
    }

    /// The certificate of a user of stores, such as `remote`, issued at the first call.
    ///
    /// # Errors
    /// If `isthmus certs` fails.
    pub fn client(&self, user: &str) -> Result<PemPair> {
        self.issue("client", user, &["--cn", user])
    }

    fn issue(&self, kind: &str, name: &str, args: &[&str]) -> Result<PemPair> {
        let out = self.dir.join(kind).join(name);
        let pair = PemPair { certificate: out.join("tls.crt"), key: out.join("tls.key") };
        if !pair.certificate.exists() {
            let exec = Exec::new(isthmus()?, None).args(["certs", kind, "--ca"]).arg(self.dir.join("ca"));
            exec.arg("--out").arg(&out).args(args).stdout()?;
        }
        Ok(pair)
    }

    /// Writes an etcd client configuration of Cilium's form to `file`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_etcd_config(&self, file: &Path, endpoints: &[String], client: &PemPair) -> Result<()> {
        let text = etcd_config(endpoints, &self.authority(), client);
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).context("make the directory of a configuration")?;
        }
        // As Kubernetes' volumes do: a reader sees the old file or the new one.
        let new = file.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, file)).context("write a configuration")
    }
}

fn etcd_config(endpoints: &[String], authority: &Path, client: &PemPair) -> String {
    let endpoints = endpoints.join("\n- ");
    format!(
        "endpoints:\n- {endpoints}\ntrusted-ca-file: '{}'\ncert-file: '{}'\nkey-file: '{}'\n",
        authority.display(),
        client.certificate.display(),
        client.key.display()
    )
}
