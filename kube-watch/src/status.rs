//! How far a watch has come, for readiness and `status`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::core::Status;

/// Where a watch stands.
#[derive(Clone, Debug, Default)]
pub enum WatchState {
    /// The first list is under way.
    #[default]
    NotListed,
    /// The list is complete and the watch follows it.
    Listed,
    /// The API server does not have the resource; asked again with backoff. Objects known from before are kept.
    Absent,
    /// The API server does not answer as it should; tried again with backoff. Objects known from before are kept.
    Failing {
        /// When the first failure in a row was seen.
        since: SystemTime,
        /// The latest failure.
        error: Arc<WatchError>,
    },
}

impl WatchState {
    /// Whether the consumer's set is complete and being followed.
    pub fn is_listed(&self) -> bool {
        matches!(self, Self::Listed)
    }

    pub(crate) fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// State, age and size of a watch.
///
/// A receiver wakes up when `state` changes its kind or `initial_list_done` is set; the other fields are as fresh as the latest answer
/// whenever they are read.
#[derive(Clone, Debug, Default)]
pub struct WatchStatus {
    /// Where the watch stands.
    pub state: WatchState,
    /// Whether the list was complete once: from then on the consumer's set is real, though perhaps old.
    pub initial_list_done: bool,
    /// When the API server last said anything (a list page, an event, a bookmark).
    pub last_heard: Option<SystemTime>,
    /// Objects that the consumer was told of and not told the end of.
    pub objects: usize,
    /// Those among `objects` whose latest form does not decode.
    pub undecodable: usize,
}

/// Why a list or a watch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The API server does not have the resource.
    #[error("API server does not have the resource")]
    Absent,
    /// The resource version is too old, or the server has forgotten it; the next step is a list.
    #[error("resource version is no longer known to the API server")]
    Expired,
    /// Who we are, or what we may do, is not enough; only a human can help.
    #[error("API server denies list or watch: {0}")]
    Denied(#[source] Box<Status>),
    /// The API server answered with another error.
    #[error("API server refuses the request: {0}")]
    Refused(#[source] Box<Status>),
    /// Something answered that does not speak the Kubernetes API.
    #[error("answer is neither a list nor a watch event")]
    Protocol(#[source] serde_json::Error),
    /// An answer or a line of it is longer than what is ever right.
    #[error("answer is longer than {limit_bytes} bytes")]
    TooLarge {
        /// The limit that was reached.
        limit_bytes: usize,
    },
    /// Nothing was heard for too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The watch ended as soon as it began.
    #[error("API server closed the watch at once")]
    Closed,
    /// The connection failed or broke.
    #[error("reach the API server: {0}")]
    Transport(#[source] Box<kube::Error>),
    /// The connection broke while an answer was read.
    #[error("read from the API server: {0}")]
    Read(#[source] std::io::Error),
}

impl From<kube::Error> for WatchError {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            Self::from(status)
        } else {
            Self::Transport(Box::new(error))
        }
    }
}

impl From<Box<Status>> for WatchError {
    fn from(status: Box<Status>) -> Self {
        match status.code {
            404 => Self::Absent,
            410 => Self::Expired,
            401 | 403 => Self::Denied(status),
            _ => Self::Refused(status),
        }
    }
}
