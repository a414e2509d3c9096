use super::*;

const GRACE: Duration = Duration::from_secs(3600);

fn directory() -> Directory {
    Directory::new(LocalCluster::new("home", 1, 255).unwrap(), GRACE)
}

fn config(id: u32) -> Vec<u8> {
    format!(
        r#"{{"id":{id},"capabilities":{{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}}}"#
    )
    .into_bytes()
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

/// `start east 7`, `drain east`, `refuse east cluster-id-in-use`; what is only shown is left out.
fn words(orders: &[Order]) -> Vec<String> {
    let word = |order: &Order| match order {
        Order::Start(peer, _) => Some(format!("start {} {}", peer.name, peer.id)),
        Order::Drain(name) => Some(format!("drain {name}")),
        Order::Refuse(key, Some(refused)) => Some(format!("refuse {key} {}", refused.reason)),
        Order::OwnSeen => Some("own".to_owned()),
        Order::Refuse(_, None) | Order::Show(..) => None,
    };
    orders.iter().filter_map(word).collect()
}

#[test]
fn a_mirrored_cluster_is_followed_once() {
    let mut directory = directory();
    assert_eq!(words(&directory.announce(b"east", &config(7))), ["start east 7"]);
    assert!(words(&directory.announce(b"east", &config(7))).is_empty());
}

#[test]
fn each_bad_configuration_has_its_reason_and_starts_nothing() {
    let no_cache = br#"{"id":7,"capabilities":{"syncedCanaries":true}}"#;
    let for_511 = br#"{"id":7,"capabilities":{"cached":true,"maxConnectedClusters":511}}"#;
    let long = "a".repeat(33);
    let cases: [(&str, &[u8], &str); 9] = [
        (&long, &config(7), "cluster-name-invalid"),
        ("East", &config(7), "cluster-name-invalid"),
        ("", &config(7), "cluster-name-invalid"),
        ("east", b"{", "cluster-config-invalid"),
        ("east", no_cache, "cluster-config-invalid"),
        ("east", &config(0), "cluster-id-zero"),
        ("east", &config(256), "cluster-id-out-of-range"),
        ("east", &config(1), "cluster-id-is-local"),
        ("east", for_511, "max-clusters-mismatch"),
    ];
    for (key, value, expected) in cases {
        let orders = directory().announce(key.as_bytes(), value);
        assert_eq!(words(&orders), [format!("refuse {key} {expected}")]);
    }
}

#[test]
fn an_unreadable_configuration_leaves_the_former_in_effect() {
    let mut directory = directory();
    directory.announce(b"east", &config(7));
    assert_eq!(words(&directory.announce(b"east", b"{")), ["refuse east cluster-config-invalid"]);
    assert!(words(&directory.announce(b"east", &config(7))).is_empty(), "still followed");
}

#[test]
fn the_second_cluster_of_an_id_waits_until_the_first_is_gone() {
    let mut directory = directory();
    directory.announce(b"east", &config(7));
    assert_eq!(words(&directory.announce(b"aaa", &config(7))), ["refuse aaa cluster-id-in-use"]);
    let orders = directory.withdraw(b"east", Evidence::Removed, Instant::now());
    assert_eq!(words(&orders), ["drain east", "start aaa 7"]);
}

#[test]
fn a_changed_id_drains_before_it_starts_again() {
    let mut directory = directory();
    directory.announce(b"east", &config(7));
    directory.announce(b"west", &config(8));
    assert_eq!(words(&directory.announce(b"east", &config(9))), ["drain east", "start east 9"]);
    let orders = directory.announce(b"east", &config(8));
    assert_eq!(
        words(&orders),
        ["drain east", "refuse east cluster-id-in-use"],
        "what was drained stays drained"
    );
    let orders = directory.withdraw(b"west", Evidence::Removed, Instant::now());
    assert_eq!(words(&orders), ["drain west", "start east 8"]);
}

#[test]
fn without_evidence_a_cluster_stays_for_the_grace_and_returns_without_a_gap() {
    let mut directory = directory();
    let start = Instant::now();
    directory.announce(b"east", &config(7));
    assert!(words(&directory.withdraw(b"east", Evidence::None, start)).is_empty());
    assert_eq!(directory.next_deadline(), Some(start + GRACE));
    assert!(directory.on_deadline(start + GRACE / 2).is_empty());

    assert!(words(&directory.announce(b"east", &config(7))).is_empty(), "it never stopped being followed");
    assert_eq!(directory.next_deadline(), None);

    directory.withdraw(b"east", Evidence::None, start + GRACE);
    directory.withdraw(b"east", Evidence::None, start + GRACE + GRACE / 2);
    assert_eq!(directory.next_deadline(), Some(start + GRACE * 2), "the grace does not begin anew");
    assert_eq!(words(&directory.on_deadline(start + GRACE * 2)), ["drain east"]);
    assert_eq!(directory.next_deadline(), None);
}

#[test]
fn a_grace_of_zero_never_ends() {
    let mut directory = Directory::new(LocalCluster::new("home", 1, 255).unwrap(), Duration::ZERO);
    directory.announce(b"east", &config(7));
    directory.withdraw(b"east", Evidence::None, Instant::now());
    assert_eq!(directory.next_deadline(), None);
}

#[test]
fn the_own_configuration_is_seen_checked_and_not_followed() {
    let mut directory = directory();
    let own = |id: u32| format!(r#"{{"id":{id},"capabilities":{{}}}}"#).into_bytes();
    assert_eq!(words(&directory.announce(b"home", &own(1))), ["own"]);
    assert_eq!(words(&directory.announce(b"home", &own(2))), ["own", "refuse home cluster-id-mismatch"]);
    assert!(words(&directory.withdraw(b"home", Evidence::None, Instant::now())).is_empty());
}

#[test]
fn a_refused_cluster_that_is_gone_is_forgotten() {
    let mut directory = directory();
    directory.announce(b"east", &config(0));
    let orders = directory.withdraw(b"east", Evidence::None, Instant::now());
    assert!(orders.contains(&Order::Refuse("east".to_owned(), None)));
    assert!(orders.contains(&Order::Drain(name("east"))));
}
