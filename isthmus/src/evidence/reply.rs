//! What a DNS server answers.

use anyhow::{Context as _, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use mesh_explain::DnsReply;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

/// When a datagram without an answer is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// More than any answer over UDP.
const MAX_BYTES: usize = 65_535;

/// Asks for the addresses of a name, IPv4 first.
pub(crate) async fn ask(server: SocketAddr, name: &str) -> anyhow::Result<DnsReply> {
    let first = query(server, name, RecordType::A).await?;
    if first.code != "NOERROR" || !first.answers.is_empty() {
        return Ok(first);
    }
    query(server, name, RecordType::AAAA).await
}

async fn query(server: SocketAddr, name: &str, kind: RecordType) -> anyhow::Result<DnsReply> {
    let id = rand::random();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).context("read the name")?;
    message.add_query(Query::query(name, kind));
    let bytes = message.to_vec().context("write the question")?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.context("open a socket")?;
    socket.connect(server).await.with_context(|| format!("DNS server {server}"))?;
    let mut buffer = vec![0; MAX_BYTES];
    let length = loop {
        socket.send(&bytes).await.with_context(|| format!("DNS server {server}"))?;
        if let Ok(received) = tokio::time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            break received.with_context(|| format!("DNS server {server}"))?;
        }
    };
    let answer = Message::from_vec(&buffer[..length]).context("read the answer")?;
    ensure!(answer.metadata.id == id, "the DNS server {server} answers another question");
    let answers = answer.answers.iter().map(|record| record.data.to_string()).collect();
    Ok(DnsReply { code: code(answer.metadata.response_code), answers })
}

/// As `dig` writes it.
fn code(code: ResponseCode) -> String {
    let known = [
        (ResponseCode::NoError, "NOERROR"),
        (ResponseCode::NXDomain, "NXDOMAIN"),
        (ResponseCode::ServFail, "SERVFAIL"),
        (ResponseCode::Refused, "REFUSED"),
    ];
    let found = known.iter().find(|(known, _)| *known == code);
    found.map_or_else(|| code.to_str(), |(_, word)| *word).to_owned()
}
