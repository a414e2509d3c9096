//! What clients do: fill a store, put, list in pages.

use super::keys;
use super::latency::Latencies;
use super::server::Server;
use super::wire::{Connection, path};
use anyhow::ensure;
use kvstore::proto::etcdserverpb as pb;
use prost::bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Operations of a transaction; more than etcd takes unless told to.
const TXN_OPERATIONS: usize = 128;
/// Transactions under way at a time while a store is filled.
const FILLERS: usize = 8;
/// Keys that puts go round on, so that the store does not grow with the time of a figure.
const PUT_KEYS: usize = 10_000;
/// Keys of a page: Cilium's default.
const PAGE: i64 = 256;
/// Puts of which watchers may not have heard yet. Without a bound the puts would only measure how long a queue gets.
const PUTS_AHEAD: u64 = 512;

/// Waits for all; the first error ends the others.
pub(super) async fn all<T: 'static>(mut tasks: JoinSet<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        done.push(ended??);
    }
    Ok(done)
}

/// Puts `count` keys below `prefix`, on `lease` if that is not 0.
pub(super) async fn fill(server: &Server, prefix: &str, count: usize, lease: i64) -> anyhow::Result<()> {
    let connection = server.connect().await?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut fillers = JoinSet::new();
    for _ in 0..FILLERS {
        let (connection, next, prefix) = (connection.clone(), Arc::clone(&next), prefix.to_owned());
        fillers.spawn(async move {
            loop {
                let first = next.fetch_add(TXN_OPERATIONS, Ordering::Relaxed);
                if first >= count {
                    return Ok(());
                }
                let op = |n| pb::RequestOp {
                    request: Some(pb::request_op::Request::RequestPut(keys::put(&prefix, n, lease))),
                };
                let success = (first..count.min(first + TXN_OPERATIONS)).map(op).collect();
                let txn = pb::TxnRequest { success, ..Default::default() };
                let answer: pb::TxnResponse = connection.call(path::TXN, &txn).await?;
                ensure!(answer.succeeded, "a transaction without conditions failed");
            }
        });
    }
    all(fillers).await?;
    Ok(())
}

/// Events that watchers have received, all together.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) events: AtomicU64,
    pub(super) watchers: u64,
}

impl Delivered {
    /// Events that each watcher has received, on average.
    pub(super) fn each(&self) -> u64 {
        self.events.load(Ordering::Relaxed) / self.watchers
    }
}

/// Puts that were made.
pub(super) struct Puts {
    pub(super) count: u64,
    pub(super) elapsed: Duration,
    pub(super) latencies: Latencies,
}

impl Puts {
    pub(super) fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }
}

/// `clients` put as fast as they are answered, spread over the connections, for so long; with watchers, not much
/// faster than these hear of it.
pub(super) async fn puts(
    connections: &[Connection],
    clients: usize,
    phase: Duration,
    watched: Option<&Arc<Delivered>>,
) -> anyhow::Result<Puts> {
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut putters = JoinSet::new();
    for (_, connection) in (0..clients).zip(connections.iter().cycle()) {
        let (connection, next, watched) = (connection.clone(), Arc::clone(&next), watched.cloned());
        putters.spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < phase {
                let ahead = |delivered: &Arc<Delivered>| {
                    next.load(Ordering::Relaxed).saturating_sub(delivered.each()) > PUTS_AHEAD
                };
                if watched.as_ref().is_some_and(ahead) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                let n = next.fetch_add(1, Ordering::Relaxed) as usize % PUT_KEYS;
                let sent = Instant::now();
                let put = keys::put("cilium/state/ip/v1/default/", n, 0);
                let _: pb::PutResponse = connection.call(path::PUT, &put).await?;
                latencies.push(sent.elapsed());
            }
            Ok(latencies)
        });
    }
    let latencies = all(putters).await?.concat();
    let (count, elapsed) = (latencies.len() as u64, started.elapsed());
    Ok(Puts { count, elapsed, latencies: Latencies::of(latencies) })
}

/// Lists all below `prefix` in pages as of one revision, as Cilium does; says how many keys there were.
pub(super) async fn list_in_pages(connection: &Connection, prefix: &str) -> anyhow::Result<usize> {
    let range_end = keys::end_of(prefix);
    let (mut key, mut revision, mut listed) = (Bytes::from(prefix.to_owned()), 0, 0);
    loop {
        let ask = pb::RangeRequest {
            key,
            range_end: range_end.clone(),
            limit: PAGE,
            revision,
            sort_target: pb::range_request::SortTarget::Key.into(),
            sort_order: pb::range_request::SortOrder::Ascend.into(),
            ..Default::default()
        };
        let page: pb::RangeResponse = connection.call(path::RANGE, &ask).await?;
        listed += page.kvs.len();
        match page.kvs.last() {
            Some(last) if page.more => key = [&last.key[..], &[0]].concat().into(),
            _ => return Ok(listed),
        }
        if revision == 0 {
            revision = page.header.map_or(0, |header| header.revision);
        }
    }
}

/// Lists all below `prefix` at once; says how many bytes that was.
pub(super) async fn list_at_once(connection: &Connection, prefix: &str) -> anyhow::Result<usize> {
    let range_end = keys::end_of(prefix);
    let ask = pb::RangeRequest { key: Bytes::from(prefix.to_owned()), range_end, ..Default::default() };
    connection.drain(path::RANGE, &ask).await
}
