//! Network namespaces without names: they live as long as somebody holds them open.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io, thread};

use anyhow::{Context, Result};

use crate::{Exec, sys};

/// A network namespace. Clones are the same one; with the last clone and the last process in it, it and its links
/// disappear.
#[derive(Clone, Debug)]
pub struct NetNs {
    name: Arc<str>,
    fd: Arc<OwnedFd>,
}

impl NetNs {
    /// A new one with `lo` up, and forwarding on; `name` is for messages.
    ///
    /// # Errors
    /// If this process may not, or the kernel has no namespaces.
    pub fn new(name: &str) -> Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            sys::unshare_network()?;
            File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
        };
        let fd = thread::scope(|scope| scope.spawn(open).join().expect("system calls do not panic"))
            .context(
                "make a network namespace, which takes root (`make e2e` does without, by a user namespace)",
            )?;
        let netns = Self { name: name.into(), fd: Arc::new(fd) };
        netns.ip(&["link set lo up"])?;
        netns.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            // Addresses are unique here; waiting for duplicates would delay every start by a second.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ])?;
        Ok(netns)
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that opens it, for `nsenter --net=…`, while this process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into()
    }

    /// A program that is to run in it.
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Exec {
        Exec::new(program, Some(self))
    }

    /// Runs `work` on a thread in it: sockets opened there are the namespace's, wherever they are used afterwards.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let within = || sys::enter_network(&self.fd).map(|()| work());
        thread::scope(|scope| match scope.spawn(within).join() {
            Ok(result) => result.with_context(|| format!("enter {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Carries out commands of `ip`, all or up to the first that fails.
    ///
    /// # Errors
    /// If one fails.
    pub fn ip(&self, commands: &[impl AsRef<str>]) -> Result<()> {
        let lines: String = commands.iter().map(|command| format!("{}\n", command.as_ref())).collect();
        let ip = self.exec("ip").args(["-batch", "-"]).stdin(lines.as_str());
        ip.stdout().map(drop).with_context(|| format!("in {}:\n{lines}", self.name))
    }

    /// Sets kernel parameters, as paths below `/proc/sys`.
    ///
    /// # Errors
    /// If there is no such parameter or value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                fs::write(format!("/proc/sys/{key}"), value)
                    .with_context(|| format!("set {key} to {value}"))?;
            }
            Ok(())
        })?
    }

    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }
}
