//! The service `Lock`.

use futures::{FutureExt, future::BoxFuture};
use tonic::Status;

use super::{
    Shared,
    queue::{self, Place},
    route::{Call, Caller},
    status,
};
use crate::{proto::v3lockpb as pb, range::KeyRange};

pub(crate) fn route(call: Call, method: &str) -> BoxFuture<'static, ()> {
    match method {
        "Lock" => lock(call).boxed(),
        "Unlock" => call.unary(unlock),
        _ => call.unknown("v3lockpb.Lock", method),
    }
}

async fn lock(mut call: Call) {
    let answer = take(&mut call).await;
    call.answer(answer).await;
}

async fn take(call: &mut Call) -> Result<pb::LockResponse, Status> {
    let request = call.incoming.only::<pb::LockRequest>().await?;
    let place = Place::take(call, &request.name, bytes::Bytes::new(), request.lease)?;
    tokio::select! {
        turn = place.turn() => turn?,
        () = call.outgoing.reset() => return Err(Status::cancelled("the caller left")),
        () = call.stop.cancelled() => return Err(status::stopped()),
    }
    // The lease may have ended while we waited.
    let revision = call.shared.store.revision();
    if place.value().is_none_or(|held| held.fields().create_revision != place.created) {
        return Err(Status::unknown("mutex: session is expired"));
    }
    let answer = pb::LockResponse { header: Some(call.shared.header(revision)), key: place.key.clone() };
    place.keep();
    Ok(answer)
}

fn unlock(
    shared: &Shared,
    caller: &Caller,
    request: pb::UnlockRequest,
) -> Result<pb::UnlockResponse, Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    queue::may_change(shared, caller, &request.key)?;
    let (_, revision) = shared.store.delete(&KeyRange::key(request.key));
    Ok(pb::UnlockResponse { header: Some(shared.header(revision)) })
}
