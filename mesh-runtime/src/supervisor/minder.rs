//! The loop around one task: run it, judge its end, wait, run it again.

use super::{BoxError, Restart, TaskFailed, TaskState, Tree};
use crate::backoff::{Retry, jitter};
use crate::chain::Chain;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// One run of a task.
pub(super) type Run = BoxFuture<'static, Result<(), BoxError>>;
/// Makes a run; called once per start.
pub(super) type Make = Box<dyn FnMut(CancellationToken) -> Run + Send>;

/// Dropped, it takes its task off the tree and tells those who wait for its end, however that came.
pub(super) struct Minder {
    pub(super) tree: Arc<Tree>,
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) restart: Restart,
    pub(super) stop: CancellationToken,
    pub(super) ended: CancellationToken,
}

/// How one run ended.
enum End {
    Done,
    Failed(BoxError),
    Panicked(String),
}

impl Minder {
    pub(super) async fn run(self, mut make: Make) {
        let mut retry = match self.restart {
            Restart::Never => None,
            Restart::WithBackoff(policy) | Restart::UntilDone(policy) => {
                Some((policy.retry(), policy.longest()))
            }
        };
        loop {
            let started = Instant::now();
            let end = self.run_once(&mut make).await;
            if self.stop.is_cancelled() {
                return end.after_stop();
            }
            let Some((retry, healthy_after)) = &mut retry else { return self.give_up(end) };
            if matches!((self.restart, &end), (Restart::UntilDone(_), End::Done)) {
                return debug!("task is done");
            }
            if started.elapsed() >= *healthy_after {
                retry.reset();
            }
            if !self.back_off(retry, &end).await {
                return;
            }
        }
    }

    async fn run_once(&self, make: &mut Make) -> End {
        let stop = self.stop.clone();
        // Making the run may panic too, hence inside.
        let run = AssertUnwindSafe(async move { make(stop).await });
        match run.catch_unwind().await {
            Ok(Ok(())) => End::Done,
            Ok(Err(error)) => End::Failed(error),
            Err(panic) => End::Panicked(panic_message(panic.as_ref())),
        }
    }

    fn give_up(&self, end: End) {
        let task = Arc::clone(&self.name);
        let failure = match end {
            End::Done => TaskFailed::Ended { task },
            End::Failed(source) => TaskFailed::Failed { task, source },
            End::Panicked(message) => TaskFailed::Panicked { task, message },
        };
        error!(error = %Chain(&failure), "an essential task ended, stopping the process");
        self.tree.fail(failure);
    }

    /// Waits for the next attempt; `false` when the task was stopped meanwhile.
    async fn back_off(&self, retry: &mut Retry, end: &End) -> bool {
        let delay = retry.next_delay(jitter());
        let failure = end.failure();
        warn!(error = failure, attempt = retry.attempts(), ?delay, "task ended early, starting it again");
        self.note(|entry| {
            entry.state = TaskState::BackingOff;
            entry.last_failure = Some(failure);
        });
        if self.wait(delay).await.is_none() {
            return false;
        }
        self.note(|entry| {
            entry.state = TaskState::Running;
            entry.restarts += 1;
        });
        info!("starting task again");
        true
    }

    async fn wait(&self, delay: Duration) -> Option<()> {
        self.stop.run_until_cancelled(sleep(delay)).await
    }

    fn note(&self, change: impl FnOnce(&mut super::Entry)) {
        if let Some(entry) = self.tree.lock().tasks.get_mut(&self.id) {
            change(entry);
        }
    }
}

impl Drop for Minder {
    fn drop(&mut self) {
        self.tree.lock().tasks.remove(&self.id);
        self.ended.cancel();
    }
}

impl End {
    fn failure(&self) -> String {
        match self {
            Self::Done => "returned though nobody stopped it".to_owned(),
            Self::Failed(error) => Chain(error.as_ref()).to_string(),
            Self::Panicked(message) => format!("panicked: {message}"),
        }
    }

    /// An end that was asked for is no reason to restart or to fail, but worth a line if it went wrong.
    fn after_stop(self) {
        match self {
            Self::Done => debug!("task stopped"),
            Self::Failed(_) | Self::Panicked(_) => {
                warn!(error = self.failure(), "task failed while it was stopping")
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
