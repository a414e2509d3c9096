//! Who may do what: users, roles and key ranges, as etcd has them. Pure.
//!
//! Two kinds of users: those with a password (its bcrypt hash comes from the shell, hashing is slow) and those
//! that only a client certificate with their name as common name can be. The role `root` may do everything.

mod permissions;
mod preset;
mod roots;

use std::collections::BTreeMap;

use bytes::Bytes;

use self::{permissions::Permissions, roots::Roots};
pub use self::{
    permissions::{Access, Grant},
    preset::{LOCAL, REMOTE},
    roots::{ROOT_NOTES, ROOT_ROLE, root_role},
};
use crate::range::KeyRange;

/// The user and the role that must exist to switch authentication on.
pub const ROOT: &str = "root";

/// Why something about users is refused; `server/status.rs` has etcd's words for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Authentication cannot be switched on without the user `root`.
    #[error("there is no user root")]
    RootUserMissing,
    /// Or without it having the role `root`.
    #[error("user root lacks role root")]
    RootRoleMissing,
    /// A name is needed, or the caller gave no identity.
    #[error("no user name")]
    UserEmpty,
    /// The name is taken.
    #[error("user exists already")]
    UserExists,
    /// No such user.
    #[error("no such user")]
    UserNotFound,
    /// A name is needed.
    #[error("no role name")]
    RoleEmpty,
    /// The name is taken.
    #[error("role exists already")]
    RoleExists,
    /// No such role.
    #[error("no such role")]
    RoleNotFound,
    /// The user does not have the role.
    #[error("user does not have the role")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("role does not have the permission")]
    PermissionNotGranted,
    /// A permission is needed.
    #[error("no permission given")]
    PermissionNotGiven,
    /// The user may not do this.
    #[error("permission denied")]
    PermissionDenied,
    /// Wrong name or password, or a user without password.
    #[error("wrong user or password")]
    Failed,
    /// Authentication is off.
    #[error("authentication is off")]
    NotEnabled,
    /// It would lock everyone out, or the key range is not one.
    #[error("not a valid change of users")]
    InvalidManagement,
    /// The token is unknown or over.
    #[error("invalid token")]
    InvalidToken,
    /// Users or roles changed since the token was given.
    #[error("token is from before a change of users")]
    OldRevision,
    /// A user without password has none to check.
    #[error("user has no password")]
    NoPasswordUser,
    /// The change cannot be written to the data directory, so it was not made.
    #[error("the change cannot be written to the data directory")]
    NotKept,
}

/// A caller, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: String,
    /// [`Auth::revision`] at which it was established.
    pub revision: u64,
}

/// A user.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct User {
    /// bcrypt hash; `None` for a user that only a certificate can be.
    pub password: Option<Bytes>,
    /// Sorted.
    pub roles: Vec<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("roles", &self.roles).finish_non_exhaustive()
    }
}

/// All users and roles.
#[derive(Clone, Debug)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Vec<Grant>>,
    /// What each user may do, from all its roles.
    permissions: BTreeMap<String, Permissions>,
    /// Who sees only a part of the key space.
    roots: Roots,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            permissions: BTreeMap::new(),
            roots: Roots::new(),
        }
    }
}

impl Auth {
    /// As it was kept: users with their hash and roles, roles with their grants.
    pub(crate) fn from_parts(
        enabled: bool,
        revision: u64,
        users: Vec<(String, Option<Bytes>, Vec<String>)>,
        roles: Vec<(String, Vec<Grant>)>,
    ) -> Self {
        let users = users.into_iter().map(|(name, password, roles)| (name, User { password, roles }));
        let mut auth = Self {
            enabled,
            revision: 0,
            users: users.collect(),
            roles: roles.into_iter().collect(),
            permissions: BTreeMap::new(),
            roots: Roots::new(),
        };
        auth.changed();
        auth.revision = revision.max(1);
        auth
    }

    /// Whether calls are checked.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Grows with each change of users or roles.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Switches it on.
    ///
    /// # Errors
    /// [`AuthError::RootUserMissing`], [`AuthError::RootRoleMissing`].
    pub fn enable(&mut self) -> Result<(), AuthError> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserMissing)?;
        if !root.is_root() {
            return Err(AuthError::RootRoleMissing);
        }
        self.enabled = true;
        Ok(())
    }

    /// Switches it off.
    pub fn disable(&mut self) {
        if self.enabled {
            self.enabled = false;
            self.revision += 1;
        }
    }

    /// Names of all users.
    pub fn users(&self) -> impl Iterator<Item = (&String, &User)> {
        self.users.iter()
    }

    /// A user.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`].
    pub fn user(&self, name: &str) -> Result<&User, AuthError> {
        self.users.get(name).ok_or(AuthError::UserNotFound)
    }

    /// Adds a user; `password` is a bcrypt hash.
    ///
    /// # Errors
    /// [`AuthError::UserEmpty`], [`AuthError::UserExists`].
    pub fn add_user(&mut self, name: &str, password: Option<Bytes>) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(AuthError::UserExists);
        }
        self.users.insert(name.to_owned(), User { password, roles: Vec::new() });
        self.changed();
        Ok(())
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// [`AuthError::InvalidManagement`] for `root` while authentication is on, [`AuthError::UserNotFound`].
    pub fn delete_user(&mut self, name: &str) -> Result<(), AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.users.remove(name).ok_or(AuthError::UserNotFound)?;
        self.changed();
        Ok(())
    }

    /// Changes a password (a bcrypt hash); a user without password stays without.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`].
    pub fn change_password(&mut self, name: &str, password: Bytes) -> Result<(), AuthError> {
        let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
        if user.password.is_some() {
            user.password = Some(password);
        }
        self.changed();
        Ok(())
    }

    /// Gives a user a role; nothing happens if it has it.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`], [`AuthError::RoleNotFound`] (`root` need not exist as a role).
    pub fn grant_role(&mut self, name: &str, role: &str) -> Result<(), AuthError> {
        let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(AuthError::RoleNotFound);
        }
        if let Err(at) = user.roles.binary_search_by(|had| had.as_str().cmp(role)) {
            user.roles.insert(at, role.to_owned());
            self.changed();
        }
        Ok(())
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// [`AuthError::InvalidManagement`] for `root` of `root` while authentication is on,
    /// [`AuthError::UserNotFound`], [`AuthError::RoleNotGranted`].
    pub fn revoke_role(&mut self, name: &str, role: &str) -> Result<(), AuthError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
        let at = user.roles.iter().position(|had| had == role).ok_or(AuthError::RoleNotGranted)?;
        user.roles.remove(at);
        self.changed();
        Ok(())
    }

    /// All roles and what they may do.
    pub fn roles(&self) -> impl Iterator<Item = (&String, &Vec<Grant>)> {
        self.roles.iter()
    }

    /// What a role may do, sorted by key.
    ///
    /// # Errors
    /// [`AuthError::RoleNotFound`].
    pub fn role(&self, name: &str) -> Result<&[Grant], AuthError> {
        self.roles.get(name).map(Vec::as_slice).ok_or(AuthError::RoleNotFound)
    }

    /// Adds a role.
    ///
    /// # Errors
    /// [`AuthError::RoleEmpty`], [`AuthError::RoleExists`].
    pub fn add_role(&mut self, name: &str) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleExists);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.revision += 1;
        Ok(())
    }

    /// Deletes a role, also from the users that have it.
    ///
    /// # Errors
    /// [`AuthError::InvalidManagement`] for `root` while authentication is on, [`AuthError::RoleNotFound`].
    pub fn delete_role(&mut self, name: &str) -> Result<(), AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        for user in self.users.values_mut() {
            user.roles.retain(|role| role != name);
        }
        self.changed();
        Ok(())
    }

    /// Lets a role do something, or changes what it may do with the same range.
    ///
    /// # Errors
    /// [`AuthError::InvalidManagement`] for an empty range, [`AuthError::RoleNotFound`].
    pub fn grant_permission(&mut self, role: &str, grant: Grant) -> Result<(), AuthError> {
        if grant.range.start().is_empty() || grant.range.is_empty() {
            return Err(AuthError::InvalidManagement);
        }
        let grants = self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)?;
        match grants.iter_mut().find(|had| had.range == grant.range) {
            Some(had) => had.access = grant.access,
            None => {
                let at = grants.partition_point(|had| had.range.start() <= grant.range.start());
                grants.insert(at, grant);
            }
        }
        self.changed();
        Ok(())
    }

    /// Takes a permission from a role.
    ///
    /// # Errors
    /// [`AuthError::RoleNotFound`], [`AuthError::PermissionNotGranted`].
    pub fn revoke_permission(&mut self, role: &str, range: &KeyRange) -> Result<(), AuthError> {
        let grants = self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)?;
        let before = grants.len();
        grants.retain(|grant| grant.range != *range);
        if grants.len() == before {
            return Err(AuthError::PermissionNotGranted);
        }
        self.changed();
        Ok(())
    }

    /// Whether `who` may do `access` with all of `range`.
    ///
    /// # Errors
    /// [`AuthError::UserEmpty`], [`AuthError::OldRevision`], [`AuthError::PermissionDenied`].
    pub fn may(&self, who: Option<&Identity>, range: &KeyRange, access: Access) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.ok_or(AuthError::UserEmpty)?;
        if who.revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        let user = self.users.get(&who.user).ok_or(AuthError::PermissionDenied)?;
        if user.is_root() {
            return Ok(());
        }
        let allowed = self.permissions.get(&who.user).is_some_and(|may| may.covers(range, access));
        if allowed { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// Whether `who` may do what only the role `root` may.
    ///
    /// # Errors
    /// [`AuthError::UserEmpty`], [`AuthError::UserNotFound`], [`AuthError::PermissionDenied`].
    pub fn may_administer(&self, who: Option<&Identity>) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.filter(|who| !who.user.is_empty()).ok_or(AuthError::UserEmpty)?;
        if self.user(&who.user)?.is_root() { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// The prefix below which a user lives, whom it is everything; see [`ROOT_ROLE`]. None while calls are not checked.
    pub fn root_of(&self, user: &str) -> Option<&Bytes> {
        self.roots.get(user).filter(|_| self.enabled)
    }

    /// Whether any user lives below a prefix.
    pub(crate) fn has_roots(&self) -> bool {
        self.enabled && !self.roots.is_empty()
    }

    /// The users who live elsewhere than they did by `before`, and where; empty is everywhere.
    pub(crate) fn moved_since(&self, before: &Self) -> Vec<(String, Bytes)> {
        let nowhere = Roots::new();
        let then = if before.enabled { &before.roots } else { &nowhere };
        let now = if self.enabled { &self.roots } else { &nowhere };
        roots::moved(then, now)
    }

    fn changed(&mut self) {
        self.revision += 1;
        self.roots = roots::roots(&self.users);
        self.permissions = self
            .users
            .iter()
            .map(|(name, user)| {
                let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
                (name.clone(), Permissions::merge(roles.flatten()))
            })
            .collect();
    }
}

impl User {
    /// Whether it has the role `root`.
    pub fn is_root(&self) -> bool {
        self.roles.iter().any(|role| role == ROOT)
    }
}

#[cfg(test)]
mod tests;
