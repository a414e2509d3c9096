//! Plain HTTP: health, version and metrics, on the client port and on listeners of their own.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body_util::Full;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::embedded::ETCD_VERSION;

/// Serves HTTP/1.1 until either side ends it.
pub(crate) async fn serve<S>(shared: Arc<Shared>, socket: S, stop: CancellationToken) -> &'static str
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answer(&shared, request.method(), request.uri().path(), request.uri().query());
        std::future::ready(Ok::<_, std::convert::Infallible>(answer.map(Full::new)))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(std::time::Duration::from_secs(10))
        .serve_connection(TokioIo::new(socket), service);
    match stop.run_until_cancelled(connection).await {
        Some(Ok(())) => "closed",
        Some(Err(_)) => "no HTTP",
        None => "stopping",
    }
}

/// The same over HTTP/2, for a client that negotiated it.
pub(crate) fn answer_http2(shared: &Shared, parts: &Parts, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, body) = answer(shared, &parts.method, parts.uri.path(), parts.uri.query()).into_parts();
    if let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), false) {
        let _peer_may_be_gone = stream.send_data(body, true);
    }
}

fn answer(shared: &Shared, method: &Method, path: &str, query: Option<&str>) -> Response<Bytes> {
    if method != Method::GET && method != Method::HEAD {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            "Method Not Allowed\n".into(),
        );
    }
    let (status, kind, body) = match path {
        "/health" => health(shared, query.unwrap_or_default()),
        "/livez" | "/readyz" => (StatusCode::OK, "text/plain; charset=utf-8", "ok".to_owned()),
        "/version" => (
            StatusCode::OK,
            "application/json",
            format!(
                r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{ETCD_VERSION}","storage":"{ETCD_VERSION}"}}"#
            ),
        ),
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", shared.render_metrics()),
        _ => (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".to_owned()),
    };
    text(status, kind, body)
}

/// etcd's health: a full store is not healthy, unless the asker excludes that alarm.
fn health(shared: &Shared, query: &str) -> (StatusCode, &'static str, String) {
    let alarms = shared.alarms();
    let alarm = alarms.iter().map(|alarm| alarm.alarm().as_str_name()).find(|name| {
        !query.split('&').any(|pair| pair.strip_prefix("exclude=").is_some_and(|excluded| excluded == *name))
    });
    shared.metrics.health_checked(alarm.is_none());
    match alarm {
        Some(name) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "application/json",
            format!(r#"{{"health":"false","reason":"ALARM {name}"}}"#),
        ),
        None => (StatusCode::OK, "application/json", r#"{"health":"true","reason":""}"#.to_owned()),
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
