//! The UDP sockets of a device: one per family, on the same port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tracing::{info, warn};

use super::super::{DeviceError, MARK};

/// Room for bursts while the loop is elsewhere; the kernel caps it at `net.core.rmem_max` and `wmem_max`.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

pub(super) struct Sockets {
    ipv4: Option<UdpSocket>,
    ipv6: Option<UdpSocket>,
}

impl Sockets {
    /// Binds `port` for both families; one of them suffices, if the kernel does not have the other.
    pub(super) fn bind(port: u16) -> Result<Self, DeviceError> {
        let port_error = |source| DeviceError::Port { port, source };
        let ipv4 = match bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
            Ok(socket) => Some(socket),
            Err(error) if family_is_missing(&error) => None,
            Err(error) => return Err(port_error(error)),
        };
        let ipv6 = match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
            Ok(socket) => Some(socket),
            Err(error) if ipv4.is_some() && family_is_missing(&error) => {
                info!(%error, "no IPv6 here; encrypted packets travel over IPv4 only");
                None
            }
            Err(error) => return Err(port_error(error)),
        };
        Ok(Self { ipv4, ipv6 })
    }

    pub(super) fn of(&self, ipv6: bool) -> Option<&UdpSocket> {
        if ipv6 { self.ipv6.as_ref() } else { self.ipv4.as_ref() }
    }

    pub(super) async fn send(&self, to: SocketAddr, packet: &[u8]) -> io::Result<()> {
        let Some(socket) = self.of(to.is_ipv6()) else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        match socket.try_send_to(packet, to) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.send_to(packet, to).await.map(drop)
            }
            sent => sent.map(drop),
        }
    }
}

fn family_is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Err(error) = socket.set_mark(MARK) {
        warn!(%error, "encrypted packets carry no firewall mark; CAP_NET_ADMIN is missing");
    }
    if let Err(error) = allow_fragments(&socket, address.is_ipv6()) {
        warn!(%error, "encrypted packets larger than the path's MTU will be dropped");
    }
    // Smaller buffers work as well.
    drop(socket.set_recv_buffer_size(SOCKET_BUFFER));
    drop(socket.set_send_buffer_size(SOCKET_BUFFER));
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Clears *don't fragment*, as the kernel's WireGuard does: an inner packet fits the device's MTU, so an outer one that is
/// too large tells of a path that nobody measured, and must still get through.
#[expect(unsafe_code, reason = "no safe wrapper for this socket option")]
fn allow_fragments(socket: &Socket, ipv6: bool) -> io::Result<()> {
    let (level, option, value) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    };
    let value: libc::c_int = value;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call, and the pointer is to a live `c_int` of the length given.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
