//! gRPC on one HTTP/2 stream: messages in, messages out, a status at the end.
//!
//! Written on `h2` itself, because the store's answers are ready-made bytes: they go from the key space into
//! DATA frames without a message type, a codec or a task in between, and a stream that nobody reads holds
//! nothing but its place.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use prost::Message;
use tonic::{Code, Status};

use super::{
    metrics::{Calls, CountedCall},
    status,
};
use crate::store::Store;

/// Compression flag and length in front of each message.
const PREFIX: usize = 5;
/// Bytes of messages that are not whole yet, of all calls of a connection: a message is in memory before it is known who
/// sends it.
const UNFINISHED: usize = 64 << 20;
/// Pieces in which a long answer is handed to HTTP/2.
const PIECE: usize = 64 * 1024;

/// The peer is gone; there is nobody to tell anything.
#[derive(Debug)]
pub(crate) struct Gone;

/// The messages that come in.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: RecvStream,
    buffer: BytesMut,
    limit: usize,
    counted: Arc<Calls>,
    unfinished: Unfinished,
}

/// What a call has of [`UNFINISHED`].
#[derive(Debug)]
struct Unfinished {
    bytes: usize,
    of_connection: Arc<AtomicUsize>,
}

impl Unfinished {
    /// Makes it so much; returns whether there is as much.
    fn set(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes <= before {
            self.of_connection.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        let more = bytes - before;
        self.of_connection.fetch_add(more, Ordering::Relaxed) + more <= UNFINISHED
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Incoming {
    /// `unfinished` counts what the calls of a connection hold together.
    pub(crate) fn new(
        stream: RecvStream,
        limit: usize,
        counted: Arc<Calls>,
        unfinished: Arc<AtomicUsize>,
    ) -> Self {
        let unfinished = Unfinished { bytes: 0, of_connection: unfinished };
        Self { stream, buffer: BytesMut::new(), limit, counted, unfinished }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let message = self.buffered()?;
            if !self.unfinished.set(self.buffer.len()) {
                self.buffer = BytesMut::new();
                self.unfinished.set(0);
                return Err(status::too_many_requests());
            }
            if let Some(message) = message {
                self.counted.received.fetch_add(message.len() as u64, Ordering::Relaxed);
                return Ok(Some(message));
            }
            match self.stream.data().await {
                Some(Ok(data)) => {
                    // Refusing to read on is no way to slow down a peer whose message we need whole.
                    let _window_update_on_a_dead_stream =
                        self.stream.flow_control().release_capacity(data.len());
                    if self.buffer.is_empty() {
                        self.buffer = data.try_into_mut().unwrap_or_else(|data| BytesMut::from(&data[..]));
                    } else {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ended within a message")),
            }
        }
    }

    /// The next message, decoded.
    pub(crate) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        match self.next().await? {
            Some(bytes) => M::decode(bytes).map(Some).map_err(|error| status::not_a_message(&error)),
            None => Ok(None),
        }
    }

    /// The only message of a unary call.
    pub(crate) async fn only<M: Message + Default>(&mut self) -> Result<M, Status> {
        self.message().await?.ok_or_else(|| Status::internal("the call has no message"))
    }

    fn buffered(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((&[compressed, a, b, c, d], rest)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Status::unimplemented("grpc: Decompressor is not installed for grpc-encoding"));
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > self.limit {
            return Err(status::message_too_large(len, self.limit));
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(len).freeze();
        if self.buffer.is_empty() {
            // Gives the allocation to the message, so that an idle stream holds none.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// Where the answer goes.
#[derive(Debug)]
pub(crate) struct Outgoing {
    state: State,
    counted: CountedCall,
    store: Arc<Store>,
}

#[derive(Debug)]
enum State {
    /// No headers are sent yet.
    Waiting(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
    Closed,
}

impl Outgoing {
    pub(crate) fn new(respond: SendResponse<Bytes>, counted: CountedCall, store: Arc<Store>) -> Self {
        Self { state: State::Waiting(respond), counted, store }
    }

    /// Sends the headers, if that was not done yet.
    pub(crate) fn open(&mut self) -> Result<&mut SendStream<Bytes>, Gone> {
        if let State::Waiting(respond) = &mut self.state {
            let opened = respond.send_response(headers(), false);
            self.state = opened.map_or(State::Closed, State::Open);
        }
        match &mut self.state {
            State::Open(stream) => Ok(stream),
            State::Waiting(_) | State::Closed => Err(Gone),
        }
    }

    /// Sends a message that has its prefix already, at the speed of the peer. What it tells of a durable store is on the
    /// disk then.
    pub(crate) async fn send(&mut self, framed: Bytes) -> Result<(), Gone> {
        self.settle().await?;
        self.send_settled(framed).await
    }

    /// Waits until all that happened by now is on the disk of a durable store.
    pub(crate) async fn settle(&mut self) -> Result<(), Gone> {
        if let Err(_failed) = self.store.settled().await {
            self.state = State::Closed;
            return Err(Gone);
        }
        Ok(())
    }

    /// [`Self::send`] for what happened before [`Self::settle`], whatever else happened since.
    pub(crate) async fn send_settled(&mut self, mut framed: Bytes) -> Result<(), Gone> {
        self.counted.sent(framed.len());
        while !framed.is_empty() {
            let room = self.room(framed.len()).await?;
            let piece = framed.split_to(room.min(framed.len()));
            if self.open()?.send_data(piece, false).is_err() {
                self.state = State::Closed;
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// Waits until the peer can be sent something; returns how many bytes, for one who has `wanted`. What is encoded only
    /// then costs no memory while nobody reads.
    pub(crate) async fn room(&mut self, wanted: usize) -> Result<usize, Gone> {
        let stream = self.open()?;
        stream.reserve_capacity(wanted.clamp(1, PIECE));
        while stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.state = State::Closed;
                    return Err(Gone);
                }
            }
        }
        Ok(stream.capacity())
    }

    /// Resolves when the peer has reset the stream.
    pub(crate) async fn reset(&mut self) {
        match &mut self.state {
            State::Waiting(respond) => drop(poll_fn(|cx| respond.poll_reset(cx)).await),
            State::Open(stream) => drop(poll_fn(|cx| stream.poll_reset(cx)).await),
            State::Closed => {}
        }
    }

    /// Ends the call. An error without any message before needs no DATA frame at all.
    pub(crate) fn finish(mut self, status: Result<(), Status>) {
        self.counted.end(status.as_ref().map_or_else(Status::code, |()| Code::Ok));
        let sent = match (&mut self.state, status) {
            (State::Waiting(respond), Err(status)) => {
                let mut response = headers();
                put_status(response.headers_mut(), &status);
                respond.send_response(response, true).map(drop)
            }
            (State::Waiting(respond), Ok(())) => {
                let opened = respond.send_response(headers(), false);
                opened.and_then(|mut stream| stream.send_trailers(ok()))
            }
            (State::Open(stream), Ok(())) => stream.send_trailers(ok()),
            (State::Open(stream), Err(status)) => {
                let mut trailers = HeaderMap::with_capacity(2);
                put_status(&mut trailers, &status);
                stream.send_trailers(trailers)
            }
            (State::Closed, _) => Ok(()),
        };
        if let Err(error) = sent {
            tracing::trace!(%error, "the peer left before the answer");
        }
        self.state = State::Closed;
    }
}

/// A message with its prefix.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + len);
    put_prefix(&mut out, len);
    message.encode_raw(&mut out);
    out.freeze()
}

/// The prefix of a message of `len` bytes.
pub(crate) fn put_prefix(out: &mut BytesMut, len: usize) {
    out.put_u8(0);
    // Answers above 4 GiB cannot be sent; they cannot be held either.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

fn headers() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

fn put_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    if status.code() != Code::Ok
        && let Ok(message) = HeaderValue::try_from(percent_encoded(status.message()))
    {
        headers.insert("grpc-message", message);
    }
}

/// gRPC's encoding of a message: printable ASCII but `%` stays.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("a b%\n\u{e9}"), "a b%25%0A%C3%A9");
    }
}
