use std::time::Duration;

use bytes::Bytes;
use mesh_types::{ClusterConfig, ClusterService, IpIdentityPair, Peer};

use super::*;

fn tables() -> Tables {
    Tables::new(LocalCluster::new("home", 1, 255).unwrap(), "node-1", NodeOptions::default())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn accepted(cluster: &str, id: u32) -> ClusterEvent {
    let config = ClusterConfig { id, ..ClusterConfig::default() };
    let local = LocalCluster::new("home", 1, 255).unwrap();
    let peer = Peer::accept(&local, &name(cluster), &config).unwrap();
    ClusterEvent::Standing(Standing::Accepted { peer, config })
}

fn put(item: Item, key: &'static str) -> ClusterEvent {
    ClusterEvent::Put { key: Bytes::from_static(key.as_bytes()), item }
}

fn ip(address: &str, id: u32) -> Item {
    Item::Ip(Box::new(IpIdentityPair { ip: Some(address.parse().unwrap()), id, ..IpIdentityPair::default() }))
}

fn node(name: &str) -> Item {
    Item::Node(Box::new(Node { name: name.to_owned(), ..Node::default() }))
}

fn service() -> Item {
    Item::Service(Box::new(ClusterService {
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        shared: true,
        ..ClusterService::default()
    }))
}

/// `east` with one entry of each kind, synced at second 1.
fn filled() -> Tables {
    let mut tables = tables();
    let items = [
        put(node("n1"), "n1"),
        put(ip("10.2.0.1", 458_752), "10.2.0.1"),
        put(Item::Identity(NumericIdentity(458_752), Labels::default()), "458752"),
        put(service(), "shop/cart"),
    ];
    let synced = KINDS.map(ClusterEvent::Synced);
    for event in std::iter::once(accepted("east", 7)).chain(items).chain(synced) {
        tables.apply(Event::Cluster(name("east"), event), at(1));
    }
    tables
}

fn entries(tables: &Tables) -> Vec<usize> {
    KINDS.iter().map(|kind| tables.clusters[&name("east")].kinds[kind].entries).collect()
}

#[test]
fn entries_are_counted_once_however_often_they_are_named() {
    let mut tables = filled();
    assert_eq!(entries(&tables), [1, 1, 1, 1, 0]);
    for item in [put(node("n1"), "n1"), put(ip("10.2.0.1", 458_753), "10.2.0.1"), put(service(), "shop/cart")]
    {
        tables.apply(Event::Cluster(name("east"), item), at(2));
    }
    assert_eq!(entries(&tables), [1, 1, 1, 1, 0]);
    for _twice in 0..2 {
        let gone = ClusterEvent::Gone {
            kind: Resource::Nodes,
            key: Bytes::from_static(b"n1"),
            item: Some(ItemKey::Node("n1".to_owned())),
        };
        tables.apply(Event::Cluster(name("east"), gone), at(3));
    }
    assert_eq!(entries(&tables), [0, 1, 1, 1, 0]);
}

#[test]
fn lost_contact_makes_a_view_stale_from_the_first_loss_and_removes_nothing() {
    let mut tables = filled();
    let revision = tables.revision();
    for (second, kind) in [(5, Resource::Nodes), (6, Resource::Ip), (9, Resource::Nodes)] {
        let lost = ClusterEvent::Lost { kind, error: "gone".to_owned() };
        tables.apply(Event::Cluster(name("east"), lost), at(second));
    }
    let east = &tables.clusters[&name("east")];
    assert_eq!(east.kinds[&Resource::Nodes].state, ViewState::StaleSince(at(5)));
    assert_eq!(east.kinds[&Resource::Services].state, ViewState::Synced);
    assert_eq!(
        (east.failures, east.last_failure),
        (1, Some(at(5))),
        "one loss, however many kinds tell of it"
    );
    assert!(!east.is_ready() && tables.is_degraded());
    assert_eq!(tables.revision(), revision);
    for kind in [Resource::Nodes, Resource::Ip] {
        tables.apply(Event::Cluster(name("east"), ClusterEvent::Resumed(kind)), at(10));
    }
    assert!(tables.clusters[&name("east")].is_ready());
}

#[test]
fn a_rejected_value_keeps_the_good_one_and_is_cleared_by_the_next_good_one() {
    let mut tables = filled();
    let rejected = ClusterEvent::Rejected {
        kind: Resource::Ip,
        key: Bytes::from_static(b"10.2.0.1"),
        refused: Rejection::new(Reason::ValueNotJson, "ip 10.2.0.1: no JSON"),
    };
    tables.apply(Event::Cluster(name("east"), rejected), at(2));
    assert_eq!(tables.rejected.len(), 1);
    assert!(tables.ipcache.get("10.2.0.1/32".parse().unwrap()).is_some());
    tables.apply(Event::Cluster(name("east"), put(ip("10.2.0.1", 458_752), "10.2.0.1")), at(3));
    assert!(tables.rejected.is_empty());
}

#[test]
fn held_withdrawals_make_a_view_stale_until_they_are_released() {
    let mut tables = filled();
    let held = |keys| Event::Cluster(name("east"), ClusterEvent::Withheld { kind: Resource::Nodes, keys });
    tables.apply(held(3), at(4));
    tables.apply(Event::Cluster(name("east"), ClusterEvent::Synced(Resource::Nodes)), at(5));
    assert_eq!(tables.clusters[&name("east")].kinds[&Resource::Nodes].state, ViewState::StaleSince(at(4)));
    tables.apply(held(0), at(6));
    assert!(tables.clusters[&name("east")].is_ready());
}

#[test]
fn a_removed_cluster_leaves_nothing_and_touches_no_other() {
    let mut tables = filled();
    tables.apply(Event::Cluster(name("west"), accepted("west", 8)), at(2));
    tables.apply(Event::Cluster(name("west"), put(ip("10.2.0.1", 524_288), "10.2.0.1")), at(2));
    tables.apply(Event::Cluster(name("east"), ClusterEvent::Removed), at(3));
    tables.services.settle();
    assert!(tables.nodes.is_empty() && tables.identities.is_empty() && tables.services.merged().is_empty());
    let left: Vec<_> = tables.ipcache.iter().map(|(_, entry)| entry.identity.0).collect();
    assert_eq!(left, [524_288]);
    assert_eq!(tables.clusters.keys().cloned().collect::<Vec<_>>(), [name("west")]);
}

#[test]
fn an_absent_cluster_says_when_it_is_dropped_and_the_time_does_not_move() {
    let mut tables = filled();
    for second in [10, 20] {
        let absent = Standing::Absent { remaining: Duration::from_secs(60) };
        tables.apply(Event::Cluster(name("east"), ClusterEvent::Standing(absent)), at(second));
    }
    let east = &tables.clusters[&name("east")];
    assert_eq!(east.dropped_at, Some(at(70)));
    assert!(!east.is_ready() && east.id == Some(7) && entries(&tables) == [1, 1, 1, 1, 0]);
    tables.apply(Event::Cluster(name("east"), accepted("east", 7)), at(30));
    assert!(tables.clusters[&name("east")].is_ready());
}

#[test]
fn pending_names_what_is_missing() {
    let mut tables = tables();
    assert_eq!(
        tables.pending(),
        ["store", "kubernetes/Service", "kubernetes/EndpointSlice", "kubernetes/Node"].map(str::to_owned)
    );
    tables.apply(Event::Store(StoreEvent::Connected(Some(1))), at(1));
    tables.apply(Event::Store(StoreEvent::Listed), at(1));
    for kind in LocalKind::ALL {
        tables.apply_local(LocalEvent::Watch(kind, KubeView { listed: true, live: true, error: None }));
    }
    tables.apply(Event::Cluster(name("east"), accepted("east", 7)), at(1));
    tables.apply(Event::Cluster(name("east"), ClusterEvent::Synced(Resource::Services)), at(1));
    assert!(!tables.services_complete(), "slices may still be missing");
    let slices = ClusterEvent::Synced(Resource::EndpointSlices);
    tables.apply(Event::Cluster(name("east"), slices), at(1));
    assert!(tables.services_complete() && !tables.addresses_complete());
    let expected = ["nodes", "ip", "identities"].map(|kind| format!("cluster/east/{kind}"));
    assert_eq!(tables.pending(), expected);
    let refused = Standing::Refused(Rejection::new(Reason::ClusterIdZero, ""));
    tables.apply(Event::Cluster(name("east"), ClusterEvent::Standing(refused)), at(1));
    assert!(tables.pending().is_empty(), "a refused cluster is not waited for");
    assert!(tables.is_degraded());
}

#[test]
fn own_addresses_are_the_host_whatever_others_say() {
    let mut tables = filled();
    let own = KubeNode { addresses: vec!["10.2.0.1".parse().unwrap()], ..KubeNode::default() };
    tables.apply_local(LocalEvent::OwnNode(Some(Box::new(own))));
    let prefix = "10.2.0.1/32".parse().unwrap();
    assert_eq!(tables.ipcache.get(prefix).unwrap().identity, NumericIdentity::HOST);
    assert_eq!(tables.ipcache.overridden(prefix).next().unwrap().1, Reason::PrefixOverlapsLocal);
    tables.apply_local(LocalEvent::OwnNode(None));
    assert_eq!(tables.ipcache.get(prefix).unwrap().identity.0, 458_752);
}
