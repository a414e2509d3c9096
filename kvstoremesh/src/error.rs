//! Why contact with a remote cluster ended, as a reason that users can act on.

use std::error::Error as StdError;
use std::io;

use kvstore::sync::FollowError;
use kvstore::{CredentialsError, Error, WatchError};
use mesh_types::{Reason, Rejection};

/// What an error of a peer's store means, with its causes in words.
pub(crate) fn explain(error: &Error) -> Rejection {
    Rejection::new(reason(error), words(error))
}

/// What an error of the very first call over a new connection means.
///
/// With TLS 1.3 a server that refuses the client's certificate says so after the handshake, and closes; the client may
/// see no more than that it closed.
pub(crate) fn explain_first(error: &Error, over_tls: bool) -> Rejection {
    let explained = explain(error);
    if over_tls && explained.reason == Reason::PeerUnreachable && is_closed(error) {
        let what = format!("{}; does the store know the CA of cert-file?", explained.detail);
        return Rejection::new(Reason::TlsFailed, what);
    }
    explained
}

/// What the end of a watch means.
pub(crate) fn explain_watch(error: &WatchError) -> Rejection {
    match error {
        WatchError::Store(error) => explain(error),
        other @ (WatchError::Compacted { .. }
        | WatchError::TooSlow
        | WatchError::Cancelled { .. }
        | WatchError::Closed
        | _) => Rejection::new(Reason::PeerDisconnected, words(other)),
    }
}

/// What it means that a watch that had lost its store could not go on: what it asked was the first call over a new connection.
pub(crate) fn explain_return(error: &WatchError, over_tls: bool) -> Rejection {
    match error {
        WatchError::Store(error) => explain_first(error, over_tls),
        other @ (WatchError::Compacted { .. }
        | WatchError::TooSlow
        | WatchError::Cancelled { .. }
        | WatchError::Closed
        | _) => explain_watch(other),
    }
}

/// What the end of a follower means.
pub(crate) fn explain_follow(error: &FollowError) -> Rejection {
    match error {
        FollowError::ClientSpent(error) => explain_watch(error),
        other @ (FollowError::ConsumerGone | _) => Rejection::new(Reason::PeerDisconnected, words(other)),
    }
}

fn reason(error: &Error) -> Reason {
    match error {
        Error::PermissionDenied | Error::Unauthenticated(_) => Reason::PermissionDenied,
        Error::ClusterChanged { .. } => Reason::StoreReplaced,
        Error::Credentials(CredentialsError::Endpoint { .. } | CredentialsError::NoCa { .. }) => {
            Reason::PeerConfigInvalid
        }
        // Files are read again at every connect, so they may be what is below any failure.
        error if any_cause(error, &<dyn StdError>::is::<CredentialsError>) => Reason::CertificateUnusable,
        Error::Credentials(_) => Reason::CertificateUnusable,
        error if is_tls(error) => Reason::TlsFailed,
        Error::LeaseNotFound(_)
        | Error::Compacted { .. }
        | Error::FutureRevision { .. }
        | Error::Invalid(_)
        | Error::NoSpace
        | Error::NoHeader
        | Error::Unavailable(_)
        | Error::Transport(_)
        | _ => Reason::PeerUnreachable,
    }
}

/// Whether TLS is what failed. By the time of a first answer, HTTP/2 has turned errors into text.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let text = || words(error);
    any_cause(error, &<dyn StdError>::is::<rustls::Error>)
        || ["received fatal alert", "invalid peer certificate"].iter().any(|words| text().contains(words))
}

/// Whether a connection that stood was closed by the other side.
fn is_closed(error: &Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let is = |error: &(dyn StdError + 'static)| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
    };
    let text = words(error);
    (any_cause(error, &is) || text.contains("connection closed")) && !text.contains("connect to ")
}

/// An error and what is behind it, without what is said twice: transports repeat their causes, and print a status
/// with its code and source.
fn words(error: &(dyn StdError + 'static)) -> String {
    let mut said = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = match error.downcast_ref::<tonic::Status>() {
            Some(status) => status.message().to_owned(),
            None => error.to_string(),
        };
        let text = text.strip_prefix("transport error: ").unwrap_or(&text);
        if text != "transport error" && !said.contains(text) {
            let separator = if said.is_empty() { "" } else { ": " };
            said = said + separator + text;
        }
        cause = error.source();
    }
    said
}

/// Whether the error or one behind it is of a kind.
fn any_cause(error: &(dyn StdError + 'static), is: &dyn Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    // An I/O error passes over the error that it wraps when it is asked for its source.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    is(error)
        || wrapped.is_some_and(|inner| any_cause(inner, is))
        || error.source().is_some_and(|source| any_cause(source, is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_reason() {
        let tls = || io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        let missing =
            CredentialsError::Read { path: "/mesh/ca.crt".into(), source: io::ErrorKind::NotFound.into() };
        let cases = [
            ("refused by the store", Error::PermissionDenied, Reason::PermissionDenied),
            ("no such user", Error::Unauthenticated(None), Reason::PermissionDenied),
            ("another store", Error::ClusterChanged { pinned: 1, found: 2 }, Reason::StoreReplaced),
            ("missing file", Error::Credentials(missing), Reason::CertificateUnusable),
            ("TLS below I/O", Error::Transport(Box::new(tls())), Reason::TlsFailed),
            (
                "TLS as text",
                Error::Transport("error reading: received fatal alert: UnknownCA".into()),
                Reason::TlsFailed,
            ),
            (
                "refused connection",
                Error::Transport(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused))),
                Reason::PeerUnreachable,
            ),
        ];
        for (case, error, reason) in cases {
            assert_eq!(explain(&error).reason, reason, "{case}");
            assert_eq!(explain_watch(&WatchError::Store(error)).reason, reason, "{case} in a watch");
        }
        assert_eq!(explain_watch(&WatchError::Closed).reason, Reason::PeerDisconnected);
    }

    #[test]
    fn a_store_that_closes_before_its_first_answer_is_asked_about_its_ca() {
        let closed = || Error::Unavailable(tonic::Status::cancelled("connection closed"));
        let broken = || Error::Transport(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        for error in [closed, broken as fn() -> Error] {
            assert_eq!(explain_first(&error(), true).reason, Reason::TlsFailed);
            assert_eq!(explain_first(&error(), false).reason, Reason::PeerUnreachable);
            let lost = WatchError::Store(error());
            assert_eq!(explain_watch(&lost).reason, Reason::PeerUnreachable, "an old connection");
            assert_eq!(explain_return(&lost, true).reason, Reason::TlsFailed);
            assert_eq!(explain_return(&lost, false).reason, Reason::PeerUnreachable);
        }
        let refused = Error::Transport("connect to 127.0.0.1:1: connection closed".into());
        assert_eq!(explain_first(&refused, true).reason, Reason::PeerUnreachable);
    }

    #[test]
    fn causes_are_told_once_each() {
        let twice = Error::Transport(Box::new(io::Error::other("store cannot be reached")));
        assert_eq!(explain(&twice).detail, "talk to the store: store cannot be reached");
        let status = tonic::Status::from_error(Box::new(io::Error::other("connection refused")));
        assert_eq!(
            explain(&Error::Unavailable(status)).detail,
            "the store cannot be reached: connection refused"
        );
        let missing =
            CredentialsError::Read { path: "/mesh/ca.crt".into(), source: io::ErrorKind::NotFound.into() };
        assert_eq!(explain(&Error::Credentials(missing)).detail, "read /mesh/ca.crt: entity not found");
    }
}
