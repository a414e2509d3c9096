//! The wire between the machines: a bridge in a namespace of its own, and the hosts that hang on it.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::{Diary, Exec, NetNs};

/// The bridge's name in its namespace.
pub(crate) const BRIDGE: &str = "underlay";

/// The bridge that all hosts of a bed hang on.
#[derive(Debug)]
pub(crate) struct Underlay {
    netns: NetNs,
    /// Where hosts' daemons write their logs.
    dir: PathBuf,
    diary: Diary,
    ports: AtomicU32,
}

/// A machine on the underlay: a node, or a cluster's control plane. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Host {
    netns: NetNs,
    addresses: (Ipv4Addr, Ipv6Addr),
    /// The bridge's end of the cable.
    port: String,
    underlay: Arc<Underlay>,
}

impl Underlay {
    pub(crate) fn new(dir: &Path, diary: Diary) -> Result<Self> {
        let netns = NetNs::new("underlay")?;
        // Without snooping, neighbour discovery works at once.
        netns.ip(&[
            format!("link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
            format!("link set {BRIDGE} up"),
        ])?;
        Ok(Self { netns, dir: dir.to_owned(), diary, ports: AtomicU32::new(1) })
    }

    pub(crate) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// A new machine with the given addresses, by the name `eth0` on the underlay.
    pub(crate) fn attach(self: &Arc<Self>, name: &str, addresses: (Ipv4Addr, Ipv6Addr)) -> Result<Host> {
        let netns = NetNs::new(name)?;
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.netns.ip(&[
            format!("link add {port} type veth peer name eth0 netns {}", netns.path().display()),
            format!("link set {port} master {BRIDGE} up"),
        ])?;
        netns.ip(&[
            format!("address add {}/16 dev eth0", addresses.0),
            format!("address add {}/64 dev eth0 nodad", addresses.1),
            "link set eth0 up".to_owned(),
        ])?;
        Ok(Host { netns, addresses, port, underlay: Arc::clone(self) })
    }
}

impl Host {
    /// Its name, unique in the bed.
    #[must_use]
    pub fn name(&self) -> &str {
        self.netns.name()
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its address on the underlay.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.0
    }

    /// Its IPv6 address on the underlay.
    #[must_use]
    pub fn address6(&self) -> Ipv6Addr {
        self.addresses.1
    }

    /// A program to run on it.
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Exec {
        self.netns.exec(program)
    }

    /// Unplugs it in silence: frames to and from it are lost, while its own interface stays up.
    ///
    /// # Errors
    /// If the bridge refuses.
    pub fn unplug(&self) -> Result<()> {
        self.set_port_state("disabled", 0)
    }

    /// Undoes [`Host::unplug`].
    ///
    /// # Errors
    /// If the bridge refuses.
    pub fn plug_in(&self) -> Result<()> {
        self.set_port_state("forwarding", 3)
    }

    /// A file for the log of `program` on this host.
    #[must_use]
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.underlay.dir.join(format!("{}-{program}.log", self.name()))
    }

    pub(crate) fn diary(&self) -> &Diary {
        &self.underlay.diary
    }

    /// `state` as in the kernel's `BR_STATE_*`.
    fn set_port_state(&self, word: &str, state: u8) -> Result<()> {
        let bridge = self.underlay.netns.exec("bridge").args(["link", "set", "dev", &self.port, "state"]);
        let set = bridge.arg(state.to_string()).stdout();
        set.map(drop).with_context(|| format!("set the port of {} {word}", self.name()))
    }
}
