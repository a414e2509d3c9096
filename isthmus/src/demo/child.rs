//! The daemons of a cluster: this program again, in a process group of its own and never longer than this one.

use super::cluster::Cluster;
use anyhow::{Context as _, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often it is looked whether one has ended.
const LOOK: Duration = Duration::from_millis(100);
/// So many last lines of a log tell why a daemon has ended.
const LAST_LINES: usize = 3;

/// A daemon. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Daemon {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` with these arguments; it writes to `log`.
    ///
    /// To be called from the main thread: the kernel ends the child when the thread that started it does.
    pub(crate) fn start(what: String, program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("open a log")?;
        let again = file.try_clone().context("open a log")?;
        let child = Command::new(program)
            .args(args)
            .arg(format!("--with-parent={}", std::process::id()))
            .arg("--shutdown-grace=1s")
            // What the caller's environment says is meant for other clusters.
            .env_remove("KUBECONFIG")
            .env_remove("CILIUM_CLUSTER_NAME")
            .env_remove("CILIUM_CLUSTER_ID")
            .env_remove("ISTHMUS_AGENT_SOCKET")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            // Ctrl-C is for this process alone, which then ends them.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {what}"))?;
        Ok(Self { what, child, log: log.to_owned() })
    }

    /// Lets it stand still, or go on.
    pub(crate) fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(self.pid(), signal).with_context(|| format!("signal {}", self.what))
    }

    /// Kills it at once, and waits for its end.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Why it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<anyhow::Error> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(LAST_LINES).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        Some(anyhow!("{} has ended ({status}); it said last:\n  {}", self.what, last.join("\n  ")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns when a daemon has ended, with why.
pub(crate) async fn any_ends(clusters: &mut [Cluster]) -> anyhow::Error {
    loop {
        let ended = clusters.iter_mut().flat_map(Cluster::daemons).find_map(Daemon::ended);
        if let Some(error) = ended {
            return error;
        }
        tokio::time::sleep(LOOK).await;
    }
}
