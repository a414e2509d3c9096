use super::*;

fn local(id: u32, max: u32) -> LocalCluster {
    LocalCluster::new("west", id, max).unwrap()
}

fn config(id: u32, max: u32) -> ClusterConfig {
    ClusterConfig { id, capabilities: Capabilities { max_connected_clusters: max, ..Default::default() } }
}

#[test]
fn names_follow_the_rule_of_cilium() {
    for good in ["a", "0", "prod-eu", "a--b", &"x".repeat(32)] {
        assert!(good.parse::<ClusterName>().is_ok(), "{good}");
    }
    for bad in ["", &"x".repeat(33), "-a", "a-", "-", "Prod", "a.b", "a_b", "é", "a/b", "a b"] {
        let refused = bad.parse::<ClusterName>().unwrap_err();
        assert_eq!(refused.reason, Reason::ClusterNameInvalid, "{bad}");
    }
}

#[test]
fn the_local_cluster_is_checked_at_the_start() {
    let cases = [
        ("west", 1, 255, None),
        ("west", 255, 255, None),
        ("west", 511, 511, None),
        ("west", 0, 255, Some(Reason::ClusterIdZero)),
        ("west", 256, 255, Some(Reason::ClusterIdOutOfRange)),
        ("west", 512, 511, Some(Reason::ClusterIdOutOfRange)),
        ("west", 1, 300, Some(Reason::MaxClustersMismatch)),
        ("default", 1, 255, Some(Reason::ClusterNameInvalid)),
    ];
    for (name, id, max, expected) in cases {
        let reason = LocalCluster::new(name, id, max).err().map(|refused| refused.reason);
        assert_eq!(reason, expected, "{name} {id} {max}");
    }
}

#[test]
fn peers_are_refused_with_the_rule_they_break() {
    let east: ClusterName = "east".parse().unwrap();
    let cases = [
        (local(1, 255), config(7, 255), None),
        (local(1, 255), config(7, 0), None),
        (local(1, 255), config(0, 255), Some(Reason::ClusterIdZero)),
        (local(1, 255), config(256, 255), Some(Reason::ClusterIdOutOfRange)),
        (local(1, 511), config(512, 511), Some(Reason::ClusterIdOutOfRange)),
        (local(1, 255), config(1, 255), Some(Reason::ClusterIdIsLocal)),
        (local(1, 255), config(7, 511), Some(Reason::MaxClustersMismatch)),
        (local(1, 511), config(7, 0), Some(Reason::MaxClustersMismatch)),
        (local(1, 255), ClusterConfig::default(), Some(Reason::ClusterIdZero)),
    ];
    for (local, config, expected) in cases {
        let reason = Peer::accept(&local, &east, &config).err().map(|refused| refused.reason);
        assert_eq!(reason, expected, "{local:?} {config:?}");
    }
    let itself = Peer::accept(&local(1, 255), &"west".parse().unwrap(), &config(7, 255));
    assert_eq!(itself.unwrap_err().reason, Reason::ClusterIsLocal);
}

#[test]
fn identity_ranges_match_the_table_of_the_protocol() {
    let cases = [
        (MaxClusters::C255, 1, 65_536, 131_071),
        (MaxClusters::C255, 7, 458_752, 524_287),
        (MaxClusters::C255, 255, 16_711_680, 16_777_215),
        (MaxClusters::C511, 1, 32_768, 65_535),
        (MaxClusters::C511, 7, 229_376, 262_143),
        (MaxClusters::C511, 511, 16_744_448, 16_777_215),
    ];
    for (max, id, first, last) in cases {
        let range = ClusterId::new(id, max).unwrap().identities(max);
        assert_eq!((range.first.0, range.last.0), (first, last), "{max:?} {id}");
        assert_eq!(max.cluster_of(range.first), id);
        assert_eq!(max.cluster_of(range.last), id);
    }
}

#[test]
fn an_empty_config_keeps_its_capabilities_object() {
    assert_eq!(ClusterConfig::default().encode(), br#"{"capabilities":{}}"#);
    let read =
        ClusterConfig::decode(br#"{"id":7,"capabilities":{"serviceExportsEnabled":false,"future":1}}"#)
            .unwrap();
    assert_eq!(read.capabilities.service_exports_enabled, Some(false));
    assert_eq!(
        String::from_utf8(read.mirrored().encode()).unwrap(),
        r#"{"id":7,"capabilities":{"syncedCanaries":true,"cached":true,"serviceExportsEnabled":false}}"#
    );
    assert_eq!(ClusterConfig::decode(b"nonsense").unwrap_err().reason, Reason::ClusterConfigInvalid);
}
