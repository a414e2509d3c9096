//! The service `Election`.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tonic::Status;

use super::{
    Shared, convert,
    grpc::{Gone, frame},
    queue::{self, Place, if_created_at},
    route::{Call, Caller},
    status,
};
use crate::{
    auth::Access,
    hub::Signal,
    mvcc::{Op, Put, Record},
    proto::v3electionpb as pb,
    range::KeyRange,
};

pub(crate) fn route(call: Call, method: &str) -> BoxFuture<'static, ()> {
    match method {
        "Campaign" => campaign(call).boxed(),
        "Proclaim" => call.unary(proclaim),
        "Leader" => leader(call).boxed(),
        "Observe" => observe(call).boxed(),
        "Resign" => call.unary(resign),
        _ => call.unknown("v3electionpb.Election", method),
    }
}

async fn campaign(mut call: Call) {
    let answer = run(&mut call).await;
    call.answer(answer).await;
}

async fn run(call: &mut Call) -> Result<pb::CampaignResponse, Status> {
    let request = call.incoming.only::<pb::CampaignRequest>().await?;
    let place = Place::take(call, &request.name, request.value.clone(), request.lease)?;
    if place.value().is_some_and(|had| had.fields().value != request.value) {
        change(&call.shared, &place.key, place.created, place.lease, request.value)?;
    }
    tokio::select! {
        turn = place.turn() => turn?,
        () = call.outgoing.reset() => return Err(Status::cancelled("the caller left")),
        () = call.stop.cancelled() => return Err(status::stopped()),
    }
    let leader =
        pb::LeaderKey { name: request.name, key: place.key.clone(), rev: place.created, lease: place.lease };
    let header = Some(call.shared.header(place.revision));
    place.keep();
    Ok(pb::CampaignResponse { header, leader: Some(leader) })
}

fn proclaim(
    shared: &Shared,
    caller: &Caller,
    request: pb::ProclaimRequest,
) -> Result<pb::ProclaimResponse, Status> {
    let leader = leader_of(request.leader)?;
    queue::may_change(shared, caller, &leader.key)?;
    let revision = change(shared, &leader.key, leader.rev, leader.lease, request.value)?;
    Ok(pb::ProclaimResponse { header: Some(shared.header(revision)) })
}

/// Changes what a candidate says, if it still is one.
fn change(shared: &Shared, key: &Bytes, created: i64, lease: i64, value: Bytes) -> Result<i64, Status> {
    queue::has_room(shared, key.len() + value.len())?;
    let put = Op::Put(Put { key: key.clone(), value, lease, ..Put::default() });
    let (result, revision) = shared.store.transact(&if_created_at(key, created, put, Vec::new()))?;
    if result.succeeded { Ok(revision) } else { Err(Status::unknown("election: not leader")) }
}

fn resign(
    shared: &Shared,
    caller: &Caller,
    request: pb::ResignRequest,
) -> Result<pb::ResignResponse, Status> {
    let leader = leader_of(request.leader)?;
    queue::may_change(shared, caller, &leader.key)?;
    let delete = Op::Delete(KeyRange::key(leader.key.clone()));
    let (_, revision) = shared.store.transact(&if_created_at(&leader.key, leader.rev, delete, Vec::new()))?;
    Ok(pb::ResignResponse { header: Some(shared.header(revision)) })
}

async fn leader(mut call: Call) {
    let answer = find(&mut call).await;
    call.answer(answer).await;
}

async fn find(call: &mut Call) -> Result<pb::LeaderResponse, Status> {
    let request = call.incoming.only::<pb::LeaderRequest>().await?;
    let prefix = queue::prefix(&request.name);
    call.shared.may_in_whole(&call.caller, &KeyRange::prefix(prefix.clone()), Access::Read)?;
    let first = queue::first(&call.shared, &prefix).await?;
    let first = first.ok_or_else(|| Status::unknown("election: no leader"))?;
    Ok(response(&call.shared, &first))
}

/// Tells each new leader and each thing that a leader says.
async fn observe(mut call: Call) {
    if let Err(Ok(status)) = follow(&mut call).await {
        call.outgoing.finish(Err(status));
    }
}

async fn follow(call: &mut Call) -> Result<std::convert::Infallible, Result<Status, Gone>> {
    let request = call.incoming.only::<pb::LeaderRequest>().await.map_err(Ok)?;
    let prefix = queue::prefix(&request.name);
    let range = KeyRange::prefix(prefix.clone());
    call.shared.may_in_whole(&call.caller, &range, Access::Read).map_err(|error| Ok(error.into()))?;
    let signal = Arc::new(Signal::default());
    let mut watcher = call.shared.store.watch(&range, 0, 0, &signal);
    let mut told = 0;
    loop {
        let first = queue::first(&call.shared, &prefix).await.map_err(Ok)?;
        if let Some(first) = first
            && first.mod_revision() > told
        {
            told = first.mod_revision();
            let answer = frame(&response(&call.shared, &first));
            call.outgoing.send(answer).await.map_err(Err)?;
        }
        tokio::select! {
            _ready = signal.ready() => {}
            () = call.outgoing.reset() => return Err(Err(Gone)),
            () = call.stop.cancelled() => return Err(Ok(status::stopped())),
        }
        watcher.look(&call.shared.store).map_err(|refusal| Ok(refusal.into()))?;
    }
}

fn response(shared: &Shared, record: &Record) -> pb::LeaderResponse {
    pb::LeaderResponse { header: Some(shared.header_now()), kv: Some(convert::key_value(record, 0)) }
}

/// The place that a request names.
fn leader_of(leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Status> {
    let leader = leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))?;
    if leader.key.is_empty() { Err(queue::without_code(&status::empty_key())) } else { Ok(leader) }
}
