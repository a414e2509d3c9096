//! Which of several mirrors of one store works: the others stand by.
//!
//! The lock is Cilium's, so that in a cluster with an external etcd ours and Cilium's can take over from each other. In a
//! store of its own a mirror is alone, and leads at once.

use std::sync::Arc;
use std::time::Duration;

use kvstore::Client;
use kvstore::sync::{Lock, LockLost};
use mesh_runtime::{Backoff, jitter};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Cilium's key (`kvstoremesh`, leader election), with the slash that comes before the candidate's lease.
const LOCK: &str = "cilium/kvstoremesh-lock/";
/// How long the place of one that vanished is kept.
const TTL: Duration = Duration::from_secs(25);
/// For leaving the lock to others at once.
const FAREWELL: Duration = Duration::from_secs(2);
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Where a mirror stands among those of one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is not known yet.
    #[default]
    Asking,
    /// Another one has led for a while.
    Standby,
    /// This one.
    Leads,
}

/// The process ends with it: what it has started belongs to another one now.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("leader election lost")]
pub(crate) struct ElectionLost(#[from] LockLost);

/// Takes part in the election until `stop`. It is a standby when another one has led for `patience`.
pub(crate) async fn run(
    store: Arc<dyn Client>,
    patience: Duration,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
) -> Result<(), ElectionLost> {
    let mut lock = Lock::new(&*store, LOCK, TTL);
    let ended = stop.run_until_cancelled(campaign(&mut lock, patience, &standing)).await;
    if let Some(lost) = ended {
        return Err(lost.into());
    }
    if let Ok(Err(error)) = timeout(FAREWELL, lock.release()).await {
        warn!(%error, "the lock of the mirrors could not be released, it ends by itself");
    }
    Ok(())
}

async fn campaign(lock: &mut Lock<'_>, patience: Duration, standing: &watch::Sender<Standing>) -> LockLost {
    let other_leads = Notify::new();
    let win = async {
        let mut retry = RETRY.retry();
        while let Err(error) = lock.acquire(|| other_leads.notify_one()).await {
            let wait = retry.next_delay(jitter());
            warn!(%error, ?wait, "the store cannot say which mirror leads");
            sleep(wait).await;
        }
    };
    let stand_by = async {
        other_leads.notified().await;
        sleep(patience).await;
        info!("another mirror of this store leads, standing by");
        standing.send_replace(Standing::Standby);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = win => {}
        () = stand_by => {}
    }
    info!("this mirror leads");
    standing.send_replace(Standing::Leads);
    lock.hold().await
}
