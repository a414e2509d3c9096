//! A kube-lite in this process, which can be killed and started again on the same port and data.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kube_lite::{Config, Server, Tls, Token};
use kube_watch::ClientConfig;
use kvstore::{Store, StoreConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "only-for-this-test";

pub(crate) struct Lite {
    dir: TempDir,
    port: u16,
    tls: Tls,
    store: Arc<Store>,
    services: &'static [&'static str],
    /// Those of the server that runs; none while it is killed.
    tasks: JoinSet<()>,
}

impl Lite {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(&["10.96.0.0/16"]).await
    }

    /// With Services in these CIDRs.
    pub(crate) async fn start_with(services: &'static [&'static str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let tls = Tls {
            certificate: signed.cert.pem(),
            key: signed.signing_key.serialize_pem(),
            client_ca: signed.cert.pem(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        std::fs::write(dir.path().join("kubeconfig"), crate::server::kubeconfig(port, TOKEN))?;
        let store = Store::new(StoreConfig::default());
        let mut started = Self { dir, port, tls, store, services, tasks: JoinSet::new() };
        started.serve(listener).await?;
        Ok(started)
    }

    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig { kubeconfig: Some(self.kubeconfig()), ..ClientConfig::default() }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Ends it between two instructions, connections and all.
    pub(crate) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Starts it again. A connection to elsewhere may have the port for a while.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let mut bound = TcpListener::bind(("127.0.0.1", self.port)).await;
        for _attempt in 0..600 {
            if bound.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            bound = TcpListener::bind(("127.0.0.1", self.port)).await;
        }
        self.serve(bound.context("listen again")?).await
    }

    async fn serve(&mut self, listener: TcpListener) -> Result<()> {
        let config = Config {
            listener,
            tls: self.tls.clone(),
            tokens: vec![Token::new("admin", TOKEN)],
            store: Arc::new(self.store.client()),
            service_cidrs: self.services.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?,
        };
        let server = Server::open(config).await.context("open kube-lite")?;
        self.tasks.spawn(async move { server.run(CancellationToken::new()).await.expect("kube-lite runs") });
        Ok(())
    }
}
