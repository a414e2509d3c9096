//! How a connection to an etcd server comes about: next endpoint, TCP, TLS from files as they are now.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{CredentialsError, EtcdTls};
use crate::tls_files::{certificates, private_key, roots};

/// Makes connections to some endpoints, in turn.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    endpoints: Arc<Vec<Endpoint>>,
    next: Arc<AtomicUsize>,
    tls: Option<EtcdTls>,
    timeout: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    tls: bool,
}

/// A plain or encrypted connection.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("connect to {endpoint}")]
    Tcp {
        endpoint: String,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS with {endpoint}")]
    Handshake {
        endpoint: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{endpoint} did not answer in time")]
    Timeout { endpoint: String },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

impl Endpoint {
    /// Parses `http(s)://host[:port]`; etcd's port is 2379.
    pub(super) fn parse(text: &str) -> Result<Self, CredentialsError> {
        let bad = || CredentialsError::Endpoint { endpoint: text.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(bad()),
        };
        let uri: Uri =
            format!("http://{}", rest.trim_end_matches('/')).parse().map_err(|_not_a_uri| bad())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(bad());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(2379), tls })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Connector {
    /// Starts at a random endpoint, so that clients spread.
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<EtcdTls>, timeout: Duration) -> Self {
        let first = rand::random_range(0..endpoints.len().max(1));
        Self { endpoints: Arc::new(endpoints), next: Arc::new(AtomicUsize::new(first)), tls, timeout }
    }

    async fn connect(self) -> Result<Socket, ConnectError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let endpoint = &self.endpoints[at];
        let name = endpoint.to_string();
        tokio::time::timeout(self.timeout, self.connect_to(endpoint))
            .await
            .unwrap_or(Err(ConnectError::Timeout { endpoint: name }))
    }

    async fn connect_to(&self, endpoint: &Endpoint) -> Result<Socket, ConnectError> {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|source| ConnectError::Tcp { endpoint: endpoint.to_string(), source })?;
        let _keeps_working_without = tcp.set_nodelay(true);
        let Some(tls) = self.tls.as_ref().filter(|_| endpoint.tls) else { return Ok(Socket::Plain(tcp)) };
        let config = client_config(tls)?;
        let name = tls.server_name.clone().unwrap_or_else(|| endpoint.host.clone());
        let name = ServerName::try_from(name)
            .map_err(|_invalid| CredentialsError::Endpoint { endpoint: endpoint.to_string() })?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(|source| ConnectError::Handshake { endpoint: endpoint.to_string(), source })?;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// The TLS side of a client, from the files as they are now.
pub(super) fn client_config(tls: &EtcdTls) -> Result<ClientConfig, CredentialsError> {
    let unusable = |error: rustls::Error| CredentialsError::Tls(Box::new(error));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots(&tls.ca_file)?);
    let mut config = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(unusable)?
        }
        (Some(path), None) => {
            return Err(CredentialsError::Empty {
                path: path.clone(),
                what: "private key (no key file is given)",
            });
        }
        (None, Some(path)) => {
            return Err(CredentialsError::Empty {
                path: path.clone(),
                what: "certificate (no certificate file is given)",
            });
        }
        (None, None) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(TokioIo::new(connector.connect().await?)) })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_with_etcds_port_as_default() {
        for (text, expected) in [
            ("https://a.example:2379", Some(("a.example", 2379, true))),
            ("https://a.example", Some(("a.example", 2379, true))),
            ("http://127.0.0.1:1/", Some(("127.0.0.1", 1, false))),
            ("https://[::1]:5", Some(("::1", 5, true))),
            ("a.example:2379", None),
            ("ftp://a", None),
            ("https://", None),
            ("https://a/b", None),
        ] {
            let parsed = Endpoint::parse(text).ok();
            let parsed =
                parsed.as_ref().map(|endpoint| (endpoint.host.as_str(), endpoint.port, endpoint.tls));
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
