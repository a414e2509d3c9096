//! A mirror of one local store with remote stores around it, all in this process.

pub(crate) mod net;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore::{Client, KeyRange, LeaseId, Store, Write};
use kvstoremesh::{Board, Dial, Mesh, RemoteStatus, Settings, StatusPage};
use mesh_runtime::{Backoff, Readiness, Supervisor};
use mesh_types::LocalCluster;
use prometheus_client::registry::Registry;
use tempfile::TempDir;

use net::{Net, store};

/// Longer than anything takes that is going to happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at what is waited for.
const TICK: Duration = Duration::from_millis(5);

pub(crate) struct Bed {
    pub(crate) net: Net,
    pub(crate) local: Arc<Store>,
    pub(crate) readiness: Readiness,
    directory: TempDir,
    cluster: LocalCluster,
    mesh: Mesh,
    tasks: Supervisor,
    settings: Settings,
    dial: Arc<dyn Dial>,
}

/// An earlier mirror of a bed.
pub(crate) struct Replica {
    _mesh: Mesh,
    tasks: Supervisor,
}

impl Replica {
    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.tasks.until(async {}).await.unwrap();
    }

    /// Waits until it ends by itself, and why.
    pub(crate) async fn fails(self) -> String {
        let failed = self.tasks.until(std::future::pending()).await.unwrap_err();
        std::error::Error::source(&failed).unwrap().to_string()
    }
}

impl Bed {
    /// A mirror of cluster `here`, id 1, with short waits.
    pub(crate) fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let net = Net::default();
        let dial: Arc<dyn Dial> = Arc::new(net.clone());
        Self::start_with(net, dial, &[], change)
    }

    /// With files that are there before the start.
    pub(crate) fn start_with(
        net: Net,
        dial: Arc<dyn Dial>,
        files: &[(&str, &str)],
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let cluster = LocalCluster::new("here", 1, 255).unwrap();
        let mut settings = Settings::new(cluster.clone(), directory.path());
        settings.removal_grace = Duration::from_millis(100);
        settings.backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(50));
        change(&mut settings);
        let local = store();
        let mesh = Mesh::new(settings.clone(), Arc::new(local.client()), Arc::clone(&dial));
        let (tasks, readiness) = (Supervisor::new(DEADLINE), Readiness::new());
        mesh.start(&tasks, &readiness);
        Self { net, local, readiness, directory, cluster, mesh, tasks, settings, dial }
    }

    /// Puts another mirror of the same store and configuration into the place of this one, which goes on; it is returned.
    pub(crate) fn replica(&mut self) -> Replica {
        let mesh = Mesh::new(self.settings.clone(), Arc::new(self.local.client()), Arc::clone(&self.dial));
        let (tasks, readiness) = (Supervisor::new(DEADLINE), Readiness::new());
        mesh.start(&tasks, &readiness);
        self.readiness = readiness;
        Replica {
            _mesh: std::mem::replace(&mut self.mesh, mesh),
            tasks: std::mem::replace(&mut self.tasks, tasks),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a store on the network and configures it as `name`.
    pub(crate) fn connect(&self, name: &str, store: &Arc<Store>) {
        self.net.put(&endpoint(name), Some(Arc::clone(store)));
        self.configure(name);
    }

    pub(crate) fn configure(&self, name: &str) {
        self.write_file(name, &peer_file(name));
    }

    /// Replaces a file at once, as kubelet and careful people do.
    pub(crate) fn write_file(&self, name: &str, content: &str) {
        let aside = tempfile::NamedTempFile::new_in(self.directory.path().parent().unwrap()).unwrap();
        std::fs::write(aside.path(), content).unwrap();
        aside.persist(self.path(name)).unwrap();
    }

    pub(crate) fn remove_file(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub(crate) fn status(&self) -> StatusPage {
        self.mesh.board().status(&self.cluster, Instant::now())
    }

    pub(crate) fn board(&self) -> Board {
        self.mesh.board()
    }

    pub(crate) fn remote(&self, name: &str) -> Option<RemoteStatus> {
        self.status().remotes.into_iter().find(|remote| remote.name == name)
    }

    /// The page that Cilium's tools read.
    pub(crate) fn cilium_status(&self) -> serde_json::Value {
        serde_json::to_value(self.mesh.board().cilium_status()).unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("cilium_kvstoremesh");
        self.mesh.register(&mut registry);
        mesh_runtime::encode(&registry)
    }

    /// Keys and values of the local store.
    pub(crate) async fn local(&self) -> BTreeMap<String, String> {
        dump(&self.local).await
    }

    /// Those of them that are not control keys.
    pub(crate) async fn cache(&self) -> Vec<String> {
        self.local().await.into_keys().filter(|key| key.starts_with("cilium/cache/")).collect()
    }

    /// Waits until `look` sees what it looks for; after the deadline it fails with both sides' state.
    pub(crate) async fn until(&self, what: &str, mut look: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !look().await {
            if Instant::now() > end {
                let local: Vec<String> = self.local().await.into_keys().collect();
                panic!("not seen: {what}\nstatus: {:#?}\nlocal store: {local:#?}", self.status());
            }
            tokio::time::sleep(TICK).await;
        }
    }

    pub(crate) async fn until_ready(&self, name: &str) {
        self.until(&format!("{name} ready"), async || self.remote(name).is_some_and(|remote| remote.ready))
            .await;
    }

    pub(crate) async fn until_trouble(&self, name: &str, reason: &str) {
        let has = || self.remote(name)?.trouble.map(|trouble| trouble.reason == reason);
        self.until(&format!("{name} in trouble for {reason}"), async || has() == Some(true)).await;
    }

    /// Stops every task in order.
    pub(crate) async fn stop(self) -> Arc<Store> {
        self.tasks.until(async {}).await.unwrap();
        self.local
    }
}

pub(crate) fn endpoint(name: &str) -> String {
    format!("http://{name}:2379")
}

pub(crate) fn peer_file(name: &str) -> String {
    format!("endpoints:\n- {}\n", endpoint(name))
}

/// Writes keys to a store as its owner would.
pub(crate) async fn put(store: &Arc<Store>, keys: &[(&str, &str)]) {
    let write = |(key, value): &(&str, &str)| Write::Put {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        lease: LeaseId::NONE,
    };
    store.client().write(keys.iter().map(write).collect()).await.unwrap();
}

pub(crate) async fn delete(store: &Arc<Store>, key: &str) {
    store.client().write(vec![Write::Delete { key: key.as_bytes().to_vec().into() }]).await.unwrap();
}

pub(crate) async fn dump(store: &Arc<Store>) -> BTreeMap<String, String> {
    let page = store.client().list(&KeyRange::all(), 0, None).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    page.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

/// The cluster-config of a peer with canaries and without service exports.
pub(crate) fn config(id: u32) -> String {
    format!(r#"{{"id":{id},"capabilities":{{"syncedCanaries":true,"maxConnectedClusters":255}}}}"#)
}

/// A store of cluster `name` with two nodes and all canaries.
pub(crate) async fn peer(name: &str, id: u32) -> Arc<Store> {
    let store = store();
    put_nodes(&store, name, &["n1", "n2"]).await;
    put(&store, &[(&format!("cilium/cluster-config/{name}"), &config(id))]).await;
    put_canaries(&store, name).await;
    store
}

pub(crate) async fn put_nodes(store: &Arc<Store>, name: &str, nodes: &[&str]) {
    for node in nodes {
        put(store, &[(&format!("cilium/state/nodes/v1/{name}/{node}"), &format!("node {node} of {name}"))])
            .await;
    }
}

pub(crate) async fn put_canaries(store: &Arc<Store>, name: &str) {
    for resource in ["nodes", "ip", "identities", "services"] {
        put(store, &[(&format!("cilium/synced/{name}/cilium/state/{resource}/v1"), "then")]).await;
    }
}
