//! A pod as Cilium's chart renders it: containers with the chart's commands, flags and mounts, in one network namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use e2e::{Authority, Cluster, Daemon, DaemonSpec, Exec, Host, PemPair, isthmus};

/// What a container finds below `/var/lib` and `/run`, and in `/etc/hosts`; then its command. `$1` is the pod's directory.
const CONTAINER: &str = r#"
set -e
pod=$1; shift
mount -t tmpfs none /var/lib
mount -t tmpfs none /run
mkdir -p /var/lib/etcd-secrets /var/lib/cilium/etcd-secrets /var/lib/cilium/etcd-config /var/lib/cilium/clustermesh
mkdir -p /run/etcd /run/secrets/kubernetes.io/serviceaccount
mount --bind "$pod/server" /var/lib/etcd-secrets
mount --bind "$pod/admin" /var/lib/cilium/etcd-secrets
mount --bind "$pod/users" /var/lib/cilium/etcd-config
mount --bind "$pod/clustermesh" /var/lib/cilium/clustermesh
mount --bind "$pod/etcd" /run/etcd
mount --bind "$pod/account" /run/secrets/kubernetes.io/serviceaccount
mount --bind "$pod/hosts" /etc/hosts
cp "$pod/etcd-config.yaml" /var/lib/cilium/
exec "$@"
"#;

/// The client configuration that is in Cilium's image.
const ETCD_CONFIG: &str = "endpoints:\n- https://127.0.0.1:2379\n\
    trusted-ca-file: /var/lib/cilium/etcd-secrets/ca.crt\n\
    cert-file: /var/lib/cilium/etcd-secrets/tls.crt\n\
    key-file: /var/lib/cilium/etcd-secrets/tls.key\n";

/// The pod of one cluster.
pub(crate) struct Pod<'bed> {
    cluster: &'bed Cluster,
    dir: PathBuf,
    bin: PathBuf,
}

impl<'bed> Pod<'bed> {
    /// Lays out its volumes, with the server's and the administrator's certificates.
    pub(crate) fn new(cluster: &'bed Cluster, authority: &Authority) -> Result<Self> {
        let pod = Self { cluster, dir: cluster.dir().join("pod"), bin: cluster.dir().join("bin") };
        for volume in ["server", "admin", "users", "clustermesh", "etcd", "account"] {
            fs::create_dir_all(pod.dir.join(volume)).context("make a volume")?;
        }
        fs::create_dir_all(&pod.bin).context("make a directory")?;
        for name in ["clustermesh-apiserver", "etcd", "isthmus"] {
            symlink(isthmus()?, pod.bin.join(name)).context("link the program")?;
        }
        let name = cluster.name();
        let names = ["*.mesh.cilium.io", "clustermesh-apiserver.kube-system.svc", "127.0.0.1", "::1"];
        pod.secret("server", &authority.server(&format!("{name}-server"), &names)?, authority)?;
        let admin = format!("admin-{name}");
        pod.secret("admin", &authority.client(&admin, &admin, None)?, authority)?;
        pod.write("etcd-config.yaml", ETCD_CONFIG)?;
        pod.write("users/users.yaml", "users: []\n")?;
        pod.write("hosts", "127.0.0.1 localhost\n")?;
        Ok(pod)
    }

    /// Its network.
    pub(crate) fn host(&self) -> &Host {
        self.cluster.host()
    }

    /// A file in one of its volumes.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.dir.join(file), text).with_context(|| format!("write {file}"))
    }

    /// The directory of one of its volumes.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A secret of type kubernetes.io/tls in one of its volumes.
    fn secret(&self, volume: &str, pair: &PemPair, authority: &Authority) -> Result<()> {
        let copy = |from: &Path, name: &str| fs::copy(from, self.dir.join(volume).join(name));
        copy(&pair.certificate, "tls.crt").context("copy a certificate")?;
        copy(&pair.key, "tls.key").context("copy a key")?;
        copy(&authority.certificate(), "ca.crt").context("copy a certificate")?;
        Ok(())
    }

    /// What the chart puts beside the configurations of peers: the certificate of `user`, which is of every peer.
    pub(crate) fn peers_certificate(&self, user: &str, authority: &Authority) -> Result<()> {
        let pair = authority.client(user, user, None)?;
        for (from, ending) in [(&pair.certificate, "crt"), (&pair.key, "key")] {
            let to = self.dir.join(format!("clustermesh/common-etcd-client.{ending}"));
            fs::copy(from, to).context("copy a certificate")?;
        }
        let to = self.dir.join("clustermesh/common-etcd-client-ca.crt");
        fs::copy(authority.certificate(), to).context("copy a certificate")?;
        Ok(())
    }

    /// A command in a container of it, to run to its end.
    pub(crate) fn exec(&self, program: &str) -> Exec {
        let exec = self.host().exec("unshare").args(["-m", "sh", "-c", CONTAINER, "sh"]);
        exec.arg(&self.dir).arg(self.bin.join(program))
    }

    /// A container that stays.
    fn container(&self, name: &str, program: &str) -> DaemonSpec {
        let spec = DaemonSpec::program(name, Path::new("/usr/bin/unshare"));
        let spec = spec.args(["-m", "sh", "-c", CONTAINER, "sh"]);
        spec.arg(&self.dir).arg(self.bin.join(program))
    }

    fn of_cluster(&self, spec: DaemonSpec) -> DaemonSpec {
        let (name, id) = (self.cluster.name(), self.cluster.id());
        spec.arg(format!("--cluster-name={name}")).arg(format!("--cluster-id={id}"))
    }

    /// The init container, to its end.
    pub(crate) fn etcd_init(&self) -> Result<String> {
        let init = self.exec("clustermesh-apiserver").args([
            "etcdinit",
            "--etcd-cluster-name=clustermesh-apiserver",
            "--etcd-initial-cluster-token=7e1c9a52-3d1f-4b0c-a6f0-0c5e0a5b1f22",
            "--etcd-data-dir=/var/run/etcd",
        ]);
        init.env("CILIUM_CLUSTER_NAME", self.cluster.name()).stdout()
    }

    /// Container `etcd`.
    pub(crate) fn etcd(&self) -> Result<Daemon> {
        self.host().daemon(self.container("etcd", "etcd").args([
            "--data-dir=/var/run/etcd",
            "--name=clustermesh-apiserver",
            "--client-cert-auth",
            "--trusted-ca-file=/var/lib/etcd-secrets/ca.crt",
            "--cert-file=/var/lib/etcd-secrets/tls.crt",
            "--key-file=/var/lib/etcd-secrets/tls.key",
            "--listen-client-urls=https://0.0.0.0:2379",
            "--advertise-client-urls=https://localhost:2379",
            "--initial-cluster-token=7e1c9a52-3d1f-4b0c-a6f0-0c5e0a5b1f22",
            "--auto-compaction-retention=1",
            "--enable-grpc-gateway=false",
            "--listen-metrics-urls=http://0.0.0.0:9963",
            "--metrics=basic",
        ]))
    }

    /// Container `apiserver`, which finds the API as any pod does.
    pub(crate) fn apiserver(&self) -> Result<Daemon> {
        let address = self.cluster.api_address();
        let address = address.trim_start_matches("https://").rsplit_once(':');
        let (host, port) = address.context("the API server has a port")?;
        let spec = self.container("apiserver", "clustermesh-apiserver").arg("clustermesh");
        let spec = self
            .of_cluster(spec)
            .args([
                "--kvstore-opt=etcd.config=/var/lib/cilium/etcd-config.yaml",
                "--kvstore-opt=etcd.qps=50",
                "--kvstore-opt=etcd.bootstrapQps=10000",
                "--max-connected-clusters=255",
                "--health-port=9880",
                "--cluster-users-enabled",
                "--cluster-users-config-path=/var/lib/cilium/etcd-config/users.yaml",
                "--clustermesh-enable-mcs-api=true",
                "--prometheus-serve-addr=:9962",
                "--controller-group-metrics=all",
            ])
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", port)
            .ready_at(([127, 0, 0, 1], 9880));
        self.host().daemon(spec)
    }

    /// All of it in one process, as on a machine without Kubernetes.
    pub(crate) fn mesh(&self) -> Result<Daemon> {
        let spec = self.of_cluster(self.container("mesh", "isthmus").arg("mesh"));
        let spec = spec
            .args([
                "--cni=none",
                "--listen-client-urls=https://0.0.0.0:2379",
                "--trusted-ca-file=/var/lib/etcd-secrets/ca.crt",
                "--cert-file=/var/lib/etcd-secrets/tls.crt",
                "--key-file=/var/lib/etcd-secrets/tls.key",
                "--cluster-users-enabled",
                "--cluster-users-config-path=/var/lib/cilium/etcd-config/users.yaml",
                "--clustermesh-config=/var/lib/cilium/clustermesh",
                "--enable-heartbeat",
            ])
            .arg(format!("--kubeconfig={}", self.cluster.kubeconfig().display()))
            .ready_at(([127, 0, 0, 1], 9880));
        self.host().daemon(spec)
    }

    /// Container `kvstoremesh`.
    pub(crate) fn kvstoremesh(&self) -> Result<Daemon> {
        let spec = self.container("kvstoremesh", "clustermesh-apiserver").arg("kvstoremesh");
        let spec = self
            .of_cluster(spec)
            .args([
                "--kvstore-opt=etcd.config=/var/lib/cilium/etcd-config.yaml",
                "--kvstore-opt=etcd.qps=100",
                "--kvstore-opt=etcd.bootstrapQps=10000",
                "--kvstore-opt=etcd.maxInflight=10",
                "--clustermesh-config=/var/lib/cilium/clustermesh",
                "--max-connected-clusters=255",
                "--health-port=9881",
                "--enable-heartbeat=false",
                "--prometheus-serve-addr=:9964",
                "--controller-group-metrics=all",
            ])
            .ready_at(([127, 0, 0, 1], 9881));
        self.host().daemon(spec)
    }
}
