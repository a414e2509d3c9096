//! A gRPC client that costs little: HTTP/2 frames, and messages by prost.
//!
//! The usual client costs more processor time per call than a server that is to be measured beside it may have.

use super::server::Endpoint;
use anyhow::{Context as _, bail, ensure};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use kvstore::proto::etcdserverpb as pb;
use prost::Message;
use prost::bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bytes that a server may send before the client has read them. So big that it waits for nobody but the network.
const WINDOW_BYTES: u32 = 4 << 20;
/// One byte of flags, four of length.
const PREFIX_BYTES: usize = 5;
/// Key of `WatchResponse.events`: field 11, a message.
const EVENTS_FIELD: u64 = 11 << 3 | 2;

/// Paths of the calls that the figures make.
pub(crate) mod path {
    pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
    pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
    pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
    pub(crate) const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
    pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";
}

/// A connection; clones share it. It closes when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    scheme: &'static str,
    _driver: Arc<JoinSet<()>>,
}

impl Connection {
    /// Connects, by mutual TLS if the endpoint has it.
    ///
    /// # Errors
    /// When nobody listens, or TLS or HTTP/2 fail.
    pub(crate) async fn open(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(endpoint.address).await.context("connect")?;
        socket.set_nodelay(true)?;
        match &endpoint.tls {
            None => Self::over(socket, "http").await,
            Some(config) => {
                let name = ServerName::from(endpoint.address.ip());
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                Self::over(connector.connect(name, socket).await.context("TLS")?, "https").await
            }
        }
    }

    async fn over(
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
    ) -> anyhow::Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (send, connection) = builder.handshake(socket).await.context("HTTP/2 handshake")?;
        let mut driver = JoinSet::new();
        // Why a connection ended is told by the calls on it.
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { send, scheme, _driver: Arc::new(driver) })
    }

    async fn request(
        &self,
        path: &str,
        message: Bytes,
        end: bool,
    ) -> anyhow::Result<(SendStream<Bytes>, Body)> {
        let request = http::Request::post(format!("{}://bench{path}", self.scheme))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut send = self.send.clone().ready().await?;
        let (answer, mut stream) = send.send_request(request, false)?;
        stream.send_data(message, end)?;
        let answer = answer.await?;
        ensure!(answer.status() == 200, "{path}: HTTP status {}", answer.status());
        check(path, answer.headers())?;
        Ok((stream, Body { stream: answer.into_body(), path: path.to_owned(), buffer: BytesMut::new() }))
    }

    /// One call, one answer.
    ///
    /// # Errors
    /// When the connection breaks, or with the status that the server answers.
    pub(crate) async fn call<A: Message + Default>(
        &self,
        path: &str,
        question: &impl Message,
    ) -> anyhow::Result<A> {
        let (_, mut body) = self.request(path, framed(question), true).await?;
        let answer = body.message().await?.with_context(|| format!("{path}: no answer"))?;
        ensure!(body.message().await?.is_none(), "{path}: more than one answer");
        Ok(A::decode(answer)?)
    }

    /// One call whose answer is read and not kept: its bytes.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn drain(&self, path: &str, question: &impl Message) -> anyhow::Result<usize> {
        let (_, mut body) = self.request(path, framed(question), true).await?;
        let mut bytes = 0;
        while let Some(chunk) = body.chunk().await? {
            bytes += chunk.len();
        }
        Ok(bytes)
    }

    /// A stream with a watch of each range, all of them created.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn watch(&self, ranges: &[(Bytes, Bytes)]) -> anyhow::Result<Watch> {
        let create = |(key, range_end): &(Bytes, Bytes)| {
            let create = pb::WatchCreateRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                ..Default::default()
            };
            framed(&pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
            })
        };
        let requests = ranges.iter().map(create).collect::<Vec<_>>().concat();
        let (requests, mut answers) = self.request(path::WATCH, requests.into(), false).await?;
        for _ in ranges {
            let answer = answers.message().await?.context("the watch ended")?;
            let answer = pb::WatchResponse::decode(answer)?;
            ensure!(answer.created && !answer.canceled, "watch refused: {}", answer.cancel_reason);
        }
        Ok(Watch { _requests: requests, answers, _connection: self.clone() })
    }
}

/// Watches on one stream.
pub(crate) struct Watch {
    /// Open, so that the server does not think we are done.
    _requests: SendStream<Bytes>,
    answers: Body,
    _connection: Connection,
}

impl Watch {
    /// Waits for the next message and decodes it.
    ///
    /// # Errors
    /// When the server ends the stream or cancels a watch.
    pub(crate) async fn next(&mut self) -> anyhow::Result<pb::WatchResponse> {
        let message = self.answers.message().await?.context("the server ended the watch")?;
        let answer = pb::WatchResponse::decode(message)?;
        ensure!(!answer.canceled, "the server cancelled the watch: {}", answer.cancel_reason);
        Ok(answer)
    }

    /// Waits for the next message and counts its events.
    ///
    /// # Errors
    /// When the server ends the stream or cancels a watch.
    pub(crate) async fn events(&mut self) -> anyhow::Result<usize> {
        let message = self.answers.message().await?.context("the server ended the watch")?;
        let events = count_events(&message);
        if events == 0 {
            let answer = pb::WatchResponse::decode(message)?;
            ensure!(!answer.canceled, "the server cancelled the watch: {}", answer.cancel_reason);
        }
        Ok(events)
    }
}

struct Body {
    stream: RecvStream,
    path: String,
    buffer: BytesMut,
}

impl Body {
    /// The next piece of any length; at the end the status is checked.
    async fn chunk(&mut self) -> anyhow::Result<Option<Bytes>> {
        if let Some(chunk) = self.stream.data().await {
            let chunk = chunk?;
            self.stream.flow_control().release_capacity(chunk.len())?;
            return Ok(Some(chunk));
        }
        if let Some(trailers) = self.stream.trailers().await? {
            check(&self.path, &trailers)?;
        }
        Ok(None)
    }

    /// The next message, without its prefix.
    async fn message(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(message) = take_message(&mut self.buffer) {
                return Ok(Some(message));
            }
            match self.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => bail!("{}: ended within a message", self.path),
            }
        }
    }
}

fn take_message(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = buffer.get(1..PREFIX_BYTES)?.get_u32() as usize;
    if buffer.len() < PREFIX_BYTES + length {
        return None;
    }
    buffer.advance(PREFIX_BYTES);
    Some(buffer.split_to(length).freeze())
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + length);
    framed.put_u8(0);
    framed.put_u32(length as u32);
    message.encode_raw(&mut framed);
    framed.freeze()
}

fn check(path: &str, headers: &http::HeaderMap) -> anyhow::Result<()> {
    match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        None | Some(b"0") => Ok(()),
        Some(code) => {
            let message = headers.get("grpc-message").map(http::HeaderValue::as_bytes).unwrap_or_default();
            bail!("{path}: status {} {}", code.escape_ascii(), message.escape_ascii())
        }
    }
}

/// Events in an encoded `WatchResponse`, without decoding them. What is not one has none.
fn count_events(mut message: &[u8]) -> usize {
    let mut events = 0;
    while !message.is_empty() {
        let Ok(field) = prost::encoding::decode_varint(&mut message) else { return 0 };
        let skip = match field & 7 {
            0 => prost::encoding::decode_varint(&mut message).map(|_| 0),
            2 => prost::encoding::decode_varint(&mut message),
            _ => return 0,
        };
        let Ok(skip) = skip else { return 0 };
        let Some(rest) = message.get(skip as usize..) else { return 0 };
        message = rest;
        events += usize::from(field == EVENTS_FIELD);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::proto::mvccpb;

    #[test]
    fn events_are_counted_as_decoding_would() {
        for count in [0, 1, 300] {
            let event = |n: usize| mvccpb::Event {
                kv: Some(mvccpb::KeyValue { key: vec![11; n].into(), lease: 90, ..Default::default() }),
                ..Default::default()
            };
            let answer = pb::WatchResponse {
                header: Some(pb::ResponseHeader { revision: 11, ..Default::default() }),
                watch_id: 90,
                cancel_reason: "Z".to_owned(),
                events: (0..count).map(event).collect(),
                ..Default::default()
            };
            let encoded = answer.encode_to_vec();
            assert_eq!(count_events(&encoded), count);
            assert_eq!(count_events(encoded.split_last().unwrap().1), 0, "cut off");
        }
    }

    #[test]
    fn messages_are_found_wherever_the_frames_are_cut() {
        let messages = [1_i64, -1, 300].map(|revision| pb::ResponseHeader { revision, ..Default::default() });
        let sent = messages.iter().map(framed).collect::<Vec<_>>().concat();
        for piece in 1..sent.len() {
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for chunk in sent.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(message) = take_message(&mut buffer) {
                    found.push(pb::ResponseHeader::decode(message).unwrap());
                }
            }
            assert_eq!(found, messages, "pieces of {piece}");
            assert!(buffer.is_empty());
        }
    }
}
