//! Keeps a writer up to date with the desired services.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::{Backoff, Chain, jitter};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Applied, Datapath};
use crate::api::render;
use crate::api::schema::{DatapathStatus, SkippedStatus};
use crate::engine::DesiredServices;

/// Pause between two writes, so that a storm of changes becomes a few writes.
const PAUSE: Duration = Duration::from_millis(100);
/// How often to look whether what was written is still there, when nothing changes.
const VERIFY: Duration = Duration::from_secs(30);
/// Waits after a write that failed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// Makes a writer; called again when its task has to start over.
pub type MakeDatapath = Arc<dyn Fn() -> Box<dyn Datapath> + Send + Sync>;

/// Writes whatever `desired` says until `stop`, which leaves everything in effect.
pub(crate) async fn run(
    mut writer: Box<dyn Datapath>,
    desired: watch::Receiver<DesiredServices>,
    view: watch::Sender<DatapathStatus>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    stop.run_until_cancelled(keep(&mut *writer, desired, &view)).await;
    Ok(())
}

async fn keep(
    writer: &mut dyn Datapath,
    mut desired: watch::Receiver<DesiredServices>,
    view: &watch::Sender<DatapathStatus>,
) {
    view.send_modify(|view| writer.name().clone_into(&mut view.writer));
    let mut retry = RETRY.retry();
    // `None` until the system has said whether there is something to preserve.
    let mut inherited: Option<bool> = None;
    let mut next_write = Instant::now();
    loop {
        sleep_until(next_write).await;
        let wanted = desired.borrow_and_update().clone();
        let outcome = step(writer, &wanted, &mut inherited).await;
        match outcome {
            Ok(Some(applied)) => {
                retry.reset();
                note(view, &applied);
            }
            Ok(None) => {
                let first = view.send_if_modified(|view| !std::mem::replace(&mut view.waiting, true));
                if first {
                    let earlier = inherited == Some(true);
                    info!(earlier, "what is in effect stays until all services are known");
                }
            }
            Err(error) => {
                let (error, wait) = (Chain(&error).to_string(), retry.next_delay(jitter()));
                warn!(writer = writer.name(), %error, ?wait, "services not written; what was in effect stays");
                view.send_modify(|view| {
                    view.in_effect = false;
                    view.failures += 1;
                    view.error = Some(error);
                });
                sleep(wait).await;
                continue;
            }
        }
        next_write = Instant::now() + PAUSE;
        match timeout(VERIFY, desired.changed()).await {
            Ok(Ok(())) => {}
            // The tables are gone: shutting down.
            Ok(Err(_gone)) => std::future::pending::<()>().await,
            Err(_quiet) => {
                if let Err(error) = writer.verify().await {
                    debug!(writer = writer.name(), error = %Chain(&error), "cannot tell what is in effect");
                }
            }
        }
    }
}

/// `None`: not yet.
async fn step(
    writer: &mut dyn Datapath,
    wanted: &DesiredServices,
    inherited: &mut Option<bool>,
) -> Result<Option<Applied>, super::DatapathError> {
    let preserve = match *inherited {
        Some(known) => known,
        None => *inherited.insert(writer.inherited().await?),
    };
    // Where nothing is in effect, half of a service is worse than none: without its backends it refuses.
    let enough = if preserve { wanted.complete } else { wanted.whole };
    if !enough {
        return Ok(None);
    }
    writer.apply(&wanted.services).await.map(Some)
}

fn note(view: &watch::Sender<DatapathStatus>, applied: &Applied) {
    let skipped = applied.skipped.iter().map(|skipped| SkippedStatus {
        service: skipped.service.to_string(),
        address: skipped.address.to_string(),
        port: skipped.port,
        protocol: render::protocol(skipped.protocol),
        reason: skipped.reason.to_string(),
    });
    view.send_modify(|view| {
        view.in_effect = true;
        view.waiting = false;
        view.frontends = applied.frontends;
        view.writes += u64::from(applied.changed);
        view.error = None;
        view.skipped = skipped.collect();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::super::DatapathError;
    use super::*;
    use crate::services::MergedServices;

    /// Has rules of an earlier life, and fails as often as it is told to.
    #[derive(Debug)]
    struct Fake {
        inherited: bool,
        failures: u32,
        log: Arc<Mutex<Vec<&'static str>>>,
    }

    #[async_trait]
    impl Datapath for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }
        async fn inherited(&mut self) -> Result<bool, DatapathError> {
            Ok(self.inherited)
        }
        async fn apply(&mut self, _desired: &MergedServices) -> Result<Applied, DatapathError> {
            let fails = self.failures > 0;
            self.failures = self.failures.saturating_sub(1);
            self.log.lock().unwrap().push(if fails { "failed" } else { "written" });
            if fails {
                Err(DatapathError::TimedOut(PAUSE))
            } else {
                Ok(Applied { changed: true, ..Applied::default() })
            }
        }
        async fn verify(&mut self) -> Result<(), DatapathError> {
            self.log.lock().unwrap().push("verified");
            Ok(())
        }
        async fn uninstall(&mut self) -> Result<(), DatapathError> {
            Ok(())
        }
    }

    type Log = Arc<Mutex<Vec<&'static str>>>;

    /// Runs the task beside `script`, which drives the desired state and looks at the view.
    async fn with<F: Future<Output = ()>>(
        inherited: bool,
        failures: u32,
        script: impl FnOnce(watch::Sender<DesiredServices>, watch::Receiver<DatapathStatus>) -> F,
    ) -> Vec<&'static str> {
        let log = Log::default();
        let fake = Fake { inherited, failures, log: Arc::clone(&log) };
        let (desired, desired_out) = watch::channel(DesiredServices::default());
        let (view, view_out) = watch::channel(DatapathStatus::default());
        let stop = CancellationToken::new();
        let task = run(Box::new(fake), desired_out, view, stop.clone());
        let script = async {
            script(desired, view_out).await;
            stop.cancel();
        };
        let (Ok(()), ()) = tokio::join!(task, script);
        let log = log.lock().unwrap();
        log.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn rules_of_an_earlier_life_stay_until_the_services_are_complete() {
        let log = with(true, 0, |desired, mut view| async move {
            view.wait_for(|view| view.waiting).await.unwrap();
            desired.send_modify(|desired| desired.complete = true);
            view.wait_for(|view| view.in_effect && !view.waiting).await.unwrap();
        });
        assert_eq!(log.await, ["written"]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_such_rules_services_are_written_as_they_come_once_none_of_them_is_half_known() {
        let log = with(false, 0, |desired, mut view| async move {
            view.wait_for(|view| view.waiting).await.unwrap();
            desired.send_modify(|desired| desired.whole = true);
            view.wait_for(|view| view.writes == 1).await.unwrap();
            desired.send_modify(|_same| {});
            view.wait_for(|view| view.writes == 2).await.unwrap();
        });
        assert_eq!(log.await, ["written", "written"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_effect_is_looked_after_when_nothing_changes() {
        let log = with(false, 0, |desired, mut view| async move {
            desired.send_modify(|desired| desired.whole = true);
            view.wait_for(|view| view.writes == 2).await.unwrap();
            drop(desired);
        });
        assert_eq!(log.await, ["written", "verified", "written"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_shown_and_tried_again() {
        let log = with(false, 2, |desired, mut view| async move {
            desired.send_modify(|desired| desired.whole = true);
            let failed = view.wait_for(|view| view.failures == 1).await.unwrap().clone();
            assert!(failed.error.is_some() && !failed.in_effect);
            let written = view.wait_for(|view| view.in_effect).await.unwrap().clone();
            assert_eq!((written.failures, written.error), (2, None));
        });
        assert_eq!(log.await, ["failed", "failed", "written"]);
    }
}
