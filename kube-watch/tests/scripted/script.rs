//! An API server that is a list of answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::client::Body;
use tokio::sync::watch;

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    text: String,
    end: End,
}

/// What comes after the text of an answer.
#[derive(Clone, Copy, Debug)]
enum End {
    Clean,
    Broken,
    /// The answer stays open.
    Never,
}

impl Answer {
    /// A complete answer.
    pub(crate) fn ok(text: String) -> Self {
        Self { status: StatusCode::OK, text, end: End::Clean }
    }

    /// An answer whose connection breaks after `text`.
    pub(crate) fn broken(text: String) -> Self {
        Self { status: StatusCode::OK, text, end: End::Broken }
    }

    /// A refusal, in the API's form.
    pub(crate) fn status(status: StatusCode) -> Self {
        let text = format!(
            r#"{{"kind":"Status","status":"Failure","reason":"R","message":"m","code":{}}}"#,
            status.as_u16()
        );
        Self { status, text, end: End::Clean }
    }

    /// A watch that sends these events and stays open.
    pub(crate) fn lines<'a>(events: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        Self { end: End::Never, ..Self::lines_then_end(events) }
    }

    /// A watch that sends these events and is closed by the server.
    pub(crate) fn lines_then_end<'a>(events: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let line = |(kind, object)| format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        Self::ok(events.into_iter().map(line).collect())
    }
}

/// Object `name` in namespace `n`.
pub(crate) fn object(name: &str, version: u32, value: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"n","resourceVersion":"{version}"}},"value":{value}}}"#
    )
}

/// The content of an `ERROR` event for a version that is too old.
pub(crate) fn gone() -> String {
    r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410}"#.to_owned()
}

/// One page of a list.
pub(crate) fn list(version: u32, next: Option<&str>, items: &[String]) -> String {
    let next = next.unwrap_or_default();
    let items = items.join(",");
    format!(
        r#"{{"kind":"ThingList","apiVersion":"example.org/v1","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#
    )
}

/// The answers left, and the requests seen. After the last answer nothing is answered any more.
#[derive(Clone)]
pub(crate) struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: watch::Sender<Vec<String>>,
}

impl Script {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        Self { answers, requests: watch::Sender::new(Vec::new()) }
    }

    /// A client whose requests are answered from the script, in order.
    pub(crate) fn client(&self) -> kube::Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let script = script.clone();
            async move { Ok::<_, Infallible>(script.answer(request.uri().to_string()).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(
        &self,
        uri: String,
    ) -> Response<impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + use<>> {
        self.requests.send_modify(|seen| seen.push(uri));
        let next = self.answers.lock().expect("no test panics with the lock held").pop_front();
        let Some(answer) = next else { std::future::pending().await };
        let text = stream::iter([Ok(Frame::data(Bytes::from(answer.text)))]);
        let body = match answer.end {
            End::Clean => text.boxed(),
            End::Broken => text.chain(stream::iter([Err(std::io::Error::other("connection reset"))])).boxed(),
            End::Never => text.chain(stream::pending()).boxed(),
        };
        Response::builder().status(answer.status).body(StreamBody::new(body)).expect("the parts are valid")
    }

    /// Paths and queries of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }

    /// Waits for the `count`-th request.
    pub(crate) async fn until_requests(&self, count: usize) {
        self.requests
            .subscribe()
            .wait_for(|seen| seen.len() >= count)
            .await
            .expect("the script holds the sender");
    }
}
