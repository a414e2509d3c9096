//! Programs that run for long: started, watched, and never left behind.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{NetNs, sys};

/// How long a killed process may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(60);

/// What [`Process::signal`] sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Asks to end in order (SIGTERM).
    Terminate,
    /// As Ctrl-C does (SIGINT).
    Interrupt,
    /// By convention, to read the configuration again (SIGHUP).
    Hangup,
    /// Ends it at once (SIGKILL).
    Kill,
    /// Freezes it (SIGSTOP): alive, connected, and silent.
    Freeze,
    /// Lets a frozen one go on (SIGCONT).
    Thaw,
}

impl Signal {
    fn number(self) -> i32 {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::Hangup => libc::SIGHUP,
            Self::Kill => libc::SIGKILL,
            Self::Freeze => libc::SIGSTOP,
            Self::Thaw => libc::SIGCONT,
        }
    }
}

/// A running program in a process group of its own, with its output in a file. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: OwnedFd,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, in `netns` if given; what it prints is appended to the file `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, netns: Option<&NetNs>, log: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(log).context("open the log")?;
        writeln!(file, "---- {command:?}").context("write to the log")?;
        let again = file.try_clone().context("share the log")?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        let child = spawn(command, netns).with_context(|| format!("start {name}"))?;
        let ended = sys::pidfd(child.id()).context("open a pidfd")?;
        Ok(Self { name: name.to_owned(), child, ended, log: log.to_owned() })
    }

    /// What it was called at its start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, also that of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with its output.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends `signal` to the process, not to its group.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Asked before: until it is waited for, the id cannot have gone to someone else.
        ensure!(self.exited()?.is_none(), "{} has ended", self.name);
        sys::kill(self.pid().cast_signed(), signal.number()).with_context(|| format!("signal {}", self.name))
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// An error that shows the end of the log if the process has ended.
    ///
    /// # Errors
    /// As said.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => {
                let (name, last_words) = (self.name.clone(), tail(&self.log, 20));
                Err(Ended { name, status, last_words }.into())
            }
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it is still running after `within`.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, &self.ended, within)
            .with_context(|| format!("wait for {}", self.name))?
            .with_context(|| format!("{} still runs after {within:?}", self.name))
    }

    /// Asks it to end, and waits; after `within` it is killed and that is an error.
    ///
    /// # Errors
    /// If it had ended before, or had to be killed.
    pub fn stop(&mut self, within: Duration) -> Result<ExitStatus> {
        self.ensure_running()?;
        self.signal(Signal::Terminate)?;
        let status = self.wait(within);
        if status.is_err() {
            self.kill()?;
        }
        status
    }

    /// Kills the whole group at once, and waits until the process is gone. Fine if it has ended already.
    ///
    /// # Errors
    /// If the kernel does not get rid of it.
    pub fn kill(&mut self) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        sys::kill(-self.pid().cast_signed(), libc::SIGKILL).with_context(|| format!("kill {}", self.name))?;
        self.wait(KILL_GRACE).map(drop)
    }
}

/// A program is no more, so that waiting for what it was to do is in vain.
#[derive(Debug)]
pub(crate) struct Ended {
    name: String,
    status: ExitStatus,
    last_words: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended ({}); its last words:\n{}", self.name, self.status, self.last_words)
    }
}

impl std::error::Error for Ended {}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            complain(&format!("{error:#}"));
        }
    }
}

/// The last `lines` lines of a file, or why there are none.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    /// More than the tail of any sane log.
    const LAST_BYTES: u64 = 64 << 10;
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let skipped = file.metadata()?.len().saturating_sub(LAST_BYTES);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", log.display()),
    }
}

/// Says on stderr what cannot be returned, from a `Drop`.
pub(crate) fn complain(text: &str) {
    drop(writeln!(io::stderr(), "e2e: {text}"));
}

/// Starts `command` as a child that dies with this process.
///
/// The kernel ties a child to the *thread* that started it, and test threads come and go, so one thread that never
/// ends starts them all.
pub(crate) fn spawn(mut command: Command, netns: Option<&NetNs>) -> io::Result<Child> {
    type Job = (Command, mpsc::SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Who asked is waiting; if it is gone, the child is dropped with the reply.
                drop(reply.send(command.spawn()));
            }
        });
        jobs
    });
    command.process_group(0);
    sys::tie(&mut command, netns.map(|netns| Arc::clone(netns.fd())));
    let (reply, answer) = mpsc::sync_channel(1);
    SPAWNER.send((command, reply)).expect("the spawner lives as long as its sender, which is static");
    answer.recv().expect("the spawner answers each job")
}

/// Waits until `child` has ended; `None` when `within` has passed before.
pub(crate) fn wait(child: &mut Child, ended: &OwnedFd, within: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match sys::wait_readable(ended, left) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether `status` is the death by `signal`.
pub(crate) fn died_of(status: ExitStatus, signal: i32) -> bool {
    status.signal() == Some(signal)
}
