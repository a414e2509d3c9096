//! Clusters with stores, ready to be connected, and kubeconfig contexts of all kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{
    Audited, Authority, Bed, Cluster, ClusterSpec, Daemon, DaemonSpec, Etcdctl, Exec, Host, PemPair, Relay,
};
use serde_json::{Value, json};

use super::faults::Fault;
use super::{Key, is_ours, key, lines};
use crate::chart::pod::Pod;
use crate::chart::{administrator, service_account};

/// What the command writes to.
const OBJECTS: [(&str, &str); 3] = [
    ("configmaps", "clustermesh-remote-users"),
    ("secrets", "cilium-kvstoremesh"),
    ("secrets", "cilium-clustermesh"),
];

pub(super) struct World<'bed> {
    pub(super) bed: &'bed Bed,
    pub(super) authority: Authority,
    pods: Vec<Pod<'bed>>,
    relay: Relay,
    kubeconfig: PathBuf,
}

/// What a run of the command came to.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Of `-o json`; null if it printed nothing.
    pub(super) json: Value,
}

impl Answer {
    /// The codes of all findings.
    pub(super) fn codes(&self) -> BTreeSet<String> {
        let findings = self.json["findings"].as_array().into_iter().flatten();
        findings.filter_map(|finding| finding["code"].as_str()).map(str::to_owned).collect()
    }

    /// How the check of a code went, by `check`.
    pub(super) fn states(&self, code: &str) -> Vec<String> {
        let checks = self.json["checks"].as_array().into_iter().flatten();
        let of = checks.filter(|check| check["code"] == code);
        of.filter_map(|check| check["state"].as_str()).map(str::to_owned).collect()
    }
}

impl<'bed> World<'bed> {
    pub(super) fn bed(name: &str) -> Bed {
        let clusters = [("west", 1), ("east", 2)].map(|(name, id)| ClusterSpec::new(name, id).audited());
        clusters.into_iter().fold(Bed::builder(name), |bed, cluster| bed.with(cluster)).start().unwrap()
    }

    pub(super) fn new(bed: &'bed Bed) -> Self {
        let authority = Authority::new(&bed.dir().join("mesh-pki")).unwrap();
        let pods: Vec<_> =
            bed.clusters().iter().map(|cluster| Pod::new(cluster, &authority).unwrap()).collect();
        for (cluster, pod) in bed.clusters().iter().zip(&pods) {
            pod.peers_certificate(&format!("remote-{}", cluster.name()), &authority).unwrap();
            if cluster.has_cilium() {
                service_account(cluster.kubectl(), cluster, pod).unwrap();
            }
        }
        let relay = Relay::start(bed.cluster("west").host(), 9001, bed.cluster("east")).unwrap();
        let kubeconfig = kubeconfig(bed, relay.url());
        let world = Self { bed, authority, pods, relay, kubeconfig };
        for cluster in bed.clusters() {
            world.apply_base(cluster);
        }
        world
    }

    pub(super) fn relay(&self) -> &Relay {
        &self.relay
    }

    pub(super) fn pods(&self) -> &[Pod<'bed>] {
        &self.pods
    }

    /// Where the commands run.
    pub(super) fn host(&self) -> &'bed Host {
        self.bed.cluster("west").host()
    }

    /// The stores with their exporters, running; where there is no Kubernetes, in one process with the mirror.
    pub(super) fn stores(&self) -> Vec<Daemon> {
        let mut daemons = Vec::new();
        for (cluster, pod) in self.bed.clusters().iter().zip(&self.pods) {
            if !cluster.has_cilium() {
                daemons.push(pod.mesh().unwrap());
                continue;
            }
            pod.etcd_init().unwrap();
            daemons.push(pod.etcd().unwrap());
            let mut exporter = pod.apiserver().unwrap();
            exporter.wait_ready().unwrap();
            daemons.push(exporter);
        }
        daemons
    }

    pub(super) fn store_of(&self, cluster: &str) -> Etcdctl {
        administrator(self.bed.cluster(cluster), &self.authority).unwrap()
    }

    pub(super) fn isthmus(&self) -> Exec {
        self.host().isthmus().unwrap().env("KUBECONFIG", &self.kubeconfig).within(Duration::from_secs(90))
    }

    /// The same, to be killed.
    pub(super) fn daemon(&self, args: &[&str]) -> DaemonSpec {
        let program = e2e::isthmus().unwrap();
        DaemonSpec::program("connect", &program).args(args).env("KUBECONFIG", &self.kubeconfig)
    }

    pub(super) fn run(&self, command: &str, args: &[&str]) -> Answer {
        let output = self.isthmus().arg(command).args(args).args(["-o", "json"]).output().unwrap();
        let json = serde_json::from_str(&output.stdout).unwrap_or_default();
        let code = output.status.code().unwrap_or(-1);
        Answer { code, stdout: output.stdout, stderr: output.stderr, json }
    }

    /// A command as somebody sees it who types `keys`, on a terminal of so many columns.
    pub(super) fn terminal(&self, columns: usize, line: &str, keys: &str) -> Answer {
        self.typed(columns, line, keys, self.isthmus_terminal())
    }

    /// The same with `NO_COLOR`.
    pub(super) fn plain_terminal(&self, columns: usize, line: &str, keys: &str) -> Answer {
        self.typed(columns, line, keys, self.isthmus_terminal().env("NO_COLOR", "1"))
    }

    fn isthmus_terminal(&self) -> Exec {
        let script = self.host().exec("script").env("KUBECONFIG", &self.kubeconfig);
        script.env("TERM", "xterm").within(Duration::from_secs(90))
    }

    fn typed(&self, columns: usize, line: &str, keys: &str, script: Exec) -> Answer {
        let program = e2e::isthmus().unwrap();
        let line = format!("stty cols {columns} rows 50; exec {} {line}", program.display());
        let output = script.args(["-qec", &line, "/dev/null"]).stdin(keys).output().unwrap();
        let code = output.status.code().unwrap_or(-1);
        Answer { code, stdout: output.stdout, stderr: output.stderr, json: Value::Null }
    }

    /// `connect`, of both clusters unless `args` name others.
    pub(super) fn connect(&self, args: &[&str]) -> Answer {
        let both = ["--context=west", "--context=east"];
        let named = args.iter().any(|arg| arg.starts_with("--context"));
        self.run("connect", &[args, if named { &[] } else { &both }].concat())
    }

    /// What the commands have written so far, by the API servers' own account; kube-lite keeps none.
    pub(super) fn writes(&self) -> Vec<(String, Audited)> {
        let of = |cluster: &Cluster| {
            let name = cluster.name().to_owned();
            cluster.audit().unwrap().into_iter().filter(is_ours).map(move |write| (name.clone(), write))
        };
        self.bed.clusters().iter().filter(|cluster| cluster.has_cilium()).flat_map(of).collect()
    }

    /// The objects that the command writes to, of all clusters, as lines by key; those without data are left out.
    pub(super) fn objects(&self) -> BTreeMap<Key, BTreeMap<String, Vec<String>>> {
        let mut objects = BTreeMap::new();
        for cluster in self.bed.clusters() {
            for (kind, name) in OBJECTS {
                let found = cluster.kubectl().list("kube-system", kind).unwrap();
                if let Some(object) = found.iter().find(|object| object["metadata"]["name"] == name) {
                    let mut object = object.clone();
                    object["kind"] = if kind == "secrets" { "Secret".into() } else { "ConfigMap".into() };
                    objects.insert(key(cluster.name(), kind, name), lines(&object).unwrap());
                }
            }
        }
        objects
    }

    /// Puts the written objects where the pods mount them, as the kubelet does.
    pub(super) fn mount(&self) {
        let names = || self.bed.clusters().iter().map(Cluster::name);
        for (cluster, pod) in self.bed.clusters().iter().zip(&self.pods) {
            let objects = self.objects();
            let write = |volume: &str, object: &str, kind: &str| {
                let files = objects.get(&key(cluster.name(), kind, object)).cloned().unwrap_or_default();
                for (file, lines) in &files {
                    fs::write(pod.volume(volume).join(file), lines.join("\n") + "\n").unwrap();
                }
                for gone in names().filter(|name| !files.contains_key(*name)) {
                    drop(fs::remove_file(pod.volume(volume).join(gone)));
                }
            };
            write("clustermesh", "cilium-kvstoremesh", "secrets");
            write("users", "clustermesh-remote-users", "configmaps");
        }
    }

    /// What every sound cluster has.
    pub(super) fn config(&self, cluster: &str) -> Value {
        let cluster = self.bed.cluster(cluster);
        if !cluster.has_cilium() {
            return json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "isthmus-config", "namespace": "kube-system"},
                "data": {"cluster-name": cluster.name(), "cluster-id": cluster.id().to_string()}});
        }
        let pool = cluster.plan().pod_cidrs(0)[0].replace("/24", "/16");
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "cilium-config", "namespace": "kube-system"},
        "data": {
            "cluster-name": cluster.name(), "cluster-id": cluster.id().to_string(),
            "max-connected-clusters": "255", "routing-mode": "tunnel", "tunnel-protocol": "vxlan",
            "enable-ipv4": "true", "enable-ipv6": "false", "enable-wireguard": "false",
            "cluster-pool-ipv4-cidr": pool,
        }})
    }

    pub(super) fn service(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "clustermesh-apiserver", "namespace": "kube-system"},
            "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "selector": {"k8s-app": "clustermesh-apiserver"}, "ports": [{"port": 2379}]}})
    }

    pub(super) fn remote_certificate(&self, cluster: &str) -> Value {
        let user = format!("remote-{cluster}");
        tls(
            "clustermesh-apiserver-remote-cert",
            &self.authority,
            &self.authority.client(&user, &user, None).unwrap(),
        )
    }

    fn apply_base(&self, cluster: &Cluster) {
        let server =
            self.pods.iter().zip(self.bed.clusters()).find(|(_, each)| each.name() == cluster.name());
        let server = server.unwrap().0.volume("server");
        let pair = PemPair { certificate: server.join("tls.crt"), key: server.join("tls.key") };
        let (name, address) = (format!("{}-1", cluster.name()), cluster.plan().node(1).0);
        let pods = &cluster.plan().pod_cidrs(1)[0];
        let node = if cluster.has_cilium() {
            json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": name},
                "spec": {"addresses": [{"type": "InternalIP", "ip": address}], "ipam": {"podCIDRs": [pods]}}})
        } else {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "spec": {"podCIDR": pods, "podCIDRs": [pods]}})
        };
        let items = [
            self.config(cluster.name()),
            tls("clustermesh-apiserver-server-cert", &self.authority, &pair),
            self.remote_certificate(cluster.name()),
            self.service(),
            node,
        ];
        for object in &items {
            cluster.kubectl().apply_object(object).unwrap();
        }
        if !cluster.has_cilium() {
            let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
            cluster.kubectl().patch_status("", "node", &name, &status).unwrap();
        }
        let status = json!({"loadBalancer": {"ingress": [{"ip": cluster.host().address()}]}});
        cluster.kubectl().patch_status("kube-system", "service", "clustermesh-apiserver", &status).unwrap();
    }

    /// Undoes a fault.
    pub(super) fn restore(&self, fault: &Fault<'_>) {
        if let Some((relay, _)) = fault.ahead {
            relay.set_ahead(0);
        }
        let touched: BTreeSet<&str> = fault
            .seed
            .iter()
            .map(|(cluster, _)| *cluster)
            .chain(fault.without.iter().map(|(cluster, ..)| *cluster))
            .collect();
        for (cluster, object) in fault.seed.iter().filter(|(_, object)| !self.is_base(object)) {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let kind = text("/kind").to_lowercase();
            let namespace = text("/metadata/namespace");
            self.bed.cluster(cluster).kubectl().delete(namespace, &kind, text("/metadata/name")).unwrap();
        }
        for cluster in touched {
            self.apply_base(self.bed.cluster(cluster));
        }
    }

    fn is_base(&self, object: &Value) -> bool {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        name == "cilium-config" || name.starts_with("clustermesh-apiserver")
    }
}

/// A Secret of type kubernetes.io/tls.
pub(super) fn tls(name: &str, authority: &Authority, pair: &PemPair) -> Value {
    let read = |path: &Path| STANDARD.encode(fs::read(path).unwrap());
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
    "metadata": {"name": name, "namespace": "kube-system"},
    "data": {
        "ca.crt": read(&authority.certificate()),
        "tls.crt": read(&pair.certificate),
        "tls.key": read(&pair.key),
    }})
}

/// Contexts of all kinds, in one file.
fn kubeconfig(bed: &Bed, late: &str) -> PathBuf {
    let of = |cluster: &str| -> (Value, Value) {
        let text = fs::read_to_string(bed.cluster(cluster).kubeconfig()).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        (config["clusters"][0]["cluster"].clone(), config["users"][0]["user"].clone())
    };
    let (west, west_admin) = of("west");
    let (east, east_admin) = of("east");
    let more: Vec<_> =
        bed.clusters().iter().skip(2).map(|cluster| (cluster.name(), of(cluster.name()))).collect();
    let (late, nobody, stranger) = (json!({"server": late}), json!({}), json!({"token": "wrong"}));
    let dead = json!({"server": format!("https://{}:1", bed.cluster("east").host().address())});
    let mut contexts = vec![
        ("west", &west, &west_admin),
        ("east", &east, &east_admin),
        ("again", &west, &west_admin),
        ("late", &late, &nobody),
        ("stranger", &east, &stranger),
        ("dead", &dead, &nobody),
        ("dead2", &dead, &nobody),
    ];
    contexts.extend(more.iter().map(|(name, (cluster, admin))| (*name, cluster, admin)));
    let contexts: Vec<_> = contexts
        .into_iter()
        .map(|(name, cluster, user)| {
            let context = json!({"name": name, "context": {"cluster": name, "user": name}});
            (json!({"name": name, "cluster": cluster}), json!({"name": name, "user": user}), context)
        })
        .collect();
    let all = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "west",
        "clusters": contexts.iter().map(|each| &each.0).collect::<Vec<_>>(),
        "users": contexts.iter().map(|each| &each.1).collect::<Vec<_>>(),
        "contexts": contexts.iter().map(|each| &each.2).collect::<Vec<_>>(),
    });
    let path = bed.dir().join("kubeconfig");
    fs::write(&path, format!("{all:#}")).unwrap();
    path
}
