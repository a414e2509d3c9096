//! What goes out to a request, as hickory-server's message: sections that fit the transport, with room kept for OPT; pure.

use std::iter::{self, Empty};
use std::slice::Iter;
use std::sync::LazyLock;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use hickory_proto::serialize::binary::{BinDecoder, BinEncoder};
use hickory_server::server::{Request, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder, Queries};

use crate::packet::{Limit, refusal};
use crate::zone::{Answer, Question, Zone};

/// Octets that every client takes over UDP (RFC 1035 §2.3.4).
const MIN_UDP_BYTES: u16 = 512;
/// Octets of a header (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;
/// Octets of an OPT record without options (RFC 6891 §6.1.2).
const OPT_BYTES: u16 = 11;
/// Octets of the smallest record: a pointer for a name, 10 fixed octets, an IPv4 address.
const MIN_RECORD_BYTES: u16 = 16;
/// Octets of a record besides its name and its data.
const FIXED_RECORD_BYTES: usize = 10;

/// What a response repeats if the request's own question is not to be repeated.
pub(crate) static NO_QUESTION: LazyLock<Queries> =
    LazyLock::new(|| Queries::read(&mut BinDecoder::new(&[]), 0).expect("there is nothing to read"));

/// hickory-server's message with the sections of a [`Reply`].
pub(crate) type Message<'a> =
    MessageResponse<'a, 'a, Iter<'a, Record>, Iter<'a, Record>, Empty<&'a Record>, Iter<'a, Record>>;

/// A response before it is encoded. It fits the transport that it was made for.
#[derive(Debug)]
pub(crate) struct Reply {
    metadata: Metadata,
    edns: Option<Edns>,
    repeats_question: bool,
    answer: Answer,
}

impl Reply {
    /// Says no to a message of which only the header is known, or worth knowing.
    pub(crate) fn refusal(query: &Metadata, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(query);
        // RFC 4035 §3.1.6: an authoritative answer clears it.
        metadata.checking_disabled = false;
        metadata.response_code = code;
        Self { metadata, edns: None, repeats_question: false, answer: Answer::refusal(code) }
    }

    /// Answers a request, in no more octets than `limit` and the client allow.
    pub(crate) fn to(request: &Request, zone: &Zone, limit: Limit) -> Self {
        let mut reply = Self::refusal(&request.metadata, ResponseCode::FormErr);
        if let Some(code) = refusal(&request.metadata, &counts(request)) {
            reply.metadata.response_code = code;
            return reply;
        }
        let [query] = request.queries.queries() else { return reply };
        reply.repeats_question = true;
        let mut max_bytes = if limit == Limit::Stream { u16::MAX } else { MIN_UDP_BYTES };
        if let Some(theirs) = &request.edns {
            max_bytes = reply.take_edns(theirs, limit);
            if theirs.version() != 0 {
                reply.metadata.response_code = ResponseCode::BADVERS;
                return reply;
            }
        }
        let query = query.original();
        reply.answer = if query.query_class() == DNSClass::IN {
            zone.answer(&Question {
                name: query.name(),
                kind: query.query_type(),
                // Ids are random, so this spreads clients without any state.
                turn: usize::from(request.metadata.id),
                enough: usize::from(max_bytes / MIN_RECORD_BYTES) + 1,
            })
        } else {
            Answer::refusal(ResponseCode::Refused)
        };
        reply.metadata.response_code = reply.answer.code;
        reply.metadata.authoritative = reply.answer.authoritative;
        reply.fit(&request.queries, max_bytes);
        reply
    }

    /// The header of the response, but for its counts.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The response to a request with these questions, for any of hickory-server's response handlers.
    pub(crate) fn message<'a>(&'a self, queries: &'a Queries) -> Message<'a> {
        self.message_with(queries, self.edns.as_ref())
    }

    fn message_with<'a>(&'a self, queries: &'a Queries, edns: Option<&'a Edns>) -> Message<'a> {
        let queries = if self.repeats_question { queries } else { &*NO_QUESTION };
        MessageResponseBuilder::new(queries, edns).build(
            self.metadata,
            &self.answer.answers,
            &self.answer.authority,
            iter::empty(),
            &self.answer.additional,
        )
    }

    /// RFC 6891: takes the client's size, gives ours; repeats the DO bit; knows no options. Tells how long the response may be.
    fn take_edns(&mut self, theirs: &Edns, limit: Limit) -> u16 {
        let (ours, max_bytes) = match limit {
            Limit::Datagram(most) => {
                let most = most.max(MIN_UDP_BYTES);
                (most, theirs.max_payload().clamp(MIN_UDP_BYTES, most))
            }
            Limit::Stream => (u16::MAX, u16::MAX),
        };
        let mut edns = Edns::new();
        edns.set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok).set_max_payload(ours);
        self.edns = Some(edns);
        max_bytes
    }

    /// Leaves out the records for which there is no room, whole ones, and keeps room for OPT, which hickory's encoder does not.
    fn fit(&mut self, queries: &Queries, max_bytes: u16) {
        if self.at_most_bytes(queries) <= usize::from(max_bytes) {
            return;
        }
        let reserved = if self.edns.is_some() { OPT_BYTES } else { 0 };
        let mut scratch = Vec::with_capacity(usize::from(MIN_UDP_BYTES));
        let fits = encode(self.message_with(queries, None), max_bytes - reserved, &mut scratch);
        // What cannot be encoded here cannot be encoded later either, where it is told.
        let Ok(fits) = fits else { return };
        let HeaderCounts { answers, authorities, additionals, .. } = fits.counts();
        let cut = |records: &mut Vec<Record>, count: u16| {
            let whole = records.len() <= usize::from(count);
            records.truncate(usize::from(count));
            whole
        };
        let whole_answer = cut(&mut self.answer.answers, answers);
        let whole_authority = cut(&mut self.answer.authority, authorities);
        // RFC 2181 §9: what is only helpful is left out without setting TC.
        cut(&mut self.answer.additional, additionals);
        self.metadata.truncation = !(whole_answer && whole_authority);
    }

    /// No fewer octets than the response has: names count as if they were not compressed.
    fn at_most_bytes(&self, queries: &Queries) -> usize {
        let Answer { answers, authority, additional, .. } = &self.answer;
        let records = answers.iter().chain(authority).chain(additional);
        let question = HEADER_BYTES + queries.as_bytes().len();
        records.map(at_most_record_bytes).sum::<usize>() + question + usize::from(OPT_BYTES)
    }
}

/// Writes `message` in place of what `bytes` holds.
pub(crate) fn encode<'a>(
    message: MessageResponse<
        '_,
        'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
    >,
    max_bytes: u16,
    bytes: &mut Vec<u8>,
) -> Result<ResponseInfo, ProtoError> {
    bytes.clear();
    let mut encoder = BinEncoder::new(bytes);
    encoder.set_max_size(max_bytes);
    message.destructive_emit(&mut encoder)
}

/// What the header of `request` said, or would say.
fn counts(request: &Request) -> HeaderCounts {
    let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let pseudo = usize::from(request.edns.is_some()) + usize::from(request.signature.is_some());
    HeaderCounts {
        queries: count(request.queries.len()),
        answers: count(request.answers.len()),
        authorities: count(request.authorities.len()),
        additionals: count(request.additionals.len() + pseudo),
    }
}

fn at_most_record_bytes(record: &Record) -> usize {
    let data = if let RData::A(_) = record.data {
        4
    } else if let RData::AAAA(_) = record.data {
        16
    } else if let RData::SRV(srv) = &record.data {
        6 + at_most_name_bytes(&srv.target)
    } else if let RData::SOA(soa) = &record.data {
        20 + at_most_name_bytes(&soa.mname) + at_most_name_bytes(&soa.rname)
    } else if let RData::NS(ns) = &record.data {
        at_most_name_bytes(ns)
    } else {
        // Too rare to be worth a sum; what is longer than everything is measured.
        usize::from(u16::MAX)
    };
    at_most_name_bytes(&record.name) + FIXED_RECORD_BYTES + data
}

/// Every label with its length, and the root.
fn at_most_name_bytes(name: &Name) -> usize {
    name.len() + 2
}
