//! What hickory-server's own listeners do with the same handler: the reasons why the sockets are held here.
//!
//! When one of these fails after an update, hickory-server has become better, and decision 0005 wants another look.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::runtime::Handle;

use super::tests::{LOOPBACK, PATIENCE, query};
use super::*;
use crate::fixture::{self, CASES, check};

/// hickory-server's own listeners on two sockets; it ends with the guard.
async fn hickory() -> (hickory_server::Server<Handler>, SocketAddr, SocketAddr) {
    let mut server = hickory_server::Server::new(Handler::new(Published::new(fixture::zone()), 1232));
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let (udp, tcp) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
    server.register_socket(socket);
    server.register_listener(listener, TCP_TIMEOUT, 32);
    (server, udp, tcp)
}

/// The handler is one like any other: it can be served by hickory's listeners, for DNS over TLS or QUIC, say.
#[tokio::test]
async fn the_handler_answers_every_case_behind_hickorys_own_listeners() {
    let (_server, udp, tcp) = hickory().await;
    for case in CASES {
        let mut message = query(&case.query_name(), case.kind);
        check(case, "hickory's TCP", &super::tests::ask_tcp(tcp, &message).await);
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
        check(case, "hickory's UDP", &super::tests::ask_udp(udp, &message).await);
    }
}

#[tokio::test]
async fn hickorys_listener_starts_a_task_for_every_datagram() {
    const DATAGRAMS: usize = 120;
    let (_server, udp, _) = hickory().await;
    tokio::task::yield_now().await;
    let before = Handle::current().metrics().num_alive_tasks();
    let socket = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let bytes = query("svc1.testns.svc.clusterset.local.", RecordType::A).to_vec().unwrap();
    for _ in 0..DATAGRAMS {
        socket.send_to(&bytes, udp).unwrap();
    }
    let peak = timeout(PATIENCE, async {
        loop {
            tokio::task::yield_now().await;
            let alive = Handle::current().metrics().num_alive_tasks();
            // The runtime looks here after 61 turns, when some of them are done already.
            if alive > before + DATAGRAMS / 4 {
                break alive;
            }
        }
    });
    peak.await.expect("tasks that wait for their turn");
}

#[tokio::test]
async fn hickorys_listener_accepts_without_end() {
    let (_server, _, tcp) = hickory().await;
    let before = Handle::current().metrics().num_alive_tasks();
    let more = MAX_CONNECTIONS + 40;
    let mut held = Vec::new();
    for _ in 0..more {
        held.push(TcpStream::connect(tcp).await.unwrap());
    }
    let all = timeout(PATIENCE, async {
        while Handle::current().metrics().num_alive_tasks() < before + more {
            tokio::task::yield_now().await;
        }
    });
    all.await.expect("every connection has its task");
}

#[tokio::test]
async fn hickorys_listener_answers_a_response_that_it_cannot_decode() {
    let (_server, udp, _) = hickory().await;
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let mut response = query("svc1.testns.svc.clusterset.local.", RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    response.truncate(20);
    socket.send_to(&response, udp).await.unwrap();
    let mut bytes = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut bytes)).await.expect("an answer").unwrap();
    let answer = Message::from_vec(&bytes[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
}
