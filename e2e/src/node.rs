//! Nodes and their pods.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, ensure};

use crate::underlay::Host;
use crate::{Exec, HttpServer, NetNs, Plan};

/// A node: a machine on the underlay that routes for the pods it holds.
#[derive(Debug)]
pub struct Node {
    host: Host,
    cluster: String,
    plan: Plan,
    number: u8,
    pods: AtomicU8,
}

/// A pod: a namespace with one link to its node.
#[derive(Debug)]
pub struct Pod {
    netns: NetNs,
    cluster: String,
    name: String,
    node_address: Ipv4Addr,
    addresses: (Ipv4Addr, Ipv6Addr),
}

impl Node {
    pub(crate) fn new(host: Host, cluster: &str, plan: Plan, number: u8) -> Result<Self> {
        let (gateway, gateway6) = plan.gateway(number);
        host.netns().ip(&[
            format!("address add {gateway}/32 dev lo"),
            format!("address add {gateway6}/128 dev lo nodad"),
        ])?;
        Ok(Self { host, cluster: cluster.to_owned(), plan, number, pods: AtomicU8::new(1) })
    }

    /// The name of the Node object; in the bed's messages the cluster's name stands before it.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.host.name();
        name.split_once('/').map_or(name, |(_cluster, name)| name)
    }

    /// The machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its address on the underlay.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// A program to run on it.
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Exec {
        self.host.exec(program)
    }

    /// The ranges of its pods, IPv4 and IPv6.
    #[must_use]
    pub fn pod_cidrs(&self) -> [String; 2] {
        self.plan.pod_cidrs(self.number)
    }

    /// Its own addresses within the pod ranges, on `lo`.
    #[must_use]
    pub fn internal_addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.plan.gateway(self.number)
    }

    /// A new pod on it. All of its traffic is routed by the node, also that to a pod beside it.
    ///
    /// # Errors
    /// If there are 200 already, or a link cannot be made.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        ensure!(number <= 200, "{} is full", self.host.name());
        let (address, address6) = self.plan.pod(self.number, number);
        let (gateway, _on_lo) = self.plan.gateway(self.number);
        let netns = NetNs::new(&format!("{}/{name}", self.cluster))?;
        let link = format!("pod{number}");
        self.host.netns().ip(&[
            format!("link add {link} type veth peer name eth0 netns {}", netns.path().display()),
            format!("address add fe80::1/64 dev {link} nodad"),
            format!("link set {link} up"),
            format!("route add {address}/32 dev {link}"),
            format!("route add {address6}/128 dev {link}"),
        ])?;
        netns.ip(&[
            "link set eth0 up".to_owned(),
            format!("address add {address}/32 dev eth0"),
            format!("address add {address6}/128 dev eth0 nodad"),
            format!("route add {gateway} dev eth0 scope link"),
            format!("route add default via {gateway}"),
            "route add default via fe80::1 dev eth0".to_owned(),
        ])?;
        Ok(Pod {
            netns,
            cluster: self.cluster.clone(),
            name: name.to_owned(),
            node_address: self.address(),
            addresses: (address, address6),
        })
    }
}

impl Pod {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.0
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn address6(&self) -> Ipv6Addr {
        self.addresses.1
    }

    /// The address of its node on the underlay.
    #[must_use]
    pub fn node_address(&self) -> Ipv4Addr {
        self.node_address
    }

    /// A program to run in it.
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Exec {
        self.netns.exec(program)
    }

    /// What [`Pod::serve_http`] answers: `cluster/pod`.
    #[must_use]
    pub fn http_name(&self) -> String {
        format!("{}/{}", self.cluster, self.name)
    }

    /// Answers HTTP requests on `port`, IPv4 and IPv6, with the pod's [`http_name`](Pod::http_name), until dropped.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve_http(&self, port: u16) -> Result<HttpServer> {
        HttpServer::start(&self.netns, port, &self.http_name())
            .with_context(|| format!("serve HTTP on port {port} of {}", self.name))
    }

    /// Asks by HTTP and gives the answer's body, which for a pod's server is its [`http_name`](Pod::http_name).
    ///
    /// # Errors
    /// If there is no answer within two seconds, or one that is not 200.
    pub fn http_get(&self, from: impl Into<SocketAddr>) -> Result<String> {
        let from = from.into();
        let answer = self.netns.http_get(from, "/")?;
        ensure!(answer.status == 200, "HTTP {} from {from}: {}", answer.status, answer.body);
        Ok(answer.body)
    }
}
