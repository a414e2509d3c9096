//! Puts the agent together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::{Backoff, Readiness, Restart, Supervisor};
use mesh_types::LocalCluster;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

use crate::api::{Api, SocketError, bind_socket, schema};
use crate::datapath::{self, MakeDatapath};
use crate::encrypt::{Encrypt, EncryptSettings};
use crate::engine::{Engine, Handle, Patience};
use crate::followed;
use crate::ipcache::NodeOptions;
use crate::local::{self, NodesToSee, Seen};
use crate::metrics;
use crate::publish;
use crate::tables::{LocalEvent, Tables};
use mesh_observe::{Dial, Observer, ObserverSettings};

/// Batches of events that wait for the tables; when it is full the watches wait, and the store bounds the rest.
const QUEUE: usize = 64;
/// Waits before a failed task runs again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));

/// How an agent works.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// This cluster.
    pub local: LocalCluster,
    /// This node's name in Kubernetes.
    pub node: Arc<str>,
    /// This cluster has both address families.
    pub dual_stack: bool,
    /// Nodes are reached over IPv6.
    pub ipv6_underlay: bool,
    /// How long `ready` and the first removals wait for what was never complete.
    pub sync_timeout: Duration,
    /// How long a cluster stays whose configuration is absent without evidence of a removal; zero is for ever.
    pub absent_grace: Duration,
    /// Where the socket is.
    pub socket: PathBuf,
    /// Encryption, if it is on.
    pub encrypt: Option<EncryptSettings>,
}

/// Where the local objects come from.
pub enum LocalSource {
    /// The Kubernetes API.
    Kubernetes(kube::Client),
    /// Somebody else, who names every kind as listed in time.
    Fed(mpsc::Receiver<Vec<LocalEvent>>),
}

/// What an agent is connected to.
pub struct Surroundings {
    /// The local store.
    pub store: Arc<dyn Dial>,
    /// The local objects.
    pub local: LocalSource,
    /// Who carries services out.
    pub datapath: MakeDatapath,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The WireGuard key cannot be had.
    #[error("WireGuard key")]
    Key(#[from] wireguard::KeyFileError),
}

/// Starts the tasks of an agent.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn start(
    settings: AgentSettings,
    surroundings: Surroundings,
    tasks: &Supervisor,
    readiness: &Readiness,
    registry: &mut Registry,
) -> Result<Handle, StartError> {
    let listener = bind_socket(&settings.socket)?;
    let encrypt = settings.encrypt.clone();
    let encrypt = match encrypt {
        Some(encrypt) => {
            let key = wireguard::PrivateKey::load_or_create(&encrypt.key_file)?;
            Some((encrypt, Arc::new(key)))
        }
        None => None,
    };

    let options = NodeOptions {
        wireguard: encrypt.is_some(),
        dual_stack: settings.dual_stack,
        ipv6_underlay: settings.ipv6_underlay,
    };
    let mut tables = Tables::new(settings.local.clone(), &settings.node, options);
    tables.awaits_cilium_nodes =
        options.wireguard && matches!(surroundings.local, LocalSource::Kubernetes(_));
    let (events_in, events) = mpsc::channel(QUEUE);
    let (local_in, local_queue) = mpsc::channel(QUEUE);
    let (local_events, client) = match surroundings.local {
        LocalSource::Kubernetes(client) => (local_queue, Some(client)),
        LocalSource::Fed(events) => (events, None),
    };
    let followed = followed::file_beside(&settings.socket);
    let patience = Patience { sync_timeout: settings.sync_timeout, expected: followed::load(&followed) };
    let (engine, handle, outputs) =
        Engine::new(tables, events, local_events, readiness.guard("synced"), patience);
    tasks.spawn_once("tables", |stop| engine.run(stop));
    let names = outputs.followed.clone();
    tasks.spawn_once("followed", |stop| followed::remember(followed, names, stop));

    let (datapath_view, datapath_out) = watch::channel(schema::DatapathStatus::default());
    let (make, desired) = (surroundings.datapath, outputs.services.clone());
    tasks.spawn("datapath", Restart::WithBackoff(BACKOFF), move |stop| {
        datapath::run(make(), desired.clone(), datapath_view.clone(), stop)
    });

    let (published, published_out) = watch::channel(false);
    let (wireguard_view, wireguard_out) = watch::channel(schema::Wireguard::default());
    metrics::register(registry, outputs.status.clone(), datapath_out.clone(), wireguard_out.clone());
    let (node_in, node_seen) = watch::channel(Seen::Unknown);
    if let Some((encrypt, key)) = encrypt {
        let public_key = key.public().annotation_value();
        wireguard_view.send_modify(|view| {
            view.summary.enabled = true;
            view.summary.public_key = Some(public_key.clone());
        });
        let view = wireguard_view;
        let encrypt =
            Encrypt { settings: encrypt, key, handle: handle.clone(), addresses: outputs.addresses, view };
        tasks.spawn("wireguard", Restart::WithBackoff(BACKOFF), move |stop| encrypt.clone().run(stop));
        if let Some(client) = &client {
            let (cilium_in, cilium_seen) = watch::channel(Seen::Unknown);
            let (watcher, name, nodes) = (client.clone(), Arc::clone(&settings.node), local_in.clone());
            tasks.spawn_once("kubernetes/CiliumNode", |stop| {
                local::cilium_nodes(watcher, name, cilium_in, nodes, stop)
            });
            let (client, name) = (client.clone(), Arc::clone(&settings.node));
            tasks.spawn_once("wireguard-key", |stop| {
                publish::run(client, name, public_key, cilium_seen, node_seen, published, stop)
            });
        }
    }

    let api = Api {
        handle: handle.clone(),
        status: outputs.status,
        datapath: datapath_out,
        wireguard: wireguard_out,
        published: published_out,
    };
    let socket = settings.socket;
    tasks.spawn_once("socket", |stop| api.serve(listener, socket, stop));
    if let Some(client) = client {
        let name = settings.node;
        let which = if options.wireguard { NodesToSee::All } else { NodesToSee::Own };
        let (services, slices, nodes) = (local_in.clone(), local_in.clone(), local_in);
        let (for_services, for_slices) = (client.clone(), client.clone());
        tasks.spawn_once("kubernetes/Service", |stop| local::services(for_services, services, stop));
        tasks.spawn_once("kubernetes/EndpointSlice", |stop| local::slices(for_slices, slices, stop));
        tasks.spawn_once("kubernetes/Node", move |stop| {
            local::nodes(client, name, which, node_in, nodes, stop)
        });
    }
    let observer = ObserverSettings {
        local: settings.local,
        kinds: mesh_observe::KINDS.to_vec(),
        absent_grace: settings.absent_grace,
        backoff: BACKOFF,
    };
    let observer = Observer::new(observer, surroundings.store, events_in, &tasks.spawner());
    tasks.spawn_once("store", |stop| observer.run(stop));
    Ok(handle)
}
