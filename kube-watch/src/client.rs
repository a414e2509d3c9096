//! How to reach the API server.

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::limit::RateLimitLayer;

/// Where the API server is and who we are to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientConfig {
    /// A kubeconfig file; without one, the service account of the pod that we run in.
    pub kubeconfig: Option<PathBuf>,
    /// Which context of the kubeconfig; without one, its current context.
    pub context: Option<String>,
    /// URL of the API server, instead of that of the kubeconfig or of the pod.
    pub server: Option<String>,
    /// At most this many requests per second; a watch counts once, when it begins. No limit if `None` or 0.
    pub qps: Option<f32>,
    /// How many of them may come at once; those of one second if `None`.
    pub burst: Option<u32>,
    /// How long connecting may take; the library's choice if `None`.
    pub connect_timeout: Option<Duration>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The kubeconfig is missing or wrong.
    #[error("kubeconfig {}: {wrong}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in words.
        wrong: String,
    },
    /// No kubeconfig was given and this is not a pod with a service account.
    #[error("no kubeconfig was given, and this is not a pod with a service account: {0}")]
    InCluster(#[from] InClusterError),
    /// The certificates or the token cannot be used.
    #[error("client of the API server: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The URL of the API server is none.
    #[error("{url:?} is not the URL of an API server: {source}")]
    Server {
        /// The text.
        url: String,
        /// What is wrong with it.
        source: http::uri::InvalidUri,
    },
}

impl ClientConfig {
    /// Makes the client. Nothing is sent yet, so an API server that is down is no error.
    ///
    /// # Errors
    /// [`ClientError`] if the configuration is missing or wrong.
    pub async fn client(&self) -> Result<Client, ClientError> {
        let mut config = match &self.kubeconfig {
            None => Config::incluster()?,
            Some(path) => {
                let wrong = |error: KubeconfigError| ClientError::Kubeconfig {
                    path: path.clone(),
                    wrong: wrong_with(&error),
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
                let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?
            }
        };
        if let Some(url) = &self.server {
            let wrong = |source| ClientError::Server { url: url.clone(), source };
            config.cluster_url = url.parse().map_err(wrong)?;
        }
        if let Some(limit) = self.connect_timeout {
            config.connect_timeout = Some(limit);
        }
        let builder =
            ClientBuilder::try_from(config).map_err(|error| ClientError::Client(Box::new(error)))?;
        Ok(match self.rate() {
            None => builder.build(),
            Some((requests, period)) => builder.with_layer(&RateLimitLayer::new(requests, period)).build(),
        })
    }

    /// So many requests in each period, which on average are [`Self::qps`].
    fn rate(&self) -> Option<(u64, Duration)> {
        let qps = self.qps.filter(|qps| *qps > 0.0)?;
        let burst = self.burst.filter(|burst| *burst > 0).map_or(qps.ceil(), |burst| burst as f32);
        // Slower than once in a day is never.
        let period = Duration::from_secs_f32((burst / qps).min(86_400.0));
        Some((burst as u64, period))
    }
}

/// What is wrong with a kubeconfig, beside whose path it is told. No line of it is told, as the parser would: it holds keys and tokens.
#[must_use]
pub fn wrong_with(error: &KubeconfigError) -> String {
    if let KubeconfigError::ReadConfig(error, _path) = error {
        return error.to_string();
    }
    error.to_string().lines().next().unwrap_or_default().to_owned()
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
        config.qps = Some(20.0);
        assert_eq!(config.client().await.unwrap().default_namespace(), "nb");
        config.context = Some("nowhere".into());
        assert!(matches!(config.client().await, Err(ClientError::Kubeconfig { .. })));
    }

    #[test]
    fn requests_come_in_bursts_and_keep_to_the_rate_on_average() {
        let rate = |qps, burst| ClientConfig { qps, burst, ..Default::default() }.rate();
        assert_eq!(rate(None, Some(5)), None);
        assert_eq!(rate(Some(0.0), None), None);
        assert_eq!(rate(Some(10.0), Some(20)), Some((20, Duration::from_secs(2))));
        assert_eq!(rate(Some(10.0), None), Some((10, Duration::from_secs(1))));
        assert_eq!(rate(Some(0.5), None), Some((1, Duration::from_secs(2))));
    }

    #[tokio::test]
    async fn another_server_takes_the_place_of_the_kubeconfigs() {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = Some(kubeconfig(&dir));
        let config = |server: &str| ClientConfig {
            kubeconfig: kubeconfig.clone(),
            server: Some(server.into()),
            ..Default::default()
        };
        assert!(config("https://10.0.0.1:6443").client().await.is_ok());
        assert!(matches!(config("no url").client().await, Err(ClientError::Server { .. })));
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named_in_the_error() {
        let config = ClientConfig { kubeconfig: Some("/nowhere/kubeconfig".into()), ..Default::default() };
        let error = config.client().await.err().expect("there is no such file").to_string();
        assert!(error.contains("/nowhere/kubeconfig"), "{error}");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_does_not_parse_is_named_without_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, "users:\n- name: u\n  user: {token: s3cr3t\nclusters: []\n").unwrap();
        let config = ClientConfig { kubeconfig: Some(path.clone()), ..Default::default() };
        let error = config.client().await.err().expect("it does not parse").to_string();
        assert!(error.contains(&*path.to_string_lossy()) && error.contains("line "), "{error}");
        assert!(!error.contains("s3cr3t") && !error.contains('\n'), "{error}");
    }
}
