//! What strangers send: the server stays small, and answers the others.

use hickory_proto::op::{MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::tests::{LOOPBACK, PATIENCE, Running, ask_tcp, ask_udp, query, receive_tcp, send_tcp, start};
use super::*;
use crate::fixture;
use crate::packet::{Limit, respond};

const NAME: &str = "svc1.testns.svc.clusterset.local.";
/// What the tests' server sends at most in a datagram.
const DATAGRAM: Limit = Limit::Datagram(1232);

/// Messages that are no plain question, with the code that they are answered with, if they are.
fn odd_messages() -> Vec<(&'static str, Vec<u8>, Option<ResponseCode>)> {
    let plain = query(NAME, RecordType::A);
    let bytes = |change: fn(&mut hickory_proto::op::Message)| {
        let mut message = plain.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let plain_bytes = bytes(|_| {});
    let announcing = |counts: [u8; 8]| [&plain_bytes[..4], &counts].concat();
    vec![
        ("nothing", vec![], None),
        ("less than a header", plain_bytes[..11].to_vec(), None),
        ("a header alone", plain_bytes[..12].to_vec(), Some(ResponseCode::FormErr)),
        ("half a question", plain_bytes[..20].to_vec(), Some(ResponseCode::FormErr)),
        (
            "a pointer to itself",
            [&plain_bytes[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(),
            Some(ResponseCode::FormErr),
        ),
        (
            "65,535 questions announced",
            announcing([0xff, 0xff, 0, 0, 0, 0, 0, 0]),
            Some(ResponseCode::FormErr),
        ),
        ("65,535 records announced", announcing([0, 1, 0, 0, 0, 0, 0xff, 0xff]), Some(ResponseCode::FormErr)),
        ("no question", bytes(|message| message.queries.clear()), Some(ResponseCode::FormErr)),
        (
            "two questions",
            bytes(|message| message.queries.push(message.queries[0].clone())),
            Some(ResponseCode::FormErr),
        ),
        ("a response", bytes(|message| message.metadata.message_type = MessageType::Response), None),
        ("half a response", [&plain_bytes[..2], &[0x80], &plain_bytes[3..20]].concat(), None),
        ("an update", bytes(|message| message.metadata.op_code = OpCode::Update), Some(ResponseCode::NotImp)),
        (
            "an unknown opcode",
            bytes(|message| message.metadata.op_code = OpCode::Unknown(9)),
            Some(ResponseCode::NotImp),
        ),
        ("EDNS version 1", edns_version_1(), Some(ResponseCode::BADVERS)),
        ("a question with a tail", [&plain_bytes[..], &[0; 1000]].concat(), Some(ResponseCode::NoError)),
    ]
}

fn edns_version_1() -> Vec<u8> {
    let mut message = query(NAME, RecordType::A);
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_version(1).set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

fn series(server: &Running, line: &str) -> bool {
    mesh_runtime::encode(&server.registry).lines().any(|has| has == line)
}

/// Sends `bytes`, then a question; what comes back before the answer to the question.
async fn udp_responses(server: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(bytes).await.unwrap();
    let mut last = query(NAME, RecordType::A);
    last.metadata.id = 9;
    socket.send(&last.to_vec().unwrap()).await.unwrap();
    let mut responses = Vec::new();
    loop {
        let mut response = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut response)).await.expect("an answer").unwrap();
        response.truncate(length);
        if response[..2] == [0, 9] {
            return responses;
        }
        responses.push(response);
    }
}

/// Sends `bytes` as one message, and no more; what comes back until the server closes.
async fn tcp_responses(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut response = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut response)).await.expect("the server closes").unwrap();
    response
}

/// hickory-server's machinery behind the sockets says what the pure function says, octet for octet.
#[tokio::test]
async fn odd_messages_are_answered_over_sockets_as_by_the_pure_function() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let (zone, address) = (fixture::zone(), server.addresses[0]);
    let mut silent = 0;
    for (name, bytes, code) in odd_messages() {
        let datagram = respond(&bytes, &zone, DATAGRAM);
        assert_eq!(datagram.as_ref().map(|response| response.code), code, "{name}");
        let expected: Vec<_> = datagram.into_iter().map(|response| response.bytes).collect();
        assert_eq!(udp_responses(address, &bytes).await, expected, "{name}");
        let stream = respond(&bytes, &zone, Limit::Stream).map_or_else(Vec::new, |response| {
            let length = u16::try_from(response.bytes.len()).unwrap();
            [&length.to_be_bytes()[..], &response.bytes].concat()
        });
        assert_eq!(tcp_responses(address, &bytes).await, stream, "{name}");
        silent += usize::from(code.is_none());
    }
    for transport in ["udp", "tcp"] {
        let dropped = format!(r#"isthmus_dns_packets_dropped_total{{transport="{transport}"}} {silent}"#);
        assert!(series(&server, &dropped), "{dropped}");
        let unreadable = format!(
            r#"isthmus_dns_responses_total{{transport="{transport}",qtype="unreadable",rcode="FORMERR"}} 7"#
        );
        assert!(series(&server, &unreadable), "{unreadable}\n{}", mesh_runtime::encode(&server.registry));
    }
}

#[tokio::test]
async fn what_is_longer_than_any_query_is_dropped_and_counted() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let mut long = query(NAME, RecordType::A).to_vec().unwrap();
    long.resize(MAX_QUERY_BYTES + 1, 0);
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.send_to(&long, server.addresses[0]).await.unwrap();
    let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
    // The length is enough for the server to close.
    stream.write_u16(long.len().try_into().unwrap()).await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.expect("it closes").unwrap(), 0);
    long.truncate(MAX_QUERY_BYTES);
    assert_eq!(udp_responses(server.addresses[0], &long).await.len(), 1, "the longest is answered");
    for transport in ["udp", "tcp"] {
        let dropped = format!(r#"isthmus_dns_packets_dropped_total{{transport="{transport}"}} 1"#);
        assert!(series(&server, &dropped), "{dropped}");
    }
}

/// RFC 7766 §6.2.1.1: a client may send the next query before it has read the answer to the last, and in any pieces.
#[tokio::test]
async fn pipelined_queries_in_small_pieces_are_all_answered_in_order() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let mut all = Vec::new();
    for id in 0..200_u16 {
        let mut message = query(NAME, RecordType::A);
        message.metadata.id = id;
        let bytes = message.to_vec().unwrap();
        all.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        all.extend(bytes);
    }
    let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in all.chunks(7) {
        stream.write_all(piece).await.unwrap();
    }
    for id in 0..200 {
        assert_eq!(receive_tcp(&mut stream).await.metadata.id, id);
    }
}

/// The clock is the runtime's own and jumps to the next timer when nothing else is left to do.
#[tokio::test(start_paused = true)]
async fn rfc7766_6_2_3_an_idle_connection_is_closed_and_so_is_one_that_stops_within_a_message() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    for beginning in [&[][..], &[0], &[0, 40, 1, 2]] {
        let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let begun = Instant::now();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "{beginning:?}");
        assert!(
            begun.elapsed() >= TCP_TIMEOUT - Duration::from_secs(1),
            "{beginning:?}: {:?}",
            begun.elapsed()
        );
        assert!(begun.elapsed() <= TCP_TIMEOUT * 2, "{beginning:?}: {:?}", begun.elapsed());
    }
}

/// Further clients wait their turn outside, and UDP does not notice.
#[tokio::test]
async fn connections_are_bounded_and_the_next_one_is_served_when_one_ends() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let (address, message) = (server.addresses[0], query(NAME, RecordType::A));
    // Once it answers, all of its tasks have begun.
    ask_udp(address, &message).await;
    let before = Handle::current().metrics().num_alive_tasks();
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        send_tcp(&mut stream, &message).await;
        receive_tcp(&mut stream).await;
        held.push(stream);
    }
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        send_tcp(&mut stream, &message).await;
        waiting.push(stream);
    }
    assert_eq!(ask_udp(address, &message).await.answers.len(), 1);
    assert!(series(&server, &format!("isthmus_dns_tcp_connections {MAX_CONNECTIONS}")));
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before + MAX_CONNECTIONS);
    held.pop();
    assert_eq!(receive_tcp(&mut waiting[0]).await.answers.len(), 1);
    held.clear();
    for stream in &mut waiting[1..] {
        assert_eq!(receive_tcp(stream).await.answers.len(), 1);
    }
}

/// The queue is the kernel's, which drops; nothing here grows with what comes in.
#[tokio::test]
async fn a_flood_of_datagrams_starts_no_task_and_ends_with_the_flood() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let (address, message) = (server.addresses[0], query(NAME, RecordType::A));
    ask_udp(address, &message).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let flood: Vec<_> = odd_messages().into_iter().map(|(_, bytes, _)| bytes).collect();
    let socket = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    for round in 0..2_000 {
        // Without a pause: as many as the kernel takes come in at once.
        for bytes in flood.iter().take(10) {
            socket.send_to(bytes, address).unwrap();
        }
        if round % 100 == 0 {
            tokio::task::yield_now().await;
            assert_eq!(tasks(), before);
        }
    }
    let response = loop {
        // What is asked while the kernel's queue is full may be lost, as it may be on any network.
        if let Ok(response) = timeout(Duration::from_secs(1), ask_udp(address, &message)).await {
            break response;
        }
    };
    assert_eq!(response.answers.len(), 1);
    assert_eq!(tasks(), before);
    assert_eq!(ask_tcp(address, &message).await.answers.len(), 1);
}
