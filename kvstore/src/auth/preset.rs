//! The users and roles that Cilium's `etcdinit` sets up. Pure.

use super::{Access, Auth, AuthError, Grant, ROOT};
use crate::range::KeyRange;

/// The role of peers: what a cluster exports.
pub const REMOTE: &str = "remote";
/// The role of this cluster's agents: what is mirrored from others.
pub const LOCAL: &str = "local";

impl Auth {
    /// The store of cluster `name`: `root` and `admin-<name>` may do everything, `local-<name>` reads what is
    /// cached, `remote` reads what the cluster exports; all by certificate. Switched on.
    ///
    /// # Panics
    /// Never: what is set up does not clash.
    #[must_use]
    pub fn of_cluster(name: &str) -> Self {
        set_up(name).expect("these users and roles are distinct and complete")
    }
}

fn set_up(name: &str) -> Result<Auth, AuthError> {
    let mut auth = Auth::default();
    let read = |role: &str, range: KeyRange, auth: &mut Auth| {
        auth.grant_permission(role, Grant { range, access: Access::Read })
    };
    let suffixed = |user: &str| if name.is_empty() { user.to_owned() } else { format!("{user}-{name}") };

    auth.add_user(ROOT, None)?;
    auth.grant_role(ROOT, ROOT)?;
    let admin = suffixed("admin");
    auth.add_user(&admin, None)?;
    auth.grant_role(&admin, ROOT)?;

    auth.add_role(LOCAL)?;
    // The heartbeat has no trailing slash in what clients ask for, so it has none here.
    for prefix in ["cilium/.heartbeat", "cilium/cache/", "cilium/cluster-config/", "cilium/synced/"] {
        read(LOCAL, KeyRange::prefix(prefix), &mut auth)?;
    }
    let local = suffixed("local");
    auth.add_user(&local, None)?;
    auth.grant_role(&local, LOCAL)?;

    auth.add_role(REMOTE)?;
    read(REMOTE, KeyRange::prefix("cilium/.heartbeat"), &mut auth)?;
    read(REMOTE, KeyRange::prefix("cilium/state/"), &mut auth)?;
    read(REMOTE, KeyRange::key(format!("cilium/cluster-config/{name}")), &mut auth)?;
    read(REMOTE, KeyRange::prefix(format!("cilium/synced/{name}/")), &mut auth)?;
    auth.add_user(REMOTE, None)?;
    auth.grant_role(REMOTE, REMOTE)?;

    auth.enable()?;
    Ok(auth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Identity;

    #[test]
    fn the_users_of_etcdinit_may_do_what_they_do_there() {
        let auth = Auth::of_cluster("here");
        let names: Vec<&String> = auth.users().map(|(name, _)| name).collect();
        assert_eq!(names, ["admin-here", "local-here", "remote", "root"]);
        let may = |user: &str, range: &KeyRange, access| {
            let who = Identity { user: user.to_owned(), revision: auth.revision() };
            auth.may(Some(&who), range, access).is_ok()
        };
        for (prefix, local, remote) in [
            ("cilium/.heartbeat", true, true),
            ("cilium/state/nodes/v1/here/", false, true),
            ("cilium/cache/nodes/v1/there/", true, false),
            ("cilium/cluster-config/", true, false),
            ("cilium/synced/here/", true, true),
            ("cilium/synced/there/", true, false),
            ("cilium/", false, false),
        ] {
            let range = KeyRange::prefix(prefix);
            assert_eq!(may("local-here", &range, Access::Read), local, "local {prefix}");
            assert_eq!(may("remote", &range, Access::Read), remote, "remote {prefix}");
            assert!(may("admin-here", &range, Access::ReadWrite), "admin {prefix}");
            for user in ["local-here", "remote"] {
                assert!(!may(user, &range, Access::Write), "{user} {prefix}");
            }
        }
        assert!(may("remote", &KeyRange::key("cilium/cluster-config/here"), Access::Read));
        assert!(!may("remote", &KeyRange::key("cilium/cluster-config/there"), Access::Read));
    }

    #[test]
    fn without_a_name_users_have_no_suffix() {
        let auth = Auth::of_cluster("");
        let names: Vec<&String> = auth.users().map(|(name, _)| name).collect();
        assert_eq!(names, ["admin", "local", "remote", "root"]);
    }
}
