use crate::metrics::encode;
use crate::readiness::Readiness;
use axum::Router;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Probes and scrapers are few; whoever comes on top waits in the kernel's backlog.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send a request's head, or stay idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long answers under way may take once the listener stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, which happens when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Content type of the OpenMetrics text form, version 1.0.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process, or this one, listens there.
    #[error(
        "{what} cannot listen on {address}: the port is taken; stop the other process or choose another port"
    )]
    Taken {
        /// What wanted to listen, such as `health`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// Any other refusal of the system.
    #[error("{what} cannot listen on {address}")]
    Refused {
        /// What wanted to listen, such as `health`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Opens a TCP listener, before any task runs, so that a taken port stops the start.
///
/// Port 0 picks a free one: see `TcpListener::local_addr`.
///
/// # Errors
/// [`BindError`] with `what`, the address and what to do.
pub async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            BindError::Taken { what, address }
        } else {
            BindError::Refused { what, address, source }
        }
    })
}

/// The plain HTTP answers of a daemon: `/healthz`, `/readyz`, `/metrics`, and JSON pages of its own.
///
/// Meant for loopback or the pod's address: nothing secret is served. Clones answer alike, so that health and
/// metrics may have a port each.
#[derive(Clone, Debug)]
pub struct Health {
    router: Router,
}

impl Health {
    /// Answers from the two; both may change while they are served.
    #[must_use]
    pub fn new(readiness: Readiness, metrics: Registry) -> Self {
        let router = Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/readyz", get(ready).with_state(readiness))
            .route("/metrics", get(metrics_text).with_state(Arc::new(metrics)));
        Self { router }
    }

    /// Answers `GET path` with what `page` returns at that moment, as JSON.
    ///
    /// `page` is called on the listener's task: it reads memory and returns at once.
    ///
    /// # Panics
    /// When `path` is served already or does not start with `/`.
    #[must_use]
    pub fn json<T: Serialize>(
        self,
        path: &str,
        page: impl Fn() -> T + Clone + Send + Sync + 'static,
    ) -> Self {
        let answer = async move || Json(page()).into_response();
        Self { router: self.router.route(path, get(answer)) }
    }

    /// Carries out `act` for each `POST path` with a JSON body, and answers with what it returns as JSON, or 404 with its error.
    ///
    /// Only for callers on this machine's loopback, others get 403: the listener itself may be open to probes from elsewhere.
    /// Like a page, `act` returns at once.
    ///
    /// # Panics
    /// When `path` is served already or does not start with `/`.
    #[must_use]
    pub fn action<Q: DeserializeOwned + Send + 'static, A: Serialize>(
        self,
        path: &str,
        act: impl Fn(Q) -> Result<A, String> + Clone + Send + Sync + 'static,
    ) -> Self {
        let answer = async move |Extension(Caller(caller)): Extension<Caller>, body: axum::body::Bytes| {
            if !caller.to_canonical().is_loopback() {
                return (StatusCode::FORBIDDEN, "only from loopback").into_response();
            }
            let question = match serde_json::from_slice(&body) {
                Ok(question) => question,
                Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
            };
            match act(question) {
                Ok(done) => Json(done).into_response(),
                Err(error) => (StatusCode::NOT_FOUND, error).into_response(),
            }
        };
        Self { router: self.router.route(path, post(answer)) }
    }

    /// Serves until `stop`, then lets the answers under way go out.
    ///
    /// # Errors
    /// None today: a connection that fails is that connection's matter.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let graceful = GracefulShutdown::new();
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        loop {
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore");
                (listener.accept().await, permit)
            };
            let Some((accepted, permit)) = stop.run_until_cancelled(next).await else { break };
            while connections.try_join_next().is_some() {}
            let (stream, caller) = match accepted {
                Ok((stream, peer)) => (stream, Caller(peer.ip())),
                Err(error) => {
                    warn!(%error, "health listener cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(self.router.clone().layer(Extension(caller)));
            let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
            connections.spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "health connection ended");
                }
                drop(permit);
            });
        }
        drop(listener);
        if timeout(CLOSE_TIMEOUT, graceful.shutdown()).await.is_err() {
            debug!(connections = connections.len(), "closing health connections that are under way");
        }
        Ok(())
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Caller(IpAddr);

/// Cilium's bodies on the first line, then what is pending.
async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    if readiness.is_ready() {
        return (StatusCode::OK, "Ready".to_owned());
    }
    let body = readiness.pending().into_iter().fold("NotReady".to_owned(), |body, what| body + "\n" + &what);
    (StatusCode::INTERNAL_SERVER_ERROR, body)
}

async fn metrics_text(State(metrics): State<Arc<Registry>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPENMETRICS)], encode(&metrics))
}

#[cfg(test)]
mod tests;
