//! Which method a call is for.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use http::{header::CONTENT_TYPE, request::Parts};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Shared, auth, cluster,
    connection::Peer,
    election,
    grpc::{Gone, Incoming, Outgoing, frame},
    health, kv, lease, lock, maintenance, watch,
};

/// Who calls, and what they show for it.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) peer: Arc<Peer>,
    /// A token that [`auth`] gave to a password user.
    pub(crate) token: Option<Arc<str>>,
    /// Calls that a gateway forwards carry the gateway's certificate, which says nothing of the caller.
    pub(crate) through_gateway: bool,
}

impl Caller {
    pub(crate) fn new(peer: Arc<Peer>, parts: &Parts) -> Self {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let token = header("token").or_else(|| header("authorization"));
        Self {
            peer,
            token: token.map(|token| Arc::from(token.strip_prefix("Bearer ").unwrap_or(token))),
            through_gateway: parts.headers.contains_key("grpcgateway-accept"),
        }
    }
}

pub(crate) fn is_grpc(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// Service and method of `/service/method`.
pub(crate) fn split(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Serves a call to its end.
pub(crate) fn route(
    shared: Arc<Shared>,
    service: &str,
    method: &str,
    caller: Caller,
    incoming: Incoming,
    outgoing: Outgoing,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    let call = Call { shared, caller, incoming, outgoing, stop };
    match (service, method) {
        ("etcdserverpb.KV", "Range") => call.boxed(kv::range),
        ("etcdserverpb.KV", "RangeStream") => call.boxed(kv::range_stream),
        ("etcdserverpb.KV", "Put") => call.unary(kv::put),
        ("etcdserverpb.KV", "DeleteRange") => call.unary(kv::delete_range),
        ("etcdserverpb.KV", "Txn") => call.boxed(kv::txn),
        ("etcdserverpb.KV", "Compact") => call.unary(kv::compact),
        ("etcdserverpb.Watch", "Watch") => call.boxed(watch::watch),
        ("etcdserverpb.Lease", "LeaseGrant") => call.unary(lease::grant),
        ("etcdserverpb.Lease", "LeaseRevoke") => call.unary(lease::revoke),
        ("etcdserverpb.Lease", "LeaseKeepAlive") => call.boxed(lease::keep_alive),
        ("etcdserverpb.Lease", "LeaseTimeToLive") => call.unary(lease::time_to_live),
        ("etcdserverpb.Lease", "LeaseLeases") => call.unary(lease::leases),
        ("etcdserverpb.Cluster", method) => cluster::route(call, method),
        ("etcdserverpb.Maintenance", method) => maintenance::route(call, method),
        ("etcdserverpb.Auth", method) => auth::route(call, method),
        ("v3lockpb.Lock", method) => lock::route(call, method),
        ("v3electionpb.Election", method) => election::route(call, method),
        ("grpc.health.v1.Health", method) => health::route(call, method),
        _ => call.unknown(service, method),
    }
}

/// A call with all that it needs.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) caller: Caller,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    pub(crate) stop: CancellationToken,
}

impl Call {
    /// One message in, one out, without waiting in between.
    pub(crate) fn unary<Request, Answer>(
        mut self,
        method: fn(&Shared, &Caller, Request) -> Result<Answer, Status>,
    ) -> BoxFuture<'static, ()>
    where
        Request: Message + Default + 'static,
        Answer: Message + 'static,
    {
        async move {
            let answer = match self.incoming.only().await {
                Ok(request) => method(&self.shared, &self.caller, request),
                Err(status) => Err(status),
            };
            self.answer(answer).await;
        }
        .boxed()
    }

    /// Anything else.
    pub(crate) fn boxed<F>(self, method: impl FnOnce(Self) -> F) -> BoxFuture<'static, ()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        method(self).boxed()
    }

    /// Ends the call with one message or an error.
    pub(crate) async fn answer<Answer: Message>(mut self, answer: Result<Answer, Status>) {
        let status = match answer {
            Ok(answer) => match self.outgoing.send(frame(&answer)).await {
                Ok(()) => Ok(()),
                Err(Gone) => return,
            },
            Err(status) => Err(status),
        };
        self.outgoing.finish(status);
    }

    /// No such method, in gRPC's words.
    pub(crate) fn unknown(self, service: &str, method: &str) -> BoxFuture<'static, ()> {
        let known = matches!(
            service,
            "etcdserverpb.KV"
                | "etcdserverpb.Watch"
                | "etcdserverpb.Lease"
                | "etcdserverpb.Cluster"
                | "etcdserverpb.Maintenance"
                | "etcdserverpb.Auth"
                | "v3lockpb.Lock"
                | "v3electionpb.Election"
                | "grpc.health.v1.Health"
        );
        let status = Status::unimplemented(match service {
            _ if known => format!("unknown method {method} for service {service}"),
            "" => format!("malformed method name: {:?}", format!("/{method}")),
            _ => format!("unknown service {service}"),
        });
        async move { self.outgoing.finish(Err(status)) }.boxed()
    }
}
