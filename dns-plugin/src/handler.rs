//! The zone as a request handler of hickory-server, and the response handler that our sockets send from.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hickory_proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use hickory_server::net::NetError;
use hickory_server::net::runtime::{Time, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, Queries};

use crate::packet::{Incoming, Limit, kind};
use crate::published::Published;
use crate::reply::{self, NO_QUESTION, Reply};

/// Answers requests from the published zone, whichever listener they came in by.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    zone: Published,
    datagram: Limit,
}

/// What was sent, as far as it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Type that was asked for; `None` if the question could not be read.
    pub(crate) kind: Option<RecordType>,
    /// The response code.
    pub(crate) code: ResponseCode,
    /// Whether records were left out for want of room.
    pub(crate) truncated: bool,
}

impl Handler {
    /// Responses in datagrams have at most `max_datagram_bytes`.
    pub(crate) fn new(zone: Published, max_datagram_bytes: u16) -> Self {
        Self { zone, datagram: Limit::Datagram(max_datagram_bytes) }
    }

    /// Puts the response to one message into `outbox`. `None` if it must not be answered, and then the outbox is empty.
    pub(crate) async fn answer(
        &self,
        packet: &[u8],
        client: SocketAddr,
        protocol: Protocol,
        outbox: &Outbox,
    ) -> Option<Outcome> {
        outbox.put(Vec::new());
        let (kind, info) = match Incoming::read(packet, client, protocol)? {
            Incoming::Refused(reply) => (None, send(&reply, &NO_QUESTION, outbox.clone()).await),
            Incoming::Asked(request) => {
                (kind(&request), self.handle_request::<_, TokioTime>(&request, outbox.clone()).await)
            }
        };
        let sent = !outbox.is_empty();
        sent.then(|| Outcome { kind, code: info.response_code, truncated: info.truncation })
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response_handle: R,
    ) -> ResponseInfo {
        let limit = if request.protocol().is_datagram() { self.datagram } else { Limit::Stream };
        let reply = Reply::to(request, &self.zone.zone(), limit);
        send(&reply, &request.queries, response_handle).await
    }
}

async fn send(reply: &Reply, queries: &Queries, mut response_handle: impl ResponseHandler) -> ResponseInfo {
    match response_handle.send_response(reply.message(queries)).await {
        Ok(info) => info,
        Err(error) => {
            // The parts are ours and were encoded before; a client gets nothing rather than half a message.
            tracing::error!(%error, "a DNS response could not be encoded");
            let mut metadata = Metadata::response_from_request(reply.metadata());
            metadata.response_code = ResponseCode::ServFail;
            Header { metadata, counts: HeaderCounts::default() }.into()
        }
    }
}

/// Where hickory-server leaves an encoded response for the loop that owns the socket; one per loop, so that it holds one message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox(Arc<Mutex<Vec<u8>>>);

impl Outbox {
    /// The response, which leaves the outbox empty.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, message: Vec<u8>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[async_trait]
impl ResponseHandler for Outbox {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut message = Vec::with_capacity(TYPICAL_BYTES);
        let info = reply::encode(response, u16::MAX, &mut message)?;
        self.put(message);
        Ok(info)
    }
}

/// Longer than most responses; what is longer grows.
const TYPICAL_BYTES: usize = 512;
