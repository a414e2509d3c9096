//! Witnesses that do not know the device: pings made here, and tcpdump.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tempfile::NamedTempFile;

use super::{Netns, PATIENCE, wait_for};

/// The answer to one echo request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// It came back, with the same bytes.
    Returned,
    /// Nothing came in time.
    Lost,
    /// The kernel did not even send it.
    Refused(i32),
}

fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends one echo request with `payload` and waits for its reply for `patience`.
pub(crate) fn ping_once(netns: &Netns, from: IpAddr, to: IpAddr, payload: &[u8], patience: Duration) -> Echo {
    netns.run(|| {
        let (domain, protocol, request, reply, header) = if from.is_ipv4() {
            (Domain::IPV4, Protocol::ICMPV4, 8, 0, 20)
        } else {
            (Domain::IPV6, Protocol::ICMPV6, 128, 129, 0)
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        let identifier = rand::random::<u16>().to_be_bytes();
        let mut message = [&[request, 0, 0, 0, identifier[0], identifier[1], 0, 1], payload].concat();
        if from.is_ipv4() {
            // The kernel fills it in for ICMPv6.
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
        }
        if let Err(error) = socket.send_to(&message, &SocketAddr::new(to, 0).into()) {
            return Echo::Refused(error.raw_os_error().unwrap_or_default());
        }
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; 65_536];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            socket.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = (&socket).read(&mut buffer) else { continue };
            let Some(answer) = buffer.get(header..length) else { continue };
            if answer.first() == Some(&reply)
                && answer.get(4..6) == Some(&identifier)
                && answer[8..] == *payload
            {
                return Echo::Returned;
            }
        }
        Echo::Lost
    })
}

/// Sends `count` echo requests over IPv4 in one go and returns how many of them are answered.
pub(crate) fn burst(netns: &Netns, from: IpAddr, to: IpAddr, count: u16) -> usize {
    netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        let identifier = rand::random::<u16>().to_be_bytes();
        for number in 0..count {
            let number = number.to_be_bytes();
            let mut message = [8, 0, 0, 0, identifier[0], identifier[1], number[0], number[1]];
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
            socket.send_to(&message, &SocketAddr::new(to, 0).into()).unwrap();
        }
        let mut answered = BTreeSet::new();
        socket.set_read_timeout(Some(PATIENCE / 5)).unwrap();
        let mut buffer = [0; 2048];
        while answered.len() < usize::from(count) {
            let Ok(length) = (&socket).read(&mut buffer) else { break };
            if let Some(&[0, 0, _, _, id0, id1, high, low]) = buffer[..length].get(20..28)
                && [id0, id1] == identifier
            {
                answered.insert([high, low]);
            }
        }
        answered.len()
    })
}

/// Pings until it is answered; the first packets may be lost while both sides set up.
pub(crate) fn reaches(netns: &Netns, from: IpAddr, to: IpAddr, payload: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    let mut last = Echo::Lost;
    while Instant::now() < deadline {
        last = ping_once(netns, from, to, payload, Duration::from_secs(1));
        if last == Echo::Returned {
            return;
        }
    }
    panic!("{from} does not reach {to} within {PATIENCE:?}: {last:?}");
}

/// Where the last packet of a capture goes: to all hosts of the wire, and none listens.
const LAST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)), 9);

/// tcpdump on the wire of a namespace.
pub(crate) struct Capture<'a> {
    netns: &'a Netns,
    tcpdump: Child,
    file: Arc<NamedTempFile>,
}

impl<'a> Capture<'a> {
    pub(crate) fn start(netns: &'a Netns) -> Self {
        let file = Arc::new(NamedTempFile::new().unwrap());
        let arguments = ["-Z", "root", "-i", "wan", "-n", "-s", "0", "-U", "--immediate-mode", "-w"];
        let mut tcpdump = netns.run(|| {
            let mut command = Command::new("tcpdump");
            command.args(arguments).arg(file.path()).stderr(Stdio::piped()).stdout(Stdio::null());
            command.spawn().expect("tcpdump is installed")
        });
        let lines = BufReader::new(tcpdump.stderr.as_mut().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("listening on"));
        assert!(ready, "tcpdump does not listen");
        Self { netns, tcpdump, file }
    }

    /// Ends the capture once all that was on the wire until now is in it. Interrupted, tcpdump would leave unread what the
    /// kernel still keeps for it.
    pub(crate) fn stop(mut self) -> Captured {
        let last = format!("the last packet in {}", self.file.path().display());
        let captured = |bytes: Vec<u8>| Captured { bytes, file: Arc::clone(&self.file) };
        let all = wait_for("the last packet of the capture", || {
            self.netns.run(|| {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
                socket.bind_device(Some(b"wan")).unwrap();
                socket.send_to(last.as_bytes(), &LAST.into()).unwrap();
            });
            let captured = captured(std::fs::read(self.file.path()).unwrap());
            captured.contains(last.as_bytes()).then_some(captured)
        });
        let pid = self.tcpdump.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.tcpdump.wait().unwrap();
        all
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        drop(self.tcpdump.kill());
        drop(self.tcpdump.wait());
    }
}

/// What was on the wire.
pub(crate) struct Captured {
    bytes: Vec<u8>,
    file: Arc<NamedTempFile>,
}

impl Captured {
    /// The packets that match `filter`, as tcpdump prints them.
    pub(crate) fn packets(&self, filter: &str) -> Vec<String> {
        let output = Command::new("tcpdump")
            .args(["-Z", "root", "-n", "-r"])
            .arg(self.file.path())
            .arg(format!("({filter}) and not dst host {}", LAST.ip()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    pub(crate) fn contains(&self, bytes: &[u8]) -> bool {
        self.bytes.windows(bytes.len()).any(|window| window == bytes)
    }
}
