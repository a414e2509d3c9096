//! Why contact with a remote cluster ended, as a reason that users can act on.

use std::error::Error as StdError;
use std::io;

use kvstore::sync::FollowError;
use kvstore::{CredentialsError, Error, WatchError};
use mesh_runtime::Chain;
use mesh_types::{Reason, Rejection};

/// What an error of a peer's store means, with all its causes in words.
pub(crate) fn explain(error: &Error) -> Rejection {
    Rejection::new(reason(error), Chain(error).to_string())
}

/// What the end of a watch means.
pub(crate) fn explain_watch(error: &WatchError) -> Rejection {
    match error {
        WatchError::Store(error) => explain(error),
        other @ (WatchError::Compacted { .. }
        | WatchError::TooSlow
        | WatchError::Cancelled { .. }
        | WatchError::Closed
        | _) => Rejection::new(Reason::PeerDisconnected, Chain(other).to_string()),
    }
}

/// What the end of a follower means.
pub(crate) fn explain_follow(error: &FollowError) -> Rejection {
    match error {
        FollowError::ClientSpent(error) => explain_watch(error),
        other @ (FollowError::ConsumerGone | _) => {
            Rejection::new(Reason::PeerDisconnected, Chain(other).to_string())
        }
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

/// Whether TLS is what failed.
///
/// A refused client certificate is only heard of when the first answer is read, and by then HTTP/2 has turned the
/// error into text.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let text = || Chain(error).to_string();
    any_cause(error, &<dyn StdError>::is::<rustls::Error>)
        || ["received fatal alert", "invalid peer certificate"].iter().any(|words| text().contains(words))
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
    fn causes_are_told_once_each() {
        let missing =
            CredentialsError::Read { path: "/mesh/ca.crt".into(), source: io::ErrorKind::NotFound.into() };
        assert_eq!(explain(&Error::Credentials(missing)).detail, "read /mesh/ca.crt: entity not found");
    }
}
