//! Generic netlink: finding a family by name.

use std::io;

use super::{Message, Netlink, attributes, number};

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Bytes of the generic header: command, version, two reserved.
pub(crate) const HEADER: usize = 4;

/// A request to a family.
pub(crate) fn message(family: u16, flags: u16, command: u8) -> Message {
    const VERSION: u8 = 1;
    Message::new(family, flags).body(&[command, VERSION, 0, 0])
}

impl Netlink {
    /// The number of the family `name`; `None` if the kernel does not have it, also after trying to load its module.
    pub(crate) fn family(&mut self, name: &str) -> io::Result<Option<u16>> {
        let mut request = message(libc::GENL_ID_CTRL as u16, 0, CTRL_CMD_GETFAMILY);
        request.text(CTRL_ATTR_FAMILY_NAME, name);
        let bodies = match self.request(request) {
            Ok(bodies) => bodies,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut found = bodies.iter().flat_map(|body| attributes(body, HEADER));
        let id = found.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID).and_then(|(_, value)| number(value));
        Ok(id.map(u16::from_ne_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_family_is_found_and_an_invented_one_is_not() {
        let mut netlink = Netlink::generic().unwrap();
        assert_eq!(netlink.family("nlctrl").unwrap(), Some(libc::GENL_ID_CTRL as u16));
        assert_eq!(netlink.family("no-such-family").unwrap(), None);
    }
}
