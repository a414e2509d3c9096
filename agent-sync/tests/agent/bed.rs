//! An agent with a store that can be stopped and replaced, and questions that wait for their answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_sync::api::schema::{
    Identities, Ipcache, Nodes, RejectedKeys, ServiceRecord, Services, Status, Wireguard,
};
use agent_sync::api::{ClientError, fetch};
use agent_sync::datapath::{MakeDatapath, Memory};
use agent_sync::tables::{KubeView, LocalEvent, LocalKind};
use agent_sync::{AgentSettings, EncryptSettings, LocalSource, StartError, Surroundings, start};
use kvstore::server::{Server, ServerConfig};
use kvstore::{Client as _, EtcdConfig, LeaseId, Store, StoreConfig, Write};
use mesh_observe::EtcdStore;
use mesh_runtime::{Readiness, Supervisor};
use mesh_types::LocalCluster;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A store that listens.
pub(crate) struct Serving {
    pub(crate) store: Arc<Store>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    /// A new and empty store at `address`.
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let store = Store::new(StoreConfig::default());
        let deadline = Instant::now() + PATIENCE;
        let server = loop {
            match Server::bind(ServerConfig::new(address, None), Arc::clone(&store)).await {
                Ok(server) => break server,
                // The port of the store before may still be closing.
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_taken) => sleep(Duration::from_millis(20)).await,
            }
        };
        let address = server.client_addresses()[0];
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the bed waits for it in `stop`")]
        let task = tokio::spawn(server.run(stop.clone()));
        Serving { store, address, stop, task }
    }

    /// Stops serving; the store's content is gone with it.
    pub(crate) async fn halt(&mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }

    pub(crate) async fn put(&self, key: &str, value: impl AsRef<[u8]>) {
        self.put_leased(key, value, LeaseId::NONE).await;
    }

    pub(crate) async fn put_leased(&self, key: &str, value: impl AsRef<[u8]>, lease: LeaseId) {
        let value = bytes::Bytes::copy_from_slice(value.as_ref());
        let write = Write::Put { key: key.to_owned().into(), value, lease };
        self.store.client().write(vec![write]).await.unwrap();
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.store.client().write(vec![Write::Delete { key: key.to_owned().into() }]).await.unwrap();
    }
}

/// How a bed's agent differs from the usual one.
pub(crate) struct Options {
    pub(crate) datapath: MakeDatapath,
    pub(crate) encrypt: Option<EncryptSettings>,
    pub(crate) local: Option<kube::Client>,
    pub(crate) sync_timeout: Duration,
    pub(crate) absent_grace: Duration,
    pub(crate) node: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            datapath: Arc::new(|| Box::new(Memory::default())),
            encrypt: None,
            local: None,
            sync_timeout: PATIENCE,
            absent_grace: Duration::from_secs(3600),
            node: "node-1",
        }
    }
}

/// A running agent of the cluster `home` with id 1.
pub(crate) struct Bed {
    pub(crate) serving: Serving,
    pub(crate) readiness: Readiness,
    pub(crate) registry: Registry,
    pub(crate) directory: TempDir,
    /// Where the local objects are fed, unless they come from Kubernetes.
    pub(crate) local: mpsc::Sender<Vec<LocalEvent>>,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), mesh_runtime::TaskFailed>>,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let serving = Serving::start((Ipv4Addr::LOCALHOST, 0).into()).await;
        Self::beside(serving, tempfile::tempdir().unwrap(), options).unwrap()
    }

    /// An agent of a store and directory that exist, for restarts.
    pub(crate) fn beside(serving: Serving, directory: TempDir, options: Options) -> Result<Self, StartError> {
        let store = EtcdConfig::new([format!("http://{}", serving.address)], None);
        let socket = directory.path().join("run/agent.sock");
        let settings = AgentSettings {
            local: LocalCluster::new("home", 1, 255).unwrap(),
            node: options.node.into(),
            dual_stack: false,
            ipv6_underlay: false,
            sync_timeout: options.sync_timeout,
            absent_grace: options.absent_grace,
            socket: socket.clone(),
            encrypt: options.encrypt,
        };
        let (local, fed) = mpsc::channel(16);
        let surroundings = Surroundings {
            store: Arc::new(EtcdStore::new(store)),
            local: options.local.map_or(LocalSource::Fed(fed), LocalSource::Kubernetes),
            datapath: options.datapath,
        };
        let tasks = Supervisor::new(PATIENCE);
        let readiness = Readiness::new();
        let mut registry = Registry::with_prefix("cilium");
        start(settings, surroundings, &tasks, &readiness, &mut registry)?;
        let (stop, stopped) = oneshot::channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "the bed waits for it in `stop`")]
        let ended = tokio::spawn(tasks.until(async { drop(stopped.await) }));
        Ok(Bed { serving, readiness, registry, directory, local, socket, stop, ended })
    }

    /// Stops the agent, in order and in time; store and directory stay.
    pub(crate) async fn stop(self) -> (Serving, TempDir) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.ended).await.unwrap().unwrap().unwrap();
        (self.serving, self.directory)
    }

    /// Stops the store and starts an empty one at the same address.
    pub(crate) async fn replace_store(&mut self) {
        self.serving.halt().await;
        self.serving = Serving::start(self.serving.address).await;
    }

    pub(crate) async fn feed(&self, events: Vec<LocalEvent>) {
        self.local.send(events).await.unwrap();
    }

    /// Says that the local objects are all there.
    pub(crate) async fn local_listed(&self) {
        let view = || KubeView { listed: true, live: true, error: None };
        self.feed(LocalKind::ALL.map(|kind| LocalEvent::Watch(kind, view())).into()).await;
    }

    pub(crate) async fn get(&self, path: &str) -> Result<bytes::Bytes, ClientError> {
        fetch(&self.socket, path).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_slice(&self.get(path).await.unwrap()).unwrap()
    }

    /// Asks for `path` until `good` says so.
    pub(crate) async fn until<T: DeserializeOwned + std::fmt::Debug>(
        &self,
        path: &str,
        what: &str,
        mut good: impl FnMut(&T) -> bool,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer: T = self.read(path).await;
            if good(&answer) {
                return answer;
            }
            if Instant::now() > deadline {
                let status: Status = self.read("/v1/status").await;
                panic!("{what}: still {answer:#?}\nwith {status:#?}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn until_status(&self, what: &str, good: impl FnMut(&Status) -> bool) -> Status {
        self.until("/v1/status", what, good).await
    }

    pub(crate) async fn status(&self) -> Status {
        self.read("/v1/status").await
    }

    pub(crate) async fn nodes(&self) -> Vec<String> {
        let nodes: Nodes = self.read("/v1/nodes").await;
        nodes.nodes.into_iter().map(|node| format!("{}/{}", node.cluster, node.name)).collect()
    }

    pub(crate) async fn ipcache(&self) -> Ipcache {
        self.read("/v1/ipcache").await
    }

    pub(crate) async fn identities(&self) -> Identities {
        self.read("/v1/identities").await
    }

    pub(crate) async fn services(&self) -> Vec<ServiceRecord> {
        let services: Services = self.read("/v1/services").await;
        services.services
    }

    pub(crate) async fn rejected(&self) -> RejectedKeys {
        self.read("/v1/rejected").await
    }

    pub(crate) async fn wireguard(&self) -> Wireguard {
        self.read("/v1/wireguard").await
    }

    /// Waits until `cluster` is ready.
    pub(crate) async fn until_ready(&self, cluster: &str) {
        let ready =
            |status: &Status| status.clusters.iter().any(|known| known.name == cluster && known.ready);
        self.until_status(&format!("{cluster} is ready"), ready).await;
    }
}

/// What a mirror writes for a cluster with these nodes.
pub(crate) struct Mirrored {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
}

impl Mirrored {
    pub(crate) fn config_key(&self) -> String {
        format!("cilium/cluster-config/{}", self.name)
    }

    pub(crate) fn config(&self) -> String {
        let id = self.id;
        format!(
            r#"{{"id":{id},"capabilities":{{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}}}"#
        )
    }

    pub(crate) fn canary_keys(&self) -> [String; 4] {
        ["nodes", "ip", "identities", "services"]
            .map(|kind| format!("cilium/synced/{}/cilium/cache/{kind}/v1", self.name))
    }

    pub(crate) fn node_key(&self, node: &str) -> String {
        format!("cilium/cache/nodes/v1/{}/{node}", self.name)
    }

    pub(crate) fn node(&self, node: &str) -> String {
        let (name, id) = (self.name, self.id);
        let last = node.bytes().last().unwrap();
        format!(
            r#"{{"Name":"{node}","Cluster":"{name}","ClusterID":{id},"IPAddresses":[{{"Type":"InternalIP","IP":"192.0.{id}.{last}"}}]}}"#
        )
    }

    pub(crate) fn service(&self, name: &str, backends: &[&str]) -> (String, String) {
        let ports = r#"{"http":{"Protocol":"TCP","Port":8080}}"#;
        let backends: Vec<_> = backends.iter().map(|address| format!(r#""{address}":{ports}"#)).collect();
        let (cluster, id, backends) = (self.name, self.id, backends.join(","));
        let value = format!(
            r#"{{"cluster":"{cluster}","namespace":"shop","name":"{name}","frontends":{{}},"backends":{{{backends}}},"labels":{{}},"selector":{{}},"includeExternal":true,"shared":true,"clusterID":{id}}}"#
        );
        (format!("cilium/cache/services/v1/{cluster}/shop/{name}"), value)
    }

    /// Writes the cluster as a mirror does: configuration, data, canaries.
    pub(crate) async fn write(&self, serving: &Serving, nodes: &[&str], lease: LeaseId) {
        serving.put_leased(&self.config_key(), self.config(), lease).await;
        for node in nodes {
            serving.put_leased(&self.node_key(node), self.node(node), lease).await;
        }
        for canary in self.canary_keys() {
            serving.put_leased(&canary, "2026-01-05T08:30:00Z", lease).await;
        }
    }
}
