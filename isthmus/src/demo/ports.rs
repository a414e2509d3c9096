//! Ports on loopback for the daemons, so that two demos at once never get the same ones.

use anyhow::{Context as _, bail};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

/// Below what Linux gives to connections (`net.ipv4.ip_local_port_range` begins at 32768), so that nobody is given one of
/// them by chance between the reservation and the daemon's own listening.
const RANGE: RangeInclusive<u16> = 20_000..=32_000;

/// Ports one after the other. The first is kept open for as long as the block is there: it is how another demo sees that
/// the block is taken.
#[derive(Debug)]
pub(crate) struct Block {
    _lock: TcpListener,
    next: u16,
}

impl Block {
    /// A block of `count` ports beside the lock: from `first` on, or wherever one is free.
    pub(crate) fn reserve(first: Option<u16>, count: usize) -> anyhow::Result<Self> {
        let count = u16::try_from(count).context("count the ports")?;
        if let Some(first) = first {
            return Self::at(first, count).with_context(|| {
                format!("--first-port {first}: ports {first} to {} must be free", first.saturating_add(count))
            });
        }
        let step = usize::from(count) + 1;
        // Demos that start at the same moment begin to look at different places.
        let blocks: Vec<u16> = RANGE.step_by(step).collect();
        let offset = std::process::id() as usize % blocks.len();
        for first in blocks.iter().cycle().skip(offset).take(blocks.len()) {
            if let Ok(block) = Self::at(*first, count) {
                return Ok(block);
            }
        }
        bail!("no {count} free ports in a row between {} and {} on loopback", RANGE.start(), RANGE.end())
    }

    fn at(first: u16, count: u16) -> anyhow::Result<Self> {
        let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let last = first.checked_add(count).context("ports end at 65535")?;
        let lock = TcpListener::bind(address(first)).with_context(|| format!("port {first}"))?;
        for port in first + 1..=last {
            // DNS answers on both.
            TcpListener::bind(address(port)).with_context(|| format!("port {port}"))?;
            UdpSocket::bind(address(port)).with_context(|| format!("port {port} (UDP)"))?;
        }
        Ok(Self { _lock: lock, next: first + 1 })
    }

    /// The next `count` of them.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u16> {
        let ports = (self.next..).take(count).collect::<Vec<_>>();
        self.next = self.next.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_at_once_have_no_port_in_common() {
        let (mut one, mut other) = (Block::reserve(None, 5).unwrap(), Block::reserve(None, 5).unwrap());
        let (one, other) = (one.take(5), other.take(5));
        assert!(one.iter().all(|port| !other.contains(port)), "{one:?} {other:?}");
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = format!("{:#}", Block::reserve(Some(port), 3).unwrap_err());
        assert!(error.contains(&format!("--first-port {port}")), "{error}");
        assert!(error.contains("Address already in use"), "{error}");
    }
}
