//! The service `KV`.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use tonic::Status;

use super::{
    Shared,
    convert::{self, Shape},
    grpc::{Gone, Outgoing, put_prefix},
    route::{Call, Caller},
    status,
};
use crate::{
    auth::Access,
    mvcc::{self, RangeResult, Record, put_varint, varint_len},
    proto::etcdserverpb as pb,
    range::KeyRange,
};

/// Bytes of an answer that are encoded ahead of the peer's reading.
const AHEAD: usize = 64 * 1024;
/// Keys whose length is found without a pause for others; where the values are left out each key is looked at.
const MEASURED_AT_ONCE: usize = 4096;
/// Keys per message of a streamed range, at most.
const STREAM_KEYS: usize = 1024;

/// `KV.Range`: the answer is written from the records as the peer reads it, however long it is.
pub(crate) async fn range(mut call: Call) {
    let found = match call.incoming.only::<pb::RangeRequest>().await {
        Ok(request) => read(&call.shared, &call.caller, request).await,
        Err(status) => Err(status),
    };
    let status = match found {
        Ok((found, shape)) => {
            let header = call.shared.header(found.revision);
            let Ok(()) = call.outgoing.settle().await else { return };
            match send_range(&mut call.outgoing, Some(&header), found, shape, false).await {
                Ok(()) => Ok(()),
                Err(Gone) => return,
            }
        }
        Err(status) => Err(status),
    };
    call.outgoing.finish(status);
}

async fn read(
    shared: &Shared,
    caller: &Caller,
    mut request: pb::RangeRequest,
) -> Result<(RangeResult, Shape), Status> {
    convert::check_range(&request)?;
    let root = shared.root(caller)?;
    root.place_range(&mut request.key, &mut request.range_end);
    shared.may(caller, &convert::range(&request.key, &request.range_end), Access::Read)?;
    let found = shared.store.range(&convert::range_request(&request)).await?;
    Ok((found, Shape::of(&request, &root)))
}

/// `KV.RangeStream`: the same in several messages, the last of which has header and count.
pub(crate) async fn range_stream(mut call: Call) {
    let status = match call.incoming.only::<pb::RangeRequest>().await {
        Ok(request) => stream(&mut call, request).await,
        Err(status) => Err(status),
    };
    call.outgoing.finish(status);
}

async fn stream(call: &mut Call, mut request: pb::RangeRequest) -> Result<(), Status> {
    convert::check_range(&request)?;
    let root = call.shared.root(&call.caller)?;
    root.place_range(&mut request.key, &mut request.range_end);
    let ask = convert::range_request(&request);
    // Without an order, whatever the target, it is let pass, and sorted as `Range` does; etcd sorts each message so.
    if ask.sort.is_some() && request.sort_order != pb::range_request::SortOrder::None as i32 {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if ask.filters != mvcc::Filters::default() {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    call.shared.may(&call.caller, &ask.range, Access::Read)?;
    let shape = Shape::of(&request, &root);
    let gone = |Gone| Status::cancelled("the caller left");
    // One read, one revision: its records are only references, whatever their size.
    let found = call.shared.store.range(&ask).await?;
    let header = call.shared.header(found.revision);
    call.outgoing.settle().await.map_err(gone)?;
    let mut rest = found.records.into_iter();
    loop {
        let mut bytes = 0;
        let mut fits = |record: &Record| {
            bytes += shape.field_len(record);
            bytes <= call.shared.limits.request_bytes
        };
        let ahead = rest.as_slice();
        // At least one, however large.
        let end = ahead.iter().take(STREAM_KEYS).position(|record| !fits(record));
        let end = end.unwrap_or(ahead.len().min(STREAM_KEYS)).max(ahead.len().min(1));
        let records = rest.by_ref().take(end).collect();
        if rest.as_slice().is_empty() {
            let last =
                RangeResult { records, more: found.more, count: found.count, revision: found.revision };
            return send_range(&mut call.outgoing, Some(&header), last, shape, true).await.map_err(gone);
        }
        let part = RangeResult { records, ..RangeResult::default() };
        send_range(&mut call.outgoing, None, part, shape, true).await.map_err(gone)?;
    }
}

/// Sends a `RangeResponse` (or a `RangeStreamResponse` around it) piece by piece, of what is settled. Each record is let go
/// of once it is written: letting go of a million at the end would take the connection's thread from others for tens of
/// milliseconds.
async fn send_range(
    outgoing: &mut Outgoing,
    header: Option<&pb::ResponseHeader>,
    found: RangeResult,
    shape: Shape,
    wrapped: bool,
) -> Result<(), Gone> {
    let mut head = Vec::with_capacity(64);
    if let Some(header) = header {
        convert::put_message(&mut head, 1, header);
    }
    let mut tail = Vec::with_capacity(16);
    if found.more {
        tail.extend_from_slice(&[0x18, 1]);
    }
    if found.count > 0 {
        tail.push(0x20);
        put_varint(&mut tail, found.count as u64);
    }
    let mut keys = 0;
    for some in found.records.chunks(MEASURED_AT_ONCE) {
        keys += some.iter().map(|record| shape.field_len(record)).sum::<usize>();
        if some.len() == MEASURED_AT_ONCE {
            tokio::task::yield_now().await;
        }
    }
    let len = head.len() + keys + tail.len();
    let wrapper = if wrapped { 1 + varint_len(len as u64) } else { 0 };
    let mut out = BytesMut::with_capacity((len + wrapper + 5).min(AHEAD + 4096));
    put_prefix(&mut out, len + wrapper);
    if wrapped {
        let mut prefix = vec![0x0a];
        put_varint(&mut prefix, len as u64);
        out.extend_from_slice(&prefix);
    }
    out.extend_from_slice(&head);
    for record in found.records {
        if shape.is_as_stored() && record.encoded().len() > AHEAD {
            // Not copied: it may be large, and the peer may take its time.
            Shape::put_field_head(&mut out, &record);
            outgoing.send_settled(out.split().freeze()).await?;
            outgoing.send_settled(Bytes::from_owner(record)).await?;
            continue;
        }
        shape.put_field(&mut out, &record);
        drop(record);
        if out.len() >= AHEAD {
            outgoing.send_settled(out.split().freeze()).await?;
            outgoing.room(AHEAD).await?;
        }
    }
    out.extend_from_slice(&tail);
    outgoing.send_settled(out.freeze()).await
}

/// `KV.Put`.
pub(crate) fn put(
    shared: &Shared,
    caller: &Caller,
    mut request: pb::PutRequest,
) -> Result<pb::PutResponse, Status> {
    convert::check_put(&request)?;
    shared.check_size(request.key.len() + request.value.len())?;
    let root = shared.root(caller)?;
    root.place_key(&mut request.key);
    shared.may_put(caller, &request)?;
    shared.check_space()?;
    let prev_kv = request.prev_kv;
    let (prev, revision) = shared.store.put(&convert::put_request(request))?;
    Ok(pb::PutResponse {
        header: Some(shared.header(revision)),
        prev_kv: prev.filter(|_| prev_kv).map(|prev| convert::key_value(&prev, root.strip())),
    })
}

/// `KV.DeleteRange`.
pub(crate) fn delete_range(
    shared: &Shared,
    caller: &Caller,
    mut request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Status> {
    convert::check_delete(&request)?;
    let root = shared.root(caller)?;
    root.place_range(&mut request.key, &mut request.range_end);
    let range = convert::range(&request.key, &request.range_end);
    shared.may(caller, &range, Access::Write)?;
    if request.prev_kv {
        shared.may(caller, &range, Access::Read)?;
    }
    let (deleted, revision) = shared.store.delete(&range);
    Ok(convert::deleted(Some(shared.header(revision)), &deleted, request.prev_kv, root.strip()))
}

/// `KV.Txn`.
pub(crate) async fn txn(mut call: Call) {
    let answer = match call.incoming.only().await {
        Ok(request) => transact(&call.shared, &call.caller, request).await,
        Err(status) => Err(status),
    };
    call.answer(answer).await;
}

pub(crate) async fn transact(
    shared: &Shared,
    caller: &Caller,
    mut request: pb::TxnRequest,
) -> Result<pb::TxnResponse, Status> {
    convert::check_txn(&request, shared.limits.txn_operations)?;
    shared.check_size(prost::Message::encoded_len(&request))?;
    let root = shared.root(caller)?;
    root.place_txn(&mut request);
    shared.may_txn(caller, &request)?;
    if convert::puts_something(&request) {
        shared.check_space()?;
    }
    let (shapes, txn) = convert::txn_request(request, &root);
    let (result, revision) = shared.store.transact_in_turns(&txn).await?;
    Ok(convert::txn_response(Some(shared.header(revision)), result, &shapes))
}

/// `KV.Compact`.
pub(crate) fn compact(
    shared: &Shared,
    caller: &Caller,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, Status> {
    shared.may_administer(caller)?;
    let revision = shared.store.compact(request.revision)?;
    Ok(pb::CompactionResponse { header: Some(shared.header(revision)) })
}

impl Shared {
    /// Like etcd, what would be replicated may not be larger than the limit.
    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), Status> {
        if bytes > self.limits.request_bytes { Err(status::request_too_large()) } else { Ok(()) }
    }

    /// Writes the key, and reads it if it wants the value before, and may attach to the lease.
    pub(crate) fn may_put(&self, caller: &Caller, request: &pb::PutRequest) -> Result<(), Status> {
        if !self.auth_enabled() {
            return Ok(());
        }
        self.may_put_without_lease(caller, request)?;
        if request.lease != 0 { self.may_use_lease(caller, request.lease) } else { Ok(()) }
    }

    fn may_put_without_lease(&self, caller: &Caller, request: &pb::PutRequest) -> Result<(), Status> {
        let key = KeyRange::key(request.key.clone());
        self.may(caller, &key, Access::Write)?;
        if request.prev_kv {
            self.may(caller, &key, Access::Read)?;
        }
        Ok(())
    }

    /// A lease ends with all its keys, so attaching to it needs write access to them.
    pub(crate) fn may_use_lease(&self, caller: &Caller, lease: i64) -> Result<(), Status> {
        // Root need not be asked key by key.
        if self.may_administer(caller).is_ok() {
            return Ok(());
        }
        let auth = self.store.auth();
        let who = self.identify(caller)?;
        for record in self.store.look(|keyspace| keyspace.lease_keys(lease)) {
            #[cfg(test)]
            tests::LEASE_KEYS.with(|checked| checked.set(checked.get() + 1));
            let key = KeyRange::key(Bytes::copy_from_slice(record.key()));
            auth.may(who.as_ref(), &key, Access::Write)?;
        }
        Ok(())
    }

    fn may_txn(&self, caller: &Caller, txn: &pb::TxnRequest) -> Result<(), Status> {
        if !self.auth_enabled() {
            return Ok(());
        }
        let mut leases = BTreeSet::new();
        self.may_all(caller, txn, &mut leases)?;
        leases.into_iter().try_for_each(|lease| self.may_use_lease(caller, lease))
    }

    /// All but the use of `leases`, of which a transaction can name one many times.
    fn may_all(
        &self,
        caller: &Caller,
        txn: &pb::TxnRequest,
        leases: &mut BTreeSet<i64>,
    ) -> Result<(), Status> {
        for compare in &txn.compare {
            self.may(caller, &convert::range(&compare.key, &compare.range_end), Access::Read)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(pb::request_op::Request::RequestRange(range)) => {
                    self.may(caller, &convert::range(&range.key, &range.range_end), Access::Read)?;
                }
                Some(pb::request_op::Request::RequestPut(put)) => {
                    self.may_put_without_lease(caller, put)?;
                    leases.extend(Some(put.lease).filter(|&lease| lease != 0));
                }
                Some(pb::request_op::Request::RequestDeleteRange(delete)) => {
                    let range = convert::range(&delete.key, &delete.range_end);
                    if delete.prev_kv {
                        self.may(caller, &range, Access::Read)?;
                    }
                    self.may(caller, &range, Access::Write)?;
                }
                Some(pb::request_op::Request::RequestTxn(nested)) => self.may_all(caller, nested, leases)?,
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
