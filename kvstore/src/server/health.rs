//! gRPC's own health service, `grpc.health.v1.Health`.

use futures::{FutureExt, future::BoxFuture};
use tonic::Status;

use super::{
    Shared,
    grpc::{Gone, frame},
    route::{Call, Caller},
    status,
};

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Response {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `HealthCheckResponse.SERVING`.
const SERVING: i32 = 1;

pub(crate) fn route(call: Call, method: &str) -> BoxFuture<'static, ()> {
    match method {
        "Check" => call.unary(check),
        "Watch" => watch(call).boxed(),
        _ => call.unknown("grpc.health.v1.Health", method),
    }
}

fn check(_: &Shared, _: &Caller, request: Request) -> Result<Response, Status> {
    if request.service.is_empty() {
        Ok(Response { status: SERVING })
    } else {
        Err(Status::not_found("unknown service"))
    }
}

/// It serves as long as it can answer.
async fn watch(mut call: Call) {
    if let Err(status) = call.incoming.only::<Request>().await {
        return call.outgoing.finish(Err(status));
    }
    if let Err(Gone) = call.outgoing.send(frame(&Response { status: SERVING })).await {
        return;
    }
    tokio::select! {
        () = call.outgoing.reset() => {}
        () = call.stop.cancelled() => call.outgoing.finish(Err(status::stopped())),
    }
}
