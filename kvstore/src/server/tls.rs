//! The server's side of mutual TLS, from files that may change while it runs.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tracing::{info, warn};

use crate::{
    client::CredentialsError,
    sync::Chain,
    tls_files::{certificates, private_key, roots},
};

/// The files of a TLS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The server's certificate, its chain after it.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// Certificates that a client's chain must end in. Without it clients need no certificate.
    pub client_ca_file: Option<PathBuf>,
}

/// The configuration for new connections; existing ones keep theirs.
#[derive(Debug)]
pub(crate) struct Reloading {
    files: ServerTls,
    current: ArcSwap<ServerConfig>,
    seen: std::sync::Mutex<Vec<Option<SystemTime>>>,
}

impl Reloading {
    /// Reads the files for the first time.
    pub(crate) fn load(files: ServerTls) -> Result<Self, CredentialsError> {
        let seen = files.stamps();
        let config = files.config()?;
        Ok(Self { files, current: ArcSwap::from_pointee(config), seen: std::sync::Mutex::new(seen) })
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again if they changed. What cannot be used is logged once and the old ones stay.
    pub(crate) fn refresh(&self) {
        let stamps = self.files.stamps();
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *seen == stamps {
            return;
        }
        *seen = stamps;
        drop(seen);
        match self.files.config() {
            Ok(config) => {
                self.current.store(Arc::new(config));
                info!(cert = %self.files.cert_file.display(), "certificates reloaded");
            }
            Err(error) => warn!(error = %Chain(&error), "new certificates cannot be used, the old ones stay"),
        }
    }
}

impl ServerTls {
    /// When each file changed; a file swapped by a symbolic link (as kubelet does) shows too.
    fn stamps(&self) -> Vec<Option<SystemTime>> {
        let files = [Some(&self.cert_file), Some(&self.key_file), self.client_ca_file.as_ref()];
        let stamp = |path: &PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).ok();
        files.into_iter().flatten().map(stamp).collect()
    }

    fn config(&self) -> Result<ServerConfig, CredentialsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| CredentialsError::Tls(Box::new(error)))?;
        let builder = match &self.client_ca_file {
            Some(ca) => {
                let roots = Arc::new(roots(ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| CredentialsError::Tls(Box::new(error)))?,
                )
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(certificates(&self.cert_file)?, private_key(&self.key_file)?)
            .map_err(|error| CredentialsError::Tls(Box::new(error)))?;
        // A resumed session would be one with a certificate that nobody checked again, and the sessions that are kept
        // for it take memory; clients of etcd do not resume.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
