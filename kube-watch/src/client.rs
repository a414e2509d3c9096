//! How to reach the API server.

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::limit::RateLimitLayer;

/// Where the API server is and who we are to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// A kubeconfig file; without one, the service account of the pod that we run in.
    pub kubeconfig: Option<PathBuf>,
    /// Which context of the kubeconfig; without one, its current context.
    pub context: Option<String>,
    /// At most this many requests per second; a watch counts once, when it begins. No limit if `None`.
    pub qps: Option<u32>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The kubeconfig is missing or wrong.
    #[error("kubeconfig {path:?}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig was given and this is not a pod with a service account.
    #[error("no kubeconfig was given, and this is not a pod with a service account: {0}")]
    InCluster(#[from] InClusterError),
    /// The certificates or the token cannot be used.
    #[error("client of the API server: {0}")]
    Client(#[source] Box<kube::Error>),
}

impl ClientConfig {
    /// Makes the client. Nothing is sent yet, so an API server that is down is no error.
    ///
    /// # Errors
    /// [`ClientError`] if the configuration is missing or wrong.
    pub async fn client(&self) -> Result<Client, ClientError> {
        let config = match &self.kubeconfig {
            None => Config::incluster()?,
            Some(path) => {
                let wrong = |source| ClientError::Kubeconfig { path: path.clone(), source: Box::new(source) };
                let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
                let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?
            }
        };
        let builder =
            ClientBuilder::try_from(config).map_err(|error| ClientError::Client(Box::new(error)))?;
        Ok(match self.qps.filter(|qps| *qps > 0) {
            None => builder.build(),
            Some(qps) => {
                builder.with_layer(&RateLimitLayer::new(u64::from(qps), Duration::from_secs(1))).build()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
            clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n\
            contexts: [{name: a, context: {cluster: c, user: u, namespace: na}}, {name: b, context: {cluster: c, user: u, namespace: nb}}]\n";
        std::fs::write(&path, text).unwrap();
        path
    }

    #[tokio::test]
    async fn the_context_is_the_current_one_unless_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ClientConfig { kubeconfig: Some(kubeconfig(&dir)), ..Default::default() };
        assert_eq!(config.client().await.unwrap().default_namespace(), "na");
        config.context = Some("b".into());
        config.qps = Some(20);
        assert_eq!(config.client().await.unwrap().default_namespace(), "nb");
        config.context = Some("nowhere".into());
        assert!(matches!(config.client().await, Err(ClientError::Kubeconfig { .. })));
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named_in_the_error() {
        let config = ClientConfig { kubeconfig: Some("/nowhere/kubeconfig".into()), ..Default::default() };
        let error = config.client().await.err().expect("there is no such file").to_string();
        assert!(error.contains("/nowhere/kubeconfig"), "{error}");
    }
}
