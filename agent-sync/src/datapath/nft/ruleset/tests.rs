use std::sync::Arc;
use std::time::Duration;

use mesh_types::{ClusterName, ClusterService, L4Addr};

use super::*;
use crate::services::{
    Backend, BackendState, LocalService, LocalSlice, ServiceName, ServicePort, ServiceTable,
};

fn service(ips: &[&str], ports: &[(&str, Protocol, u16)]) -> LocalService {
    let port = |(name, protocol, port): &(&str, Protocol, u16)| ServicePort {
        name: Arc::from(*name),
        protocol: *protocol,
        port: *port,
    };
    LocalService {
        global: true,
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: ports.iter().map(port).collect(),
        ..LocalService::default()
    }
}

fn slice(service: &ServiceName, address: &str, ports: &[(&str, Protocol, u16)]) -> LocalSlice {
    let backend = |(name, protocol, port): &(&str, Protocol, u16)| Backend {
        address: address.parse().unwrap(),
        port: *port,
        protocol: *protocol,
        port_names: [Arc::from(*name)].into(),
        state: BackendState::Active,
        unhealthy: false,
        node: None,
    };
    LocalSlice { service: service.clone(), backends: ports.iter().map(backend).collect(), reasons: [].into() }
}

/// Port name, protocol, number.
type Port<'a> = (&'a str, &'a str, u16);

fn record(backends: &[(&str, &[Port<'_>])]) -> ClusterService {
    let port = |(name, protocol, port): &Port<'_>| {
        ((*name).to_owned(), L4Addr { protocol: (*protocol).to_owned(), port: *port })
    };
    let backend =
        |(address, ports): &(&str, &[Port<'_>])| ((*address).to_owned(), ports.iter().map(port).collect());
    ClusterService {
        backends: backends.iter().map(backend).collect(),
        shared: true,
        ..ClusterService::default()
    }
}

fn east() -> ClusterName {
    "east".parse().unwrap()
}

fn expect(services: &MergedServices, scope: NftScope, golden: &str) {
    let text = Ruleset::of(services, scope).placement(TABLES[0]);
    assert_eq!(text, golden, "the rules are\n{text}");
}

#[test]
fn no_services_leave_hooks_without_elements() {
    expect(&MergedServices::new(), NftScope::Global, include_str!("../golden/empty.nft"));
}

#[test]
fn both_families_several_ports_and_clusters_are_translated() {
    let mut table = ServiceTable::new("node-1");
    let (web, db) = (ServiceName::new("shop", "web"), ServiceName::new("shop", "db"));
    let ports = [("http", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)];
    table.set_service(&web, Some(service(&["10.96.0.10", "fd96::10"], &ports)));
    table.set_slice("shop", "web-4", Some(slice(&web, "10.1.0.1", &[("http", Protocol::Tcp, 8080)])));
    table.set_slice("shop", "web-6", Some(slice(&web, "fd01::1", &[("http", Protocol::Tcp, 8080)])));
    let remote: [(&str, &[Port<'_>]); 3] = [
        ("10.2.0.1", &[("http", "TCP", 8080), ("dns", "UDP", 5353)]),
        ("10.2.0.2", &[("http", "TCP", 8081)]),
        ("fd02::1", &[("http", "TCP", 8080)]),
    ];
    table.set_remote(&web, &east(), Some(&record(&remote)));
    let sticky = Some(Duration::from_secs(600));
    let db_service = service(&["10.96.0.11"], &[("", Protocol::Tcp, 5432)]);
    table.set_service(&db, Some(LocalService { client_ip_affinity: sticky, ..db_service }));
    let remote: [(&str, &[Port<'_>]); 2] =
        [("10.2.0.8", &[("", "TCP", 5432)]), ("10.2.0.9", &[("", "TCP", 5432)])];
    table.set_remote(&db, &east(), Some(&record(&remote)));
    table.settle();
    expect(table.merged(), NftScope::Global, include_str!("../golden/shop.nft"));
    let ruleset = Ruleset::of(table.merged(), NftScope::Global);
    assert_eq!(ruleset.frontends, 4);
    let [skipped] = &*ruleset.skipped else { panic!("{:?}", ruleset.skipped) };
    assert_eq!((skipped.address.to_string().as_str(), skipped.reason), ("fd96::10", Reason::NoBackends));
}

#[test]
fn services_that_are_not_global_are_left_to_others_unless_told() {
    let mut table = ServiceTable::new("node-1");
    let name = ServiceName::new("shop", "web");
    let local = service(&["10.96.0.10"], &[("http", Protocol::Tcp, 80)]);
    table.set_service(&name, Some(LocalService { global: false, ..local }));
    table.set_slice("shop", "web", Some(slice(&name, "10.1.0.1", &[("http", Protocol::Tcp, 8080)])));
    table.settle();
    assert_eq!(Ruleset::of(table.merged(), NftScope::Global).frontends, 0);
    assert_eq!(Ruleset::of(table.merged(), NftScope::All).frontends, 1);
}

#[test]
fn an_address_of_two_services_goes_to_the_first_and_names_the_second() {
    let mut table = ServiceTable::new("node-1");
    for name in ["b", "a"] {
        let name = ServiceName::new("shop", name);
        table.set_service(&name, Some(service(&["10.96.0.10"], &[("http", Protocol::Tcp, 80)])));
        table.set_slice("shop", &name.name, Some(slice(&name, "10.1.0.1", &[("http", Protocol::Tcp, 8080)])));
    }
    table.settle();
    let ruleset = Ruleset::of(table.merged(), NftScope::Global);
    assert_eq!(ruleset.frontends, 1);
    let [skipped] = &*ruleset.skipped else { panic!("{:?}", ruleset.skipped) };
    assert_eq!((skipped.service.to_string().as_str(), skipped.reason), ("shop/b", Reason::AddressInUse));
}

#[test]
fn a_name_that_could_be_syntax_is_never_written() {
    let mut table = ServiceTable::new("node-1");
    let name = ServiceName::new("shop", "x { accept }");
    table.set_service(&name, Some(service(&["10.96.0.10"], &[("http", Protocol::Tcp, 80)])));
    table.settle();
    let ruleset = Ruleset::of(table.merged(), NftScope::Global);
    assert!(!ruleset.text.contains("accept }"));
    assert_eq!(ruleset.skipped[0].reason, Reason::FieldInvalid);
}
