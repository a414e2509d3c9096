//! The listener: TLS, connections, and the tasks beside them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use kvstore::Client;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::Api;
use crate::auth::{self, Token};
use crate::http::Handler;
use crate::kinds::Cluster;
use crate::{bootstrap, janitor};

/// Connections at a time; whoever comes on top waits in the kernel's backlog.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take for the TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, which happens when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers under way may take once the server stops.
const CLOSE: Duration = Duration::from_secs(1);

/// What a server needs.
#[derive(Debug)]
pub struct Config {
    /// Where it listens.
    pub listener: TcpListener,
    /// Its certificate, and whose clients it knows.
    pub tls: Tls,
    /// Users that come with a token instead of a certificate.
    pub tokens: Vec<Token>,
    /// Where everything is stored.
    pub store: Arc<dyn Client>,
    /// The ranges of Services' addresses: one, or one of each family with the primary one first.
    pub service_cidrs: Vec<IpNet>,
}

/// Certificates, as PEM texts.
#[derive(Clone)]
pub struct Tls {
    /// Of the server, with intermediates.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authorities of clients' certificates. The common name of a certificate is the user.
    pub client_ca: String,
}

impl std::fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The certificates cannot be used.
    #[error("the TLS configuration cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There must be one or two, of different families, and not too small.
    #[error("service CIDRs must be one, or one of each family, with room for addresses: {0:?}")]
    ServiceCidrs(Vec<IpNet>),
    /// The store cannot be read.
    #[error("read the store")]
    Store(#[from] kvstore::Error),
    /// The objects that every cluster has cannot be made.
    #[error("make the objects that every cluster has: {0}")]
    Bootstrap(String),
    /// The listener has no address.
    #[error("read the listener's address")]
    Listener(#[source] io::Error),
}

/// A server that is ready to answer.
#[derive(Debug)]
pub struct Server {
    api: Api,
    acceptor: Acceptor,
    listener: TcpListener,
    address: SocketAddr,
    tokens: Arc<[Token]>,
}

#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Server {
    /// Checks the configuration and reads the store.
    ///
    /// # Errors
    /// [`Error`], whichever applies.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let address = config.listener.local_addr().map_err(Error::Listener)?;
        let acceptor = Acceptor(acceptor(&config.tls).map_err(Error::Tls)?);
        check_cidrs(&config.service_cidrs)?;
        let api = Api::open(config.store, Cluster { service_cidrs: config.service_cidrs }).await?;
        Ok(Self { api, acceptor, listener: config.listener, address, tokens: config.tokens.into() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop; then ends watches, and lets answers under way go out.
    ///
    /// # Errors
    /// [`Error::Bootstrap`], before anything is served.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        // Ends with this function, however it ends.
        let ended = stop.child_token();
        let _guard = ended.clone().drop_guard();
        let mut tasks = JoinSet::new();
        let (api, token) = (self.api.clone(), ended.clone());
        tasks.spawn(async move { api.cache.follow(&*api.store, &token).await });
        bootstrap::run(&self.api, self.address).await.map_err(|failure| Error::Bootstrap(failure.message))?;
        let (api, token) = (self.api.clone(), ended.clone());
        tasks.spawn(async move { janitor::run(&api, &token).await });

        let handler = Handler { api: self.api, tokens: self.tokens, stop: ended.clone() };
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let Some(Ok(permit)) = ended.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await
            else {
                break;
            };
            let Some(accepted) = ended.run_until_cancelled(self.listener.accept()).await else { break };
            match accepted {
                Ok((socket, peer)) => {
                    let (acceptor, handler) = (self.acceptor.clone(), handler.clone());
                    connections.spawn(async move {
                        if let Err(error) = Box::pin(serve(socket, acceptor, handler)).await {
                            debug!(%peer, error = &*error as &dyn std::error::Error, "connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        ended.cancel();
        if timeout(CLOSE, async { while connections.join_next().await.is_some() {} }).await.is_err() {
            connections.shutdown().await;
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

/// Opens a [`Server`] and runs it.
///
/// # Errors
/// Those of [`Server::open`] and [`Server::run`].
pub async fn serve_until(config: Config, stop: CancellationToken) -> Result<(), Error> {
    Server::open(config).await?.run(stop).await
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn serve(socket: TcpStream, acceptor: Acceptor, handler: Handler) -> Result<(), BoxError> {
    // Small answers are not to wait for more.
    socket.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE, acceptor.0.accept(socket)).await??;
    let identity = stream.get_ref().1.peer_certificates().and_then(auth::by_certificate);
    let stop = handler.stop.clone();
    let service = service_fn(move |request| {
        let (handler, identity) = (handler.clone(), identity.clone());
        async move { Ok::<_, std::convert::Infallible>(Box::pin(handler.answer(request, identity)).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates =
        |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca)? {
        roots.add(certificate)?;
    }
    // Who comes without a certificate must have a token: see `Handler`.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&tls.certificate)?,
            PrivateKeyDer::from_pem_slice(tls.key.as_bytes())?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn check_cidrs(cidrs: &[IpNet]) -> Result<(), Error> {
    let roomy = |cidr: &IpNet| cidr.max_prefix_len() - cidr.prefix_len() >= 2;
    let fits = match cidrs {
        [one] => roomy(one),
        [one, two] => roomy(one) && roomy(two) && one.addr().is_ipv4() != two.addr().is_ipv4(),
        _ => false,
    };
    if fits { Ok(()) } else { Err(Error::ServiceCidrs(cidrs.to_vec())) }
}
