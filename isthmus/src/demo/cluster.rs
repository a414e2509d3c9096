//! One cluster of the demo: its files, its daemons, its objects.

use super::child::Daemon;
use super::mounts;
use super::objects;
use crate::certs::files::{self, CA_CERTIFICATE, CERTIFICATE, File, KEY, Mode};
use crate::certs::{Authority, CommonName, Issued, Leaf, ServerName, new_ca};
use crate::evidence::kube::{Api, CORE, DISCOVERY, MCS};
use crate::places::{ClusterPlaces, Places};
use anyhow::{Context as _, ensure};
use dns_plugin::ZoneName;
use http::Method;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How many ports a cluster takes.
pub(crate) const PORTS: usize = 6;
/// How long a Kubernetes API may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(10);
/// A demo does not run longer.
const VALID_FOR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The demo does not wait long between the removal of a cluster and that of its data.
const REMOVAL_GRACE: &str = "2s";
/// The definitions that the Multi-Cluster Services API needs.
const DEFINITIONS: [&str; 2] = [
    include_str!("../../../clustermesh-apiserver/crds/serviceexports.yaml"),
    include_str!("../../../clustermesh-apiserver/crds/serviceimports.yaml"),
];

/// Ports of a cluster, all on loopback.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// The Kubernetes API.
    pub(crate) kubernetes: u16,
    /// The store.
    pub(crate) store: u16,
    /// The health listener of `isthmus mesh`.
    pub(crate) mesh_health: u16,
    /// DNS.
    pub(crate) dns: u16,
    /// The health listener of the agent.
    pub(crate) agent_health: u16,
}

/// Certificates of the mesh, all from one authority.
#[derive(Debug)]
pub(crate) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes the authority, and a certificate for each store and each of its users.
    pub(crate) fn new(dir: &Path, clusters: &[&'static str]) -> anyhow::Result<Self> {
        let pki = Self { dir: dir.join("pki") };
        let now = SystemTime::now();
        let ca = new_ca(&common_name("Isthmus demo CA")?, now, VALID_FOR + VALID_FOR)?;
        let authority = Authority::load(&ca.certificate, ca.key.expose(), now)?;
        let issue = |directory: &str, leaf: &Leaf| -> anyhow::Result<()> {
            let Issued { certificate, key } = authority.issue(leaf, now, VALID_FOR)?;
            let files = [
                File { name: CERTIFICATE, content: &certificate, mode: Mode::Public },
                File { name: KEY, content: key.expose(), mode: Mode::Secret },
                File { name: CA_CERTIFICATE, content: &ca.certificate, mode: Mode::Public },
            ];
            files::write(&pki.dir.join(directory), &files, true)
        };
        let reached_by = vec![ServerName::Ip(Ipv4Addr::LOCALHOST.into())];
        for cluster in clusters {
            let name = common_name("clustermesh-apiserver.cilium.io")?;
            issue(&format!("store-{cluster}"), &Leaf::Server { name, reached_by: reached_by.clone() })?;
            for user in ["admin", "local", "remote"] {
                let user = format!("{user}-{cluster}");
                issue(&user, &Leaf::Client { user: common_name(&user)? })?;
            }
        }
        Ok(pki)
    }

    fn file(&self, who: &str, file: &str) -> String {
        self.dir.join(who).join(file).display().to_string()
    }

    /// The authority's certificate, its own, and its key.
    fn texts(&self, who: &str) -> anyhow::Result<[String; 3]> {
        let read = |file: &str| files::read(&self.dir.join(who).join(file));
        Ok([read(CA_CERTIFICATE)?, read(CERTIFICATE)?, read(KEY)?])
    }

    /// Writes how `user` reaches the store at a port, in the form of Cilium's etcd client configurations.
    fn write_store(&self, file: &Path, address: SocketAddr, user: &str) -> anyhow::Result<()> {
        let config = json!({
            "endpoints": [format!("https://{address}")],
            "trusted-ca-file": self.file(user, CA_CERTIFICATE),
            "cert-file": self.file(user, CERTIFICATE),
            "key-file": self.file(user, KEY),
        });
        let text = serde_yaml_ng::to_string(&config).context("encode a configuration")?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }
}

fn common_name(text: &str) -> anyhow::Result<CommonName> {
    text.parse().map_err(anyhow::Error::msg)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A cluster.
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its id.
    pub(crate) id: u8,
    /// Where it answers.
    pub(crate) ports: Ports,
    dir: PathBuf,
    kubernetes: Daemon,
    mesh: Option<Daemon>,
    agent: Option<Daemon>,
    api: Option<Api>,
}

impl Cluster {
    /// Starts its Kubernetes API.
    pub(crate) fn start(
        program: &Path,
        demo: &Path,
        name: &'static str,
        id: u8,
        ports: Vec<u16>,
        pki: &Pki,
    ) -> anyhow::Result<Self> {
        let ports: [u16; PORTS] = ports.try_into().map_err(|_wrong| anyhow::anyhow!("too few ports"))?;
        let [kubernetes, kubernetes_health, store, mesh_health, dns, agent_health] = ports;
        let ports = Ports { kubernetes, store, mesh_health, dns, agent_health };
        let dir = demo.join(name);
        std::fs::create_dir_all(&dir).context("make a directory")?;
        pki.write_store(&dir.join("admin.yaml"), loopback(store), &format!("admin-{name}"))?;
        pki.write_store(&dir.join("local.yaml"), loopback(store), &format!("local-{name}"))?;
        let args = [
            "kube-lite".to_owned(),
            format!("--dir={}", dir.display()),
            format!("--listen={}", loopback(kubernetes)),
            format!("--service-cidr={}", objects::service_cidr(id)),
            format!("--health-listen={}", loopback(kubernetes_health)),
        ];
        let log = dir.join("kube-lite.log");
        let kubernetes = Daemon::start(format!("the Kubernetes API of {name}"), program, &args, &log)?;
        Ok(Self { name, id, ports, dir, kubernetes, mesh: None, agent: None, api: None })
    }

    /// Waits for the Kubernetes API, and gives it the definitions of the mesh and what `isthmus connect` wants to know.
    pub(crate) async fn prepare(&mut self, pki: &Pki) -> anyhow::Result<()> {
        self.await_api().await?;
        for definition in DEFINITIONS {
            let definition = serde_yaml_ng::from_str(definition).context("read a definition")?;
            self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
        }
        self.create(&format!("{CORE}/nodes"), &objects::node(self.name, self.id)).await?;
        let status = format!("{CORE}/nodes/{}-1/status", self.name);
        self.patch(&status, &objects::node_status(self.id)).await?;

        let own = |plural: &str| format!("{CORE}/namespaces/{}/{plural}", mounts::NAMESPACE);
        self.create(&own("configmaps"), &objects::config(self.name, self.id)).await?;
        let server = pki.texts(&format!("store-{}", self.name))?;
        let server = objects::tls(objects::STORE_CERTIFICATE, &server);
        self.create(&own("secrets"), &server).await?;
        let reader = pki.texts(&format!("remote-{}", self.name))?;
        self.create(&own("secrets"), &objects::tls(objects::READER_CERTIFICATE, &reader)).await?;
        self.create(&own("services"), &objects::store(self.ports.store)).await?;
        self.patch(&own(&format!("services/{}/status", objects::STORE)), &objects::store_status()).await?;

        let [ca, certificate, key] = &reader;
        let files = [
            File { name: "common-etcd-client-ca.crt", content: ca, mode: Mode::Public },
            File { name: "common-etcd-client.crt", content: certificate, mode: Mode::Public },
            File { name: "common-etcd-client.key", content: key, mode: Mode::Secret },
        ];
        files::write(&self.remotes(), &files, true)
    }

    /// Starts the daemons of the mesh.
    pub(crate) fn join(&mut self, program: &Path, pki: &Pki) -> anyhow::Result<()> {
        self.write_mesh_config(pki)?;
        self.start_mesh(program)?;
        let args = [
            "agent".to_owned(),
            "run".to_owned(),
            format!("--cluster-name={}", self.name),
            format!("--cluster-id={}", self.id),
            format!("--node-name={}-1", self.name),
            format!("--kubeconfig={}", self.dir.join("kubeconfig").display()),
            format!("--kvstore-opt=etcd.config={}", self.dir.join("local.yaml").display()),
            "--datapath=none".to_owned(),
            format!("--socket={}", self.socket().display()),
            format!("--health-listen={}", loopback(self.ports.agent_health)),
        ];
        let what = format!("the agent of {}", self.name);
        self.agent = Some(Daemon::start(what, program, &args, &self.dir.join("agent.log"))?);
        Ok(())
    }

    /// The client of its Kubernetes API, once that answers.
    async fn await_api(&mut self) -> anyhow::Result<()> {
        let file = self.dir.join("kubeconfig");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if file.exists() {
                let api = Api::new(&file, None).await?;
                if api.get("/version").await.is_ok() {
                    self.api = Some(api);
                    return Ok(());
                }
            }
            if let Some(ended) = self.kubernetes.ended() {
                return Err(ended);
            }
            ensure!(Instant::now() < deadline, "the Kubernetes API of {} does not answer", self.name);
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn write_mesh_config(&self, pki: &Pki) -> anyhow::Result<()> {
        let store = format!("store-{}", self.name);
        let config = json!({
            "cluster-name": self.name,
            "cluster-id": self.id,
            "cni": "none",
            "kubeconfig": self.dir.join("kubeconfig"),
            "clustermesh-config": self.remotes(),
            "removal-grace": REMOVAL_GRACE,
            "cluster-users-enabled": true,
            "cluster-users-config-path": self.users().join("users.yaml"),
            "clustermesh-enable-mcs-api": true,
            "leader-election": false,
            "enable-heartbeat": true,
            "listen-client-urls": format!("https://{}", loopback(self.ports.store)),
            "cert-file": pki.file(&store, CERTIFICATE),
            "key-file": pki.file(&store, KEY),
            "trusted-ca-file": pki.file(&store, CA_CERTIFICATE),
            "dns-listen": loopback(self.ports.dns),
            "health-listen": loopback(self.ports.mesh_health),
        });
        let text = serde_yaml_ng::to_string(&config).context("encode the configuration of a mesh")?;
        std::fs::write(self.dir.join("mesh.yaml"), text).context("write the configuration of a mesh")
    }

    /// Starts `isthmus mesh`; one that runs is killed first, and with it all that its store held.
    pub(crate) fn start_mesh(&mut self, program: &Path) -> anyhow::Result<()> {
        // Its ports must be free before the next one starts.
        drop(self.mesh.take());
        let args = ["mesh".to_owned(), format!("--config={}", self.dir.join("mesh.yaml").display())];
        let what = format!("the mesh of {}", self.name);
        self.mesh = Some(Daemon::start(what, program, &args, &self.dir.join("mesh.log"))?);
        Ok(())
    }

    /// Lets its Kubernetes API stand still, or go on.
    pub(crate) fn freeze_kubernetes(&self, frozen: bool) -> anyhow::Result<()> {
        self.kubernetes.freeze(frozen)
    }

    /// Its daemons.
    pub(crate) fn daemons(&mut self) -> impl Iterator<Item = &mut Daemon> {
        [Some(&mut self.kubernetes), self.mesh.as_mut(), self.agent.as_mut()].into_iter().flatten()
    }

    /// The socket of its agent.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// The directory of its mirror: where the other stores are.
    pub(crate) fn remotes(&self) -> PathBuf {
        self.dir.join("remotes")
    }

    /// The directory with the file of its store's users.
    pub(crate) fn users(&self) -> PathBuf {
        self.dir.join("users")
    }

    /// Where the health listener of `isthmus mesh` is.
    pub(crate) fn mesh_health(&self) -> SocketAddr {
        loopback(self.ports.mesh_health)
    }

    /// Where its DNS server is.
    pub(crate) fn dns(&self) -> SocketAddr {
        loopback(self.ports.dns)
    }

    /// Its Kubernetes API.
    pub(crate) fn api(&self) -> anyhow::Result<&Api> {
        self.api.as_ref().with_context(|| format!("{} has not started", self.name))
    }

    async fn create(&self, path: &str, object: &Value) -> anyhow::Result<()> {
        self.api()?.send(Method::POST, path, "application/json", object).await.map(drop)
    }

    async fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<()> {
        self.api()?.send(Method::PATCH, path, "application/merge-patch+json", patch).await.map(drop)
    }

    /// Writes the objects of the demo.
    pub(crate) async fn seed(&self) -> anyhow::Result<()> {
        self.create(&format!("{CORE}/namespaces"), &objects::namespace()).await?;
        self.seed_service(objects::CART, json!({objects::GLOBAL: "true"})).await?;
        let local = json!({objects::GLOBAL: "true", objects::AFFINITY: "local"});
        self.seed_service(objects::PAYMENTS, local).await?;
        if self.id == 2 {
            self.seed_service(objects::ORDERS, json!({})).await?;
            self.create(&of(MCS, "serviceexports"), &objects::export(objects::ORDERS)).await?;
        }
        Ok(())
    }

    async fn seed_service(&self, service: &str, annotations: Value) -> anyhow::Result<()> {
        let backends = objects::backends(service, self.id);
        self.create_service(service, annotations, &backends).await?;
        for (address, number) in backends.iter().zip(1..) {
            let pod = objects::pod(self.name, service, number);
            self.create(&of(CORE, "pods"), &pod).await?;
            let path = format!("{}/{}-{number}/status", of(CORE, "pods"), objects::short(service));
            self.patch(&path, &objects::pod_status(address, self.id)).await?;
        }
        Ok(())
    }

    /// A Service with its slice.
    pub(crate) async fn create_service(
        &self,
        service: &str,
        annotations: Value,
        backends: &[String],
    ) -> anyhow::Result<()> {
        self.create(&of(CORE, "services"), &objects::service(service, annotations)).await?;
        self.create(&of(DISCOVERY, "endpointslices"), &objects::slice(service, backends)).await
    }

    /// Deletes a Service and its slice.
    pub(crate) async fn delete_service(&self, service: &str) -> anyhow::Result<()> {
        let name = objects::short(service);
        for path in [
            format!("{}/{name}", of(CORE, "services")),
            format!("{}/{name}-1", of(DISCOVERY, "endpointslices")),
        ] {
            self.api()?.send(Method::DELETE, &path, "application/json", &json!({})).await?;
        }
        Ok(())
    }

    /// Gives a service other backends.
    pub(crate) async fn scale(&self, service: &str, backends: &[String]) -> anyhow::Result<()> {
        let path = format!("{}/{}-1", of(DISCOVERY, "endpointslices"), objects::short(service));
        self.patch(&path, &json!({"endpoints": objects::endpoints(backends)})).await
    }

    /// Changes an annotation of a Service.
    pub(crate) async fn annotate(&self, service: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("{}/{}", of(CORE, "services"), objects::short(service));
        self.patch(&path, &json!({"metadata": {"annotations": {key: value}}})).await
    }

    /// What its users see of it.
    fn places(&self) -> ClusterPlaces {
        ClusterPlaces {
            name: self.name.to_owned(),
            kubeconfig: Some("kubeconfig".into()),
            context: Some(self.name.to_owned()),
            store: Some(Path::new(self.name).join("admin.yaml")),
            exporter: Some(self.mesh_health()),
            mirror: Some(self.mesh_health()),
            agent: Some(Path::new(self.name).join("agent.sock")),
            dns: Some(self.dns()),
            dns_health: Some(self.mesh_health()),
            remotes: Some(Path::new(self.name).join("remotes")),
            logs: ["kube-lite", "mesh", "agent"]
                .map(|daemon| Path::new(self.name).join(daemon).with_extension("log"))
                .to_vec(),
        }
    }
}

/// The path of a kind in the demo's namespace.
fn of(prefix: &str, plural: &str) -> String {
    format!("{prefix}/namespaces/{}/{plural}", objects::NAMESPACE)
}

/// Writes the file for `--mesh`, and a kubeconfig with a context for each cluster.
pub(crate) fn write_mesh(dir: &Path, clusters: &[Cluster]) -> anyhow::Result<()> {
    let places = clusters.iter().map(Cluster::places).collect();
    let places = Places { zone: ZoneName::DEFAULT.to_owned(), clusters: places };
    let text = serde_yaml_ng::to_string(&places).context("encode the places of the mesh")?;
    std::fs::write(dir.join("mesh.yaml"), text).context("write the places of the mesh")?;

    let mut all = json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []});
    for cluster in clusters {
        let text = files::read(&cluster.dir.join("kubeconfig"))?;
        let one: Value = serde_json::from_str(&text).context("read a kubeconfig")?;
        let name = cluster.name;
        for (list, item) in [
            ("clusters", json!({"name": name, "cluster": one["clusters"][0]["cluster"]})),
            ("users", json!({"name": name, "user": one["users"][0]["user"]})),
            ("contexts", json!({"name": name, "context": {"cluster": name, "user": name}})),
        ] {
            all[list].as_array_mut().into_iter().for_each(|list| list.push(item.clone()));
        }
    }
    all["current-context"] = clusters.first().map(|cluster| cluster.name).into();
    let text = format!("{all:#}\n");
    files::write(dir, &[File { name: "kubeconfig", content: &text, mode: Mode::Secret }], true)
}
