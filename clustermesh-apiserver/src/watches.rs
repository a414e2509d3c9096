//! The watches of all kinds, as one stream of inputs.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use kube::Client;
use kube_watch::{ConsumerGone, DecodeError, Event, RawObject, Resource, WatchOptions, WatchStatus, watch};
use serde::de::DeserializeOwned;
use tokio::sync::watch as status_channel;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::discovery::{Discovered, MCS_GROUP};
use crate::export::{Input, Kind, Pod, Service, ServiceExport, Sources};

/// How far each watch is.
pub(crate) type Statuses = BTreeMap<Kind, status_channel::Receiver<WatchStatus>>;

/// The watches that are under way; dropping this ends them.
pub(crate) struct Watches {
    client: Client,
    tasks: JoinSet<Result<(), ConsumerGone>>,
    streams: Vec<BoxStream<'static, Input>>,
    statuses: Statuses,
    stop: CancellationToken,
}

impl Watches {
    /// Watches every kind of `sources` that the API server is known to have.
    pub(crate) fn start(client: Client, sources: Sources, found: Discovered) -> Self {
        let mut watches = Self {
            client,
            tasks: JoinSet::new(),
            streams: Vec::new(),
            statuses: BTreeMap::new(),
            stop: CancellationToken::new(),
        };
        for kind in sources.kinds() {
            watches.follow_kind(kind, found);
        }
        watches
    }

    /// How far each watch is.
    pub(crate) fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// What all watches tell, in the order in which each tells it. A second call gives nothing.
    pub(crate) fn inputs(&mut self) -> SelectAll<BoxStream<'static, Input>> {
        select_all(std::mem::take(&mut self.streams))
    }

    /// Ends only if a watch breaks down, which it does not by itself.
    pub(crate) async fn broken(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) => "it stopped".to_owned(),
            Some(Ok(Err(gone))) => gone.to_string(),
            Some(Err(panicked)) => panicked.to_string(),
            None => std::future::pending().await,
        }
    }

    fn follow_kind(&mut self, kind: Kind, found: Discovered) {
        let core = |plural: &str| Resource::new("", "v1", kind.name(), plural);
        let cilium = |version: &str, plural: &str| Resource::new("cilium.io", version, kind.name(), plural);
        match kind {
            Kind::Namespace => self.follow(kind, core("namespaces"), parse, Input::Namespace),
            Kind::Node => self.follow(kind, core("nodes"), parse, Input::Node),
            Kind::Pod => {
                let decode = |raw: &RawObject<'_>| parse(raw).map(Pod::trimmed);
                self.follow(kind, core("pods"), decode, Input::Pod);
            }
            Kind::Service => {
                let decode = |raw: &RawObject<'_>| parse(raw).map(Service::trimmed);
                self.follow(kind, core("services"), decode, Input::Service);
            }
            Kind::EndpointSlice => {
                let resource = Resource::new("discovery.k8s.io", "v1", kind.name(), "endpointslices");
                self.follow(kind, resource, parse, Input::EndpointSlice);
            }
            Kind::ServiceExport => {
                let Some(version) = found.exports else { return };
                let resource = Resource::new(MCS_GROUP, version, kind.name(), "serviceexports");
                let decode = |raw: &RawObject<'_>| parse(raw).map(ServiceExport::trimmed);
                self.follow(kind, resource, decode, Input::ServiceExport);
            }
            Kind::CiliumNode => self.follow(kind, cilium("v2", "ciliumnodes"), parse, Input::CiliumNode),
            Kind::CiliumIdentity => {
                self.follow(kind, cilium("v2", "ciliumidentities"), parse, Input::CiliumIdentity);
            }
            Kind::CiliumEndpoint => {
                self.follow(kind, cilium("v2", "ciliumendpoints"), parse, Input::CiliumEndpoint);
            }
            Kind::CiliumEndpointSlice => {
                let resource = cilium("v2alpha1", "ciliumendpointslices");
                self.follow(kind, resource, parse, Input::CiliumEndpointSlice);
            }
            // Read by their allocator, which also writes them.
            Kind::IdentityRecord => {}
        }
    }

    fn follow<T: Send + 'static>(
        &mut self,
        kind: Kind,
        resource: Resource,
        decode: fn(&RawObject<'_>) -> Result<T, DecodeError>,
        wrap: fn(Event<T>) -> Input,
    ) {
        let (task, events, status) = watch(self.client.clone(), resource, decode, WatchOptions::default());
        self.tasks.spawn(task.run(self.stop.clone()).in_current_span());
        self.streams.push(ReceiverStream::new(events).map(wrap).boxed());
        self.statuses.insert(kind, status);
    }
}

fn parse<T: DeserializeOwned>(raw: &RawObject<'_>) -> Result<T, DecodeError> {
    raw.parse()
}
