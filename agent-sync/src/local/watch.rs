//! The watches of the local Kubernetes API.

use std::sync::Arc;

use kube::Client;
use kube_watch::{
    ConsumerGone, DecodeError, Event, ObjectKey, RawObject, Resource, WatchOptions, WatchState, WatchStatus,
    watch,
};
use mesh_types::{Reason, Rejection};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{KubeNode, kube_node, service, slice};
use crate::services::ServiceName;
use crate::tables::{KubeView, LocalEvent, LocalKind, NodeSource};

/// Events taken together.
const TAKE: usize = 256;

/// What is known of an object that may exist or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Not asked yet.
    #[default]
    Unknown,
    /// There is none, or there is no such kind.
    Absent,
    /// This is it.
    Present(KubeNode),
}

/// Services → events.
pub(crate) async fn services(
    client: Client,
    out: mpsc::Sender<Vec<LocalEvent>>,
    stop: CancellationToken,
) -> Result<(), ConsumerGone> {
    let resource = Resource::new("", "v1", "Service", "services");
    let decode = |object: &RawObject<'_>| service(object.json()).map(Box::new);
    let event =
        |key: &ObjectKey, service| LocalEvent::Service(ServiceName::new(&key.namespace, &key.name), service);
    follow(client, resource, LocalKind::Service, decode, event, out, stop).await
}

/// EndpointSlices → events.
pub(crate) async fn slices(
    client: Client,
    out: mpsc::Sender<Vec<LocalEvent>>,
    stop: CancellationToken,
) -> Result<(), ConsumerGone> {
    let resource = Resource::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
    let decode = |object: &RawObject<'_>| Ok(slice(object.namespace(), object.json())?.map(Box::new));
    let event = |key: &ObjectKey, content: Option<Option<_>>| LocalEvent::Slice {
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
        content: content.flatten(),
    };
    follow(client, resource, LocalKind::EndpointSlice, decode, event, out, stop).await
}

/// Which Nodes are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodesToSee {
    /// This one.
    Own,
    /// All of them: encryption may not route away what they use.
    All,
}

/// Nodes → events, and what is known of the one called `name` for the publisher of the key.
pub(crate) async fn nodes(
    client: Client,
    name: Arc<str>,
    which: NodesToSee,
    seen: watch::Sender<Seen>,
    out: mpsc::Sender<Vec<LocalEvent>>,
    stop: CancellationToken,
) -> Result<(), ConsumerGone> {
    let resource = Resource::new("", "v1", "Node", "nodes");
    let resource = match which {
        NodesToSee::Own => resource.with_fields(format!("metadata.name={name}")),
        NodesToSee::All => resource,
    };
    let decode = |object: &RawObject<'_>| kube_node(object.json()).map(Box::new);
    let event = |key: &ObjectKey, node: Option<Box<KubeNode>>| {
        if key.name != name {
            let prefixes = node.as_ref().map(|node| node.prefixes()).unwrap_or_default();
            return LocalEvent::Neighbour(NodeSource::Node, Arc::clone(&key.name), prefixes);
        }
        seen.send_replace(node.as_ref().map_or(Seen::Absent, |node| Seen::Present((**node).clone())));
        LocalEvent::OwnNode(node)
    };
    follow(client, resource, LocalKind::Node, decode, event, out, stop).await
}

/// CiliumNodes → events, and what is known of the one called `name` for the publisher of the key.
pub(crate) async fn cilium_nodes(
    client: Client,
    name: Arc<str>,
    seen: watch::Sender<Seen>,
    out: mpsc::Sender<Vec<LocalEvent>>,
    stop: CancellationToken,
) -> Result<(), ConsumerGone> {
    let resource = Resource::new("cilium.io", "v2", "CiliumNode", "ciliumnodes");
    let decode = |object: &RawObject<'_>| kube_node(object.json());
    let (task, mut events, mut status) = watch(client, resource, decode, WatchOptions::default());
    let note = async {
        loop {
            let told = tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Applied { key, object }) => {
                        let uses = object.prefixes();
                        if key.name == name {
                            seen.send_replace(Seen::Present(object));
                        }
                        LocalEvent::Neighbour(NodeSource::CiliumNode, key.name, uses)
                    }
                    Some(Event::Deleted { key }) => {
                        if key.name == name {
                            seen.send_replace(Seen::Absent);
                        }
                        LocalEvent::Neighbour(NodeSource::CiliumNode, key.name, Vec::new())
                    }
                    Some(Event::InitialListDone) => {
                        seen.send_if_modified(|seen| {
                            let unknown = *seen == Seen::Unknown;
                            if unknown {
                                *seen = Seen::Absent;
                            }
                            unknown
                        });
                        LocalEvent::CiliumNodesListed
                    }
                    // It exists; what it says is unknown, so nothing is decided by it.
                    Some(Event::Undecodable { .. }) => continue,
                    None => return,
                },
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !matches!(status.borrow_and_update().state, WatchState::Absent) {
                        continue;
                    }
                    seen.send_replace(Seen::Absent);
                    LocalEvent::CiliumNodesListed
                }
            };
            if out.send(vec![told]).await.is_err() {
                return;
            }
        }
    };
    futures::future::join(task.run(stop), note).await.0
}

async fn follow<T: Send, D, E>(
    client: Client,
    resource: Resource,
    kind: LocalKind,
    decode: D,
    event: E,
    out: mpsc::Sender<Vec<LocalEvent>>,
    stop: CancellationToken,
) -> Result<(), ConsumerGone>
where
    D: FnMut(&RawObject<'_>) -> Result<T, DecodeError> + Send,
    E: Fn(&ObjectKey, Option<T>) -> LocalEvent,
{
    let (task, mut events, mut status) = watch(client, resource, decode, WatchOptions::default());
    let forward = async {
        let mut taken = Vec::new();
        let mut listed = false;
        loop {
            let batch: Vec<LocalEvent> = tokio::select! {
                // The end of the list must not overtake the objects before it.
                biased;
                count = events.recv_many(&mut taken, TAKE) => {
                    if count == 0 {
                        return;
                    }
                    listed |= taken.iter().any(|event| matches!(event, Event::InitialListDone));
                    let mut batch: Vec<_> =
                        taken.drain(..).flat_map(|taken| translate(kind, taken, &event)).collect();
                    batch.push(LocalEvent::Watch(kind, view(&status.borrow(), listed)));
                    batch
                }
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    vec![LocalEvent::Watch(kind, view(&status.borrow_and_update(), listed))]
                }
            };
            if out.send(batch).await.is_err() {
                return;
            }
        }
    };
    futures::future::join(task.run(stop), forward).await.0
}

fn translate<T>(
    kind: LocalKind,
    event: Event<T>,
    make: impl Fn(&ObjectKey, Option<T>) -> LocalEvent,
) -> Vec<LocalEvent> {
    let decodes = |key: &ObjectKey| LocalEvent::Undecodable { kind, key: key.to_string(), refused: None };
    match event {
        Event::Applied { key, object } => vec![decodes(&key), make(&key, Some(object))],
        Event::Deleted { key } => vec![decodes(&key), make(&key, None)],
        Event::Undecodable { key, error } => {
            let refused =
                Rejection::new(Reason::ObjectUndecodable, format!("{} {key}: {error}", kind.word()));
            vec![LocalEvent::Undecodable { kind, key: key.to_string(), refused: Some(refused) }]
        }
        Event::InitialListDone => Vec::new(),
    }
}

fn view(status: &WatchStatus, listed: bool) -> KubeView {
    let error = match &status.state {
        WatchState::NotListed | WatchState::Listed => None,
        WatchState::Absent => Some("the API server does not have the kind".to_owned()),
        WatchState::Failing { error, .. } => Some(error.to_string()),
    };
    KubeView { listed, live: status.state.is_listed(), error }
}
