//! The interface of a device as the kernel sees it: up, with its MTU, its routes and the rule that leads to them.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;
use tracing::{info, warn};

use super::{Config, DeviceError, MARK};
use crate::netlink::Netlink;
use crate::netlink::route::Link;

/// An interface that is ready for routes.
pub(super) struct Interface {
    netlink: Netlink,
    index: u32,
    config: Config,
}

impl Interface {
    /// The interface of the configured name, if there is one; refused if it is of another kind.
    pub(super) fn find(
        netlink: &mut Netlink,
        config: &Config,
        kind: &'static str,
    ) -> Result<Option<Link>, DeviceError> {
        let link = netlink.link(&config.name).map_err(DeviceError::system("look for the interface"))?;
        match link {
            Some(link) if link.kind.as_deref() != Some(kind) => Err(DeviceError::NameTaken {
                name: link.name,
                expected: kind,
                found: link.kind.unwrap_or_else(|| "hardware".to_owned()),
            }),
            link => Ok(link),
        }
    }

    /// Brings `link` up and puts the rules in place.
    pub(super) fn raise(mut netlink: Netlink, config: &Config, link: &Link) -> Result<Self, DeviceError> {
        let index = link.index;
        netlink
            .raise_link(index, config.mtu)
            .map_err(DeviceError::system("set MTU and bring the interface up"))?;
        if let Err(error) = netlink.disable_rp_filter(index) {
            warn!(interface = config.name, %error, "rp_filter cannot be turned off; packets of pods may be dropped");
        }
        netlink.add_rule(false, MARK).map_err(DeviceError::system("add the IPv4 routing rule"))?;
        if let Err(error) = netlink.add_rule(true, MARK) {
            info!(%error, "no IPv6 routing rule; IPv6 is not encrypted");
        }
        Ok(Self { netlink, index, config: config.clone() })
    }

    pub(super) fn add_route(&mut self, prefix: IpNet) -> io::Result<()> {
        self.netlink.add_route(self.index, prefix, self.config.source(prefix.addr()))
    }

    pub(super) fn remove_route(&mut self, prefix: IpNet) -> io::Result<()> {
        self.netlink.remove_route(self.index, prefix)
    }

    pub(super) fn routes(&mut self) -> Result<BTreeSet<IpNet>, DeviceError> {
        self.netlink.routes(self.index).map_err(DeviceError::system("list routes"))
    }

    /// Removes the interface, and with it its routes, then the rules.
    pub(super) fn uninstall(&mut self) -> Result<(), DeviceError> {
        self.netlink.delete_link(self.index).map_err(DeviceError::system("delete the interface"))?;
        self.netlink.remove_rule(false, MARK).map_err(DeviceError::system("remove the IPv4 routing rule"))?;
        if let Err(error) = self.netlink.remove_rule(true, MARK) {
            info!(%error, "no IPv6 routing rule was removed");
        }
        Ok(())
    }
}
