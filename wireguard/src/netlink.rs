//! Netlink, as much as a device needs: messages as bytes, and a blocking socket that asks and collects the answers.
//!
//! Layouts are those of the kernel's `linux/netlink.h`; integers are in host order, attributes padded to four bytes.

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use zeroize::Zeroizing;

pub(crate) mod generic;
pub(crate) mod route;

/// Request: a node in the list is made if it is missing.
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// Request: refuse if it exists.
pub(crate) const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
/// Request: replace what exists.
pub(crate) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// Request: all of them.
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// The type of an attribute without its flag bits.
const TYPE_MASK: u16 = libc::NLA_TYPE_MASK as u16;
/// The kernel answers at once; this only bounds a broken one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger than any datagram that the kernel puts a dump into.
const RECEIVE_BUFFER: usize = 64 * 1024;

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// Room for a request with a private key, so that no growing leaves a copy of it behind.
const CAPACITY: usize = 512;

/// A request under construction. No `Debug`, as it may hold a private key; its bytes are wiped when it is dropped.
pub(crate) struct Message {
    bytes: Zeroizing<Vec<u8>>,
}

impl Message {
    /// A request of `kind`; it is acknowledged unless it is a [`DUMP`], which ends by itself.
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let ack = if flags & DUMP == DUMP { 0 } else { libc::NLM_F_ACK as u16 };
        let mut bytes = Zeroizing::new(Vec::with_capacity(CAPACITY));
        bytes.resize(HEADER, 0);
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16 | ack | flags).to_ne_bytes());
        Self { bytes }
    }

    /// The fixed part that follows the header.
    pub(crate) fn body(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub(crate) fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A text with its closing zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute made of attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        let length = aligned(self.bytes.len());
        self.bytes.resize(length, 0);
    }

    /// The bytes on the wire, with `sequence` in the header.
    pub(crate) fn finish(mut self, sequence: u32) -> Zeroizing<Vec<u8>> {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// One message of an answer.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of a datagram; ends at the first that is cut off.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let part =
            Part { kind: u16_at(bytes, 4)?, sequence: u32_at(bytes, 8)?, body: bytes.get(HEADER..length)? };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(part)
    })
}

/// The attributes of a body behind its fixed part of `skip` bytes; ends at the first that is cut off.
pub(crate) fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = body.get(aligned(skip)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A value of an attribute as a number; `None` if it is too short.
pub(crate) fn number<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.get(..N)?.try_into().ok()
}

/// A value of an attribute as text, without its closing zero.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// A socket to the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }

    pub(crate) fn generic() -> io::Result<Self> {
        Self::open(libc::NETLINK_GENERIC)
    }

    fn open(protocol: i32) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Sends `message` and returns the bodies of the answer, without the acknowledgement.
    ///
    /// # Errors
    /// The kernel's refusal as `raw_os_error`, or the socket's.
    pub(crate) fn request(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        (&self.socket).write_all(&message.finish(self.sequence))?;
        let mut bodies = Vec::new();
        loop {
            let length = (&self.socket).read(&mut self.buffer)?;
            for part in parts(&self.buffer[..length]).filter(|part| part.sequence == self.sequence) {
                match i32::from(part.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        // Both carry a negative errno, or zero.
                        let code = u32_at(part.body, 0).map_or(0, |code| code as i32);
                        return if code == 0 { Ok(bodies) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => bodies.push(part.body.to_vec()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_message_has_the_bytes_of_the_kernel_header() {
        let mut message = Message::new(0x1234, CREATE).body(&[1, 2, 3]);
        message.text(7, "wg").nest(9, |inner| {
            inner.u16(1, 0x0a0b).u32(2, 0x0102_0304);
        });
        #[rustfmt::skip]
        let golden = [
            0x30, 0, 0, 0, 0x34, 0x12, 0x05, 0x04, 0x2a, 0, 0, 0, 0, 0, 0, 0, // header: request, ack, create
            1, 2, 3, 0,                                                      // body, padded
            7, 0, 7, 0, b'w', b'g', 0, 0,                                    // text, padded
            0x14, 0, 0x09, 0x80,                                             // nest of 20 bytes
            6, 0, 1, 0, 0x0b, 0x0a, 0, 0,                                    // u16, padded
            8, 0, 2, 0, 4, 3, 2, 1,                                          // u32
        ];
        assert_eq!(*message.finish(42), golden);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut message = Message::new(5, 0).body(&[9; 4]);
        message.u32(1, 77).nest(2, |inner| {
            inner.text(3, "name");
        });
        let bytes = message.finish(1);
        let part = parts(&bytes).next().unwrap();
        assert_eq!((part.kind, part.sequence), (5, 1));
        let found: Vec<_> = attributes(part.body, 4).collect();
        assert_eq!(found[0], (1, 77u32.to_ne_bytes().as_slice()));
        assert_eq!(found[1].0, 2);
        assert_eq!(
            attributes(found[1].1, 0).map(|(kind, value)| (kind, text(value))).collect::<Vec<_>>(),
            [(3, "name".to_owned())]
        );
    }

    #[test]
    fn bytes_that_are_cut_off_end_the_walk() {
        let mut message = Message::new(5, 0);
        message.u32(1, 77).u32(2, 78);
        let bytes = message.finish(1);
        for length in 0..bytes.len() {
            assert_eq!(parts(&bytes[..length]).count(), 0, "message cut at {length}");
            let whole = length.saturating_sub(HEADER) / 8;
            assert_eq!(attributes(&bytes[..length], HEADER).count(), whole, "attributes cut at {length}");
        }
        // A length below the header's own must not loop for ever.
        assert_eq!(attributes(&[0, 0, 1, 0, 0, 0, 0, 0], 0).count(), 0);
        assert_eq!(parts(&[0; 32]).count(), 0);
    }

    #[test]
    fn the_kernel_answers_a_dump_of_links() {
        let mut netlink = Netlink::route().unwrap();
        let links = netlink.request(Message::new(libc::RTM_GETLINK, DUMP).body(&[0; 16])).unwrap();
        assert!(!links.is_empty());
    }

    #[test]
    fn the_kernels_refusal_is_an_error_with_its_number() {
        let mut netlink = Netlink::route().unwrap();
        let error = netlink.request(Message::new(libc::RTM_GETLINK, 0).body(&[0; 16])).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
