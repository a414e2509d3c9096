use std::collections::BTreeSet;

use hickory_proto::op::{Edns, EdnsFlags, Message, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use proptest::prelude::*;

use super::*;
use crate::fixture::{self, CASES, check};

const ID: u16 = 0x1234;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, max_payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(max_payload).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn answer(message: &Message, limit: Limit) -> (Message, Vec<u8>) {
    let response = respond(&message.to_vec().unwrap(), &fixture::zone(), limit).unwrap();
    (Message::from_vec(&response.bytes).unwrap(), response.bytes)
}

#[test]
fn every_case_is_answered_over_a_stream_and_in_a_datagram_with_edns() {
    for case in CASES {
        let message = query(&case.query_name(), case.kind);
        let (response, _) = answer(&message, Limit::Stream);
        check(case, "stream", &response);
        assert_eq!(response.queries, message.queries);
        let (response, _) = answer(&with_edns(message, 1232), Limit::Datagram(1232));
        check(case, "datagram", &response);
    }
}

#[test]
fn rfc1035_4_1_1_id_and_rd_are_repeated_and_recursion_is_not_offered() {
    for rd in [false, true] {
        let mut message = query("svc1.testns.svc.clusterset.local.", RecordType::A);
        message.metadata.recursion_desired = rd;
        message.metadata.checking_disabled = true;
        let (response, _) = answer(&message, Limit::Stream);
        let got = response.metadata;
        assert_eq!((got.id, got.message_type, got.op_code), (ID, MessageType::Response, OpCode::Query));
        assert_eq!((got.recursion_desired, got.recursion_available), (rd, false));
        assert!(!got.checking_disabled && !got.authentic_data);
    }
}

#[test]
fn dns_0x20_the_case_of_the_question_comes_back() {
    let message = query("SvC1.tEstNS.sVC.cLUSTERset.LOCAL.", RecordType::A);
    let (response, _) = answer(&message, Limit::Stream);
    assert!(response.queries[0].name.eq_case(&message.queries[0].name));
    assert!(response.answers[0].name.eq_case(&message.queries[0].name));
}

#[test]
fn rfc1035_4_2_1_without_edns_a_datagram_has_at_most_512_octets() {
    let message = query("big.testns.svc.clusterset.local.", RecordType::A);
    for (name, message, limit, octets) in [
        ("no EDNS", message.clone(), Limit::Datagram(1232), 512),
        ("EDNS of 512", with_edns(message.clone(), 512), Limit::Datagram(1232), 512),
        ("EDNS below 512", with_edns(message.clone(), 100), Limit::Datagram(1232), 512),
        ("EDNS of 1232", with_edns(message.clone(), 1232), Limit::Datagram(4096), 1232),
        ("EDNS above ours", with_edns(message.clone(), 4096), Limit::Datagram(1232), 1232),
        ("EDNS of 4096", with_edns(message.clone(), 4096), Limit::Datagram(4096), 4096),
    ] {
        let (response, bytes) = answer(&message, limit);
        assert!(bytes.len() <= octets, "{name}: {}", bytes.len());
        assert!(bytes.len() > octets - 32, "{name}: as many records as fit, in {}", bytes.len());
        assert!(response.metadata.truncation, "{name}");
        assert_eq!(response.edns.is_some(), message.edns.is_some(), "{name}: room was kept for OPT");
        assert!(response.answers.iter().all(fixture::is_big), "{name}");
    }
    let (response, _) = answer(&message, Limit::Stream);
    assert_eq!((response.answers.len(), response.metadata.truncation), (300, false));
}

#[test]
fn rfc2181_9_missing_glue_sets_no_tc() {
    let message = query("_http._tcp.hdls1.testns.svc.clusterset.local.", RecordType::SRV);
    let (response, bytes) = answer(&message, Limit::Datagram(1232));
    assert!(bytes.len() <= 512);
    assert_eq!(response.answers.len(), 5);
    assert!(response.additionals.len() < 6, "this case is about glue that does not fit");
    assert!(!response.metadata.truncation);
}

#[test]
fn truncated_answers_to_different_ids_begin_at_different_places() {
    let mut message = query("big.testns.svc.clusterset.local.", RecordType::A);
    let mut firsts = BTreeSet::new();
    for id in 0..20 {
        message.metadata.id = id;
        firsts.insert(answer(&message, Limit::Datagram(1232)).0.answers[0].to_string());
    }
    assert_eq!(firsts.len(), 20);
}

#[test]
fn rfc6891_opt_is_answered_with_our_size_the_do_bit_and_no_options() {
    let mut message = with_edns(query("svc1.testns.svc.clusterset.local.", RecordType::A), 4096);
    let edns = message.edns.as_mut().unwrap();
    edns.options_mut().insert(EdnsOption::Unknown(65001, vec![1, 2, 3]));
    let (response, _) = answer(&message, Limit::Datagram(1232));
    let edns = response.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
    assert_eq!(*edns.flags(), EdnsFlags { dnssec_ok: true, z: 0 });
    assert!(edns.option(EdnsCode::Unknown(65001)).is_none());
    let (response, _) = answer(&query("svc1.testns.svc.clusterset.local.", RecordType::A), Limit::Stream);
    assert!(response.edns.is_none(), "RFC 6891 7: no OPT unasked");
}

#[test]
fn rfc6891_6_1_3_another_version_is_badvers() {
    let mut message = with_edns(query("svc1.testns.svc.clusterset.local.", RecordType::A), 1232);
    message.edns.as_mut().unwrap().set_version(1);
    let (response, _) = answer(&message, Limit::Datagram(1232));
    // 16 is both BADVERS and BADSIG; which one depends on the record that carries it.
    assert_eq!(u16::from(response.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(response.edns.unwrap().version(), 0);
    assert!(response.answers.is_empty());
}

#[test]
fn other_classes_are_refused() {
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE] {
        let mut message = query("svc1.testns.svc.clusterset.local.", RecordType::A);
        message.queries[0].query_class = class;
        assert_eq!(
            answer(&message, Limit::Stream).0.metadata.response_code,
            ResponseCode::Refused,
            "{class}"
        );
    }
}

#[test]
fn the_probe_of_corednss_forward_plugin_is_answered() {
    let (response, _) = answer(&query(".", RecordType::NS), Limit::Datagram(1232));
    assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    assert!(!response.metadata.authoritative);
}

#[test]
fn other_opcodes_are_not_implemented() {
    for code in [OpCode::Status, OpCode::Notify, OpCode::Update, OpCode::Unknown(9)] {
        let mut message = query("clusterset.local.", RecordType::SOA);
        message.metadata.op_code = code;
        let (response, _) = answer(&message, Limit::Stream);
        assert_eq!(response.metadata.response_code, ResponseCode::NotImp, "{code}");
        assert_eq!(response.metadata.op_code, code);
    }
}

#[test]
fn a_message_with_too_many_parts_is_a_format_error() {
    let base = query("svc1.testns.svc.clusterset.local.", RecordType::A);
    let record = Record::from_rdata(Name::root(), 0, RData::A(std::net::Ipv4Addr::LOCALHOST.into()));
    let mut two_questions = base.clone();
    two_questions.add_query(base.queries[0].clone());
    let mut no_question = base.clone();
    no_question.queries.clear();
    let mut answers = base.clone();
    answers.add_answers([record.clone(), record.clone()]);
    let mut authorities = base.clone();
    authorities.add_authorities([record.clone(), record.clone()]);
    let mut additionals = base.clone();
    additionals.add_additionals([record.clone(), record.clone(), record]);
    for (name, message) in [
        ("two questions", two_questions),
        ("no question", no_question),
        ("two answers", answers),
        ("two authorities", authorities),
        ("three additionals", additionals),
    ] {
        let (response, _) = answer(&message, Limit::Stream);
        assert_eq!(response.metadata.response_code, ResponseCode::FormErr, "{name}");
        assert_eq!(response.metadata.id, ID, "{name}");
    }
}

#[test]
fn a_broken_question_is_a_format_error_and_less_than_a_header_is_silence() {
    let bytes = query("svc1.testns.svc.clusterset.local.", RecordType::A).to_vec().unwrap();
    let zone = fixture::zone();
    for end in 0..bytes.len() {
        let response = respond(&bytes[..end], &zone, Limit::Stream);
        match response {
            None => assert!(end < 12, "{end}"),
            Some(response) => {
                assert!(end >= 12, "{end}");
                assert_eq!(response.code, ResponseCode::FormErr, "{end}");
            }
        }
    }
}

#[test]
fn a_response_is_never_answered() {
    let mut message = query("svc1.testns.svc.clusterset.local.", RecordType::A);
    message.metadata.message_type = MessageType::Response;
    assert_eq!(respond(&message.to_vec().unwrap(), &fixture::zone(), Limit::Stream), None);
}

proptest! {
    /// Garbage is answered with a message within the limit, or not at all; with an id that matches.
    #[test]
    fn no_packet_breaks_the_server(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
        tail in any::<bool>(),
        most in 0u16..2000,
    ) {
        if tail && bytes.len() >= 12 {
            let question = query("hdls1.testns.svc.clusterset.local.", RecordType::ANY).to_vec().unwrap();
            bytes.truncate(2);
            bytes.extend(&question[2..]);
        }
        let zone = fixture::zone();
        for (limit, octets) in [(Limit::Datagram(most), usize::from(most.max(512))), (Limit::Stream, 65535)] {
            if let Some(response) = respond(&bytes, &zone, limit) {
                prop_assert!(response.bytes.len() <= octets);
                prop_assert_eq!(&response.bytes[..2], &bytes[..2]);
                prop_assert!(Message::from_vec(&response.bytes).is_ok());
            }
        }
    }

    /// A byte that is wrong anywhere in a good query never stops the answer to the header.
    #[test]
    fn no_flipped_byte_breaks_the_server(place in 0usize..60, value in any::<u8>()) {
        let message = with_edns(query("_http._tcp.hdls1.testns.svc.clusterset.local.", RecordType::SRV), 4096);
        let mut bytes = message.to_vec().unwrap();
        let place = place % bytes.len();
        bytes[place] = value;
        if let Some(response) = respond(&bytes, &fixture::zone(), Limit::Datagram(1232)) {
            prop_assert!(response.bytes.len() <= 1232);
            prop_assert!(Message::from_vec(&response.bytes).is_ok());
        }
    }
}
