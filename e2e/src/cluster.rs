//! A cluster: a machine for the control plane, with a real etcd and a real kube-apiserver on it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::audit::{self, Audited};
use crate::bed::poll;
use crate::underlay::{Host, Underlay};
use crate::{Authority, Kubectl, Node, Plan, Process, isthmus, tool};

/// How long the API server may take to be ready, on a machine that builds something else meanwhile.
const API_PATIENCE: Duration = Duration::from_secs(90);

/// The port of the API server.
const API_PORT: u16 = 6443;

/// The definitions of Cilium's resources, and of the Multi-Cluster Services API's, from this crate's folder.
const CILIUM: &str = "crds";
const MCS: &str = "../clustermesh-apiserver/crds";

/// Of the etcd below the API server; the usual 2379 stays free for the mesh's store.
const ETCD_PORT: u16 = 12379;

/// Where kube-lite answers `/readyz`, apart from the ports of [`Part`](crate::Part)s.
const LITE_HEALTH: &str = "127.0.0.1:9890";

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    name: String,
    id: u32,
    kubernetes: bool,
    cilium: bool,
    mcs: bool,
    lite: bool,
    service_cidrs: Option<[String; 2]>,
    audited: bool,
}

/// A running cluster. Dropping it stops it.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    plan: Plan,
    dir: PathBuf,
    host: Host,
    underlay: Arc<Underlay>,
    nodes: AtomicU8,
    kubernetes: Option<Kubernetes>,
}

/// The parts of the control plane; dropped, so stopped, in this order.
#[derive(Debug)]
struct Kubernetes {
    kubectl: Kubectl,
    authority: Authority,
    kubeconfig: PathBuf,
    api_server: Mutex<ApiServer>,
    /// kube-lite has its own store.
    _etcd: Option<Process>,
}

/// The API server, and what it is started with.
#[derive(Debug)]
struct ApiServer {
    process: Process,
    program: PathBuf,
    flags: Vec<String>,
}

impl ClusterSpec {
    /// A cluster with Kubernetes' API, and with the resources of Cilium and of the Multi-Cluster Services API.
    #[must_use]
    pub fn new(name: &str, id: u32) -> Self {
        Self {
            name: name.to_owned(),
            id,
            kubernetes: true,
            cilium: true,
            mcs: true,
            lite: false,
            service_cidrs: None,
            audited: false,
        }
    }

    /// Without Cilium's resources, as a cluster of another network plugin.
    #[must_use]
    pub fn without_cilium(mut self) -> Self {
        self.cilium = false;
        self
    }

    /// Without the Multi-Cluster Services API's resources.
    #[must_use]
    pub fn without_mcs(mut self) -> Self {
        self.mcs = false;
        self
    }

    /// With other ranges for services' addresses, IPv4 and IPv6, than the plan's; for objects that fix them.
    #[must_use]
    pub fn with_service_cidrs(mut self, cidrs: [&str; 2]) -> Self {
        self.service_cidrs = Some(cidrs.map(str::to_owned));
        self
    }

    /// With `isthmus kube-lite` as its API server, instead of Kubernetes'.
    #[must_use]
    pub fn on_kube_lite(mut self) -> Self {
        self.lite = true;
        self
    }

    /// With an API server that writes down who asked for what: see [`Cluster::audit`].
    #[must_use]
    pub fn audited(mut self) -> Self {
        self.audited = true;
        self
    }

    /// Without an API server: machines only.
    #[must_use]
    pub fn without_kubernetes(mut self) -> Self {
        self.kubernetes = false;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Cluster {
    pub(crate) fn start(spec: ClusterSpec, number: u8, dir: &Path, underlay: &Arc<Underlay>) -> Result<Self> {
        let plan = Plan::new(number);
        let dir = dir.join(&spec.name);
        fs::create_dir_all(&dir).context("make the cluster's directory")?;
        let host = underlay.attach(&format!("{}/control-plane", spec.name), plan.control_plane())?;
        let kubernetes =
            if spec.kubernetes { Some(Kubernetes::start(&spec, plan, &dir, &host)?) } else { None };
        Ok(Self {
            spec,
            plan,
            dir,
            host,
            underlay: Arc::clone(underlay),
            nodes: AtomicU8::new(1),
            kubernetes,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its id in the mesh.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.spec.id
    }

    /// Where its addresses are.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// A directory for files that have to do with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The machine of the control plane, where daemons run that are not a node's.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether it has an API server.
    #[must_use]
    pub fn has_kubernetes(&self) -> bool {
        self.kubernetes.is_some()
    }

    /// Whether it has Cilium's resources.
    #[must_use]
    pub fn has_cilium(&self) -> bool {
        self.spec.cilium
    }

    /// `kubectl` as the cluster's administrator.
    ///
    /// # Panics
    /// If the cluster was made without Kubernetes.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubernetes().kubectl
    }

    /// The administrator's kubeconfig; it names the API server by its address on the underlay.
    ///
    /// # Panics
    /// If the cluster was made without Kubernetes.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubernetes().kubeconfig
    }

    /// The kubeconfig of a user that may do what RBAC rules let it, which at first is next to nothing.
    ///
    /// # Errors
    /// If the files cannot be written.
    ///
    /// # Panics
    /// If the cluster was made without Kubernetes.
    pub fn kubeconfig_of(&self, user: &str) -> Result<PathBuf> {
        let file = user.replace([':', '/'], "-");
        kubeconfig(&self.kubernetes().authority, &self.dir, &self.api_address(), &file, user, None)
    }

    /// The requests that its API server has answered, in order; those of the server itself are left out.
    ///
    /// # Errors
    /// If the cluster was made without [`ClusterSpec::audited`].
    pub fn audit(&self) -> Result<Vec<Audited>> {
        audit::read(&self.dir)
    }

    /// `https://address:port` of its API server on the underlay.
    #[must_use]
    pub fn api_address(&self) -> String {
        api_address(&self.host)
    }

    /// A new node: the machine only. Its objects in the API are for the test to apply, see
    /// [`objects`](crate::objects).
    ///
    /// # Errors
    /// If there are 200 already, or it cannot be linked.
    pub fn node(&self, name: &str) -> Result<Node> {
        let number = self.nodes.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(number <= 200, "{} is full", self.name());
        let host = self.underlay.attach(&format!("{}/{name}", self.name()), self.plan.node(number))?;
        Node::new(host, self.name(), self.plan, number)
    }

    /// Kills the API server, lets `meanwhile` look at a cluster without one, starts it again and waits until it answers. Its
    /// store keeps the objects.
    ///
    /// # Errors
    /// If it does not come back.
    ///
    /// # Panics
    /// If the cluster was made without Kubernetes.
    pub fn kill_api_server(&self, meanwhile: impl FnOnce()) -> Result<()> {
        let kubernetes = self.kubernetes();
        let mut server = kubernetes.api_server.lock().unwrap_or_else(PoisonError::into_inner);
        server.process.kill()?;
        meanwhile();
        server.process = start(&self.host, "kube-apiserver", &server.program, server.flags.clone())?;
        poll(API_PATIENCE, || {
            server.process.ensure_running()?;
            kubernetes.kubectl.ensure_ready()
        })
    }

    /// Defines Cilium's resources, in a cluster that was made [`ClusterSpec::without_cilium`].
    ///
    /// # Errors
    /// If the API server refuses them.
    ///
    /// # Panics
    /// If the cluster was made without Kubernetes.
    pub fn define_cilium(&self) -> Result<()> {
        define(self.kubectl(), &[CILIUM])
    }

    fn kubernetes(&self) -> &Kubernetes {
        self.kubernetes.as_ref().expect("the test asks for the API of a cluster that it made without")
    }
}

impl Kubernetes {
    fn start(spec: &ClusterSpec, plan: Plan, dir: &Path, host: &Host) -> Result<Self> {
        let authority = Authority::new(&dir.join("kubernetes-pki"))?;
        let services = spec.service_cidrs.clone().unwrap_or_else(|| plan.service_cidrs());
        let (mut etcd, program, flags) = if spec.lite {
            (None, isthmus()?, lite_flags(&services, host, dir))
        } else {
            let etcd = start(host, "etcd", &tool("etcd")?, etcd_flags(&dir.join("etcd")))?;
            let flags = apiserver_flags(spec, &authority, &services.join(","), host, dir)?;
            (Some(etcd), tool("kube-apiserver")?, flags)
        };
        let mut apiserver = start(host, "kube-apiserver", &program, flags.clone())?;

        let address = api_address(host);
        let kubeconfig = if spec.lite {
            dir.join("kube-lite/kubeconfig")
        } else {
            kubeconfig(&authority, dir, &address, "admin", "admin", Some("system:masters"))?
        };
        let kubectl = Kubectl::new(&kubeconfig, &dir.join("kubectl-cache"), host.netns())?;
        let port = SocketAddr::from((host.address(), API_PORT));
        poll(API_PATIENCE, || {
            etcd.as_mut().map_or(Ok(()), Process::ensure_running)?;
            apiserver.ensure_running()?;
            // kubectl costs a fifth of a CPU second; not before somebody listens.
            host.netns().enter(|| std::net::TcpStream::connect(port))??;
            kubectl.ensure_ready()
        })
        .with_context(|| format!("wait for the API of {}\n{}", spec.name, host.diary().read()))?;

        let wanted = [(spec.cilium, CILIUM), (spec.mcs, MCS)];
        let wanted: Vec<_> = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, crds)| crds).collect();
        define(&kubectl, &wanted)?;
        let title = format!("{}: objects", spec.name);
        let witness = kubectl.clone();
        host.diary().record(&title, move || {
            let all = "ciliumnodes,ciliumidentities,ciliumendpoints,ciliumendpointslices,serviceexports,serviceimports";
            let kinds = ["services,endpointslices", all];
            let get = |kinds| witness.run(&["get", kinds, "-A", "-o", "wide"]).unwrap_or_else(|e| format!("{e:#}"));
            kinds.map(get).join("\n")
        });
        let api_server = Mutex::new(ApiServer { process: apiserver, program, flags });
        Ok(Self { kubectl, authority, kubeconfig, api_server, _etcd: etcd })
    }
}

/// Installs custom resources and waits until they can be used.
fn define(kubectl: &Kubectl, directories: &[&str]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in directories {
        kubectl.apply_path(&root.join(directory)).context("install the custom resources")?;
    }
    if !directories.is_empty() {
        kubectl.run(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"])?;
    }
    Ok(())
}

fn start(host: &Host, name: &str, program: &Path, flags: Vec<String>) -> Result<Process> {
    let mut command = Command::new(program);
    command.args(flags);
    let log = host.log(name);
    host.diary().record_log(&format!("{}: {name}", host.name()), &log);
    Process::start(name, command, Some(host.netns()), &log)
}

/// `isthmus kube-lite`, which keeps its objects in a directory.
fn lite_flags(services: &[String], host: &Host, dir: &Path) -> Vec<String> {
    let listen = format!("--listen={}", SocketAddr::from((host.address(), API_PORT)));
    let dirs = [("--dir", "kube-lite"), ("--data-dir", "kube-lite-data")];
    let dirs = dirs.map(|(flag, name)| format!("{flag}={}", dir.join(name).display()));
    let health = format!("--health-listen={LITE_HEALTH}");
    let cidrs = services.iter().map(|cidr| format!("--service-cidr={cidr}"));
    ["kube-lite".to_owned(), listen, health].into_iter().chain(dirs).chain(cidrs).collect()
}

fn etcd_flags(data: &Path) -> Vec<String> {
    let client = format!("http://127.0.0.1:{ETCD_PORT}");
    let peer = format!("http://127.0.0.1:{}", ETCD_PORT + 1);
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // What a power cut would lose is of no use to anybody here.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn apiserver_flags(
    spec: &ClusterSpec,
    authority: &Authority,
    services: &str,
    host: &Host,
    dir: &Path,
) -> Result<Vec<String>> {
    let address = host.address().to_string();
    let names = [&address, &host.address6().to_string(), "127.0.0.1", "localhost", "kubernetes.default.svc"];
    let serving = authority.server("apiserver", &names)?;
    let (verify, sign) = authority.bare_keys("service-accounts")?;
    let audit = if spec.audited { audit::flags(dir)? } else { Vec::new() };
    let flags = [
        format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
        format!("--cert-dir={}", dir.display()),
        format!("--tls-cert-file={}", serving.certificate.display()),
        format!("--tls-private-key-file={}", serving.key.display()),
        format!("--client-ca-file={}", authority.certificate().display()),
        format!("--secure-port={API_PORT}"),
        "--bind-address=::".to_owned(),
        format!("--advertise-address={address}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", verify.display()),
        format!("--service-account-signing-key-file={}", sign.display()),
        format!("--service-cluster-ip-range={services}"),
        "--authorization-mode=RBAC".to_owned(),
        // Its controller does not run, so it would refuse every pod.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ];
    Ok(flags.into_iter().chain(audit).collect())
}

fn api_address(host: &Host) -> String {
    format!("https://{}:{API_PORT}", host.address())
}

fn kubeconfig(
    authority: &Authority,
    dir: &Path,
    server: &str,
    file: &str,
    user: &str,
    group: Option<&str>,
) -> Result<PathBuf> {
    let client = authority.client(file, user, group)?;
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bed",
        "clusters": [{"name": "bed", "cluster": {
            "server": server,
            "certificate-authority": authority.certificate(),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate": client.certificate,
            "client-key": client.key,
        }}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": user}}],
    });
    let path = dir.join(format!("{file}.kubeconfig"));
    fs::write(&path, format!("{text:#}")).context("write a kubeconfig")?;
    Ok(path)
}
