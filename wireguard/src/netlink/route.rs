//! Links, routes and rules of one network namespace.
//!
//! The device's routes have a table of their own, which a rule puts before the main one for all packets but the encrypted
//! ones. So they neither replace a route that someone else made nor send an encrypted packet back into the device.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{CREATE, DUMP, EXCLUSIVE, Message, Netlink, REPLACE, attributes, number, text};

/// Routing table of the device's routes, also their protocol number in `ip route`.
pub(crate) const TABLE: u8 = 151;
/// Priority of the rule that leads to it: behind `local`, before `main`.
const RULE_PRIORITY: u32 = 90;
/// The bits of the firewall mark that tell encrypted packets apart.
const MARK_MASK: u32 = 0x0f00;

const LINK_BODY: usize = 16;
const ROUTE_BODY: usize = 12;
const ADDRESS_BODY: usize = 8;

/// `linux/rtnetlink.h`, `linux/if_link.h`, `linux/fib_rules.h`, `linux/ip.h`: numbers that `libc` does not have.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// `tun`, `wireguard`, …; `None` for hardware.
    pub(crate) kind: Option<String>,
}

fn link_body(index: u32, up: Option<bool>) -> [u8; LINK_BODY] {
    let mut body = [0; LINK_BODY];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = up {
        let flag = libc::IFF_UP as u32;
        body[8..12].copy_from_slice(&(if up { flag } else { 0 }).to_ne_bytes());
        body[12..16].copy_from_slice(&flag.to_ne_bytes());
    }
    body
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: super::u32_at(body, 4)?, name: String::new(), mtu: 0, kind: None };
    for (kind, value) in attributes(body, LINK_BODY) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = u32::from_ne_bytes(number(value)?),
            libc::IFLA_LINKINFO => {
                let kinds = attributes(value, 0).filter(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                link.kind = kinds.map(|(_, value)| text(value)).next();
            }
            _ => {}
        }
    }
    Some(link)
}

impl Netlink {
    /// The interface of this name, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0).body(&link_body(0, None));
        message.text(libc::IFLA_IFNAME, name);
        match self.request(message) {
            Ok(bodies) => Ok(bodies.iter().find_map(|body| parse_link(body))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn create_link(&mut self, name: &str, kind: &str) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE).body(&link_body(0, None));
        message.text(libc::IFLA_IFNAME, name).nest(libc::IFLA_LINKINFO, |info| {
            info.attribute(libc::IFLA_INFO_KIND, kind.as_bytes());
        });
        self.request(message).map(drop)
    }

    /// Deletes the interface; one that is not there is no error.
    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let message = Message::new(libc::RTM_DELLINK, 0).body(&link_body(index, None));
        unless(libc::ENODEV, self.request(message))
    }

    /// Sets the MTU, then brings the interface up.
    pub(crate) fn raise_link(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0).body(&link_body(index, Some(true)));
        message.u32(libc::IFLA_MTU, mtu);
        self.request(message).map(drop)
    }

    /// Lets packets in whose source the kernel would send elsewhere: answers of a pod need not take the same way.
    pub(crate) fn disable_rp_filter(&mut self, index: u32) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_SETLINK, 0).body(&link_body(index, None));
        message.nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(libc::AF_INET as u16, |inet| {
                inet.nest(IFLA_INET_CONF, |conf| {
                    conf.u32(IPV4_DEVCONF_RP_FILTER, 0);
                });
            });
        });
        self.request(message).map(drop)
    }

    /// MTU of the interface that has this address.
    pub(crate) fn mtu_of(&mut self, address: IpAddr) -> io::Result<Option<u32>> {
        let octets = octets(address);
        let dump = self.request(Message::new(libc::RTM_GETADDR, DUMP).body(&[0; ADDRESS_BODY]))?;
        let holds = |body: &&Vec<u8>| {
            attributes(body, ADDRESS_BODY)
                .any(|(kind, value)| matches!(kind, libc::IFA_ADDRESS | libc::IFA_LOCAL) && value == octets)
        };
        let Some(index) = dump.iter().find(holds).and_then(|body| super::u32_at(body, 4)) else {
            return Ok(None);
        };
        let links = self.request(Message::new(libc::RTM_GETLINK, 0).body(&link_body(index, None)))?;
        Ok(links.iter().find_map(|body| parse_link(body)).map(|link| link.mtu))
    }

    /// Hands packets to `prefix` to interface `index`. `source` is the address the node itself takes as sender.
    pub(crate) fn add_route(&mut self, index: u32, prefix: IpNet, source: Option<IpAddr>) -> io::Result<()> {
        self.request(route(libc::RTM_NEWROUTE, CREATE | REPLACE, index, prefix, source)).map(drop)
    }

    /// Takes the route away; one that is not there is no error.
    pub(crate) fn remove_route(&mut self, index: u32, prefix: IpNet) -> io::Result<()> {
        unless(libc::ESRCH, self.request(route(libc::RTM_DELROUTE, 0, index, prefix, None)))
    }

    /// The prefixes that are routed to interface `index` by [`TABLE`].
    pub(crate) fn routes(&mut self, index: u32) -> io::Result<BTreeSet<IpNet>> {
        let dump = self.request(Message::new(libc::RTM_GETROUTE, DUMP).body(&[0; ROUTE_BODY]))?;
        Ok(dump.iter().filter_map(|body| parse_route(body, index)).collect())
    }

    /// Puts [`TABLE`] before the main one for packets that do not carry `mark`.
    pub(crate) fn add_rule(&mut self, ipv6: bool, mark: u32) -> io::Result<()> {
        unless(libc::EEXIST, self.request(rule(libc::RTM_NEWRULE, CREATE | EXCLUSIVE, ipv6, mark)))
    }

    /// Takes the rule away; one that is not there is no error.
    pub(crate) fn remove_rule(&mut self, ipv6: bool, mark: u32) -> io::Result<()> {
        unless(libc::ENOENT, self.request(rule(libc::RTM_DELRULE, 0, ipv6, mark)))
    }
}

/// Success also when the kernel says `accepted`.
fn unless(accepted: i32, answer: io::Result<Vec<Vec<u8>>>) -> io::Result<()> {
    match answer {
        Err(error) if error.raw_os_error() != Some(accepted) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn af(ipv6: bool) -> u8 {
    (if ipv6 { libc::AF_INET6 } else { libc::AF_INET }) as u8
}

fn route(kind: u16, flags: u16, index: u32, prefix: IpNet, source: Option<IpAddr>) -> Message {
    let mut body = [0; ROUTE_BODY];
    body[0] = af(prefix.addr().is_ipv6());
    body[1] = prefix.prefix_len();
    body[4] = TABLE;
    body[5] = TABLE; // protocol
    body[6] = if prefix.addr().is_ipv4() { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    body[7] = libc::RTN_UNICAST;
    let mut message = Message::new(kind, flags).body(&body);
    message.attribute(libc::RTA_DST, &octets(prefix.network())).u32(libc::RTA_OIF, index);
    if let Some(source) = source {
        message.attribute(libc::RTA_PREFSRC, &octets(source));
    }
    message
}

fn parse_route(body: &[u8], index: u32) -> Option<IpNet> {
    let (family, length, table, kind) = (*body.first()?, *body.get(1)?, *body.get(4)?, *body.get(7)?);
    if table != TABLE || kind != libc::RTN_UNICAST {
        return None;
    }
    let mut destination = if family == af(true) { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
    let mut device = None;
    for (kind, value) in attributes(body, ROUTE_BODY) {
        match kind {
            libc::RTA_DST if family == af(true) => destination = IpAddr::from(number::<16>(value)?),
            libc::RTA_DST => destination = IpAddr::from(number::<4>(value)?),
            libc::RTA_OIF => device = Some(u32::from_ne_bytes(number(value)?)),
            _ => {}
        }
    }
    if device != Some(index) {
        return None;
    }
    IpNet::new(destination, length).ok()
}

fn rule(kind: u16, flags: u16, ipv6: bool, mark: u32) -> Message {
    let mut body = [0; ROUTE_BODY];
    body[0] = af(ipv6);
    body[4] = TABLE;
    body[7] = FR_ACT_TO_TBL;
    body[8..12].copy_from_slice(&FIB_RULE_INVERT.to_ne_bytes());
    let mut message = Message::new(kind, flags).body(&body);
    message
        .u32(FRA_PRIORITY, RULE_PRIORITY)
        .u32(FRA_FWMARK, mark)
        .u32(FRA_FWMASK, MARK_MASK)
        .u32(FRA_TABLE, u32::from(TABLE));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_route_has_these_bytes() {
        let message = route(libc::RTM_NEWROUTE, CREATE | REPLACE, 9, "10.1.2.0/24".parse().unwrap(), None);
        #[rustfmt::skip]
        let golden = [
            44, 0, 0, 0, 24, 0, 0x05, 0x05, 1, 0, 0, 0, 0, 0, 0, 0, // RTM_NEWROUTE, request ack replace create
            2, 24, 0, 0, 151, 151, 253, 1, 0, 0, 0, 0,              // AF_INET, /24, table, protocol, scope link, unicast
            8, 0, 1, 0, 10, 1, 2, 0,                                // RTA_DST
            8, 0, 4, 0, 9, 0, 0, 0,                                 // RTA_OIF
        ];
        assert_eq!(*message.finish(1), golden);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_rule_has_these_bytes() {
        #[rustfmt::skip]
        let golden = [
            60, 0, 0, 0, 32, 0, 0x05, 0x06, 1, 0, 0, 0, 0, 0, 0, 0, // RTM_NEWRULE, request ack create exclusive
            10, 0, 0, 0, 151, 0, 0, 1, 2, 0, 0, 0,                  // AF_INET6, table, to table, inverted
            8, 0, 6, 0, 90, 0, 0, 0,                                // FRA_PRIORITY
            8, 0, 10, 0, 0, 0x0e, 0, 0,                             // FRA_FWMARK
            8, 0, 16, 0, 0, 0x0f, 0, 0,                             // FRA_FWMASK
            8, 0, 15, 0, 151, 0, 0, 0,                              // FRA_TABLE
        ];
        assert_eq!(*rule(libc::RTM_NEWRULE, CREATE | EXCLUSIVE, true, 0x0e00).finish(1), golden);
    }

    #[test]
    fn a_route_that_is_written_is_read_again() {
        for text in ["10.1.2.0/24", "0.0.0.0/0", "10.1.2.3/32", "fd00:1::/64", "::/0"] {
            let prefix: IpNet = text.parse().unwrap();
            let bytes = route(libc::RTM_NEWROUTE, 0, 9, prefix, None).finish(1);
            assert_eq!(parse_route(&bytes[16..], 9), Some(prefix));
            assert_eq!(parse_route(&bytes[16..], 8), None, "another interface");
        }
    }

    #[test]
    fn the_loopback_is_found_by_name_and_address_and_nothing_else_is() {
        let mut netlink = Netlink::route().unwrap();
        let link = netlink.link("lo").unwrap().unwrap();
        assert_eq!((link.index, link.name.as_str(), link.kind), (1, "lo", None));
        assert_eq!(netlink.mtu_of([127, 0, 0, 1].into()).unwrap(), Some(link.mtu));
        assert_eq!(netlink.link("not-there-0").unwrap(), None);
        assert_eq!(netlink.mtu_of([203, 0, 113, 77].into()).unwrap(), None);
    }
}
