//! What `Follower` and `SyncWriter` must do over every client.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kvstore::{
    Client, KeyRange, Write,
    sync::{Backoff, Change, Follower, SyncWriter, WriterConfig},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{clients::put, within};

/// Short delays, so that tests of interruptions end soon.
pub(crate) fn quick() -> Backoff {
    Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(200) }
}

/// A follower's consumer: the keys as it was told of them.
pub(crate) struct Consumer {
    pub(crate) keys: BTreeMap<String, String>,
    /// Everything it was told, in short.
    pub(crate) told: Vec<String>,
    changes: mpsc::Receiver<Vec<Change>>,
    stop: CancellationToken,
    task: JoinHandle<Follower>,
}

impl Consumer {
    pub(crate) fn follow(follower: Follower, client: Arc<dyn Client>) -> Self {
        Self::start(follower, client, mpsc::channel(4))
    }

    fn start(
        mut follower: Follower,
        client: Arc<dyn Client>,
        (out, changes): (mpsc::Sender<Vec<Change>>, mpsc::Receiver<Vec<Change>>),
    ) -> Self {
        let stop = CancellationToken::new();
        let until = stop.clone();
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let task = tokio::spawn(async move {
            follower.run(&*client, &out, &until).await.unwrap();
            follower
        });
        Self { keys: BTreeMap::new(), told: Vec::new(), changes, stop, task }
    }

    /// Reads on until it was told `word`.
    pub(crate) async fn until(&mut self, word: &str) {
        let before = self.told.len();
        within(word, async {
            while !self.told[before..].iter().any(|told| told == word) {
                self.next().await;
            }
        })
        .await;
    }

    /// Reads what it is told next.
    pub(crate) async fn next(&mut self) {
        let batch = self.changes.recv().await.expect("the follower runs");
        batch.into_iter().for_each(|change| self.apply(change));
    }

    /// Ends the follower and gives it back with what it knows.
    pub(crate) async fn stop(self) -> Follower {
        self.stop.cancel();
        within("the follower's end", self.task).await.unwrap()
    }

    /// The same after reading what it had told by then; with the keys as they were told.
    async fn stop_and_drain(mut self) -> (Follower, BTreeMap<String, String>) {
        self.stop.cancel();
        let follower = within("the follower's end", &mut self.task).await.unwrap();
        while let Ok(batch) = self.changes.try_recv() {
            batch.into_iter().for_each(|change| self.apply(change));
        }
        (follower, self.keys)
    }

    fn apply(&mut self, change: Change) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        self.told.push(match change {
            Change::Put { key, value, .. } => {
                let told = format!("{}={}", text(&key), text(&value));
                self.keys.insert(text(&key), text(&value));
                told
            }
            Change::Delete { key } => {
                self.keys.remove(&text(&key));
                format!("-{}", text(&key))
            }
            Change::ListDone { .. } => "list done".to_owned(),
            Change::Lost { .. } => "lost".to_owned(),
            Change::Resumed { .. } => "resumed".to_owned(),
        });
    }

    pub(crate) fn known(&self) -> Vec<&str> {
        self.keys.keys().map(String::as_str).collect()
    }
}

pub(crate) async fn a_follower_lists_then_watches(client: &Arc<dyn Client>) {
    client.write((0..600).map(|n| put(&format!("fo/{n:03}"), "1")).collect()).await.unwrap();
    client.write(vec![put("fo", "no"), put("fo-x/a", "no")]).await.unwrap();
    let mut consumer = Consumer::follow(Follower::new("fo/"), Arc::clone(client));
    consumer.until("list done").await;
    assert_eq!(consumer.keys.len(), 600);
    client.write(vec![put("fo/new", "2")]).await.unwrap();
    client.write(vec![Write::Delete { key: "fo/000".into() }]).await.unwrap();
    consumer.until("-000").await;
    assert_eq!(consumer.keys.get("new").map(String::as_str), Some("2"));
    assert_eq!(consumer.told.iter().filter(|told| *told == "list done").count(), 1);
    assert_eq!(consumer.stop().await.keys(), 600);
}

pub(crate) async fn a_follower_that_comes_back_deletes_what_went_meanwhile(client: &Arc<dyn Client>) {
    client.write(vec![put("fb/a", "1"), put("fb/b", "1")]).await.unwrap();
    let mut consumer = Consumer::follow(Follower::new("fb/"), Arc::clone(client));
    consumer.until("list done").await;
    let keys = std::mem::take(&mut consumer.keys);
    let follower = consumer.stop().await;
    client.write(vec![Write::Delete { key: "fb/a".into() }, put("fb/c", "1")]).await.unwrap();
    let mut consumer = Consumer::follow(follower, Arc::clone(client));
    consumer.keys = keys;
    consumer.until("list done").await;
    assert_eq!(consumer.known(), ["b", "c"]);
    assert!(consumer.told.contains(&"-a".to_owned()), "the deletion comes before the end of the list");
    consumer.stop().await;
}

/// What it knows is what it has told: nothing is lost between the two when it is stopped.
pub(crate) async fn a_follower_that_is_stopped_before_a_slow_consumer_loses_nothing(
    client: &Arc<dyn Client>,
) {
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    client.write(names.iter().map(|name| put(&format!("fs/{name}"), "1")).collect()).await.unwrap();
    let (out, changes) = mpsc::channel(1);
    let mut consumer = Consumer::start(Follower::new("fs/"), Arc::clone(client), (out, changes));
    consumer.until("list done").await;
    for name in &names[..8] {
        client.write(vec![Write::Delete { key: format!("fs/{name}").into() }]).await.unwrap();
    }
    within("a full channel", async {
        while consumer.changes.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (follower, keys) = consumer.stop_and_drain().await;
    let mut consumer = Consumer::follow(follower, Arc::clone(client));
    consumer.keys = keys;
    consumer.until("list done").await;
    assert_eq!(consumer.known(), ["8", "9"]);
    consumer.stop().await;
}

/// A writer that runs.
pub(crate) struct Running {
    pub(crate) writer: SyncWriter,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(writer: SyncWriter, client: Arc<dyn Client>) -> Self {
        let stop = CancellationToken::new();
        let (until, working) = (stop.clone(), writer.clone());
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let task = tokio::spawn(async move { working.run(&*client, &until).await.unwrap() });
        Self { writer, stop, task }
    }

    pub(crate) async fn stop(self) -> SyncWriter {
        self.stop.cancel();
        within("the writer's end", self.task).await.unwrap();
        self.writer
    }
}

pub(crate) fn config(prefix: &str, canary: Option<&str>) -> WriterConfig {
    WriterConfig {
        canary: canary.map(|key| (Bytes::copy_from_slice(key.as_bytes()), stamp as fn() -> Bytes)),
        backoff: quick(),
        ..WriterConfig::new(Bytes::copy_from_slice(prefix.as_bytes()))
    }
}

fn stamp() -> Bytes {
    Bytes::from_static(b"2026-02-03T10:11:12Z")
}

pub(crate) async fn stored(client: &dyn Client, prefix: &str) -> Vec<String> {
    let range = KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes()));
    let page = client.list(&range, 0, None).await.unwrap();
    let show = |kv: &kvstore::KeyValue| {
        let key = kv.key.strip_prefix(prefix.as_bytes()).unwrap();
        format!("{}={}", key.escape_ascii(), kv.value.escape_ascii())
    };
    page.kvs.iter().map(show).collect()
}

pub(crate) async fn a_writer_writes_sweeps_and_then_raises_the_canary(client: &Arc<dyn Client>) {
    client.write(vec![put("sw/old", "left by an earlier life"), put("sw-x", "not ours")]).await.unwrap();
    let from = client.status().await.unwrap().revision.next();
    let running = Running::start(SyncWriter::new(config("sw/", Some("synced/sw"))), Arc::clone(client));
    let writer = &running.writer;
    assert!(writer.upsert("a", "1"));
    assert!(!writer.upsert("a", "1"));
    writer.upsert("b", "1");
    within("the first writes", writer.flushed()).await;
    assert_eq!(stored(&**client, "sw/").await, ["a=1", "b=1", "old=left by an earlier life"]);
    assert_eq!(client.get(b"synced/sw").await.unwrap(), None);
    writer.upsert("c", "1");
    writer.delete(b"b");
    writer.synced();
    within("the canary", writer.wait_synced()).await;
    assert_eq!(stored(&**client, "sw/").await, ["a=1", "c=1"]);
    let canary = client.get(b"synced/sw").await.unwrap().unwrap();
    assert_eq!(&canary.value[..], b"2026-02-03T10:11:12Z");
    assert_eq!(client.get(b"sw-x").await.unwrap().unwrap().version, 1);
    let newest = client.list(&KeyRange::prefix("sw/"), 0, None).await.unwrap();
    for kv in &newest.kvs {
        assert!(kv.mod_revision < canary.mod_revision && kv.mod_revision >= from);
        assert_ne!(kv.lease.0, 0);
    }
    let status = writer.status();
    assert_eq!((status.progress.wanted, status.progress.pending, status.last_error), (2, 0, None));
    running.stop().await;
    assert_eq!(stored(&**client, "sw/").await, ["a=1", "c=1"], "an ordered end deletes nothing");
}

pub(crate) async fn a_writer_whose_lease_ended_writes_everything_again(client: &Arc<dyn Client>) {
    let settings =
        WriterConfig { lease_ttl: Some(Duration::from_secs(9)), ..config("sl/", Some("synced/sl")) };
    let running = Running::start(SyncWriter::new(settings), Arc::clone(client));
    running.writer.upsert("a", "1");
    running.writer.upsert("b", "1");
    running.writer.synced();
    within("the canary", running.writer.wait_synced()).await;
    let before = client.get(b"sl/a").await.unwrap().unwrap();
    let canary = client.get(b"synced/sl").await.unwrap().unwrap();
    assert!(
        canary.lease != before.lease && canary.lease.0 != 0,
        "the canary must be able to end before the keys"
    );
    client.revoke(before.lease).await.unwrap();
    let again = within("the keys again", async {
        loop {
            let keys = [client.get(b"sl/a").await, client.get(b"sl/b").await, client.get(b"synced/sl").await];
            let keys: Vec<_> = keys.into_iter().filter_map(Result::unwrap).collect();
            if keys.len() == 3 {
                return keys;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(again.iter().all(|kv| kv.lease != before.lease && kv.lease.0 != 0));
    running.stop().await;
}

pub(crate) async fn an_enforcing_writer_reverts_what_others_do(client: &Arc<dyn Client>) {
    let settings = WriterConfig { enforce: true, ..config("se/", None) };
    let running = Running::start(SyncWriter::new(settings), Arc::clone(client));
    running.writer.upsert("a", "1");
    running.writer.upsert("b", "1");
    running.writer.synced();
    within("the first writes", running.writer.wait_synced()).await;
    client.write(vec![put("se/a", "foreign"), Write::Delete { key: "se/b".into() }]).await.unwrap();
    within("the revert", async {
        while stored(&**client, "se/").await != ["a=1", "b=1"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    running.stop().await;
}

pub(crate) async fn a_writer_spreads_many_keys_as_the_store_likes_it(client: &Arc<dyn Client>) {
    let running = Running::start(SyncWriter::new(config("sm/", None)), Arc::clone(client));
    running
        .writer
        .extend((0..2500).map(|n| (Bytes::from(format!("{n:04}")), Some(Bytes::from_static(b"v")))));
    running.writer.synced();
    within("the writes", running.writer.wait_synced()).await;
    let page = client.list(&KeyRange::prefix("sm/"), 0, None).await.unwrap();
    assert_eq!(page.kvs.len(), 2500);
    let mut per_lease = BTreeMap::new();
    for kv in &page.kvs {
        *per_lease.entry(kv.lease).or_insert(0usize) += 1;
    }
    let most = client.limits().keys_per_lease.unwrap_or(usize::MAX);
    assert!(per_lease.values().all(|&keys| keys <= most), "{per_lease:?}");
    assert_eq!(per_lease.len(), 2500usize.div_ceil(most));
    running.writer.retain(|key| key < &b"0010"[..]);
    within("the deletions", running.writer.flushed()).await;
    assert_eq!(stored(&**client, "sm/").await.len(), 10);
    running.stop().await;
}
