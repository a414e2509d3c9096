//! The users of a store, for whoever keeps them in step with a list of peers.

use std::collections::BTreeMap;

use async_trait::async_trait;
use etcd_client::{Permission, UserAddOptions};

use super::{Error, EtcdClient, etcd::Asked};
use crate::{
    auth::{Access, AuthError, Grant},
    embedded::EmbeddedClient,
    range::KeyRange,
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

    /// The name of every role.
    async fn roles(&self) -> Result<Vec<String>, Error>;

    /// Adds the role if need be; a new one may do nothing.
    async fn put_role(&self, role: &str) -> Result<(), Error>;

    /// Adds the role if need be and lets it read all keys below `prefix`, beside what it may do already.
    async fn put_reader(&self, role: &str, prefix: &str) -> Result<(), Error>;

    /// Deletes a role, also from the users that have it; no error when there is none.
    async fn delete_role(&self, role: &str) -> Result<(), Error>;
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

    async fn roles(&self) -> Result<Vec<String>, Error> {
        Ok(self.store().auth().roles().map(|(name, _)| name.clone()).collect())
    }

    async fn put_role(&self, role: &str) -> Result<(), Error> {
        match self.store().change_auth(|auth| auth.add_role(role)) {
            Ok(()) | Err(AuthError::RoleExists) => Ok(()),
            Err(error) => Err(Error::Invalid(error.into())),
        }
    }

    async fn put_reader(&self, role: &str, prefix: &str) -> Result<(), Error> {
        let put = self.store().change_auth(|auth| {
            if auth.role(role).is_err() {
                auth.add_role(role)?;
            }
            let range = KeyRange::prefix(prefix.to_owned());
            auth.grant_permission(role, Grant { range, access: Access::Read })
        });
        put.map_err(|error| Error::Invalid(error.into()))
    }

    async fn delete_role(&self, role: &str) -> Result<(), Error> {
        match self.store().change_auth(|auth| auth.delete_role(role)) {
            Ok(()) | Err(AuthError::RoleNotFound) => Ok(()),
            Err(error) => Err(Error::Invalid(error.into())),
        }
    }
}

#[async_trait]
impl Users for EtcdClient {
    async fn users(&self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let mut auth = self.auth().await?;
        let names = self.call(Asked::Nothing, auth.user_list()).await?;
        let mut users = BTreeMap::new();
        for name in names.users() {
            users.insert(name.clone(), self.roles_of(name).await?);
        }
        Ok(users)
    }

    async fn put_user(&self, name: &str, roles: &[&str]) -> Result<(), Error> {
        let mut auth = self.auth().await?;
        let without_password = UserAddOptions::new().with_no_pwd();
        match self.call(Asked::Nothing, auth.user_add(name, "", Some(without_password))).await {
            Ok(_) => {}
            Err(Error::Invalid(status)) if status.message().contains("user name already exists") => {}
            Err(error) => return Err(error),
        }
        let had = self.roles_of(name).await?;
        for role in had.iter().filter(|role| !roles.contains(&role.as_str())) {
            self.call(Asked::Nothing, auth.user_revoke_role(name, role)).await?;
        }
        for role in roles.iter().filter(|role| !had.iter().any(|had| had == *role)) {
            self.call(Asked::Nothing, auth.user_grant_role(name, *role)).await?;
        }
        Ok(())
    }

    async fn delete_user(&self, name: &str) -> Result<(), Error> {
        let mut auth = self.auth().await?;
        match self.call(Asked::Nothing, auth.user_delete(name)).await {
            Ok(_) => Ok(()),
            Err(Error::Invalid(status)) if status.message().contains("user name not found") => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn roles(&self) -> Result<Vec<String>, Error> {
        let mut auth = self.auth().await?;
        Ok(self.call(Asked::Nothing, auth.role_list()).await?.roles().to_vec())
    }

    async fn put_role(&self, role: &str) -> Result<(), Error> {
        let mut auth = self.auth().await?;
        match self.call(Asked::Nothing, auth.role_add(role)).await {
            Ok(_) => Ok(()),
            Err(Error::Invalid(status)) if status.message().contains("role name already exists") => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn put_reader(&self, role: &str, prefix: &str) -> Result<(), Error> {
        self.put_role(role).await?;
        let mut auth = self.auth().await?;
        let permission = Permission::read(prefix).with_prefix();
        self.call(Asked::Nothing, auth.role_grant_permission(role, permission)).await?;
        Ok(())
    }

    async fn delete_role(&self, role: &str) -> Result<(), Error> {
        let mut auth = self.auth().await?;
        match self.call(Asked::Nothing, auth.role_delete(role)).await {
            Ok(_) => Ok(()),
            Err(Error::Invalid(status)) if status.message().contains("role name not found") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl EtcdClient {
    async fn roles_of(&self, name: &str) -> Result<Vec<String>, Error> {
        let mut auth = self.auth().await?;
        let user = self.call(Asked::Nothing, auth.user_get(name)).await?;
        Ok(user.roles().to_vec())
    }
}
