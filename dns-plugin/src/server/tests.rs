use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Stdio;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use prometheus_client::registry::Registry;
use tokio::process::Command;

use super::*;
use crate::fixture::{self, CASES, check};
use crate::zone::Zone;

/// What waits for the server gives up after this.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(super) struct Running {
    pub(super) addresses: Vec<SocketAddr>,
    zone: Published,
    pub(super) registry: Registry,
    stop: CancellationToken,
    task: JoinSet<io::Result<()>>,
}

pub(super) async fn start(zone: Zone, addresses: &[SocketAddr]) -> Running {
    let zone = Published::new(zone);
    let mut registry = Registry::with_prefix("isthmus_dns");
    let metrics = Metrics::register(&mut registry, zone.clone());
    let server = Server::bind(addresses, zone.clone(), metrics, 1232).await.unwrap();
    let addresses = server.addresses().unwrap();
    let stop = CancellationToken::new();
    let mut task = JoinSet::new();
    task.spawn(server.serve(stop.clone()));
    Running { addresses, zone, registry, stop, task }
}

pub(super) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub(super) async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut bytes = vec![0; 65535];
    let length = timeout(PATIENCE, socket.recv(&mut bytes)).await.expect("an answer").unwrap();
    Message::from_vec(&bytes[..length]).unwrap()
}

pub(super) async fn send_tcp(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
}

pub(super) async fn receive_tcp(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.expect("an answer").unwrap();
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

pub(super) async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    send_tcp(&mut stream, message).await;
    receive_tcp(&mut stream).await
}

#[tokio::test]
async fn every_case_is_answered_over_udp_and_tcp() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    for case in CASES {
        let mut message = query(&case.query_name(), case.kind);
        check(case, "tcp", &ask_tcp(server.addresses[0], &message).await);
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
        check(case, "udp", &ask_udp(server.addresses[0], &message).await);
    }
}

#[tokio::test]
async fn every_address_given_is_served() {
    let second = SocketAddr::from(([127, 0, 0, 2], 0));
    let server = start(fixture::zone(), &[LOOPBACK, second, "[::1]:0".parse().unwrap()]).await;
    let message = query("svc1.testns.svc.clusterset.local.", RecordType::A);
    assert_eq!(server.addresses.len(), 3);
    for address in server.addresses.iter().take(2) {
        assert_eq!(ask_udp(*address, &message).await.answers.len(), 1, "{address}");
        assert_eq!(ask_tcp(*address, &message).await.answers.len(), 1, "{address}");
    }
    assert_eq!(ask_tcp(server.addresses[2], &message).await.answers.len(), 1, "over IPv6");
}

#[tokio::test]
async fn a_zone_that_is_not_synced_fails_and_the_next_one_answers() {
    let server = start(fixture::empty_zone(), &[LOOPBACK]).await;
    let message = query("svc1.testns.svc.clusterset.local.", RecordType::A);
    for response in
        [ask_udp(server.addresses[0], &message).await, ask_tcp(server.addresses[0], &message).await]
    {
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
        assert!(response.authorities.is_empty(), "nothing that a resolver could keep");
    }
    server.zone.publish(fixture::zone());
    let response = ask_udp(server.addresses[0], &message).await;
    assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::NoError, 1));
}

#[tokio::test]
async fn rfc7766_6_2_1_1_a_truncated_answer_is_whole_over_tcp() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let message = query("big.testns.svc.clusterset.local.", RecordType::A);
    let short = ask_udp(server.addresses[0], &message).await;
    assert!(short.metadata.truncation);
    assert!(short.answers.len() < 300);
    let whole = ask_tcp(server.addresses[0], &message).await;
    assert!(!whole.metadata.truncation);
    let different: BTreeSet<_> = whole.answers.iter().map(fixture::text).collect();
    assert_eq!(different.len(), 300);
}

#[tokio::test]
async fn rfc7766_6_2_1_queries_may_follow_each_other_on_one_connection() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
    for id in 1..=5 {
        let mut message = query("svc1.testns.svc.clusterset.local.", RecordType::A);
        message.metadata.id = id;
        send_tcp(&mut stream, &message).await;
    }
    for id in 1..=5 {
        assert_eq!(receive_tcp(&mut stream).await.metadata.id, id);
    }
}

#[tokio::test]
async fn what_is_no_query_is_dropped_and_disturbs_nobody() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    for garbage in [&b""[..], b"x", &[0xff; 3000]] {
        socket.send_to(garbage, server.addresses[0]).await.unwrap();
    }
    for garbage in [&[0xff, 0xff, 1, 2][..], &[0, 3, 1, 2, 3], &[0, 0]] {
        let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server closes");
        // Unread bytes turn the close into a reset.
        assert!(closed.is_err() || rest.is_empty());
    }
    let message = query("svc1.testns.svc.clusterset.local.", RecordType::A);
    assert_eq!(ask_udp(server.addresses[0], &message).await.answers.len(), 1);
}

#[tokio::test]
async fn responses_are_counted_by_transport_type_and_code() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let address = server.addresses[0];
    for _ in 0..3 {
        ask_udp(address, &query("svc1.testns.svc.clusterset.local.", RecordType::A)).await;
    }
    ask_tcp(address, &query("svc0.testns.svc.clusterset.local.", RecordType::AAAA)).await;
    ask_udp(address, &query("big.testns.svc.clusterset.local.", RecordType::A)).await;
    ask_udp(address, &query(".", RecordType::NS)).await;
    let text = mesh_runtime::encode(&server.registry);
    for line in [
        r#"isthmus_dns_responses_total{transport="udp",qtype="A",rcode="NOERROR"} 4"#,
        r#"isthmus_dns_responses_total{transport="tcp",qtype="AAAA",rcode="NXDOMAIN"} 1"#,
        r#"isthmus_dns_responses_total{transport="udp",qtype="NS",rcode="REFUSED"} 1"#,
        r#"isthmus_dns_responses_truncated_total{transport="udp"} 1"#,
        "isthmus_dns_zone_synced 1",
        "isthmus_dns_zone_services 12",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_taken_port_stops_the_start_and_says_which() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let zone = server.zone.clone();
    let error = Server::bind(&server.addresses, zone.clone(), Metrics::default(), 1232).await.unwrap_err();
    assert!(matches!(error, BindError::Taken { address, .. } if address == server.addresses[0]), "{error}");

    let held = UdpSocket::bind(LOOPBACK).await.unwrap();
    let udp_only = held.local_addr().unwrap();
    let error = Server::bind(&[udp_only], zone, Metrics::default(), 1232).await.unwrap_err();
    assert!(matches!(error, BindError::Taken { .. }), "{error}");
}

#[tokio::test]
async fn the_server_ends_with_its_token_even_with_a_connection_open() {
    let mut server = start(fixture::zone(), &[LOOPBACK]).await;
    let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
    send_tcp(&mut stream, &query("svc1.testns.svc.clusterset.local.", RecordType::A)).await;
    receive_tcp(&mut stream).await;
    server.stop.cancel();
    let ended = timeout(PATIENCE, server.task.join_next()).await.expect("it ends");
    assert!(ended.unwrap().unwrap().is_ok());
}

/// An independent client understands the answers.
#[tokio::test]
async fn dig_reads_the_answers_over_udp_and_tcp() {
    let server = start(fixture::zone(), &[LOOPBACK]).await;
    let port = server.addresses[0].port().to_string();
    for (arguments, expected) in [
        (&["svc1.testns.svc.clusterset.local", "A"][..], &["10.0.0.1"][..]),
        (&["+tcp", "svc6.testns.svc.clusterset.local", "AAAA"], &["1234:abcd::1"]),
        (&["dns-version.clusterset.local", "TXT"], &["\"1.1.0\""]),
        (
            &["_http._tcp.svc1.testns.svc.clusterset.local", "SRV"],
            &["0 100 80 svc1.testns.svc.clusterset.local."],
        ),
        (
            &["+noall", "+comments", "svc0.testns.svc.clusterset.local", "A"],
            &["status: NXDOMAIN", "flags: qr aa"],
        ),
        (
            &["+noall", "+comments", "+ignore", "+noedns", "big.testns.svc.clusterset.local", "A"],
            &["flags: qr aa tc"],
        ),
        (&["+noall", "+comments", "big.testns.svc.clusterset.local", "A"], &["flags: qr aa;", "ANSWER: 300"]),
        (&["+noall", "+comments", "example.org", "A"], &["status: REFUSED"]),
    ] {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &port, "+norecurse", "+time=5", "+tries=2"]).args(arguments);
        let output = dig
            .stdin(Stdio::null())
            .output()
            .await
            .expect("dig (Debian package bind9-dnsutils) is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        for part in expected {
            assert!(text.contains(part), "{arguments:?}: {part:?} is not in {text}");
        }
    }
}
