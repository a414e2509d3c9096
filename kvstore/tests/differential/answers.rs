//! What a server answers, as text without what is left open.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use bytes::Bytes;
use kvstore::proto::{authpb, etcdserverpb as pb, mvccpb};
use tonic::{Status, transport::Channel};

use crate::{
    battery::{
        raw::{AuthClient, KvClient, LeaseClient, WatchClient},
        within,
    },
    generate::{Ask, SHORT_LIVED},
};

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
pub(crate) async fn ask(channel: &Channel, ask: &Ask) -> String {
    match ask.clone() {
        Ask::Range(request) => show(unary!(KvClient, channel, range, request.clone()).map(|mut answer| {
            normal::range(&request, &mut answer);
            answer
        })),
        Ask::RangeStream(request) => show(streamed(channel, request).await),
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
                    assert!(answer.ttl <= answer.granted_ttl && answer.ttl + 5000 > answer.granted_ttl);
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

/// The parts of a list that comes in several, put together.
async fn streamed(channel: &Channel, ask: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
    let mut parts = KvClient::new(channel.clone()).range_stream(ask.clone()).await?.into_inner();
    let mut whole = pb::RangeResponse::default();
    while let Some(part) = parts.message().await? {
        let part = part.range_response.unwrap();
        whole.kvs.extend(part.kvs);
        (whole.header, whole.more, whole.count) = (part.header, part.more, part.count);
    }
    normal::range(&ask, &mut whole);
    Ok(whole)
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
                    let progress =
                        pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    if requests.send(request(progress)).await.is_err() {
                        // The call has ended; its answers say how.
                        std::future::pending::<()>().await;
                    }
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
