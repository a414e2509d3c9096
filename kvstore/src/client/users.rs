//! The users of a store, for whoever keeps them in step with a list of peers.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Error, EtcdClient};
use crate::{
    auth::AuthError,
    embedded::EmbeddedClient,
    proto::{authpb, etcdserverpb as pb, etcdserverpb::auth_client::AuthClient},
};

/// Users that are known by their certificate, and their roles.
#[async_trait]
pub trait Users: Send + Sync {
    /// Every user with its roles.
    async fn users(&self) -> Result<BTreeMap<String, Vec<String>>, Error>;

    /// Adds the user if need be (without password) and gives it exactly these roles, which must exist.
    async fn put_user(&self, name: &str, roles: &[&str]) -> Result<(), Error>;

    /// Deletes a user; no error when there is none.
    async fn delete_user(&self, name: &str) -> Result<(), Error>;
}

#[async_trait]
impl Users for EmbeddedClient {
    async fn users(&self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let auth = self.store().auth();
        Ok(auth.users().map(|(name, user)| (name.clone(), user.roles.clone())).collect())
    }

    async fn put_user(&self, name: &str, roles: &[&str]) -> Result<(), Error> {
        let put = self.store().change_auth(|auth| {
            if auth.user(name).is_err() {
                auth.add_user(name, None)?;
            }
            let had = auth.user(name)?.roles.clone();
            for role in had.iter().filter(|role| !roles.contains(&role.as_str())) {
                auth.revoke_role(name, role)?;
            }
            roles.iter().try_for_each(|role| auth.grant_role(name, role))
        });
        put.map_err(|error| Error::Invalid(error.into()))
    }

    async fn delete_user(&self, name: &str) -> Result<(), Error> {
        match self.store().change_auth(|auth| auth.delete_user(name)) {
            Ok(()) | Err(AuthError::UserNotFound) => Ok(()),
            Err(error) => Err(Error::Invalid(error.into())),
        }
    }
}

#[async_trait]
impl Users for EtcdClient {
    async fn users(&self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let names = self
            .unary(
                |channel, request| async move { AuthClient::new(channel).user_list(request).await },
                pb::AuthUserListRequest {},
            )
            .await?;
        let mut users = BTreeMap::new();
        for name in names.users {
            let roles = self.roles_of(&name).await?;
            users.insert(name, roles);
        }
        Ok(users)
    }

    async fn put_user(&self, name: &str, roles: &[&str]) -> Result<(), Error> {
        let add = pb::AuthUserAddRequest {
            name: name.to_owned(),
            options: Some(authpb::UserAddOptions { no_password: true }),
            ..pb::AuthUserAddRequest::default()
        };
        let added = self
            .unary(|channel, request| async move { AuthClient::new(channel).user_add(request).await }, add)
            .await;
        match added {
            Ok(_) => {}
            Err(Error::Invalid(status)) if status.message().contains("user name already exists") => {}
            Err(error) => return Err(error),
        }
        let had = self.roles_of(name).await?;
        for role in had.iter().filter(|role| !roles.contains(&role.as_str())) {
            let revoke = pb::AuthUserRevokeRoleRequest { name: name.to_owned(), role: role.clone() };
            self.unary(
                |channel, request| async move { AuthClient::new(channel).user_revoke_role(request).await },
                revoke,
            )
            .await?;
        }
        for role in roles.iter().filter(|role| !had.iter().any(|had| had == *role)) {
            let grant = pb::AuthUserGrantRoleRequest { user: name.to_owned(), role: (*role).to_owned() };
            self.unary(
                |channel, request| async move { AuthClient::new(channel).user_grant_role(request).await },
                grant,
            )
            .await?;
        }
        Ok(())
    }

    async fn delete_user(&self, name: &str) -> Result<(), Error> {
        let delete = pb::AuthUserDeleteRequest { name: name.to_owned() };
        let deleted = self
            .unary(
                |channel, request| async move { AuthClient::new(channel).user_delete(request).await },
                delete,
            )
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(Error::Invalid(status)) if status.message().contains("user name not found") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl EtcdClient {
    async fn roles_of(&self, name: &str) -> Result<Vec<String>, Error> {
        let get = pb::AuthUserGetRequest { name: name.to_owned() };
        let user = self
            .unary(|channel, request| async move { AuthClient::new(channel).user_get(request).await }, get)
            .await?;
        Ok(user.roles)
    }
}
