//! Measuring the export of a real Kubernetes API into the store of one process.
//!
//! ```text
//!  isthmus bench export ──fill──▶ kube-apiserver (one that was made for this)
//!         │                            │ list, watch
//!         ├──/proc, canaries──▶ isthmus mesh: export and store in one process
//!         ▼
//!       report
//! ```

use super::keys::end_of;
use super::mirror::count;
use super::report::{Measured, Target, Unit};
use super::server::{Credentials, Endpoint, Server, free_address};
use super::wire::path;
use crate::certs::files::{CA_CERTIFICATE, CERTIFICATE, KEY};
use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, DynamicObject, ObjectMeta, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kvstore::proto::etcdserverpb as pb;
use mesh_types::{Form, Resource, key};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whose values stand beside ours.
pub(crate) const PEER: &str = "Cilium + etcd, as once measured";
/// The name that its cluster has; its id is 3.
const CLUSTER: &str = "west";
/// Where its objects are.
const NAMESPACE: &str = "isthmus-bench";
/// Backends of a service.
const BACKENDS: usize = 10;
/// Objects that are created at a time.
const CREATING: usize = 32;
/// Whatever takes longer is told as such.
const LIMIT: Duration = Duration::from_secs(120);
/// Between looks at the canaries; what is measured is at most so much too long.
const LOOK: Duration = Duration::from_millis(10);

/// How much the cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Contents {
    /// CiliumNodes.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    nodes: usize,
    /// CiliumIdentities.
    #[arg(long, value_name = "COUNT", default_value_t = 2000)]
    identities: usize,
    /// CiliumEndpoints.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    endpoints: usize,
    /// Global Services, each with an EndpointSlice of ten backends.
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    services: usize,
}

impl Contents {
    /// What Cilium was measured with.
    const STANDARD: Self = Self { nodes: 1000, identities: 2000, endpoints: 20_000, services: 500 };

    pub(crate) fn is_standard(self) -> bool {
        self == Self::STANDARD
    }

    /// Keys that come of it in the format that Cilium was measured with; each service has one more, for its slice.
    fn keys(self) -> usize {
        self.nodes + self.identities + self.endpoints + self.services
    }

    /// Creates what is not there yet.
    ///
    /// # Errors
    /// What the API server answers, but for "already exists".
    pub(crate) async fn fill(self, client: &kube::Client) -> anyhow::Result<()> {
        create(client, [("", "v1", "Namespace", None, NAMESPACE.to_owned(), json!({}))]).await?;
        create(client, (0..self.nodes).map(node)).await?;
        create(client, (0..self.identities).map(identity)).await?;
        create(client, (0..self.endpoints).map(|n| endpoint(n, self.identities.max(1)))).await?;
        create(client, (0..self.services).map(service)).await?;
        create(client, (0..self.services).map(slice)).await
    }
}

/// Group, version, kind, namespace, name, and the rest of an object.
type Wanted = (&'static str, &'static str, &'static str, Option<&'static str>, String, Value);

async fn create(client: &kube::Client, objects: impl IntoIterator<Item = Wanted>) -> anyhow::Result<()> {
    stream::iter(objects)
        .map(|(group, version, kind, namespace, name, data)| async move {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let mut object = DynamicObject::new(&name, &resource).data(data);
            let annotations = object.data.as_object_mut().and_then(|data| data.remove("annotations"));
            let labels = object.data.as_object_mut().and_then(|data| data.remove("labels"));
            object.metadata = ObjectMeta {
                name: Some(name.clone()),
                annotations: annotations.map(serde_json::from_value).transpose()?,
                labels: labels.map(serde_json::from_value).transpose()?,
                ..ObjectMeta::default()
            };
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
                Err(error) => Err(error).with_context(|| format!("create {kind} {name}")),
            }
        })
        .buffer_unordered(CREATING)
        .try_collect()
        .await
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 100 + n / 65_536, n / 256 % 256, n % 256)
}

fn node(n: usize) -> Wanted {
    let spec = json!({"spec": {
        "addresses": [{"type": "InternalIP", "ip": format!("192.168.{}.{}", n / 250, n % 250 + 1)}],
        "ipam": {"podCIDRs": [format!("10.{}.{}.0/24", 100 + n / 256, n % 256)]},
    }});
    ("cilium.io", "v2", "CiliumNode", None, format!("worker-{n}"), spec)
}

fn identity(n: usize) -> Wanted {
    let labels = json!({"security-labels": {
        "k8s:app": format!("app-{n}"),
        "k8s:io.cilium.k8s.policy.cluster": CLUSTER,
        "k8s:io.cilium.k8s.policy.serviceaccount": "default",
        "k8s:io.kubernetes.pod.namespace": NAMESPACE,
    }});
    ("cilium.io", "v2", "CiliumIdentity", None, number(n).to_string(), labels)
}

/// In the range of cluster 3.
fn number(n: usize) -> usize {
    (3 << 16) + 256 + n
}

fn endpoint(n: usize, identities: usize) -> Wanted {
    let status = json!({"status": {
        "id": n % 65_535,
        "identity": {"id": number(n % identities)},
        "networking": {
            "node": format!("192.168.{}.{}", n / 250 % 4, n % 250 + 1),
            "addressing": [{"ipv4": address(n)}],
        },
        "state": "ready",
    }});
    ("cilium.io", "v2", "CiliumEndpoint", Some(NAMESPACE), format!("pod-{n}"), status)
}

fn service(n: usize) -> Wanted {
    let spec = json!({
        "annotations": {"service.cilium.io/global": "true"},
        "spec": {"selector": {"app": format!("app-{n}")}, "ports": [{"name": "http", "port": 80}]},
    });
    ("", "v1", "Service", Some(NAMESPACE), format!("service-{n}"), spec)
}

fn slice(n: usize) -> Wanted {
    let endpoints: Vec<Value> = (0..BACKENDS)
        .map(|backend| json!({"addresses": [address(n * BACKENDS + backend)], "conditions": {"ready": true}}))
        .collect();
    let slice = json!({
        "labels": {"kubernetes.io/service-name": format!("service-{n}")},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    ("discovery.k8s.io", "v1", "EndpointSlice", Some(NAMESPACE), format!("service-{n}-1"), slice)
}

/// Exports all of it `times` times, each time with a new process, and keeps the shortest.
///
/// # Errors
/// When the exporter does not start or does not finish.
pub(crate) async fn measure(
    contents: Contents,
    kubeconfig: &Path,
    directory: &Path,
    times: usize,
) -> anyhow::Result<Measured> {
    let mut best: Option<Measured> = None;
    for _ in 0..times.max(1) {
        let measured = once(contents, kubeconfig, directory).await?;
        let wall = |measured: &Measured| measured.readings.first().map_or(f64::MAX, |reading| reading.value);
        if best.as_ref().is_none_or(|best| wall(&measured) < wall(best)) {
            best = Some(measured);
        }
    }
    best.context("nothing was measured")
}

async fn once(contents: Contents, kubeconfig: &Path, directory: &Path) -> anyhow::Result<Measured> {
    let own = tempfile::tempdir_in(directory)?;
    let started = Instant::now();
    let server = start(kubeconfig, own.path()).await?;
    tokio::time::timeout(LIMIT, synced(&server)).await.context("the export does not end")??;
    let wall = started.elapsed();
    let usage = server.usage()?;
    let found = count(&server, key::STATE_PREFIX).await?;
    let expected = contents.keys() + contents.services;
    ensure!(found == expected, "exported {found} keys instead of {expected}");
    let keys = contents.keys();
    let mut measured = Measured::default();
    let name = |what: &str| format!("{keys} objects: {what}");
    let cpu = usage.cpu.as_secs_f64();
    measured.read(name("all synced"), Unit::Seconds, wall.as_secs_f64(), Target::at_most(3.0, 9.0));
    measured.read(name("CPU per key"), Unit::CpuSeconds, cpu / keys as f64, Target::at_most(60e-6, 515e-6));
    measured.cpu_seconds = cpu;
    measured.peak_bytes = usage.peak_bytes;
    Ok(measured)
}

/// What Cilium took for the same.
pub(crate) fn anchor() -> Measured {
    let keys = Contents::STANDARD.keys();
    let mut measured = Measured::default();
    measured.read(format!("{keys} objects: all synced"), Unit::Seconds, 9.0, Target::None);
    measured.read(format!("{keys} objects: CPU per key"), Unit::CpuSeconds, 515e-6, Target::None);
    measured
}

async fn start(kubeconfig: &Path, directory: &Path) -> anyhow::Result<Server> {
    let (remotes, tls) = (directory.join("remotes"), directory.join("tls"));
    std::fs::create_dir_all(&remotes)?;
    let credentials = Credentials::issue(&tls)?;
    let endpoint = Endpoint { address: free_address()?, tls: Some(Arc::clone(&credentials.client)) };
    let mut command = Command::new(std::env::current_exe().context("find the program that runs")?);
    command
        .args(["mesh", "--cluster-id=3", "--cni=cilium", "--leader-election=false", "--log-level=warn"])
        .arg(format!("--cluster-name={CLUSTER}"))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--clustermesh-config={}", remotes.display()))
        .arg(format!("--listen-client-urls=https://{}", endpoint.address))
        .arg(format!("--cert-file={}", tls.join(CERTIFICATE).display()))
        .arg(format!("--key-file={}", tls.join(KEY).display()))
        .arg(format!("--trusted-ca-file={}", tls.join(CA_CERTIFICATE).display()))
        .arg("--health-listen=127.0.0.1:0");
    Server::spawn("the exporter", command, endpoint, &directory.join("log")).await
}

/// Returns once every canary is there.
async fn synced(server: &Server) -> anyhow::Result<()> {
    let cluster = CLUSTER.parse().context("the cluster has a name")?;
    let prefix = key::synced_prefix(&cluster);
    let wanted: Vec<String> =
        Resource::ALL.iter().map(|kind| prefix.clone() + &kind.canary_name(Form::State)).collect();
    let connection = server.connect().await?;
    let ask = pb::RangeRequest {
        range_end: end_of(&prefix),
        key: prefix.into(),
        keys_only: true,
        ..pb::RangeRequest::default()
    };
    loop {
        let found: pb::RangeResponse = connection.call(path::RANGE, &ask).await?;
        if wanted.iter().all(|name| found.kvs.iter().any(|kv| kv.key == name.as_bytes())) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_and_numbers_are_all_different_and_in_range() {
        let all: BTreeSet<String> = (0..20_000).map(address).collect();
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().all(|text| text.parse::<std::net::Ipv4Addr>().is_ok()));
        assert!((0..2000).map(number).all(|number| (3 << 16..4 << 16).contains(&number)));
    }
}
