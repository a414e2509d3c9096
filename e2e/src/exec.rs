//! Programs that run to their end: `kubectl`, `ip`, `dig`, `curl`.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::{NetNs, process, sys};

/// A program about to run in one of the bed's namespaces.
#[derive(Debug)]
#[must_use = "nothing runs until `output` or `stdout`"]
pub struct Exec {
    command: Command,
    netns: Option<NetNs>,
    stdin: Vec<u8>,
    within: Duration,
}

/// What a program did.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Exec {
    /// `program` in the namespace of this process, or in `netns`; it is killed if it takes more than two minutes.
    pub fn new(program: impl AsRef<OsStr>, netns: Option<&NetNs>) -> Self {
        let within = Duration::from_secs(120);
        Self { command: Command::new(program), netns: netns.cloned(), stdin: Vec::new(), within }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// One more variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The directory that it starts in.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Runs it, and gives what it printed; ending with another code than 0 is no error.
    ///
    /// # Errors
    /// If it cannot be started, or takes too long and is killed.
    pub fn output(mut self) -> Result<Output> {
        let shown = self.shown();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            process::spawn(self.command, self.netns.as_ref()).with_context(|| format!("start `{shown}`"))?;
        let ended = sys::pidfd(child.id()).context("open a pidfd")?;
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let status = thread::scope(|scope| {
            // A program that does not read its input is free not to.
            scope.spawn(|| {
                let _written = stdin.write_all(&self.stdin);
                drop(stdin);
            });
            let stdout = scope.spawn(move || read_all(stdout));
            let stderr = scope.spawn(move || read_all(stderr));
            let status = process::wait(&mut child, &ended, self.within)?;
            if status.is_none() {
                sys::kill(-child.id().cast_signed(), libc::SIGKILL)?;
                child.wait()?;
            }
            let joined =
                |reader: thread::ScopedJoinHandle<'_, String>| reader.join().expect("reading does not panic");
            anyhow::Ok((status, joined(stdout), joined(stderr)))
        });
        match status.with_context(|| format!("run `{shown}`"))? {
            (Some(status), stdout, stderr) => Ok(Output { status, stdout, stderr }),
            (None, stdout, stderr) => bail!("`{shown}` took more than {:?}\n{stdout}{stderr}", self.within),
        }
    }

    /// Runs it, and gives its standard output.
    ///
    /// # Errors
    /// As [`Exec::output`], and if it ends with another code than 0; what it complained about is in the error.
    pub fn stdout(self) -> Result<String> {
        let shown = self.shown();
        let output = self.output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(anyhow!("`{shown}`: {}\n{}{}", output.status, output.stderr.trim_end(), output.stdout.trim_end()))
    }

    fn shown(&self) -> String {
        let program = Path::new(self.command.get_program());
        let program = program.file_name().unwrap_or(program.as_os_str());
        let words = std::iter::once(program).chain(self.command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is worth more than the error.
    let _read = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
