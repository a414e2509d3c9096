//! The objects and questions of the tests, for every transport.

use std::sync::LazyLock;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};
use kube_watch::{ObjectKey, RawObject};
use serde_json::{Value, json};

use crate::table::{Kind, Table};
use crate::zone::{Zone, ZoneSettings};

pub(crate) const SERVER_ADDRESS: &str = "10.9.9.9";
pub(crate) const SERIAL: u32 = 7;

/// A zone that knows nothing yet.
pub(crate) fn empty_zone() -> Zone {
    let settings = ZoneSettings {
        zone: "clusterset.local".parse().unwrap(),
        ttl_seconds: 5,
        name_server: vec![SERVER_ADDRESS.parse().unwrap()],
    };
    Zone::new(settings).unwrap()
}

/// The zone of the cases.
pub(crate) fn zone() -> Zone {
    static ZONE: LazyLock<Zone> = LazyLock::new(|| {
        let (mut table, mut zone) = (table(), empty_zone());
        table.update(&mut zone);
        zone.set_serial(SERIAL);
        zone
    });
    ZONE.clone()
}

/// The objects of the cases: those that CoreDNS's tests use, and some of our own.
pub(crate) fn table() -> Table {
    let mut table = Table::default();
    table.set_namespace("testns".into(), true);
    table.set_namespace("empty".into(), true);
    let http = json!([{"name": "http", "protocol": "TCP", "port": 80}]);
    for (name, kind, ips, ports) in [
        ("svc1", "ClusterSetIP", json!(["10.0.0.1"]), http.clone()),
        ("svcempty", "ClusterSetIP", json!(["10.0.0.1"]), http.clone()),
        ("svc6", "ClusterSetIP", json!(["1234:abcd::1"]), http.clone()),
        ("svc-dual-stack", "ClusterSetIP", json!(["10.0.0.3", "10::3"]), http.clone()),
        ("noip", "ClusterSetIP", json!(null), http.clone()),
        ("noport", "ClusterSetIP", json!(["10.0.0.4"]), json!([])),
        (
            "twice",
            "ClusterSetIP",
            json!(["10.0.0.5"]),
            json!([
            {"name": "tcp", "protocol": "TCP", "port": 42}, {"name": "udp", "protocol": "UDP", "port": 42}]),
        ),
        ("unnamed", "ClusterSetIP", json!(["10.0.0.6"]), json!([{"port": 443}])),
        ("hdls1", "Headless", json!(null), http.clone()),
        ("hdlsprtls", "Headless", json!(null), json!([])),
        ("hdlsdown", "Headless", json!(null), http.clone()),
        ("sets", "Headless", json!(null), http.clone()),
        ("big", "Headless", json!(null), http.clone()),
    ] {
        let object = json!({"metadata": {"name": name, "namespace": "testns"},
            "spec": {"type": kind, "ips": ips, "ports": ports}});
        set_import(&mut table, &object);
    }
    let host = |address: &str| json!({"addresses": [address], "conditions": {"ready": true}});
    let named = |address: &str, name: &str| json!({"addresses": [address], "hostname": name});
    let big: Vec<_> = (0..300).map(|i| host(&format!("10.2.{}.{}", i / 250, 1 + i % 250))).collect();
    for (name, service, cluster, ports, endpoints) in [
        ("svc1-1", "svc1", "cluster1", http.clone(), json!([named("172.0.0.1", "ep1a")])),
        (
            "hdls1-4",
            "hdls1",
            "cluster1",
            http.clone(),
            json!([
            host("172.0.0.2"), host("172.0.0.3"), named("172.0.0.4", "dup-name"), named("172.0.0.5", "dup-name"),
            {"addresses": ["172.0.0.9"], "conditions": {"ready": false, "serving": true}}]),
        ),
        ("hdls1-6", "hdls1", "cluster1", http.clone(), json!([host("5678:abcd::1"), host("5678:abcd::2")])),
        (
            "hdlsprtls-1",
            "hdlsprtls",
            "cluster1",
            json!([{"name": null, "port": null}]),
            json!([host("172.0.0.20")]),
        ),
        (
            "hdlsdown-1",
            "hdlsdown",
            "cluster1",
            http.clone(),
            json!([{"addresses": ["172.0.0.30"], "conditions": {"ready": false}}]),
        ),
        (
            "sets-east",
            "sets",
            "east",
            json!([{"name": "http", "protocol": "TCP", "port": 8080}]),
            json!([named("172.1.0.1", "web-0")]),
        ),
        (
            "sets-west",
            "sets",
            "west.registry",
            json!([{"name": "http", "protocol": "TCP", "port": 9090}]),
            json!([named("172.2.0.1", "web-0")]),
        ),
        ("big-1", "big", "cluster1", http, json!(big)),
    ] {
        set_slice(&mut table, &slice(name, service, cluster, &ports, &endpoints));
    }
    for kind in Kind::ALL {
        table.set_listed(kind);
    }
    table
}

pub(crate) fn slice(name: &str, service: &str, cluster: &str, ports: &Value, endpoints: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "testns", "labels": {
            "multicluster.kubernetes.io/service-name": service,
            "multicluster.kubernetes.io/source-cluster": cluster}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints})
}

fn key(object: &Value) -> ObjectKey {
    let text = |field: &str| object["metadata"][field].as_str().unwrap();
    ObjectKey::new(text("namespace"), text("name"))
}

pub(crate) fn set_import(table: &mut Table, object: &Value) {
    let decoded = RawObject::decode(&object.to_string(), crate::object::import).unwrap();
    table.set_import(key(object), decoded);
}

pub(crate) fn set_slice(table: &mut Table, object: &Value) {
    let decoded = RawObject::decode(&object.to_string(), crate::object::slice).unwrap();
    table.set_slice(&key(object), decoded);
}

/// A question and the whole answer to it.
pub(crate) struct Case {
    /// Clause that asks for it.
    pub(crate) clause: &'static str,
    /// Relative to the zone, empty for the zone itself.
    pub(crate) name: &'static str,
    pub(crate) kind: RecordType,
    pub(crate) code: ResponseCode,
    /// In any order, as [`text`] shows records. Empty with code NOERROR is NODATA.
    pub(crate) answers: &'static [&'static str],
    pub(crate) additional: &'static [&'static str],
}

impl Case {
    pub(crate) fn query_name(&self) -> String {
        match self.name {
            "" => "clusterset.local.".to_owned(),
            name => format!("{name}.clusterset.local."),
        }
    }
}

/// `A 10.0.0.1`, `SRV 0 100 80 svc1.testns.svc`, …: names without the zone, and the TTL if it is not 5.
pub(crate) fn text(record: &Record) -> String {
    let short = |name: &hickory_proto::rr::Name| name.to_ascii().replace(".clusterset.local.", "");
    let data = if let RData::SRV(srv) = &record.data {
        format!("{} {} {} {}", srv.priority, srv.weight, srv.port, short(&srv.target))
    } else if let RData::NS(ns) = &record.data {
        short(ns)
    } else if let RData::SOA(soa) = &record.data {
        format!("{} {} {} {}", short(&soa.mname), short(&soa.rname), soa.serial, soa.minimum)
    } else {
        record.data.to_string()
    };
    let ttl = if record.ttl == 5 { String::new() } else { format!(" ({})", record.ttl) };
    format!("{} {data}{ttl}", record.record_type())
}

pub(crate) fn glue(record: &Record) -> String {
    format!("{} {}", record.name.to_ascii().replace(".clusterset.local.", ""), text(record))
}

pub(crate) const SOA_TEXT: &str = "SOA ns.dns hostmaster 7 5";

macro_rules! cases {
    ($($clause:literal $name:literal $kind:ident $code:ident [$($answer:literal),*] [$($glue:literal),*];)+) => {
        &[$(Case {
            clause: $clause,
            name: $name,
            kind: RecordType::$kind,
            code: ResponseCode::$code,
            answers: &[$($answer),*],
            additional: &[$($glue),*],
        }),+]
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = cases![
    "kep1645_r2_address" "svc1.testns.svc" A NoError ["A 10.0.0.1"] [];
    "kep1645_r2_no_healthy_endpoint_is_answered" "svcempty.testns.svc" A NoError ["A 10.0.0.1"] [];
    "kep1645_r2_ipv6" "svc6.testns.svc" AAAA NoError ["AAAA 1234:abcd::1"] [];
    "kep1645_r2_dual_stack_v4" "svc-dual-stack.testns.svc" A NoError ["A 10.0.0.3"] [];
    "kep1645_r2_dual_stack_v6" "svc-dual-stack.testns.svc" AAAA NoError ["AAAA 10::3"] [];
    "kep1645_r2_no_port_is_answered" "noport.testns.svc" A NoError ["A 10.0.0.4"] [];
    "rfc4343_names_compare_without_case" "SvC1.TESTNS.svc" A NoError ["A 10.0.0.1"] [];
    "rfc2308_2_2_nodata_other_family" "svc1.testns.svc" AAAA NoError [] [];
    "rfc2308_2_2_nodata_other_family" "svc6.testns.svc" A NoError [] [];
    "rfc2308_2_2_nodata_no_ip_yet" "noip.testns.svc" A NoError [] [];
    "rfc2308_2_2_nodata_no_ip_yet" "noip.testns.svc" AAAA NoError [] [];
    "rfc2308_2_2_nodata_no_ip_yet" "noip.testns.svc" SRV NoError [] [];
    "rfc2308_2_2_nodata_no_ip_yet" "_http._tcp.noip.testns.svc" SRV NoError [] [];
    "rfc2308_2_2_nodata_other_type" "svc1.testns.svc" TXT NoError [] [];
    "rfc2308_2_2_nodata_other_type" "svc1.testns.svc" SOA NoError [] [];
    "rfc2308_2_2_nodata_other_type" "svc1.testns.svc" MX NoError [] [];
    "rfc2308_2_2_nodata_other_type" "svc1.testns.svc" HTTPS NoError [] [];
    "rfc2308_2_2_nodata_other_type" "hdls1.testns.svc" CAA NoError [] [];
    "rfc2308_2_1_nxdomain" "svc0.testns.svc" A NXDomain [] [];
    "rfc2308_2_1_nxdomain" "svc0.testns.svc" AAAA NXDomain [] [];
    "rfc2308_2_1_nxdomain" "svc0.testns.svc" ANY NXDomain [] [];
    "rfc2308_2_1_nxdomain" "svc0.svc-nons.svc" A NXDomain [] [];
    "rfc2308_2_1_nxdomain" "svc0.svc-nons.svc" TXT NXDomain [] [];
    "rfc2308_2_1_nxdomain" "foo" NS NXDomain [] [];
    "rfc2308_2_1_nxdomain" "foo.svc" NS NXDomain [] [];
    "rfc2308_2_1_nxdomain" "svc1.testns.pood" A NXDomain [] [];
    "rfc2308_2_1_nxdomain" "1-2-3-4.testns.pod" A NXDomain [] [];
    "rfc4592_no_wildcards" "*.testns.svc" A NXDomain [] [];
    "rfc4592_no_wildcards" "any.testns.svc" A NXDomain [] [];
    "rfc8020_2_empty_non_terminal" "svc" A NoError [] [];
    "rfc8020_2_empty_non_terminal" "svc" NS NoError [] [];
    "rfc8020_2_empty_non_terminal" "svc" TXT NoError [] [];
    "rfc8020_2_empty_non_terminal" "pod" A NoError [] [];
    "rfc8020_2_empty_non_terminal" "dns" A NoError [] [];
    "rfc8020_2_empty_non_terminal" "testns.svc" A NoError [] [];
    "rfc8020_2_empty_non_terminal" "testns.svc" NS NoError [] [];
    "rfc8020_2_empty_non_terminal" "empty.svc" A NoError [] [];
    "rfc8020_2_empty_non_terminal" "_tcp.svc1.testns.svc" A NoError [] [];
    "rfc8020_2_nothing_beneath" "_udp.svc1.testns.svc" A NXDomain [] [];
    "rfc8020_2_nothing_beneath" "_tcp.noport.testns.svc" A NXDomain [] [];
    "kep1645_r1_version" "dns-version" TXT NoError ["TXT 1.1.0 (28800)"] [];
    "kep1645_r1_version" "dns-version" A NoError [] [];
    "kep1645_r3_srv" "_http._tcp.svc1.testns.svc" SRV NoError ["SRV 0 100 80 svc1.testns.svc"] ["svc1.testns.svc A 10.0.0.1"];
    "kep1645_r3_srv" "_http._tcp.svcempty.testns.svc" SRV NoError ["SRV 0 100 80 svcempty.testns.svc"] ["svcempty.testns.svc A 10.0.0.1"];
    "kep1645_r3_srv" "_http._tcp.svc6.testns.svc" SRV NoError ["SRV 0 100 80 svc6.testns.svc"] ["svc6.testns.svc AAAA 1234:abcd::1"];
    "kep1645_r3_srv" "_http._tcp.svc-dual-stack.testns.svc" SRV NoError ["SRV 0 50 80 svc-dual-stack.testns.svc"]
        ["svc-dual-stack.testns.svc A 10.0.0.3", "svc-dual-stack.testns.svc AAAA 10::3"];
    "kep1645_r3_srv_case" "_HTTP._Tcp.svc1.testns.svc" SRV NoError ["SRV 0 100 80 svc1.testns.svc"] ["svc1.testns.svc A 10.0.0.1"];
    "kep1645_r3_only_srv" "_http._tcp.svc1.testns.svc" A NoError [] [];
    "kep1645_r3_no_such_port" "_https._tcp.svc1.testns.svc" SRV NXDomain [] [];
    "kep1645_r3_no_such_port" "_http._udp.svc1.testns.svc" SRV NXDomain [] [];
    "kep1645_r3_needs_underscores" "http.tcp.svc1.testns.svc" SRV NXDomain [] [];
    "conformance_srv_of_the_bare_name" "svc1.testns.svc" SRV NoError ["SRV 0 100 80 svc1.testns.svc"] ["svc1.testns.svc A 10.0.0.1"];
    "conformance_srv_once_per_target_and_port" "twice.testns.svc" SRV NoError ["SRV 0 50 42 twice.testns.svc"] ["twice.testns.svc A 10.0.0.5"];
    "conformance_srv_of_an_unnamed_port" "unnamed.testns.svc" SRV NoError ["SRV 0 100 443 unnamed.testns.svc"] ["unnamed.testns.svc A 10.0.0.6"];
    "kep1645_r4_headless" "hdls1.testns.svc" A NoError ["A 172.0.0.2", "A 172.0.0.3", "A 172.0.0.4", "A 172.0.0.5"] [];
    "kep1645_r4_headless" "hdls1.testns.svc" AAAA NoError ["AAAA 5678:abcd::1", "AAAA 5678:abcd::2"] [];
    "kep1645_r4_headless_without_port" "hdlsprtls.testns.svc" A NoError ["A 172.0.0.20"] [];
    "kep1645_r4_headless_without_port" "hdlsprtls.testns.svc" AAAA NoError [] [];
    "kep1645_r4_headless_without_port" "hdlsprtls.testns.svc" SRV NoError [] [];
    "kep1645_r4_headless_none_ready" "hdlsdown.testns.svc" A NXDomain [] [];
    "kep1645_r4_headless_none_ready" "hdlsdown.testns.svc" TXT NXDomain [] [];
    "kep1645_r5_endpoint" "172-0-0-2.cluster1.hdls1.testns.svc" A NoError ["A 172.0.0.2"] [];
    "kep1645_r5_endpoint" "172-0-0-3.cluster1.hdls1.testns.svc" A NoError ["A 172.0.0.3"] [];
    "kep1645_r5_endpoint" "172-0-0-20.cluster1.hdlsprtls.testns.svc" A NoError ["A 172.0.0.20"] [];
    "kep1645_r5_endpoint" "dup-name.cluster1.hdls1.testns.svc" A NoError ["A 172.0.0.4", "A 172.0.0.5"] [];
    "kep1645_r5_endpoint" "5678-abcd--1.cluster1.hdls1.testns.svc" AAAA NoError ["AAAA 5678:abcd::1"] [];
    "kep1645_r5_endpoint" "5678-abcd--2.cluster1.hdls1.testns.svc" AAAA NoError ["AAAA 5678:abcd::2"] [];
    "kep1645_r5_endpoint" "172-0-0-2.cluster1.hdls1.testns.svc" AAAA NoError [] [];
    "kep1645_r5_not_ready" "172-0-0-9.cluster1.hdls1.testns.svc" A NXDomain [] [];
    "kep1645_r5_cluster_needed" "5678-abcd--1.hdls1.testns.svc" AAAA NXDomain [] [];
    "kep1645_r5_cluster_is_reserved" "cluster1.hdls1.testns.svc" A NXDomain [] [];
    "kep1645_r5_bogus" "bogusendpoint.hdls1.testns.svc" A NXDomain [] [];
    "kep1645_r5_bogus" "bogusendpoint.cluster1.hdls1.testns.svc" A NXDomain [] [];
    "kep1645_r5_bogus" "bogusendpoint.svc0.testns.svc" A NXDomain [] [];
    "kep1645_r5_bogus" "bogusendpoint.cluster1.svc0.testns.svc" A NXDomain [] [];
    "kep1645_r5_headless_only" "ep1a.cluster1.svc1.testns.svc" A NXDomain [] [];
    "kep1645_r5_two_clusters_one_hostname" "web-0.east.sets.testns.svc" A NoError ["A 172.1.0.1"] [];
    "kep1645_r5_cluster_id_of_two_labels" "web-0.west.registry.sets.testns.svc" A NoError ["A 172.2.0.1"] [];
    "kep1645_r6_srv" "_http._tcp.hdls1.testns.svc" SRV NoError [
        "SRV 0 16 80 172-0-0-2.cluster1.hdls1.testns.svc", "SRV 0 16 80 172-0-0-3.cluster1.hdls1.testns.svc",
        "SRV 0 16 80 5678-abcd--1.cluster1.hdls1.testns.svc", "SRV 0 16 80 5678-abcd--2.cluster1.hdls1.testns.svc",
        "SRV 0 16 80 dup-name.cluster1.hdls1.testns.svc"]
        ["172-0-0-2.cluster1.hdls1.testns.svc A 172.0.0.2", "172-0-0-3.cluster1.hdls1.testns.svc A 172.0.0.3",
        "5678-abcd--1.cluster1.hdls1.testns.svc AAAA 5678:abcd::1", "5678-abcd--2.cluster1.hdls1.testns.svc AAAA 5678:abcd::2",
        "dup-name.cluster1.hdls1.testns.svc A 172.0.0.4", "dup-name.cluster1.hdls1.testns.svc A 172.0.0.5"];
    "kep1645_r6_srv_has_the_port_of_the_slice" "_http._tcp.sets.testns.svc" SRV NoError [
        "SRV 0 50 8080 web-0.east.sets.testns.svc", "SRV 0 50 9090 web-0.west.registry.sets.testns.svc"]
        ["web-0.east.sets.testns.svc A 172.1.0.1", "web-0.west.registry.sets.testns.svc A 172.2.0.1"];
    "rfc1035_apex_soa" "" SOA NoError ["SOA ns.dns hostmaster 7 5"] [];
    "rfc1035_apex_ns" "" NS NoError ["NS ns.dns"] ["ns.dns A 10.9.9.9"];
    "rfc1035_name_server" "ns.dns" A NoError ["A 10.9.9.9"] [];
    "rfc1035_name_server" "ns.dns" AAAA NoError [] [];
    "rfc1035_apex_nodata" "" A NoError [] [];
    "rfc1035_apex_nodata" "" AAAA NoError [] [];
    "rfc1035_apex_nodata" "" SRV NoError [] [];
    "rfc1035_apex_nodata" "" HINFO NoError [] [];
    "rfc1035_apex_nodata" "" TXT NoError [] [];
    "rfc8482_4_1_any_is_one_set" "svc-dual-stack.testns.svc" ANY NoError ["A 10.0.0.3"] [];
    "rfc8482_4_1_any_is_one_set" "svc6.testns.svc" ANY NoError ["AAAA 1234:abcd::1"] [];
    "rfc8482_4_1_any_is_one_set" "" ANY NoError ["SOA ns.dns hostmaster 7 5"] [];
    "rfc8482_4_1_any_of_an_empty_name" "testns.svc" ANY NoError [] [];
    "rfc5936_no_transfer" "" AXFR Refused [] [];
];

/// Checks a decoded response against its case.
pub(crate) fn check(case: &Case, transport: &str, response: &hickory_proto::op::Message) {
    let context = format!("{} {} {} over {transport}", case.clause, case.query_name(), case.kind);
    let sorted = |records: &[Record], show: fn(&Record) -> String| {
        let mut texts: Vec<_> = records.iter().map(show).collect();
        texts.sort();
        texts
    };
    assert_eq!(response.metadata.response_code, case.code, "{context}");
    let refused = case.code == ResponseCode::Refused;
    assert_eq!(response.metadata.authoritative, !refused, "AA: {context}");
    assert!(!response.metadata.truncation, "TC: {context}");
    assert_eq!(sorted(&response.answers, text), case.answers, "{context}");
    for answer in &response.answers {
        assert!(
            answer.name.eq_case(&response.queries[0].name),
            "the owner has the case of the question: {context}"
        );
    }
    let negative = case.answers.is_empty() && !refused;
    let authority: &[&str] = if negative { &[SOA_TEXT] } else { &[] };
    assert_eq!(sorted(&response.authorities, text), authority, "a negative answer has the SOA: {context}");
    assert_eq!(sorted(&response.additionals, glue), case.additional, "additional: {context}");
}

/// Whether this is the address of one of the 300 endpoints of `big`.
pub(crate) fn is_big(record: &Record) -> bool {
    matches!(&record.data, RData::A(address) if address.0.octets()[..2] == [10, 2])
}
