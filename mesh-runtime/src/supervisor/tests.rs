use super::*;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::time::sleep;

const GRACE: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));

#[derive(Debug, thiserror::Error)]
#[error("remote is gone")]
struct Gone;

async fn until_stopped(stop: CancellationToken) -> Result<(), Infallible> {
    stop.cancelled().await;
    Ok(())
}

/// A task that counts its runs and ends each as `end` says, until run number `last`, which stays.
fn flaky(
    runs: &Arc<AtomicUsize>,
    last: usize,
    end: fn() -> Result<(), Gone>,
) -> impl FnMut(CancellationToken) -> futures::future::BoxFuture<'static, Result<(), Gone>> + Send + 'static {
    let runs = Arc::clone(runs);
    move |stop| {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move {
            if run < last {
                return end();
            }
            stop.cancelled().await;
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_from_outside_is_success() {
    let tasks = Supervisor::new(GRACE);
    tasks.spawn("store", Restart::Never, until_stopped);
    tasks.until(sleep(Duration::from_secs(1))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whatever_end_of_an_essential_task_ends_the_process() {
    type Case = (&'static str, fn() -> Result<(), Gone>, &'static str);
    let cases: [Case; 3] = [
        ("returned", || Ok(()), "task `store` ended though nobody stopped it"),
        ("failed", || Err(Gone), "task `store` failed: remote is gone"),
        ("panicked", || panic!("index 3 of 2"), "task `store` panicked: index 3 of 2"),
    ];
    for (name, end, message) in cases {
        let tasks = Supervisor::new(GRACE);
        let bystander = tasks.spawn("health", Restart::Never, until_stopped);
        tasks.spawn("store", Restart::Never, move |_| async move { end() });
        let failure = tasks.until(std::future::pending()).await.unwrap_err();
        assert_eq!(crate::Chain(&failure).to_string(), message, "{name}");
        assert!(bystander.has_ended(), "{name}: the others are stopped");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_and_panics_are_restarted_and_leave_the_others_alone() {
    type Case = (&'static str, fn() -> Result<(), Gone>);
    let ends: [Case; 3] = [("failed", || Err(Gone)), ("panicked", || panic!("odd")), ("returned", || Ok(()))];
    for (name, end) in ends {
        let runs = Arc::new(AtomicUsize::new(0));
        let tasks = Supervisor::new(GRACE);
        let other = tasks.spawn("remote/west", Restart::WithBackoff(BACKOFF), until_stopped);
        tasks.spawn("remote/east", Restart::WithBackoff(BACKOFF), flaky(&runs, 4, end));
        let spawner = tasks.spawner();
        let watch = async move {
            sleep(Duration::from_secs(3600)).await;
            let status = spawner.status();
            assert_eq!((status[0].restarts, &status[0].last_failure), (0, &None), "{name}");
            assert_eq!((status[1].restarts, status[1].state), (3, TaskState::Running), "{name}");
            assert!(!other.has_ended(), "{name}");
        };
        tasks.until(watch).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 4, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn status_tells_what_a_task_last_failed_of() {
    let runs = Arc::new(AtomicUsize::new(0));
    let tasks = Supervisor::new(GRACE);
    let long = Backoff::new(Duration::from_secs(1 << 30), Duration::from_secs(1 << 30));
    tasks.spawn("remote/east", Restart::WithBackoff(long), flaky(&runs, 2, || Err(Gone)));
    let spawner = tasks.spawner();
    tasks.until(sleep(Duration::from_millis(1))).await.unwrap();
    assert!(spawner.status().is_empty(), "a stopped task leaves the list");

    let tasks = Supervisor::new(GRACE);
    runs.store(0, Ordering::SeqCst);
    tasks.spawn("remote/east", Restart::WithBackoff(long), flaky(&runs, 2, || Err(Gone)));
    sleep(Duration::from_millis(1)).await;
    let status = tasks.spawner().status();
    assert_eq!(status[0].state, TaskState::BackingOff);
    assert_eq!(status[0].last_failure.as_deref(), Some("remote is gone"));
}

#[tokio::test(start_paused = true)]
async fn work_that_is_done_is_not_done_again() {
    let runs = Arc::new(AtomicUsize::new(0));
    let tasks = Supervisor::new(GRACE);
    let counter = Arc::clone(&runs);
    let task = tasks.spawn("install-crds", Restart::UntilDone(BACKOFF), move |_| {
        let run = counter.fetch_add(1, Ordering::SeqCst);
        async move { if run < 2 { Err(Gone) } else { Ok(()) } }
    });
    task.ended().await;
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    tasks.until(sleep(Duration::from_secs(60))).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn shutdown_goes_from_the_youngest_to_the_oldest() {
    let (log, mut order) = mpsc::unbounded_channel();
    let tasks = Supervisor::new(GRACE);
    for name in ["store", "exporter", "health"] {
        let log = log.clone();
        tasks.spawn(name, Restart::Never, move |stop| {
            let log = log.clone();
            async move {
                stop.cancelled().await;
                sleep(Duration::from_secs(1)).await;
                log.send(name)
            }
        });
    }
    drop(log);
    tasks.until(sleep(Duration::from_secs(1))).await.unwrap();
    let mut seen = Vec::new();
    while let Some(name) = order.recv().await {
        seen.push(name);
    }
    assert_eq!(seen, ["health", "exporter", "store"]);
}

#[tokio::test(start_paused = true)]
async fn the_late_are_named_and_the_others_still_get_to_stop() {
    let tasks = Supervisor::new(GRACE);
    let store = tasks.spawn("store", Restart::Never, until_stopped);
    tasks.spawn("stuck", Restart::Never, |_| async {
        std::future::pending::<()>().await;
        Ok::<(), Infallible>(())
    });
    let began = Instant::now();
    let failure = tasks.until(async {}).await.unwrap_err();
    assert_eq!(began.elapsed(), GRACE);
    assert!(
        matches!(&failure, TaskFailed::Late { tasks, grace } if **tasks == ["stuck".into()] && *grace == GRACE)
    );
    assert_eq!(failure.to_string(), "still running 10 s after being asked to stop: stuck");
    assert!(store.has_ended());
}

#[tokio::test(start_paused = true)]
async fn one_task_can_be_stopped_alone_and_a_waiting_restart_with_it() {
    let runs = Arc::new(AtomicUsize::new(0));
    let tasks = Supervisor::new(GRACE);
    let remotes = tasks.spawner().branch("remote");
    let west = remotes.spawn("west", Restart::WithBackoff(BACKOFF), until_stopped);
    let long = Backoff::new(Duration::from_secs(1 << 30), Duration::from_secs(1 << 30));
    let east = remotes.spawn("east", Restart::WithBackoff(long), flaky(&runs, 99, || Err(Gone)));
    assert_eq!(east.name(), "remote/east");
    sleep(Duration::from_millis(1)).await;
    east.stop();
    east.ended().await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(!west.has_ended());
    tasks.until(async {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_essential_task_may_be_stopped_without_ending_the_process() {
    let tasks = Supervisor::new(GRACE);
    let task = tasks.spawn_once("listener", until_stopped);
    task.stop();
    task.ended().await;
    tasks.until(sleep(Duration::from_secs(60))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_once_shutdown_began() {
    let (report, mut reported) = mpsc::unbounded_channel();
    let tasks = Supervisor::new(GRACE);
    let spawner = tasks.spawner();
    tasks.spawn_once("manager", |stop| async move {
        stop.cancelled().await;
        let born_late = spawner.spawn("remote/east", Restart::Never, until_stopped);
        report.send((born_late.has_ended(), spawner.status().len()))
    });
    tasks.until(sleep(Duration::from_secs(1))).await.unwrap();
    assert_eq!(reported.recv().await, Some((true, 1)), "it has ended, and only the manager is listed");
}

#[tokio::test(start_paused = true)]
async fn a_long_run_forgives_earlier_failures() {
    // Each run lives for longer than the longest wait, so no wait is ever bounded by more than the first.
    let policy = Backoff::new(Duration::from_millis(1), Duration::from_secs(30));
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let tasks = Supervisor::new(GRACE);
    tasks.spawn("remote/east", Restart::WithBackoff(policy), move |stop| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            stop.run_until_cancelled(sleep(Duration::from_secs(30))).await;
            Err::<(), _>(Gone)
        }
    });
    tasks.until(sleep(Duration::from_secs(30 * 20) + Duration::from_millis(20 * 2))).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 21);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_supervisor_leaves_no_task_behind() {
    let tasks = Supervisor::new(GRACE);
    let task = tasks.spawn("stuck", Restart::Never, |_| async {
        std::future::pending::<()>().await;
        Ok::<(), Infallible>(())
    });
    sleep(Duration::from_millis(1)).await;
    drop(tasks);
    task.ended().await;
    assert!(task.has_ended());
}
