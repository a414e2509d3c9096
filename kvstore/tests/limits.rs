//! What one client may take of a server: calls on a connection, connections, watches on a stream, memory. Whoever wants
//! more is told so, or waits; nobody else notices.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "battery/battery.rs"]
mod battery;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use battery::{
    bed::{self, Bed, Pki},
    clients::put,
    within,
};
use bytes::{BufMut, Bytes, BytesMut};
use etcd_client::WatchOptions;
use h2::client::{ResponseFuture, SendRequest};
use kvstore::{
    proto::etcdserverpb as pb,
    server::{Listen, ServerConfig},
};
use prost::Message;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::RwLock,
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;

/// Held alone by a test that measures the memory of the process, which all of them share.
static MEMORY: RwLock<()> = RwLock::const_new(());

const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// HTTP/2 frames by mutual TLS, from a client that does as it likes.
struct Frames(TlsStream<TcpStream>);

/// What a server says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// It was begun: there are headers.
    Begun,
    /// It was ended with this code of HTTP/2.
    Reset(u32),
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;
const CANCEL: u32 = 8;
const REFUSED_STREAM: u32 = 7;

impl Frames {
    async fn open(pki: &Pki, port: u16) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.path("ca.crt")).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_file(pki.path("client.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(pki.path("client.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = config.with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
        let mut frames = Self(stream);
        frames.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        frame.put_slice(&[kind, flags]);
        frame.put_u32(stream);
        frame.put_slice(payload);
        self.0.write_all(&frame).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Begins a watch, whose stream stays open.
    async fn watch(&mut self, stream: u32) {
        // POST, https, and three headers with their names by number, one by its letters; none is to be remembered.
        let mut headers = vec![0x83, 0x87];
        for (name, value) in [
            (&[0x04][..], WATCH),
            (&[0x01], "localhost"),
            (&[0x0f, 0x10], "application/grpc"),
            (b"\0\x02te", "trailers"),
        ] {
            headers.extend_from_slice(name);
            headers.push(value.len() as u8);
            headers.extend_from_slice(value.as_bytes());
        }
        self.send(HEADERS, END_HEADERS, stream, &headers).await;
        self.send(DATA, 0, stream, &framed(&watch_of("k"))).await;
    }

    async fn cancel(&mut self, stream: u32) {
        self.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()).await;
    }

    /// Reads until something is said of each of these streams.
    async fn said(&mut self, mut streams: BTreeSet<u32>) -> BTreeMap<u32, Said> {
        let mut said = BTreeMap::new();
        while !streams.is_empty() {
            let mut head = [0; 9];
            within("a frame", self.0.read_exact(&mut head)).await.unwrap();
            let [a, b, c, kind, _, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes(id);
            let what = match kind {
                HEADERS => Said::Begun,
                RST_STREAM => Said::Reset(u32::from_be_bytes(payload.try_into().unwrap())),
                _ => continue,
            };
            if streams.remove(&stream) {
                said.insert(stream, what);
            }
        }
        said
    }
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

/// Begins a list of all keys below `prefix`; an error when the connection has ended already.
fn list(send: &mut SendRequest<Bytes>, prefix: &'static str) -> Result<ResponseFuture, h2::Error> {
    let request =
        http::Request::post(format!("http://localhost{RANGE}")).header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(()).unwrap();
    let (answer, mut stream) = send.send_request(request, false)?;
    stream.send_data(framed(&all_keys(prefix)), true)?;
    Ok(answer)
}

fn all_keys(prefix: &'static str) -> pb::RangeRequest {
    let (key, range_end) = kvstore::KeyRange::prefix(prefix).to_wire();
    pb::RangeRequest { key, range_end, ..Default::default() }
}

fn watch_of(key: &'static str) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

/// A server that is reached without TLS too, and where.
async fn with_plain(change: impl FnOnce(&mut ServerConfig)) -> (bed::Ours, SocketAddr) {
    let ours = bed::ours_with(|config| {
        config.listen.push(Listen { address: "127.0.0.1:0".parse().unwrap(), tls: false });
        change(config);
    })
    .await;
    let plain = ours.second.unwrap();
    (ours, plain)
}

/// A client that does not care how many calls it may have at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_those_of_a_connection_are_refused_as_by_etcd_and_other_connections_are_served() {
    let _memory = MEMORY.read().await;
    let ours = bed::ours_with(|config| config.limits.streams_per_connection = 4).await;
    let theirs = bed::etcd_with(&["--max-concurrent-streams=4"]).await;
    for (pki, port) in [(&ours.pki, ours.address.port()), (&theirs.pki, theirs.port)] {
        let mut full = Frames::open(pki, port).await;
        for stream in [1, 3, 5, 7, 9, 11] {
            full.watch(stream).await;
        }
        let said = full.said([1, 3, 5, 7, 9, 11].into()).await;
        let expected = [1, 3, 5, 7].map(|stream| (stream, Said::Begun)).into_iter();
        let refused = [9, 11].map(|stream| (stream, Said::Reset(REFUSED_STREAM)));
        assert_eq!(said, expected.chain(refused).collect(), "port {port}");
        let mut other = Frames::open(pki, port).await;
        other.watch(1).await;
        assert_eq!(other.said([1].into()).await, [(1, Said::Begun)].into(), "port {port}");
        // Whoever ends a call may begin another.
        full.cancel(3).await;
        full.watch(13).await;
        assert_eq!(full.said([13].into()).await, [(13, Said::Begun)].into(), "port {port}");
    }
}

async fn closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    // Closed or reset; either way nothing was said.
    let _either = within("the end of a connection too many", socket.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
}

async fn from(client: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(client), 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

/// Whether a connection is served: it is told HTTP/2's settings.
async fn served(socket: TcpStream) -> Option<(SendRequest<Bytes>, JoinSet<()>)> {
    let (mut send, connection) = h2::client::handshake(socket).await.ok()?;
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    send = send.ready().await.ok()?;
    // Whoever is one too many may learn it at any step, also while it asks.
    let answer = list(&mut send, "k").ok()?;
    answer.await.ok().map(|_| (send, driver))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_too_many_are_closed_at_once_and_the_others_go_on() {
    let _memory = MEMORY.read().await;
    for (what, one_client, change) in [
        ("on an address", false, (|config| config.limits.connections = 3) as fn(&mut ServerConfig)),
        ("of a client", true, |config| config.limits.connections_per_client = 3),
    ] {
        let (_ours, plain) = with_plain(change).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(within(what, served(from([127, 0, 0, 1], plain).await)).await.unwrap());
        }
        for _ in 0..20 {
            closed(&mut from([127, 0, 0, 1], plain).await).await;
        }
        // Another client has places of its own, but not on an address that is full.
        let other = within(what, served(from([127, 0, 0, 2], plain).await)).await;
        assert_eq!(other.is_some(), one_client, "{what}");
        for (send, _) in &mut open {
            let answer = list(send, "k").unwrap();
            assert_eq!(within(what, answer).await.unwrap().status(), 200, "{what}");
        }
        drop(open.pop());
        within("a place that became free", async {
            while served(from([127, 0, 0, 1], plain).await).await.is_none() {}
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_beyond_those_of_a_stream_are_refused_and_its_others_and_other_streams_go_on() {
    let _memory = MEMORY.read().await;
    const MOST: usize = 3;
    let ours = bed::ours_with(|config| config.limits.watches_per_stream = MOST).await;
    let mut client = ours.etcd_client("client").await;
    let mut full = client.watch("k", None).await.unwrap();
    full.message().await.unwrap().unwrap();
    let mut reasons = Vec::new();
    for _ in 1..MOST + 2 {
        full.watch("k", None).await.unwrap();
        let answer = within("an answer", full.message()).await.unwrap().unwrap();
        reasons.push((answer.created(), answer.canceled(), answer.cancel_reason().to_owned()));
    }
    let refused =
        (true, true, "rpc error: code = ResourceExhausted desc = etcdserver: too many requests".to_owned());
    assert_eq!(
        reasons,
        [(true, false, String::new()), (true, false, String::new()), refused.clone(), refused]
    );
    let mut other = client.watch("k", Some(WatchOptions::new())).await.unwrap();
    assert!(!within("another stream", other.message()).await.unwrap().unwrap().canceled());
    ours.client().write(vec![put("k", "v")]).await.unwrap();
    let mut told = 0;
    while told < MOST {
        told += within("the event", full.message()).await.unwrap().unwrap().events().len();
    }
    assert_eq!(within("the event", other.message()).await.unwrap().unwrap().events().len(), 1);
    // A watch that ends makes room for another.
    full.cancel(0).await.unwrap();
    assert!(within("the end of one", full.message()).await.unwrap().unwrap().canceled());
    full.watch("k", None).await.unwrap();
    assert!(!within("one in its place", full.message()).await.unwrap().unwrap().canceled());
}

/// Whoever begins many long lists on a connection, grants large windows, and then reads nothing, makes the server keep
/// references to what is stored anyway, not copies of it for every list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_hold_no_copies_of_what_is_stored() {
    let _memory = MEMORY.write().await;
    const LISTS: usize = 200;
    let (ours, plain) = with_plain(|_| {}).await;
    let client = ours.client();
    let value = "v".repeat(1 << 20);
    for n in 0..8 {
        client.write(vec![put(&format!("big/{n}"), &value)]).await.unwrap();
    }
    let mut builder = h2::client::Builder::new();
    builder
        .initial_max_send_streams(LISTS)
        .initial_window_size(1 << 30)
        .initial_connection_window_size(1 << 30);
    let socket = TcpStream::connect(plain).await.unwrap();
    let (mut send, mut connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
    let before = memory();
    let calls: Vec<_> = (0..LISTS).map(|_| list(&mut send, "big/").unwrap()).collect();
    // All is sent and the first byte of an answer is there; from then on nobody reads.
    let mut calls = futures::future::select_all(calls);
    let first = std::future::poll_fn(|cx| {
        let _open = std::pin::Pin::new(&mut connection).poll(cx);
        std::pin::Pin::new(&mut calls).poll(cx)
    });
    let (first, _, _rest) = within("an answer", first).await;
    assert_eq!(first.unwrap().status(), 200);
    for n in 0..50 {
        within("a write beside them", client.write(vec![put("k", &n.to_string())])).await.unwrap();
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < LISTS << 18, "{grown} bytes for {LISTS} lists");
}

/// Begins a call of `path` with `body`, which may be less than a message.
fn begin(
    send: &mut SendRequest<Bytes>,
    path: &str,
    body: Bytes,
    end: bool,
) -> (ResponseFuture, h2::SendStream<Bytes>) {
    let request = http::Request::post(format!("http://localhost{path}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let (answer, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
    stream.send_data(body, end).unwrap();
    (answer, stream)
}

/// Large requests of which each stops short of its end would fill the memory before anyone asks who sends them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_do_not_end_take_no_more_than_a_connection_may() {
    let _memory = MEMORY.read().await;
    const CALLS: usize = 100;
    const PUT: &str = "/etcdserverpb.KV/Put";
    let (ours, plain) = with_plain(|_| {}).await;
    let socket = TcpStream::connect(plain).await.unwrap();
    let (mut send, connection) = h2::client::Builder::new()
        .initial_max_send_streams(2 * CALLS)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let large =
        framed(&pb::PutRequest { key: "k".into(), value: vec![1; 1 << 20].into(), ..Default::default() });
    let part = large.slice(..large.len() - 1);
    let (answers, mut streams): (Vec<_>, Vec<_>) =
        (0..CALLS).map(|_| begin(&mut send, PUT, part.clone(), false)).unzip();
    let (mut refused, mut waiting) = (0, answers);
    while refused < CALLS - 64 {
        let (first, _, rest) = within("a refusal", futures::future::select_all(waiting)).await;
        let code = first.unwrap().headers()["grpc-status"].clone();
        assert_eq!(code, (tonic::Code::ResourceExhausted as i32).to_string().as_str());
        (refused, waiting) = (refused + 1, rest);
    }
    // Others are served, small ones on the same connection too.
    let small = framed(&pb::PutRequest { key: "small".into(), ..Default::default() });
    let (answer, _stream) = begin(&mut send, PUT, small, true);
    assert_eq!(within("a small put", answer).await.unwrap().headers().get("grpc-status"), None);
    within("another connection", ours.client().write(vec![put("other", "1")])).await.unwrap();
    // What is given up makes room.
    for stream in &mut streams {
        stream.send_reset(h2::Reason::CANCEL);
    }
    drop((waiting, streams));
    let served = async {
        loop {
            let (answer, _stream) = begin(&mut send, PUT, large.clone(), true);
            let answer = within("a large put", answer).await.unwrap();
            if !answer.headers().contains_key("grpc-status") {
                break;
            }
        }
    };
    within("room for a large put", served).await;
}

/// A thread for each would soon be all that there are.
#[test]
fn snapshots_that_nobody_reads_keep_no_thread() {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(2)
        .enable_all()
        .build()
        .unwrap();
    threads.block_on(async {
        let _memory = MEMORY.read().await;
        let (ours, plain) = with_plain(|_| {}).await;
        let client = ours.client();
        let value = "v".repeat(1 << 20);
        for n in 0..8 {
            client.write(vec![put(&format!("big/{n}"), &value)]).await.unwrap();
        }
        let socket = TcpStream::connect(plain).await.unwrap();
        let (mut send, connection) = h2::client::handshake(socket).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let mut unread = Vec::new();
        for _ in 0..4 {
            let ask = framed(&pb::SnapshotRequest {});
            let (answer, _stream) = begin(&mut send, "/etcdserverpb.Maintenance/Snapshot", ask, true);
            unread.push(within("the begin of a snapshot", answer).await.unwrap().into_body());
        }
        // A checksum is added up by such a thread.
        let ask = framed(&pb::HashKvRequest::default());
        let (answer, _stream) = begin(&mut send, "/etcdserverpb.Maintenance/HashKV", ask, true);
        assert!(within("a checksum", answer).await.unwrap().headers().get("grpc-status").is_none());
        drop(unread);
    });
}

/// Bytes of this process that no file backs.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}
