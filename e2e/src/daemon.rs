//! The program under test.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::poll;
use crate::tools::isthmus;
use crate::{Exec, Host, Process, Signal};

/// How long a daemon may take from its start until it says that it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(120);

/// How long a daemon may take to end when asked.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Which daemon to start, and how.
#[derive(Clone, Debug)]
pub struct DaemonSpec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    health: Option<SocketAddr>,
}

/// A daemon on a machine of the bed. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    spec: DaemonSpec,
    host: Host,
    process: Process,
}

impl DaemonSpec {
    /// `isthmus <subcommand>`.
    ///
    /// # Errors
    /// If the binary is not built.
    pub fn isthmus(subcommand: &str) -> Result<Self> {
        Ok(Self::program(subcommand, &isthmus()?).arg(subcommand))
    }

    /// Any program; `name` is for messages and the log's file name.
    #[must_use]
    pub fn program(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            health: None,
        }
    }

    /// Another name, for two daemons of one subcommand on one machine.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where it answers `/readyz`, seen from its own machine.
    #[must_use]
    pub fn ready_at(mut self, health: impl Into<SocketAddr>) -> Self {
        self.health = Some(health.into());
        self
    }

    fn start(&self, host: &Host) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        Process::start(&self.name, command, Some(host.netns()), &host.log(&self.name))
    }
}

impl Host {
    /// Starts a daemon here. [`Daemon::wait_ready`] waits for it.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn daemon(&self, spec: DaemonSpec) -> Result<Daemon> {
        self.diary().record_log(&format!("{}: {}", self.name(), spec.name), &self.log(&spec.name));
        let process = spec.start(self)?;
        Ok(Daemon { spec, host: self.clone(), process })
    }

    /// `isthmus` on this machine, to run a command of it to its end.
    ///
    /// # Errors
    /// If the binary is not built.
    pub fn isthmus(&self) -> Result<Exec> {
        Ok(self.exec(isthmus()?))
    }
}

impl Daemon {
    /// What it was called at its start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The file with all it ever printed, over all its lives.
    #[must_use]
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The program, to signal or to watch.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// If it ends before, or is not ready in time; what `/readyz` said is in the error.
    pub fn wait_ready(&mut self) -> Result<()> {
        let health = self.spec.health.context("the test did not say where /readyz is")?;
        let ready = poll(READY_PATIENCE, || {
            self.process.ensure_running()?;
            let answer = self.host.netns().http_get(health, "/readyz")?;
            ensure!(answer.status == 200, "/readyz: {} {}", answer.status, answer.body);
            Ok(())
        });
        ready.with_context(|| format!("wait for {} of {}", self.name(), self.host.name()))
    }

    /// Asks for a path of its health listener.
    ///
    /// # Errors
    /// If it does not answer, or not with 200.
    pub fn health(&self, path: &str) -> Result<String> {
        let health = self.spec.health.context("the test did not say where the health listener is")?;
        let answer = self.host.netns().http_get(health, path)?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// Asks it to end (SIGTERM), and waits.
    ///
    /// # Errors
    /// If it had ended, or must be killed since it does not end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop(STOP_PATIENCE)
    }

    /// Kills it at once, as the out-of-memory killer does.
    ///
    /// # Errors
    /// If it had ended before.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.ensure_running()?;
        self.process.kill()
    }

    /// Starts it again with the same arguments, after stopping it if it runs.
    ///
    /// # Errors
    /// If it does not stop, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.exited()?.is_none() {
            self.stop()?;
        }
        self.process = self.spec.start(&self.host)?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }
}
