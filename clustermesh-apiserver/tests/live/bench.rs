//! An API server, an embedded store, and what runs between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clustermesh_apiserver::{Config, Handle, Status, elect, start};
use futures::StreamExt;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kvstore::{Client as _, EmbeddedClient, Event, KeyRange, Revision, Store, StoreConfig};
use mesh_runtime::{Readiness, Supervisor};
use mesh_types::LocalCluster;
use prometheus_client::registry::Registry;
use serde::Deserialize as _;
use serde_json::Value;

use crate::lite::Lite;
use crate::server::ApiServer;

/// What does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(180);

/// Kinds that the tests make: group, version, plural.
const KINDS: [(&str, &str, &str, &str); 13] = [
    ("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("Namespace", "", "v1", "namespaces"),
    ("Node", "", "v1", "nodes"),
    ("Pod", "", "v1", "pods"),
    ("ConfigMap", "", "v1", "configmaps"),
    ("Service", "", "v1", "services"),
    ("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices"),
    ("CiliumNode", "cilium.io", "v2", "ciliumnodes"),
    ("CiliumIdentity", "cilium.io", "v2", "ciliumidentities"),
    ("CiliumEndpoint", "cilium.io", "v2", "ciliumendpoints"),
    ("CiliumEndpointSlice", "cilium.io", "v2alpha1", "ciliumendpointslices"),
    ("ServiceExport", "multicluster.x-k8s.io", "v1beta1", "serviceexports"),
    ("ServiceImport", "multicluster.x-k8s.io", "v1beta1", "serviceimports"),
];

/// Either of the API servers.
enum Server {
    Real(Box<ApiServer>),
    Lite(Lite),
}

pub(crate) struct Bench {
    server: Server,
    pub(crate) kube: kube::Client,
    pub(crate) store: EmbeddedClient,
}

/// An exporter that is running.
pub(crate) struct Running {
    tasks: Supervisor,
    pub(crate) readiness: Readiness,
    handle: Handle,
}

pub(crate) fn new_store() -> EmbeddedClient {
    let store: Arc<Store> = Store::new(StoreConfig::default());
    store.client()
}

/// The configuration of cluster `west`, id 3.
pub(crate) fn config() -> Config {
    Config::new(LocalCluster::new("west", 3, 255).expect("name and id are right"))
}

impl Bench {
    pub(crate) async fn on_kubernetes() -> Result<Self> {
        Self::on(Server::Real(Box::new(ApiServer::start().await?))).await
    }

    pub(crate) async fn on_kube_lite() -> Result<Self> {
        Self::on(Server::Lite(Lite::start().await?)).await
    }

    /// On a real API server whose Services have addresses of both families.
    pub(crate) async fn on_dual_stack_kubernetes() -> Result<Self> {
        Self::on(Server::Real(Box::new(ApiServer::start_with("10.96.0.0/16,fd00:96::/112").await?))).await
    }

    /// The same on kube-lite.
    pub(crate) async fn on_dual_stack_kube_lite() -> Result<Self> {
        Self::on(Server::Lite(Lite::start_with(&["10.96.0.0/16", "fd00:96::/112"]).await?)).await
    }

    async fn on(server: Server) -> Result<Self> {
        let config = match &server {
            Server::Real(server) => server.config(),
            Server::Lite(server) => server.config(),
        };
        let kube = config.client().await?;
        Ok(Self { server, kube, store: new_store() })
    }

    /// Kills the API server; what it stores stays.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        match &mut self.server {
            Server::Real(server) => server.kill().await,
            Server::Lite(server) => {
                server.kill().await;
                Ok(())
            }
        }
    }

    /// Starts it again, on the same port and data, and waits until the client here has noticed.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        match &mut self.server {
            Server::Real(server) => server.restart().await?,
            Server::Lite(server) => server.restart().await?,
        }
        let ready = async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(self.kube.request_text(request).await? == "ok")
        };
        self.until_kube("the API server", ready).await
    }

    /// Starts an exporter into `store`.
    pub(crate) fn export(&self, config: Config, store: &EmbeddedClient) -> Result<Running> {
        let (tasks, readiness) = (Supervisor::new(PATIENCE), Readiness::new());
        let store = Arc::new(store.clone());
        let mut metrics = Registry::default();
        let (kube, spawner) = (self.kube.clone(), tasks.spawner());
        let leading = elect(&config, false, kube.clone(), &spawner, &mut metrics);
        let handle = start(config, kube, store, leading, &spawner, &readiness, &mut metrics)?;
        Ok(Running { tasks, readiness, handle })
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (kind, group, version, plural) = known(kind);
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        match namespace {
            "" => Api::all_with(self.kube.clone(), &resource),
            namespace => Api::namespaced_with(self.kube.clone(), namespace, &resource),
        }
    }

    /// Makes an object, or makes it so.
    pub(crate) async fn apply(&self, mut object: Value) -> Result<()> {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, name, namespace) = (text("/kind"), text("/metadata/name"), text("/metadata/namespace"));
        let api = self.api(&kind, &namespace);
        let (_, group, version, _) = known(&kind);
        object["apiVersion"] =
            if group.is_empty() { version.into() } else { format!("{group}/{version}").into() };
        let has_status_resource = kind == "Pod" || kind == "Node";
        let params = PatchParams::apply("test").force();
        let context = || format!("apply {kind} {name}");
        api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(context)?;
        if has_status_resource && object.get("status").is_some() {
            api.patch_status(&name, &params, &Patch::Apply(&object)).await.with_context(context)?;
        }
        Ok(())
    }

    pub(crate) async fn apply_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        for object in objects {
            self.apply(object).await?;
        }
        Ok(())
    }

    pub(crate) async fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let params = DeleteParams::default().grace_period(0);
        self.api(kind, namespace).delete(name, &params).await.with_context(|| format!("delete {name}"))?;
        Ok(())
    }

    /// All objects of a kind.
    pub(crate) async fn objects(&self, kind: &str, namespace: &str) -> Result<Vec<DynamicObject>> {
        Ok(self.api(kind, namespace).list(&Default::default()).await?.items)
    }

    /// The same as JSON.
    pub(crate) async fn values(&self, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        let objects = self.objects(kind, namespace).await?;
        Ok(objects.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    /// An object, if it is there.
    pub(crate) async fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let object = self.api(kind, namespace).get_opt(name).await?;
        Ok(object.map(serde_json::to_value).transpose()?)
    }

    /// Asks until `condition` holds; an API server that is away is asked again.
    pub(crate) async fn until_kube(
        &self,
        what: &str,
        condition: impl AsyncFn() -> Result<bool>,
    ) -> Result<()> {
        let reached = async {
            while !condition().await.unwrap_or(false) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.with_context(|| format!("{what} does not come"))
    }

    /// Waits until an object is as `wanted` says.
    pub(crate) async fn until_object(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let reached = async {
            loop {
                match self.object(kind, namespace, name).await {
                    Ok(Some(object)) if wanted(&object) => return object,
                    Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(object) => Ok(object),
            Err(_late) => {
                let found = self.object(kind, namespace, name).await?;
                anyhow::bail!("{kind} {name} does not become what is wanted; it is {found:#?}")
            }
        }
    }

    /// Waits until an object is not there.
    pub(crate) async fn until_gone(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let gone = async || Ok(self.object(kind, namespace, name).await?.is_none());
        self.until_kube(&format!("the end of {kind} {name}"), gone).await
    }

    /// Installs definitions and waits until their kinds are served.
    pub(crate) async fn install(&self, file: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let definition = Value::deserialize(document)?;
            let kind =
                definition.pointer("/spec/names/kind").and_then(Value::as_str).context("kind")?.to_owned();
            self.apply(definition).await?;
            let served = async {
                while self.objects(&kind, "").await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(PATIENCE, served).await.with_context(|| format!("{kind} is not served"))?;
        }
        Ok(())
    }
}

impl Running {
    pub(crate) async fn ready(&self) -> Result<()> {
        let ready = tokio::time::timeout(PATIENCE, self.readiness.wait()).await;
        ready.with_context(|| format!("not ready: {:?}\n{:#?}", self.readiness.pending(), self.status()))
    }

    pub(crate) fn status(&self) -> Status {
        self.handle.status()
    }

    /// Reason codes of an object.
    pub(crate) fn reasons(&self, object: &str) -> Vec<&'static str> {
        let rows = self.status().withheld.into_iter().filter(|row| row.object == object);
        rows.map(|row| row.reason.code()).collect()
    }

    pub(crate) async fn stop(self) -> Result<()> {
        Ok(self.tasks.until(std::future::ready(())).await?)
    }
}

fn known(kind: &str) -> (&'static str, &'static str, &'static str, &'static str) {
    let known = KINDS.iter().find(|known| known.0 == kind);
    *known.unwrap_or_else(|| panic!("{kind} is not in the table"))
}

/// Waits until `condition` holds, for states that do not tell when they change.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.with_context(|| format!("{what} does not come"))
}

/// Everything below `prefix`, relative to it.
pub(crate) async fn keys(store: &EmbeddedClient, prefix: &str) -> Result<BTreeMap<String, String>> {
    let page = store.list(&KeyRange::prefix(prefix.to_owned()), 0, None).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(page.kvs.iter().map(|kv| (text(&kv.key[prefix.len()..]), text(&kv.value))).collect())
}

/// Names below `prefix`.
pub(crate) async fn names(store: &EmbeddedClient, prefix: &str) -> Result<BTreeSet<String>> {
    Ok(keys(store, prefix).await?.into_keys().collect())
}

/// Waits until what is below `prefix` is as `wanted` says; looks again at every change of the store.
pub(crate) async fn until(
    store: &EmbeddedClient,
    prefix: &str,
    what: &str,
    wanted: impl Fn(&BTreeMap<String, String>) -> bool,
) -> Result<BTreeMap<String, String>> {
    let reached = async {
        let from = store.status().await?.revision.next();
        let mut changes = store.watch(KeyRange::all(), from).await?;
        loop {
            let found = keys(store, prefix).await?;
            if wanted(&found) {
                return Ok(found);
            }
            changes.next().await.context("the watch ended")??;
        }
    };
    match tokio::time::timeout(PATIENCE, reached).await {
        Ok(found) => found,
        Err(_late) => {
            let found = keys(store, prefix).await?;
            anyhow::bail!("{what} does not come; below {prefix} is {found:#?}")
        }
    }
}

/// Waits until the names below `prefix` are these.
pub(crate) async fn until_names(store: &EmbeddedClient, prefix: &str, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
    let same = |found: &BTreeMap<String, String>| found.keys().eq(wanted.iter());
    until(store, prefix, &format!("{wanted:?}"), same).await?;
    Ok(())
}

/// Keys that were deleted since `from`.
pub(crate) async fn deleted_since(store: &EmbeddedClient, from: Revision) -> Result<Vec<String>> {
    let now = store.status().await?.revision;
    let mut changes = store.watch(KeyRange::all(), from.next()).await?;
    let (mut deleted, mut seen) = (Vec::new(), from);
    while seen < now {
        let batch = changes.next().await.context("the watch ended")??;
        for event in &batch.events {
            if let Event::Delete { key, .. } = event {
                deleted.push(String::from_utf8_lossy(key).into_owned());
            }
        }
        ensure!(batch.revision > seen || batch.events.is_empty(), "revisions go on");
        seen = batch.revision;
    }
    Ok(deleted)
}
