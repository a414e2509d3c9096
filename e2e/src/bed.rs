//! The bed as a whole.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, panic};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::Ended;
use crate::underlay::{BRIDGE, Underlay};
use crate::{Capture, Cluster, ClusterSpec, Diary, Host, process};

/// Clusters and the wire between them. Dropping it takes all down; after a panic it first prints what all sides saw.
#[derive(Debug)]
pub struct Bed {
    name: String,
    clusters: Vec<Cluster>,
    underlay: Arc<Underlay>,
    diary: Diary,
    /// Whether the diary has been read out; once is enough.
    told: AtomicBool,
    dir: Directory,
}

/// Says what a [`Bed`] is to hold.
#[derive(Debug)]
#[must_use = "nothing starts until `start`"]
pub struct BedBuilder {
    name: String,
    clusters: Vec<ClusterSpec>,
}

impl Bed {
    /// A bed without clusters so far; `name` is for messages.
    pub fn builder(name: &str) -> BedBuilder {
        BedBuilder { name: name.to_owned(), clusters: Vec::new() }
    }

    /// A cluster by its name.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> &Cluster {
        let found = self.clusters.iter().find(|cluster| cluster.name() == name);
        found.unwrap_or_else(|| panic!("the bed has no cluster {name}"))
    }

    /// All clusters, in the order of the builder.
    #[must_use]
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// A directory for files of the test, which goes with the bed.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// To add pages to what a failure prints.
    #[must_use]
    pub fn diary(&self) -> &Diary {
        &self.diary
    }

    /// Waits until `check` succeeds, and returns what it gives.
    ///
    /// # Panics
    /// If it does not within `within`: with its last error, and what all sides see then.
    pub fn eventually<T>(&self, what: &str, within: Duration, check: impl FnMut() -> Result<T>) -> T {
        poll(within, check).unwrap_or_else(|error| self.fail(&format!("not so: {what}\n{error:#}")))
    }

    /// Makes sure that `check` succeeds, over and over, for as long as `during`: that something does *not* happen.
    ///
    /// # Panics
    /// If it fails once: with its error, and what all sides see then.
    pub fn always<T>(&self, what: &str, during: Duration, mut check: impl FnMut() -> Result<T>) {
        let end = Instant::now() + during;
        while Instant::now() < end {
            if let Err(error) = check() {
                self.fail(&format!("no longer so: {what}\n{error:#}"));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Fails now, while the daemons still live and can tell.
    fn fail(&self, message: &str) -> ! {
        self.told.store(true, Ordering::Relaxed);
        panic!("{}: {message}\n{}", self.name, self.diary.read());
    }

    /// Captures what crosses the underlay, between all machines.
    ///
    /// # Errors
    /// If tcpdump cannot be started or refuses the filter.
    pub fn capture(&self, filter: &str) -> Result<Capture<'_>> {
        Capture::start(self.underlay.netns(), BRIDGE, filter, self.dir())
    }

    /// A machine beside the clusters, such as one with a server that all of them use.
    ///
    /// # Errors
    /// If it cannot be linked.
    pub fn host(&self, name: &str, number: u8) -> Result<Host> {
        self.underlay.attach(name, crate::Plan::outside(number))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if thread::panicking() && !self.told.load(Ordering::Relaxed) {
            let banner =
                format!("what all sides of {} saw when it failed:\n{}", self.name, self.diary.read());
            process::complain(&banner);
        }
        if env::var_os("ISTHMUS_E2E_KEEP").is_some() {
            self.dir.keep();
        }
    }
}

impl BedBuilder {
    /// With a cluster as Cilium users have it.
    pub fn cluster(self, name: &str, id: u32) -> Self {
        self.with(ClusterSpec::new(name, id))
    }

    /// With a cluster of another kind.
    pub fn with(mut self, spec: ClusterSpec) -> Self {
        self.clusters.push(spec);
        self
    }

    /// Starts all, and returns when each API server answers.
    ///
    /// # Errors
    /// If one does not; what it logged is in the error.
    pub fn start(self) -> Result<Bed> {
        let dir = Directory::new().context("make the bed's directory")?;
        let diary = Diary::default();
        let underlay = Arc::new(Underlay::new(dir.path(), diary.clone())?);
        let clusters = thread::scope(|scope| {
            let start = |(spec, number): (ClusterSpec, u8)| {
                let (dir, underlay) = (dir.path(), &underlay);
                let name = spec.name().to_owned();
                scope.spawn(move || {
                    Cluster::start(spec, number, dir, underlay)
                        .with_context(|| format!("start cluster {name}"))
                })
            };
            let starting: Vec<_> = self.clusters.into_iter().zip(1..).map(start).collect();
            let join = |handle: thread::ScopedJoinHandle<'_, _>| {
                handle.join().unwrap_or_else(|p| panic::resume_unwind(p))
            };
            starting.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        Ok(Bed { name: self.name, clusters, underlay, diary, told: AtomicBool::new(false), dir })
    }
}

/// Tries until it succeeds, at growing intervals; the last error when it does not in time, or when it cannot any more
/// because a program has ended.
pub(crate) fn poll<T>(within: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    const SLOWEST: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(10);
    loop {
        // Taken before: a check that began in time counts, however long it took.
        let began = Instant::now();
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if error.is::<Ended>() => return Err(error),
            Err(error) if began >= deadline => return Err(error.context(format!("after {within:?}"))),
            Err(_not_yet) => {}
        }
        thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(SLOWEST);
    }
}

/// The bed's directory. It goes when this is dropped, and also when the test process is killed.
#[derive(Debug)]
struct Directory {
    dir: TempDir,
    /// A process that waits for the end of this one, by reading from a pipe that only this one holds.
    watcher: Child,
}

impl Directory {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("isthmus-e2e-").tempdir()?;
        // The second time is for what dying children wrote meanwhile.
        let script = r#"cat; rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }"#;
        let mut watcher = Command::new("sh");
        watcher.args(["-c", script, "watcher"]).arg(dir.path());
        // Of a group of its own, as Ctrl-C reaches the whole group of this process.
        watcher.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watcher = watcher.spawn().context("start the watcher")?;
        Ok(Self { dir, watcher })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory, for a look at its logs.
    fn keep(&mut self) {
        self.dir.disable_cleanup(true);
        let kept = self.watcher.kill().map(|()| format!("kept {}", self.path().display()));
        process::complain(&kept.unwrap_or_else(|error| format!("the watcher cannot be stopped: {error}")));
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        drop(self.watcher.wait());
    }
}
