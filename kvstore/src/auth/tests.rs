use super::*;

fn who(auth: &Auth, user: &str) -> Option<Identity> {
    Some(Identity { user: user.to_owned(), revision: auth.revision() })
}

fn grant(start: &'static str, end: &'static str, access: Access) -> Grant {
    Grant { range: KeyRange::from_wire(Bytes::from(start), Bytes::from(end)), access }
}

fn cilium() -> Auth {
    let mut auth = Auth::default();
    auth.add_user(ROOT, None).unwrap();
    auth.grant_role(ROOT, ROOT).unwrap();
    auth.add_role("remote").unwrap();
    for (start, end) in [
        ("cilium/.heartbeat", "cilium/.heartbeau"),
        ("cilium/state/", "cilium/state0"),
        ("cilium/cluster-config/here", ""),
        ("cilium/synced/here/", "cilium/synced/here0"),
    ] {
        auth.grant_permission("remote", grant(start, end, Access::Read)).unwrap();
    }
    auth.add_user("remote", None).unwrap();
    auth.grant_role("remote", "remote").unwrap();
    auth.enable().unwrap();
    auth
}

#[test]
fn the_remote_role_of_cilium_reads_what_it_needs_and_nothing_else() {
    let auth = cilium();
    for (start, end, allowed) in [
        ("cilium/.heartbeat", "cilium/.heartbeau", true),
        ("cilium/state/nodes/v1/", "cilium/state/nodes/v10", true),
        ("cilium/cluster-config/here", "", true),
        ("cilium/synced/here/", "cilium/synced/here0", true),
        ("cilium/cluster-config/", "cilium/cluster-config0", false),
        ("cilium/cache/", "cilium/cache0", false),
        ("cilium/state/", "cilium/state1", false),
        ("cilium/", "\0", false),
    ] {
        let range = KeyRange::from_wire(Bytes::from(start), Bytes::from(end));
        assert_eq!(auth.may(who(&auth, "remote").as_ref(), &range, Access::Read).is_ok(), allowed, "{start}");
        assert_eq!(
            auth.may(who(&auth, "remote").as_ref(), &range, Access::Write),
            Err(AuthError::PermissionDenied)
        );
        assert_eq!(auth.may(who(&auth, ROOT).as_ref(), &range, Access::ReadWrite), Ok(()));
    }
}

#[test]
fn strangers_nobody_and_old_tokens_are_told_apart() {
    let mut auth = cilium();
    let key = KeyRange::key(&b"cilium/.heartbeat"[..]);
    assert_eq!(auth.may(None, &key, Access::Read), Err(AuthError::UserEmpty));
    assert_eq!(auth.may(who(&auth, "x").as_ref(), &key, Access::Read), Err(AuthError::PermissionDenied));
    let old = who(&auth, "remote");
    auth.add_user("another", None).unwrap();
    assert_eq!(auth.may(old.as_ref(), &key, Access::Read), Err(AuthError::OldRevision));
    assert_eq!(auth.may_administer(None), Err(AuthError::UserEmpty));
    assert_eq!(auth.may_administer(who(&auth, "x").as_ref()), Err(AuthError::UserNotFound));
    assert_eq!(auth.may_administer(who(&auth, "remote").as_ref()), Err(AuthError::PermissionDenied));
    assert_eq!(auth.may_administer(who(&auth, ROOT).as_ref()), Ok(()));
}

#[test]
fn ranges_that_touch_are_one() {
    let mut auth = cilium();
    auth.add_role("r").unwrap();
    auth.add_user("u", None).unwrap();
    auth.grant_role("u", "r").unwrap();
    for (start, end) in [("a", "c"), ("c", "e"), ("x", "\0")] {
        auth.grant_permission("r", grant(start, end, Access::ReadWrite)).unwrap();
    }
    let may = |start: &'static str, end: &'static str| {
        auth.may(who(&auth, "u").as_ref(), &KeyRange::between(start, end), Access::ReadWrite).is_ok()
    };
    assert!(may("b", "d"));
    assert!(!may("b", "f"));
    assert!(auth.may(who(&auth, "u").as_ref(), &KeyRange::from("y"), Access::Write).is_ok());
    assert!(auth.may(who(&auth, "u").as_ref(), &KeyRange::from("d"), Access::Write).is_err());
}

#[test]
fn root_cannot_lock_itself_out() {
    let mut auth = Auth::default();
    assert_eq!(auth.enable(), Err(AuthError::RootUserMissing));
    auth.add_user(ROOT, None).unwrap();
    assert_eq!(auth.enable(), Err(AuthError::RootRoleMissing));
    auth.grant_role(ROOT, ROOT).unwrap();
    auth.enable().unwrap();
    assert_eq!(auth.delete_user(ROOT), Err(AuthError::InvalidManagement));
    assert_eq!(auth.revoke_role(ROOT, ROOT), Err(AuthError::InvalidManagement));
    assert_eq!(auth.delete_role(ROOT), Err(AuthError::InvalidManagement));
}

#[test]
fn what_is_missing_or_there_already_is_named() {
    let mut auth = cilium();
    assert_eq!(auth.add_user("", None), Err(AuthError::UserEmpty));
    assert_eq!(auth.add_user("remote", None), Err(AuthError::UserExists));
    assert_eq!(auth.delete_user("x"), Err(AuthError::UserNotFound));
    assert_eq!(auth.grant_role("x", "remote"), Err(AuthError::UserNotFound));
    assert_eq!(auth.grant_role("remote", "x"), Err(AuthError::RoleNotFound));
    assert_eq!(auth.revoke_role("remote", "x"), Err(AuthError::RoleNotGranted));
    assert_eq!(auth.add_role(""), Err(AuthError::RoleEmpty));
    assert_eq!(auth.add_role("remote"), Err(AuthError::RoleExists));
    assert_eq!(auth.delete_role("x"), Err(AuthError::RoleNotFound));
    assert_eq!(
        auth.grant_permission("remote", grant("b", "a", Access::Read)),
        Err(AuthError::InvalidManagement)
    );
    assert_eq!(auth.revoke_permission("remote", &KeyRange::key("x")), Err(AuthError::PermissionNotGranted));
    let revision = auth.revision();
    auth.grant_role("remote", "remote").unwrap();
    assert_eq!(auth.revision(), revision, "granting what is granted changes nothing");
    auth.delete_role("remote").unwrap();
    assert!(auth.user("remote").unwrap().roles.is_empty());
}
