//! The service `Cluster`: one member, for ever. Its headers have no revision, as in etcd.

use futures::future::BoxFuture;
use tonic::Status;

use super::{
    Shared,
    route::{Call, Caller},
    status,
};
use crate::proto::etcdserverpb as pb;

pub(crate) fn route(call: Call, method: &str) -> BoxFuture<'static, ()> {
    match method {
        "MemberList" => call.unary(list),
        "MemberAdd" => call.unary(add),
        "MemberRemove" => call.unary(remove),
        "MemberUpdate" => call.unary(update),
        "MemberPromote" => call.unary(promote),
        _ => call.unknown("etcdserverpb.Cluster", method),
    }
}

fn list(
    shared: &Shared,
    caller: &Caller,
    _: pb::MemberListRequest,
) -> Result<pb::MemberListResponse, Status> {
    shared.require_user(caller)?;
    Ok(pb::MemberListResponse { header: Some(shared.header(0)), members: vec![shared.member()] })
}

/// There is no second member to add: etcd's answer to a change that would cost the quorum.
fn add(
    shared: &Shared,
    caller: &Caller,
    request: pb::MemberAddRequest,
) -> Result<pb::MemberAddResponse, Status> {
    shared.may_administer(caller)?;
    if request.peer_ur_ls.is_empty() {
        return Err(status::bad_member_urls());
    }
    Err(status::not_enough_started_members())
}

fn remove(
    shared: &Shared,
    caller: &Caller,
    request: pb::MemberRemoveRequest,
) -> Result<pb::MemberRemoveResponse, Status> {
    shared.may_administer(caller)?;
    if request.id == shared.store.config().member_id {
        return Err(status::not_enough_started_members());
    }
    Err(status::member_not_found())
}

fn update(
    shared: &Shared,
    caller: &Caller,
    request: pb::MemberUpdateRequest,
) -> Result<pb::MemberUpdateResponse, Status> {
    shared.may_administer(caller)?;
    if request.peer_ur_ls.is_empty() {
        return Err(status::bad_member_urls());
    }
    if request.id != shared.store.config().member_id {
        return Err(status::member_not_found());
    }
    // Peers there are none, so their URLs change nothing.
    Ok(pb::MemberUpdateResponse { header: Some(shared.header(0)), members: vec![shared.member()] })
}

fn promote(
    shared: &Shared,
    caller: &Caller,
    request: pb::MemberPromoteRequest,
) -> Result<pb::MemberPromoteResponse, Status> {
    shared.may_administer(caller)?;
    if request.id == shared.store.config().member_id {
        return Err(status::not_learner());
    }
    Err(status::member_not_found())
}

impl Shared {
    fn member(&self) -> pb::Member {
        pb::Member {
            id: self.store.config().member_id,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: false,
        }
    }
}
