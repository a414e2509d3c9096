//! Starts the daemons of a mesh.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::json;

use super::{Member, Mesh, MeshPki, Part, remotes_dir, socket, store_endpoint};
use crate::etcdctl::etcd_flags;
use crate::{Bed, Cluster, Daemon, DaemonSpec, Etcdctl, Host, Node, PemPair, objects, tool};

/// Says what a [`Mesh`] is to run.
#[derive(Debug)]
#[must_use = "nothing starts until `start`"]
pub struct MeshBuilder<'bed> {
    bed: &'bed Bed,
    nodes: usize,
    etcd: BTreeSet<String>,
    external: BTreeMap<String, Vec<String>>,
    together: BTreeSet<String>,
    exporter_args: BTreeMap<String, Vec<String>>,
    pki: Option<MeshPki>,
    agents: bool,
    dns: bool,
    encrypted: bool,
    /// More arguments of daemons, by cluster and part.
    more: Vec<(String, Part, String)>,
    own_users: bool,
}

impl<'bed> MeshBuilder<'bed> {
    pub(super) fn new(bed: &'bed Bed) -> Self {
        Self {
            bed,
            nodes: 1,
            etcd: BTreeSet::new(),
            external: BTreeMap::new(),
            together: BTreeSet::new(),
            exporter_args: BTreeMap::new(),
            pki: None,
            agents: true,
            dns: false,
            encrypted: false,
            more: Vec::new(),
            own_users: false,
        }
    }

    /// So many nodes in each cluster, instead of one.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// etcd as the store of this cluster, instead of the embedded one.
    pub fn etcd(mut self, cluster: &str) -> Self {
        self.etcd.insert(cluster.to_owned());
        self
    }

    /// The store of this cluster runs already, at these URLs.
    pub fn store_at(mut self, cluster: &str, endpoints: &[String]) -> Self {
        self.external.insert(cluster.to_owned(), endpoints.to_vec());
        self
    }

    /// All daemons of this cluster but the agents in one process, `isthmus mesh`, which takes the place of [`Part::Store`].
    pub fn in_one_process(mut self, cluster: &str) -> Self {
        self.together.insert(cluster.to_owned());
        self
    }

    /// More arguments for the exporter of this cluster.
    pub fn exporter_args(mut self, cluster: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned());
        self.exporter_args.entry(cluster.to_owned()).or_default().extend(args);
        self
    }

    /// With these certificates, instead of new ones.
    pub fn pki(mut self, pki: &MeshPki) -> Self {
        self.pki = Some(pki.clone());
        self
    }

    /// Without agents on the nodes.
    pub fn without_agents(mut self) -> Self {
        self.agents = false;
        self
    }

    /// With a DNS server in each cluster, at port 53 of the control plane.
    pub fn dns(mut self) -> Self {
        self.dns = true;
        self
    }

    /// With WireGuard between the nodes, and services translated by nftables; else the agents keep tables only.
    pub fn datapath(mut self) -> Self {
        self.encrypted = true;
        self
    }

    /// One more argument of a daemon.
    pub fn argument(mut self, cluster: &str, part: Part, argument: &str) -> Self {
        self.more.push((cluster.to_owned(), part, argument.to_owned()));
        self
    }

    /// Each cluster has a user of its own in the stores of the others, `remote-<cluster>`, instead of `remote`.
    pub fn user_of_its_own(mut self) -> Self {
        self.own_users = true;
        self
    }

    /// Starts all, and returns when each daemon is ready.
    ///
    /// # Errors
    /// If one does not become ready; what all sides see then is in the error.
    pub fn start(self) -> Result<Mesh<'bed>> {
        let bed = self.bed;
        self.run().map_err(|error| error.context(bed.diary().read()))
    }

    fn run(&self) -> Result<Mesh<'bed>> {
        let pki = match &self.pki {
            Some(pki) => pki.clone(),
            None => MeshPki::new(&self.bed.dir().join("pki"))?,
        };
        let clusters = self.bed.clusters().iter().filter(|cluster| cluster.has_kubernetes());
        let mut members = BTreeMap::new();
        for cluster in clusters {
            let member = self.member(cluster, &pki)?;
            members.insert(cluster.name().to_owned(), member);
        }
        for rank in [
            &[Part::Store][..],
            &[Part::Exporter],
            &[Part::Mirror, Part::Dns],
            &(0..self.nodes).filter(|_node| self.agents).map(Part::Agent).collect::<Vec<_>>(),
        ] {
            for member in members.values_mut() {
                for part in rank.iter().filter(|part| self.runs(member.cluster, **part)) {
                    let (host, spec) = self.spec(member, *part, &pki)?;
                    let daemon = host.daemon(spec)?;
                    member.daemons.insert(*part, daemon);
                }
            }
            for member in members.values_mut() {
                for (_part, daemon) in member.daemons.iter_mut().filter(|(part, _)| rank.contains(part)) {
                    daemon.wait_ready()?;
                }
            }
        }
        Ok(Mesh { bed: self.bed, pki, members })
    }

    fn runs(&self, cluster: &Cluster, part: Part) -> bool {
        let together = self.together.contains(cluster.name());
        match part {
            Part::Store => together || !self.external.contains_key(cluster.name()),
            Part::Exporter | Part::Mirror => !together,
            Part::Dns => self.dns,
            Part::Agent(_) => true,
        }
    }

    fn endpoints(&self, cluster: &Cluster) -> Vec<String> {
        let external = self.external.get(cluster.name());
        external.cloned().unwrap_or_else(|| vec![store_endpoint(cluster)])
    }

    /// A cluster with its nodes, files and objects, before its daemons.
    fn member(&self, cluster: &'bed Cluster, pki: &MeshPki) -> Result<Member<'bed>> {
        let nodes = (1..=self.nodes).map(|number| cluster.node(&format!("{}-{number}", cluster.name())));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        apply_nodes(cluster, &nodes).context("apply the nodes")?;

        let own = format!("remote-{}", cluster.name());
        let remote = pki.client(if self.own_users { &own } else { "remote" })?;
        for other in self.bed.clusters().iter().filter(|other| other.name() != cluster.name()) {
            if other.has_kubernetes() {
                let file = remotes_dir(cluster).join(other.name());
                pki.write_etcd_config(&file, &self.endpoints(other), &remote)?;
            }
        }
        for user in ["admin", "local"] {
            let client = pki.client(&format!("{user}-{}", cluster.name()))?;
            let file = cluster.dir().join(format!("{user}-etcd.yaml"));
            pki.write_etcd_config(&file, &self.endpoints(cluster), &client)?;
        }
        let administrator = pki.client("root")?;
        let endpoint = self.endpoints(cluster).join(",");
        let etcdctl =
            Etcdctl::new(cluster.host().netns(), &endpoint, &pki.authority(), Some(&administrator))?;
        let witness = etcdctl.clone();
        let title = format!("{}: keys of the store", cluster.name());
        self.bed.diary().record(&title, move || witness.dump("cilium/"));
        for (index, node) in nodes.iter().enumerate() {
            for table in ["status", "services"] {
                let (host, socket) = (node.host().clone(), socket(cluster, index));
                self.bed.diary().record(&format!("{}: agent {table}", node.host().name()), move || {
                    let exec =
                        host.isthmus().map(|exec| exec.args(["agent", table, "--socket"]).arg(&socket));
                    exec.and_then(crate::Exec::output)
                        .map_or_else(|error| format!("{error:#}"), |output| output.stdout + &output.stderr)
                });
            }
        }
        Ok(Member { cluster, nodes, daemons: BTreeMap::new(), etcdctl })
    }

    fn spec(&self, member: &Member<'_>, part: Part, pki: &MeshPki) -> Result<(crate::Host, DaemonSpec)> {
        let cluster = member.cluster;
        let host = match part {
            Part::Agent(index) => member.nodes[index].host(),
            Part::Store | Part::Exporter | Part::Mirror | Part::Dns => cluster.host(),
        };
        let spec = match part {
            Part::Store if self.together.contains(cluster.name()) => {
                let spec = together(cluster)?;
                if self.external.contains_key(cluster.name()) {
                    with_store(spec, cluster, "admin")
                } else {
                    let server = pki.server(cluster)?;
                    let urls = format!("{},https://127.0.0.1:2379", store_endpoint(cluster));
                    serving(spec, &urls, &server, pki)
                }
            }
            Part::Store if self.etcd.contains(cluster.name()) => etcd(cluster, pki)?,
            Part::Store => store(cluster, pki)?,
            Part::Exporter => {
                let more = self.exporter_args.get(cluster.name());
                exporter(cluster)?.args(more.into_iter().flatten())
            }
            Part::Mirror => mirror(cluster)?,
            Part::Dns => dns(cluster)?,
            Part::Agent(index) => self.agent(cluster, index, &member.nodes[index])?,
        };
        let more = self.more.iter().filter(|(name, of, _)| name == cluster.name() && *of == part);
        let spec = spec.args(more.map(|(_, _, argument)| argument));
        Ok((host.clone(), spec.ready_at(part.health())))
    }

    fn agent(&self, cluster: &Cluster, index: usize, node: &Node) -> Result<DaemonSpec> {
        let spec = DaemonSpec::isthmus("agent")?
            .args(["run", "--node-name", node.name()])
            .args(identity(cluster))
            .arg(health(Part::Agent(index)))
            .arg("--socket")
            .arg(socket(cluster, index))
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig());
        let spec = with_store(spec, cluster, "local");
        Ok(if self.encrypted {
            let key = cluster.dir().join(format!("wireguard-{index}.key"));
            spec.args(["--datapath=nftables", "--wireguard=boringtun"]).arg("--wireguard-key-file").arg(key)
        } else {
            spec.arg("--datapath=none")
        })
    }
}

fn etcd(cluster: &Cluster, pki: &MeshPki) -> Result<DaemonSpec> {
    let data = cluster.dir().join("mesh-etcd");
    let flags = etcd_flags(&store_endpoint(cluster), &data, &pki.authority(), &pki.server(cluster)?);
    let metrics = format!("--listen-metrics-urls=http://{}", Part::Store.health());
    Ok(DaemonSpec::program("mesh-etcd", &tool("etcd")?).args(flags).arg(metrics))
}

fn store(cluster: &Cluster, pki: &MeshPki) -> Result<DaemonSpec> {
    let spec = DaemonSpec::isthmus("store")?.args(["serve", "--cluster-name", cluster.name()]);
    let urls = format!("{},https://127.0.0.1:2379", store_endpoint(cluster));
    Ok(serving(spec, &urls, &pki.server(cluster)?, pki).arg(health(Part::Store)))
}

/// With a store that listens at `urls`.
fn serving(spec: DaemonSpec, urls: &str, server: &PemPair, pki: &MeshPki) -> DaemonSpec {
    let spec = spec.arg(format!("--listen-client-urls={urls}"));
    [
        ("--cert-file", &server.certificate),
        ("--key-file", &server.key),
        ("--trusted-ca-file", &pki.authority()),
    ]
    .into_iter()
    .fold(spec, |spec, (flag, file)| spec.arg(flag).arg(file))
}

/// `isthmus mesh`, without what says where its store is.
fn together(cluster: &Cluster) -> Result<DaemonSpec> {
    std::fs::create_dir_all(remotes_dir(cluster)).context("make the directory of the remotes")?;
    Ok(DaemonSpec::isthmus("mesh")?
        .args(identity(cluster))
        .arg(health(Part::Store))
        .arg("--clustermesh-enable-mcs-api")
        .arg("--clustermesh-config")
        .arg(remotes_dir(cluster))
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig()))
}

impl Mesh<'_> {
    /// Another replica of a cluster's [`MeshBuilder::in_one_process`], with a store of its own, on another machine. It
    /// serves at `shared` too, while the machine has that address.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn replica(&self, cluster: &str, host: &Host, shared: &str) -> Result<Daemon> {
        let member = self.member(cluster);
        let server = self.pki.server_at(host.name(), &[host.address().to_string(), shared.to_owned()])?;
        let spec = serving(together(member.cluster)?, "https://0.0.0.0:2379", &server, &self.pki);
        let mut daemon = host.daemon(spec.ready_at(Part::Store.health()))?;
        daemon.wait_ready()?;
        Ok(daemon)
    }
}

fn exporter(cluster: &Cluster) -> Result<DaemonSpec> {
    let spec = DaemonSpec::isthmus("clustermesh-apiserver")?
        .args(identity(cluster))
        .arg(health(Part::Exporter))
        .arg("--clustermesh-enable-mcs-api")
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig());
    Ok(with_store(spec, cluster, "admin"))
}

fn mirror(cluster: &Cluster) -> Result<DaemonSpec> {
    let spec = DaemonSpec::isthmus("kvstoremesh")?
        .args(identity(cluster))
        .arg(health(Part::Mirror))
        .arg("--clustermesh-config")
        .arg(remotes_dir(cluster));
    std::fs::create_dir_all(remotes_dir(cluster)).context("make the directory of the remotes")?;
    Ok(with_store(spec, cluster, "admin"))
}

fn dns(cluster: &Cluster) -> Result<DaemonSpec> {
    let listen = format!("--listen={}:53", cluster.host().address());
    let spec = DaemonSpec::isthmus("dns")?.arg(listen).arg(health(Part::Dns));
    Ok(spec.arg("--kubeconfig").arg(cluster.kubeconfig()))
}

fn identity(cluster: &Cluster) -> [String; 2] {
    [format!("--cluster-name={}", cluster.name()), format!("--cluster-id={}", cluster.id())]
}

fn health(part: Part) -> String {
    format!("--health-listen={}", part.health())
}

fn with_store(spec: DaemonSpec, cluster: &Cluster, user: &str) -> DaemonSpec {
    let config = cluster.dir().join(format!("{user}-etcd.yaml"));
    spec.arg(format!("--kvstore-opt=etcd.config={}", config.display()))
}

/// The objects of the nodes, as the kubelet and the network plugin would write them.
fn apply_nodes(cluster: &Cluster, nodes: &[Node]) -> Result<()> {
    let kubectl = cluster.kubectl();
    let without_status = |node: &Node| {
        let mut object = objects::node(node);
        let status = object.as_object_mut().and_then(|object| object.remove("status"));
        (object, status.unwrap_or_default())
    };
    let (plain, status): (Vec<_>, Vec<_>) = nodes.iter().map(without_status).unzip();
    let cilium = nodes.iter().filter(|_node| cluster.has_cilium()).map(objects::cilium_node);
    let items: Vec<_> = plain.into_iter().chain(cilium).collect();
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
    let patch = |(node, status): (&Node, _)| kubectl.patch_status("", "node", node.name(), &status);
    nodes.iter().zip(status).try_for_each(patch)
}
