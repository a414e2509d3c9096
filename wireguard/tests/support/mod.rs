//! Two nodes as network namespaces joined by a wire, each with its pod addresses on the loopback.
//!
//! The namespaces have no names: the kernel removes them, with all that is in them, when the threads and descriptors of
//! this process are gone, however it ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use tokio_util::sync::CancellationToken;
use wireguard::{
    Choice, Config, Device, DeviceError, Input, LocalNode, NodeName, Plan, PrivateKey, PublicKey, RemoteNode,
    Settings, Tables, diff, open, plan,
};

pub(crate) mod probe;

/// How long anything may take that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again until `met` gives something, or fails with what was waited for.
pub(crate) fn wait_for<T>(what: &str, mut met: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = met() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A network namespace of our own.
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let netns = Self(std::thread::spawn(make).join().unwrap());
        netns.ip("link set lo up");
        netns
    }

    fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
    }

    /// Runs `work` on a thread in the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter();
            work()
        };
        let joined = std::thread::scope(|scope| scope.spawn(inside).join());
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` with these arguments and returns what it prints.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = self
            .run(|| Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A path for `ip link … netns`.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A device at work on a thread of its namespace.
struct Running {
    device: Box<dyn Device>,
    stop: CancellationToken,
    driver: JoinHandle<io::Result<()>>,
}

/// A node with one pod per family.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    name: NodeName,
    pub(crate) key: Arc<PrivateKey>,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) pods: Vec<IpAddr>,
    running: Option<Running>,
}

impl Node {
    fn new(name: &str, number: u8) -> Self {
        let netns = Netns::new();
        let pods = [format!("10.{number}.0.5"), format!("fd00:{number}::5")];
        pods.iter().for_each(|pod| {
            netns.ip(&format!("address add {pod} dev lo"));
        });
        Self {
            netns,
            name: NodeName { cluster: name.to_owned(), node: "worker".to_owned() },
            key: Arc::new(PrivateKey::generate().unwrap()),
            ips: [format!("192.0.2.{number}"), format!("2001:db8::{number}")]
                .map(|ip| ip.parse().unwrap())
                .into(),
            pods: pods.iter().map(|pod| pod.parse().unwrap()).collect(),
            running: None,
        }
    }

    /// What the node publishes.
    pub(crate) fn record(&self) -> RemoteNode {
        let cidrs =
            self.pods.iter().map(|pod| ipnet::IpNet::new(*pod, if pod.is_ipv4() { 16 } else { 32 }).unwrap());
        RemoteNode {
            public_key: self.key.public().annotation_value(),
            internal_ips: self.ips.clone(),
            external_ips: Vec::new(),
            pod_cidrs: cidrs.map(|cidr| cidr.trunc()).collect(),
        }
    }

    /// What this node makes of the others.
    pub(crate) fn plan(&self, settings: Settings, others: &[&Node]) -> Plan {
        let local = LocalNode {
            name: self.name.clone(),
            public_key: self.key.public(),
            addresses: self.ips.clone(),
            pod_cidrs: self.record().pod_cidrs,
            neighbours: Vec::new(),
        };
        let nodes: BTreeMap<_, _> = others.iter().map(|node| (node.name.clone(), node.record())).collect();
        plan(Input { local: &local, settings, nodes: &nodes, entries: &BTreeMap::new() })
    }

    /// Opens the device in the node's namespace and lets it run.
    pub(crate) fn start_with(&mut self, config: Config) -> Result<(), DeviceError> {
        let (opened, wait) = mpsc::channel();
        let stop = CancellationToken::new();
        let (key, stopped, netns) = (Arc::clone(&self.key), stop.clone(), self.netns.0.try_clone().unwrap());
        let driver = std::thread::spawn(move || {
            Netns(netns).enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                match open(Choice::UserSpace, &config, &key) {
                    Ok(device) => {
                        opened.send(Ok(device.device)).unwrap();
                        device.driver.unwrap().run(stopped).await
                    }
                    Err(error) => {
                        opened.send(Err(error)).unwrap();
                        Ok(())
                    }
                }
            })
        });
        let device = wait.recv().unwrap()?;
        self.running = Some(Running { device, stop, driver });
        Ok(())
    }

    pub(crate) fn start(&mut self) {
        self.start_with(Config::default()).unwrap();
    }

    /// Ends the device's process, so to speak: nothing is taken back.
    pub(crate) fn stop(&mut self) {
        if let Some(Running { device, stop, driver }) = self.running.take() {
            stop.cancel();
            driver.join().unwrap().unwrap();
            drop(device);
        }
    }

    pub(crate) fn device(&mut self) -> &mut dyn Device {
        self.running.as_mut().expect("the node is started").device.as_mut()
    }

    /// Converges the device to `tables`, as an agent does.
    pub(crate) fn converge(&mut self, tables: &Tables) {
        let before = self.device().tables().unwrap();
        self.device().apply(&diff(&before, tables)).unwrap();
        assert_eq!(self.device().tables().unwrap(), *tables);
    }

    /// Makes `others` the peers of this node.
    pub(crate) fn meet(&mut self, others: &[&Node]) {
        let plan = self.plan(Settings::default(), others);
        assert_eq!(plan.skipped, []);
        self.converge(&plan.tables);
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.key.public()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}

/// Two nodes of two clusters, joined by a wire with both families, and a plain route to each other's pods.
pub(crate) fn two_nodes() -> (Node, Node) {
    let (a, b) = (Node::new("alpha", 1), Node::new("beta", 2));
    a.netns.ip(&format!("link add wan type veth peer name wan netns {}", b.netns.path()));
    for (node, other) in [(&a, &b), (&b, &a)] {
        for (ip, length) in node.ips.iter().zip([24, 64]) {
            let nodad = if ip.is_ipv6() { " nodad" } else { "" };
            node.netns.ip(&format!("address add {ip}/{length} dev wan{nodad}"));
        }
        node.netns.ip("link set wan up");
        for (pod, gateway) in other.pods.iter().zip(&other.ips) {
            node.netns.ip(&format!("route add {pod} via {gateway}"));
        }
    }
    (a, b)
}

/// Two nodes whose devices know each other.
pub(crate) fn two_peers() -> (Node, Node) {
    let (mut a, mut b) = two_nodes();
    a.start();
    b.start();
    a.meet(&[&b]);
    b.meet(&[&a]);
    (a, b)
}
