//! From the bytes of a query to the bytes of its response; pure, and the same for every transport.

use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use crate::zone::{Answer, Question, Zone};

/// Octets that every client takes over UDP (RFC 1035 §2.3.4).
const MIN_UDP_BYTES: u16 = 512;
/// Octets of an OPT record without options (RFC 6891 §6.1.2).
const OPT_BYTES: u16 = 11;
/// Octets of the smallest record: a pointer for a name, 10 fixed octets, an IPv4 address.
const MIN_RECORD_BYTES: u16 = 16;

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
    let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
    // RFC 1035 §7.3 and common sense: two servers must not answer each other's responses for ever.
    if header.message_type == MessageType::Response {
        return None;
    }
    let mut reply = Reply::to(&header.metadata, limit);
    if header.op_code != OpCode::Query {
        return reply.encode(Answer::refusal(ResponseCode::NotImp));
    }
    // One question, as all the world asks; RFC 9619. The other sections hold an OPT and perhaps a signature.
    let HeaderCounts { queries, answers, authorities, additionals } = header.counts;
    if queries != 1 || answers > 1 || authorities > 1 || additionals > 2 {
        return reply.encode(Answer::refusal(ResponseCode::FormErr));
    }
    let Ok(mut message) = Message::read(&mut BinDecoder::new(packet)) else {
        return reply.encode(Answer::refusal(ResponseCode::FormErr));
    };
    reply.kind = message.queries.first().map(Query::query_type);
    if let Some(edns) = &message.edns {
        reply.take_edns(edns, limit);
        if edns.version() != 0 {
            reply.query = message.queries.pop();
            return reply.encode(Answer::refusal(ResponseCode::BADVERS));
        }
    }
    let query = message.queries.pop()?;
    let answer = if query.query_class() == DNSClass::IN {
        zone.answer(&Question {
            name: query.name(),
            kind: query.query_type(),
            // Ids are random, so this spreads clients without any state.
            turn: usize::from(header.id),
            enough: usize::from(reply.max_bytes / MIN_RECORD_BYTES) + 1,
        })
    } else {
        Answer::refusal(ResponseCode::Refused)
    };
    reply.query = Some(query);
    reply.encode(answer)
}

/// What the response takes over from the query.
struct Reply {
    metadata: Metadata,
    max_bytes: u16,
    kind: Option<RecordType>,
    query: Option<Query>,
    edns: Option<Edns>,
}

impl Reply {
    fn to(query: &Metadata, limit: Limit) -> Self {
        let max_bytes = match limit {
            Limit::Datagram(_) => MIN_UDP_BYTES,
            Limit::Stream => u16::MAX,
        };
        let mut metadata = Metadata::response_from_request(query);
        // RFC 4035 §3.1.6: an authoritative answer clears it.
        metadata.checking_disabled = false;
        Self { metadata, max_bytes, kind: None, query: None, edns: None }
    }

    /// RFC 6891: takes the client's size, gives ours; repeats the DO bit; knows no options.
    fn take_edns(&mut self, theirs: &Edns, limit: Limit) {
        let mut ours = Edns::new();
        ours.set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
        if let Limit::Datagram(most) = limit {
            let most = most.max(MIN_UDP_BYTES);
            self.max_bytes = theirs.max_payload().clamp(MIN_UDP_BYTES, most);
            ours.set_max_payload(most);
        } else {
            ours.set_max_payload(u16::MAX);
        }
        self.edns = Some(ours);
    }

    fn encode(self, answer: Answer) -> Option<Response> {
        let (code, kind) = (answer.code, self.kind);
        match self.try_encode(&answer) {
            Ok((bytes, truncated)) => Some(Response { bytes, kind, code, truncated }),
            Err(error) => {
                // The parts are ours and were encoded before; a client gets nothing rather than half a message.
                tracing::error!(%error, "a DNS response could not be encoded");
                None
            }
        }
    }

    fn try_encode(mut self, answer: &Answer) -> Result<(Vec<u8>, bool), ProtoError> {
        let mut bytes = Vec::with_capacity(usize::from(MIN_UDP_BYTES));
        let mut encoder = BinEncoder::new(&mut bytes);
        let reserved = if self.edns.is_some() { OPT_BYTES } else { 0 };
        encoder.set_max_size(self.max_bytes - reserved);
        let header = encoder.place::<Header>()?;
        if let Some(query) = &self.query {
            query.emit(&mut encoder)?;
        }
        let (answers, whole_answer) = emit(&answer.answers, &mut encoder)?;
        let (authorities, whole_authority) = emit(&answer.authority, &mut encoder)?;
        // RFC 2181 §9: what is only helpful is left out without setting TC.
        let (mut additionals, _) = emit(&answer.additional, &mut encoder)?;
        encoder.set_max_size(self.max_bytes);
        if let Some(mut edns) = self.edns.take() {
            edns.set_rcode_high(answer.code.high());
            Record::from(&edns).emit(&mut encoder)?;
            additionals += 1;
        }
        let truncated = !(whole_answer && whole_authority);
        self.metadata.authoritative = answer.authoritative;
        self.metadata.response_code = answer.code;
        self.metadata.truncation = truncated;
        let queries = u16::from(self.query.is_some());
        let counts = HeaderCounts { queries, answers, authorities, additionals };
        header.replace(&mut encoder, Header { metadata: self.metadata, counts })?;
        Ok((bytes, truncated))
    }
}

/// Writes the records that fit, whole ones; tells how many, and whether that is all.
fn emit(records: &[Record], encoder: &mut BinEncoder<'_>) -> Result<(u16, bool), ProtoError> {
    let (count, whole) = match encoder.emit_all(records.iter()) {
        Ok(count) => (count, true),
        Err(ProtoError::NotAllRecordsWritten { count, .. }) => (count, false),
        Err(error) => return Err(error),
    };
    let count =
        u16::try_from(count).map_err(|_more| ProtoError::Message("more records than a section holds"))?;
    Ok((count, whole))
}

#[cfg(test)]
mod tests;
