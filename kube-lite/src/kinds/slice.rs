//! EndpointSlices.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::{age, some_of};
use crate::object::{self, items, text};
use crate::status::Cause;

const MAX_ENDPOINTS: usize = 1000;

pub(super) fn cells(slice: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| match port.get("port").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => "*".to_owned(),
    };
    let ports: Vec<_> = items(slice, "/ports").iter().map(port).collect();
    let addresses = items(slice, "/endpoints").iter().flat_map(|endpoint| items(endpoint, "/addresses"));
    let addresses: Vec<_> = addresses.filter_map(|address| address.as_str().map(str::to_owned)).collect();
    vec![
        object::name(slice).into(),
        text(slice, "/addressType").into(),
        some_of(&ports, "<unset>").into(),
        some_of(&addresses, "<unset>").into(),
        age(slice, now),
    ]
}

pub(super) fn default(slice: &mut Value) {
    let fields = object::fields(slice);
    // Go writes these also when they are empty.
    object::default(fields, "endpoints", Value::Null);
    object::default(fields, "ports", Value::Null);
    if let Some(Value::Array(ports)) = fields.get_mut("ports") {
        for port in ports {
            object::default(object::fields(port), "name", "");
            object::default_text(object::fields(port), "protocol", "TCP");
        }
    }
    if let Some(Value::Array(endpoints)) = fields.get_mut("endpoints") {
        for endpoint in endpoints {
            object::default(object::fields(endpoint), "conditions", json!({}));
        }
    }
}

pub(super) fn validate(slice: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let kind = text(slice, "/addressType");
    let allowed = ["FQDN", "IPv4", "IPv6"].map(Value::from);
    if kind.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !allowed.iter().any(|allowed| allowed == kind) {
        causes.push(Cause::not_supported("addressType", &kind.into(), &allowed));
    }
    if old.is_some_and(|old| text(old, "/addressType") != kind) {
        causes.push(Cause::invalid("addressType", &kind.into(), "field is immutable"));
    }
    let endpoints = items(slice, "/endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        let why = format!("Too many: {}: must have at most {MAX_ENDPOINTS} items", endpoints.len());
        causes.push(Cause::invalid("endpoints", &endpoints.len().into(), why));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let addresses = items(endpoint, "/addresses");
        if addresses.is_empty() {
            causes.push(Cause::required(
                format!("endpoints[{i}].addresses"),
                "must contain at least 1 address",
            ));
        }
        for (j, address) in addresses.iter().enumerate() {
            let parsed = address.as_str().and_then(|address| address.parse::<IpAddr>().ok());
            let why = match kind {
                "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => "must be a valid IPv4 address",
                "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => "must be a valid IPv6 address",
                _ => continue,
            };
            causes.push(Cause::invalid(format!("endpoints[{i}].addresses[{j}]"), address, why));
        }
    }
    let ports = items(slice, "/ports");
    for (i, port) in ports.iter().enumerate() {
        let name = text(port, "/name");
        if ports[..i].iter().any(|other| text(other, "/name") == name) {
            causes.push(Cause::duplicate(format!("ports[{i}].name"), &name.into()));
        }
        let protocol = text(port, "/protocol");
        let allowed = ["SCTP", "TCP", "UDP"].map(Value::from);
        if !allowed.iter().any(|allowed| allowed == protocol) {
            causes.push(Cause::not_supported(format!("ports[{i}].protocol"), &protocol.into(), &allowed));
        }
    }
    causes
}
