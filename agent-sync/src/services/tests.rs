use std::net::{IpAddr, Ipv4Addr};

use mesh_types::annotation::Affinity;
use mesh_types::{L4Addr, Reason, SERVICE_NAME_LABEL, SliceConditions, SliceEndpoint, SlicePort};

use super::merge::Remote;
use super::*;

mod incremental;

const HERE: &str = "node-1";

fn name(text: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').unwrap();
    ServiceName::new(namespace, name)
}

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port }
}

fn service(global: bool, affinity: Affinity) -> LocalService {
    LocalService {
        global,
        affinity,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        ports: vec![port("http", Protocol::Tcp, 80)],
        ..LocalService::default()
    }
}

fn backend(address: &str, state: BackendState) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        port: 8080,
        protocol: Protocol::Tcp,
        port_names: ["http".into()].into(),
        state,
        unhealthy: false,
        node: Some(HERE.into()),
    }
}

fn slice(service: &str, backends: Vec<Backend>) -> LocalSlice {
    LocalSlice { service: name(service), backends, reasons: BTreeSet::new() }
}

fn record(addresses: &[&str]) -> ClusterService {
    let ports = || [("http".to_owned(), L4Addr { protocol: "TCP".to_owned(), port: 8080 })].into();
    ClusterService {
        backends: addresses.iter().map(|address| ((*address).to_owned(), ports())).collect(),
        shared: true,
        ..ClusterService::default()
    }
}

/// A slice of another cluster: addresses and whether each is ready.
fn remote_slice(service: &str, endpoints: &[(&str, bool)]) -> ClusterEndpointSlice {
    let endpoint = |(address, ready): &(&str, bool)| SliceEndpoint {
        addresses: vec![(*address).to_owned()],
        conditions: SliceConditions { ready: Some(*ready), serving: Some(*ready), terminating: None },
        ..SliceEndpoint::default()
    };
    ClusterEndpointSlice {
        labels: [(SERVICE_NAME_LABEL.to_owned(), service.to_owned())].into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![SlicePort { name: Some("http".to_owned()), port: Some(8080), ..SlicePort::default() }],
        ..ClusterEndpointSlice::default()
    }
}

/// Address, verdict of the one frontend.
fn verdicts(table: &ServiceTable, service: &str) -> Vec<(String, Verdict)> {
    let merged = &table.merged()[&name(service)];
    let [frontend] = &*merged.frontends else { panic!("{} frontends", merged.frontends.len()) };
    let pairs = merged.backends.iter().zip(&frontend.verdicts);
    pairs.map(|((_, backend), verdict)| (backend.address.to_string(), *verdict)).collect()
}

fn selected(table: &ServiceTable, service: &str) -> Vec<String> {
    let taken = verdicts(table, service).into_iter().filter(|(_, verdict)| verdict.is_selected());
    taken.map(|(address, _)| address).collect()
}

/// `count` backends of one side in one state; the number is the last byte of the address.
fn side(prefix: &str, count: usize, state: BackendState, unhealthy: bool) -> Vec<Backend> {
    (1..=count).map(|n| Backend { unhealthy, ..backend(&format!("{prefix}.{n}"), state) }).collect()
}

/// Merges with remote backends that may be unhealthy, which no record can say.
fn merge_sides(global: bool, affinity: Affinity, local: Vec<Backend>, remote: Vec<Backend>) -> MergedService {
    let inputs = Inputs {
        service: Some(service(global, affinity)),
        slices: [("s".into(), slice("shop/cart", local))].into(),
        remote: [(
            cluster("east"),
            Remote {
                record: Some(RemoteRecord { backends: remote, reasons: BTreeSet::new() }),
                slices: BTreeMap::new(),
            },
        )]
        .into(),
    };
    inputs.merge(&name("shop/cart"), HERE)
}

/// Numbers of (selected local, selected remote, kept local, kept remote).
fn counts(merged: &MergedService) -> [usize; 4] {
    let mut counts = [0; 4];
    for ((origin, _), verdict) in merged.backends.iter().zip(&merged.frontends[0].verdicts) {
        let side = usize::from(*origin != Origin::Local);
        match verdict {
            Verdict::Selected => counts[side] += 1,
            Verdict::Kept(_) => counts[2 + side] += 1,
            Verdict::Filtered(_) => {}
        }
    }
    counts
}

#[test]
fn affinity_follows_the_examples_row_by_row() {
    use Affinity::{Local, None, Remote};
    use BackendState::{Active, Terminating};
    // Local side, remote side (number, state, unhealthy), then for local, remote and no affinity
    // (selected local, selected remote, kept local, kept remote).
    type Side = (usize, BackendState, bool);
    let rows: [(&str, Side, Side, [[usize; 4]; 3]); 7] = [
        (
            "2 active, 3 active",
            (2, Active, false),
            (3, Active, false),
            [[2, 0, 0, 0], [0, 3, 0, 0], [2, 3, 0, 0]],
        ),
        ("0, 3 active", (0, Active, false), (3, Active, false), [[0, 3, 0, 0], [0, 3, 0, 0], [0, 3, 0, 0]]),
        (
            "2 terminating, 3",
            (2, Terminating, false),
            (3, Active, false),
            [[0, 3, 2, 0], [0, 3, 0, 0], [0, 3, 2, 0]],
        ),
        (
            "2 unhealthy, 3 active",
            (2, Active, true),
            (3, Active, false),
            [[0, 3, 2, 0], [0, 3, 0, 0], [0, 3, 2, 0]],
        ),
        ("2 active, 0", (2, Active, false), (0, Active, false), [[2, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0]]),
        (
            "2 unhealthy, 3 unhealthy",
            (2, Active, true),
            (3, Active, true),
            [[0, 0, 2, 0], [0, 0, 0, 3], [0, 0, 2, 3]],
        ),
        (
            "2 terminating, 0",
            (2, Terminating, false),
            (0, Active, false),
            [[2, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0]],
        ),
    ];
    for (row, local, remote, expected) in rows {
        for (affinity, expected) in [Local, Remote, None].into_iter().zip(expected) {
            let merged = merge_sides(
                true,
                affinity,
                side("10.1.0", local.0, local.1, local.2),
                side("10.2.0", remote.0, remote.1, remote.2),
            );
            assert_eq!(counts(&merged), expected, "{row}, affinity {affinity:?}");
        }
    }
}

#[test]
fn a_service_that_is_not_global_uses_local_backends_whatever_its_affinity() {
    for affinity in [Affinity::None, Affinity::Local, Affinity::Remote] {
        let merged = merge_sides(
            false,
            affinity,
            side("10.1.0", 2, BackendState::Active, false),
            side("10.2.0", 3, BackendState::Active, false),
        );
        assert_eq!(counts(&merged), [2, 0, 0, 0], "{affinity:?}");
        let reasons: Vec<_> =
            merged.frontends[0].verdicts.iter().filter_map(|verdict| verdict.reason()).collect();
        assert_eq!(reasons, [Reason::ServiceNotGlobal; 3], "{affinity:?}");
    }
}

#[test]
fn what_affinity_leaves_out_says_so() {
    for (affinity, expected) in
        [(Affinity::Local, Reason::AffinityLocal), (Affinity::Remote, Reason::AffinityRemote)]
    {
        let merged = merge_sides(
            true,
            affinity,
            side("10.1.0", 1, BackendState::Active, false),
            side("10.2.0", 1, BackendState::Active, false),
        );
        let reasons: Vec<_> =
            merged.frontends[0].verdicts.iter().filter_map(|verdict| verdict.reason()).collect();
        assert_eq!(reasons, [expected]);
    }
}

/// One cluster's view of the service in the truth table of two clusters.
#[derive(Clone, Copy)]
struct Exporter {
    global: bool,
    shared: bool,
    affinity: Affinity,
    exists: bool,
    backends: bool,
}

const PLAIN: Exporter =
    Exporter { global: false, shared: true, affinity: Affinity::None, exists: true, backends: true };
const G_S: Exporter = Exporter { global: true, ..PLAIN };
const G: Exporter = Exporter { shared: false, ..G_S };

/// What a client in `here` reaches: letters of the clusters, `1` here and `2` there.
fn reaches(here: Exporter, there: Exporter) -> Option<String> {
    let mut table = ServiceTable::new(HERE);
    let service_name = name("shop/cart");
    if here.exists {
        table.set_service(&service_name, Some(service(here.global, here.affinity)));
    }
    if here.exists && here.backends {
        let backends = vec![backend("10.1.0.1", BackendState::Active)];
        table.set_slice("shop", "cart-1", Some(slice("shop/cart", backends)));
    }
    if there.exists && there.global && there.shared {
        let addresses: &[&str] = if there.backends { &["10.2.0.1"] } else { &[] };
        table.set_remote(&service_name, &cluster("east"), Some(&record(addresses)));
    }
    table.settle();
    let frontends = table.merged().get(&service_name).map_or(0, |merged| merged.frontends.len());
    (frontends > 0).then(|| {
        let taken = selected(&table, "shop/cart").into_iter();
        taken.map(|address| if address == "10.1.0.1" { '1' } else { '2' }).collect()
    })
}

#[test]
fn two_clusters_follow_the_truth_table() {
    let absent = Exporter { exists: false, ..PLAIN };
    let local = Exporter { affinity: Affinity::Local, ..G_S };
    let remote = Exporter { affinity: Affinity::Remote, ..G_S };
    let empty = Exporter { backends: false, ..G_S };
    // A client in the first cluster reaches …, a client in the second reaches … (from its own view).
    let rows = [
        ("not G, not G", PLAIN, PLAIN, Some("1"), Some("1")),
        ("G S, not G", G_S, PLAIN, Some("1"), Some("1")),
        ("not G, G S", PLAIN, G_S, Some("1"), Some("1")),
        ("G S, G S", G_S, G_S, Some("12"), Some("12")),
        ("G S, G", G_S, G, Some("1"), Some("12")),
        ("G, G S", G, G_S, Some("12"), Some("1")),
        ("G, G", G, G, Some("1"), Some("1")),
        ("local, G S", local, G_S, Some("1"), Some("12")),
        ("local without backends, G S", Exporter { backends: false, ..local }, G_S, Some("2"), Some("1")),
        ("remote, G S", remote, G_S, Some("2"), Some("12")),
        ("remote, G S without backends", remote, empty, Some("1"), Some("2")),
        ("absent, G S", absent, G_S, None, Some("1")),
        ("G S without backends, G S", empty, G_S, Some("2"), Some("1")),
    ];
    for (row, first, second, in_first, in_second) in rows {
        assert_eq!(reaches(first, second).as_deref(), in_first, "{row}, client in the first");
        assert_eq!(reaches(second, first).as_deref(), in_second, "{row}, client in the second");
    }
}

#[test]
fn each_filter_names_its_reason() {
    let other = |change: fn(&mut Backend)| {
        let mut backend = backend("10.2.0.1", BackendState::Active);
        change(&mut backend);
        backend
    };
    let cases = [
        ("protocol", other(|b| b.protocol = Protocol::Udp), Some(Reason::ProtocolMismatch)),
        ("family", other(|b| b.address = "fd00::1".parse().unwrap()), Some(Reason::FamilyMismatch)),
        ("port name", other(|b| b.port_names = ["dns".into()].into()), Some(Reason::PortNameMismatch)),
        ("other node", other(|b| b.node = Some("node-2".into())), Some(Reason::TrafficPolicyLocal)),
        ("not ready", other(|b| b.state = BackendState::Maintenance), Some(Reason::BackendNotReady)),
        ("no names", other(|b| b.port_names = [].into()), None),
        ("one of its names", other(|b| b.port_names = ["dns".into(), "http".into()].into()), None),
        ("no node", other(|b| b.node = None), None),
    ];
    for (case, backend, expected) in cases {
        let inputs = Inputs {
            service: Some(LocalService { only_local_node: true, ..service(true, Affinity::None) }),
            slices: [("s".into(), slice("shop/cart", vec![backend]))].into(),
            remote: BTreeMap::new(),
        };
        let merged = inputs.merge(&name("shop/cart"), HERE);
        assert_eq!(merged.frontends[0].verdicts[0].reason(), expected, "{case}");
    }
}

#[test]
fn a_frontend_without_port_name_takes_any_name() {
    let inputs = Inputs {
        service: Some(LocalService {
            ports: vec![port("", Protocol::Tcp, 80)],
            ..service(true, Affinity::None)
        }),
        slices: [("s".into(), slice("shop/cart", vec![backend("10.1.0.1", BackendState::Active)]))].into(),
        remote: BTreeMap::new(),
    };
    assert!(inputs.merge(&name("shop/cart"), HERE).frontends[0].verdicts[0].is_selected());
}

#[test]
fn a_local_backend_shadows_a_remote_one_and_uncovers_it_when_it_goes() {
    let mut table = ServiceTable::new(HERE);
    table.set_service(&name("shop/cart"), Some(service(true, Affinity::None)));
    table.set_slice("shop", "a", Some(slice("shop/cart", vec![backend("10.1.0.1", BackendState::Active)])));
    for remote in ["west", "east"] {
        table.set_remote(&name("shop/cart"), &cluster(remote), Some(&record(&["10.1.0.1"])));
    }
    table.settle();
    let filtered = Verdict::Filtered(Reason::ShadowedByLocal);
    let address = || "10.1.0.1".to_owned();
    let expected = [(address(), Verdict::Selected), (address(), filtered), (address(), filtered)];
    assert_eq!(verdicts(&table, "shop/cart"), expected);

    table.set_slice("shop", "a", None);
    table.settle();
    let merged = &table.merged()[&name("shop/cart")];
    let winner = merged.selected(&merged.frontends[0]).map(|(origin, _)| origin.clone()).collect::<Vec<_>>();
    assert_eq!(winner, [Origin::Remote(cluster("east"))], "the first by name, whoever came first");
    let reasons: Vec<_> =
        merged.frontends[0].verdicts.iter().filter_map(|verdict| verdict.reason()).collect();
    assert_eq!(reasons, [Reason::ShadowedByRemote]);

    table.set_remote(&name("shop/cart"), &cluster("east"), None);
    table.settle();
    assert_eq!(selected(&table, "shop/cart"), ["10.1.0.1"], "the other announcer takes its place");
}

#[test]
fn a_service_of_other_clusters_only_waits_for_a_local_one() {
    let mut table = ServiceTable::new(HERE);
    table.set_remote(&name("shop/cart"), &cluster("east"), Some(&record(&["10.2.0.1"])));
    assert_eq!(table.settle(), [name("shop/cart")]);
    let waiting = &table.merged()[&name("shop/cart")];
    assert!(waiting.frontends.is_empty());
    assert_eq!(waiting.reasons, [Reason::ServiceNotLocal].into());
    table.set_service(&name("shop/cart"), Some(service(true, Affinity::None)));
    table.settle();
    assert_eq!(selected(&table, "shop/cart"), ["10.2.0.1"]);
}

#[test]
fn slices_without_a_service_show_nothing() {
    let mut table = ServiceTable::new(HERE);
    table.set_slice("shop", "a", Some(slice("shop/cart", vec![backend("10.1.0.1", BackendState::Active)])));
    assert!(table.settle().is_empty());
    assert!(table.merged().is_empty());
}

#[test]
fn a_record_that_is_no_longer_shared_withdraws_its_backends() {
    let mut table = ServiceTable::new(HERE);
    table.set_service(&name("shop/cart"), Some(service(true, Affinity::None)));
    table.set_remote(&name("shop/cart"), &cluster("east"), Some(&record(&["10.2.0.1"])));
    table.settle();
    let unshared = ClusterService { shared: false, ..record(&["10.2.0.1"]) };
    table.set_remote(&name("shop/cart"), &cluster("east"), Some(&unshared));
    table.settle();
    let merged = &table.merged()[&name("shop/cart")];
    assert!(merged.backends.is_empty());
    assert_eq!(merged.shares[0].reasons, [Reason::ServiceNotShared].into());
}

#[test]
fn unusable_ports_of_a_record_stop_only_themselves() {
    let mut record = record(&["10.2.0.1"]);
    let ports = record.backends.get_mut("10.2.0.1").unwrap();
    ports.insert("zero".to_owned(), L4Addr { protocol: "TCP".to_owned(), port: 0 });
    ports.insert("odd".to_owned(), L4Addr { protocol: "ICMP".to_owned(), port: 7 });
    ports.insert("alias".to_owned(), L4Addr { protocol: "TCP".to_owned(), port: 8080 });
    let read = RemoteRecord::read(&record);
    assert_eq!(read.reasons, [Reason::PortUnusable].into());
    let [backend] = &*read.backends else { panic!("one backend for one port of two names") };
    assert_eq!(*backend.port_names, ["alias".into(), "http".into()]);
}

#[test]
fn headless_services_have_no_frontend_and_say_so() {
    let mut table = ServiceTable::new(HERE);
    let headless = LocalService {
        cluster_ips: Vec::new(),
        no_frontends: Some(Reason::ServiceHeadless),
        ..service(true, Affinity::None)
    };
    table.set_service(&name("shop/db"), Some(headless));
    table.settle();
    let merged = &table.merged()[&name("shop/db")];
    assert!(merged.frontends.is_empty());
    assert!(merged.reasons.contains(&Reason::ServiceHeadless));
}

#[test]
fn one_changed_backend_computes_one_service_and_an_equal_write_none() {
    let mut table = ServiceTable::new(HERE);
    let many: Vec<String> = (0..200).map(|n| format!("10.2.{}.{}", n / 100, n % 100 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for n in 0..50 {
        table.set_service(&name(&format!("shop/s{n}")), Some(service(true, Affinity::None)));
        table.set_remote(&name(&format!("shop/s{n}")), &cluster("east"), Some(&record(&many)));
    }
    table.settle();
    let before = table.merges();
    table.set_remote(&name("shop/s7"), &cluster("east"), Some(&record(&many[1..])));
    assert_eq!(table.settle(), [name("shop/s7")]);
    assert_eq!(table.merges(), before + 1);
    table.set_remote(&name("shop/s7"), &cluster("east"), Some(&record(&many[1..])));
    assert!(table.settle().is_empty());
    assert_eq!(table.merges(), before + 1);
}

#[test]
fn removing_a_cluster_withdraws_all_that_it_announced() {
    let mut table = ServiceTable::new(HERE);
    for n in 0..3 {
        table.set_remote(&name(&format!("shop/s{n}")), &cluster("east"), Some(&record(&["10.2.0.1"])));
        table.set_remote(&name("shop/s0"), &cluster("west"), Some(&record(&["10.3.0.1"])));
    }
    table.settle();
    assert_eq!(table.merged().len(), 3);
    table.remove_cluster(&cluster("east"));
    table.settle();
    assert_eq!(table.merged().keys().cloned().collect::<Vec<_>>(), [name("shop/s0")]);
}

#[test]
fn a_backend_in_both_formats_counts_once_and_goes_when_both_let_it_go() {
    let (shop, east) = (name("shop/cart"), cluster("east"));
    let mut table = ServiceTable::new(HERE);
    table.set_service(&shop, Some(service(true, Affinity::None)));
    type Slice<'a> = (&'a str, Option<&'a [(&'a str, bool)]>);
    let mut step = |addresses: Option<&[&str]>, slices: &[Slice<'_>]| {
        if let Some(addresses) = addresses {
            table.set_remote(&shop, &east, Some(&record(addresses)));
        }
        for (slice, endpoints) in slices {
            let content = endpoints.map(|endpoints| remote_slice("cart", endpoints));
            table.set_remote_slice("shop", slice, &east, content.as_ref());
        }
        table.settle();
        let found: Vec<_> = selected(&table, "shop/cart");
        found.join(" ")
    };
    // The older format is there first, and nothing goes while slices trickle in.
    assert_eq!(step(Some(&["10.2.0.1", "10.2.0.2"]), &[]), "10.2.0.1 10.2.0.2");
    assert_eq!(step(None, &[("a", Some(&[("10.2.0.1", true)]))]), "10.2.0.1 10.2.0.2");
    assert_eq!(step(None, &[("b", Some(&[("10.2.0.2", true)]))]), "10.2.0.1 10.2.0.2");
    // The newer one knows better what a backend can take.
    assert_eq!(step(None, &[("b", Some(&[("10.2.0.2", false)]))]), "10.2.0.1");
    // A backend is gone once both say so, and a new one is there once either does.
    assert_eq!(step(None, &[("a", Some(&[("10.2.0.3", true)]))]), "10.2.0.1 10.2.0.3");
    assert_eq!(step(Some(&["10.2.0.3"]), &[("b", None)]), "10.2.0.3");
    // Slices alone are enough, and so is the record alone.
    assert_eq!(step(None, &[("a", None)]), "10.2.0.3");
    table.set_remote(&shop, &east, None);
    table.set_remote_slice("shop", "a", &east, Some(&remote_slice("cart", &[("10.2.0.4", true)])));
    table.settle();
    assert_eq!(selected(&table, "shop/cart"), ["10.2.0.4"]);
    let [share] = &table.merged()[&shop].shares[..] else { panic!("one cluster shares it") };
    assert_eq!(share.backends, 1);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_former_one() {
    let east = cluster("east");
    let mut table = ServiceTable::new(HERE);
    for service in ["cart", "till"] {
        let slice = remote_slice(service, &[("10.2.0.1", true)]);
        table.set_remote_slice("shop", "a", &east, Some(&slice));
    }
    table.settle();
    assert_eq!(table.merged().keys().cloned().collect::<Vec<_>>(), [name("shop/till")]);
    table.remove_cluster(&east);
    table.settle();
    assert!(table.merged().is_empty() && table.inputs.is_empty() && table.remote_slices.is_empty());
}
