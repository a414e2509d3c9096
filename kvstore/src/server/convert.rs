//! Between etcd's messages and the key space: checks that etcd makes on requests, and answers.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::Status;

use super::{overlap, root::Root, status};
use crate::{
    mvcc::{
        Compare, CompareResult, CompareTarget, Filters, Op, OpResult, Order, Put, Range, RangeResult, Record,
        SortTarget, Transaction, TxnResult, put_varint, varint_len,
    },
    proto::{etcdserverpb as pb, mvccpb},
    range::KeyRange,
};

/// What of a key goes into an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    parts: Parts,
    /// See [`Root::strip`].
    strip: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    /// All of it; copied as it is.
    Whole,
    /// Without the value. etcd leaves out the lease too, unless it sorts by value.
    KeyOnly {
        /// Whether the lease stays.
        with_lease: bool,
    },
}

/// Field 2 of `RangeResponse`, length-delimited.
const KVS: u8 = 0x12;
/// Most bytes that key and length of a field have.
const FIELD_HEAD: usize = 11;

impl Shape {
    pub(crate) fn of(request: &pb::RangeRequest, root: &Root) -> Self {
        let parts = if request.keys_only {
            let by_value = request.sort_target == pb::range_request::SortTarget::Value as i32;
            Parts::KeyOnly { with_lease: by_value }
        } else {
            Parts::Whole
        };
        Self { parts, strip: root.strip() }
    }

    /// Whether a record is sent as the store keeps it.
    pub(crate) fn is_as_stored(self) -> bool {
        self.parts == Parts::Whole && self.strip == 0
    }

    /// Bytes that [`Self::put_field`] appends.
    pub(crate) fn field_len(self, record: &Record) -> usize {
        let len = match self.parts {
            Parts::Whole => record.below(self.strip).len(),
            Parts::KeyOnly { .. } => self.key_value(record).encoded_len(),
        };
        1 + varint_len(len as u64) + len
    }

    /// Appends the key as an element of `RangeResponse.kvs`.
    pub(crate) fn put_field(self, out: &mut BytesMut, record: &Record) {
        match self.parts {
            Parts::Whole => {
                let encoded = record.below(self.strip);
                out.reserve(FIELD_HEAD + encoded.len());
                put_head(out, encoded.len());
                encoded.put(out);
            }
            Parts::KeyOnly { .. } => {
                let kv = self.key_value(record);
                put_head(out, kv.encoded_len());
                kv.encode_raw(out);
            }
        }
    }

    /// What comes before the record's own bytes where it is sent whole.
    pub(crate) fn put_field_head(out: &mut BytesMut, record: &Record) {
        put_head(out, record.encoded().len());
    }

    pub(crate) fn key_value(self, record: &Record) -> mvccpb::KeyValue {
        let mut kv = key_value(record, self.strip);
        if let Parts::KeyOnly { with_lease } = self.parts {
            kv.value = Bytes::new();
            if !with_lease {
                kv.lease = 0;
            }
        }
        kv
    }
}

/// What is needed to answer an operation of a transaction beyond its result.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Range(Shape),
    Put { prev_kv: bool, strip: usize },
    Delete { prev_kv: bool, strip: usize },
    Txn(Branches),
}

/// For each branch of a transaction, what was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Branches {
    success: Vec<Asked>,
    failure: Vec<Asked>,
}

/// Appends key and length of an element of `RangeResponse.kvs`.
fn put_head(out: &mut BytesMut, len: usize) {
    let mut head = [KVS; FIELD_HEAD];
    let mut rest = len as u64;
    let mut at = 1;
    while rest >= 0x80 {
        head[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    head[at] = rest as u8;
    out.put_slice(&head[..=at]);
}

/// A record without the first `strip` bytes of its key, which begins with them.
pub(crate) fn key_value(record: &Record, strip: usize) -> mvccpb::KeyValue {
    let kv = record.to_key_value();
    mvccpb::KeyValue {
        key: kv.key.slice(strip.min(kv.key.len())..),
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

/// Appends a message as a field.
pub(crate) fn put_message(out: &mut Vec<u8>, field: u8, message: &impl Message) {
    out.push((field << 3) | 2);
    put_varint(out, message.encoded_len() as u64);
    message.encode_raw(out);
}

pub(crate) fn range(key: &Bytes, range_end: &Bytes) -> KeyRange {
    KeyRange::from_wire(key.clone(), range_end.clone())
}

pub(crate) fn check_range(request: &pb::RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    let known = pb::range_request::SortOrder::try_from(request.sort_order).is_ok()
        && pb::range_request::SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(status::invalid_sort_option()) }
}

pub(crate) fn check_put(request: &pb::PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(status::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(status::lease_provided());
    }
    Ok(())
}

pub(crate) fn check_delete(request: &pb::DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() { Err(status::empty_key()) } else { Ok(()) }
}

pub(crate) fn check_txn(request: &pb::TxnRequest, max_operations: usize) -> Result<(), Status> {
    check_operations(request, max_operations)?;
    overlap::check(request)
}

/// Each level may have so many operations as the levels above left over.
fn check_operations(request: &pb::TxnRequest, max: usize) -> Result<(), Status> {
    let here = request.compare.len().max(request.success.len()).max(request.failure.len());
    if here > max {
        return Err(status::too_many_ops());
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(status::empty_key());
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(pb::request_op::Request::RequestRange(range)) => check_range(range)?,
            Some(pb::request_op::Request::RequestPut(put)) => check_put(put)?,
            Some(pb::request_op::Request::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(pb::request_op::Request::RequestTxn(txn)) => check_operations(txn, max - here)?,
            None => return Err(status::key_not_found()),
        }
    }
    Ok(())
}

pub(crate) fn puts_something(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts_something(nested),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => false,
    })
}

pub(crate) fn range_request(request: &pb::RangeRequest) -> Range {
    use pb::range_request::{SortOrder, SortTarget as Target};
    let order = SortOrder::try_from(request.sort_order).unwrap_or_default();
    let target = match Target::try_from(request.sort_target).unwrap_or_default() {
        Target::Key => SortTarget::Key,
        Target::Version => SortTarget::Version,
        Target::Create => SortTarget::Create,
        Target::Mod => SortTarget::Mod,
        Target::Value => SortTarget::Value,
    };
    let sort = match (order, target) {
        (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => None,
        (SortOrder::None | SortOrder::Ascend, target) => Some((target, Order::Ascending)),
        (SortOrder::Descend, target) => Some((target, Order::Descending)),
    };
    Range {
        range: range(&request.key, &request.range_end),
        limit: usize::try_from(request.limit).unwrap_or(0),
        revision: request.revision.max(0),
        sort,
        filters: Filters {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        },
        count_only: request.count_only,
    }
}

pub(crate) fn put_request(request: pb::PutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// What a transaction, whose keys are placed below `root` already, asks for.
pub(crate) fn txn_request(request: pb::TxnRequest, root: &Root) -> (Branches, Transaction) {
    let op = |request| op(request, root);
    let (success_asked, success) = request.success.into_iter().filter_map(op).unzip();
    let (failure_asked, failure) = request.failure.into_iter().filter_map(op).unzip();
    let compare = request.compare.into_iter().map(compare).collect();
    (Branches { success: success_asked, failure: failure_asked }, Transaction { compare, success, failure })
}

fn op(op: pb::RequestOp, root: &Root) -> Option<(Asked, Op)> {
    let strip = root.strip();
    use pb::request_op::Request;
    Some(match op.request? {
        Request::RequestRange(request) => {
            (Asked::Range(Shape::of(&request, root)), Op::Range(range_request(&request)))
        }
        Request::RequestPut(request) => {
            (Asked::Put { prev_kv: request.prev_kv, strip }, Op::Put(put_request(request)))
        }
        Request::RequestDeleteRange(request) => {
            let asked = Asked::Delete { prev_kv: request.prev_kv, strip };
            (asked, Op::Delete(range(&request.key, &request.range_end)))
        }
        Request::RequestTxn(request) => {
            let (branches, txn) = txn_request(request, root);
            (Asked::Txn(branches), Op::Txn(txn))
        }
    })
}

fn compare(compare: pb::Compare) -> Compare {
    use pb::compare::{CompareResult as Wire, CompareTarget as Target, TargetUnion};
    let result = match Wire::try_from(compare.result) {
        Ok(Wire::Equal) => CompareResult::Equal,
        Ok(Wire::Greater) => CompareResult::Greater,
        Ok(Wire::Less) => CompareResult::Less,
        Ok(Wire::NotEqual) => CompareResult::NotEqual,
        Err(_unknown) => CompareResult::Unknown,
    };
    // A value of another kind than the target counts as none, as in etcd.
    let target = match (Target::try_from(compare.target), compare.target_union) {
        (Ok(Target::Version), Some(TargetUnion::Version(version))) => CompareTarget::Version(version),
        (Ok(Target::Version), _) => CompareTarget::Version(0),
        (Ok(Target::Create), Some(TargetUnion::CreateRevision(revision))) => CompareTarget::Create(revision),
        (Ok(Target::Create), _) => CompareTarget::Create(0),
        (Ok(Target::Mod), Some(TargetUnion::ModRevision(revision))) => CompareTarget::Mod(revision),
        (Ok(Target::Mod), _) => CompareTarget::Mod(0),
        (Ok(Target::Value), Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (Ok(Target::Value), _) => CompareTarget::Value(Bytes::new()),
        (Ok(Target::Lease), Some(TargetUnion::Lease(lease))) => CompareTarget::Lease(lease),
        (Ok(Target::Lease), _) => CompareTarget::Lease(0),
        // An unknown target compares nothing with nothing.
        (Err(_unknown), _) => CompareTarget::Unknown,
    };
    Compare { range: range(&compare.key, &compare.range_end), target, result }
}

pub(crate) fn range_response(
    header: Option<pb::ResponseHeader>,
    found: &RangeResult,
    shape: Shape,
) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: found.records.iter().map(|record| shape.key_value(record)).collect(),
        more: found.more,
        count: found.count as i64,
    }
}

pub(crate) fn deleted(
    header: Option<pb::ResponseHeader>,
    deleted: &[Record],
    prev_kv: bool,
    strip: usize,
) -> pb::DeleteRangeResponse {
    let prev = deleted.iter().filter(|_| prev_kv);
    pb::DeleteRangeResponse {
        header,
        deleted: deleted.len() as i64,
        prev_kvs: prev.map(|record| key_value(record, strip)).collect(),
    }
}

pub(crate) fn txn_response(
    header: Option<pb::ResponseHeader>,
    result: TxnResult,
    branches: &Branches,
) -> pb::TxnResponse {
    use pb::response_op::Response;
    let asked = if result.succeeded { &branches.success } else { &branches.failure };
    // Within a transaction etcd's headers have only the revision.
    let inner = |revision| Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    let responses = result.results.into_iter().zip(asked).map(|(result, asked)| {
        let response = match (result, asked) {
            (OpResult::Range(found), Asked::Range(shape)) => {
                Response::ResponseRange(range_response(inner(found.revision), &found, *shape))
            }
            (OpResult::Put { prev, revision }, Asked::Put { prev_kv, strip }) => {
                let prev = prev.filter(|_| *prev_kv);
                let prev_kv = prev.map(|prev| key_value(&prev, *strip));
                Response::ResponsePut(pb::PutResponse { header: inner(revision), prev_kv })
            }
            (OpResult::Delete { prev, revision }, Asked::Delete { prev_kv, strip }) => {
                Response::ResponseDeleteRange(deleted(inner(revision), &prev, *prev_kv, *strip))
            }
            (OpResult::Txn(result), Asked::Txn(branches)) => {
                Response::ResponseTxn(txn_response(inner(0), result, branches))
            }
            (OpResult::Range(_) | OpResult::Put { .. } | OpResult::Delete { .. } | OpResult::Txn(_), _) => {
                return pb::ResponseOp { response: None };
            }
        };
        pb::ResponseOp { response: Some(response) }
    });
    pb::TxnResponse { header, succeeded: result.succeeded, responses: responses.collect() }
}
