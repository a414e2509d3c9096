//! What is on the wire, as tcpdump sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::poll;
use crate::process::{died_of, tail};
use crate::{Exec, NetNs, Process};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

/// The packets of a finished capture.
#[derive(Debug)]
pub struct Captured {
    /// One line a packet, as `tcpdump -nn` prints it.
    pub packets: Vec<String>,
    bytes: Vec<u8>,
}

impl Capture {
    /// Starts to capture what passes `device` in `netns`; `filter` is in tcpdump's language, empty for all. When it
    /// returns, no later packet is missed.
    ///
    /// # Errors
    /// If tcpdump cannot be started or refuses the filter.
    pub(crate) fn start(netns: &NetNs, device: &str, filter: &str, dir: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = dir.join(format!("capture-{number}.pcap"));
        let log = dir.join(format!("capture-{number}.log"));
        let mut command = Command::new("tcpdump");
        // -Z root: who gives up root loses the tie to this process. -U: a packet is in the file once it is seen.
        command
            .args(["-Z", "root", "-U", "--immediate-mode", "-nn", "-i", device, "-w"])
            .arg(&file)
            .arg(filter);
        let mut tcpdump = Process::start("tcpdump", command, Some(netns), &log)?;
        poll(Duration::from_secs(10), || {
            tcpdump.ensure_running()?;
            ensure!(tail(&log, 10).contains("listening on"), "tcpdump does not listen yet");
            Ok(())
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// If tcpdump had ended before, or its file cannot be read.
    pub fn stop(mut self) -> Result<Captured> {
        let status = self.tcpdump.stop(Duration::from_secs(10))?;
        ensure!(status.success() || died_of(status, libc::SIGTERM), "tcpdump ended with {status}");
        let lines = Exec::new("tcpdump", None).args(["-Z", "root", "-nn", "-r"]).arg(&self.file).stdout()?;
        let bytes = fs::read(&self.file).context("read the capture")?;
        Ok(Captured { packets: lines.lines().map(str::to_owned).collect(), bytes })
    }
}

impl Captured {
    /// Whether some packet carries `text` as it is, not encrypted.
    #[must_use]
    pub fn carries(&self, text: &str) -> bool {
        self.bytes.windows(text.len().max(1)).any(|window| window == text.as_bytes())
    }
}
