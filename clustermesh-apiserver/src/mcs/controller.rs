//! The shell around the plans: watches feed the world, plans come out, requests go to the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use kube_watch::{DecodeError, Event, ObjectKey, RawObject, Resource, WatchOptions, watch};
use mesh_runtime::{Backoff, Retry, jitter};
use mesh_types::{ClusterEndpointSlice, ClusterName, ClusterService, Reason, Rejection, ServiceExport};
use serde_json::Value;
use tokio::sync::{mpsc, watch as status_channel};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::objects::{Action, Kind};
use super::plan::{Plan, plan};
use super::world::{
    LocalExport, LocalService, LocalSlice, Namespace, ServiceKey, World, decode_export, decode_namespace,
    decode_service, decode_slice, whole,
};

const GROUP: &str = "multicluster.x-k8s.io";
/// Versions in order of preference; the schemas are the same.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// Services whose requests are under way at once; enough to hide the round trips, too few to crowd an API server.
const PARALLEL: usize = 8;
/// Events taken together before plans are made, so that a burst makes one plan per service.
const BATCH: usize = 1024;
/// Waits between questions for the CRDs.
const CRD_RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
/// How long to ask for address families. Imports need not wait for a webhook that fails, or an API server that says nothing.
const FAMILY_QUESTIONS: Duration = Duration::from_secs(60);
/// Waits after a request failed, per service.
const REQUEST_RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));

/// What the controller is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The local cluster.
    pub cluster: ClusterName,
    /// Whether namespaces without the annotation take part in the mesh.
    pub namespaces_global_by_default: bool,
}

/// What is heard of the exports of other clusters.
#[derive(Clone, Debug)]
pub enum RemoteEvent {
    /// A cluster exports a service, in this form from now on.
    Exported {
        /// The exporting cluster.
        cluster: ClusterName,
        /// Its export.
        export: Box<ServiceExport>,
    },
    /// A cluster exports a service no more.
    Withdrawn {
        /// The cluster that exported it.
        cluster: ClusterName,
        /// Namespace of the service.
        namespace: String,
        /// Name of the service.
        name: String,
    },
    /// A cluster offers these backends of a derived Service from now on.
    Offered {
        /// The cluster.
        cluster: ClusterName,
        /// The service with its backends.
        service: Box<ClusterService>,
    },
    /// A cluster offers no backends of a service any more.
    OfferWithdrawn {
        /// The cluster.
        cluster: ClusterName,
        /// Namespace of the service.
        namespace: String,
        /// Name of the service.
        name: String,
    },
    /// A cluster offers this slice of a Service's endpoints from now on.
    SliceOffered {
        /// The cluster.
        cluster: ClusterName,
        /// The slice.
        slice: Box<ClusterEndpointSlice>,
    },
    /// A cluster offers a slice no more.
    SliceWithdrawn {
        /// The cluster.
        cluster: ClusterName,
        /// Namespace of the slice.
        namespace: String,
        /// Name of the slice.
        name: String,
    },
    /// A cluster left the mesh.
    ClusterGone(ClusterName),
    /// All exports, services and slices of a cluster are known. Until then no import that the cluster takes part in changes.
    Read(ClusterName),
    /// Clusters that were not read by now are not waited for any more.
    WaitedEnough,
}

/// How far the controller is, for `status` and readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Group and version of the resources in use; absent until the CRDs are there.
    pub api_version: Option<String>,
    /// Inputs that have not been listed yet.
    pub pending: BTreeSet<&'static str>,
    /// Services, as `namespace/name`, of which something is withheld, and why.
    pub withheld: BTreeMap<String, Vec<Rejection>>,
    /// Objects that cannot be decoded, as `kind namespace/name`.
    pub undecodable: BTreeMap<String, Rejection>,
    /// The last failure of a request, by service.
    pub failing: BTreeMap<String, String>,
}

enum Input {
    Namespace(Event<Namespace>),
    Export(Event<LocalExport>),
    Import(Event<Value>),
    Service(Event<LocalService>),
    Slice(Event<(Option<String>, LocalSlice)>),
    Remote(RemoteEvent),
}

/// Follows exports and keeps imports, derived Services and their slices, until `stop`.
///
/// Waits for the CRDs as long as it takes. On `stop` nothing is withdrawn.
///
/// # Errors
/// A consumer that is gone, which cannot happen while this future lives.
pub async fn run(
    config: Config,
    client: Client,
    remote: mpsc::Receiver<RemoteEvent>,
    status: status_channel::Sender<Status>,
    stop: CancellationToken,
) -> Result<(), kube_watch::ConsumerGone> {
    let Some(version) = stop.run_until_cancelled(served_version(&client)).await else { return Ok(()) };
    let offered = timeout(FAMILY_QUESTIONS, offered_families(&client));
    let Some(offered) = stop.run_until_cancelled(offered).await else { return Ok(()) };
    let offered = offered.unwrap_or_else(|_elapsed| {
        warn!("nobody says which address families Services have");
        Vec::new()
    });
    let api_version = format!("{GROUP}/{version}");
    info!(api_version, "multi-cluster services API found");
    let mcs = |kind: &str, plural: &str| Resource::new(GROUP, version, kind, plural);
    let core = |kind: &str, plural: &str| Resource::new("", "v1", kind, plural);
    let resources = Resources {
        exports: mcs("ServiceExport", "serviceexports"),
        imports: mcs("ServiceImport", "serviceimports"),
        services: core("Service", "services"),
        slices: Resource::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    };
    let namespaces = core("Namespace", "namespaces");
    let (run_namespaces, in_namespaces) =
        input(&client, &namespaces, decode_namespace, Input::Namespace, &stop);
    let (run_exports, in_exports) = input(&client, &resources.exports, decode_export, Input::Export, &stop);
    let (run_imports, in_imports) = input(&client, &resources.imports, whole, Input::Import, &stop);
    let (run_services, in_services) =
        input(&client, &resources.services, decode_service, Input::Service, &stop);
    let (run_slices, in_slices) = input(&client, &resources.slices, decode_slice, Input::Slice, &stop);
    let in_remote = ReceiverStream::new(remote).map(Input::Remote).boxed();
    let inputs =
        stream::select_all([in_namespaces, in_exports, in_imports, in_services, in_slices, in_remote]);
    let controller = Controller {
        world: World::new(config.cluster, config.namespaces_global_by_default, offered),
        client,
        resources,
        retries: BTreeMap::new(),
        dirty: BTreeSet::new(),
        report: Status {
            api_version: Some(api_version.clone()),
            pending: ["namespaces", "serviceexports", "serviceimports", "services", "endpointslices"].into(),
            ..Status::default()
        },
        api_version,
        status,
    };
    let work = async {
        controller.run(inputs, stop.clone()).await;
        Ok(())
    };
    tokio::try_join!(run_namespaces, run_exports, run_imports, run_services, run_slices, work)?;
    Ok(())
}

type Inputs = stream::BoxStream<'static, Input>;

/// A watch and its events as one kind of input.
fn input<T, D>(
    client: &Client,
    resource: &Resource,
    decode: D,
    wrap: fn(Event<T>) -> Input,
    stop: &CancellationToken,
) -> (impl Future<Output = Result<(), kube_watch::ConsumerGone>> + use<T, D>, Inputs)
where
    T: Send + 'static,
    D: FnMut(&RawObject<'_>) -> Result<T, DecodeError> + Send + 'static,
{
    let (task, events, _status) = watch(client.clone(), resource.clone(), decode, WatchOptions::default());
    (task.run(stop.clone()), ReceiverStream::new(events).map(wrap).boxed())
}

/// Asks until one version of both MCS resources is served.
async fn served_version(client: &Client) -> &'static str {
    let mut retry = CRD_RETRY.retry();
    loop {
        for version in VERSIONS {
            match client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
                Ok(found) => {
                    let has = |plural: &str| found.resources.iter().any(|resource| resource.name == plural);
                    if has("serviceexports") && has("serviceimports") {
                        return version;
                    }
                }
                Err(error) => debug!(%error, version, "ask for the multi-cluster services API"),
            }
        }
        info!(reason = %Reason::CrdAbsent, "the CRDs of {GROUP} are not installed; waiting for them");
        tokio::time::sleep(retry.next_delay(jitter())).await;
    }
}

/// The address families that Services can have here, the default first: those that a Service would get that takes all
/// there are, which is asked for without being made. None if that is refused; then the derived Services tell.
async fn offered_families(client: &Client) -> Vec<String> {
    let mut retry = REQUEST_RETRY.retry();
    let service = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "isthmus-families"},
        "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]},
    });
    let services = Resource::new("", "v1", "Service", "services");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", services.api());
    let post = PostParams { dry_run: true, ..PostParams::default() };
    loop {
        let asked = async {
            let service = serde_json::from_value(service.clone()).map_err(kube::Error::SerdeError)?;
            api.create(&post, &service).await
        };
        match asked.await {
            Ok(service) => {
                let families = service.data.pointer("/spec/ipFamilies").and_then(Value::as_array);
                let families = families.into_iter().flatten().filter_map(Value::as_str);
                let families: Vec<_> = families.map(str::to_owned).collect();
                info!(?families, "address families of Services");
                return families;
            }
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                warn!(%status, "the API server does not say which address families Services have");
                return Vec::new();
            }
            Err(error) => debug!(%error, "ask for the address families of Services"),
        }
        tokio::time::sleep(retry.next_delay(jitter())).await;
    }
}

struct Resources {
    exports: Resource,
    imports: Resource,
    services: Resource,
    slices: Resource,
}

struct Controller {
    world: World,
    client: Client,
    resources: Resources,
    api_version: String,
    dirty: BTreeSet<ServiceKey>,
    /// When to plan again for a service whose request failed.
    retries: BTreeMap<ServiceKey, (Instant, Retry)>,
    report: Status,
    status: status_channel::Sender<Status>,
}

impl Controller {
    async fn run(mut self, inputs: impl Stream<Item = Input> + Unpin, stop: CancellationToken) {
        let mut inputs = inputs.ready_chunks(BATCH);
        loop {
            let wake = self.retries.values().map(|(at, _)| *at).min();
            tokio::select! {
                () = stop.cancelled() => return,
                chunk = inputs.next() => match chunk {
                    Some(chunk) => chunk.into_iter().for_each(|input| self.take(input)),
                    None => return,
                },
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
            let now = Instant::now();
            let due = self.retries.iter().filter(|(_, (at, _))| *at <= now).map(|(key, _)| key.clone());
            self.dirty.extend(due.collect::<Vec<_>>());
            // Whoever does not lead any more leaves off in the middle: the plans of the next one begin with what is there.
            if self.report.pending.is_empty() && stop.run_until_cancelled(self.work()).await.is_none() {
                return;
            }
            self.status.send_if_modified(|shown| {
                let changed = *shown != self.report;
                if changed {
                    shown.clone_from(&self.report);
                }
                changed
            });
        }
    }

    fn take(&mut self, input: Input) {
        let world = &mut self.world;
        let report = &mut self.report;
        let touched = match input {
            Input::Namespace(event) => change(report, "namespaces", event, |key, namespace| {
                world.set_namespace(&key.name, namespace)
            }),
            Input::Export(event) => {
                change(report, "serviceexports", event, |key, export| world.set_export(key, export))
            }
            Input::Import(event) => {
                change(report, "serviceimports", event, |key, import| world.set_import(key, import))
            }
            Input::Service(event) => {
                change(report, "services", event, |key, service| world.set_service(key, service))
            }
            Input::Slice(event) => {
                change(report, "endpointslices", event, |key, slice| world.set_slice(&key, slice))
            }
            Input::Remote(RemoteEvent::Exported { cluster, export }) => {
                let key = ObjectKey::new(&export.namespace, &export.name);
                world.set_remote(&cluster, key, Some(*export))
            }
            Input::Remote(RemoteEvent::Withdrawn { cluster, namespace, name }) => {
                world.set_remote(&cluster, ObjectKey::new(&namespace, &name), None)
            }
            Input::Remote(RemoteEvent::Offered { cluster, service }) => {
                let key = ObjectKey::new(&service.namespace, &service.name);
                world.set_remote_service(&cluster, &key, Some(*service))
            }
            Input::Remote(RemoteEvent::OfferWithdrawn { cluster, namespace, name }) => {
                world.set_remote_service(&cluster, &ObjectKey::new(&namespace, &name), None)
            }
            Input::Remote(RemoteEvent::SliceOffered { cluster, slice }) => {
                let key = ObjectKey::new(&slice.namespace, &slice.name);
                world.set_remote_slice(&cluster, &key, Some(*slice))
            }
            Input::Remote(RemoteEvent::SliceWithdrawn { cluster, namespace, name }) => {
                world.set_remote_slice(&cluster, &ObjectKey::new(&namespace, &name), None)
            }
            Input::Remote(RemoteEvent::ClusterGone(cluster)) => world.remove_cluster(&cluster),
            Input::Remote(RemoteEvent::Read(cluster)) => world.set_read(&cluster),
            Input::Remote(RemoteEvent::WaitedEnough) => world.stop_waiting(),
        };
        self.dirty.extend(touched);
    }

    /// Plans for every dirty service and carries the plans out, a few services at a time.
    async fn work(&mut self) {
        let now = Timestamp::now()
            .round(jiff::Unit::Second)
            .unwrap_or_else(|_out_of_range| Timestamp::now())
            .to_string();
        let plans: Vec<(ServiceKey, Plan)> = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|key| {
                let plan = plan(&self.world, &key, &self.api_version, &now);
                self.world.prune(&key);
                (key, plan)
            })
            .collect();
        let mut work = Vec::new();
        for (key, Plan { actions, withheld }) in plans {
            self.show(&key, withheld);
            if actions.is_empty() {
                self.succeeded(&key);
            } else {
                work.push((key, actions));
            }
        }
        let (client, resources) = (&self.client, &self.resources);
        let outcomes: Vec<_> = stream::iter(work)
            .map(|(key, actions)| async move {
                let outcome = carry_out(client, resources, actions).await;
                (key, outcome)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (key, outcome) in outcomes {
            match outcome {
                Ok(()) => self.succeeded(&key),
                Err(error) => self.failed(key, &error),
            }
        }
    }

    /// Keeps what is withheld for `status`, and logs it once.
    fn show(&mut self, key: &ServiceKey, withheld: Vec<Rejection>) {
        let name = key.to_string();
        if self.report.withheld.get(&name).map_or(&[][..], Vec::as_slice) == withheld {
            return;
        }
        for rejection in &withheld {
            info!(service = %key, reason = %rejection.reason, "{}", rejection.detail);
        }
        if withheld.is_empty() {
            self.report.withheld.remove(&name);
        } else {
            self.report.withheld.insert(name, withheld);
        }
    }

    fn succeeded(&mut self, key: &ServiceKey) {
        self.retries.remove(key);
        self.report.failing.remove(&key.to_string());
    }

    fn failed(&mut self, key: ServiceKey, error: &kube::Error) {
        let mut retry = self.retries.remove(&key).map_or_else(|| REQUEST_RETRY.retry(), |(_, retry)| retry);
        let wait = retry.next_delay(jitter());
        if is_conflict(error) {
            debug!(service = %key, %error, "the object changed meanwhile; planning again");
        } else {
            warn!(service = %key, %error, ?wait, "a request failed; trying again");
            self.report.failing.insert(key.to_string(), error.to_string());
        }
        self.retries.insert(key, (Instant::now() + wait, retry));
    }
}

/// Applies one event of a watch: which services it touches.
fn change<T>(
    report: &mut Status,
    kind: &'static str,
    event: Event<T>,
    set: impl FnOnce(ObjectKey, Option<T>) -> Vec<ServiceKey>,
) -> Vec<ServiceKey> {
    let name = |key: &ObjectKey| format!("{kind} {key}");
    match event {
        Event::Applied { key, object } => {
            report.undecodable.remove(&name(&key));
            set(key, Some(object))
        }
        Event::Deleted { key } => {
            report.undecodable.remove(&name(&key));
            set(key, None)
        }
        Event::Undecodable { key, error } => {
            warn!(object = %key, kind, reason = %Reason::ObjectUndecodable, %error, "object skipped");
            report
                .undecodable
                .insert(name(&key), Rejection::new(Reason::ObjectUndecodable, error.to_string()));
            Vec::new()
        }
        Event::InitialListDone => {
            report.pending.remove(kind);
            Vec::new()
        }
    }
}

/// All that can be done of a plan; the first failure.
async fn carry_out(client: &Client, resources: &Resources, actions: Vec<Action>) -> Result<(), kube::Error> {
    let mut failed = Ok(());
    for action in actions {
        let others_need_it = match &action {
            Action::Create(kind, _) | Action::Replace(kind, _) => *kind != Kind::Slice,
            Action::ReplaceStatus(..) | Action::Delete(..) => false,
        };
        match request(client, resources, action).await {
            Ok(()) => {}
            Err(error) if is_moot(&error) => debug!(%error, "request without object"),
            Err(error) if others_need_it => return failed.and(Err(error)),
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    failed
}

async fn request(client: &Client, resources: &Resources, action: Action) -> Result<(), kube::Error> {
    let api = |kind: Kind, namespace: &str| -> Api<DynamicObject> {
        let resource = match kind {
            Kind::Export => &resources.exports,
            Kind::Import => &resources.imports,
            Kind::Service => &resources.services,
            Kind::Slice => &resources.slices,
        };
        Api::namespaced_with(client.clone(), namespace, resource.api())
    };
    let place = |object: &Value| {
        let text = |field| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("namespace"), text("name"))
    };
    let post = PostParams { field_manager: Some("isthmus-mcs".to_owned()), ..PostParams::default() };
    match action {
        Action::Create(kind, object) => {
            let (namespace, name) = place(&object);
            debug!(?kind, namespace, name, "create");
            let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            api(kind, &namespace).create(&post, &object).await?;
        }
        Action::Replace(kind, object) => {
            let (namespace, name) = place(&object);
            debug!(?kind, namespace, name, "replace");
            let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            api(kind, &namespace).replace(&name, &post, &object).await?;
        }
        Action::ReplaceStatus(kind, object) => {
            let (namespace, name) = place(&object);
            debug!(?kind, namespace, name, "patch status");
            let version = &object["metadata"]["resourceVersion"];
            let mut patch = serde_json::json!({"status": object["status"]});
            if !version.is_null() {
                patch["metadata"] = serde_json::json!({"resourceVersion": version});
            }
            api(kind, &namespace).patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Action::Delete(kind, key, uid) => {
            debug!(?kind, object = %key, "delete");
            let only = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::background() };
            api(kind, &key.namespace).delete(&key.name, &params).await?;
        }
    }
    Ok(())
}

/// The object is already there, already gone, or its namespace is on its way out: the watch will say so.
fn is_moot(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let terminating = status.code == 403 && status.message.contains("being terminated");
    status.code == 404 || status.reason == "AlreadyExists" || terminating
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
