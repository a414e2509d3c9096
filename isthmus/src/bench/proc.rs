//! What a process has used, as `/proc` tells it.

use anyhow::Context as _;
use std::time::Duration;

/// Ticks per second in `/proc/<pid>/stat`; the kernel's promise to programs, whatever its own clock is.
const TICKS_PER_SECOND: u32 = 100;

/// What a process has used since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time on a processor, in user and kernel mode, of all threads.
    pub(crate) cpu: Duration,
    /// Resident now.
    pub(crate) resident_bytes: u64,
    /// The part of it that no file backs.
    pub(crate) anonymous_bytes: u64,
    /// Most that was ever resident.
    pub(crate) peak_bytes: u64,
}

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("read {path}: has the server ended?"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let parsed = cpu(&stat).and_then(|cpu| {
            Some(Self {
                cpu,
                resident_bytes: bytes(&status, "VmRSS:")?,
                anonymous_bytes: bytes(&status, "RssAnon:")?,
                peak_bytes: bytes(&status, "VmHWM:")?,
            })
        });
        parsed.with_context(|| {
            format!("process {pid} has no memory and times of its own: has the server ended?")
        })
    }
}

/// User and system time of a `stat` line. The name in parentheses may hold anything, also parentheses.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let total = ticks.next()?.ok()? + ticks.next()?.ok()?;
    Some(Duration::from_secs(total.into()) / TICKS_PER_SECOND)
}

/// A field of `status` in kB, as bytes.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_a_name_with_parentheses_and_spaces() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 3 0 100 1 1";
        assert_eq!(cpu(stat), Some(Duration::from_millis(2810)));
        assert_eq!(cpu("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_memory_and_a_process_that_is_not_there_is_an_error() {
        let own = Usage::of(std::process::id()).unwrap();
        assert!(own.anonymous_bytes > 0 && own.resident_bytes >= own.anonymous_bytes);
        assert!(own.peak_bytes >= 1 << 16);
        assert!(Usage::of(u32::MAX).unwrap_err().to_string().contains("has the server ended"));
    }
}
