//! The agent's socket: HTTP with JSON over a Unix socket, for `isthmus agent …` and for scripts.
//!
//! ```text
//!  GET /v1/status  /v1/nodes  /v1/ipcache  /v1/identities  /v1/services  /v1/rejected  /v1/wireguard
//! ```
//!
//! `?cluster=<name>` narrows a table to one cluster, `/v1/ipcache?address=<ip>` to the entry that holds an address.
//! What the answers look like is in [`schema`].

mod client;
pub(crate) mod render;
pub mod schema;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::engine::Handle;
use crate::tables::Tables;
use render::Wanted;

pub use client::{ClientError, fetch};

/// Answers that are made at the same time; more wait.
const MAX_REQUESTS: usize = 8;
/// Who may use the socket: the owner, since answers tell all about the mesh.
const SOCKET_MODE: u32 = 0o600;

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another agent of this node answers there.
    #[error("another agent listens on {path}; stop it, or give this one another --socket")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("open the socket {path}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Opens the socket at `path`; one that a dead agent has left is replaced.
///
/// # Errors
/// [`SocketError`]
pub fn bind_socket(path: &Path) -> Result<UnixListener, SocketError> {
    let refused = |source| SocketError::Refused { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(refused)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_answers) => return Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(refused)?;
        }
        // Nothing there, most of the time; else binding says what is wrong.
        Err(_absent) => {}
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(refused)?;
    Ok(listener)
}

/// What the socket answers from.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) handle: Handle,
    pub(crate) status: watch::Receiver<Arc<schema::Status>>,
    pub(crate) datapath: watch::Receiver<schema::DatapathStatus>,
    pub(crate) wireguard: watch::Receiver<schema::Wireguard>,
    pub(crate) published: watch::Receiver<bool>,
}

impl Api {
    /// Answers on `listener` until `stop`, then takes the socket at `path` away.
    ///
    /// # Errors
    /// The listener fails.
    pub(crate) async fn serve(
        self,
        listener: UnixListener,
        path: PathBuf,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/nodes", table(render::nodes))
            .route("/v1/ipcache", table(render::ipcache))
            .route("/v1/identities", table(render::identities))
            .route("/v1/services", table(render::services))
            .route("/v1/rejected", table(render::rejected))
            .route("/v1/wireguard", get(wireguard))
            .layer(GlobalConcurrencyLimitLayer::new(MAX_REQUESTS))
            .with_state(self);
        // Not gracefully: a client that keeps its connection open must not hold up the end.
        let served = stop.run_until_cancelled(async { axum::serve(listener, router).await }).await;
        // It may be gone already.
        drop(std::fs::remove_file(path));
        served.unwrap_or(Ok(()))
    }

    fn wireguard(&self) -> schema::Wireguard {
        let mut wireguard = self.wireguard.borrow().clone();
        wireguard.summary.published = *self.published.borrow();
        wireguard
    }
}

async fn status(State(api): State<Api>) -> Response {
    let Some(mut status) = api.handle.read(|tables| render::status(tables, Timestamp::now())).await else {
        return stopping();
    };
    status.ready = api.status.borrow().ready;
    status.datapath = api.datapath.borrow().clone();
    status.wireguard = api.wireguard().summary;
    status.degraded |= status.datapath.error.is_some() || status.wireguard.error.is_some();
    Json(status).into_response()
}

async fn wireguard(State(api): State<Api>) -> Json<schema::Wireguard> {
    Json(api.wireguard())
}

/// Answers with one table.
fn table<T: Serialize + Send + 'static>(render: fn(&Tables, &Wanted) -> T) -> MethodRouter<Api> {
    get(move |State(api): State<Api>, Query(wanted): Query<Wanted>| async move {
        match api.handle.read(move |tables| render(tables, &wanted)).await {
            Some(records) => Json(records).into_response(),
            None => stopping(),
        }
    })
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n").into_response()
}
