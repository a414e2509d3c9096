use crate::backoff::Backoff;
use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info_span, warn};

mod minder;
#[cfg(test)]
mod tests;

use minder::{Make, Minder};

/// Any error a task may end with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What happens when a task returns or panics though nobody stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The task is essential: its end, of whatever kind, ends the process.
    Never,
    /// The task is to run always: whatever its end, it is started again.
    WithBackoff(Backoff),
    /// The task has an end: `Ok` ends it for good, a failure starts it again.
    UntilDone(Backoff),
}

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskFailed {
    /// An essential task returned `Ok`.
    #[error("task `{task}` ended though nobody stopped it")]
    Ended {
        /// Its name.
        task: Arc<str>,
    },
    /// An essential task returned an error.
    #[error("task `{task}` failed")]
    Failed {
        /// Its name.
        task: Arc<str>,
        /// What it returned.
        #[source]
        source: BoxError,
    },
    /// An essential task panicked.
    #[error("task `{task}` panicked: {message}")]
    Panicked {
        /// Its name.
        task: Arc<str>,
        /// What it panicked with.
        message: String,
    },
    /// Tasks had not ended by the end of the grace and were dropped where they stood.
    #[error("still running {} s after being asked to stop: {}", grace.as_secs_f32(), tasks.join(", "))]
    Late {
        /// Their names, in the order they were asked.
        tasks: Vec<Arc<str>>,
        /// How long they were given.
        grace: Duration,
    },
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Under way.
    Running,
    /// Failed, and waiting to be started again.
    BackingOff,
}

/// A task as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// Its name, such as `remote/east`.
    #[serde(serialize_with = "as_str")]
    pub name: Arc<str>,
    /// Running or waiting.
    pub state: TaskState,
    /// How often it was started again.
    pub restarts: u64,
    /// What it last failed of, with causes.
    pub last_failure: Option<String>,
}

fn as_str<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Owner of the tasks of one process.
///
/// Each task has a name, a token that asks it to stop, and a policy for when it ends by itself. Dropped without
/// [`Supervisor::until`], it drops the tasks where they stand.
///
/// ```
/// # use mesh_runtime::{Restart, Supervisor};
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), mesh_runtime::TaskFailed> {
/// let tasks = Supervisor::new(Duration::from_secs(10));
/// tasks.spawn("clock", Restart::Never, |stop| async move {
///     stop.cancelled().await;
///     Ok::<(), std::io::Error>(())
/// });
/// tasks.until(async {}).await
/// # }
/// ```
#[derive(Debug)]
pub struct Supervisor {
    spawner: Spawner,
    grace: Duration,
}

impl Supervisor {
    /// No tasks yet; a shutdown may take `grace`.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        let tree = Tree { state: Mutex::default(), failed: CancellationToken::new() };
        Self { spawner: Spawner { tree: Arc::new(tree), prefix: Arc::from("") }, grace }
    }

    /// Starts a task; `make` is called for the first run and again for each restart.
    pub fn spawn<F, E>(
        &self,
        name: impl AsRef<str>,
        restart: Restart,
        make: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) -> Task
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.spawner.spawn(name, restart, make)
    }

    /// Starts an essential task that owns what cannot be made twice, such as a bound listener.
    pub fn spawn_once<F, E>(
        &self,
        name: impl AsRef<str>,
        make: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Task
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.spawner.spawn_once(name, make)
    }

    /// A handle for tasks that start and stop other tasks while the process runs.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Runs until `stop` ends or an essential task does, then stops all tasks, the youngest first.
    ///
    /// Each task is stopped when those started after it have ended, or have used up half of what was left of the
    /// grace. Tasks that are still there at the end of the grace are dropped and named.
    ///
    /// # Errors
    /// The first essential task that ended, else [`TaskFailed::Late`].
    pub async fn until(self, stop: impl Future<Output = ()>) -> Result<(), TaskFailed> {
        let tree = Arc::clone(&self.spawner.tree);
        tokio::select! {
            () = stop => debug!("stopping"),
            () = tree.failed.cancelled() => {}
        }
        let late = tree.drain(self.grace).await;
        let failure = tree.lock().failure.take();
        if !late.is_empty() && failure.is_some() {
            error!(tasks = late.join(", "), "tasks did not stop in time");
        }
        match failure {
            Some(failure) => Err(failure),
            None if late.is_empty() => Ok(()),
            None => Err(TaskFailed::Late { tasks: late, grace: self.grace }),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let mut state = self.spawner.tree.lock();
        state.stopping = true;
        for entry in state.tasks.values() {
            entry.stop.cancel();
            entry.abort.abort();
        }
    }
}

/// Starts tasks under a [`Supervisor`] from within; cheap to clone.
#[derive(Clone, Debug)]
pub struct Spawner {
    tree: Arc<Tree>,
    prefix: Arc<str>,
}

impl Spawner {
    /// A spawner whose tasks are called `<branch>/<name>`.
    #[must_use]
    pub fn branch(&self, branch: impl AsRef<str>) -> Self {
        let prefix = Arc::from(format!("{}{}/", self.prefix, branch.as_ref()));
        Self { tree: Arc::clone(&self.tree), prefix }
    }

    /// As [`Supervisor::spawn`]. During shutdown nothing is started: the task has ended already.
    pub fn spawn<F, E>(
        &self,
        name: impl AsRef<str>,
        restart: Restart,
        mut make: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) -> Task
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let make = move |stop| -> minder::Run {
            let run = make(stop);
            Box::pin(async move { run.await.map_err(Into::into) })
        };
        self.start(name.as_ref(), restart, Box::new(make))
    }

    /// As [`Supervisor::spawn_once`].
    pub fn spawn_once<F, E>(
        &self,
        name: impl AsRef<str>,
        make: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Task
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let mut make = Some(make);
        self.spawn(name, Restart::Never, move |stop| {
            let make = make.take().expect("a task that is never restarted is made once");
            make(stop)
        })
    }

    /// All tasks that have not ended, the oldest first.
    #[must_use]
    pub fn status(&self) -> Vec<TaskStatus> {
        let state = self.tree.lock();
        let status = |entry: &Entry| TaskStatus {
            name: Arc::clone(&entry.name),
            state: entry.state,
            restarts: entry.restarts,
            last_failure: entry.last_failure.clone(),
        };
        state.tasks.values().map(status).collect()
    }

    fn start(&self, name: &str, restart: Restart, make: Make) -> Task {
        let name: Arc<str> = Arc::from(format!("{}{name}", self.prefix));
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let task = Task { name: Arc::clone(&name), stop: stop.clone(), ended: ended.clone() };

        let mut state = self.tree.lock();
        if state.stopping {
            stop.cancel();
            ended.cancel();
            return task;
        }
        let id = state.next_id;
        state.next_id += 1;
        let span = info_span!(parent: None, "task", name = %name);
        let minder = Minder {
            tree: Arc::clone(&self.tree),
            id,
            name: Arc::clone(&name),
            restart,
            stop: stop.clone(),
            ended,
        };
        #[expect(clippy::disallowed_methods, reason = "this is the one place where named tasks are started")]
        let abort = tokio::spawn(minder.run(make).instrument(span)).abort_handle();
        let entry = Entry {
            name,
            stop,
            ended: task.ended.clone(),
            abort,
            state: TaskState::Running,
            restarts: 0,
            last_failure: None,
        };
        state.tasks.insert(id, entry);
        task
    }
}

/// A task that was started. Dropping the handle leaves the task alone: its supervisor owns it.
#[derive(Clone, Debug)]
pub struct Task {
    name: Arc<str>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Task {
    /// Its full name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the task to stop; it is not restarted, and its end is not a failure.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends when the task has ended for good.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Whether the task has ended for good.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }
}

#[derive(Debug)]
struct Tree {
    state: Mutex<State>,
    /// An essential task has ended; which one is in `State::failure`.
    failed: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    next_id: u64,
    /// By age, because shutdown goes from the youngest to the oldest.
    tasks: BTreeMap<u64, Entry>,
    failure: Option<TaskFailed>,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    stop: CancellationToken,
    ended: CancellationToken,
    abort: AbortHandle,
    state: TaskState,
    restarts: u64,
    last_failure: Option<String>,
}

impl Tree {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, failure: TaskFailed) {
        self.lock().failure.get_or_insert(failure);
        self.failed.cancel();
    }

    /// Stops the tasks from the youngest to the oldest and returns the names of those that had to be dropped.
    async fn drain(&self, grace: Duration) -> Vec<Arc<str>> {
        let deadline = Instant::now() + grace;
        let youngest_first: Vec<_> = {
            let mut state = self.lock();
            state.stopping = true;
            let part = |entry: &Entry| {
                (Arc::clone(&entry.name), entry.stop.clone(), entry.ended.clone(), entry.abort.clone())
            };
            state.tasks.values().rev().map(part).collect()
        };
        for (name, stop, ended, _) in &youngest_first {
            stop.cancel();
            // Half of what is left, so that however many are late, each is asked before the end.
            let patience = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
            if timeout_at(patience, ended.cancelled()).await.is_err() {
                warn!(task = %name, "slow to stop, going on with the others");
            }
        }
        let mut late = Vec::new();
        for (name, _, ended, abort) in youngest_first {
            if timeout_at(deadline, ended.cancelled()).await.is_err() {
                abort.abort();
                late.push(name);
            }
        }
        late
    }
}
