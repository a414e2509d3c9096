//! One value for each rule that a peer can break, with the reason that the reader must give.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use mesh_types::{
    ClusterConfig, ClusterService, IpIdentityPair, LocalCluster, Node, Peer, Reason, Rejection, ServiceExport,
};

fn peer() -> Peer {
    let local = LocalCluster::new("us-east", 9, 255).unwrap();
    let config = ClusterConfig { id: 7, ..Default::default() };
    Peer::accept(&local, &"prod-eu".parse().unwrap(), &config).unwrap()
}

fn check<T>(
    kind: &str,
    cases: &[(&str, &str, Reason)],
    decode: impl Fn(&str, &[u8], &Peer) -> Result<T, Rejection>,
) {
    for (name, value, expected) in cases {
        match decode(name, value.as_bytes(), &peer()) {
            Ok(_accepted) => panic!("{kind} {name} {value}: accepted, expected {expected}"),
            Err(rejection) => assert_eq!(rejection.reason, *expected, "{kind} {name} {value}: {rejection}"),
        }
    }
}

#[test]
fn nodes() {
    let cases = [
        ("n", "not json", Reason::ValueNotJson),
        ("n", "[]", Reason::ValueNotJson),
        ("n", r#"{"Name":7}"#, Reason::ValueNotJson),
        ("n", r#"{"Name":"","Cluster":"prod-eu","ClusterID":7}"#, Reason::FieldMissing),
        ("n", r#"{"Name":"n","ClusterID":7}"#, Reason::FieldMissing),
        ("n", r#"{"Name":"n","Cluster":"other","ClusterID":7}"#, Reason::ClusterMismatch),
        ("n", r#"{"Name":"m","Cluster":"prod-eu","ClusterID":7}"#, Reason::NameMismatch),
        ("n", r#"{"Name":"n","Cluster":"prod-eu","ClusterID":8}"#, Reason::ClusterIdMismatch),
        ("n", r#"{"Name":"n","Cluster":"prod-eu"}"#, Reason::ClusterIdMismatch),
        (
            "n",
            r#"{"Name":"n","Cluster":"prod-eu","ClusterID":7,"IPv4AllocCIDR":{"IP":"10.0.0.0","Mask":"/wD/AA=="}}"#,
            Reason::CidrInvalid,
        ),
        (
            "n",
            r#"{"Name":"n","Cluster":"prod-eu","ClusterID":7,"IPv4AllocCIDR":"fd00::/64"}"#,
            Reason::CidrInvalid,
        ),
        (
            "n",
            r#"{"Name":"n","Cluster":"prod-eu","ClusterID":7,"IPv6SecondaryAllocCIDRs":["10.0.0.0/24"]}"#,
            Reason::CidrInvalid,
        ),
        (
            "n",
            r#"{"Name":"n","Cluster":"prod-eu","ClusterID":7,"IPv4AllocCIDR":"10.0.0.0/33"}"#,
            Reason::CidrInvalid,
        ),
        (
            "n",
            r#"{"Name":"n","Cluster":"prod-eu","ClusterID":7,"IPAddresses":[{"Type":"InternalIP","IP":"10.0.0.300"}]}"#,
            Reason::AddressInvalid,
        ),
        (
            "n",
            r#"{"Name":"n","Cluster":"prod-eu","ClusterID":7,"IPv4HealthIP":"here"}"#,
            Reason::AddressInvalid,
        ),
        ("n", r#"{"Name":"n","ClusterID":", expected an IP address"}"#, Reason::ValueNotJson),
    ];
    check("node", &cases, Node::decode);
}

#[test]
fn addresses() {
    let cases = [
        ("10.0.0.1", "", Reason::ValueNotJson),
        ("10.0.0.1", r#"{"IP":"10.0.0.256","ID":458752}"#, Reason::AddressInvalid),
        ("10.0.0.1", r#"{"IP":"","ID":458752}"#, Reason::AddressInvalid),
        ("10.0.0.1", r#"{"ID":458752}"#, Reason::AddressInvalid),
        ("10.0.0.1", r#"{"IP":"10.0.0.2","ID":458752}"#, Reason::NameMismatch),
        ("fd00:0::1", r#"{"IP":"fd00::1","ID":458752}"#, Reason::NameMismatch),
        ("10.0.0.0", r#"{"IP":"10.0.0.0","Mask":"////AA==","ID":458752}"#, Reason::NameMismatch),
        ("10.0.0.1", r#"{"IP":"10.0.0.1","ID":458751}"#, Reason::IdentityOutOfRange),
        ("10.0.0.1", r#"{"IP":"10.0.0.1","ID":524288}"#, Reason::IdentityOutOfRange),
        ("10.0.0.1", r#"{"IP":"10.0.0.1","ID":256}"#, Reason::IdentityOutOfRange),
        ("10.0.0.1", r#"{"IP":"10.0.0.1","ID":16777216}"#, Reason::IdentityOutOfRange),
    ];
    check("ip", &cases, IpIdentityPair::decode);
    for id in [0, 1, 6, 255, 458_752, 524_287] {
        let value = format!(r#"{{"IP":"10.0.0.1","ID":{id}}}"#);
        IpIdentityPair::decode("10.0.0.1", value.as_bytes(), &peer()).unwrap();
    }
}

#[test]
fn services() {
    let with =
        |rest: &str| format!(r#"{{"cluster":"prod-eu","namespace":"a","name":"b","clusterID":7{rest}}}"#);
    let frontend = with(r#","frontends":{"10.0.0":{}}"#);
    let backend = with(r#","backends":{"pod.example":{}}"#);
    let cases = [
        ("a/b", "{", Reason::ValueNotJson),
        ("a/b", r#"{"cluster":"prod-eu","namespace":"a","clusterID":7}"#, Reason::FieldMissing),
        ("a/b", r#"{"cluster":"other","namespace":"a","name":"b","clusterID":7}"#, Reason::ClusterMismatch),
        ("a/c", r#"{"cluster":"prod-eu","namespace":"a","name":"b","clusterID":7}"#, Reason::NameMismatch),
        (
            "a/b",
            r#"{"cluster":"prod-eu","namespace":"a","name":"b","clusterID":9}"#,
            Reason::ClusterIdMismatch,
        ),
        ("a/b", &frontend, Reason::AddressInvalid),
        ("a/b", &backend, Reason::AddressInvalid),
    ];
    check("service", &cases, ClusterService::decode);
}

#[test]
fn exports() {
    let with = |rest: &str| {
        format!(
            r#"{{"cluster":"prod-eu","namespace":"a","name":"b","exportCreationTimestamp":"2026-01-05T08:30:00Z","type":"ClusterSetIP"{rest}}}"#
        )
    };
    let (affinity, policy, distribution) = (
        with(r#","sessionAffinity":"Sticky""#),
        with(r#","internalTrafficPolicy":"local""#),
        with(r#","trafficDistribution":"Near""#),
    );
    let cases = [
        ("a/b", "null,", Reason::ValueNotJson),
        ("a/b", "null", Reason::FieldMissing),
        (
            "a/b",
            r#"{"cluster":"prod-eu","namespace":"a","name":"b","type":"Headless"}"#,
            Reason::FieldMissing,
        ),
        (
            "a/b",
            r#"{"cluster":"prod-eu","namespace":"a","name":"b","type":"Headless","exportCreationTimestamp":"0001-01-01T00:00:00Z"}"#,
            Reason::FieldMissing,
        ),
        (
            "a/b",
            r#"{"cluster":"prod-eu","namespace":"a","name":"b","type":"Other","exportCreationTimestamp":"2026-01-05T08:30:00Z"}"#,
            Reason::FieldInvalid,
        ),
        ("a/b", &affinity, Reason::FieldInvalid),
        ("a/b", &policy, Reason::FieldInvalid),
        ("a/b", &distribution, Reason::FieldInvalid),
        ("a/c", &with(""), Reason::NameMismatch),
    ];
    check("export", &cases, ServiceExport::decode);
    let other = with("").replace("prod-eu", "other");
    check("export", &[("a/b", &other, Reason::ClusterMismatch)], ServiceExport::decode);
}

#[test]
fn exports_of_1_18_have_only_the_upper_case_spelling() {
    let value = br#"{"cluster":"prod-eu","name":"b","namespace":"a","Annotations":null,"Labels":{"team":"a"},"exportCreationTimestamp":"2026-01-05T08:30:00Z","ports":[],"type":"Headless","sessionAffinity":"None"}"#;
    let export = ServiceExport::decode("a/b", value, &peer()).unwrap();
    assert_eq!(export.labels.get("team").map(String::as_str), Some("a"));
    assert!(export.annotations.is_empty() && export.legacy_labels.is_empty());
}
