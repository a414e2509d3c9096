//! WireGuard in this process: a TUN interface on one side, UDP sockets on the other, [`Engine`] in between.
//!
//! ```text
//!  kernel ── TUN ──▶ up ───▶ Engine ──▶ UDP :51871 ──▶ other nodes
//!         ◀── TUN ── down ◀─ Engine ◀── UDP
//!                    tick ─▶ Engine ──▶ UDP          every 250 ms
//! ```
//!
//! Each direction has buffers of its own, made once. Nothing queues here: a full socket stops the reading of the TUN
//! interface, whose own queue in the kernel is bounded and drops.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::interface::Interface;
use super::{ApplyError, Config, Device, DeviceError, DeviceKind, Status, apply_each};
use crate::key::PrivateKey;
use crate::netlink::Netlink;
use crate::plan::{Change, Peer, Tables};

pub(super) mod engine;
mod socket;

use engine::{Engine, Inbound};
use socket::Sockets;

/// How often timers of sessions are looked at; WireGuard counts in seconds.
const TICK: Duration = Duration::from_millis(250);
/// Packets of one direction before the others have their turn.
const BATCH: usize = 64;
/// A packet of any MTU, and what encryption adds.
const BUFFER: usize = 65_536 + 256;

struct Shared {
    engine: Mutex<Engine>,
    tun: AsyncDevice,
    sockets: Sockets,
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        // A panic in between leaves counters behind at worst; sessions authenticate themselves.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends and counts what the network does not take: a peer without route must not stop the others.
    async fn send(&self, to: SocketAddr, packet: &[u8]) {
        if let Err(error) = self.sockets.send(to, packet).await {
            debug!(%to, %error, "encrypted packet not sent");
            self.engine().counters.not_sent += 1;
        }
    }

    /// TUN to network.
    async fn up(&self) -> io::Result<()> {
        let (mut packet, mut out) = (vec![0; BUFFER], vec![0; BUFFER]);
        loop {
            self.tun.readable().await?;
            for _ in 0..BATCH {
                let length = match self.tun.try_recv(&mut packet) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                let sealed = self.engine().outbound(&packet[..length], &mut out);
                if let Some((to, bytes)) = sealed {
                    self.send(to, bytes).await;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Network to TUN.
    async fn down(&self, ipv6: bool) -> io::Result<()> {
        let Some(socket) = self.sockets.of(ipv6) else { return std::future::pending().await };
        let (mut datagram, mut out) = (vec![0; BUFFER], vec![0; BUFFER]);
        loop {
            socket.readable().await?;
            for _ in 0..BATCH {
                let (length, from) = match socket.try_recv_from(&mut datagram) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of some earlier packet; the peer is gone or restarts.
                    Err(error) => {
                        debug!(%error, "network reports an error");
                        break;
                    }
                };
                let opened = self.engine().inbound(Instant::now(), from, &datagram[..length], &mut out);
                let waiting = match opened {
                    Inbound::Nothing { waiting } => waiting,
                    Inbound::Answer { to, bytes, waiting } => {
                        self.send(to, bytes).await;
                        waiting
                    }
                    Inbound::Deliver { packet, waiting } => {
                        self.deliver(packet).await?;
                        waiting
                    }
                };
                if let Some(peer) = waiting {
                    self.send_waiting(peer, &mut out).await;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Writes a decrypted packet to the TUN interface; fails only if that is gone for good.
    async fn deliver(&self, packet: &[u8]) -> io::Result<()> {
        match self.tun.send(packet).await {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Err(error),
            Err(error) => {
                debug!(%error, "decrypted packet not delivered");
                self.engine().counters.not_sent += 1;
                Ok(())
            }
        }
    }

    /// Sends what waited for a session with `peer`.
    async fn send_waiting(&self, peer: u32, out: &mut [u8]) {
        loop {
            let sealed = self.engine().waiting(peer, out);
            let Some((to, bytes)) = sealed else { return };
            self.send(to, bytes).await;
        }
    }

    /// Handshakes, keepalives, expiry.
    async fn ticks(&self) -> io::Result<()> {
        let mut out = vec![0; BUFFER];
        let mut peers = Vec::new();
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.engine().begin_tick(&mut peers);
            for peer in &peers {
                let sealed = self.engine().tick(Instant::now(), *peer, &mut out);
                if let Some((to, bytes)) = sealed {
                    self.send(to, bytes).await;
                }
            }
        }
    }
}

/// The packet loop of a user-space device; clones drive the same device.
#[derive(Clone)]
pub struct Driver(Arc<Shared>);

impl Driver {
    /// Carries packets until `stop`. Dropping the future loses at most the packet in hand.
    ///
    /// # Errors
    /// The TUN interface is gone; the caller opens a new device.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let shared = self.0;
        let work = Box::pin(async {
            tokio::try_join!(shared.up(), shared.down(false), shared.down(true), shared.ticks())
                .map(|_never| ())
        });
        stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
    }
}

/// The user-space device's handle.
pub(super) struct Boringtun {
    shared: Arc<Shared>,
    interface: Interface,
    config: Config,
}

impl Boringtun {
    pub(super) fn open(config: &Config, key: &PrivateKey) -> Result<(Self, Driver), DeviceError> {
        let mut netlink = Netlink::route().map_err(DeviceError::system("open a netlink socket"))?;
        let adopted = Interface::find(&mut netlink, config, "tun")?.is_some();
        let sockets = Sockets::bind(config.port)?;
        let tun = DeviceBuilder::new()
            .name(&config.name)
            .inherit_enable_state()
            .build_async()
            .map_err(DeviceError::system("open the TUN interface"))?;
        if config.persist {
            tun.persist().map_err(DeviceError::system("make the TUN interface persistent"))?;
        }
        let link = Interface::find(&mut netlink, config, "tun")?.ok_or_else(|| {
            DeviceError::unavailable("the TUN interface vanished while it was set up".to_owned())
        })?;
        let interface = Interface::raise(netlink, config, &link)?;
        let engine = Mutex::new(Engine::new(key));
        info!(
            interface = config.name,
            port = config.port,
            mtu = config.mtu,
            adopted,
            "user-space WireGuard device is up"
        );
        let shared = Arc::new(Shared { engine, tun, sockets });
        let driver = Driver(Arc::clone(&shared));
        Ok((Self { shared, interface, config: config.clone() }, driver))
    }
}

impl Device for Boringtun {
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        apply_each(changes, |change| {
            match change {
                Change::SetPeer { key, endpoint, keepalive, allow } => {
                    self.shared.engine().set_peer(Instant::now(), *key, *endpoint, *keepalive, allow);
                }
                Change::Disallow(prefixes) => self.shared.engine().disallow(prefixes),
                Change::RemovePeer(key) => self.shared.engine().remove_peer(key),
                Change::AddRoute(prefix) => self.interface.add_route(*prefix)?,
                Change::RemoveRoute(prefix) => self.interface.remove_route(*prefix)?,
            }
            Ok(())
        })
    }

    fn tables(&mut self) -> Result<Tables, DeviceError> {
        let routes = self.interface.routes()?;
        let engine = self.shared.engine();
        let peers = engine.peers().map(|(key, peer)| {
            let (endpoint, keepalive) = (peer.configured, peer.keepalive);
            (*key, Peer { endpoint, keepalive, allowed_ips: peer.allowed_ips.clone() })
        });
        Ok(Tables { peers: peers.collect(), routes })
    }

    fn status(&mut self) -> Result<Status, DeviceError> {
        let engine = self.shared.engine();
        Ok(Status {
            kind: DeviceKind::UserSpace,
            name: self.config.name.clone(),
            public_key: engine.public_key(),
            port: self.config.port,
            mtu: self.config.mtu,
            peers: engine.peers().map(|(key, peer)| peer.status(*key, Instant::now())).collect(),
            counters: Some(engine.counters),
        })
    }

    fn uninstall(&mut self) -> Result<(), DeviceError> {
        self.interface.uninstall()
    }
}
