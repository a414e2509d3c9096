//! The service `Auth`, and the check of every call.

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tonic::Status;

use super::{
    Shared,
    root::Root,
    route::{Call, Caller},
};
use crate::{
    auth::{Access, Auth, AuthError, Grant, Identity, ROOT},
    image::permission,
    proto::{authpb, etcdserverpb as pb},
    range::KeyRange,
};

pub(crate) fn route(call: Call, method: &str) -> BoxFuture<'static, ()> {
    match method {
        "AuthEnable" => call.unary(enable),
        "AuthDisable" => call.unary(disable),
        "AuthStatus" => call.unary(status),
        "Authenticate" => authenticate(call).boxed(),
        "UserAdd" => user_add(call).boxed(),
        "UserGet" => call.unary(user_get),
        "UserList" => call.unary(user_list),
        "UserDelete" => call.unary(user_delete),
        "UserChangePassword" => user_change_password(call).boxed(),
        "UserGrantRole" => call.unary(user_grant_role),
        "UserRevokeRole" => call.unary(user_revoke_role),
        "RoleAdd" => call.unary(role_add),
        "RoleGet" => call.unary(role_get),
        "RoleList" => call.unary(role_list),
        "RoleDelete" => call.unary(role_delete),
        "RoleGrantPermission" => call.unary(role_grant_permission),
        "RoleRevokePermission" => call.unary(role_revoke_permission),
        _ => call.unknown("etcdserverpb.Auth", method),
    }
}

impl Shared {
    pub(crate) fn auth_enabled(&self) -> bool {
        self.store.auth().enabled()
    }

    /// Who calls: by token if there is one, else by certificate.
    pub(super) fn identify(&self, caller: &Caller) -> Result<Option<Identity>, AuthError> {
        if let Some(token) = &caller.token {
            let user = self.tokens.user(token).ok_or(AuthError::InvalidToken)?;
            return Ok(Some(Identity { user, revision: self.store.auth().revision() }));
        }
        if caller.through_gateway {
            return Ok(None);
        }
        let name = caller.peer.common_name.as_ref().filter(|_| self.client_cert_auth);
        Ok(name.map(|name| Identity { user: name.to_string(), revision: self.store.auth().revision() }))
    }

    /// Whether the caller may do this with all of a range.
    pub(crate) fn may(&self, caller: &Caller, range: &KeyRange, access: Access) -> Result<(), AuthError> {
        let auth = self.store.auth();
        if !auth.enabled() {
            return Ok(());
        }
        auth.may(self.identify(caller)?.as_ref(), range, access)
    }

    /// The part of the key space that the caller sees.
    pub(crate) fn root(&self, caller: &Caller) -> Result<Root, AuthError> {
        let auth = self.store.auth();
        if !auth.has_roots() {
            return Ok(Root::default());
        }
        let who = self.identify(caller)?;
        let prefix = who.and_then(|who| auth.root_of(&who.user).cloned());
        Ok(prefix.map_or_else(Root::default, Root::new))
    }

    /// The same, and the revision at or before which the caller may have seen another part.
    pub(crate) fn root_and_since(&self, caller: &Caller) -> Result<(Root, i64), AuthError> {
        let root = self.root(caller)?;
        let who = if self.auth_enabled() { self.identify(caller)? } else { None };
        Ok((root, who.map_or(0, |who| self.store.root_since(&who.user))))
    }

    /// As [`Self::may`], for locks and elections, which only those have who see the whole store.
    pub(crate) fn may_in_whole(
        &self,
        caller: &Caller,
        range: &KeyRange,
        access: Access,
    ) -> Result<(), AuthError> {
        if !self.root(caller)?.is_everything() {
            return Err(AuthError::PermissionDenied);
        }
        self.may(caller, range, access)
    }

    pub(crate) fn may_administer(&self, caller: &Caller) -> Result<(), AuthError> {
        let auth = self.store.auth();
        if !auth.enabled() {
            return Ok(());
        }
        auth.may_administer(self.identify(caller)?.as_ref())
    }

    /// Whether the caller is anyone.
    pub(crate) fn require_user(&self, caller: &Caller) -> Result<(), AuthError> {
        if !self.auth_enabled() || self.identify(caller)?.is_some() {
            Ok(())
        } else {
            Err(AuthError::UserEmpty)
        }
    }
}

fn enable(
    shared: &Shared,
    caller: &Caller,
    _: pb::AuthEnableRequest,
) -> Result<pb::AuthEnableResponse, Status> {
    shared.may_administer(caller)?;
    shared.store.change_auth(Auth::enable)?;
    Ok(pb::AuthEnableResponse { header: Some(shared.header_now()) })
}

fn disable(
    shared: &Shared,
    caller: &Caller,
    _: pb::AuthDisableRequest,
) -> Result<pb::AuthDisableResponse, Status> {
    shared.may_administer(caller)?;
    shared.store.change_auth(|auth| {
        auth.disable();
        Ok(())
    })?;
    shared.tokens.clear();
    Ok(pb::AuthDisableResponse { header: Some(shared.header_now()) })
}

fn status(
    shared: &Shared,
    caller: &Caller,
    _: pb::AuthStatusRequest,
) -> Result<pb::AuthStatusResponse, Status> {
    shared.may_administer(caller)?;
    let auth = shared.store.auth();
    Ok(pb::AuthStatusResponse {
        header: Some(shared.header_now()),
        enabled: auth.enabled(),
        auth_revision: auth.revision(),
    })
}

/// Checking a password takes long on purpose, so it happens off the connection's task.
async fn authenticate(mut call: Call) {
    let answer = match call.incoming.only::<pb::AuthenticateRequest>().await {
        Ok(request) => check_password(&call.shared, request).await,
        Err(status) => Err(status),
    };
    call.answer(answer).await;
}

async fn check_password(
    shared: &Shared,
    request: pb::AuthenticateRequest,
) -> Result<pb::AuthenticateResponse, Status> {
    let auth = shared.store.auth();
    if !auth.enabled() {
        return Err(AuthError::NotEnabled.into());
    }
    let user = auth.user(&request.name).map_err(|_unknown| AuthError::Failed)?;
    let password = user.password.clone().ok_or(AuthError::NoPasswordUser)?;
    let hash = String::from_utf8(password.to_vec()).map_err(|_not_a_hash| AuthError::Failed)?;
    let matches = tokio::task::spawn_blocking(move || bcrypt::verify(request.password, &hash)).await;
    if !matches!(matches, Ok(Ok(true))) {
        return Err(AuthError::Failed.into());
    }
    // It took its time, in which the user may have got another password, or have gone.
    let still = || {
        let auth = shared.store.auth();
        auth.enabled() && auth.user(&request.name).is_ok_and(|user| user.password.as_ref() == Some(&password))
    };
    let token = shared.tokens.issue_if(&request.name, still).ok_or(AuthError::Failed)?;
    Ok(pb::AuthenticateResponse { header: Some(shared.header_now()), token })
}

async fn hash(password: String, cost: u32) -> Result<Bytes, Status> {
    let hashed = tokio::task::spawn_blocking(move || bcrypt::hash(password, cost)).await;
    match hashed {
        Ok(Ok(hashed)) => Ok(hashed.into()),
        Ok(Err(error)) => Err(Status::invalid_argument(error.to_string())),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

async fn user_add(mut call: Call) {
    let answer = match call.incoming.only::<pb::AuthUserAddRequest>().await {
        Ok(request) => add_user(&call.shared, &call.caller, request).await,
        Err(status) => Err(status),
    };
    call.answer(answer).await;
}

async fn add_user(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthUserAddRequest,
) -> Result<pb::AuthUserAddResponse, Status> {
    shared.may_administer(caller)?;
    let no_password = request.options.as_ref().is_some_and(|options| options.no_password);
    let password = if no_password || request.name.is_empty() {
        None
    } else {
        Some(hash(request.password, shared.limits.bcrypt_cost).await?)
    };
    shared.store.change_auth(|auth| auth.add_user(&request.name, password))?;
    Ok(pb::AuthUserAddResponse { header: Some(shared.header_now()) })
}

async fn user_change_password(mut call: Call) {
    let answer = match call.incoming.only::<pb::AuthUserChangePasswordRequest>().await {
        Ok(request) => change_password(&call.shared, &call.caller, request).await,
        Err(status) => Err(status),
    };
    call.answer(answer).await;
}

async fn change_password(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthUserChangePasswordRequest,
) -> Result<pb::AuthUserChangePasswordResponse, Status> {
    shared.may_administer(caller)?;
    let password = hash(request.password, shared.limits.bcrypt_cost).await?;
    shared.store.change_auth(|auth| auth.change_password(&request.name, password))?;
    shared.tokens.forget(&request.name);
    Ok(pb::AuthUserChangePasswordResponse { header: Some(shared.header_now()) })
}

fn user_get(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthUserGetRequest,
) -> Result<pb::AuthUserGetResponse, Status> {
    // Everyone may see what they are.
    if let Err(error) = shared.may_administer(caller) {
        let own = shared.identify(caller)?.is_some_and(|who| who.user == request.name);
        if !own {
            return Err(error.into());
        }
    }
    let roles = shared.store.auth().user(&request.name)?.roles.clone();
    Ok(pb::AuthUserGetResponse { header: Some(shared.header_now()), roles })
}

fn user_list(
    shared: &Shared,
    caller: &Caller,
    _: pb::AuthUserListRequest,
) -> Result<pb::AuthUserListResponse, Status> {
    shared.may_administer(caller)?;
    let users = shared.store.auth().users().map(|(name, _)| name.clone()).collect();
    Ok(pb::AuthUserListResponse { header: Some(shared.header_now()), users })
}

fn user_delete(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthUserDeleteRequest,
) -> Result<pb::AuthUserDeleteResponse, Status> {
    shared.may_administer(caller)?;
    shared.store.change_auth(|auth| auth.delete_user(&request.name))?;
    shared.tokens.forget(&request.name);
    Ok(pb::AuthUserDeleteResponse { header: Some(shared.header_now()) })
}

fn user_grant_role(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthUserGrantRoleRequest,
) -> Result<pb::AuthUserGrantRoleResponse, Status> {
    shared.may_administer(caller)?;
    shared.store.change_auth(|auth| auth.grant_role(&request.user, &request.role))?;
    Ok(pb::AuthUserGrantRoleResponse { header: Some(shared.header_now()) })
}

fn user_revoke_role(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthUserRevokeRoleRequest,
) -> Result<pb::AuthUserRevokeRoleResponse, Status> {
    shared.may_administer(caller)?;
    shared.store.change_auth(|auth| auth.revoke_role(&request.name, &request.role))?;
    Ok(pb::AuthUserRevokeRoleResponse { header: Some(shared.header_now()) })
}

fn role_add(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthRoleAddRequest,
) -> Result<pb::AuthRoleAddResponse, Status> {
    shared.may_administer(caller)?;
    shared.store.change_auth(|auth| auth.add_role(&request.name))?;
    Ok(pb::AuthRoleAddResponse { header: Some(shared.header_now()) })
}

fn role_get(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthRoleGetRequest,
) -> Result<pb::AuthRoleGetResponse, Status> {
    let auth = shared.store.auth();
    // Everyone may see what they may do.
    if let Err(error) = shared.may_administer(caller) {
        let who = shared.identify(caller)?;
        let user = who.as_ref().and_then(|who| auth.user(&who.user).ok());
        if !user.is_some_and(|user| user.roles.contains(&request.role)) {
            return Err(error.into());
        }
    }
    let grants = auth.role(&request.role)?;
    let perm = if request.role == ROOT {
        vec![authpb::Permission {
            perm_type: authpb::permission::Type::Readwrite as i32,
            key: Bytes::new(),
            range_end: Bytes::from_static(b"\0"),
        }]
    } else {
        grants.iter().map(permission).collect()
    };
    Ok(pb::AuthRoleGetResponse { header: Some(shared.header_now()), perm })
}

fn role_list(
    shared: &Shared,
    caller: &Caller,
    _: pb::AuthRoleListRequest,
) -> Result<pb::AuthRoleListResponse, Status> {
    shared.may_administer(caller)?;
    let roles = shared.store.auth().roles().map(|(name, _)| name.clone()).collect();
    Ok(pb::AuthRoleListResponse { header: Some(shared.header_now()), roles })
}

fn role_delete(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthRoleDeleteRequest,
) -> Result<pb::AuthRoleDeleteResponse, Status> {
    shared.may_administer(caller)?;
    shared.store.change_auth(|auth| auth.delete_role(&request.role))?;
    Ok(pb::AuthRoleDeleteResponse { header: Some(shared.header_now()) })
}

fn role_grant_permission(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthRoleGrantPermissionRequest,
) -> Result<pb::AuthRoleGrantPermissionResponse, Status> {
    shared.may_administer(caller)?;
    let perm = request.perm.ok_or(AuthError::PermissionNotGiven)?;
    let access = match perm.perm_type() {
        authpb::permission::Type::Read => Access::Read,
        authpb::permission::Type::Write => Access::Write,
        authpb::permission::Type::Readwrite => Access::ReadWrite,
    };
    let grant = Grant { range: KeyRange::from_wire(perm.key, perm.range_end), access };
    shared.store.change_auth(|auth| auth.grant_permission(&request.name, grant))?;
    Ok(pb::AuthRoleGrantPermissionResponse { header: Some(shared.header_now()) })
}

fn role_revoke_permission(
    shared: &Shared,
    caller: &Caller,
    request: pb::AuthRoleRevokePermissionRequest,
) -> Result<pb::AuthRoleRevokePermissionResponse, Status> {
    shared.may_administer(caller)?;
    let range = KeyRange::from_wire(request.key, request.range_end);
    shared.store.change_auth(|auth| auth.revoke_permission(&request.role, &range))?;
    Ok(pb::AuthRoleRevokePermissionResponse { header: Some(shared.header_now()) })
}
