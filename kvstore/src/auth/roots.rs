//! Who sees only a part of the key space, as the whole of it. Pure.
//!
//! A user who has the role `root=<prefix>` lives below that prefix: the server puts it before every key that the user
//! names and takes it from every key that the user is shown. What may be read below it is decided by permissions as for
//! everyone, so that on a store that knows no roots (a real etcd) the user still reads nothing else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::User;

/// What the name of a role begins with that gives its users a root: the rest is the prefix they live below.
pub const ROOT_ROLE: &str = "root=";

/// Where the store notes for each user since when its root is what it is: the revision of this key, whose value is the
/// root. What was read before that revision is of another view.
pub const ROOT_NOTES: &str = "isthmus/root/";

/// The roots of users; the others see everything there is.
pub(super) type Roots = BTreeMap<String, Bytes>;

/// The role that has its users live below `prefix`.
pub fn root_role(prefix: &str) -> String {
    format!("{ROOT_ROLE}{prefix}")
}

/// Of several the first by name counts; an administrator lives everywhere.
pub(super) fn roots(users: &BTreeMap<String, User>) -> Roots {
    let root = |user: &User| {
        let prefix = user.roles.iter().find_map(|role| role.strip_prefix(ROOT_ROLE))?;
        (!user.is_root() && !prefix.is_empty()).then(|| Bytes::copy_from_slice(prefix.as_bytes()))
    };
    users.iter().filter_map(|(name, user)| Some((name.clone(), root(user)?))).collect()
}

/// The users whose root is another than before, and what it is now; empty is none.
pub(super) fn moved(before: &Roots, now: &Roots) -> Vec<(String, Bytes)> {
    let users: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let changed = users.into_iter().filter(|user| before.get(*user) != now.get(*user));
    changed.map(|user| (user.clone(), now.get(user).cloned().unwrap_or_default())).collect()
}
