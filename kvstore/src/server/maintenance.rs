//! The service `Maintenance`.

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
        "Status" => call.unary(status),
        "Alarm" => call.unary(alarm),
        "Defragment" => call.unary(defragment),
        "Hash" => call.unary(hash),
        "HashKV" => call.unary(hash_kv),
        "MoveLeader" => call.unary(move_leader),
        "Downgrade" => call.unary(downgrade),
        _ => call.unknown(&format!("/etcdserverpb.Maintenance/{method}")),
    }
}

fn status(shared: &Shared, caller: &Caller, _: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
    shared.require_user(caller)?;
    let header = shared.header_now();
    let bytes = shared.store.look(crate::mvcc::Keyspace::bytes) as i64;
    let member = shared.store.config().member_id;
    let errors = shared
        .alarms()
        .into_iter()
        .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member_id, alarm.alarm().as_str_name()));
    Ok(pb::StatusResponse {
        version: crate::embedded::ETCD_VERSION.to_owned(),
        db_size: bytes,
        leader: member,
        raft_index: header.revision.unsigned_abs(),
        raft_term: header.raft_term,
        raft_applied_index: header.revision.unsigned_abs(),
        errors: errors.collect(),
        db_size_in_use: bytes,
        is_learner: false,
        storage_version: "3.7.0".to_owned(),
        db_size_quota: shared.limits.quota_bytes as i64,
        downgrade_info: Some(pb::DowngradeInfo::default()),
        header: Some(header),
    })
}

fn alarm(shared: &Shared, caller: &Caller, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
    use pb::alarm_request::AlarmAction;
    let alarms = match request.action() {
        AlarmAction::Get => shared.alarms(),
        AlarmAction::Activate => {
            shared.may_administer(caller)?;
            shared.activate(request.member_id, request.alarm)
        }
        AlarmAction::Deactivate => {
            shared.may_administer(caller)?;
            shared.deactivate(request.member_id, request.alarm)
        }
    };
    Ok(pb::AlarmResponse { header: Some(shared.header_now()), alarms })
}

/// Memory is given back as it is freed; there is nothing to do.
fn defragment(
    shared: &Shared,
    caller: &Caller,
    _: pb::DefragmentRequest,
) -> Result<pb::DefragmentResponse, Status> {
    shared.may_administer(caller)?;
    Ok(pb::DefragmentResponse { header: None })
}

fn hash(shared: &Shared, caller: &Caller, _: pb::HashRequest) -> Result<pb::HashResponse, Status> {
    shared.may_administer(caller)?;
    let (hash, revision) = shared
        .store
        .look(|keyspace| keyspace.hash(keyspace.revision()).map(|hash| (hash, keyspace.revision())))?;
    Ok(pb::HashResponse { header: Some(shared.header(revision)), hash })
}

fn hash_kv(
    shared: &Shared,
    caller: &Caller,
    request: pb::HashKvRequest,
) -> Result<pb::HashKvResponse, Status> {
    shared.may_administer(caller)?;
    let (hash, now, at, compacted) = shared.store.look(|keyspace| {
        let now = keyspace.revision();
        let at = if request.revision <= 0 { now } else { request.revision };
        keyspace.hash(at).map(|hash| (hash, now, at, keyspace.compacted()))
    })?;
    Ok(pb::HashKvResponse {
        header: Some(shared.header(now)),
        hash,
        // etcd's way to say that nothing was compacted.
        compact_revision: if compacted == 0 { -1 } else { compacted },
        hash_revision: at,
    })
}

fn move_leader(
    shared: &Shared,
    caller: &Caller,
    request: pb::MoveLeaderRequest,
) -> Result<pb::MoveLeaderResponse, Status> {
    shared.may_administer(caller)?;
    if request.target_id == shared.store.config().member_id {
        return Ok(pb::MoveLeaderResponse { header: None });
    }
    Err(status::bad_leader_transferee())
}

fn downgrade(
    shared: &Shared,
    caller: &Caller,
    request: pb::DowngradeRequest,
) -> Result<pb::DowngradeResponse, Status> {
    use pb::downgrade_request::DowngradeAction;
    shared.may_administer(caller)?;
    match request.action() {
        DowngradeAction::Validate | DowngradeAction::Enable => {
            let parts: Vec<&str> = request.version.split('.').collect();
            let is_version = parts.len() >= 2 && parts.iter().all(|part| part.parse::<u32>().is_ok());
            // There is no older form of the store to go back to.
            Err(if is_version {
                status::invalid_downgrade_version()
            } else {
                status::wrong_downgrade_version()
            })
        }
        DowngradeAction::Cancel => Err(status::no_inflight_downgrade()),
    }
}
