//! One connection on which watches of a busy key come and go, and one stays: it must miss nothing and never fall silent,
//! with our server as with a real etcd.
//!
//! The client ends both directions of a watch that it drops. One that only lets go of the answers, and leaves its stream of
//! requests open, is closed by its own HTTP/2 library sooner or later, whichever the server: h2 (0.4.20) counts every small
//! DATA frame that comes for such a stream and takes none of them back, until it has enough of them (`GOAWAY`,
//! `ENHANCE_YOUR_CALM`, `too_many_data_frames`, by the library of the client).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "battery/battery.rs"]
mod battery;

use std::sync::atomic::{AtomicI64, Ordering};

use battery::{
    bed,
    raw::{WatchClient, connect},
    within,
};
use etcd_client::Client;
use futures::{Stream, StreamExt};
use kvstore::proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

const KEY: &str = "busy";
/// Watches that come and go.
const WATCHES: usize = 400;
/// So many at a time.
const AT_A_TIME: usize = 8;

/// A watch and its stream of requests, which stays open as long as this lives.
struct Watch {
    answers: Streaming<WatchResponse>,
    end: CancellationToken,
    /// Closed when the library has let go of the requests.
    ended: mpsc::Receiver<()>,
}

impl Watch {
    /// From `start_revision` on.
    async fn begin(channel: &Channel, start_revision: i64) -> Result<Self, Status> {
        let create = WatchCreateRequest { key: KEY.into(), start_revision, ..Default::default() };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let end = CancellationToken::new();
        let (held, ended) = mpsc::channel(1);
        let asks = futures::stream::iter([create])
            .chain(futures::stream::pending())
            .take_until(end.clone().cancelled_owned())
            .inspect(move |_| assert!(!held.is_closed(), "it is held"));
        let answers = WatchClient::new(channel.clone()).watch(asks).await?.into_inner();
        Ok(Self { answers, end, ended })
    }

    /// Ends both directions, the requests first: what comes in between is of a stream that somebody could still read.
    async fn end(mut self) {
        self.end.cancel();
        assert_eq!(within("the end of the requests", self.ended.recv()).await, None);
    }
}

/// The next events' revisions.
async fn next(
    watch: &mut (impl Stream<Item = Result<WatchResponse, Status>> + Unpin),
) -> Result<Vec<i64>, Status> {
    let answer = watch.next().await.ok_or_else(|| Status::unknown("the stream ended"))??;
    if answer.canceled {
        return Err(Status::unknown("the watch was cancelled"));
    }
    Ok(answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect())
}

/// Writes values of so many bytes with `writer` until all watches on `channel` came and went, while one sees everything.
/// Returns how much it saw.
async fn one_watch_sees_all(mut writer: Client, channel: Channel, value_bytes: usize) -> Result<i64, Status> {
    let value = "v".repeat(value_bytes);
    let first = writer.put(KEY, value.clone(), None).await.unwrap().header().unwrap().revision();
    let mut stays = within("the watch that stays", Watch::begin(&channel, first)).await?;

    let newest = AtomicI64::new(first);
    // The last revision, once it is known.
    let last = AtomicI64::new(i64::MAX);
    let churned = CancellationToken::new();
    let writes = async {
        let mut revision = first;
        while !churned.is_cancelled() {
            revision = writer.put(KEY, value.clone(), None).await.unwrap().header().unwrap().revision();
            newest.store(revision, Ordering::SeqCst);
        }
        // What comes after all of them ended.
        for _ in 0..50 {
            revision = writer.put(KEY, value.clone(), None).await.unwrap().header().unwrap().revision();
        }
        last.store(revision, Ordering::SeqCst);
        writer.put(KEY, "end", None).await.unwrap();
        Ok(())
    };
    let reads = async {
        let mut expected = first;
        while expected <= last.load(Ordering::SeqCst) {
            for revision in within(&format!("revision {expected}"), next(&mut stays.answers)).await? {
                assert_eq!(revision, expected);
                expected += 1;
            }
        }
        Ok(expected - first)
    };
    let (channel, newest) = (&channel, &newest);
    let churn = async {
        for round in 0..WATCHES / AT_A_TIME {
            let watches = (0..AT_A_TIME).map(|nth| async move {
                // Some have something to read at once, and all read none or some of what there is.
                let past = first.max(newest.load(Ordering::SeqCst) - 50);
                let start = if nth.is_multiple_of(2) { past } else { 0 };
                let mut comes = within("a watch", Watch::begin(channel, start)).await?;
                for _ in 0..(nth + round) % 4 {
                    within("an answer", next(&mut comes.answers)).await?;
                }
                comes.end().await;
                Ok::<_, Status>(())
            });
            for ended in futures::future::join_all(watches).await {
                ended?;
            }
        }
        churned.cancel();
        Ok::<_, Status>(())
    };
    let ((), seen, ()) = tokio::try_join!(writes, reads, churn)?;
    Ok(seen)
}

/// With values of which many fit into what HTTP/2 lets a server send ahead, and with larger ones.
async fn all(writer: Client, channel: impl Fn() -> Channel) {
    for value_bytes in [1, 6 * 1024] {
        let seen = Box::pin(one_watch_sees_all(writer.clone(), channel(), value_bytes)).await.unwrap();
        assert!(seen > 50, "{seen} revisions");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_beside_many_that_are_dropped_sees_everything_of_our_server() {
    let ours = bed::ours().await;
    all(ours.etcd_client("client").await, || connect(&ours.pki, &ours.endpoint(), "client")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_beside_many_that_are_dropped_sees_everything_of_etcd() {
    let etcd = bed::etcd().await;
    all(etcd.etcd_client("client").await, || connect(&etcd.pki, &etcd.endpoint(), "client")).await;
}
