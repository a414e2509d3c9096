//! What is on the wire, as tcpdump sees it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::bed::poll;
use crate::process::{died_of, tail};
use crate::{Exec, NetNs, Process};

/// Where the last packet of a capture goes: to all hosts of the link, and none listens.
const LAST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)), 9);

/// How long tcpdump may take to begin, to see what passed, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A capture under way.
#[derive(Debug)]
pub struct Capture<'a> {
    netns: &'a NetNs,
    device: String,
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

impl<'a> Capture<'a> {
    /// Starts to capture what passes `device` in `netns`; `filter` is in tcpdump's language, empty for all. When it
    /// returns, no later packet is missed.
    ///
    /// # Errors
    /// If tcpdump cannot be started or refuses the filter.
    pub(crate) fn start(netns: &'a NetNs, device: &str, filter: &str, dir: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = dir.join(format!("capture-{number}.pcap"));
        let log = dir.join(format!("capture-{number}.log"));
        let mut command = Command::new("tcpdump");
        // -Z root: who gives up root loses the tie to this process. -U: a packet is in the file once it is seen.
        command.args(["-Z", "root", "-U", "--immediate-mode", "-nn", "-i", device, "-w"]).arg(&file).arg(
            if filter.is_empty() { String::new() } else { format!("({filter}) or dst host {}", LAST.ip()) },
        );
        let mut tcpdump = Process::start("tcpdump", command, Some(netns), &log)?;
        poll(PATIENCE, || {
            tcpdump.ensure_running()?;
            ensure!(tail(&log, 10).contains("listening on"), "tcpdump does not listen yet");
            Ok(())
        })?;
        Ok(Self { netns, device: device.to_owned(), tcpdump, file })
    }

    /// Ends the capture once all that passed until now is in it.
    ///
    /// # Errors
    /// If tcpdump had ended before, or its file cannot be read.
    pub fn stop(mut self) -> Result<Captured> {
        // When it is told to end, tcpdump leaves unread what the kernel still keeps for it.
        let last = format!("the last packet in {}", self.file.display());
        poll(PATIENCE, || {
            self.netns.enter(|| self.send(&last))??;
            ensure!(contains(&fs::read(&self.file)?, &last), "not all packets were seen yet");
            Ok(())
        })?;
        let status = self.tcpdump.stop(PATIENCE)?;
        ensure!(status.success() || died_of(status, libc::SIGTERM), "tcpdump ended with {status}");
        let lines = Exec::new("tcpdump", None).args(["-Z", "root", "-nn", "-r"]).arg(&self.file);
        let lines = lines.arg(format!("not dst host {}", LAST.ip())).stdout()?;
        let bytes = fs::read(&self.file).context("read the capture")?;
        Ok(Captured { packets: lines.lines().map(str::to_owned).collect(), bytes })
    }

    fn send(&self, text: &str) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.bind_device(Some(self.device.as_bytes()))?;
        socket.send_to(text.as_bytes(), &LAST.into()).context("send the last packet of the capture")?;
        Ok(())
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len().max(1)).any(|window| window == text.as_bytes())
}

impl Captured {
    /// Whether some packet carries `text` as it is, not encrypted.
    #[must_use]
    pub fn carries(&self, text: &str) -> bool {
        contains(&self.bytes, text)
    }
}
