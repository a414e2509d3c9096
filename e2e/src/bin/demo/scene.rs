//! What the demo shows: a shop over the clusters.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bed, HttpServer, Mesh, Pod, objects};
use serde_json::{Value, json};

/// The clusters, in the order of their ids.
const NAMES: [&str; 3] = ["west", "east", "north"];
/// How long something may take to go through all daemons.
const SOON: Duration = Duration::from_secs(120);
/// Where the pods serve.
const PORT: u16 = 8080;

/// The clusters with their API servers.
pub(crate) fn bed(clusters: usize) -> Result<Bed> {
    let named = NAMES.iter().zip(1..).take(clusters);
    named.fold(Bed::builder("demo"), |bed, (name, id)| bed.cluster(name, id)).start()
}

/// Each cluster serves `cart`; only the second exports `orders`.
#[derive(Debug)]
pub(crate) struct Scene<'bed> {
    mesh: Mesh<'bed>,
    pods: Vec<Pod>,
    _serving: Vec<HttpServer>,
    cart: SocketAddr,
    orders: SocketAddr,
}

impl<'bed> Scene<'bed> {
    /// Starts the daemons and applies the objects; returns once everything has arrived.
    pub(crate) fn start(bed: &'bed Bed) -> Result<Self> {
        let mesh = Mesh::builder(bed).datapath().dns().start()?;
        let mut pods = Vec::new();
        let mut serving = Vec::new();
        for member in mesh.members() {
            let pod = member.node().pod(&format!("{}-server", member.name()))?;
            serving.push(pod.serve_http(PORT)?);
            let kubectl = member.cluster().kubectl();
            let global = [("service.cilium.io/global", "true")];
            let mut items = vec![
                objects::namespace("shop"),
                objects::service("shop", "cart", 80, &global),
                objects::endpoint_slice("shop", "cart", "cart-1", &[pod.address().into()], PORT),
            ];
            if member.name() == NAMES[1] {
                items.extend([
                    objects::service("shop", "orders", 80, &[]),
                    objects::endpoint_slice("shop", "orders", "orders-1", &[pod.address().into()], PORT),
                    objects::service_export("shop", "orders"),
                ]);
            }
            kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
            pods.push(pod);
        }
        pods.push(mesh.member(NAMES[0]).node().pod("west-client")?);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut scene = Self { mesh, pods, _serving: serving, cart: nowhere, orders: nowhere };
        scene.settle()?;
        Ok(scene)
    }

    /// Waits until the first cluster's pod reaches all there is to reach.
    fn settle(&mut self) -> Result<()> {
        let (bed, kubectl) = (self.mesh.bed(), self.mesh.member(NAMES[0]).cluster().kubectl());
        let address = |object: &Value| -> Result<SocketAddr> {
            let ip = object["spec"]["clusterIP"].as_str().or_else(|| object["spec"]["ips"][0].as_str());
            Ok(SocketAddr::new(ip.context("no address yet")?.parse()?, 80))
        };
        self.cart = address(&kubectl.get("shop", "service", "cart")?)?;
        self.orders = bed.eventually("the export of orders is imported", SOON, || {
            address(&kubectl.get("shop", "serviceimport", "orders")?)
        });
        let all: BTreeSet<_> =
            self.mesh.members().map(|member| format!("{0}/{0}-server", member.name())).collect();
        bed.eventually("pods of all clusters answer for cart", SOON, || {
            let answers = self.answers(self.cart, 8 * all.len())?;
            ensure!(answers == all, "only {answers:?}");
            Ok(())
        });
        bed.eventually("a pod of east answers for orders", SOON, || self.answers(self.orders, 1));
        bed.eventually("the name of orders resolves", SOON, || {
            ensure!(self.dig()?.contains(&self.orders.ip().to_string()), "not yet");
            Ok(())
        });
        Ok(())
    }

    /// Who answers to the client.
    fn answers(&self, service: SocketAddr, requests: usize) -> Result<BTreeSet<String>> {
        (0..requests).map(|_| self.client().http_get(service)).collect()
    }

    fn dig(&self) -> Result<String> {
        let exec = self.mesh.member(NAMES[0]).node().exec("dig").args(["+short", "+time=2", "+tries=1"]);
        exec.arg(format!("@{}", self.dns())).arg(Self::NAME).stdout()
    }

    /// What `orders` is called in every cluster.
    pub(crate) const NAME: &'static str = "orders.shop.svc.clusterset.local";

    pub(crate) fn mesh(&self) -> &Mesh<'bed> {
        &self.mesh
    }

    /// All pods; the client is the last.
    pub(crate) fn pods(&self) -> &[Pod] {
        &self.pods
    }

    pub(crate) fn client(&self) -> &Pod {
        self.pods.last().expect("the client is a pod")
    }

    /// The address of `cart` in the first cluster.
    pub(crate) fn cart(&self) -> SocketAddr {
        self.cart
    }

    /// The address of the imported `orders` in the first cluster.
    pub(crate) fn orders(&self) -> SocketAddr {
        self.orders
    }

    /// The DNS server of the first cluster.
    pub(crate) fn dns(&self) -> std::net::Ipv4Addr {
        self.mesh.member(NAMES[0]).cluster().host().address()
    }

    /// Prints what each side sees.
    pub(crate) fn show(&self, out: &mut impl Write) -> Result<()> {
        writeln!(out, "\n{:8} {:>3}  {:12} {:24} {:18} pods", "cluster", "id", "node", "store", "services")?;
        for member in NAMES.iter().take(self.mesh.members().count()).map(|name| self.mesh.member(name)) {
            let cluster = member.cluster();
            let [services, _v6] = cluster.plan().service_cidrs();
            let [pods, _v6] = member.node().pod_cidrs();
            let store = format!("https://{}:2379", cluster.host().address());
            let (name, id, node) = (member.name(), cluster.id(), member.node().name());
            writeln!(out, "{name:8} {id:>3}  {node:12} {store:24} {services:18} {pods}")?;
        }
        for table in ["status", "nodes", "services"] {
            writeln!(out, "\nThe agent of west-1: isthmus agent {table}\n")?;
            let text = self.mesh.member(NAMES[0]).agent_text(table)?;
            ensure!(text.contains(NAMES[1]), "the table {table} of west-1 says nothing of east:\n{text}");
            for line in text.lines() {
                writeln!(out, "  {line}")?;
            }
        }
        writeln!(out, "\nThe name: dig @{} {} says {}", self.dns(), Self::NAME, self.dig()?.trim())?;
        let answers = self.answers(self.cart, 16)?.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(
            out,
            "The packet: http://{}/ asked 16 times by a pod of west is answered by {answers}",
            self.cart.ip()
        )?;
        let answers = self.answers(self.orders, 4)?.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(out, "            http://{}/ is answered by {answers}", self.orders.ip())?;
        Ok(())
    }
}
