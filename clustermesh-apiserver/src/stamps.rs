//! Tells mirrors when what was exported was written, so that they know how long it takes to their readers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kvstore::Revision;
use kvstore::sync::{SyncWriter, Witness, WriterConfig};
use mesh_types::{ClusterName, MAX_STAMPS, Stamps, stamps_key};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Least time between two writes of stamps: what they cost does not depend on how much changes.
const EVERY: Duration = Duration::from_secs(1);

/// What was written since the last stamps were.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    kept: Mutex<Kept>,
    news: Notify,
}

/// Commits in the order in which they were confirmed. Pure.
#[derive(Debug, Default)]
struct Kept {
    commits: Vec<(i64, i64)>,
    /// One of so many is kept; 0 is 1.
    stride: usize,
    /// How many came since one was kept.
    passed: usize,
}

impl Kept {
    /// Returns whether it is the first.
    fn push(&mut self, commit: (i64, i64)) -> bool {
        let stride = self.stride.max(1);
        let is_next = self.passed == 0;
        self.passed = (self.passed + 1) % stride;
        if !is_next {
            return false;
        }
        self.commits.push(commit);
        if self.commits.len() > MAX_STAMPS {
            // Every second one goes, and from now on every second one comes.
            let mut keep = false;
            self.commits.retain(|_| {
                keep = !keep;
                keep
            });
            (self.stride, self.passed) = (2 * stride, 1);
        }
        self.commits.len() == 1
    }

    fn take(&mut self) -> Stamps {
        Stamps(std::mem::take(self).commits)
    }
}

impl Commits {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing in `Kept` panics half-way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Commits {
    fn stored(&self, sent: SystemTime, Revision(revision): Revision, _: &[u64]) {
        let micros = sent.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let is_first = self.kept().push((revision, i64::try_from(micros).unwrap_or(i64::MAX)));
        if is_first {
            self.news.notify_one();
        }
    }
}

/// The writer of the stamps of `cluster`.
pub(crate) fn writer(cluster: &ClusterName, lease_ttl: Duration) -> SyncWriter {
    SyncWriter::new(WriterConfig {
        remove_stale: false,
        lease_ttl: Some(lease_ttl),
        ..WriterConfig::single(stamps_key(cluster))
    })
}

/// Tells `writer` of the commits until `stop`; while nothing is exported, nothing.
pub(crate) async fn publish(commits: Arc<Commits>, writer: SyncWriter, stop: CancellationToken) {
    let publish = async {
        loop {
            commits.news.notified().await;
            tokio::time::sleep(EVERY).await;
            let stamps = commits.kept().take();
            if !stamps.0.is_empty() {
                writer.upsert(Bytes::new(), stamps.encode());
            }
        }
    };
    let _: Option<Infallible> = stop.run_until_cancelled(publish).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::{Client as _, KeyRange, Store, StoreConfig};

    #[test]
    fn of_more_commits_than_fit_an_even_part_is_kept() {
        let mut kept = Kept::default();
        let first: Vec<bool> = (1..=3 * MAX_STAMPS as i64).map(|n| kept.push((n, n))).collect();
        assert!(first[0] && first[1..].iter().all(|first| !first), "only one is the first");
        let Stamps(commits) = kept.take();
        assert!(commits.len() > MAX_STAMPS / 4 && commits.len() <= MAX_STAMPS, "{}", commits.len());
        let gaps: Vec<i64> = commits.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.iter().all(|gap| *gap == gaps[0]), "{gaps:?}");
        assert!(kept.push((9, 9)), "taken, it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_writer_stores_is_stamped_with_its_revision_and_nothing_else_is() {
        let store = Store::new(StoreConfig::default());
        let (client, stop) = (store.client(), CancellationToken::new());
        let commits = Arc::new(Commits::default());
        let exported = SyncWriter::new(WriterConfig {
            witness: Some(Arc::clone(&commits) as _),
            ..WriterConfig::new("p/")
        });
        let west: ClusterName = "west".parse().unwrap();
        let stamps = writer(&west, Duration::from_secs(900));
        let told = async {
            let mut events = client.watch(KeyRange::prefix("cilium/"), Revision(2)).await.unwrap();
            exported.upsert("a", "1");
            exported.flushed().await;
            let revision = exported.status().revision;
            let event = futures::StreamExt::next(&mut events).await.unwrap().unwrap().events.remove(0);
            assert_eq!(event.key().as_ref(), b"cilium/synced/west/isthmus/stamps/v1");
            let found = client.get(event.key()).await.unwrap().unwrap();
            assert_ne!(found.lease, kvstore::LeaseId::NONE);
            let Stamps(found) = Stamps::decode(&found.value).unwrap();
            assert_eq!(found.iter().map(|(revision, _)| Revision(*revision)).collect::<Vec<_>>(), [revision]);
            let quiet = store.revision();
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(store.revision(), quiet, "nothing was exported since");
        };
        tokio::select! {
            () = told => {}
            ended = exported.run(&client, &stop) => panic!("{ended:?}"),
            ended = stamps.run(&client, &stop) => panic!("{ended:?}"),
            () = publish(commits, stamps.clone(), stop.clone()) => panic!("ended"),
        }
    }
}
