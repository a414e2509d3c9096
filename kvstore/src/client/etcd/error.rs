//! What `etcd-client` says went wrong as our errors.

use tonic::{Code, Status};

use crate::client::{Error, LeaseId, Revision};

/// What a call was about, for errors that name it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Nothing,
    Revision(Revision),
    Lease(LeaseId),
}

impl Asked {
    fn revision(self) -> Revision {
        match self {
            Self::Revision(revision) => revision,
            Self::Nothing | Self::Lease(_) => Revision::default(),
        }
    }

    fn lease(self) -> LeaseId {
        match self {
            Self::Lease(lease) => lease,
            Self::Nothing | Self::Revision(_) => LeaseId::NONE,
        }
    }
}

/// etcd's codes and words, and those of the crate, as our errors.
pub(super) fn error(cause: etcd_client::Error, asked: Asked) -> Error {
    use etcd_client::Error as Cause;
    match cause {
        Cause::GRpcStatus(status) => of_status(status, asked),
        Cause::LeaseKeepAliveError(words) if words == "lease not found" => {
            Error::LeaseNotFound(asked.lease())
        }
        // Of watches and leases it says so when the stream ends before its first answer.
        Cause::WatchError(words) | Cause::LeaseKeepAliveError(words) => {
            Error::Unavailable(Status::unavailable(words))
        }
        other @ (Cause::InvalidArgs(_)
        | Cause::InvalidUri(_)
        | Cause::IoError(_)
        | Cause::TransportError(_)
        | Cause::Utf8Error(_)
        | Cause::ElectError(_)
        | Cause::InvalidMetadataValue(_)
        | Cause::EndpointError(_)
        | Cause::EndpointsNotManaged
        | Cause::Internal(_)) => Error::Transport(Box::new(other)),
    }
}

/// Whether an answer was not taken because of its size.
pub(super) fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("decoded message length too large")
}

fn of_status(status: Status, asked: Asked) -> Error {
    let says = |words: &str| status.message().contains(words);
    match status.code() {
        Code::NotFound if says("lease not found") => Error::LeaseNotFound(asked.lease()),
        Code::OutOfRange if says("has been compacted") => Error::Compacted { asked: asked.revision() },
        Code::OutOfRange if says("future revision") => Error::FutureRevision { asked: asked.revision() },
        Code::OutOfRange if is_too_large(&status) => Error::Transport(Box::new(status)),
        Code::PermissionDenied => Error::PermissionDenied,
        Code::ResourceExhausted if says("space exceeded") => Error::NoSpace,
        Code::Unauthenticated => Error::Unauthenticated(Some(status)),
        Code::InvalidArgument if says("user name is empty") || says("auth") => {
            Error::Unauthenticated(Some(status))
        }
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::Unimplemented => Error::Invalid(status),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Error::Unavailable(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_words_become_errors_that_name_what_was_asked_for() {
        let lease = Asked::Lease(LeaseId(7));
        let revision = Asked::Revision(Revision(5));
        let status = |code, words: &str| etcd_client::Error::GRpcStatus(Status::new(code, words));
        let cases = [
            (
                status(Code::NotFound, "etcdserver: requested lease not found"),
                lease,
                "LeaseNotFound(LeaseId(7))",
            ),
            (
                etcd_client::Error::LeaseKeepAliveError("lease not found".into()),
                lease,
                "LeaseNotFound(LeaseId(7))",
            ),
            (
                status(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
                revision,
                "Compacted { asked: Revision(5) }",
            ),
            (
                status(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
                revision,
                "FutureRevision { asked: Revision(5) }",
            ),
            (status(Code::PermissionDenied, "etcdserver: permission denied"), lease, "PermissionDenied"),
            (status(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), lease, "NoSpace"),
            (status(Code::Unauthenticated, "etcdserver: invalid auth token"), lease, "Unauthenticated(Some("),
            (status(Code::InvalidArgument, "etcdserver: user name is empty"), lease, "Unauthenticated(Some("),
            (
                status(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
                lease,
                "Invalid(",
            ),
            (status(Code::Unavailable, "etcdserver: no leader"), lease, "Unavailable("),
            (etcd_client::Error::WatchError("failed to create lease keeper".into()), lease, "Unavailable("),
            (
                status(
                    Code::OutOfRange,
                    "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
                ),
                revision,
                "Transport(",
            ),
            (etcd_client::Error::Internal("x".into()), lease, "Transport("),
        ];
        for (cause, asked, expected) in cases {
            let name = cause.to_string();
            let found = format!("{:?}", error(cause, asked));
            assert!(found.starts_with(expected), "{name}: {found}");
        }
    }
}
