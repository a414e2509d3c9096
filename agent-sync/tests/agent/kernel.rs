//! Packets: nftables and WireGuard in network namespaces, with HTTP as the witness.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_sync::EncryptSettings;
use agent_sync::datapath::{Datapath, Nft, NftOptions};
use agent_sync::local::KubeNode;
use agent_sync::services::{
    Backend, BackendState, LocalService, LocalSlice, MergedServices, Protocol, ServiceName, ServicePort,
    ServiceTable,
};
use agent_sync::tables::LocalEvent;
use e2e::{ClusterSpec, NetNs, Node, Pod};
use kvstore::LeaseId;

use crate::bed::{Bed, Mirrored, Options};

const PORT: u16 = 8080;

/// One cluster of machines only, with a node.
fn machines(name: &str, clusters: &[&str]) -> (e2e::Bed, Vec<Node>) {
    let specs = clusters.iter().zip(1..).map(|(name, id)| ClusterSpec::new(name, id).without_kubernetes());
    let bed = specs.fold(e2e::Bed::builder(name), e2e::BedBuilder::with).start().unwrap();
    let nodes = clusters.iter().map(|cluster| bed.cluster(cluster).node("node-1").unwrap()).collect();
    (bed, nodes)
}

/// Runs `work` with all its sockets and programs in `netns`.
fn inside<T: Send>(netns: &NetNs, work: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
    netns.enter(run).unwrap()
}

/// A global Service with a frontend of each family.
fn service(cluster_ips: &[&str]) -> LocalService {
    LocalService {
        global: true,
        cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }],
        ..LocalService::default()
    }
}

fn slice(name: &ServiceName, addresses: &[IpAddr]) -> LocalSlice {
    let backend = |address: &IpAddr| Backend {
        address: *address,
        port: PORT,
        protocol: Protocol::Tcp,
        port_names: [Arc::from("http")].into(),
        state: BackendState::Active,
        unhealthy: false,
        node: None,
    };
    LocalSlice {
        service: name.clone(),
        backends: addresses.iter().map(backend).collect(),
        reasons: BTreeSet::new(),
    }
}

fn merged(name: &ServiceName, cluster_ips: &[&str], backends: &[IpAddr]) -> MergedServices {
    let mut table = ServiceTable::new("node-1");
    table.set_service(name, Some(service(cluster_ips)));
    table.set_slice(&name.namespace, "slice", Some(slice(name, backends)));
    table.settle();
    table.merged().clone()
}

fn frontend(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 80)
}

fn apply(node: &Node, writer: &mut Nft, services: &MergedServices) -> bool {
    inside(node.host().netns(), async || writer.apply(services).await.unwrap().changed)
}

/// Who answers, over so many requests that one who could answer does so but for a chance of 1 in 10¹⁸ (of two).
fn who_answers(from: &Pod, frontend: SocketAddr) -> BTreeSet<String> {
    (0..60).map(|_| from.http_get(frontend).unwrap()).collect()
}

#[test]
fn a_cluster_ip_leads_to_every_backend_in_both_families() {
    let (_bed, nodes) = machines("nft", &["home"]);
    let node = &nodes[0];
    let [client, one, two] = ["client", "one", "two"].map(|name| node.pod(name).unwrap());
    let _servers = [&one, &two].map(|pod| pod.serve_http(PORT).unwrap());
    let name = ServiceName::new("shop", "cart");
    let ips = ["10.111.0.10", "fd00:111::10"];
    let addresses = [&one, &two].map(|pod| [IpAddr::V4(pod.address()), IpAddr::V6(pod.address6())]).concat();
    let mut writer = Nft::new(NftOptions::default());
    assert!(!inside(node.host().netns(), async || writer.inherited().await.unwrap()));
    assert!(apply(node, &mut writer, &merged(&name, &ips, &addresses)));
    let both: BTreeSet<_> = ["home/one", "home/two"].map(str::to_owned).into();
    for ip in ips {
        assert_eq!(who_answers(&client, frontend(ip)), both, "{ip}");
    }
    // The node itself, too, once it has a route that way.
    node.host().netns().ip(&["route add 10.111.0.0/16 dev eth0"]).unwrap();
    let answer = node.host().netns().http_get(frontend(ips[0]), "/").unwrap();
    assert!(both.contains(&answer.body));

    // What is equal is not written; what is left out is no longer reached.
    assert!(!apply(node, &mut writer, &merged(&name, &ips, &addresses)));
    assert!(apply(node, &mut writer, &merged(&name, &ips, &addresses[..2])));
    assert_eq!(who_answers(&client, frontend(ips[0])), ["home/one".to_owned()].into());
    // A pod reaches itself by its service.
    assert_eq!(one.http_get(frontend(ips[0])).unwrap(), "home/one");
    assert_eq!(one.http_get(frontend(ips[1])).unwrap(), "home/one");
}

#[test]
fn a_service_without_backends_refuses_at_once() {
    let (_bed, nodes) = machines("nft-none", &["home"]);
    let client = nodes[0].pod("client").unwrap();
    let mut writer = Nft::new(NftOptions::default());
    apply(&nodes[0], &mut writer, &merged(&ServiceName::new("shop", "cart"), &["10.111.0.10"], &[]));
    let error = client.http_get(frontend("10.111.0.10")).unwrap_err();
    let refused = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    assert!(error.chain().any(refused), "{error:#}");
}

/// The tables of ours in `netns`.
fn tables(netns: &NetNs) -> Vec<String> {
    let listed = netns.exec("nft").args(["list", "tables"]).stdout().unwrap();
    listed.lines().map(str::to_owned).filter(|line| line.contains("isthmus")).collect()
}

#[test]
fn no_request_fails_while_rules_are_replaced() {
    let (_bed, nodes) = machines("nft-atomic", &["home"]);
    let node = &nodes[0];
    let [client, one, two] = ["client", "one", "two"].map(|name| node.pod(name).unwrap());
    let _servers = [&one, &two].map(|pod| pod.serve_http(PORT).unwrap());
    let name = ServiceName::new("shop", "cart");
    let of = |pods: &[&Pod]| {
        let addresses: Vec<_> = pods.iter().map(|pod| IpAddr::V4(pod.address())).collect();
        merged(&name, &["10.111.0.10"], &addresses)
    };
    let states = [of(&[&one]), of(&[&two]), of(&[&one, &two])];
    let mut writer = Nft::new(NftOptions::default());
    apply(node, &mut writer, &states[0]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let requests = scope.spawn(|| {
            let mut answers = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                client.http_get(frontend("10.111.0.10")).unwrap();
                answers += 1;
            }
            answers
        });
        for round in 1..60 {
            assert!(apply(node, &mut writer, &states[round % states.len()]));
            assert_eq!(tables(node.host().netns()).len(), 1, "the former rules are gone");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(requests.join().unwrap() > 0);
    });
}

#[test]
fn rules_outlive_their_writer_and_go_when_they_are_told_to() {
    let (_bed, nodes) = machines("nft-stay", &["home"]);
    let netns = nodes[0].host().netns();
    // Names of the greatest length, so that the kernel's own limit is met here and not in a cluster.
    let name = ServiceName::new(&"n".repeat(63), &"s".repeat(63));
    let backends: Vec<IpAddr> =
        (0..2000_u32).map(|n| IpAddr::V4(std::net::Ipv4Addr::from(0x0a47_0000 + n))).collect();
    let mut writer = Nft::new(NftOptions::default());
    apply(&nodes[0], &mut writer, &merged(&name, &["10.111.0.10"], &backends));
    drop(writer);
    assert_eq!(tables(netns), ["table inet isthmus"]);
    // One that was killed between the two steps leaves both tables, whichever is the newer one.
    let services = merged(&name, &["10.111.0.10"], &backends[..1]);
    for left in [&[][..], &["add table inet isthmus", "add table inet isthmus-2"]] {
        for command in left {
            netns.exec("nft").args(command.split(' ')).stdout().unwrap();
        }
        assert!(apply(&nodes[0], &mut Nft::new(NftOptions::default()), &services));
        let [table] = &tables(netns)[..] else { panic!("{left:?}: {:?}", tables(netns)) };
        let rules = netns.exec("nft").args(["list"]).args(table.split(' ')).stdout().unwrap();
        assert!(rules.contains(&backends[0].to_string()) && !rules.contains(&backends[1].to_string()));
    }
    let mut successor = Nft::new(NftOptions::default());
    inside(netns, async || {
        assert!(successor.inherited().await.unwrap());
        successor.uninstall().await.unwrap();
        successor.uninstall().await.unwrap();
        assert!(!successor.inherited().await.unwrap());
    });
    assert_eq!(tables(netns), Vec::<String>::new());
}

#[test]
fn rules_that_someone_else_removed_are_written_again() {
    let (_bed, nodes) = machines("nft-verify", &["home"]);
    let netns = nodes[0].host().netns();
    let services =
        merged(&ServiceName::new("shop", "cart"), &["10.111.0.10"], &["10.71.1.11".parse().unwrap()]);
    let mut writer = Nft::new(NftOptions::default());
    apply(&nodes[0], &mut writer, &services);
    inside(netns, async || writer.verify().await.unwrap());
    assert!(!apply(&nodes[0], &mut writer, &services));
    netns.exec("nft").args(["flush", "ruleset"]).stdout().unwrap();
    inside(netns, async || writer.verify().await.unwrap());
    assert!(apply(&nodes[0], &mut writer, &services));
}

#[test]
fn a_missing_program_says_what_to_install() {
    let options = NftOptions { command: vec!["/nonexistent/nft".to_owned()], ..NftOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Nft::new(options).apply(&MergedServices::new())).unwrap_err();
    assert!(error.to_string().contains("install the package nftables"), "{error}");
}

/// An agent in a node's namespace; its store and socket can be used from outside.
struct Remote<'scope> {
    bed: Option<Bed>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::ScopedJoinHandle<'scope, ()>,
}

impl<'scope> Remote<'scope> {
    fn start<'env>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        netns: &'env NetNs,
        options: Options,
    ) -> Self {
        let (bed_in, bed_out) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = scope.spawn(move || {
            inside(netns, async move || {
                bed_in.send(Bed::with(options).await).unwrap();
                drop(stopped.await);
            });
        });
        Remote { bed: Some(bed_out.recv().unwrap()), stop, thread }
    }

    fn bed(&self) -> &Bed {
        self.bed.as_ref().unwrap()
    }

    async fn stop(mut self) {
        drop(self.bed.take().unwrap().stop().await);
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

fn agent_options(directory: &std::path::Path) -> Options {
    Options {
        datapath: Arc::new(|| Box::new(Nft::new(NftOptions::default()))),
        encrypt: Some(EncryptSettings {
            choice: wireguard::Choice::UserSpace,
            key_file: directory.join("wireguard.key"),
            interface: wireguard::DEVICE_NAME.to_owned(),
            plan: wireguard::Settings::default(),
        }),
        ..Options::default()
    }
}

/// Says in the store of `bed` what the mirror of `of` would say.
async fn mirror(bed: &Bed, of: &Mirrored, node: &Node, key: &str, service: (String, String)) {
    let [cidr, cidr6] = node.pod_cidrs().map(|cidr| cidr.parse::<ipnet::IpNet>().unwrap());
    let record = mesh_types::Node {
        name: "node-1".to_owned(),
        cluster: of.name.to_owned(),
        cluster_id: of.id,
        ip_addresses: vec![mesh_types::NodeAddress {
            address_type: "InternalIP".to_owned(),
            ip: Some(node.address().into()),
        }],
        ipv4_alloc_cidr: Some(mesh_types::Cidr(cidr)),
        ipv6_alloc_cidr: Some(mesh_types::Cidr(cidr6)),
        wireguard_pub_key: key.to_owned(),
        ..mesh_types::Node::default()
    };
    bed.serving.put(&of.node_key("node-1"), record.encode()).await;
    bed.serving.put(&service.0, service.1).await;
    of.write(&bed.serving, &[], LeaseId::NONE).await;
    bed.local_listed().await;
}

fn own(node: &Node) -> LocalEvent {
    LocalEvent::OwnNode(Some(Box::new(KubeNode {
        addresses: vec![node.address().into(), node.host().address6().into()],
        pod_cidrs: node.pod_cidrs().map(|cidr| cidr.parse().unwrap()).into(),
        wireguard_key: None,
    })))
}

#[test]
fn a_request_to_another_cluster_s_backend_travels_encrypted_and_outlives_the_agent() {
    let (machines, nodes) = machines("agents", &["east", "west"]);
    let [client, server] = [0, 1].map(|at| nodes[at].pod("pod").unwrap());
    let _server = server.serve_http(PORT).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    std::thread::scope(|scope| {
        runtime.block_on(async {
            let [here, there] = [0, 1].map(|at| {
                Remote::start(scope, nodes[at].host().netns(), agent_options(directories[at].path()))
            });
            let ips = || vec!["10.111.0.10".parse().unwrap()];
            let service = LocalService { cluster_ips: ips(), ..service(&[]) };
            let name = ServiceName::new("shop", "cart");
            here.bed().feed(vec![own(&nodes[0]), LocalEvent::Service(name, Some(Box::new(service)))]).await;
            there.bed().feed(vec![own(&nodes[1])]).await;

            // Both agents call their own cluster `home`; what they are told of the other has another name and id.
            let (east, west) = (Mirrored { name: "east", id: 7 }, Mirrored { name: "west", id: 8 });
            let key = async |bed: &Bed| bed.wireguard().await.summary.public_key.unwrap();
            let (key_here, key_there) = (key(here.bed()).await, key(there.bed()).await);
            let backend = west.service("cart", &[&server.address().to_string()]);
            mirror(here.bed(), &west, &nodes[1], &key_there, backend).await;
            mirror(there.bed(), &east, &nodes[0], &key_here, east.service("cart", &[])).await;
            for remote in [&here, &there] {
                let ready = |status: &agent_sync::api::schema::Status| {
                    status.ready && status.wireguard.peers == 1 && status.datapath.in_effect
                };
                remote.bed().until_status("a peer, and services in effect", ready).await;
            }

            let capture = machines.capture("host 10.200.1.11 and not arp").unwrap();
            let ask = || client.http_get(frontend("10.111.0.10"));
            let answer = machines.eventually("west's pod answers", Duration::from_secs(60), ask);
            assert_eq!(answer, "west/pod");
            let captured = capture.stop().unwrap();
            assert!(!captured.carries("west/pod") && !captured.carries("HTTP/1.1"), "{captured:?}");
            let tunnelled = |packet: &&String| packet.contains(".51871 > ") && packet.contains(".51871: UDP");
            assert!(captured.packets.iter().filter(tunnelled).count() > 2, "{captured:?}");

            let peers = here.bed().wireguard().await.peers;
            assert_eq!((peers.len(), &*peers[0].cluster, &*peers[0].node), (1, "west", "node-1"));

            // The agent goes; translation stays.
            here.stop().await;
            let rules = nodes[0].exec("nft").args(["list", "ruleset"]).stdout().unwrap();
            assert!(rules.contains(&format!("{}:{PORT}", server.address())), "{rules}");
            there.stop().await;
        });
    });
}
