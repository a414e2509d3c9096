//! The other end of the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Limit for one answer.
const LIMIT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent listens on {path}; start one with `isthmus agent run`, or name its socket with --socket"
    )]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The socket is there and we may not use it.
    #[error("no permission to use {path}; it belongs to the user that the agent runs as, mostly root")]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("talk to the agent")]
    Http(#[from] hyper::Error),
    /// The agent answered something else than 200.
    #[error("the agent answered {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// The answer did not come in time.
    #[error("no answer from the agent within {LIMIT:?}")]
    TimedOut,
}

/// Asks the agent at `socket` for `path`, such as `/v1/status`; the answer is JSON.
///
/// # Errors
/// [`ClientError`]; the text says what to do.
pub async fn fetch(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    timeout(LIMIT, ask(socket, path)).await.map_err(|_elapsed| ClientError::TimedOut)?
}

async fn ask(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        if source.kind() == io::ErrorKind::PermissionDenied {
            ClientError::Denied { path: socket.to_owned() }
        } else {
            ClientError::NoAgent { path: socket.to_owned(), source }
        }
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", "agent").body(Empty::<Bytes>::new());
    let request = request.expect("paths of the socket are valid");
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        Err(ClientError::Refused { status: status.as_u16(), text })
    };
    // The connection does its work only while it is polled.
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What was read before the end may still make an answer.
        _ended = connection => answer.await,
    }
}
