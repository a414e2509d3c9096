//! The same random requests to our server and to a real etcd: every answer, header, error and event must be equal.
//!
//! Both start empty and see the same requests in the same order, so even their revisions are equal throughout.
//!
//! Differences on purpose, evened out in `normal`:
//! - cluster and member ids are random in both;
//! - the order of keys that are equal in what they are sorted by is left open by etcd (its sort is not stable);
//! - `LeaseLeases` has an order by time in etcd and by id in ours;
//! - how events are cut into responses (both keep revisions whole and in order);
//! - a transaction that deletes everything from a key on and puts such a key is refused by ours as every overlap
//!   is; etcd takes its unbounded range for an empty one and lets it pass;
//! - a range that ends before it begins holds no key; whether a user with some permissions may ask for it depends
//!   in etcd on the shape of a tree, in ours on its first key;
//! - of several permissions of a role with one start etcd compares only one with a new grant, and which one is open
//!   (its sort is not stable), so the same range can be there twice; ours compares all;
//! - a watch that is cancelled because its start is compacted says revision 0 in etcd's header; what ours says is
//!   compared too, but events that etcd still had in memory are not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "most requests have nothing that needs settling")]

#[path = "battery/battery.rs"]
mod battery;

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use battery::{
    bed::{self, Pki},
    raw::{AuthClient, KvClient, LeaseClient, WatchClient},
    within,
};
use bytes::Bytes;
use kvstore::proto::{authpb, etcdserverpb as pb, mvccpb};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Ids from here on are of leases that end during the test.
const SHORT_LIVED: i64 = 1000;

/// Requests per run; more find more.
fn requests() -> usize {
    std::env::var("ISTHMUS_DIFFERENTIAL_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

fn connect(pki: &Pki, endpoint: &str, user: &str) -> Channel {
    let read = |name: String| std::fs::read(pki.path(&name)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt".into())))
        .identity(Identity::from_pem(read(format!("{user}.crt")), read(format!("{user}.key"))))
        .domain_name("localhost");
    Endpoint::from_shared(endpoint.to_owned()).unwrap().tls_config(tls).unwrap().connect_lazy()
}

#[derive(Clone, Debug)]
enum Ask {
    Range(pb::RangeRequest),
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

/// In a transaction etcd overlooks that a delete without upper bound meets a put; see the top of this file.
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
        6 => op.clone(),
        1 => ops(op).prop_map(|txn| pb::RequestOp { request: Some(Request::RequestTxn(txn)) }),
        1 => Just(pb::RequestOp { request: None }).prop_filter("rare", |_| rand::random_ratio(1, 8)),
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

/// Ranges of permissions: one per start, see the top of this file; and some that end before they begin.
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

fn keys_and_leases() -> BoxedStrategy<Ask> {
    let time_to_live =
        (1..6i64, any::<bool>()).prop_map(|(id, keys)| pb::LeaseTimeToLiveRequest { id, keys });
    // Leases that end meanwhile would end at two moments, so short ones have an id that nothing else asks for.
    let grant = prop_oneof![
        3 => (1..5i64, 100..200i64),
        1 => (1..5i64, Just(i64::MAX)),
        1 => (Just(SHORT_LIVED), -1..2i64),
    ];
    prop_oneof![
        8 => range().prop_map(Ask::Range),
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

fn users_and_roles() -> BoxedStrategy<Ask> {
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
fn settle(ask: &mut Ask, newest: i64) {
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
        Ask::Range(range) => in_range(range, at, back),
        Ask::Txn(txn) => in_txn(txn, &at, &back),
        Ask::Compact(revision) => at(revision),
        Ask::Watch(watch) => at(&mut watch.start_revision),
        _ => {}
    }
}

/// Turns ranges that end before they begin into single keys.
fn upright(ask: &mut Ask) {
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
        Ask::Range(range) => one(&range.key, &mut range.range_end),
        Ask::Delete(delete) => one(&delete.key, &mut delete.range_end),
        Ask::Watch(watch) => one(&watch.key, &mut watch.range_end),
        Ask::Txn(txn) => in_txn(txn),
        _ => {}
    }
}

/// Headers without ids, and what is left open evened out.
mod normal {
    use super::*;

    pub(super) fn header(header: &mut Option<pb::ResponseHeader>) {
        if let Some(header) = header {
            (header.cluster_id, header.member_id) =
                (u64::from(header.cluster_id != 0), u64::from(header.member_id != 0));
        }
    }

    pub(super) fn range(ask: &pb::RangeRequest, answer: &mut pb::RangeResponse) {
        header(&mut answer.header);
        if ask.sort_target != 0 {
            let by = |kv: &mvccpb::KeyValue| match ask.sort_target {
                1 => (kv.version, Bytes::new()),
                2 => (kv.create_revision, Bytes::new()),
                3 => (kv.mod_revision, Bytes::new()),
                _ => (0, kv.value.clone()),
            };
            // Values that are left out cannot be checked.
            if !(ask.keys_only && ask.sort_target == 4) {
                let sorted = if ask.sort_order == 2 {
                    answer.kvs.is_sorted_by(|a, b| by(a) >= by(b))
                } else {
                    answer.kvs.is_sorted_by(|a, b| by(a) <= by(b))
                };
                assert!(sorted, "{ask:?} {answer:?}");
            }
            answer.kvs.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }

    pub(super) fn txn(ask: &pb::TxnRequest, answer: &mut pb::TxnResponse) {
        header(&mut answer.header);
        let asked = if answer.succeeded { &ask.success } else { &ask.failure };
        for (ask, answer) in asked.iter().zip(&mut answer.responses) {
            match (&ask.request, &mut answer.response) {
                (
                    Some(pb::request_op::Request::RequestRange(ask)),
                    Some(pb::response_op::Response::ResponseRange(answer)),
                ) => {
                    range(ask, answer);
                }
                (
                    Some(pb::request_op::Request::RequestTxn(ask)),
                    Some(pb::response_op::Response::ResponseTxn(answer)),
                ) => {
                    txn(ask, answer);
                }
                _ => {}
            }
        }
    }
}

fn show<T: Debug>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

macro_rules! unary {
    ($client:ident, $channel:expr, $method:ident, $request:expr) => {
        $client::new($channel.clone()).$method($request).await.map(|answer| {
            let mut answer = answer.into_inner();
            normal::header(&mut answer.header);
            answer
        })
    };
}

/// One request to one server, and its answer as text that can be compared.
async fn ask(channel: &Channel, ask: &Ask) -> String {
    match ask.clone() {
        Ask::Range(request) => show(unary!(KvClient, channel, range, request.clone()).map(|mut answer| {
            normal::range(&request, &mut answer);
            answer
        })),
        Ask::Put(request) => show(unary!(KvClient, channel, put, request)),
        Ask::Delete(request) => show(unary!(KvClient, channel, delete_range, request)),
        Ask::Txn(request) => show(unary!(KvClient, channel, txn, request.clone()).map(|mut answer| {
            normal::txn(&request, &mut answer);
            answer
        })),
        Ask::Compact(revision) => {
            show(unary!(KvClient, channel, compact, pb::CompactionRequest { revision, physical: true }))
        }
        Ask::Grant(request) => show(unary!(LeaseClient, channel, lease_grant, request)),
        Ask::Revoke(id) => show(unary!(LeaseClient, channel, lease_revoke, pb::LeaseRevokeRequest { id })),
        Ask::KeepAlive(id) => {
            let requests = futures::stream::iter([pb::LeaseKeepAliveRequest { id }]);
            let answer = match LeaseClient::new(channel.clone()).lease_keep_alive(requests).await {
                Ok(answers) => answers.into_inner().message().await,
                Err(status) => Err(status),
            };
            show(answer.map(|answer| {
                answer.map(|mut answer| {
                    normal::header(&mut answer.header);
                    answer
                })
            }))
        }
        Ask::TimeToLive(request) => {
            show(unary!(LeaseClient, channel, lease_time_to_live, request).map(|mut answer| {
                // What remains depends on when it is asked.
                if answer.ttl > 0 {
                    assert!(answer.ttl <= answer.granted_ttl && answer.ttl + 30 > answer.granted_ttl);
                    answer.ttl = answer.granted_ttl;
                }
                answer.keys.sort();
                answer
            }))
        }
        Ask::Leases => {
            show(unary!(LeaseClient, channel, lease_leases, pb::LeaseLeasesRequest {}).map(|mut answer| {
                answer.leases.retain(|lease| lease.id < SHORT_LIVED);
                answer.leases.sort_by_key(|lease| lease.id);
                answer
            }))
        }
        Ask::Watch(create) => watched(channel, create).await,
        Ask::UserAdd(name) => {
            let options = Some(authpb::UserAddOptions { no_password: true });
            let request = pb::AuthUserAddRequest { name, options, ..pb::AuthUserAddRequest::default() };
            show(unary!(AuthClient, channel, user_add, request))
        }
        Ask::UserDelete(name) => {
            show(unary!(AuthClient, channel, user_delete, pb::AuthUserDeleteRequest { name }))
        }
        Ask::UserGet(name) => show(unary!(AuthClient, channel, user_get, pb::AuthUserGetRequest { name })),
        Ask::UserList => show(unary!(AuthClient, channel, user_list, pb::AuthUserListRequest {})),
        Ask::GrantRole(user, role) => {
            show(unary!(AuthClient, channel, user_grant_role, pb::AuthUserGrantRoleRequest { user, role }))
        }
        Ask::RevokeRole(name, role) => {
            show(unary!(AuthClient, channel, user_revoke_role, pb::AuthUserRevokeRoleRequest { name, role }))
        }
        Ask::RoleAdd(name) => show(unary!(AuthClient, channel, role_add, pb::AuthRoleAddRequest { name })),
        Ask::RoleDelete(role) => {
            show(unary!(AuthClient, channel, role_delete, pb::AuthRoleDeleteRequest { role }))
        }
        Ask::RoleGet(role) => {
            show(unary!(AuthClient, channel, role_get, pb::AuthRoleGetRequest { role }).map(|mut answer| {
                answer.perm.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
                answer
            }))
        }
        Ask::RoleList => show(unary!(AuthClient, channel, role_list, pb::AuthRoleListRequest {})),
        Ask::GrantPermission(name, perm) => {
            let request = pb::AuthRoleGrantPermissionRequest { name, perm };
            show(unary!(AuthClient, channel, role_grant_permission, request))
        }
        Ask::RevokePermission(role, key, range_end) => {
            let request = pb::AuthRoleRevokePermissionRequest { role, key, range_end };
            show(unary!(AuthClient, channel, role_revoke_permission, request))
        }
    }
}

/// Everything that a watch tells until it has caught up.
async fn watched(channel: &Channel, create: pb::WatchCreateRequest) -> String {
    let (requests, sent) = tokio::sync::mpsc::channel(8);
    let request = |union| pb::WatchRequest { request_union: Some(union) };
    requests.send(request(pb::watch_request::RequestUnion::CreateRequest(create))).await.unwrap();
    let answers =
        WatchClient::new(channel.clone()).watch(tokio_stream::wrappers::ReceiverStream::new(sent)).await;
    let mut answers = match answers {
        Ok(answers) => answers.into_inner(),
        Err(status) => return show::<()>(Err(status)),
    };
    let mut events: BTreeMap<i64, Vec<mvccpb::Event>> = BTreeMap::new();
    let mut told = Vec::new();
    let mut last = 0;
    within("the watch", async {
        loop {
            let asking = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    requests
                        .send(request(pb::watch_request::RequestUnion::ProgressRequest(
                            pb::WatchProgressRequest {},
                        )))
                        .await
                        .unwrap();
                }
            };
            let answer = tokio::select! {
                answer = answers.message() => answer,
                () = asking => unreachable!("it asks for ever"),
            };
            let mut answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return told.push("closed".to_owned()),
                Err(status) => return told.push(show::<()>(Err(status))),
            };
            for event in std::mem::take(&mut answer.events) {
                let revision = event.kv.as_ref().unwrap().mod_revision;
                assert!(revision >= last, "revisions never go back");
                last = revision;
                events.entry(revision).or_default().push(event);
            }
            if answer.watch_id == -1 && !answer.created {
                normal::header(&mut answer.header);
                return told.push(format!("{answer:?}"));
            }
            if answer.created || answer.canceled {
                normal::header(&mut answer.header);
                told.push(format!("{answer:?}"));
            }
            if answer.canceled {
                return;
            }
        }
    })
    .await;
    if told.iter().any(|told| told.contains("compact_revision: ") && !told.contains("compact_revision: 0")) {
        events.clear();
    }
    format!("{told:?} {events:?}")
}

/// Asks both the same until an answer differs.
struct Both {
    ours: Vec<Channel>,
    theirs: Vec<Channel>,
    newest: i64,
    runner: TestRunner,
    asked: Vec<String>,
}

impl Both {
    async fn ask(&mut self, user: usize, question: &Ask) -> String {
        let ours = ask(&self.ours[user], question).await;
        let theirs = ask(&self.theirs[user], question).await;
        self.asked.push(format!("{user}: {question:?}\n   {theirs}"));
        let tail = self.asked.len().saturating_sub(8);
        assert_eq!(
            ours,
            theirs,
            "\nuser {user} asked {question:?}\nafter\n{}",
            self.asked[tail..].join("\n")
        );
        ours
    }

    async fn random(&mut self, user: usize, strategy: &BoxedStrategy<Ask>) {
        let mut question = strategy.new_tree(&mut self.runner).unwrap().current();
        settle(&mut question, self.newest);
        if let Ask::Grant(grant) = &mut question
            && grant.id == SHORT_LIVED
        {
            grant.id += self.asked.len() as i64;
        }
        if user > 0 {
            upright(&mut question);
        }
        let before = self.asked.len();
        self.ask(user, &question).await;
        assert_eq!(self.asked.len(), before + 1);
        let status = KvClient::new(self.theirs[0].clone())
            .range(pb::RangeRequest {
                key: Bytes::from_static(b"?"),
                serializable: true,
                ..Default::default()
            })
            .await
            .unwrap();
        self.newest = status.into_inner().header.unwrap().revision;
    }
}

async fn both(users: &[&str]) -> (Both, bed::Ours, bed::Etcd) {
    let (ours, theirs) = (bed::ours().await, bed::etcd().await);
    for user in users {
        ours.pki.issue(user, user);
        theirs.pki.issue(user, user);
    }
    let channels =
        |pki: &Pki, endpoint: String| users.iter().map(|user| connect(pki, &endpoint, user)).collect();
    let both = Both {
        ours: channels(&ours.pki, ours.endpoint()),
        theirs: channels(&theirs.pki, theirs.endpoint()),
        newest: 1,
        runner: TestRunner::default(),
        asked: Vec::new(),
    };
    (both, ours, theirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_transactions_leases_and_watches_are_etcds() {
    let (mut both, _ours, _theirs) = both(&["root"]).await;
    let asks = keys_and_leases();
    for _ in 0..requests() {
        both.random(0, &asks).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_permissions_are_etcds() {
    let (mut both, ours, theirs) = both(&["root", "u", "stranger"]).await;
    let (users, keys) = (users_and_roles(), keys_and_leases());
    for _ in 0..requests() / 4 {
        both.random(0, &users).await;
    }
    for question in [
        Ask::UserAdd("root".into()),
        Ask::UserAdd("u".into()),
        Ask::RoleAdd("v".into()),
        Ask::GrantRole("root".into(), "root".into()),
        Ask::GrantRole("u".into(), "v".into()),
        Ask::RevokeRole("u".into(), "root".into()),
    ] {
        both.ask(0, &question).await;
    }
    for channel in [&both.ours[0], &both.theirs[0]] {
        AuthClient::new(channel.clone()).auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    }
    for nth in 0..requests() {
        match nth % 8 {
            0 => both.random(0, &users).await,
            1 | 2 => both.random(0, &keys).await,
            3 => both.random(1, &users).await,
            4 => both.random(2, &keys).await,
            _ => both.random(1, &keys).await,
        }
    }
    drop((ours, theirs));
}
