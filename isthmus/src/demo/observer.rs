//! Looks at all agents and mirrors, again and again, and tells what changed.

use super::cluster::Cluster;
use super::link::{Links, Switch};
use super::view::{self, View};
use crate::{evidence, out};
use agent_sync::api::{fetch, schema::Services};
use anyhow::bail;
use futures::StreamExt as _;
use futures::future::join_all;
use jiff::{Timestamp, tz::TimeZone};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kvstoremesh::{RemoteStatus, StatusPage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long anything in the demo may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks. What is told of times is exact to this.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);
/// A change is the consequence of one no longer ago than this.
const CONSEQUENCE: Duration = Duration::from_secs(30);
/// What has had a consequence in a cluster may have further ones there for so long.
const AFTERMATH: Duration = Duration::from_secs(2);
/// More services that change at once in one cluster are told as one.
const SINGLY: usize = 4;
/// Changes of objects that wait to be told.
const CAUSES: usize = 1024;

/// How all clusters stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// What each cluster's agent knows, once it answers.
    pub(crate) views: BTreeMap<&'static str, View>,
    /// What each cluster's mirror says of the others, once it answers.
    pub(crate) remotes: BTreeMap<&'static str, Vec<RemoteStatus>>,
    /// How often the agent of a cluster saw a service change.
    pub(crate) changes: BTreeMap<(&'static str, String), u64>,
}

impl State {
    /// A service as a cluster's agent sees it.
    pub(crate) fn service(&self, cluster: &str, service: &str) -> Option<&view::Service> {
        self.views.get(cluster)?.get(service)
    }

    /// What the mirror of `cluster` says of `peer`.
    pub(crate) fn remote(&self, cluster: &str, peer: &str) -> Option<&RemoteStatus> {
        self.remotes.get(cluster)?.iter().find(|remote| remote.name == peer)
    }

    /// How often the agent of `cluster` saw the service change.
    pub(crate) fn changes_of(&self, cluster: &'static str, service: &str) -> u64 {
        self.changes.get(&(cluster, service.to_owned())).copied().unwrap_or_default()
    }
}

/// An object of a service was changed in a cluster.
#[derive(Debug)]
struct Cause {
    cluster: &'static str,
    service: String,
    text: String,
    at: Instant,
    /// The clusters in which it has had consequences.
    seen_by: BTreeSet<&'static str>,
}

/// A service is not what it was, in a cluster.
#[derive(Debug)]
struct Change {
    cluster: &'static str,
    service: String,
    moved: String,
    at: Instant,
}

/// The looking, in the background.
#[derive(Debug)]
pub(crate) struct Observer {
    state: watch::Receiver<Arc<State>>,
    telling: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Observer {
    /// Begins to look, and tells nothing yet.
    pub(crate) fn start(clusters: &[Cluster], links: &Links, names: &[&'static str]) -> anyhow::Result<Self> {
        let places = clusters.iter().map(|cluster| (cluster.name, cluster.socket(), cluster.mesh_health()));
        let mut tasks = JoinSet::new();
        let (causes, caused) = mpsc::channel(CAUSES);
        for cluster in clusters {
            let client = cluster.api()?.client();
            for (group, version, kind) in [("", "v1", "Service"), ("discovery.k8s.io", "v1", "EndpointSlice")]
            {
                let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
                let api = Api::all_with(client.clone(), &resource);
                tasks.spawn(tell_causes(cluster.name, kind, api, causes.clone()));
            }
        }
        let (sender, state) = watch::channel(Arc::new(State::default()));
        let telling = Arc::new(AtomicBool::new(false));
        let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
        let teller = Teller {
            telling: Arc::clone(&telling),
            width,
            causes: Vec::new(),
            untold: Vec::new(),
            lost: BTreeMap::new(),
        };
        tasks.spawn(look(places.collect(), links.switch(), teller, caused, sender));
        Ok(Self { state, telling, _tasks: tasks })
    }

    /// From now on tells what changes, or no longer.
    pub(crate) fn tell(&self, telling: bool) {
        self.telling.store(telling, Ordering::Relaxed);
    }

    /// How it stands now.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// Waits until it stands so; returns how long that took.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        reached: impl Fn(&State) -> bool,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let waited = async { self.state.wait_for(|state| reached(state)).await.is_ok() };
        match tokio::time::timeout(PATIENCE, waited).await {
            Ok(true) => Ok(began.elapsed()),
            Ok(false) => bail!("nobody looks any more"),
            Err(_elapsed) => bail!("expected within {PATIENCE:?}: {what}; it is\n{}", self.summary()),
        }
    }

    fn summary(&self) -> String {
        let state = self.state();
        let views = state.views.iter().flat_map(|(cluster, view)| {
            view.iter().map(move |(name, service)| {
                format!("  {cluster}: {name}: {} of {} in use", service.used(), service.known())
            })
        });
        let remotes = state.remotes.iter().flat_map(|(cluster, remotes)| {
            remotes.iter().map(move |remote| {
                let trouble =
                    remote.trouble.as_ref().map(|trouble| trouble.detail.as_str()).unwrap_or_default();
                format!("  {cluster} of {}: ready {} {trouble}", remote.name, remote.ready)
            })
        });
        views.chain(remotes).collect::<Vec<_>>().join("\n")
    }
}

/// Reports changes of Services and EndpointSlices, but not what was there at the start.
async fn tell_causes(
    cluster: &'static str,
    kind: &'static str,
    api: Api<DynamicObject>,
    out: mpsc::Sender<Cause>,
) {
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        let (object, verb) = match event {
            Ok(Event::Apply(object)) => (object, "changed"),
            Ok(Event::Delete(object)) => (object, "deleted"),
            // An error heals by itself; a list tells nothing new.
            Ok(Event::Init | Event::InitApply(_) | Event::InitDone) | Err(_) => continue,
        };
        let metadata = object.metadata;
        let name = metadata.name.unwrap_or_default();
        let labels = metadata.labels.unwrap_or_default();
        // Those that the mesh itself writes are consequences.
        if labels.contains_key("multicluster.kubernetes.io/service-name")
            || labels.contains_key("multicluster.kubernetes.io/source-cluster")
        {
            continue;
        }
        let service = labels.get("kubernetes.io/service-name").cloned().unwrap_or_else(|| name.clone());
        let service = format!("{}/{service}", metadata.namespace.unwrap_or_default());
        let text = format!("{kind} {name} {verb}");
        let cause = Cause { cluster, service, text, at: Instant::now(), seen_by: BTreeSet::new() };
        if out.send(cause).await.is_err() {
            return;
        }
    }
}

/// Who did not answer in time, and since when. They are asked more rarely, so that nobody else waits for them.
#[derive(Debug, Default)]
struct Silent(BTreeMap<(&'static str, &'static str), Instant>);

/// What there is to ask, in words.
const AGENT: &str = "agent";
const MIRROR: &str = "mirror";
/// How long a look waits for anybody.
const LIMIT: Duration = Duration::from_secs(1);
/// How often those are asked who did not answer.
const AGAIN: Duration = Duration::from_secs(3);

/// What came of a question.
enum Heard<T> {
    /// An answer, or none that can be read.
    Answer(Option<T>),
    /// Nothing in time.
    Late,
    /// It was not asked this time.
    NotAsked,
}

impl Silent {
    async fn ask<T>(
        &self,
        who: (&'static str, &'static str),
        asked: impl Future<Output = Option<T>>,
    ) -> Heard<T> {
        if self.0.get(&who).is_some_and(|since| since.elapsed() < AGAIN) {
            return Heard::NotAsked;
        }
        match tokio::time::timeout(LIMIT, asked).await {
            Ok(answer) => Heard::Answer(answer),
            Err(_elapsed) => Heard::Late,
        }
    }

    /// The answer, if there is one; tells of who falls silent and of who speaks again.
    fn heard<T>(&mut self, who: (&'static str, &'static str), heard: Heard<T>, teller: &Teller) -> Option<T> {
        let (cluster, part) = who;
        match heard {
            Heard::NotAsked => None,
            Heard::Late => {
                if self.0.insert(who, Instant::now()).is_none() {
                    teller.say(cluster, &format!("its {part} does not answer; nothing new is known of it"));
                }
                None
            }
            Heard::Answer(answer) => {
                if self.0.remove(&who).is_some() {
                    teller.say(cluster, &format!("its {part} answers again"));
                }
                answer
            }
        }
    }
}

/// Looks until nobody wants to know.
async fn look(
    clusters: Vec<(&'static str, PathBuf, SocketAddr)>,
    switch: Switch,
    mut teller: Teller,
    mut causes: mpsc::Receiver<Cause>,
    out: watch::Sender<Arc<State>>,
) {
    let mut pause = tokio::time::interval(PAUSE);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut state = State::default();
    let mut silent = Silent::default();
    while !out.is_closed() {
        pause.tick().await;
        teller.tell_causes(std::iter::from_fn(|| causes.try_recv().ok()).collect());
        // Told a look later, when word of what caused them is here too.
        teller.tell_changes();
        for ((one, other), open) in switch.look() {
            let word = if open { "whole again" } else { "cut" };
            teller.say(one, &format!("the link to {other} is {word}"));
        }
        let asked = clusters.iter().map(async |(name, socket, health)| {
            let services = async {
                let body = fetch(socket, "/v1/services").await.ok()?;
                Some(view::view(&serde_json::from_slice::<Services>(&body).ok()?))
            };
            let page = async { evidence::page::<StatusPage>(*health, &["/remotes"]).await.ok() };
            let asked = (silent.ask((*name, AGENT), services), silent.ask((*name, MIRROR), page));
            let (services, page) = tokio::join!(asked.0, asked.1);
            (*name, services, page)
        });
        for (name, view, page) in join_all(asked).await {
            let view = silent.heard((name, AGENT), view, &teller);
            let page = silent.heard((name, MIRROR), page, &teller);
            if let Some(view) = view {
                for service in teller.services(name, state.views.get(name), &view) {
                    *state.changes.entry((name, service)).or_default() += 1;
                }
                state.views.insert(name, view);
            }
            if let Some(page) = page {
                teller.remotes(name, state.remotes.get(name), &page.remotes);
                state.remotes.insert(name, page.remotes);
            }
        }
        // Looked at by all who wait, changed or not: ages change always.
        out.send_replace(Arc::new(state.clone()));
    }
}

/// Puts changes into words.
struct Teller {
    telling: Arc<AtomicBool>,
    width: usize,
    causes: Vec<Cause>,
    untold: Vec<Change>,
    /// Since when a cluster is out of touch with another.
    lost: BTreeMap<(&'static str, String), Instant>,
}

impl Teller {
    fn say(&self, cluster: &str, text: &str) {
        if self.telling.load(Ordering::Relaxed) {
            let now = Timestamp::now().to_zoned(TimeZone::system());
            // The reader may be gone; the demo goes on until it is stopped.
            let line =
                format!("{} {cluster:width$}  {text}", now.strftime("%H:%M:%S%.3f"), width = self.width);
            drop(out::print(out::within(&line, &" ".repeat(15 + self.width))));
        }
    }

    fn tell_causes(&mut self, causes: Vec<Cause>) {
        self.causes.retain(|earlier| earlier.at.elapsed() < CONSEQUENCE);
        if let Some(first) = causes.first().filter(|_first| causes.len() > SINGLY) {
            self.say(first.cluster, &format!("{} objects changed at once", causes.len()));
        } else {
            causes.iter().for_each(|cause| self.say(cause.cluster, &cause.text));
        }
        self.causes.extend(causes);
    }

    /// Notes how the services of a cluster's agent changed, and returns which.
    fn services(&mut self, cluster: &'static str, before: Option<&View>, after: &View) -> Vec<String> {
        let Some(before) = before else { return Vec::new() };
        let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
        names.sort();
        names.dedup();
        let mut changed = Vec::new();
        for name in names {
            if let Some(moved) = view::moved(before.get(name), after.get(name)) {
                self.untold.push(Change { cluster, service: name.clone(), moved, at: Instant::now() });
                changed.push(name.clone());
            }
        }
        changed
    }

    /// Tells what was noted, with what it is the consequence of.
    fn tell_changes(&mut self) {
        let mut by_cluster = BTreeMap::<_, Vec<Change>>::new();
        for change in std::mem::take(&mut self.untold) {
            by_cluster.entry(change.cluster).or_default().push(change);
        }
        for (cluster, changes) in by_cluster {
            if changes.len() > SINGLY {
                self.say(cluster, &format!("{} services changed at once", changes.len()));
                continue;
            }
            for change in changes {
                let after = self.cause_of(&change).unwrap_or_default();
                self.say(cluster, &format!("{}: {}{after}", change.service, change.moved));
            }
        }
    }

    /// The latest change of the service's objects that has not had its consequence in this cluster.
    fn cause_of(&mut self, change: &Change) -> Option<String> {
        let age = |cause: &Cause| change.at.saturating_duration_since(cause.at);
        let cause = self.causes.iter_mut().rev().find(|cause| cause.service == change.service)?;
        let fresh = !cause.seen_by.contains(change.cluster) || age(cause) < AFTERMATH;
        if !fresh || age(cause) > CONSEQUENCE {
            return None;
        }
        cause.seen_by.insert(change.cluster);
        Some(format!(" ({} ms after the change in {})", age(cause).as_millis(), cause.cluster))
    }

    /// Tells how contact with other clusters changed.
    fn remotes(&mut self, cluster: &'static str, before: Option<&Vec<RemoteStatus>>, after: &[RemoteStatus]) {
        let Some(before) = before else { return };
        for gone in before.iter().filter(|old| after.iter().all(|new| new.name != old.name)) {
            self.lost.remove(&(cluster, gone.name.clone()));
            self.say(cluster, &format!("disconnected from {}", gone.name));
        }
        for remote in after {
            let key = (cluster, remote.name.clone());
            let services = remote.resources.get("services").map_or(0, |services| services.entries);
            let was = before.iter().find(|old| old.name == remote.name);
            if was.is_none() {
                self.say(cluster, &format!("connected to {}", remote.name));
            }
            let (was_connected, was_ready) = was.map_or((false, false), |was| (was.connected, was.ready));
            if was_connected && !remote.connected {
                self.lost.insert(key, Instant::now());
                let text =
                    format!("lost contact with {}: keeps its {services} services as they were", remote.name);
                self.say(cluster, &text);
            } else if remote.ready && !was_ready {
                let after = self.lost.remove(&key).map_or_else(String::new, |lost| {
                    format!(" again, {:.1} s after contact was lost", lost.elapsed().as_secs_f64())
                });
                self.say(cluster, &format!("in step with {}{after}", remote.name));
            }
        }
    }
}
