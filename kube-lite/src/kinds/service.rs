//! Services: defaults, rules, and the addresses that they get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::columns::{age, or_none};
use crate::object::{self, items, text};
use crate::select::is_dns_label;
use crate::status::Cause;

/// Ports that a Service may get on every node.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

pub(super) fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    let text = |pointer: &str| text(service, pointer);
    let kind = text("/spec/type");
    let listed = |pointer: &str| {
        let values = items(service, pointer).iter().filter_map(Value::as_str);
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    let ingress = items(service, "/status/loadBalancer/ingress").iter().map(|ingress| {
        let ip = object::text(ingress, "/ip");
        if ip.is_empty() { object::text(ingress, "/hostname") } else { ip }.to_owned()
    });
    let ingress: Vec<_> = ingress.collect();
    let mut external = match kind {
        "ExternalName" => vec![text("/spec/externalName").to_owned()],
        "LoadBalancer" => ingress,
        _ => Vec::new(),
    };
    external.extend(listed("/spec/externalIPs"));
    let external = match external.join(",") {
        none if none.is_empty() && kind == "LoadBalancer" => "<pending>".into(),
        external => or_none(&external),
    };
    let port = |port: &Value| {
        let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
        let protocol = object::text(port, "/protocol");
        match port.get("nodePort").and_then(Value::as_i64) {
            Some(node_port) => format!("{number}:{node_port}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    };
    let ports = items(service, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(",");
    let selector = service.pointer("/spec/selector").and_then(Value::as_object).into_iter().flatten();
    let selector = selector.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let selector = selector.collect::<Vec<_>>().join(",");
    let cluster_ip = text("/spec/clusterIP");
    vec![
        object::name(service).into(),
        kind.into(),
        or_none(cluster_ip),
        external,
        or_none(&ports),
        age(service, now),
        or_none(&selector),
    ]
}

pub(super) fn default(service: &mut Value) {
    object::default(object::child(service, "status"), "loadBalancer", json!({}));
    let spec = object::child(service, "spec");
    object::default_text(spec, "sessionAffinity", "None");
    object::default_text(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" {
        object::default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10_800}}));
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    if external {
        object::default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if external || kind == "ClusterIP" {
        object::default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        object::default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let port = object::fields(port);
        object::default_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        if port.get("targetPort").is_none_or(|target| target == 0 || target == "") {
            port.insert("targetPort".to_owned(), number);
        }
        if port.get("nodePort").is_some_and(|port| port == 0) {
            port.remove("nodePort");
        }
    }
}

/// Needs an address, if not "None".
fn has_address(spec: &Map<String, Value>) -> bool {
    spec.get("type").is_none_or(|kind| kind != "ExternalName")
}

fn is_headless(spec: &Map<String, Value>) -> bool {
    spec.get("clusterIP").is_some_and(|ip| ip == "None")
}

pub(super) fn prepare(service: &mut Value, old: Option<&Value>) {
    let Some(old) = old else {
        object::fields(service).insert("status".to_owned(), json!({"loadBalancer": {}}));
        return;
    };
    // What was allocated before and is not named now stays.
    let old_spec = old.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let spec = object::child(service, "spec");
    if has_address(spec) && has_address(&old_spec) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let empty = spec.get(field).is_none_or(|value| value.is_null() || value == "");
            if empty && let Some(value) = old_spec.get(field) {
                spec.insert(field.to_owned(), value.clone());
            }
        }
    }
    if !has_address(spec) && has_address(&old_spec) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field) == old_spec.get(field) {
                spec.remove(field);
            }
        }
    }
    if needs_node_ports(spec) {
        let before = items(old, "/spec/ports");
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let same = |other: &&Value| {
                ["port", "protocol"].iter().all(|field| other.get(*field) == port.get(*field))
            };
            let node_port = before.iter().find(same).and_then(|port| port.get("nodePort")).cloned();
            if let Some(node_port) = node_port {
                object::default(object::fields(port), "nodePort", node_port);
            }
        }
    }
}

fn needs_node_ports(spec: &Map<String, Value>) -> bool {
    match spec.get("type").and_then(Value::as_str) {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

pub(super) fn validate(service: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let Some(spec) = service.get("spec").and_then(Value::as_object) else { return causes };
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"].map(Value::from);
    let kind = &spec.get("type").cloned().unwrap_or_default();
    if !kinds.contains(kind) {
        causes.push(Cause::not_supported("spec.type", kind, &kinds));
    }
    if kind == "ExternalName" && text(service, "/spec/externalName").is_empty() {
        let why = "may not be empty; must be a lowercase RFC-1123 hostname";
        causes.push(Cause::required("spec.externalName", why));
    }
    let affinities = ["ClientIP", "None"].map(Value::from);
    let affinity = spec.get("sessionAffinity").cloned().unwrap_or_default();
    if !affinities.contains(&affinity) {
        causes.push(Cause::not_supported("spec.sessionAffinity", &affinity, &affinities));
    }
    let ports = items(service, "/spec/ports");
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (i, port) in ports.iter().enumerate() {
        check_port(ports, i, port, &mut causes);
    }
    if let Some(old) = old {
        let (before, after) = (items(old, "/spec/clusterIPs"), items(service, "/spec/clusterIPs"));
        let both = old.get("spec").and_then(Value::as_object).is_some_and(has_address) && has_address(spec);
        if both && !before.is_empty() && before.first() != after.first() {
            let why = "may not change once set";
            causes.push(Cause::invalid("spec.clusterIPs[0]", &after.into(), why));
        }
    }
    causes
}

fn check_port(ports: &[Value], i: usize, port: &Value, causes: &mut Vec<Cause>) {
    let field = |name: &str| format!("spec.ports[{i}].{name}");
    const IN_RANGE: &str = "must be between 1 and 65535, inclusive";
    let name = text(port, "/name");
    if name.is_empty() && ports.len() > 1 {
        causes.push(Cause::required(field("name"), ""));
    } else if !name.is_empty() && !is_dns_label(name) {
        let why = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                   and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                   '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        causes.push(Cause::invalid(field("name"), &name.into(), why));
    } else if !name.is_empty() && ports[..i].iter().any(|other| text(other, "/name") == name) {
        causes.push(Cause::duplicate(field("name"), &name.into()));
    }
    let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
    if !(1..=65_535).contains(&number) {
        causes.push(Cause::invalid(field("port"), &number.into(), IN_RANGE));
    }
    if let Some(target) = port.get("targetPort").and_then(Value::as_i64)
        && !(1..=65_535).contains(&target)
    {
        causes.push(Cause::invalid(field("targetPort"), &target.into(), IN_RANGE));
    }
    let protocols = ["SCTP", "TCP", "UDP"].map(Value::from);
    let protocol = port.get("protocol").cloned().unwrap_or_default();
    if !protocols.contains(&protocol) {
        causes.push(Cause::not_supported(field("protocol"), &protocol, &protocols));
    }
    let same = |other: &Value| ["port", "protocol"].iter().all(|field| other.get(*field) == port.get(*field));
    if ports[..i].iter().any(same) {
        let key = json!({"port": number, "protocol": protocol});
        causes.push(Cause::duplicate(format!("spec.ports[{i}]"), &key));
    }
}

/// What a Service holds that no other may: `clusterips/<address>` and `nodeports/<port>`.
pub(crate) fn claims(service: &Value) -> BTreeSet<String> {
    let mut claims = BTreeSet::new();
    for ip in items(service, "/spec/clusterIPs").iter().filter_map(Value::as_str) {
        if let Ok(ip) = ip.parse::<IpAddr>() {
            claims.insert(format!("clusterips/{ip}"));
        }
    }
    for port in items(service, "/spec/ports") {
        if let Some(port) = port.get("nodePort").and_then(Value::as_u64) {
            claims.insert(format!("nodeports/{port}"));
        }
    }
    claims
}

/// Where addresses and ports come from.
#[derive(Debug)]
pub(crate) struct Ranges<'a> {
    /// The primary family first.
    pub(crate) cidrs: &'a [IpNet],
    /// Claims of all Services; those that this one has already are its own.
    pub(crate) taken: &'a BTreeSet<String>,
}

/// Gives a Service the addresses and node ports that it needs and has not. `random` decides where the search begins.
///
/// # Errors
/// What it asks for and cannot have.
pub(crate) fn allocate(
    service: &mut Value,
    own: &BTreeSet<String>,
    ranges: &Ranges<'_>,
    mut random: impl FnMut() -> u64,
) -> Result<(), Vec<Cause>> {
    let spec = object::child(service, "spec");
    if has_address(spec) {
        allocate_addresses(spec, own, ranges, &mut random)?;
    }
    if needs_node_ports(spec) {
        allocate_node_ports(spec, own, ranges, &mut random)?;
    }
    Ok(())
}

fn family(ip: bool) -> &'static str {
    if ip { "IPv4" } else { "IPv6" }
}

fn allocate_addresses(
    spec: &mut Map<String, Value>,
    own: &BTreeSet<String>,
    ranges: &Ranges<'_>,
    random: &mut impl FnMut() -> u64,
) -> Result<(), Vec<Cause>> {
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |spec: &Map<String, Value>, field: &str| -> Vec<String> {
        spec.get(field).and_then(Value::as_array).into_iter().flatten().map(text_of).collect()
    };
    let mut ips = list(spec, "clusterIPs");
    if let (Some(first), true) = (spec.get("clusterIP").map(text_of), ips.is_empty()) {
        ips.extend((!first.is_empty()).then_some(first));
    }
    let known: BTreeMap<&str, &IpNet> =
        ranges.cidrs.iter().rev().map(|cidr| (family(cidr.addr().is_ipv4()), cidr)).collect();
    let mut families = list(spec, "ipFamilies");
    let policy = spec.get("ipFamilyPolicy").map(text_of).filter(|policy| !policy.is_empty());
    let policy = policy.unwrap_or_else(|| {
        if families.len() > 1 || ips.len() > 1 { "RequireDualStack" } else { "SingleStack" }.to_owned()
    });
    if families.is_empty() {
        families.extend(
            ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| family(ip.is_ipv4()).to_owned()),
        );
    }
    if families.is_empty() {
        families.extend(ranges.cidrs.first().map(|cidr| family(cidr.addr().is_ipv4()).to_owned()));
    }
    if policy != "SingleStack" {
        for cidr in ranges.cidrs {
            let family = family(cidr.addr().is_ipv4()).to_owned();
            if !families.contains(&family) {
                families.push(family);
            }
        }
        if policy == "RequireDualStack" && families.len() < 2 {
            let why = "this cluster is not configured for dual-stack services";
            return Err(vec![Cause::invalid("spec.ipFamilyPolicy", &policy.into(), why)]);
        }
    }
    if let Some((i, family)) =
        families.iter().enumerate().find(|(_, family)| !known.contains_key(family.as_str()))
    {
        let why = "not configured on this cluster";
        return Err(vec![Cause::invalid(format!("spec.ipFamilies[{i}]"), &family.as_str().into(), why)]);
    }
    if ips.first().is_none_or(|ip| ip != "None") {
        for (i, family) in families.iter().enumerate() {
            let cidr = known[family.as_str()];
            match ips.get(i) {
                Some(ip) => check_wanted(ip, cidr, own, ranges).map_err(|why| {
                    vec![Cause::invalid(
                        "spec.clusterIPs",
                        &json!(ips),
                        format!("failed to allocate IP {ip}: {why}"),
                    )]
                })?,
                None => {
                    let free = free_address(cidr, ranges.taken, random);
                    let full = || {
                        vec![Cause::invalid(
                            "spec.clusterIPs",
                            &json!([]),
                            "failed to allocate an IP: range is full",
                        )]
                    };
                    ips.push(free.ok_or_else(full)?.to_string());
                }
            }
        }
    }
    spec.insert("clusterIP".to_owned(), ips[0].as_str().into());
    spec.insert("clusterIPs".to_owned(), json!(ips));
    spec.insert("ipFamilies".to_owned(), json!(families));
    spec.insert("ipFamilyPolicy".to_owned(), policy.into());
    Ok(())
}

fn check_wanted(ip: &str, cidr: &IpNet, own: &BTreeSet<String>, ranges: &Ranges<'_>) -> Result<(), String> {
    let parsed: IpAddr = ip.parse().map_err(|_error| "must be a valid IP address".to_owned())?;
    let claim = format!("clusterips/{parsed}");
    if own.contains(&claim) {
        return Ok(());
    }
    if !cidr.contains(&parsed) {
        return Err("the provided network does not match the current range".to_owned());
    }
    if ranges.taken.contains(&claim) { Err("provided IP is already allocated".to_owned()) } else { Ok(()) }
}

/// A free address of the range, which is searched from a random place on; not the network's own nor the last of IPv4.
fn free_address(cidr: &IpNet, taken: &BTreeSet<String>, random: &mut impl FnMut() -> u64) -> Option<IpAddr> {
    /// Wide ranges are used up to here.
    const MOST: u32 = 16;
    let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(MOST);
    let size = 1_u64 << host_bits;
    let last = if cidr.addr().is_ipv4() { size - 1 } else { size };
    let usable = last.saturating_sub(1);
    let start = random().checked_rem(usable)?;
    let addresses = (0..usable).map(|offset| nth(cidr, 1 + (start + offset) % usable));
    addresses.into_iter().find(|ip| !taken.contains(&format!("clusterips/{ip}")))
}

fn nth(cidr: &IpNet, n: u64) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(network) => {
            Ipv4Addr::from_bits(network.to_bits() + u32::try_from(n).unwrap_or_default()).into()
        }
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + u128::from(n)).into(),
    }
}

fn allocate_node_ports(
    spec: &mut Map<String, Value>,
    own: &BTreeSet<String>,
    ranges: &Ranges<'_>,
    random: &mut impl FnMut() -> u64,
) -> Result<(), Vec<Cause>> {
    let mut mine = BTreeSet::new();
    for (i, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        let field = format!("spec.ports[{i}].nodePort");
        let is_free = |claim: &String, mine: &BTreeSet<String>| {
            !mine.contains(claim) && (own.contains(claim) || !ranges.taken.contains(claim))
        };
        let wanted = port.get("nodePort").and_then(Value::as_u64);
        let claim = match wanted {
            Some(number) => {
                let claim = format!("nodeports/{number}");
                if !u16::try_from(number).is_ok_and(|port| NODE_PORTS.contains(&port)) {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        NODE_PORTS.start(),
                        NODE_PORTS.end()
                    );
                    return Err(vec![Cause::invalid(field, &number.into(), why)]);
                }
                if !is_free(&claim, &mine) {
                    return Err(vec![Cause::invalid(
                        field,
                        &number.into(),
                        "provided port is already allocated",
                    )]);
                }
                claim
            }
            None => {
                let size = u64::from(NODE_PORTS.end() - NODE_PORTS.start() + 1);
                let start = random() % size;
                let number = (0..size).map(|offset| u64::from(*NODE_PORTS.start()) + (start + offset) % size);
                let found = number.into_iter().find(|number| {
                    is_free(&format!("nodeports/{number}"), &mine)
                        && !own.contains(&format!("nodeports/{number}"))
                });
                let full =
                    || vec![Cause::invalid(field, &0.into(), "failed to allocate a nodePort: range is full")];
                let number = found.ok_or_else(full)?;
                object::fields(port).insert("nodePort".to_owned(), number.into());
                format!("nodeports/{number}")
            }
        };
        mine.insert(claim);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
