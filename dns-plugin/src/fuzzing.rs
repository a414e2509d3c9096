//! What the fuzzer calls: a query over the network, objects from the API server. Also replayed by an ordinary test.
//!
//! Each takes any bytes, tells whether they were accepted, and panics if what goes out breaks a rule.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use kube_watch::{ObjectKey, RawObject};

use crate::table::{Kind, Table};
use crate::zone::{Zone, ZoneSettings};
use crate::{Limit, respond};

const NAMESPACE: &str = "ns";
/// One of each shape: addresses of both families, an endpoint with a host name, and more endpoints than a datagram holds.
const IMPORTS: [&str; 3] = [
    r#"{"metadata":{"name":"a","namespace":"ns"},"spec":{"type":"ClusterSetIP","ips":["10.0.0.1","fd00::1"],"ports":[{"name":"http","protocol":"TCP","port":80}]}}"#,
    r#"{"metadata":{"name":"h","namespace":"ns"},"spec":{"type":"Headless","ports":[{"name":"http","protocol":"TCP","port":80}]}}"#,
    r#"{"metadata":{"name":"big","namespace":"ns"},"spec":{"type":"Headless","ports":[{"port":53,"protocol":"UDP"}]}}"#,
];
const SLICE: &str = r#"{"metadata":{"name":"h-1","namespace":"ns","labels":{"multicluster.kubernetes.io/service-name":"h","multicluster.kubernetes.io/source-cluster":"east"}},"addressType":"IPv4","ports":[{"name":"http","protocol":"TCP","port":8080}],"endpoints":[{"addresses":["172.0.0.1"],"hostname":"web-0"},{"addresses":["172.0.0.2"]}]}"#;

fn empty() -> Zone {
    let zone = "clusterset.local".parse().expect("a valid zone");
    let name_server = vec![IpAddr::from(Ipv4Addr::new(10, 9, 9, 9))];
    Zone::new(ZoneSettings { zone, ttl_seconds: 5, name_server }).expect("a short name")
}

fn table() -> Table {
    let mut table = Table::default();
    table.set_namespace(NAMESPACE.into(), true);
    for kind in Kind::ALL {
        table.set_listed(kind);
    }
    table
}

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let (mut table, mut zone) = (table(), empty());
    for import in IMPORTS {
        assert!(set(&mut table, import), "{import}");
    }
    let endpoints: Vec<_> =
        (0..300).map(|i| format!(r#"{{"addresses":["10.2.{}.{}"]}}"#, i / 250, 1 + i % 250)).collect();
    let from = SLICE.find(r#"[{"addresses"#).expect("has endpoints");
    let big = format!("{}[{}]}}", &SLICE[..from], endpoints.join(","))
        .replace("\"h\"", "\"big\"")
        .replace("h-1", "big-1");
    assert!(set(&mut table, SLICE) && set(&mut table, &big));
    table.update(&mut zone);
    zone
});

/// Sets the object that `json` is: an import, or else a slice. False if it belongs to nothing.
fn set(table: &mut Table, json: &str) -> bool {
    let keyed = |raw: &RawObject<'_>| ObjectKey::new(raw.namespace(), raw.name());
    if let Ok((key, import)) = RawObject::decode(json, |raw| Ok((keyed(raw), crate::object::import(raw)?))) {
        table.set_import(key, import);
        return true;
    }
    if let Ok((key, slice)) = RawObject::decode(json, |raw| Ok((keyed(raw), crate::object::slice(raw)?))) {
        let of_import = slice.object.is_some();
        table.set_slice(&key, slice);
        return of_import;
    }
    false
}

/// [`respond`] to a packet, over a stream and in datagrams. Accepted if the answer is one of the zone.
pub fn query(packet: &[u8]) -> bool {
    let mut accepted = false;
    for (limit, most_bytes) in
        [(Limit::Stream, 65_535), (Limit::Datagram(512), 512), (Limit::Datagram(1232), 1232)]
    {
        let Some(response) = respond(packet, &ZONE, limit) else { return false };
        assert!(response.bytes.len() <= most_bytes, "{limit:?}: {}", response.bytes.len());
        assert_eq!(response.bytes[..2], packet[..2], "the id comes back");
        let message = Message::from_vec(&response.bytes).expect("a response can be read");
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert_eq!(message.metadata.truncation, response.truncated);
        let again = message.to_vec().expect("a response can be written again");
        assert_eq!(Message::from_vec(&again).expect("and read again"), message);
        // Responses are for asking, not for answering.
        assert_eq!(respond(&response.bytes, &ZONE, limit), None);
        accepted = matches!(response.code, ResponseCode::NoError | ResponseCode::NXDomain);
    }
    accepted
}

/// Objects, one per line, and what the zone makes of them. Accepted if each is an import or a slice of one.
pub fn objects(lines: &[u8]) -> bool {
    let Ok(lines) = std::str::from_utf8(lines) else { return false };
    let (mut table, mut zone) = (table(), empty());
    let mut accepted = true;
    let mut keys = Vec::new();
    for line in lines.lines() {
        accepted &= set(&mut table, line);
        keys.extend(RawObject::decode(line, |raw| Ok(ObjectKey::new(raw.namespace(), raw.name()))));
    }
    table.update(&mut zone);
    assert!(!table.update(&mut zone), "nothing changed since");
    for key in &keys {
        ask(&zone, &format!("{}.{}.svc.clusterset.local.", key.name, key.namespace));
    }
    for key in &keys {
        table.remove_import(key);
        table.remove_slice(key);
    }
    table.update(&mut zone);
    assert_eq!(zone.services(), 0, "what is gone has no names");
    accepted && !keys.is_empty()
}

/// Whatever is in the zone can be sent.
fn ask(zone: &Zone, name: &str) {
    let Ok(name) = Name::from_ascii(name) else { return };
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::ANY] {
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name.clone(), kind));
        let Ok(packet) = message.to_vec() else { return };
        let response = respond(&packet, zone, Limit::Stream).expect("a question is answered");
        assert_ne!(response.code, ResponseCode::ServFail, "{name} {kind}");
        Message::from_vec(&response.bytes).expect("a response can be read");
    }
}

#[cfg(test)]
mod replays {
    fuzz_replay::replays! {
        query: 2_000,
        objects: 2_000,
    }
}
