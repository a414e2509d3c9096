//! The system calls that the standard library has no safe form of.
#![expect(unsafe_code, reason = "namespaces, process groups and pidfds exist as raw system calls only")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Moves the calling thread into a new, empty network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no pointers, and changes only the calling thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Moves the calling thread into the network namespace `netns`.
pub(crate) fn enter_network(netns: &impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and only the calling thread changes.
    check(unsafe { libc::setns(netns.as_fd().as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Makes what `command` starts die with the thread that starts it, and start in `netns`.
///
/// A program that gives up root (tcpdump, unless told not to) loses the first of the two.
pub(crate) fn tie(command: &mut Command, netns: Option<Arc<OwnedFd>>) {
    let parent = std::process::id().cast_signed();
    let before_exec = move || {
        // SAFETY: system calls without pointers, all allowed between fork and exec.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            // The parent may have died before the line above; its death would go unnoticed.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        netns.as_ref().map_or(Ok(()), enter_network)
    };
    // SAFETY: the closure allocates nothing, takes no lock and makes system calls only.
    unsafe { command.pre_exec(before_exec) };
}

/// Sends `signal` to the process `pid`, or to the whole group if `pid` is negative.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(pid, signal) })
}

/// A descriptor that becomes readable when the child `pid` ends.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; a result that is not negative is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.cast_signed(), 0);
        let fd = i32::try_from(fd).expect("a descriptor fits into an int");
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Waits until `fd` is readable; false when `within` has passed before.
pub(crate) fn wait_readable(fd: &impl AsFd, within: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd is passed, and it lives until the call returns.
    let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
    check(ready)?;
    Ok(ready > 0)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
