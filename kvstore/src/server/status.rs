//! etcd's error codes and messages, which its clients match on. No other file spells them.
//!
//! Source: etcd `api/v3rpc/rpctypes/error.go`.

use tonic::{Code, Status};

use crate::{auth::AuthError, mvcc::Refusal};

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        $($(#[$doc])* pub(crate) fn $name() -> Status {
            Status::new(Code::$code, concat!("etcdserver: ", $text))
        })*
    };
}

statuses! {
    empty_key = InvalidArgument, "key is not provided";
    key_not_found = InvalidArgument, "key not found";
    value_provided = InvalidArgument, "value is provided";
    lease_provided = InvalidArgument, "lease is provided";
    too_many_ops = InvalidArgument, "too many operations in txn request";
    duplicate_key = InvalidArgument, "duplicate key given in txn request";
    invalid_sort_option = InvalidArgument, "invalid sort option";
    compacted = OutOfRange, "mvcc: required revision has been compacted";
    future_revision = OutOfRange, "mvcc: required revision is a future revision";
    no_space = ResourceExhausted, "mvcc: database space exceeded";
    lease_not_found = NotFound, "requested lease not found";
    lease_exists = FailedPrecondition, "lease already exists";
    lease_ttl_too_large = OutOfRange, "too large lease TTL";
    watch_canceled = Cancelled, "watch canceled";
    member_not_found = NotFound, "member not found";
    not_enough_started_members =
        FailedPrecondition, "re-configuration failed due to not enough started members";
    bad_member_urls = InvalidArgument, "given member URLs are invalid";
    not_learner = FailedPrecondition, "can only promote a learner member";
    bad_leader_transferee = FailedPrecondition, "bad leader transferee";
    wrong_downgrade_version = InvalidArgument, "wrong downgrade target version format";
    invalid_downgrade_version = InvalidArgument, "invalid downgrade target version";
    request_too_large = InvalidArgument, "request is too large";
    too_many_requests = ResourceExhausted, "too many requests";
    stopped = Unavailable, "server stopped";
    root_user_missing = FailedPrecondition, "root user does not exist";
    root_role_missing = FailedPrecondition, "root user does not have root role";
    user_exists = FailedPrecondition, "user name already exists";
    user_empty = InvalidArgument, "user name is empty";
    user_not_found = FailedPrecondition, "user name not found";
    role_exists = FailedPrecondition, "role name already exists";
    role_not_found = FailedPrecondition, "role name not found";
    role_empty = InvalidArgument, "role name is empty";
    auth_failed = InvalidArgument, "authentication failed, invalid user ID or password";
    permission_not_given = InvalidArgument, "permission not given";
    permission_denied = PermissionDenied, "permission denied";
    role_not_granted = FailedPrecondition, "role is not granted to the user";
    permission_not_granted = FailedPrecondition, "permission is not granted to the role";
    auth_not_enabled = FailedPrecondition, "authentication is not enabled";
    invalid_auth_token = Unauthenticated, "invalid auth token";
    invalid_auth_management = InvalidArgument, "invalid auth management";
    auth_old_revision = InvalidArgument, "revision of auth store is old";
    corrupt = DataLoss, "corrupt cluster";
}

/// The message of [`compacted`], as it stands in a watch that starts before the first revision.
pub(crate) fn watch_compacted_reason() -> String {
    compacted().message().to_owned()
}

/// How a gRPC error reads inside of a watch's cancel reason.
pub(crate) fn as_reason(status: &Status) -> String {
    format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message())
}

/// gRPC's own refusal of a message above the size limit.
pub(crate) fn message_too_large(size: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({size} vs. {limit})"))
}

/// gRPC's own refusal of bytes that are no message.
pub(crate) fn not_a_message(error: &prost::DecodeError) -> Status {
    Status::internal(format!("grpc: error unmarshalling request: {error}"))
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Compacted { .. } | Refusal::CompactedAlready => compacted(),
            Refusal::Future { .. } => future_revision(),
            Refusal::EmptyKey => empty_key(),
            Refusal::LeaseNotFound { .. } => lease_not_found(),
            Refusal::LeaseExists => lease_exists(),
            Refusal::KeyNotFound => key_not_found(),
        }
    }
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::RootUserMissing => root_user_missing(),
            AuthError::RootRoleMissing => root_role_missing(),
            AuthError::UserEmpty => user_empty(),
            AuthError::UserExists => user_exists(),
            AuthError::UserNotFound => user_not_found(),
            AuthError::RoleEmpty => role_empty(),
            AuthError::RoleExists => role_exists(),
            AuthError::RoleNotFound => role_not_found(),
            AuthError::RoleNotGranted => role_not_granted(),
            AuthError::PermissionNotGranted => permission_not_granted(),
            AuthError::PermissionNotGiven => permission_not_given(),
            AuthError::PermissionDenied => permission_denied(),
            AuthError::Failed => auth_failed(),
            AuthError::NotEnabled => auth_not_enabled(),
            AuthError::InvalidManagement => invalid_auth_management(),
            AuthError::InvalidToken => invalid_auth_token(),
            AuthError::OldRevision => auth_old_revision(),
            AuthError::NotKept => Status::unavailable(error.to_string()),
            AuthError::NoPasswordUser => {
                Status::unknown("auth: authentication failed, password was given for no password user")
            }
        }
    }
}

/// gRPC's name of a code, as its Go implementation prints it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
