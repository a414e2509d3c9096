//! The service `Maintenance`.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use tonic::Status;

use super::{
    Shared,
    grpc::{Gone, frame},
    route::{Call, Caller},
    status,
};
use crate::{proto::etcdserverpb as pb, store::Checksum};

/// Bytes of a snapshot in one message.
const SNAPSHOT_PIECE: usize = 64 * 1024;
/// Bytes of a snapshot's checksum.
const CHECKSUM_BYTES: usize = 32;

pub(crate) fn route(call: Call, method: &str) -> BoxFuture<'static, ()> {
    match method {
        "Status" => call.unary(status),
        "Alarm" => call.unary(alarm),
        "Defragment" => call.unary(defragment),
        "Hash" => call.boxed(hash),
        "HashKV" => call.boxed(hash_kv),
        "Snapshot" => snapshot(call).boxed(),
        "MoveLeader" => call.unary(move_leader),
        "Downgrade" => call.unary(downgrade),
        _ => call.unknown("etcdserverpb.Maintenance", method),
    }
}

fn status(shared: &Shared, caller: &Caller, _: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
    shared.require_user(caller)?;
    let header = shared.header_now();
    let bytes = shared.store.bytes() as i64;
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

/// The checksum of the keys as they are.
async fn hash(mut call: Call) {
    let answer = match call.incoming.only::<pb::HashRequest>().await {
        Ok(_) => checksum(&call, 0).await,
        Err(status) => Err(status),
    };
    let answer =
        answer.map(|sum| pb::HashResponse { header: Some(call.shared.header(sum.now)), hash: sum.hash });
    call.answer(answer).await;
}

/// The checksum of the keys as they were.
async fn hash_kv(mut call: Call) {
    let answer = match call.incoming.only::<pb::HashKvRequest>().await {
        Ok(request) => checksum(&call, request.revision).await,
        Err(status) => Err(status),
    };
    let answer = answer.map(|sum| pb::HashKvResponse {
        header: Some(call.shared.header(sum.now)),
        hash: sum.hash,
        compact_revision: sum.compacted,
        hash_revision: sum.at,
    });
    call.answer(answer).await;
}

async fn checksum(call: &Call, revision: i64) -> Result<Checksum, Status> {
    call.shared.may_administer(&call.caller)?;
    Ok(call.shared.store.checksum(revision).await?)
}

/// The whole store, as [`crate::Image`] writes it; the last message is the checksum, as etcd's clients expect.
async fn snapshot(mut call: Call) {
    let admitted = match call.incoming.only::<pb::SnapshotRequest>().await {
        Ok(_) => call.shared.may_administer(&call.caller).map_err(Status::from),
        Err(status) => Err(status),
    };
    if let Err(status) = admitted {
        return call.outgoing.finish(Err(status));
    }
    let store = Arc::clone(&call.shared.store);
    let image = match tokio::task::spawn_blocking(move || store.image()).await {
        Ok(image) => image,
        Err(error) => return call.outgoing.finish(Err(Status::internal(error.to_string()))),
    };
    let header = Some(call.shared.header(image.revision));
    // The checksum is not counted by etcd either.
    let mut remaining = image.encoded_len() - CHECKSUM_BYTES;
    // Each is encoded when the one before was taken: a peer that does not read costs no more than its place.
    for blob in image.pieces(SNAPSHOT_PIECE) {
        remaining = remaining.saturating_sub(blob.len());
        let part = pb::SnapshotResponse {
            header,
            remaining_bytes: remaining as u64,
            blob,
            version: crate::embedded::ETCD_VERSION.to_owned(),
        };
        if let Err(Gone) = call.outgoing.send(frame(&part)).await {
            return;
        }
        tokio::task::yield_now().await;
    }
    call.outgoing.finish(Ok(()));
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
        // There is never one under way; etcd answers so too.
        DowngradeAction::Cancel => {
            let version = crate::embedded::CLUSTER_VERSION.to_owned();
            Ok(pb::DowngradeResponse { header: Some(shared.header_now()), version })
        }
    }
}
