//! The steps that every question takes: exporter, store, mirror, cache, agent.

use mesh_types::ClusterName;
use mesh_types::key::{Form, Resource};
use serde_json::Value;

use crate::evidence::{Answer, Cluster, Mesh, MirrorResource, Remote, WithheldObject};
use crate::explanation::{Because, Explanation, Place, Step, Verdict};
use crate::objects::{array, count, text};
use crate::question::Question;

/// Steps as they are made, for one question.
pub(crate) struct Walk<'a> {
    pub(crate) question: &'a Question,
    pub(crate) mesh: &'a Mesh,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(question: &'a Question, mesh: &'a Mesh) -> Self {
        Self { question, mesh, steps: Vec::new() }
    }

    /// The cluster whose view is explained.
    pub(crate) fn from(&self) -> &'a str {
        self.question.from.as_str()
    }

    /// What is known of a cluster. One that nobody asked is all silence.
    pub(crate) fn cluster(&self, name: &str) -> Option<&'a Cluster> {
        self.mesh.clusters.get(name)
    }

    /// The other clusters.
    pub(crate) fn others(&self) -> Vec<&'a str> {
        let from = self.from();
        self.mesh.clusters.keys().map(String::as_str).filter(|name| *name != from).collect()
    }

    pub(crate) fn step(
        &mut self,
        cluster: &str,
        place: Place,
        verdict: Verdict,
        text: impl Into<String>,
    ) -> &mut Step {
        let step = Step {
            cluster: cluster.to_owned(),
            place,
            verdict,
            text: text.into(),
            age_seconds: None,
            reasons: Vec::new(),
        };
        self.steps.push_mut(step)
    }

    /// The answer of a place, or a step that says why there is none.
    pub(crate) fn answer<T>(
        &mut self,
        cluster: &str,
        place: Place,
        answer: Option<&'a Answer<T>>,
    ) -> Option<&'a T> {
        let text = match answer {
            Some(Answer::Said(said)) => return Some(said),
            Some(Answer::Silent(why)) => format!("did not answer: {why}"),
            Some(Answer::NotAsked) | None => "not asked: nothing says where it is".to_owned(),
        };
        self.step(cluster, place, Verdict::Unknown, text);
        None
    }

    /// Whether the cluster's own store holds the entry of the kind; `None` if nobody knows.
    pub(crate) fn is_exported(&self, cluster: &str, resource: Resource) -> Option<bool> {
        let keys = self.cluster(cluster)?.store.said()?;
        Some(keys.contains_key(&self.key(Form::State, resource, cluster)?))
    }

    fn key(&self, form: Form, resource: Resource, cluster: &str) -> Option<String> {
        let cluster: ClusterName = cluster.parse().ok()?;
        Some(resource.prefix(form, &cluster) + &self.question.subject.entry())
    }

    /// What the exporter makes of the objects that `concerns` picks.
    pub(crate) fn exporter(
        &mut self,
        cluster: &str,
        resource: Resource,
        kinds: &[&str],
        concerns: impl Fn(&WithheldObject) -> bool,
    ) {
        let answer = self.cluster(cluster).map(|places| &places.exporter);
        let Some(page) = self.answer(cluster, Place::Exporter, answer) else { return };
        let withheld = page
            .withheld
            .iter()
            .filter(|row| concerns(row))
            .map(|row| Because::new(&row.reason, format!("{} {}", row.kind, row.object), &row.detail));
        let mut reasons: Vec<_> = withheld.collect();
        let unread = page.kinds.iter().filter(|kind| kinds.contains(&kind.kind.as_str()));
        let unread = unread.filter_map(|kind| {
            let reason = kind.reason.as_deref()?;
            Some(Because::new(reason, &kind.kind, kind.error.clone().unwrap_or_default()))
        });
        let unread: Vec<_> = unread.collect();
        let exported = self.is_exported(cluster, resource);
        let written = page.resources.iter().find(|written| written.resource == resource.word());
        let (verdict, text) = match written {
            None => (Verdict::Bad, format!("exports no {resource}")),
            Some(written) if written.last_error.is_some() => {
                let error = written.last_error.as_deref().unwrap_or_default();
                (Verdict::Bad, format!("cannot write {resource}: {error}"))
            }
            Some(written) if !written.synced => {
                let waiting = written.waiting_for.join(", ");
                let waiting = if waiting.is_empty() { "the store".to_owned() } else { waiting };
                (Verdict::Bad, format!("has not written all {resource} yet; waits for {waiting}"))
            }
            Some(_) if !reasons.is_empty() && exported == Some(false) => {
                (Verdict::Bad, "does not export it".to_owned())
            }
            Some(_) if !reasons.is_empty() => (Verdict::Note, "withholds something of it".to_owned()),
            Some(_) if !unread.is_empty() => {
                (Verdict::Note, "goes by what it last read, as it cannot read everything now".to_owned())
            }
            Some(written) if written.pending > 0 => {
                (Verdict::Note, format!("{} to be written to the store", count(written.pending, "key")))
            }
            Some(written) => {
                (Verdict::Good, format!("{} of {resource}, all written", count(written.keys, "key")))
            }
        };
        reasons.extend(unread);
        self.step(cluster, Place::Exporter, verdict, text).reasons = reasons;
        self.scope(cluster, resource);
    }

    /// Whether the exporter keeps the entry from the cluster that asks.
    fn scope(&mut self, cluster: &str, resource: Resource) {
        let (from, entry) = (self.from(), self.question.subject.entry());
        let page = self.cluster(cluster).and_then(|places| places.exporter.said());
        let scopes = page.into_iter().flat_map(|page| &page.scopes);
        let of_asker = scopes.filter(|scope| scope.clusters.iter().any(|name| name == from));
        let mut outside = of_asker.flat_map(|scope| scope.withheld.iter().map(move |row| (scope, row)));
        let found = outside.find(|(_, row)| row.resource == resource.word() && row.key == entry);
        let Some((scope, row)) = found else { return };
        let because = Because::new(&row.reason, format!("export scope {}", scope.name), &row.detail);
        let text = format!("does not let {from} see it");
        self.step(cluster, Place::Exporter, Verdict::Bad, text).reasons = vec![because];
    }

    /// Whether the cluster's own store holds the entry.
    pub(crate) fn store(&mut self, cluster: &str, resource: Resource) {
        let answer = self.cluster(cluster).map(|places| &places.store);
        let Some(keys) = self.answer(cluster, Place::Store, answer) else { return };
        let Some(key) = self.key(Form::State, resource, cluster) else { return };
        match keys.get(&key) {
            Some(value) => {
                let text = format!("{key}{}", summary(resource, value));
                self.step(cluster, Place::Store, Verdict::Good, text);
            }
            None => {
                self.step(cluster, Place::Store, Verdict::Bad, format!("has no {key}"));
            }
        }
    }

    /// What the mirror of the asking cluster makes of `peer`.
    pub(crate) fn mirror(&mut self, peer: &str, resource: Resource) {
        let from = self.from();
        let answer = self.cluster(from).map(|places| &places.mirror);
        let Some(page) = self.answer(from, Place::Mirror, answer) else { return };
        let Some(remote) = page.remotes.iter().find(|remote| remote.name == peer) else {
            let files =
                page.rejected_files.iter().filter(|file| file.file == peer || file.detail.contains(peer));
            let reasons: Vec<_> = files
                .map(|file| Because::new(&file.reason, format!("file {}", file.file), &file.detail))
                .collect();
            let text = if reasons.is_empty() {
                format!("has no configuration for {peer}")
            } else {
                format!("does not use the configuration for {peer}")
            };
            self.step(from, Place::Mirror, Verdict::Bad, text).reasons = reasons;
            return;
        };
        let (verdict, text, age) = standing(remote, peer, resource);
        let entry = self.question.subject.entry();
        let skipped = remote.skipped.iter().filter(|row| row.resource == resource.word() && row.key == entry);
        let skipped: Vec<_> = skipped.map(|row| Because::new(&row.reason, "", &row.detail)).collect();
        let view = remote.resources.get(resource.word());
        let held = view.and_then(|view| view.withheld.as_ref());
        let mut reasons: Vec<_> = remote
            .trouble
            .iter()
            .map(|trouble| Because::new(&trouble.reason, peer, &trouble.detail))
            .collect();
        reasons.extend(held.map(|held| Because::new(&held.reason, resource.word(), &held.detail)));
        reasons.extend(fallback(view, &reasons));
        let (verdict, text) = match skipped.is_empty() {
            true if held.is_some() => {
                (verdict.max(Verdict::Note), format!("{text}; withdrawals are held back"))
            }
            true => (verdict, text),
            false => (Verdict::Bad, "does not mirror the entry".to_owned()),
        };
        reasons.extend(skipped);
        let step = self.step(from, Place::Mirror, verdict, text);
        step.reasons = reasons;
        step.age_seconds = age;
    }

    /// Whether the asking cluster's store holds the peer's entry, and the same one.
    pub(crate) fn cache(&mut self, peer: &str, resource: Resource) {
        let from = self.from();
        let answer = self.cluster(from).map(|places| &places.store);
        let Some(keys) = self.answer(from, Place::Cache, answer) else { return };
        let Some(key) = self.key(Form::Cache, resource, peer) else { return };
        let source = self.cluster(peer).and_then(|places| places.store.said());
        let source = source.map(|keys| self.key(Form::State, resource, peer).and_then(|key| keys.get(&key)));
        let (verdict, text) = match (keys.get(&key), source) {
            (Some(here), Some(Some(there))) if here != there && is_own(here, peer) => {
                (Verdict::Note, format!("{key}, which is not what {peer} has now"))
            }
            (Some(_), Some(None)) => (Verdict::Note, format!("{key}, which {peer} has no more")),
            (Some(here), _) => (Verdict::Good, format!("{key}{}", summary(resource, here))),
            (None, _) => (Verdict::Bad, format!("has no {key}")),
        };
        self.step(from, Place::Cache, verdict, text);
    }

    /// How the agent of the asking cluster takes the peer's data of a kind. Returns whether it said anything.
    pub(crate) fn agent_of_peer(&mut self, peer: &str, kind: Resource) {
        let from = self.from();
        let answer = self.cluster(from).map(|places| &places.agent);
        let Some(pages) = self.answer(from, Place::Agent, answer) else { return };
        let entry = self.question.subject.entry();
        let rejected = array(&pages.rejected, "/rejected").iter().filter(|row| {
            text(row, "/cluster") == Some(peer)
                && text(row, "/key").is_some_and(|key| key == entry || key.ends_with(&format!("/{entry}")))
        });
        let rejected: Vec<_> = rejected.map(|row| because(row, "")).collect();
        let found = array(&pages.status, "/clusters").iter().find(|row| text(row, "/name") == Some(peer));
        let Some(cluster) = found else {
            self.step(from, Place::Agent, Verdict::Bad, format!("knows no cluster {peer}"));
            return;
        };
        let view = array(cluster, "/kinds").iter().find(|row| text(row, "/kind") == Some(kind.word()));
        let view = view.unwrap_or(&Value::Null);
        let age = view.pointer("/ageSeconds").and_then(Value::as_f64);
        let standing = text(cluster, "/standing").unwrap_or("accepted");
        let state = text(view, "/state").unwrap_or("never-synced");
        let entries = view.pointer("/entries").and_then(Value::as_u64).unwrap_or_default();
        let (verdict, text_of_it) = match (standing, state) {
            ("refused", _) => (Verdict::Bad, format!("refuses {peer}")),
            _ if !rejected.is_empty() => (Verdict::Bad, "refuses the entry".to_owned()),
            ("absent", _) => {
                (Verdict::Note, format!("keeps {peer} as it last was, without its mirror's word"))
            }
            (_, "synced") => {
                let entries = usize::try_from(entries).unwrap_or(usize::MAX);
                (Verdict::Good, format!("{peer}: {kind} synced, {entries} in effect"))
            }
            (_, "stale") => (Verdict::Note, format!("{peer}: {kind} as last known, no longer followed")),
            _ => (Verdict::Bad, format!("{peer}: {kind} never complete so far")),
        };
        let mut reasons: Vec<_> = [cluster, view]
            .into_iter()
            .filter(|row| text(row, "/reason").is_some())
            .map(|row| because(row, peer))
            .collect();
        reasons.dedup_by(|a, b| a.code == b.code);
        reasons.extend(rejected);
        let step = self.step(from, Place::Agent, verdict, text_of_it);
        step.age_seconds = age;
        step.reasons = reasons;
    }

    /// Ends the walk. `reached` says whether the subject is where it is expected, and in which words; `None` if nobody
    /// could say.
    pub(crate) fn end(self, reached: Option<Result<String, String>>) -> Explanation {
        let bad = |step: &&Step| step.verdict == Verdict::Bad;
        let unknown = self.steps.iter().find(|step| step.verdict == Verdict::Unknown);
        // A note without a reason, such as a cluster that never had the service, is none of anybody's trouble.
        let noted = self.steps.iter().find(|step| step.verdict == Verdict::Note && !step.reasons.is_empty());
        // A step that gives a reason is nearer to the cause than one that only finds something missing.
        let reasoned = self.steps.iter().find(|step| bad(step) && !step.reasons.is_empty());
        let worst = self.steps.iter().find(bad).and_then(|first| reasoned.or(noted).or(Some(first)));
        let at = |step: &Step| format!("{} {}: {}", step.cluster, step.place, step.text);
        let (verdict, outcome) = match (reached, worst.or(noted)) {
            (Some(Ok(text)), None) => (Verdict::Good, text),
            (Some(Ok(text)), Some(step)) => (Verdict::Note, format!("{text}. But {}", at(step))),
            (Some(Err(text)), Some(step)) => (Verdict::Bad, format!("{text}, because of {}", at(step))),
            (Some(Err(text)), None) => (Verdict::Bad, text),
            (None, Some(step)) => (Verdict::Bad, at(step)),
            (None, None) => (Verdict::Unknown, unknown.map(at).unwrap_or_default()),
        };
        let decisive = worst.or(noted);
        let next = match verdict {
            Verdict::Good => Vec::new(),
            Verdict::Note | Verdict::Unknown | Verdict::Bad => {
                decisive.map(|step| self.next(step)).unwrap_or_default()
            }
        };
        Explanation {
            question: self.question.subject.to_string(),
            from: self.from().to_owned(),
            steps: self.steps,
            verdict,
            outcome,
            next,
        }
    }

    /// What to do about a step.
    fn next(&self, step: &Step) -> Vec<String> {
        let object = self.question.subject.object();
        let (namespace, name) =
            object.as_deref().and_then(|object| object.split_once('/')).unwrap_or_default();
        let kubectl = format!("kubectl --context {}", step.cluster);
        let mut next = Vec::new();
        for because in &step.reasons {
            match because.code.as_str() {
                "service-not-global" | "service-not-shared" => {
                    let word = if because.code == "service-not-global" { "global" } else { "shared" };
                    next.push(format!(
                        "{kubectl} annotate --overwrite -n {namespace} service {name} service.cilium.io/{word}=true"
                    ));
                }
                "namespace-not-global" => next.push(format!(
                    "{kubectl} annotate --overwrite namespace {namespace} clustermesh.cilium.io/global=true"
                )),
                "peer-unreachable" | "tls-failed" | "permission-denied" | "cluster-config-missing" => {
                    next.push(format!("isthmus kvstoremesh troubleshoot {}", because.subject));
                }
                _ => {}
            }
            next.push(format!("docs/reasons.md#{}", because.code));
        }
        next.dedup();
        next
    }
}

/// How the mirror stands to a peer and kind.
fn standing(remote: &Remote, peer: &str, resource: Resource) -> (Verdict, String, Option<f64>) {
    let absent = MirrorResource::default();
    let view = remote.resources.get(resource.word()).unwrap_or(&absent);
    let age = view.stale_seconds.or(match view.state.as_str() {
        "synced" => Some(0.0),
        _ => None,
    });
    if let Some(error) = &remote.write_error {
        return (Verdict::Bad, format!("cannot write to the local store: {error}"), age);
    }
    let at = remote.endpoints.join(" ");
    let connected = if remote.connected { "connected" } else { "not connected" };
    let (verdict, text) = match view.state.as_str() {
        "synced" => {
            let entries = view.entries;
            (Verdict::Good, format!("{peer} {connected} at {at}; {resource} synced, {entries} entries"))
        }
        "stale" => {
            (Verdict::Note, format!("{peer} {connected} at {at}; {resource} stay as they were last known"))
        }
        "not-offered" => (Verdict::Bad, format!("{peer} {connected} at {at}; it offers no {resource}")),
        _ => {
            let waits = view.waiting_for.as_deref().unwrap_or("connection");
            (
                Verdict::Bad,
                format!("{peer} {connected} at {at}; {resource} never complete so far, waits for {waits}"),
            )
        }
    };
    (verdict, text, age)
}

/// The code of a view that is not synced, where the mirror gave none.
fn fallback(view: Option<&MirrorResource>, reasons: &[Because]) -> Option<Because> {
    if !reasons.is_empty() {
        return None;
    }
    let code = match view?.state.as_str() {
        "stale" => "peer-disconnected",
        "never-synced" => "not-synced",
        "not-offered" => "capability-absent",
        _ => return None,
    };
    Some(Because::new(code, "", ""))
}

/// Whether the value is the cluster's own form, so that it may be compared with the original.
fn is_own(value: &str, peer: &str) -> bool {
    let parsed: Option<Value> = serde_json::from_str(value).ok();
    let cluster = parsed.as_ref().and_then(|value| text(value, "/cluster"));
    cluster.is_none_or(|cluster| cluster == peer)
}

/// What is worth a word of a value.
fn summary(resource: Resource, value: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(value) else { return String::new() };
    match resource {
        Resource::Services => {
            let backends =
                value.pointer("/backends").and_then(Value::as_object).map_or(0, serde_json::Map::len);
            format!(" with {}", count(backends, "backend"))
        }
        Resource::Ip => {
            let identity = value.pointer("/ID").and_then(Value::as_u64);
            identity.map(|id| format!(" with identity {id}")).unwrap_or_default()
        }
        Resource::Nodes | Resource::Identities | Resource::ServiceExports | Resource::EndpointSlices => {
            String::new()
        }
    }
}

/// A row of the agent with `reason` and `detail` or `error`.
pub(crate) fn because(row: &Value, subject: &str) -> Because {
    let detail = text(row, "/detail").or_else(|| text(row, "/error")).unwrap_or_default();
    Because::new(text(row, "/reason").unwrap_or_default(), subject, detail)
}
