//! Random requests, with the differences of the front page left out.

use bytes::Bytes;
use kvstore::proto::{authpb, etcdserverpb as pb};
use proptest::prelude::*;

/// Ids from here on are of leases that end during the test.
pub(crate) const SHORT_LIVED: i64 = 1000;

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(i64),
    Grant(pb::LeaseGrantRequest),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    Watch(pb::WatchCreateRequest),
    UserAdd(String),
    UserDelete(String),
    UserGet(String),
    UserList,
    GrantRole(String, String),
    RevokeRole(String, String),
    RoleAdd(String),
    RoleDelete(String),
    RoleGet(String),
    RoleList,
    GrantPermission(String, Option<authpb::Permission>),
    RevokePermission(String, Bytes, Bytes),
}

fn key() -> impl Strategy<Value = Bytes> + Clone {
    prop_oneof![1 => Just(Bytes::new()), 30 => "[abc]{1,2}".prop_map(Bytes::from)]
}

fn range_end() -> impl Strategy<Value = Bytes> + Clone {
    prop_oneof![
        3 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        3 => "[abcd]{1,2}".prop_map(Bytes::from),
    ]
}

/// Revisions near the newest, which is above the number of requests made; the runner adds it.
fn revision() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![6 => Just(0i64), 3 => -12..0i64, 1 => 1..3i64]
}

fn lease() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![6 => Just(0i64), 3 => 1..5i64]
}

fn range() -> impl Strategy<Value = pb::RangeRequest> + Clone {
    let options = (0..4i64, revision(), 0..4i32, 0..6i32, any::<[bool; 3]>());
    let bounds =
        prop_oneof![3 => Just([0i64; 4]), 1 => prop::array::uniform4(prop_oneof![Just(0), -8..0i64])];
    (key(), range_end(), options, bounds).prop_map(
        |(
            key,
            range_end,
            (limit, revision, order, target, [keys_only, count_only, serializable]),
            bounds,
        )| {
            // Orders and targets that do not exist are asked for too, but rarely.
            let sort_order = if order == 3 && limit != 3 { 0 } else { order };
            let sort_target = if target == 5 && limit != 3 { 0 } else { target };
            pb::RangeRequest {
                key,
                range_end,
                // Which of equal keys a limit keeps is open.
                limit: if sort_target == 0 || sort_order == 3 { limit } else { 0 },
                revision,
                sort_order,
                sort_target,
                serializable,
                keys_only: keys_only && !count_only,
                count_only,
                min_mod_revision: bounds[0],
                max_mod_revision: bounds[1],
                min_create_revision: bounds[2],
                max_create_revision: bounds[3],
            }
        },
    )
}

/// A stream with a target and no order has keys twice in etcd; see the top of `main.rs`.
fn in_order(mut range: pb::RangeRequest) -> pb::RangeRequest {
    if range.sort_order == 0 {
        range.sort_target = 0;
    }
    range
}

fn put() -> impl Strategy<Value = pb::PutRequest> + Clone {
    let flags = prop_oneof![6 => Just([false; 3]), 2 => any::<[bool; 3]>()];
    (key(), "[xyz]{0,2}", lease(), flags).prop_map(
        |(key, value, lease, [prev_kv, ignore_value, ignore_lease])| pb::PutRequest {
            key,
            value: value.into(),
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = pb::DeleteRangeRequest> + Clone {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

/// In a transaction etcd overlooks that a delete without upper bound meets a put; see the top of `main.rs`.
fn bounded(mut delete: pb::DeleteRangeRequest) -> pb::DeleteRangeRequest {
    if delete.range_end[..] == [0] {
        delete.range_end = Bytes::from_static(b"d");
    }
    delete
}

fn compare() -> impl Strategy<Value = pb::Compare> + Clone {
    use pb::compare::TargetUnion;
    let union = prop_oneof![
        (0..3i64).prop_map(TargetUnion::Version),
        (-6..1i64).prop_map(TargetUnion::CreateRevision),
        (-6..1i64).prop_map(TargetUnion::ModRevision),
        "[xyz]{0,2}".prop_map(|value| TargetUnion::Value(value.into())),
        lease().prop_map(TargetUnion::Lease),
    ];
    let end = prop_oneof![4 => Just(Bytes::new()), 1 => range_end()];
    (0..4i32, 0..5i32, key(), prop::option::weighted(0.95, union), end, any::<bool>()).prop_map(
        |(result, target, key, union, range_end, fits)| {
            let fitting = match &union {
                Some(TargetUnion::Version(_)) => 0,
                Some(TargetUnion::CreateRevision(_)) => 1,
                Some(TargetUnion::ModRevision(_)) => 2,
                Some(TargetUnion::Value(_)) => 3,
                Some(TargetUnion::Lease(_)) => 4,
                None => target,
            };
            let target = if fits { fitting } else { target };
            pb::Compare { result, target, key, range_end, target_union: union }
        },
    )
}

fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    use pb::request_op::Request;
    let leaf = prop_oneof![
        range().prop_map(Request::RequestRange),
        put().prop_map(Request::RequestPut),
        put().prop_map(Request::RequestPut),
        delete().prop_map(bounded).prop_map(Request::RequestDeleteRange),
    ];
    let ops = move |inner: BoxedStrategy<pb::RequestOp>| {
        (
            prop::collection::vec(compare(), 0..3),
            prop::collection::vec(inner.clone(), 0..4),
            prop::collection::vec(inner, 0..3),
        )
            .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
    };
    let op = leaf.prop_map(|request| pb::RequestOp { request: Some(request) }).boxed();
    let nested = prop_oneof![
        48 => op.clone(),
        8 => ops(op).prop_map(|txn| pb::RequestOp { request: Some(Request::RequestTxn(txn)) }),
        1 => Just(pb::RequestOp { request: None }),
    ];
    ops(nested.boxed())
}

fn name() -> impl Strategy<Value = String> + Clone {
    prop_oneof![1 => Just(String::new()), 12 => "[uv]".prop_map(String::from), 3 => Just("root".to_owned())]
}

fn permission() -> impl Strategy<Value = Option<authpb::Permission>> {
    let some = (0..3i32, granted()).prop_map(|(perm_type, (key, range_end))| authpb::Permission {
        perm_type,
        key,
        range_end,
    });
    prop::option::weighted(0.95, some)
}

/// Ranges of permissions: one per start, see the top of `main.rs`; and some that end before they begin.
fn granted() -> impl Strategy<Value = (Bytes, Bytes)> {
    (key(), prop::bool::weighted(0.1)).prop_map(|(key, inverted)| {
        let end: &'static [u8] = match &key[..] {
            _ if inverted => b"A",
            b"c" => b"\0",
            [_] => b"d",
            _ => b"",
        };
        (key, Bytes::from_static(end))
    })
}

fn watch() -> impl Strategy<Value = pb::WatchCreateRequest> {
    let filters = prop::collection::vec(0..2i32, 0..2);
    (
        key(),
        range_end(),
        prop_oneof![4 => -20..0i64, 1 => Just(0), 1 => Just(i64::MIN)],
        filters,
        any::<[bool; 2]>(),
        0..3i64,
    )
        .prop_map(|(key, range_end, start_revision, filters, [prev_kv, fragment], watch_id)| {
            pb::WatchCreateRequest {
                key,
                range_end,
                start_revision,
                progress_notify: false,
                filters,
                prev_kv,
                watch_id,
                fragment,
            }
        })
}

pub(crate) fn keys_and_leases() -> BoxedStrategy<Ask> {
    let time_to_live =
        (1..6i64, any::<bool>()).prop_map(|(id, keys)| pb::LeaseTimeToLiveRequest { id, keys });
    // Leases that end meanwhile would end at two moments, so short ones have an id that nothing else asks for.
    let grant = prop_oneof![
        3 => (1..5i64, 10_000..20_000i64),
        1 => (1..5i64, Just(i64::MAX)),
        1 => (Just(SHORT_LIVED), -1..2i64),
    ];
    prop_oneof![
        8 => range().prop_map(Ask::Range),
        3 => range().prop_map(in_order).prop_map(Ask::RangeStream),
        10 => put().prop_map(Ask::Put),
        3 => delete().prop_map(Ask::Delete),
        8 => txn().prop_map(Ask::Txn),
        1 => (-12..2i64).prop_map(Ask::Compact),
        2 => grant.prop_map(|(id, ttl)| Ask::Grant(pb::LeaseGrantRequest { ttl, id })),
        1 => (1..6i64).prop_map(Ask::Revoke),
        1 => (1..6i64).prop_map(Ask::KeepAlive),
        1 => time_to_live.prop_map(Ask::TimeToLive),
        1 => Just(Ask::Leases),
        2 => watch().prop_map(Ask::Watch),
    ]
    .boxed()
}

pub(crate) fn users_and_roles() -> BoxedStrategy<Ask> {
    prop_oneof![
        4 => name().prop_map(Ask::UserAdd),
        1 => name().prop_map(Ask::UserDelete),
        1 => name().prop_map(Ask::UserGet),
        1 => Just(Ask::UserList),
        5 => (name(), name()).prop_map(|(user, role)| Ask::GrantRole(user, role)),
        1 => (name(), name()).prop_map(|(user, role)| Ask::RevokeRole(user, role)),
        3 => name().prop_map(Ask::RoleAdd),
        1 => name().prop_map(Ask::RoleDelete),
        1 => name().prop_map(Ask::RoleGet),
        1 => Just(Ask::RoleList),
        6 => (name(), permission()).prop_map(|(role, permission)| Ask::GrantPermission(role, permission)),
        1 => (name(), granted()).prop_map(|(role, (key, end))| Ask::RevokePermission(role, key, end)),
    ]
    .boxed()
}

/// Negative revisions are counted back from the newest.
pub(crate) fn settle(ask: &mut Ask, newest: i64) {
    let at = |revision: &mut i64| {
        if *revision < 0 && *revision > i64::MIN {
            *revision = (newest + *revision + 1).max(1);
        } else if *revision > 0 {
            *revision += newest;
        }
    };
    let back = |revision: &mut i64| {
        if *revision < 0 {
            *revision = (newest + *revision + 1).max(1);
        }
    };
    fn in_range(range: &mut pb::RangeRequest, at: impl Fn(&mut i64), back: impl Fn(&mut i64)) {
        at(&mut range.revision);
        back(&mut range.min_mod_revision);
        back(&mut range.max_mod_revision);
        back(&mut range.min_create_revision);
        back(&mut range.max_create_revision);
    }
    fn in_txn(txn: &mut pb::TxnRequest, at: &impl Fn(&mut i64), back: &impl Fn(&mut i64)) {
        for compare in &mut txn.compare {
            use pb::compare::TargetUnion::{CreateRevision, ModRevision};
            if let Some(CreateRevision(revision) | ModRevision(revision)) = &mut compare.target_union {
                back(revision);
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(pb::request_op::Request::RequestRange(range)) => in_range(range, at, back),
                Some(pb::request_op::Request::RequestTxn(txn)) => in_txn(txn, at, back),
                _ => {}
            }
        }
    }
    match ask {
        Ask::Range(range) | Ask::RangeStream(range) => in_range(range, at, back),
        Ask::Txn(txn) => in_txn(txn, &at, &back),
        Ask::Compact(revision) => at(revision),
        Ask::Watch(watch) => at(&mut watch.start_revision),
        _ => {}
    }
}

/// Turns ranges that end before they begin into single keys.
pub(crate) fn upright(ask: &mut Ask) {
    fn one(key: &Bytes, range_end: &mut Bytes) {
        if range_end[..] != [0] && *range_end <= key {
            range_end.clear();
        }
    }
    fn in_txn(txn: &mut pb::TxnRequest) {
        use pb::request_op::Request;
        txn.compare.iter_mut().for_each(|compare| one(&compare.key, &mut compare.range_end));
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => one(&range.key, &mut range.range_end),
                Some(Request::RequestDeleteRange(delete)) => one(&delete.key, &mut delete.range_end),
                Some(Request::RequestTxn(nested)) => in_txn(nested),
                Some(Request::RequestPut(_)) | None => {}
            }
        }
    }
    match ask {
        Ask::Range(range) | Ask::RangeStream(range) => one(&range.key, &mut range.range_end),
        Ask::Delete(delete) => one(&delete.key, &mut delete.range_end),
        Ask::Watch(watch) => one(&watch.key, &mut watch.range_end),
        Ask::Txn(txn) => in_txn(txn),
        _ => {}
    }
}
