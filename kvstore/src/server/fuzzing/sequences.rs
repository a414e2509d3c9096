//! Sequences of calls by three users over their connections: leases, watches, users and permissions among them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use super::super::{Server, ServerConfig, Shared, connection, convert};
use super::steps::{self, CALLERS, Step};
use super::streams::{History, Stream};
use super::wire::{stream, unary};
use crate::{
    auth::{Access, Auth, ROOT},
    hub::Signal,
    mvcc::Keyspace,
    proto::etcdserverpb as pb,
    range::{KeyRange, RangeEnd},
    store::{AutoCompaction, Store, StoreConfig},
    watcher::Watcher,
};

/// Bytes that a connection holds between its ends.
const PIPE: usize = 64 * 1024;
/// A server that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Three users, their connections, and what all watches should have been told.
struct World {
    shared: Arc<Shared>,
    callers: Vec<Caller>,
    watcher: Watcher,
    history: History,
    /// Seconds by which the clock is ahead, for leases that end.
    ahead: u64,
}

struct Caller {
    channel: Channel,
    stream: Option<Stream>,
    /// Revision of its last answer.
    seen: i64,
}

/// Steps of four bytes each, see [`Step::read`]. Accepted if each one is answered without an error.
///
/// Whatever they are: every watch is told what its range and filters let through, once and in order; keys are on the
/// leases that they say; revisions never go back; and who may do what is what the roles add up to.
pub(crate) fn sequences(input: &[u8]) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the machine");
    runtime.block_on(async {
        let (mut world, mut tasks) = World::new();
        let mut accepted = !input.is_empty() && input.len().is_multiple_of(steps::BYTES);
        for bytes in input.as_chunks().0 {
            let step = Step::read(*bytes, world.shared.store.revision());
            let done = tokio::time::timeout(PATIENCE, world.take(step)).await;
            accepted &= done.expect("every step is answered").is_ok();
            world.check();
        }
        for caller in 0..CALLERS.len() {
            let settled = tokio::time::timeout(PATIENCE, world.settle(caller)).await;
            settled.expect("every watch comes to the end");
        }
        tasks.abort_all();
        accepted
    })
}

impl World {
    fn new() -> (Self, JoinSet<&'static str>) {
        let config = StoreConfig { cluster_id: 1, member_id: 2, auto_compaction: AutoCompaction::Off };
        let store = Store::new(config);
        let made = store.change_auth(|auth| {
            auth.add_user(ROOT, None)?;
            auth.grant_role(ROOT, ROOT)?;
            auth.add_user(CALLERS[1], None)?;
            auth.add_role("r")?;
            auth.grant_role(CALLERS[1], "r")
        });
        made.expect("there are no users yet");
        let config =
            ServerConfig { listen: Vec::new(), ..ServerConfig::new(([127, 0, 0, 1], 0).into(), None) };
        let server = futures::FutureExt::now_or_never(Server::bind(config, Arc::clone(&store)));
        let mut shared = server.expect("no address, no waiting").expect("nothing to bind").shared;
        Arc::get_mut(&mut shared).expect("it serves nobody yet").client_cert_auth = true;
        let mut tasks = JoinSet::new();
        let callers = CALLERS.map(|user| connect(&shared, user, &mut tasks));
        let watcher = store.watch(&KeyRange::all(), 1, 1, &Arc::<Signal>::default());
        let world = Self { shared, callers: callers.into(), watcher, history: History::default(), ahead: 0 };
        (world, tasks)
    }

    async fn take(&mut self, step: Step) -> Result<(), Status> {
        let channel = self.callers[step.caller].channel.clone();
        let auth = self.shared.store.auth();
        let may = |range: &KeyRange, access| may(&auth, CALLERS[step.caller], range, access);
        match step.ask {
            steps::Ask::Put(put) => {
                let plain = put.lease == 0 && !put.prev_kv;
                let allowed = may(&KeyRange::key(put.key.clone()), Access::Write);
                let answer = unary::<_, pb::PutResponse>(&channel, "/etcdserverpb.KV/Put", put).await;
                agree(plain.then_some(allowed), &answer);
                self.seen(step.caller, answer?.header);
            }
            steps::Ask::Range(range) => {
                let allowed = may(&convert::range(&range.key, &range.range_end), Access::Read);
                let answer = unary::<_, pb::RangeResponse>(&channel, "/etcdserverpb.KV/Range", range).await;
                agree(Some(allowed), &answer);
                self.seen(step.caller, answer?.header);
            }
            steps::Ask::Delete(delete) => {
                let allowed = may(&convert::range(&delete.key, &delete.range_end), Access::Write);
                let answer =
                    unary::<_, pb::DeleteRangeResponse>(&channel, "/etcdserverpb.KV/DeleteRange", delete)
                        .await;
                agree(Some(allowed), &answer);
                self.seen(step.caller, answer?.header);
            }
            steps::Ask::Txn(txn) => {
                let answer = unary::<_, pb::TxnResponse>(&channel, "/etcdserverpb.KV/Txn", txn).await?;
                self.seen(step.caller, answer.header);
            }
            steps::Ask::Compact(request) => {
                // What is compacted away nobody could compare any more.
                for caller in 0..CALLERS.len() {
                    self.settle(caller).await;
                }
                unary::<_, pb::CompactionResponse>(&channel, "/etcdserverpb.KV/Compact", request).await?;
            }
            steps::Ask::Grant(request) => drop(
                unary::<_, pb::LeaseGrantResponse>(&channel, "/etcdserverpb.Lease/LeaseGrant", request)
                    .await?,
            ),
            steps::Ask::Revoke(request) => drop(
                unary::<_, pb::LeaseRevokeResponse>(&channel, "/etcdserverpb.Lease/LeaseRevoke", request)
                    .await?,
            ),
            steps::Ask::KeepAlive(request) => {
                let asked = futures::stream::iter([request]);
                let path = "/etcdserverpb.Lease/LeaseKeepAlive";
                let mut answers = stream::<_, pb::LeaseKeepAliveResponse>(&channel, path, asked).await?;
                let _answer = answers.message().await?;
            }
            steps::Ask::TimeToLive(request) => {
                drop(
                    unary::<_, pb::LeaseTimeToLiveResponse>(
                        &channel,
                        "/etcdserverpb.Lease/LeaseTimeToLive",
                        request,
                    )
                    .await?,
                );
            }
            steps::Ask::Leases => {
                drop(
                    unary::<_, pb::LeaseLeasesResponse>(
                        &channel,
                        "/etcdserverpb.Lease/LeaseLeases",
                        pb::LeaseLeasesRequest {},
                    )
                    .await?,
                );
            }
            steps::Ask::Wait(seconds) => {
                self.ahead += u64::from(seconds);
                self.shared.store.end_leases(self.ahead * 1000);
            }
            steps::Ask::Watch(create) => return self.watch(step.caller, create).await,
            steps::Ask::CancelWatch(id) => return self.cancel(step.caller, id).await,
            steps::Ask::Settle => self.settle(step.caller).await,
            steps::Ask::Users(change) => steps::change(&channel, change).await?,
        }
        Ok(())
    }

    async fn watch(&mut self, caller: usize, create: pb::WatchCreateRequest) -> Result<(), Status> {
        let auth = self.shared.store.auth();
        let range = convert::range(&create.key, &create.range_end);
        let allowed = may(&auth, CALLERS[caller], &range, Access::Read);
        self.settle(caller).await;
        let caller = &mut self.callers[caller];
        if caller.stream.is_none() {
            caller.stream = Some(Stream::open(&caller.channel).await?);
        }
        let stream = caller.stream.as_mut().expect("it was just opened");
        let refused = stream.create(create).await;
        match refused {
            Some(reason) => {
                assert!(allowed != Some(true) || !reason.contains("permission denied"), "{reason}");
                Err(Status::failed_precondition(reason))
            }
            None => {
                assert!(allowed != Some(false), "a watch of what may not be read");
                Ok(())
            }
        }
    }

    async fn cancel(&mut self, caller: usize, id: i64) -> Result<(), Status> {
        self.settle(caller).await;
        let stream = self.callers[caller].stream.as_mut();
        let cancelled = match stream {
            Some(stream) => stream.cancel(id).await,
            None => false,
        };
        if cancelled { Ok(()) } else { Err(Status::not_found("no such watch")) }
    }

    /// Waits until the watches of a caller have told everything, and compares it.
    async fn settle(&mut self, caller: usize) {
        self.history.follow(&mut self.watcher, &self.shared.store);
        if let Some(stream) = &mut self.callers[caller].stream {
            stream.settle(self.shared.store.revision()).await;
            stream.compare(&self.history);
        }
    }

    fn seen(&mut self, caller: usize, header: Option<pb::ResponseHeader>) {
        let revision = header.expect("an answer has a header").revision;
        let seen = &mut self.callers[caller].seen;
        assert!(revision >= *seen, "revision {revision} after {seen}");
        *seen = revision;
    }

    /// Keys and leases agree.
    fn check(&mut self) {
        self.history.follow(&mut self.watcher, &self.shared.store);
        let store = &self.shared.store;
        let mut by_lease: BTreeMap<i64, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (key, lease) in self.history.leased() {
            by_lease.entry(lease).or_default().insert(key);
        }
        let ids = store.look(Keyspace::lease_ids);
        for id in &ids {
            let (granted, left, keys) = store.time_to_live(*id, true).expect("a lease that is listed");
            assert!(granted >= left, "{left} of {granted} seconds are left");
            let keys: BTreeSet<Vec<u8>> = keys.iter().map(|record| record.key().to_vec()).collect();
            assert_eq!(keys, by_lease.remove(id).unwrap_or_default(), "keys of lease {id}");
        }
        assert!(by_lease.is_empty(), "keys on leases that are gone: {by_lease:?}");
    }
}

/// A connection of `user`, without a network.
fn connect(shared: &Arc<Shared>, user: &str, tasks: &mut JoinSet<&'static str>) -> Caller {
    let (near, far) = tokio::io::duplex(PIPE);
    let peer = connection::Peer { common_name: Some(Arc::from(user)), unfinished: Arc::default() };
    tasks.spawn(connection::http2_on(Arc::clone(shared), far, peer, CancellationToken::new()));
    let mut near = Some(hyper_util::rt::TokioIo::new(near));
    let connector = tower::service_fn(move |_: http::Uri| {
        let near = near.take().ok_or_else(|| std::io::Error::other("the connection was lost"));
        std::future::ready(near)
    });
    let channel =
        tonic::transport::Endpoint::from_static("http://store").connect_with_connector_lazy(connector);
    Caller { channel, stream: None, seen: 0 }
}

/// Whether a call was refused exactly when the model says so; `None` where it does not say.
fn agree<T>(allowed: Option<Option<bool>>, answer: &Result<T, Status>) {
    let Some(Some(allowed)) = allowed else { return };
    match answer {
        Ok(_) => assert!(allowed, "allowed what no role allows"),
        Err(status) if status.code() == Code::PermissionDenied => {
            assert!(!allowed, "refused what is allowed")
        }
        Err(_) => {}
    }
}

/// Whether the roles of a user add up to all of a range, found the slow way; `None` for a range without keys.
fn may(auth: &Auth, user: &str, range: &KeyRange, access: Access) -> Option<bool> {
    if range.is_empty() || range.start().is_empty() {
        return None;
    }
    if !auth.enabled() {
        return Some(true);
    }
    let Ok(user) = auth.user(user) else { return Some(false) };
    if user.is_root() {
        return Some(true);
    }
    let bounds = |range: &KeyRange| {
        let start = range.start().to_vec();
        let end = match range.end() {
            RangeEnd::Single => Some([range.start(), &b"\0"[..]].concat()),
            RangeEnd::Before(end) => Some(end.to_vec()),
            RangeEnd::Unbounded => None,
        };
        (start, end)
    };
    let grants = user.roles.iter().filter_map(|role| auth.role(role).ok()).flatten();
    let granted: Vec<_> = grants
        .filter(|grant| grant.access == access || grant.access == Access::ReadWrite)
        .map(|grant| bounds(&grant.range))
        .collect();
    let (start, end) = bounds(range);
    // If there is a gap, it begins where the range does or where a grant ends.
    let mut points = vec![start.clone()];
    points.extend(granted.iter().filter_map(|(_, end)| end.clone()));
    points.retain(|point| *point >= start && end.as_ref().is_none_or(|end| point < end));
    let covered = |point: &Vec<u8>| {
        granted.iter().any(|(from, to)| from <= point && to.as_ref().is_none_or(|to| point < to))
    };
    Some(points.iter().all(covered))
}
