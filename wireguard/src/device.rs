//! What carries a plan out: one trait, three devices, and the choice between them at run time.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_types::{Reason, Rejection};
use serde::Serialize;

use crate::key::{PrivateKey, PublicKey};
use crate::netlink::Netlink;
use crate::plan::{Change, PORT, Tables};

mod boringtun;
mod interface;
mod kernel;
mod memory;

pub use boringtun::Driver;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use boringtun::engine::fuzzing as fuzz_engine;
pub use memory::Memory;

/// Name of the interface.
pub const DEVICE_NAME: &str = "cilium_wg0";
/// Firewall mark of the encrypted packets.
const MARK: u32 = 0x0e00;
/// What encryption adds to a packet, at most: outer IPv6 and UDP header, WireGuard header and tag.
const OVERHEAD: u32 = 80;
/// The least MTU that IPv6 works with.
const MIN_MTU: u32 = 1280;

/// MTU of the device over an underlay of this MTU: 80 bytes less, but never below what IPv6 needs.
pub fn device_mtu(underlay: u32) -> u32 {
    underlay.saturating_sub(OVERHEAD).max(MIN_MTU)
}

/// MTU of the interface that has the node address `address`; `None` if no interface has it.
///
/// # Errors
/// The kernel does not answer over netlink.
pub fn underlay_mtu(address: IpAddr) -> io::Result<Option<u32>> {
    Netlink::route()?.mtu_of(address)
}

/// How a device is set up. It belongs to the network namespace of the thread that opens it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the interface.
    pub name: String,
    /// UDP port for encrypted packets.
    pub port: u16,
    /// MTU of the interface in bytes, see [`device_mtu`].
    pub mtu: u32,
    /// Sender address of the node's own packets into the device, per family; `None` leaves it to the kernel.
    pub sources: [Option<IpAddr>; 2],
    /// Keeps interface and routes when the process ends: until its successor takes over, packets wait or are dropped
    /// instead of leaving in clear. Kernel devices always stay.
    pub persist: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: DEVICE_NAME.to_owned(),
            port: PORT,
            mtu: device_mtu(1500),
            sources: [None, None],
            persist: true,
        }
    }
}

impl Config {
    /// Sender address for packets to an address of the family of `destination`.
    fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        self.sources.iter().flatten().find(|source| source.is_ipv6() == destination.is_ipv6()).copied()
    }
}

/// Which device carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// WireGuard of the kernel.
    Kernel,
    /// WireGuard in this process, on a TUN interface.
    UserSpace,
    /// Nothing: tables only.
    Memory,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::UserSpace => "user-space",
            Self::Memory => "memory",
        })
    }
}

/// Which device is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's if there is one, else user space.
    #[default]
    Auto,
    /// The kernel's, or an error.
    Kernel,
    /// User space.
    UserSpace,
}

/// A device, and what keeps it going.
pub struct Opened {
    /// The device.
    pub device: Box<dyn Device>,
    /// The packet loop, which the caller runs; `None` where the kernel does that.
    pub driver: Option<Driver>,
    /// Why the kernel's device was not taken.
    pub passed_over: Option<Rejection>,
}

/// Opens a device in the network namespace of this thread: interface up, MTU set, reverse path filter off.
///
/// Peers and routes that it already has stay; [`Device::tables`] shows them, and the difference to the first complete
/// plan removes what is stale. Call it within a tokio runtime with I/O and time enabled.
///
/// # Errors
/// [`DeviceError`]; the text says what to do.
pub fn open(choice: Choice, config: &Config, key: &PrivateKey) -> Result<Opened, DeviceError> {
    let passed_over = match choice {
        Choice::UserSpace => None,
        Choice::Auto | Choice::Kernel => match kernel::Kernel::open(config, key) {
            Ok(device) => return Ok(Opened { device: Box::new(device), driver: None, passed_over: None }),
            Err(DeviceError::Unavailable(rejection)) if choice == Choice::Auto => Some(rejection),
            Err(error) => return Err(error),
        },
    };
    let (device, driver) = boringtun::Boringtun::open(config, key)?;
    Ok(Opened { device: Box::new(device), driver: Some(driver), passed_over })
}

/// Something that encrypts between nodes.
///
/// Calls block for as long as the kernel takes to answer, some microseconds per route or peer.
pub trait Device: Send {
    /// Carries out `changes` in their order. A step that fails does not stop the others.
    ///
    /// # Errors
    /// The steps that failed; they are tried again by applying the difference between [`tables`](Self::tables) and the
    /// plan.
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError>;

    /// What the device holds right now, asked from where it is kept.
    ///
    /// # Errors
    /// The kernel does not answer.
    fn tables(&mut self) -> Result<Tables, DeviceError>;

    /// What the device has done so far.
    ///
    /// # Errors
    /// The kernel does not answer.
    fn status(&mut self) -> Result<Status, DeviceError>;

    /// Removes interface, routes and rules, for the end of encryption on this node.
    ///
    /// # Errors
    /// The kernel refuses.
    fn uninstall(&mut self) -> Result<(), DeviceError>;
}

/// Why a device cannot be had or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// This machine does not have this kind of device; another kind may do.
    #[error("{}", .0.detail)]
    Unavailable(Rejection),
    /// Something of this name is in the way.
    #[error(
        "interface {name}: expected none or one of kind {expected}, found kind {found}; remove it with `ip link delete \
         {name}`, or stop the other agent that uses it"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The kind that is wanted.
        expected: &'static str,
        /// The kind that is there.
        found: String,
    },
    /// The UDP port is not free.
    #[error("bind UDP port {port}; another WireGuard device or agent of this node may hold it (`ss -ulpn`)")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses; mostly for want of a capability.
    #[error("{action}; the agent needs CAP_NET_ADMIN and, in user space, /dev/net/tun")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl DeviceError {
    fn unavailable(detail: String) -> Self {
        Self::Unavailable(Rejection::new(Reason::KernelUnsupported, detail))
    }

    /// For `map_err`: what was tried when the system refused.
    fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

/// The steps of one [`Device::apply`] that failed.
#[derive(Debug, thiserror::Error)]
#[error("{} of {steps} changes of the WireGuard device failed, first: {}", failures.len(), failures[0])]
pub struct ApplyError {
    /// How many steps there were.
    pub steps: usize,
    /// The failed ones, at least one.
    pub failures: Vec<Failure>,
}

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    /// The step.
    pub change: Change,
    /// Why.
    pub source: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::SetPeer { key, .. } => write!(f, "set peer {key}")?,
            Change::AddRoute(prefix) => write!(f, "add route {prefix}")?,
            Change::Disallow(prefixes) => write!(f, "take away {} prefixes", prefixes.len())?,
            Change::RemovePeer(key) => write!(f, "remove peer {key}")?,
            Change::RemoveRoute(prefix) => write!(f, "remove route {prefix}")?,
        }
        write!(f, ": {}", self.source)
    }
}

/// Carries out each change and collects the failures.
fn apply_each(changes: &[Change], mut step: impl FnMut(&Change) -> io::Result<()>) -> Result<(), ApplyError> {
    let failed =
        |change: &Change| step(change).err().map(|source| Failure { change: change.clone(), source });
    let failures: Vec<_> = changes.iter().filter_map(failed).collect();
    if failures.is_empty() { Ok(()) } else { Err(ApplyError { steps: changes.len(), failures }) }
}

/// A device and its peers, for `status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Who carries the packets.
    pub kind: DeviceKind,
    /// Name of the interface.
    pub name: String,
    /// Key of this node.
    pub public_key: PublicKey,
    /// UDP port.
    pub port: u16,
    /// MTU of the interface in bytes.
    pub mtu: u32,
    /// The peers, by key.
    pub peers: Vec<PeerStatus>,
    /// Packets that reached no peer; `None` where the kernel does not tell.
    pub counters: Option<Counters>,
}

/// A peer at work. Its age is data: a peer whose last handshake is older than three minutes has no session.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub public_key: PublicKey,
    /// Where its packets go at present: as planned, or from where it was last heard.
    pub endpoint: Option<SocketAddr>,
    /// How many prefixes it owns.
    pub allowed_ips: usize,
    /// Encrypted bytes received from it.
    pub rx_bytes: u64,
    /// Encrypted bytes sent to it.
    pub tx_bytes: u64,
    /// Time since the last completed handshake; `None` if there was none.
    pub last_handshake: Option<Duration>,
    /// Decrypted packets that were dropped, as their sender is not among the peer's prefixes.
    pub rx_refused: Option<u64>,
}

/// Packets of the user-space device that reached no peer, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Handshakes of keys that are no peer.
    pub unknown_key: u64,
    /// Packets of sessions that do not exist (any more).
    pub unknown_session: u64,
    /// Datagrams that are no WireGuard, or fail authentication.
    pub malformed: u64,
    /// Handshakes answered with a cookie, as there were too many.
    pub cookies: u64,
    /// Packets from the node for which no peer has a prefix.
    pub no_peer: u64,
    /// Packets that a socket or the interface did not take.
    pub not_sent: u64,
}

#[cfg(test)]
mod tests;
