//! One connection: TLS, then HTTP/2 (gRPC) or HTTP/1.1 (health, version, metrics).
//!
//! All streams of a connection are served by its one task: an idle watch is a future in a set, not a task.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use h2::{RecvStream, server::SendResponse};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Shared,
    grpc::{Incoming, Outgoing},
    http1, route,
};
use crate::turn::in_one_turn;

/// Limit for the TLS handshake, so that half-open connections do not pile up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of answers that a call has in the hands of HTTP/2 at most; so many are written in one turn of a connection.
const SEND_BUFFER: usize = 128 * 1024;
/// Bytes of requests that a peer may send ahead, per stream and per connection.
const WINDOW: u32 = 1 << 20;

/// An HTTP/2 connection whose answers are ready-made bytes.
type Http2<S> = h2::server::Connection<S, Bytes>;

/// The calls of a connection that are under way.
type Calls = FuturesUnordered<BoxFuture<'static, ()>>;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Common name of the verified client certificate.
    pub(crate) common_name: Option<Arc<str>>,
    /// Bytes of its messages that are not whole yet.
    pub(crate) unfinished: Arc<AtomicUsize>,
}

/// Serves a connection until either side ends it.
///
/// What is needed only for a while (the handshakes) or by few (HTTP/1.1) has memory of its own, not a part of that of
/// each connection for as long as it lives.
pub(crate) async fn serve(shared: Arc<Shared>, socket: TcpStream, tls: bool, stop: CancellationToken) {
    let Ok(address) = socket.peer_addr() else { return };
    // Answers are small and awaited.
    let _keeps_working_without = socket.set_nodelay(true);
    let Some(served) = Box::pin(recognize(shared, socket, address, tls, stop)).await else { return };
    // What a call sends wakes the connection that it is a part of.
    let reason = in_one_turn(served).await;
    debug!(%address, reason, "connection ended");
}

/// A connection that is to be served; says why it ended.
type Served = BoxFuture<'static, &'static str>;

/// Finds out who connects and what they speak; `None` if they may not.
async fn recognize(
    shared: Arc<Shared>,
    socket: TcpStream,
    address: SocketAddr,
    tls: bool,
    stop: CancellationToken,
) -> Option<Served> {
    let Some(config) = shared.tls.as_ref().filter(|_| tls).map(|tls| tls.current()) else {
        let peer = Peer { common_name: None, unfinished: Arc::default() };
        return Some(match is_http2(&socket).await {
            true => http2_on(shared, socket, peer, stop).boxed(),
            false => http1::serve(shared, socket, stop).boxed(),
        });
    };
    match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(socket)).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let common_name = session.peer_certificates().and_then(|chain| common_name(chain.first()?));
            let http2 = session.alpn_protocol() != Some(b"http/1.1");
            let peer = Peer { common_name, unfinished: Arc::default() };
            return Some(match http2 {
                true => http2_on(shared, stream, peer, stop).boxed(),
                false => http1::serve(shared, stream, stop).boxed(),
            });
        }
        Ok(Err(error)) => debug!(%address, %error, "TLS handshake refused"),
        Err(_elapsed) => debug!(%address, "TLS handshake took too long"),
    }
    shared.metrics.handshake_failed();
    None
}

/// Whether the first bytes are HTTP/2's preface.
async fn is_http2(socket: &TcpStream) -> bool {
    let mut first = [0; 3];
    let peeked = tokio::time::timeout(HANDSHAKE, async {
        loop {
            match socket.peek(&mut first).await {
                Ok(0) | Err(_) => return false,
                Ok(n) if b"PRI"[..n] != first[..n] => return false,
                Ok(3) => return true,
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    peeked.await.unwrap_or(false)
}

fn common_name(certificate: &rustls::pki_types::CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(Arc::from(name))
}

pub(super) async fn http2_on<S>(
    shared: Arc<Shared>,
    socket: S,
    peer: Peer,
    stop: CancellationToken,
) -> &'static str
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(mut connection) = shake_hands(&shared, socket).await else { return "no HTTP/2 handshake" };
    let mut pings = connection.ping_pong();
    let mut calls = Calls::new();
    let mut ping_at = tokio::time::Instant::now() + shared.limits.keepalive_interval;
    let mut ping_open = false;
    let mut stopping = false;
    let peer = Arc::new(peer);
    loop {
        tokio::select! {
            reason = poll_fn(|cx| {
                poll_calls(cx, &mut connection, &mut calls, |request, respond| {
                    call(&shared, &peer, request, respond, &stop)
                })
            }) => return reason,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
            }
            pong = async { match pings.as_mut() {
                Some(pings) => poll_fn(|cx| pings.poll_pong(cx)).await.is_ok(),
                None => std::future::pending().await,
            } }, if ping_open => {
                if !pong {
                    return "connection lost";
                }
                ping_open = false;
                ping_at = tokio::time::Instant::now() + shared.limits.keepalive_interval;
            }
            () = tokio::time::sleep_until(ping_at) => {
                if ping_open {
                    return "peer does not answer";
                }
                ping_at = tokio::time::Instant::now() + shared.limits.keepalive_timeout;
                ping_open = pings.as_mut().is_some_and(|pings| pings.send_ping(h2::Ping::opaque()).is_ok());
            }
        }
    }
}

/// Lets all calls go on that can, then has the connection write what they answered and read what arrived, until nothing
/// new arrives: the answers to what arrived together leave together, in one system call, and an event leaves in the turn
/// in which it is handed over. Resolves when the connection ends, with why.
fn poll_calls<S>(
    cx: &mut Context<'_>,
    connection: &mut Http2<S>,
    calls: &mut Calls,
    mut begin: impl FnMut(Request<RecvStream>, SendResponse<Bytes>) -> BoxFuture<'static, ()>,
) -> Poll<&'static str>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {}
        let mut began = false;
        while let Poll::Ready(accepted) = connection.poll_accept(cx) {
            match accepted {
                Some(Ok((request, respond))) => calls.push(begin(request, respond)),
                Some(Err(error)) if error.is_io() => return Poll::Ready("connection lost"),
                Some(Err(_)) => return Poll::Ready("protocol error"),
                None => return Poll::Ready("closed"),
            }
            began = true;
        }
        if !began {
            return Poll::Pending;
        }
    }
}

/// HTTP/2's own handshake.
fn shake_hands<S>(shared: &Shared, socket: S) -> BoxFuture<'static, Option<Box<Http2<S>>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(shared.limits.streams_per_connection)
        .max_header_list_size(16 * 1024)
        .max_send_buffer_size(SEND_BUFFER);
    async move {
        let connection = tokio::time::timeout(HANDSHAKE, builder.handshake(socket)).await;
        Some(Box::new(connection.ok()?.ok()?))
    }
    .boxed()
}

fn call(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    stop: &CancellationToken,
) -> BoxFuture<'static, ()> {
    let (parts, body) = request.into_parts();
    if !route::is_grpc(&parts) {
        http1::answer_http2(shared, &parts, respond);
        return std::future::ready(()).boxed();
    }
    let calls = &shared.metrics.calls;
    let incoming =
        Incoming::new(body, shared.limits.message_bytes(), Arc::clone(calls), Arc::clone(&peer.unfinished));
    let caller = route::Caller::new(Arc::clone(peer), &parts);
    let (service, method) = route::split(parts.uri.path());
    let outgoing = Outgoing::new(respond, calls.start(service, method), Arc::clone(&shared.store));
    route::route(Arc::clone(shared), service, method, caller, incoming, outgoing, stop.clone())
}
