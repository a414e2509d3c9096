//! The service `Lease`.

use bytes::Bytes;
use tonic::Status;

use super::{
    Shared,
    grpc::{Gone, frame},
    route::{Call, Caller},
    status,
};
use crate::{auth::Access, proto::etcdserverpb as pb, range::KeyRange};

/// Longest time to live that etcd grants.
const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// `Lease.LeaseGrant`.
pub(crate) fn grant(
    shared: &Shared,
    caller: &Caller,
    request: pb::LeaseGrantRequest,
) -> Result<pb::LeaseGrantResponse, Status> {
    shared.require_user(caller)?;
    shared.check_space()?;
    if request.ttl > MAX_TTL_SECONDS {
        return Err(status::lease_ttl_too_large());
    }
    // Like etcd, whose election timeout bounds what it can promise.
    let ttl = request.ttl.max(shared.limits.min_lease_ttl_seconds);
    let id = shared.store.grant(request.id, ttl)?;
    let header = Some(shared.header_now());
    Ok(pb::LeaseGrantResponse { header, id, ttl, error: String::new() })
}

/// `Lease.LeaseRevoke`.
pub(crate) fn revoke(
    shared: &Shared,
    caller: &Caller,
    request: pb::LeaseRevokeRequest,
) -> Result<pb::LeaseRevokeResponse, Status> {
    shared.require_user(caller)?;
    if shared.auth_enabled() {
        shared.may_use_lease(caller, request.id)?;
    }
    let revision = shared.store.revoke(request.id)?;
    Ok(pb::LeaseRevokeResponse { header: Some(shared.header(revision)) })
}

/// `Lease.LeaseKeepAlive`.
pub(crate) async fn keep_alive(mut call: Call) {
    let status = loop {
        let request = tokio::select! {
            request = call.incoming.message::<pb::LeaseKeepAliveRequest>() => request,
            () = call.stop.cancelled() => break Err(status::stopped()),
        };
        match request {
            Ok(Some(request)) => match renew(&call.shared, &call.caller, &request) {
                Ok(answer) => {
                    if let Err(Gone) = call.outgoing.send(frame(&answer)).await {
                        return;
                    }
                }
                Err(status) => break Err(status),
            },
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    call.outgoing.finish(status);
}

fn renew(
    shared: &Shared,
    caller: &Caller,
    request: &pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, Status> {
    if shared.auth_enabled() {
        shared.require_user(caller)?;
        if shared.may_administer(caller).is_err() {
            shared.may_use_lease(caller, request.id)?;
        }
    }
    let header = Some(shared.header_now());
    // A lease that is not there has no time left; that is no error.
    let ttl = shared.store.keep_alive(request.id).unwrap_or(0);
    Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
}

/// `Lease.LeaseTimeToLive`.
pub(crate) fn time_to_live(
    shared: &Shared,
    caller: &Caller,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, Status> {
    shared.require_user(caller)?;
    let header = Some(shared.header_now());
    let found = shared.store.time_to_live(request.id, request.keys);
    let Some((granted_ttl, ttl, keys)) = found else {
        return Ok(pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() });
    };
    let root = shared.root(caller)?;
    let mut keys: Vec<Bytes> = keys.iter().map(|record| Bytes::copy_from_slice(record.key())).collect();
    if shared.auth_enabled() && shared.may_administer(caller).is_err() {
        for key in &keys {
            shared.may(caller, &KeyRange::key(key.clone()), Access::Read)?;
        }
    }
    // All of them may be read, so they are below the root unless a permission reaches beyond it, which is not shown.
    keys.retain(|key| root.holds(key));
    keys.iter_mut().for_each(|key| drop(key.split_to(root.strip())));
    Ok(pb::LeaseTimeToLiveResponse { header, id: request.id, ttl, granted_ttl, keys })
}

/// `Lease.LeaseLeases`.
pub(crate) fn leases(
    shared: &Shared,
    caller: &Caller,
    _request: pb::LeaseLeasesRequest,
) -> Result<pb::LeaseLeasesResponse, Status> {
    let ids = shared.store.look(crate::mvcc::Keyspace::lease_ids);
    if shared.auth_enabled() {
        shared.require_user(caller)?;
        if shared.may_administer(caller).is_err() {
            for &id in &ids {
                let keys = shared.store.time_to_live(id, true).map(|(_, _, keys)| keys).unwrap_or_default();
                for record in &keys {
                    let key = KeyRange::key(Bytes::copy_from_slice(record.key()));
                    shared.may(caller, &key, Access::Read)?;
                }
            }
        }
    }
    let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
    Ok(pb::LeaseLeasesResponse { header: Some(shared.header_now()), leases })
}
