//! Events.

use jiff::Timestamp;
use serde_json::Value;

use super::columns::since;
use crate::object::{self, text};
use crate::status::Cause;

pub(super) const SELECTABLE: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

pub(super) fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let text = |pointer: &str| text(event, pointer);
    let one_of = |pointers: [&'static str; 2]| {
        pointers.into_iter().map(text).find(|text| !text.is_empty()).unwrap_or_default()
    };
    let last = one_of(["/series/lastObservedTime", "/lastTimestamp"]);
    let first = one_of(["/firstTimestamp", "/eventTime"]);
    let last = if last.is_empty() { first } else { last };
    let object = format!("{}/{}", text("/involvedObject/kind").to_lowercase(), text("/involvedObject/name"));
    let source = one_of(["/source/component", "/reportingComponent"]);
    let host = one_of(["/source/host", "/reportingInstance"]);
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    let count = ["/series/count", "/count"].into_iter().find_map(|pointer| event.pointer(pointer)?.as_i64());
    vec![
        since(last, now).into(),
        text("/type").into(),
        text("/reason").into(),
        object.into(),
        text("/involvedObject/fieldPath").into(),
        source.into(),
        text("/message").trim().into(),
        since(first, now).into(),
        count.unwrap_or(1).into(),
        object::name(event).into(),
    ]
}

pub(super) fn validate(event: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let about = text(event, "/involvedObject/namespace");
    let namespace = object::namespace(event);
    // An event about something without a namespace lies in `default`.
    let fits = about == namespace || about.is_empty() && namespace == "default";
    let wrong = Cause::invalid("involvedObject.namespace", &about.into(), "does not match event.namespace");
    if fits { Vec::new() } else { vec![wrong] }
}
