//! From the bytes of a query to the bytes of its response; pure, and the same for every transport.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseInfo};

use crate::reply::{self, Message, NO_QUESTION, Reply};
use crate::zone::Zone;

/// How long a response may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A datagram: what the client can take, and at most this many octets, which the network carries in one piece.
    Datagram(u16),
    /// A stream: what the length prefix can say.
    Stream,
}

/// A response, and what of it is worth counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The message.
    pub bytes: Vec<u8>,
    /// Type that was asked for; `None` if the question could not be read.
    pub kind: Option<RecordType>,
    /// The response code.
    pub code: ResponseCode,
    /// Whether records were left out for want of room.
    pub truncated: bool,
}

/// Answers one message. `None` if it must not be answered: it is no query, or too short to say to what an answer would be.
pub fn respond(packet: &[u8], zone: &Zone, limit: Limit) -> Option<Response> {
    // Answers do not depend on who asks.
    let client = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let protocol = if limit == Limit::Stream { Protocol::Tcp } else { Protocol::Udp };
    let mut bytes = Vec::new();
    let (kind, info) = match Incoming::read(packet, client, protocol)? {
        Incoming::Refused(reply) => (None, encode(reply.message(&NO_QUESTION), &mut bytes)?),
        Incoming::Asked(request) => {
            let reply = Reply::to(&request, zone, limit);
            (kind(&request), encode(reply.message(&request.queries), &mut bytes)?)
        }
    };
    Some(Response { bytes, kind, code: info.response_code, truncated: info.truncation })
}

/// A message that is to be answered.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Not for what it asks: the header already says so, or the rest cannot be read.
    Refused(Reply),
    /// To be read by the zone.
    Asked(Request),
}

impl Incoming {
    /// Reads one message. `None` if it must not be answered.
    ///
    /// What the header says is judged first: decoding takes room for as many questions as it announces, and a response that cannot
    /// be decoded is a response all the same.
    pub(crate) fn read(packet: &[u8], client: SocketAddr, protocol: Protocol) -> Option<Self> {
        let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
        // RFC 1035 §7.3 and common sense: two servers must not answer each other's responses for ever.
        if header.message_type == MessageType::Response {
            return None;
        }
        if let Some(code) = refusal(&header.metadata, &header.counts) {
            return Some(Self::Refused(Reply::refusal(&header.metadata, code)));
        }
        let asked = Request::from_bytes(packet.to_vec(), client, protocol);
        Some(match asked {
            Ok(request) => Self::Asked(request),
            Err(_garbage) => Self::Refused(Reply::refusal(&header.metadata, ResponseCode::FormErr)),
        })
    }
}

/// Why a message is refused whatever it asks.
pub(crate) fn refusal(metadata: &Metadata, counts: &HeaderCounts) -> Option<ResponseCode> {
    // One question, as all the world asks; RFC 9619. The other sections hold an OPT and perhaps a signature.
    let HeaderCounts { queries, answers, authorities, additionals } = *counts;
    if metadata.op_code != OpCode::Query {
        Some(ResponseCode::NotImp)
    } else if queries != 1 || answers > 1 || authorities > 1 || additionals > 2 {
        Some(ResponseCode::FormErr)
    } else {
        None
    }
}

/// The type that a request asks for, if it asks for one.
pub(crate) fn kind(request: &Request) -> Option<RecordType> {
    request.queries.queries().first().map(|query| query.query_type())
}

fn encode(message: Message<'_>, bytes: &mut Vec<u8>) -> Option<ResponseInfo> {
    match reply::encode(message, u16::MAX, bytes) {
        Ok(info) => Some(info),
        Err(error) => {
            // The parts are ours and were encoded before; a client gets nothing rather than half a message.
            tracing::error!(%error, "a DNS response could not be encoded");
            None
        }
    }
}

#[cfg(test)]
mod tests;
