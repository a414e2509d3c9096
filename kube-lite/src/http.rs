//! From an HTTP request to an answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, USER_AGENT, WARNING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::{Api, DeleteOptions, Edit, Outcome, WatchEvent, Written};
use crate::auth::{self, Identity, Token};
use crate::body::Unknown;
use crate::kinds::Resource;
use crate::options::{check_list, check_write};
use crate::path::{Query, Route, Target, route};
use crate::proto::{self, Wrong};
use crate::status::{Cause, Failure, Result};
use crate::view::{AGGREGATED, View, wants_aggregated};
use crate::{discovery, object, openapi};

/// Longest body of a request.
const MAX_BODY_BYTES: usize = 3 << 20;

/// How long a body may take to come: as long as the original gives any request.
const BODY_TIME: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";

/// A body that is there, or comes bit by bit.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What answers requests; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    pub(crate) api: Api,
    pub(crate) tokens: Arc<[Token]>,
    pub(crate) stop: CancellationToken,
}

/// The parts of a request that handlers read.
struct Call {
    method: Method,
    headers: HeaderMap,
    query: Query,
    body: Bytes,
}

/// An answer in the making.
struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Body,
    warnings: Vec<String>,
}

impl Reply {
    fn json(status: StatusCode, value: &Value) -> Self {
        let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
        Self { status, content_type: JSON, body, warnings: Vec::new() }
    }

    fn ok(value: &Value) -> Self {
        Self::json(StatusCode::OK, value)
    }

    fn text(text: &'static str) -> Self {
        Self::bytes("text/plain; charset=utf-8", text)
    }

    fn bytes(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let body = Full::new(bytes.into()).boxed_unsync();
        Self { status: StatusCode::OK, content_type, body, warnings: Vec::new() }
    }

    fn written(written: Written, resource: &Resource, view: View) -> Self {
        let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let value = view.one(resource, written.object, Timestamp::now());
        Self { warnings: written.warnings, ..Self::json(status, &value) }
    }
}

impl Call {
    fn header(&self, name: HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn view(&self) -> Result<View> {
        View::read(self.header(ACCEPT), &self.query.include_object)
    }

    /// The body's media type, without parameters.
    fn media_type(&self) -> &str {
        self.header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
    }

    /// The body as JSON, or as YAML if it says so.
    fn value(&self) -> Result<Value> {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::bad_request(format!(
                "the object provided is unrecognized (must be of type JSON or YAML): {error}"
            ))
        };
        match self.media_type() {
            ""
            | JSON
            | "application/json-patch+json"
            | "application/merge-patch+json"
            | "application/strategic-merge-patch+json" => {
                serde_json::from_slice(&self.body).map_err(|error| wrong(&error))
            }
            "application/yaml" | "application/apply-patch+yaml" => {
                serde_yaml_ng::from_slice(&self.body).map_err(|error| wrong(&error))
            }
            "application/vnd.kubernetes.protobuf" => proto::read(&self.body).map_err(|error| match error {
                Wrong::Unknown(_) => Failure::unsupported_media_type(error.to_string()),
                Wrong::Garbled => wrong(&error),
            }),
            other => Err(Failure::unsupported_media_type(format!(
                "the body of the request was in an unknown format ({other}) - accepted media types include: application/json, application/yaml"
            ))),
        }
    }

    /// Who the fields that are written belong to.
    fn manager(&self) -> String {
        if !self.query.field_manager.is_empty() {
            return self.query.field_manager.clone();
        }
        let agent = self.header(USER_AGENT).split('/').next().unwrap_or_default();
        if agent.is_empty() { "unknown".to_owned() } else { agent.to_owned() }
    }
}

impl Handler {
    /// Answers a request of whoever has `certified` by a certificate.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
        certified: Option<Identity>,
    ) -> Response<Body> {
        let reply = self.handle(request, certified).await;
        let reply = reply.unwrap_or_else(|failure| {
            let status = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Reply::json(status, &failure.to_json())
        });
        let mut response = Response::new(reply.body);
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
        for warning in reply.warnings {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                headers.append(WARNING, value);
            }
        }
        response
    }

    async fn handle(&self, request: Request<Incoming>, certified: Option<Identity>) -> Result<Reply> {
        let (parts, body) = request.into_parts();
        let header =
            parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let identity =
            certified.or_else(|| auth::by_header(header, &self.tokens)).ok_or_else(Failure::unauthorized)?;
        if let Some(name) = parts.headers.keys().find(|name| name.as_str().starts_with("impersonate-")) {
            return Err(Failure::bad_request(format!("kube-lite does not impersonate: {name}")));
        }
        tracing::trace!(user = identity.user, method = %parts.method, path = parts.uri.path(), "request");
        let query = Query::read(parts.uri.query().unwrap_or_default())?;
        let path = decoded(parts.uri.path());
        let body = read(body).await?;
        let call = Call { method: parts.method, headers: parts.headers, query, body };
        self.dispatch(&call, route(&path)).await
    }

    async fn dispatch(&self, call: &Call, route: Route) -> Result<Reply> {
        let catalog = self.api.cache.catalog();
        let accept = call.header(ACCEPT);
        let aggregated = |core| {
            let value = discovery::aggregated(&catalog, core);
            Reply { content_type: AGGREGATED, ..Reply::ok(&value) }
        };
        let found = |value: Option<Value>| value.map(|value| Reply::ok(&value));
        if let Route::Object(target) = route {
            return Box::pin(self.object(call, target)).await;
        }
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed(""));
        }
        let reply = match route {
            Route::Health => Some(Reply::text("ok")),
            Route::Version => Some(Reply::ok(&discovery::version())),
            Route::CoreVersions if wants_aggregated(accept) => Some(aggregated(true)),
            Route::CoreVersions => Some(Reply::ok(&discovery::core_versions())),
            Route::Groups if wants_aggregated(accept) => Some(aggregated(false)),
            Route::Groups => Some(Reply::ok(&discovery::groups(&catalog))),
            Route::Group(name) => found(discovery::group(&catalog, &name)),
            Route::Resources(version) => match found(discovery::resources(&catalog, &version)) {
                None => return Err(Failure::no_such_resource(discovery::lacking(&version, "").as_deref())),
                reply => reply,
            },
            Route::OpenApiV2 if openapi::v2::is_wanted(accept) => {
                Some(Reply::bytes(openapi::v2::MEDIA_TYPE, openapi::v2::document(&catalog)))
            }
            Route::OpenApiV2 => Some(Reply::ok(&openapi::plain_v2(&catalog))),
            Route::OpenApiV3 => Some(Reply::ok(&openapi::index(&catalog))),
            Route::OpenApiV3Of(version) => found(openapi::document(&catalog, &version)),
            Route::Object(_) | Route::Unknown => None,
        };
        reply.ok_or_else(|| Failure::no_such_resource(None))
    }

    async fn object(&self, call: &Call, target: Target) -> Result<Reply> {
        let catalog = self.api.cache.catalog();
        let lacking =
            || Failure::no_such_resource(discovery::lacking(&target.version, &target.plural).as_deref());
        let resource = Arc::clone(catalog.find(&target.version, &target.plural).ok_or_else(lacking)?);
        let namespace = target.namespace.as_deref();
        if namespace.is_some() && !resource.namespaced {
            return Err(Failure::no_such_resource(None));
        }
        let Some(name) = target.name.as_deref() else {
            return match call.method {
                Method::GET if call.query.watch => self.watch(call, &resource, namespace).await,
                Method::GET => self.list(call, &resource, namespace).await,
                Method::POST if namespace.is_some() || !resource.namespaced => {
                    let edit = edit(call, &resource, &target)?;
                    Ok(Reply::written(self.api.create(&edit, call.value()?).await?, &resource, call.view()?))
                }
                Method::DELETE if namespace.is_some() || !resource.namespaced => {
                    self.delete_all(call, &resource, namespace).await
                }
                _ => Err(Failure::method_not_allowed("")),
            };
        };
        if namespace.is_none() && resource.namespaced {
            return Err(Failure::no_such_resource(None));
        }
        if matches!(name, "." | "..") || name.contains('%') {
            let why = if name.contains('%') {
                "may not contain '%'".to_owned()
            } else {
                format!("may not be '{name}'")
            };
            return Err(Failure::bad_request(format!("Name parameter invalid: {name:?}: {why}")));
        }
        let known = resource.subresources();
        match target.subresource.as_deref() {
            None => {}
            Some("finalize") if known.iter().any(|(part, _)| *part == "finalize") => {
                return self.finalize(call, &resource, name).await;
            }
            Some(part) if known.iter().any(|(known, _)| *known == part) => {}
            Some(part) => {
                let what = format!("{}/{part}", resource.plural);
                return Err(Failure::no_such_resource(Some(&what)));
            }
        }
        match call.method {
            Method::GET => {
                let object = self.api.get(&resource, namespace, name).await?;
                Ok(Reply::ok(&call.view()?.one(&resource, object, Timestamp::now())))
            }
            Method::PUT => {
                let edit = edit(call, &resource, &target)?;
                let written = self.api.edit(&edit, &Outcome::Replace(call.value()?)).await?;
                Ok(Reply::written(written, &resource, call.view()?))
            }
            Method::PATCH => {
                let edit = edit(call, &resource, &target)?;
                let written = self.api.edit(&edit, &patch(call)?).await?;
                Ok(Reply::written(written, &resource, call.view()?))
            }
            Method::DELETE if target.subresource.is_none() => {
                self.delete(call, &resource, namespace, name).await
            }
            _ => Err(Failure::method_not_allowed("")),
        }
    }

    async fn list(&self, call: &Call, resource: &Resource, namespace: Option<&str>) -> Result<Reply> {
        let view = call.view()?;
        check_list(&call.query)?;
        let list = self.api.list(resource, namespace, &call.query).await?;
        let mut metadata = json!({"resourceVersion": list.resource_version});
        if let Some(next) = list.next {
            metadata["continue"] = next.into();
        }
        Ok(Reply::ok(&view.list(resource, list.items, metadata, Timestamp::now())))
    }

    async fn watch(&self, call: &Call, resource: &Arc<Resource>, namespace: Option<&str>) -> Result<Reply> {
        let view = call.view()?;
        check_list(&call.query)?;
        let start = match self.api.watch_start(resource, namespace, &call.query).await {
            // A watch says so in its stream.
            Err(failure) if failure.code == 410 => {
                let event = WatchEvent { kind: "ERROR", object: failure.to_json() };
                return Ok(stream(futures::stream::iter([event]), Arc::clone(resource), View::Whole));
            }
            start => start?,
        };
        let events = self.api.watch(resource, namespace, &call.query, start, self.stop.clone())?;
        Ok(stream(events, Arc::clone(resource), view))
    }

    async fn delete(
        &self,
        call: &Call,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Reply> {
        let options = delete_options(call)?;
        let deleted = self.api.delete(resource, &resource.key(namespace, name), &options).await?;
        let returns_object = resource.built_in.is_some_and(|built_in| built_in.delete_returns_object);
        if !deleted.gone || returns_object {
            return Ok(Reply::ok(&call.view()?.one(resource, deleted.object, Timestamp::now())));
        }
        let mut details = json!({"name": name, "kind": resource.plural, "uid": object::uid(&deleted.object)});
        if !resource.version.group.is_empty() {
            details["group"] = resource.version.group.as_str().into();
        }
        Ok(Reply::ok(
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
        ))
    }

    async fn delete_all(&self, call: &Call, resource: &Resource, namespace: Option<&str>) -> Result<Reply> {
        if resource.is_core("namespaces") {
            return Err(Failure::method_not_allowed(""));
        }
        let options = delete_options(call)?;
        let list = self.api.list(resource, namespace, &call.query).await?;
        let mut items = Vec::with_capacity(list.items.len());
        for object in list.items {
            let key = resource.key(Some(object::namespace(&object)), object::name(&object));
            match self.api.delete(resource, &key, &options).await {
                Ok(deleted) => items.push(deleted.object),
                Err(failure) if failure.code == 404 => {}
                Err(failure) => return Err(failure),
            }
        }
        let metadata = json!({"resourceVersion": list.resource_version});
        Ok(Reply::ok(&call.view()?.list(resource, items, metadata, Timestamp::now())))
    }

    /// Takes the finalizers of a namespace's spec from the caller.
    async fn finalize(&self, call: &Call, resource: &Arc<Resource>, name: &str) -> Result<Reply> {
        if call.method != Method::PUT {
            return Err(Failure::method_not_allowed(""));
        }
        let finalizers = object::items(&call.value()?, "/spec/finalizers").to_vec();
        let set = |namespace: &mut Value| {
            let wanted = (!finalizers.is_empty()).then(|| finalizers.clone().into());
            object::put(object::child(namespace, "spec"), "finalizers", wanted);
            true
        };
        let namespace = self.api.amend(resource, &resource.key(None, name), set).await?;
        let namespace = namespace.ok_or_else(|| Failure::not_found(resource.about(name)))?;
        Ok(Reply::ok(&namespace))
    }
}

/// Reads a body as a whole.
async fn read<B>(body: B) -> Result<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match tokio::time::timeout(BODY_TIME, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::too_large()),
        Ok(Err(_broken)) => Err(Failure::bad_request("the body of the request could not be read")),
        Err(_elapsed) => {
            Err(Failure::timeout(format!("the body of the request did not come within {BODY_TIME:?}")))
        }
    }
}

/// A path without its percent signs.
fn decoded(path: &str) -> String {
    // As the value of a form, in which two more characters mean something.
    let form = format!("p={}", path.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = form_urlencoded::parse(form.as_bytes());
    pairs.next().map_or_else(String::new, |(_, path)| path.into_owned())
}

fn edit(call: &Call, resource: &Arc<Resource>, target: &Target) -> Result<Edit> {
    let options = match call.method {
        Method::POST => "CreateOptions",
        Method::PUT => "UpdateOptions",
        _ => "PatchOptions",
    };
    check_write(options, &call.query)?;
    Ok(Edit {
        resource: Arc::clone(resource),
        namespace: target.namespace.clone(),
        name: target.name.clone().unwrap_or_default(),
        subresource: target.subresource.clone().unwrap_or_default(),
        manager: call.manager(),
        dry_run: call.query.dry_run,
        unknown: Unknown::read(&call.query.field_validation)?,
    })
}

fn patch(call: &Call) -> Result<Outcome> {
    let media_type = call.media_type();
    if call.query.force && media_type != "application/apply-patch+yaml" {
        return Err(Failure::bad_request("force may only be set for server-side apply"));
    }
    match media_type {
        "application/merge-patch+json" => Ok(Outcome::Merge(call.value()?)),
        "application/json-patch+json" => Ok(Outcome::Json(call.value()?)),
        "application/strategic-merge-patch+json" => Ok(Outcome::Strategic(call.value()?)),
        "application/apply-patch+yaml" if call.query.field_manager.is_empty() => {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            Err(Failure::invalid("meta.k8s.io", "PatchOptions", "", &[cause]))
        }
        "application/apply-patch+yaml" => {
            Ok(Outcome::Apply { config: call.value()?, force: call.query.force })
        }
        _ => Err(Failure::unsupported_media_type("415: Unsupported Media Type")),
    }
}

fn delete_options(call: &Call) -> Result<DeleteOptions> {
    check_write("DeleteOptions", &call.query)?;
    let body = if call.body.is_empty() { Value::Null } else { call.value()? };
    DeleteOptions::read(&call.query, &body)
}

fn stream(
    events: impl Stream<Item = WatchEvent> + Send + 'static,
    resource: Arc<Resource>,
    view: View,
) -> Reply {
    let lines = events.enumerate().filter_map(move |(i, event)| {
        let line = match event.kind {
            "ERROR" => Some(event.object),
            // A table has no row that says how far it is.
            "BOOKMARK" if matches!(view, View::Table(_)) => None,
            "BOOKMARK" => Some(event.object),
            _ => Some(view.watched(&resource, event.object, i == 0, Timestamp::now())),
        };
        let line = line.map(|object| {
            let mut line = json!({"type": event.kind, "object": object}).to_string();
            line.push('\n');
            Ok(Frame::data(Bytes::from(line)))
        });
        futures::future::ready(line)
    });
    let body = StreamBody::new(lines).boxed_unsync();
    Reply { status: StatusCode::OK, content_type: JSON, body, warnings: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_as_a_whole() {
        for (path, wanted) in [("/a&b=c/d+e", "/a&b=c/d+e"), ("/a%26b%2fc", "/a&b/c"), ("/p=q&", "/p=q&")] {
            assert_eq!(decoded(path), wanted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_must_come_in_time_and_be_small_enough() {
        let part = |bytes: Bytes| Ok::<_, Infallible>(Frame::data(bytes));
        let first = futures::stream::iter([part(Bytes::from_static(b"{"))]);
        let late = read(StreamBody::new(first.chain(futures::stream::pending()))).await.unwrap_err();
        assert_eq!((late.code, late.reason), (504, "Timeout"));
        let large = vec![b' '; MAX_BODY_BYTES];
        let large = futures::stream::iter([part(large.into()), part(Bytes::from_static(b"{}"))]);
        assert_eq!(read(StreamBody::new(large)).await.unwrap_err().code, 413);
    }
}
