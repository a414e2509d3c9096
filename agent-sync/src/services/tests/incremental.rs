//! What the table is after any history.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    RemoteSlice(u8, u8, Option<ClusterEndpointSlice>),
    Service(u8, Option<LocalService>),
    Slice(u8, Option<LocalSlice>),
    Remote(u8, u8, Option<ClusterService>),
    Cluster(u8),
    Settle,
}

fn op_name(n: u8) -> ServiceName {
    name(&format!("shop/s{n}"))
}

fn op_cluster(n: u8) -> ClusterName {
    cluster(&format!("c{n}"))
}

fn any_backend() -> impl Strategy<Value = Backend> {
    let states = prop::sample::select(vec![
        BackendState::Active,
        BackendState::Terminating,
        BackendState::TerminatingNotServing,
        BackendState::Maintenance,
    ]);
    let port_name = prop::sample::select(vec!["http", "dns"]);
    (0_u8..4, 0_u16..2, states, port_name, any::<bool>()).prop_map(|(host, port, state, port_name, here)| {
        Backend {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)),
            port: 8080 + port,
            protocol: Protocol::Tcp,
            port_names: [port_name.into()].into(),
            state,
            unhealthy: false,
            node: Some(if here { HERE } else { "node-2" }.into()),
        }
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    let affinity = prop::sample::select(vec![Affinity::None, Affinity::Local, Affinity::Remote]);
    let local = (any::<bool>(), affinity, any::<bool>()).prop_map(|(global, affinity, here)| LocalService {
        only_local_node: here,
        ..service(global, affinity)
    });
    let content = (0_u8..3, prop::collection::vec(any_backend(), 0..4)).prop_map(|(service, backends)| {
        LocalSlice { service: op_name(service), backends, reasons: BTreeSet::new() }
    });
    let records = (prop::collection::btree_set(0_u8..4, 0..4), any::<bool>()).prop_map(|(hosts, shared)| {
        let addresses: Vec<String> = hosts.iter().map(|host| format!("10.0.0.{host}")).collect();
        ClusterService { shared, ..record(&addresses.iter().map(String::as_str).collect::<Vec<_>>()) }
    });
    let remote_slices =
        (0_u8..3, prop::collection::vec((0_u8..4, any::<bool>()), 0..4)).prop_map(|(service, hosts)| {
            let hosts: Vec<_> =
                hosts.iter().map(|(host, ready)| (format!("10.0.0.{host}"), *ready)).collect();
            let hosts: Vec<_> = hosts.iter().map(|(host, ready)| (host.as_str(), *ready)).collect();
            remote_slice(&format!("s{service}"), &hosts)
        });
    prop_oneof![
        (0_u8..3, 0_u8..2, prop::option::of(remote_slices))
            .prop_map(|(slice, from, content)| Op::RemoteSlice(slice, from, content)),
        (0_u8..3, prop::option::of(local)).prop_map(|(name, service)| Op::Service(name, service)),
        (0_u8..3, prop::option::of(content)).prop_map(|(slice, content)| Op::Slice(slice, content)),
        (0_u8..3, 0_u8..2, prop::option::of(records))
            .prop_map(|(name, from, record)| Op::Remote(name, from, record)),
        (0_u8..2).prop_map(Op::Cluster),
        Just(Op::Settle),
    ]
}

proptest! {
    /// Whatever happened in whatever order, the table is what its last inputs make of a new one.
    #[test]
    fn incremental_equals_from_scratch(ops in prop::collection::vec(any_op(), 0..48)) {
        let mut table = ServiceTable::new(HERE);
        let mut services = BTreeMap::new();
        let mut slices = BTreeMap::new();
        let mut remotes = BTreeMap::new();
        let mut remote_slices = BTreeMap::new();
        for op in ops {
            match op {
                Op::RemoteSlice(n, from, content) => {
                    table.set_remote_slice("shop", &format!("slice-{n}"), &op_cluster(from), content.as_ref());
                    remote_slices.insert((n, from), content);
                }
                Op::Service(n, service) => {
                    table.set_service(&op_name(n), service.clone());
                    services.insert(n, service);
                }
                Op::Slice(n, content) => {
                    table.set_slice("shop", &format!("slice-{n}"), content.clone());
                    slices.insert(n, content);
                }
                Op::Remote(n, from, record) => {
                    table.set_remote(&op_name(n), &op_cluster(from), record.as_ref());
                    remotes.insert((n, from), record);
                }
                Op::Cluster(from) => {
                    table.remove_cluster(&op_cluster(from));
                    remotes.retain(|(_, of), _| *of != from);
                    remote_slices.retain(|(_, of), _| *of != from);
                }
                Op::Settle => drop(table.settle()),
            }
        }
        table.settle();
        let mut fresh = ServiceTable::new(HERE);
        for ((n, from), record) in &remotes {
            fresh.set_remote(&op_name(*n), &op_cluster(*from), record.as_ref());
        }
        for ((n, from), content) in &remote_slices {
            fresh.set_remote_slice("shop", &format!("slice-{n}"), &op_cluster(*from), content.as_ref());
        }
        for (n, content) in slices {
            fresh.set_slice("shop", &format!("slice-{n}"), content);
        }
        for (n, service) in services {
            fresh.set_service(&op_name(n), service);
        }
        fresh.settle();
        prop_assert_eq!(table.merged(), fresh.merged());
        prop_assert_eq!(&table.inputs, &fresh.inputs);
        let judged = |merged: &MergedService| {
            merged.frontends.iter().all(|frontend| frontend.verdicts.len() == merged.backends.len())
        };
        prop_assert!(table.merged().values().all(|merged| judged(merged)));
    }
}
