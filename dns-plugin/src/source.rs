//! From the API server to the published zone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kube::Client;
use kube_watch::{
    DecodeError, Event, ObjectKey, RawObject, Resource, Watch, WatchOptions, WatchState, WatchStatus, watch,
};
use mesh_runtime::{ReadyGuard, Spawner};
use serde::Serialize;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::object::{self, Decoded, SERVICE_NAME};
use crate::published::Published;
use crate::service::{Import, Slice};
use crate::table::{Kind, Skipped, Table};
use crate::zone::Zone;

/// Events taken in before the zone is published again: a burst costs one publication.
const BATCH: usize = 1024;
/// Skipped objects that `status` shows; the counts are those of all.
const MAX_SHOWN: usize = 1000;

type Decode<T> = fn(&RawObject<'_>) -> Result<T, DecodeError>;
type SliceContent = Option<(String, Slice)>;

/// The watches, and what turns them into a zone.
pub struct Source {
    imports: Watch<Decoded<Import>, Decode<Decoded<Import>>>,
    slices: Watch<Decoded<SliceContent>, Decode<Decoded<SliceContent>>>,
    namespaces: Watch<(), Decode<()>>,
    builder: Builder,
    observer: Observer,
}

/// Sees how the source is doing; cheap to clone.
#[derive(Clone, Debug)]
pub struct Observer {
    published: Published,
    watches: BTreeMap<Kind, tokio::sync::watch::Receiver<WatchStatus>>,
}

/// State of the DNS server, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The domain.
    pub zone: String,
    /// Whether all names are known; until then every question is answered SERVFAIL.
    pub synced: bool,
    /// Serial of the SOA record: Unix time of the last change.
    pub serial: u32,
    /// Services that have names.
    pub services: usize,
    /// The watches behind the zone.
    pub watches: BTreeMap<Kind, WatchView>,
    /// What is not served, and why; the first of them if they are many.
    pub skipped: Vec<Skipped>,
    /// How many there are.
    pub skipped_total: usize,
}

/// State of one watch.
#[derive(Clone, Debug, Serialize)]
pub struct WatchView {
    /// `not-listed`, `listed`, `absent` or `failing`.
    pub state: &'static str,
    /// Why it fails, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds since the API server last said something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard_seconds_ago: Option<u64>,
    /// Objects known.
    pub objects: usize,
    /// Those among them whose latest form does not decode.
    pub undecodable: usize,
}

impl Source {
    /// Prepares the watches behind `published`, which begins as a zone that is not synced.
    pub fn new(client: &Client, published: Published) -> Self {
        let imports = Resource::new("multicluster.x-k8s.io", "v1beta1", "ServiceImport", "serviceimports");
        let imports = imports.or_version("v1alpha1");
        let slices = Resource::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
        let slices = slices.with_labels(SERVICE_NAME);
        let namespaces = Resource::new("", "v1", "Namespace", "namespaces");
        let options = WatchOptions::default();
        let (imports, import_events, import_status) =
            watch(client.clone(), imports, object::import as Decode<_>, options);
        let (slices, slice_events, slice_status) =
            watch(client.clone(), slices, object::slice as Decode<_>, options);
        let (namespaces, namespace_events, namespace_status) =
            watch(client.clone(), namespaces, object::namespace as Decode<_>, options);
        let watches = BTreeMap::from([
            (Kind::ServiceImport, import_status),
            (Kind::EndpointSlice, slice_status),
            (Kind::Namespace, namespace_status),
        ]);
        let builder = Builder {
            imports: import_events,
            slices: slice_events,
            namespaces: namespace_events,
            table: Table::default(),
            zone: published.snapshot(),
            published: published.clone(),
        };
        Self { imports, slices, namespaces, builder, observer: Observer { published, watches } }
    }

    /// Sees the source from outside.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Starts the tasks; `ready` once every name is known.
    pub fn spawn(self, tasks: &Spawner, ready: ReadyGuard) {
        let Self { imports, slices, namespaces, builder, .. } = self;
        tasks.spawn_once("zone", |stop| builder.run(ready, stop));
        let watches = tasks.branch("watch");
        watches.spawn_once("namespaces", |stop| namespaces.run(stop));
        watches.spawn_once("endpointslices", |stop| slices.run(stop));
        watches.spawn_once("serviceimports", |stop| imports.run(stop));
    }
}

impl Observer {
    /// The state now.
    pub fn status(&self) -> Status {
        let zone = self.published.snapshot();
        let skipped = self.published.skipped();
        Status {
            zone: zone.settings().zone.to_string(),
            synced: zone.is_synced(),
            serial: zone.serial(),
            services: zone.services(),
            watches: self.watches.iter().map(|(kind, status)| (*kind, view(&status.borrow()))).collect(),
            skipped: skipped.iter().take(MAX_SHOWN).cloned().collect(),
            skipped_total: skipped.len(),
        }
    }
}

fn view(status: &WatchStatus) -> WatchView {
    let (state, error) = match &status.state {
        WatchState::NotListed => ("not-listed", None),
        WatchState::Listed => ("listed", None),
        WatchState::Absent => ("absent", None),
        WatchState::Failing { error, .. } => ("failing", Some(error.to_string())),
    };
    let age = |heard: SystemTime| heard.elapsed().unwrap_or_default().as_secs();
    WatchView {
        state,
        error,
        heard_seconds_ago: status.last_heard.map(age),
        objects: status.objects,
        undecodable: status.undecodable,
    }
}

/// Feeds events to the table, and publishes the zone that follows.
struct Builder {
    imports: Receiver<Event<Decoded<Import>>>,
    slices: Receiver<Event<Decoded<SliceContent>>>,
    namespaces: Receiver<Event<()>>,
    table: Table,
    zone: Zone,
    published: Published,
}

impl Builder {
    /// Runs until `stop`. A watch that ends is its own task's failure, or part of a shutdown; here it is only silent.
    async fn run(mut self, ready: ReadyGuard, stop: CancellationToken) -> Result<(), Infallible> {
        while stop.run_until_cancelled(self.next()).await.is_some() {
            self.drain();
            let synced_before = self.zone.is_synced();
            let changed = self.table.update(&mut self.zone);
            if let Some(skipped) = self.table.take_skipped() {
                self.published.publish_skipped(skipped);
            }
            if !changed || !self.zone.is_synced() {
                continue;
            }
            self.zone.set_serial(next_serial(self.zone.serial(), SystemTime::now()));
            self.published.publish(self.zone.clone());
            if synced_before {
                debug!(services = self.zone.services(), serial = self.zone.serial(), "zone changed");
            } else {
                ready.ready();
                info!(services = self.zone.services(), zone = %self.zone.settings().zone, "zone is synced");
            }
        }
        Ok(())
    }

    /// Takes in one event, from whichever watch has one; never ends if all watches have.
    async fn next(&mut self) {
        let table = &mut self.table;
        tokio::select! {
            Some(event) = self.imports.recv() => take_import(table, event),
            Some(event) = self.slices.recv() => take_slice(table, event),
            Some(event) = self.namespaces.recv() => take_namespace(table, event),
            else => std::future::pending().await,
        }
    }

    /// Takes in what is waiting, up to a bound.
    fn drain(&mut self) {
        for _ in 0..BATCH {
            let mut idle = true;
            if let Ok(event) = self.imports.try_recv() {
                take_import(&mut self.table, event);
                idle = false;
            }
            if let Ok(event) = self.slices.try_recv() {
                take_slice(&mut self.table, event);
                idle = false;
            }
            if let Ok(event) = self.namespaces.try_recv() {
                take_namespace(&mut self.table, event);
                idle = false;
            }
            if idle {
                break;
            }
        }
    }
}

fn take_import(table: &mut Table, event: Event<Decoded<Import>>) {
    match event {
        Event::Applied { key, object } => table.set_import(key, object),
        Event::Deleted { key } => table.remove_import(&key),
        Event::Undecodable { key, .. } => table.undecodable(Kind::ServiceImport, &key),
        Event::InitialListDone => table.set_listed(Kind::ServiceImport),
    }
}

fn take_slice(table: &mut Table, event: Event<Decoded<SliceContent>>) {
    match event {
        Event::Applied { key, object } => table.set_slice(&key, object),
        Event::Deleted { key } => table.remove_slice(&key),
        Event::Undecodable { key, .. } => table.undecodable(Kind::EndpointSlice, &key),
        Event::InitialListDone => table.set_listed(Kind::EndpointSlice),
    }
}

fn take_namespace(table: &mut Table, event: Event<()>) {
    let name = |key: ObjectKey| Arc::clone(&key.name);
    match event {
        Event::Applied { key, .. } => table.set_namespace(name(key), true),
        Event::Deleted { key } => table.set_namespace(name(key), false),
        Event::Undecodable { key, .. } => table.undecodable(Kind::Namespace, &key),
        Event::InitialListDone => table.set_listed(Kind::Namespace),
    }
}

/// Unix time, but always more than before: two changes may fall into one second, and clocks may be set back.
fn next_serial(serial: u32, now: SystemTime) -> u32 {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX).max(serial.wrapping_add(1))
}

#[cfg(test)]
mod tests;
