//! The client of an etcd v3 server, ours or another, over mutual TLS.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use super::{
    Client, Error, EtcdConfig, Event, Guard, Guarded, KeyValue, LeaseId, Limits, OnNewCluster, Page,
    Revision, StoreStatus, WatchBatch, WatchError, WatchStream, Write,
    connector::{Connector, Endpoint, client_config},
};
use crate::{
    embedded::whole_seconds,
    proto::{
        etcdserverpb::{
            self as pb, kv_client::KvClient, lease_client::LeaseClient,
            maintenance_client::MaintenanceClient, watch_client::WatchClient,
        },
        mvccpb,
    },
    range::KeyRange,
};

/// Operations that every etcd takes in one transaction.
const TXN_OPERATIONS: usize = 128;
/// Bytes of keys and values in one transaction; etcd refuses requests above 1.5 MiB.
const TXN_BYTES: usize = 1 << 20;
/// Keys on one lease, as in Cilium: in etcd each put costs more with every key on its lease.
const KEYS_PER_LEASE: usize = 1000;
/// Keys per page, as in Cilium.
const PAGE: usize = 256;
/// What the server may send ahead on one stream and on the connection.
const WINDOW: u32 = 4 << 20;

/// A client of an etcd v3 server. It connects when it is first used, and again whenever it has to.
///
/// The first answer fixes the cluster id; see [`OnNewCluster`] for what happens when it changes.
#[derive(Debug)]
pub struct EtcdClient {
    config: EtcdConfig,
    connector: Connector,
    connection: Arc<ArcSwap<Connection>>,
    spent: Arc<AtomicBool>,
}

/// A channel and the store that it led to.
#[derive(Debug)]
struct Connection {
    channel: Channel,
    /// Cluster id of the first answer; 0 before.
    pinned: AtomicU64,
}

/// What is needed to check the answers of one call.
#[derive(Clone, Debug)]
struct Pin {
    connection: Arc<Connection>,
    current: Arc<ArcSwap<Connection>>,
    /// Where to note that the client is spent; `None` with [`OnNewCluster::Reconnect`].
    spent: Option<Arc<AtomicBool>>,
    fresh: Fresh,
}

/// Makes a new channel.
#[derive(Clone, Debug)]
struct Fresh {
    config: Arc<EtcdConfig>,
    connector: Connector,
}

impl EtcdClient {
    /// Checks the configuration and reads the TLS files; does not connect yet. Must be called on a runtime.
    ///
    /// # Errors
    /// [`Error::Credentials`] if an endpoint is no URL or a file cannot be used.
    pub fn new(config: EtcdConfig) -> Result<Self, Error> {
        let endpoints: Result<Vec<Endpoint>, _> =
            config.endpoints.iter().map(|text| Endpoint::parse(text)).collect();
        let endpoints = endpoints?;
        if endpoints.is_empty() {
            return Err(super::CredentialsError::Endpoint { endpoint: String::new() }.into());
        }
        match &config.tls {
            Some(tls) => drop(client_config(tls)?),
            None => {
                if let Some(endpoint) = endpoints.iter().position(Endpoint::is_tls) {
                    let endpoint = config.endpoints[endpoint].clone();
                    return Err(super::CredentialsError::NoCa { endpoint }.into());
                }
            }
        }
        let connector = Connector::new(endpoints, config.tls.clone(), config.connect_timeout);
        let fresh = Fresh { config: Arc::new(config.clone()), connector: connector.clone() };
        let connection = Arc::new(ArcSwap::from_pointee(fresh.connection()));
        Ok(Self { config, connector, connection, spent: Arc::default() })
    }

    /// Cluster id of the store that this client talks to; `None` before its first answer.
    pub fn cluster_id(&self) -> Option<u64> {
        let id = self.connection.load().pinned.load(Ordering::Acquire);
        (id != 0).then_some(id)
    }

    fn pin(&self) -> Pin {
        let fail = self.config.on_new_cluster == OnNewCluster::Fail;
        Pin {
            connection: self.connection.load_full(),
            current: Arc::clone(&self.connection),
            spent: fail.then(|| Arc::clone(&self.spent)),
            fresh: Fresh { config: Arc::new(self.config.clone()), connector: self.connector.clone() },
        }
    }

    fn kv(pin: &Pin) -> KvClient<Channel> {
        KvClient::new(pin.connection.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.config.request_timeout);
        request
    }

    /// A unary call of a service that has no method of its own here. Its header is not checked: users belong
    /// to no revision.
    pub(super) async fn unary<Ask, Answer, F>(
        &self,
        call: impl FnOnce(Channel, Request<Ask>) -> F,
        ask: Ask,
    ) -> Result<Answer, Error>
    where
        F: Future<Output = Result<tonic::Response<Answer>, Status>>,
    {
        let pin = self.pin();
        let answer = call(pin.connection.channel.clone(), self.request(ask)).await;
        Ok(answer.map_err(|status| error(status, Asked::Nothing))?.into_inner())
    }

    async fn transact(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let pin = self.pin();
        let answer =
            Self::kv(&pin).txn(self.request(txn)).await.map_err(|status| error(status, Asked::Nothing))?;
        let answer = answer.into_inner();
        pin.check(answer.header.as_ref())?;
        Ok(answer)
    }
}

impl Fresh {
    fn connection(&self) -> Connection {
        let config = &self.config;
        // The connector decides where to and how; the URI only becomes the `:authority`.
        let authority = config.endpoints.first().and_then(|text| Endpoint::parse(text).ok());
        let uri = authority.map_or_else(|| "http://etcd".to_owned(), |endpoint| format!("http://{endpoint}"));
        let endpoint = tonic::transport::Endpoint::from_shared(uri)
            .unwrap_or_else(|_not_a_uri| tonic::transport::Endpoint::from_static("http://etcd"))
            .http2_keep_alive_interval(config.keep_alive)
            .keep_alive_timeout(config.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW);
        Connection {
            channel: endpoint.connect_with_connector_lazy(self.connector.clone()),
            pinned: AtomicU64::new(0),
        }
    }
}

impl Pin {
    /// Whether an answer is of the store that the earlier ones were of.
    fn check(&self, header: Option<&pb::ResponseHeader>) -> Result<Revision, Error> {
        let header = header.filter(|header| header.cluster_id != 0).ok_or(Error::NoHeader)?;
        let found = header.cluster_id;
        let pinned = &self.connection.pinned;
        match pinned.compare_exchange(0, found, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_first) => Ok(Revision(header.revision)),
            Err(pinned) if pinned == found => Ok(Revision(header.revision)),
            Err(pinned) => {
                match &self.spent {
                    Some(spent) => spent.store(true, Ordering::Release),
                    None => {
                        // Only the first to notice replaces it.
                        let new = Arc::new(self.fresh.connection());
                        self.current.compare_and_swap(&self.connection, new);
                    }
                }
                Err(Error::ClusterChanged { pinned, found })
            }
        }
    }
}

#[async_trait]
impl Client for EtcdClient {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        let page = self.list(&KeyRange::key(Bytes::copy_from_slice(key)), 0, None).await?;
        Ok(page.kvs.into_iter().next())
    }

    async fn list(&self, range: &KeyRange, limit: usize, at: Option<Revision>) -> Result<Page, Error> {
        let (key, range_end) = range.to_wire();
        let request = pb::RangeRequest {
            key,
            range_end,
            limit: limit as i64,
            revision: at.map_or(0, |at| at.0),
            ..pb::RangeRequest::default()
        };
        let pin = self.pin();
        let answer = Self::kv(&pin).range(self.request(request)).await;
        let answer =
            answer.map_err(|status| error(status, Asked::Revision(at.unwrap_or_default())))?.into_inner();
        let revision = pin.check(answer.header.as_ref())?;
        Ok(Page {
            kvs: answer.kvs.into_iter().map(key_value).collect(),
            revision: at.unwrap_or(revision),
            more: answer.more,
        })
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, WatchError> {
        let (key, range_end) = range.to_wire();
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: from.0,
            progress_notify: true,
            fragment: true,
            ..pb::WatchCreateRequest::default()
        };
        let pin = self.pin();
        let mut client =
            WatchClient::new(pin.connection.channel.clone()).max_decoding_message_size(usize::MAX);
        let first =
            pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        // The request side stays open as long as the watch: its end would be the end of the stream for some servers.
        let requests = futures::stream::iter([first]).chain(futures::stream::pending());
        let mut request = Request::new(requests);
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let asked = Asked::Revision(from);
        let open = tokio::time::timeout(self.config.request_timeout, async {
            let mut answers =
                client.watch(request).await.map_err(|status| error(status, asked))?.into_inner();
            let created = answers.message().await.map_err(|status| error(status, asked))?;
            Ok::<_, Error>((answers, created))
        });
        let slow =
            |_elapsed| Error::Unavailable(Status::deadline_exceeded("the watch was not created in time"));
        let (answers, created) = open.await.map_err(slow)??;
        let created = created.ok_or(WatchError::Closed)?;
        let revision = pin.check(created.header.as_ref())?;
        if let Some(error) = cancelled(&created, from) {
            return Err(error);
        }
        if revision.next() < from {
            // The store is younger than what we saw of it: it was emptied, though its id is the same.
            return Err(Error::FutureRevision { asked: from }.into());
        }
        let state = Watching { answers, pin, next: from, fragments: Vec::new(), ended: false };
        Ok(futures::stream::unfold(state, Watching::step).boxed())
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Revision, Error> {
        let mut revision = Revision::default();
        let mut ops = Vec::new();
        let mut bytes = 0;
        let mut leases = Asked::Nothing;
        let mut batch = batch.into_iter().peekable();
        while let Some(write) = batch.next() {
            if let Write::Put { lease, .. } = &write
                && *lease != LeaseId::NONE
            {
                leases = Asked::Lease(*lease);
            }
            bytes += size(&write);
            ops.push(request_op(write));
            let full =
                ops.len() == TXN_OPERATIONS || batch.peek().is_none_or(|next| bytes + size(next) > TXN_BYTES);
            if full {
                bytes = 0;
                let success = std::mem::take(&mut ops);
                let written = self.transact(pb::TxnRequest { success, ..pb::TxnRequest::default() }).await;
                let answer = written.map_err(|error| leases.in_error(error))?;
                revision = Revision(answer.header.map_or(0, |header| header.revision));
            }
        }
        Ok(revision)
    }

    async fn write_if(&self, guards: Vec<Guard>, batch: Vec<Write>) -> Result<Guarded, Error> {
        let lease = batch.iter().find_map(|write| match write {
            Write::Put { lease, .. } if *lease != LeaseId::NONE => Some(*lease),
            Write::Put { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => None,
        });
        let asked = lease.map_or(Asked::Nothing, Asked::Lease);
        let txn = pb::TxnRequest {
            compare: guards.iter().map(compare).collect(),
            success: batch.into_iter().map(request_op).collect(),
            failure: guards.iter().map(|guard| read_op(guard.key.clone())).collect(),
        };
        let answer = self.transact(txn).await.map_err(|error| asked.in_error(error))?;
        let revision = Revision(answer.header.map_or(0, |header| header.revision));
        if answer.succeeded {
            return Ok(Guarded::Done(revision));
        }
        let current = answer.responses.into_iter().map(|op| match op.response {
            Some(pb::response_op::Response::ResponseRange(found)) => {
                found.kvs.into_iter().next().map(key_value)
            }
            _ => None,
        });
        Ok(Guarded::Refused { current: current.collect(), revision })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let pin = self.pin();
        let request = self.request(pb::LeaseGrantRequest { ttl: whole_seconds(ttl), id: 0 });
        let answer = LeaseClient::new(pin.connection.channel.clone()).lease_grant(request).await;
        let answer = answer.map_err(|status| error(status, Asked::Nothing))?.into_inner();
        pin.check(answer.header.as_ref())?;
        Ok(LeaseId(answer.id))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let pin = self.pin();
        let asked = Asked::Lease(lease);
        let requests = futures::stream::iter([pb::LeaseKeepAliveRequest { id: lease.0 }]);
        let mut client = LeaseClient::new(pin.connection.channel.clone());
        let answer = tokio::time::timeout(self.config.request_timeout, async {
            let answers = client.lease_keep_alive(Request::new(requests)).await;
            let mut answers = answers.map_err(|status| error(status, asked))?.into_inner();
            answers.message().await.map_err(|status| error(status, asked))
        });
        let slow =
            |_elapsed| Error::Unavailable(Status::deadline_exceeded("keeping the lease alive took too long"));
        let answer = answer.await.map_err(slow)??;
        let answer =
            answer.ok_or_else(|| Error::Unavailable(Status::unavailable("the lease stream ended")))?;
        pin.check(answer.header.as_ref())?;
        if answer.ttl <= 0 {
            return Err(Error::LeaseNotFound(lease));
        }
        Ok(Duration::from_secs(answer.ttl.unsigned_abs()))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let pin = self.pin();
        let request = self.request(pb::LeaseRevokeRequest { id: lease.0 });
        let answer = LeaseClient::new(pin.connection.channel.clone()).lease_revoke(request).await;
        let answer = answer.map_err(|status| error(status, Asked::Lease(lease)))?.into_inner();
        pin.check(answer.header.as_ref())?;
        Ok(())
    }

    async fn status(&self) -> Result<StoreStatus, Error> {
        let pin = self.pin();
        let request = self.request(pb::StatusRequest {});
        let answer = MaintenanceClient::new(pin.connection.channel.clone()).status(request).await;
        let answer = answer.map_err(|status| error(status, Asked::Nothing))?.into_inner();
        let revision = pin.check(answer.header.as_ref())?;
        let header = answer.header.unwrap_or_default();
        Ok(StoreStatus {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision,
            version: answer.version,
            db_size_bytes: answer.db_size,
            errors: answer.errors,
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            batch_operations: TXN_OPERATIONS,
            batch_bytes: TXN_BYTES,
            keys_per_lease: Some(KEYS_PER_LEASE),
            page: Some(PAGE),
        }
    }

    fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }
}

/// A watch that is under way.
struct Watching {
    answers: Streaming<pb::WatchResponse>,
    pin: Pin,
    next: Revision,
    /// Events of a response that came in parts.
    fragments: Vec<mvccpb::Event>,
    ended: bool,
}

impl Watching {
    async fn step(mut self) -> Option<(Result<WatchBatch, WatchError>, Self)> {
        if self.ended {
            return None;
        }
        let item = self.batch().await;
        self.ended = item.is_err();
        Some((item, self))
    }

    async fn batch(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            let answer = self.answers.message().await;
            let answer = answer.map_err(|status| error(status, Asked::Revision(self.next)))?;
            let answer = answer.ok_or(WatchError::Closed)?;
            self.pin.check(answer.header.as_ref())?;
            if let Some(error) = cancelled(&answer, self.next) {
                return Err(error);
            }
            self.fragments.extend(answer.events);
            if answer.fragment {
                continue;
            }
            let events: Vec<Event> =
                std::mem::take(&mut self.fragments).into_iter().filter_map(event).collect();
            // With events it is they that say how far we are: the header may run ahead of a watch of the past.
            let revision = match events.last() {
                Some(last) => last.mod_revision(),
                None => Revision(answer.header.map_or(0, |header| header.revision)),
            };
            if revision < self.next && events.is_empty() {
                continue;
            }
            self.next = revision.next();
            return Ok(WatchBatch { revision, events });
        }
    }
}

fn cancelled(answer: &pb::WatchResponse, from: Revision) -> Option<WatchError> {
    if answer.compact_revision > 0 {
        return Some(WatchError::Compacted { from, oldest: Revision(answer.compact_revision) });
    }
    if !answer.canceled {
        return None;
    }
    if answer.cancel_reason.contains("permission denied") {
        return Some(Error::PermissionDenied.into());
    }
    Some(WatchError::Cancelled { reason: answer.cancel_reason.clone() })
}

/// What a call was about, for errors that name it.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Nothing,
    Revision(Revision),
    Lease(LeaseId),
}

impl Asked {
    fn in_error(self, error: Error) -> Error {
        match (self, error) {
            (Self::Lease(lease), Error::LeaseNotFound(_)) => Error::LeaseNotFound(lease),
            (_, error) => error,
        }
    }
}

/// etcd's codes and words as our errors.
fn error(status: Status, asked: Asked) -> Error {
    let says = |words: &str| status.message().contains(words);
    let revision = match asked {
        Asked::Revision(revision) => revision,
        Asked::Nothing | Asked::Lease(_) => Revision::default(),
    };
    match status.code() {
        Code::NotFound if says("lease not found") => Error::LeaseNotFound(match asked {
            Asked::Lease(lease) => lease,
            Asked::Nothing | Asked::Revision(_) => LeaseId::NONE,
        }),
        Code::OutOfRange if says("has been compacted") => Error::Compacted { asked: revision },
        Code::OutOfRange if says("future revision") => Error::FutureRevision { asked: revision },
        Code::PermissionDenied => Error::PermissionDenied,
        Code::ResourceExhausted if says("space exceeded") => Error::NoSpace,
        Code::Unauthenticated => Error::Unauthenticated(Some(status)),
        Code::InvalidArgument if says("user name is empty") || says("auth") => {
            Error::Unauthenticated(Some(status))
        }
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::Unimplemented => Error::Invalid(status),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Error::Unavailable(status),
    }
}

fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

fn event(event: mvccpb::Event) -> Option<Event> {
    let deleted = event.r#type() == mvccpb::event::EventType::Delete;
    let kv = event.kv?;
    Some(if deleted {
        Event::Delete { key: kv.key, mod_revision: Revision(kv.mod_revision) }
    } else {
        Event::Put(key_value(kv))
    })
}

fn size(write: &Write) -> usize {
    match write {
        Write::Put { key, value, .. } => key.len() + value.len() + 32,
        Write::Delete { key } => key.len() + 16,
        Write::DeleteRange { range } => 2 * range.start().len() + 32,
    }
}

fn request_op(write: Write) -> pb::RequestOp {
    use pb::request_op::Request;
    let delete = |range: KeyRange| {
        let (key, range_end) = range.to_wire();
        Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false })
    };
    let request = match write {
        Write::Put { key, value, lease } => {
            Request::RequestPut(pb::PutRequest { key, value, lease: lease.0, ..pb::PutRequest::default() })
        }
        Write::Delete { key } => delete(KeyRange::key(key)),
        Write::DeleteRange { range } => delete(range),
    };
    pb::RequestOp { request: Some(request) }
}

fn read_op(key: Bytes) -> pb::RequestOp {
    let range = pb::RangeRequest { key, ..pb::RangeRequest::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) }
}

fn compare(guard: &Guard) -> pb::Compare {
    use pb::compare::{CompareTarget, TargetUnion};

    use super::Expect;
    let (target, union) = match &guard.expect {
        Expect::Absent => (CompareTarget::Version, TargetUnion::Version(0)),
        Expect::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
        Expect::CreatedAt(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(revision.0)),
        Expect::ModifiedAt(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(revision.0)),
    };
    pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: target as i32,
        key: guard.key.clone(),
        range_end: Bytes::new(),
        target_union: Some(union),
    }
}
