//! What the bytes of a sequence mean. A small alphabet, so that keys, leases and roles meet.

use bytes::Bytes;
use tonic::{Status, transport::Channel};

use super::wire::unary;
use crate::proto::{authpb, etcdserverpb as pb};

/// Bytes of a step.
pub(super) const BYTES: usize = 4;
/// Who calls, by the name in the certificate; the last one is nobody's user at first.
pub(super) const CALLERS: [&str; 3] = ["root", "u", "v"];
const KEYS: [&[u8]; 8] = [b"a", b"a\0", b"aa", b"b", b"ba", b"c", b"cc", b""];
const ENDS: [&[u8]; 8] = [b"", b"\0", b"a\0", b"aa", b"b", b"c", b"cc", b"d"];
const ROLES: [&str; 4] = ["r", "s", "root", "none"];
const KINDS: u8 = 24;

/// One call.
pub(super) struct Step {
    pub(super) caller: usize,
    pub(super) ask: Ask,
}

pub(super) enum Ask {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    KeepAlive(pb::LeaseKeepAliveRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    /// Seconds pass.
    Wait(u8),
    Watch(pb::WatchCreateRequest),
    CancelWatch(i64),
    /// Wait for all events.
    Settle,
    Users(Change),
}

/// A change of users, or a look at them.
pub(super) enum Change {
    Enable,
    Disable,
    UserAdd(&'static str),
    UserDelete(&'static str),
    GrantRole(&'static str, &'static str),
    RevokeRole(&'static str, &'static str),
    RoleAdd(&'static str),
    RoleDelete(&'static str),
    GrantPermission(&'static str, authpb::Permission),
    RevokePermission(&'static str, Bytes, Bytes),
    UserGet(&'static str),
    RoleGet(&'static str),
}

impl Step {
    /// What, by whom; and three bytes of arguments. `now` is the revision from which others are counted back.
    pub(super) fn read([what, a, b, c]: [u8; BYTES], now: i64) -> Self {
        let caller = usize::from(what / KINDS) % CALLERS.len();
        Self { caller, ask: ask(what % KINDS, [a, b, c], now) }
    }
}

fn key(byte: u8) -> Bytes {
    Bytes::from_static(KEYS[usize::from(byte & 7)])
}

/// The end of a range is in the upper bits of the byte that its key is in.
fn end(byte: u8) -> Bytes {
    Bytes::from_static(ENDS[usize::from(byte >> 3 & 7)])
}

fn put([a, b, c]: [u8; 3]) -> pb::PutRequest {
    pb::PutRequest {
        key: key(a),
        value: Bytes::copy_from_slice(&[b'0' + (b & 7)]),
        lease: i64::from(b >> 3 & 3),
        prev_kv: c & 1 != 0,
        ignore_value: c & 14 == 2,
        ignore_lease: c & 14 == 4,
    }
}

fn delete(byte: u8) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key(byte), range_end: end(byte), prev_kv: false }
}

fn range([a, b, c]: [u8; 3], now: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key(a),
        range_end: end(a),
        limit: i64::from(b & 3),
        revision: if b & 12 == 0 { 0 } else { now - i64::from(b >> 2 & 3) + 1 },
        sort_order: i32::from(c & 3) % 3,
        sort_target: i32::from(c >> 2 & 7) % 5,
        keys_only: c & 0x40 != 0,
        count_only: c & 0x80 != 0,
        ..pb::RangeRequest::default()
    }
}

fn txn(arguments: [u8; 3]) -> pb::TxnRequest {
    use pb::request_op::Request;
    let [a, b, c] = arguments;
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        result: 0,
        target: 0,
        key: key(b),
        target_union: Some(pb::compare::TargetUnion::Version(i64::from(c & 1))),
        range_end: Bytes::new(),
    };
    let first = op(Request::RequestPut(put(arguments)));
    let second = match c & 6 {
        0 => op(Request::RequestDeleteRange(delete(b))),
        2 => op(Request::RequestRange(range([b, 0, c], 0))),
        4 => {
            let inner = op(Request::RequestPut(put([a.wrapping_add(2), b, 0])));
            op(Request::RequestTxn(pb::TxnRequest { success: vec![inner], ..pb::TxnRequest::default() }))
        }
        _ => op(Request::RequestPut(put([a.wrapping_add(1), b, 0]))),
    };
    pb::TxnRequest { compare: vec![compare], success: vec![first, second.clone()], failure: vec![second] }
}

fn watch([a, b, c]: [u8; 3], now: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key(a),
        range_end: end(a),
        start_revision: if b & 7 == 0 { 0 } else { now + 2 - i64::from(b & 7) },
        filters: [(0x08, 0), (0x10, 1)]
            .into_iter()
            .filter(|(bit, _)| b & bit != 0)
            .map(|(_, kind)| kind)
            .collect(),
        prev_kv: b & 0x20 != 0,
        fragment: b & 0x40 != 0,
        progress_notify: b & 0x80 != 0,
        watch_id: i64::from(c & 3),
    }
}

fn ask(kind: u8, arguments: [u8; 3], now: i64) -> Ask {
    let [a, b, c] = arguments;
    let id = i64::from(a & 3);
    let (user, role) = (CALLERS[usize::from(a) % 3], ROLES[usize::from(b & 3)]);
    match kind {
        0 | 1 => Ask::Put(put(arguments)),
        2 => Ask::Range(range(arguments, now)),
        3 => Ask::Delete(delete(a)),
        4 => Ask::Txn(txn(arguments)),
        5 => {
            Ask::Compact(pb::CompactionRequest { revision: now + 1 - i64::from(b & 7), physical: c & 1 != 0 })
        }
        6 => Ask::Grant(pb::LeaseGrantRequest { id, ttl: i64::from(b) }),
        7 => Ask::Revoke(pb::LeaseRevokeRequest { id }),
        8 => Ask::KeepAlive(pb::LeaseKeepAliveRequest { id }),
        9 => Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: b & 1 != 0 }),
        10 => Ask::Leases,
        11 => Ask::Wait(a),
        12 | 13 => Ask::Watch(watch(arguments, now)),
        14 => Ask::CancelWatch(id),
        15 => Ask::Settle,
        16 => Ask::Users(if a & 1 == 0 { Change::Enable } else { Change::Disable }),
        17 => Ask::Users(if c & 1 == 0 { Change::UserAdd(user) } else { Change::UserDelete(user) }),
        18 => Ask::Users(if c & 3 != 3 {
            Change::GrantRole(user, role)
        } else {
            Change::RevokeRole(user, role)
        }),
        19 => Ask::Users(if c & 3 != 3 { Change::RoleAdd(role) } else { Change::RoleDelete(role) }),
        20 | 21 => {
            let permission =
                authpb::Permission { perm_type: i32::from(c & 3), key: key(a), range_end: end(a) };
            Ask::Users(Change::GrantPermission(role, permission))
        }
        22 => Ask::Users(Change::RevokePermission(role, key(a), end(a))),
        _ => Ask::Users(if c & 1 == 0 { Change::UserGet(user) } else { Change::RoleGet(role) }),
    }
}

/// Calls the service for users.
pub(super) async fn change(channel: &Channel, change: Change) -> Result<(), Status> {
    let text = str::to_owned;
    // None of the answers has more than a header that is looked at.
    macro_rules! call {
        ($method:literal, $request:expr) => {
            unary::<_, pb::AuthEnableResponse>(channel, concat!("/etcdserverpb.Auth/", $method), $request)
                .await
        };
    }
    let answer = match change {
        Change::Enable => call!("AuthEnable", pb::AuthEnableRequest {}),
        Change::Disable => call!("AuthDisable", pb::AuthDisableRequest {}),
        Change::UserAdd(name) => {
            let options = Some(authpb::UserAddOptions { no_password: true });
            call!("UserAdd", pb::AuthUserAddRequest { name: text(name), options, ..Default::default() })
        }
        Change::UserDelete(name) => call!("UserDelete", pb::AuthUserDeleteRequest { name: text(name) }),
        Change::GrantRole(user, role) => {
            call!("UserGrantRole", pb::AuthUserGrantRoleRequest { user: text(user), role: text(role) })
        }
        Change::RevokeRole(name, role) => {
            call!("UserRevokeRole", pb::AuthUserRevokeRoleRequest { name: text(name), role: text(role) })
        }
        Change::RoleAdd(name) => call!("RoleAdd", pb::AuthRoleAddRequest { name: text(name) }),
        Change::RoleDelete(role) => call!("RoleDelete", pb::AuthRoleDeleteRequest { role: text(role) }),
        Change::GrantPermission(role, permission) => {
            let request = pb::AuthRoleGrantPermissionRequest { name: text(role), perm: Some(permission) };
            call!("RoleGrantPermission", request)
        }
        Change::RevokePermission(role, key, range_end) => {
            let request = pb::AuthRoleRevokePermissionRequest { role: text(role), key, range_end };
            call!("RoleRevokePermission", request)
        }
        Change::UserGet(name) => call!("UserGet", pb::AuthUserGetRequest { name: text(name) }),
        Change::RoleGet(role) => call!("RoleGet", pb::AuthRoleGetRequest { role: text(role) }),
    };
    answer.map(drop)
}
