//! How a whole mesh stands: from what its places said to a report. Pure, but for [`ask`], which asks them.
//!
//! A thing that needs a look is a [`Finding`], with the command that looks closer. Where nobody answered, nothing is known:
//! that is a finding too, and never counts as healthy.

use crate::places::ClusterPlaces;
use agent_sync::api::schema;
use closer::Closer;
use kvstoremesh::{RemoteStatus, StatusPage};
use mesh_explain::{Answer, ControllerPage, DnsPage, ExporterPage};
use serde::Serialize;
use std::collections::BTreeMap;

pub(crate) mod ask;
pub(crate) mod closer;
mod text;

/// A certificate that ends sooner is worth a look.
const SOON_DAYS: i64 = 30;

/// What the places of a cluster said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    /// Its Kubernetes API: the version.
    pub(crate) kubernetes: Answer<String>,
    /// Its exporter.
    pub(crate) exporter: Answer<ExporterPage>,
    /// Its controllers of imports.
    pub(crate) controllers: Answer<ControllerPage>,
    /// Its mirror.
    pub(crate) mirror: Answer<StatusPage>,
    /// An agent.
    pub(crate) agent: Answer<schema::Status>,
    /// Its DNS server.
    pub(crate) dns: Answer<DnsPage>,
    /// Days that are left of the certificate by which its store is read; less than 0 if it has ended.
    pub(crate) certificate_days: Answer<i64>,
}

/// How the mesh stands. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Nothing needs a look.
    pub(crate) healthy: bool,
    /// By the order of the file.
    pub(crate) clusters: Vec<ClusterReport>,
    /// What needs a look.
    pub(crate) findings: Vec<Finding>,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterReport {
    /// Its name.
    name: String,
    /// By place: `kubernetes`, `exporter`, `controllers`, `mirror`, `agent`, `dns`.
    places: BTreeMap<&'static str, PlaceReport>,
    /// Days that are left of the certificate by which its store is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_days: Option<i64>,
    /// The other clusters, as its mirror has them.
    peers: Vec<PeerReport>,
}

/// A place.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlaceReport {
    /// `ok`, `degraded`, `silent` or `not-asked`.
    state: &'static str,
    /// In words.
    text: String,
}

/// What a cluster's mirror has of another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerReport {
    /// Its name.
    name: String,
    /// The mirror has a configuration for it.
    configured: bool,
    /// Its store answers.
    connected: bool,
    /// All that it offers is here and follows.
    synced: bool,
    /// What the peer wrote before so many seconds is here; absent before the first list.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    /// Entries by the word in keys: `nodes`, `ip`, `identities`, `services` and so on.
    counts: BTreeMap<String, usize>,
    /// Withdrawals that are held back.
    held_back: usize,
}

/// Something that needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// Where: a cluster, or `west <- east` for what west has of east.
    pub(crate) at: String,
    /// Code of a reason, if it has one (docs/reasons.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// In words.
    pub(crate) text: String,
    /// The command to go on with; it works as it is printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// Makes the report of what the places said, by cluster in the order of the file.
pub(crate) fn report(pages: &[(&ClusterPlaces, Pages)]) -> Report {
    let mut findings = Vec::new();
    let all: Vec<&ClusterPlaces> = pages.iter().map(|(places, _)| *places).collect();
    let clusters = pages.iter().map(|(places, pages)| cluster(places, pages, &all, &mut findings)).collect();
    Report { healthy: findings.is_empty(), clusters, findings }
}

fn cluster(
    known: &ClusterPlaces,
    pages: &Pages,
    all: &[&ClusterPlaces],
    findings: &mut Vec<Finding>,
) -> ClusterReport {
    let (name, closer) = (known.name.as_str(), Closer(known));
    let mut places = BTreeMap::new();
    let mut place = |place: &'static str, report: PlaceReport, next: Option<String>| {
        if report.state == "silent" || report.state == "degraded" {
            let text = format!("{place}: {}", report.text);
            findings.push(Finding { at: name.to_owned(), reason: None, text, next });
        }
        places.insert(place, report);
    };
    place("kubernetes", of(&pages.kubernetes, |version| Ok(version.clone())), closer.kubernetes());
    place("exporter", of(&pages.exporter, exporter), None);
    place("controllers", of(&pages.controllers, controllers), None);
    let remotes = |page: &StatusPage| Ok(format!("{} clusters configured", page.remotes.len()));
    place("mirror", of(&pages.mirror, remotes), closer.mirror());
    place("agent", of(&pages.agent, agent), closer.agent());
    place("dns", of(&pages.dns, dns), None);
    certificate(&closer, &pages.certificate_days, findings);
    let peers = pages.mirror.said().map(|page| peers(&closer, page, all, findings)).unwrap_or_default();
    ClusterReport {
        name: name.to_owned(),
        places,
        certificate_days: pages.certificate_days.said().copied(),
        peers,
    }
}

/// A place by its answer; `say` tells what it is if all is well (`Ok`), or what is not.
fn of<T>(answer: &Answer<T>, say: impl Fn(&T) -> Result<String, String>) -> PlaceReport {
    let (state, text) = match answer {
        Answer::NotAsked => ("not-asked", "nothing says where it is".to_owned()),
        Answer::Silent(why) => ("silent", why.clone()),
        Answer::Said(said) => match say(said) {
            Ok(text) => ("ok", text),
            Err(text) => ("degraded", text),
        },
    };
    PlaceReport { state, text }
}

fn exporter(page: &ExporterPage) -> Result<String, String> {
    let failing = page.resources.iter().find_map(|resource| Some((resource, resource.last_error.as_ref()?)));
    if let Some((resource, error)) = failing {
        return Err(format!("cannot write {}: {error}", resource.resource));
    }
    let waiting: Vec<_> = page.resources.iter().filter(|resource| !resource.synced).collect();
    if !waiting.is_empty() {
        let words: Vec<_> = waiting.iter().map(|resource| resource.resource.as_str()).collect();
        return Err(format!("has not written all {} yet", words.join(", ")));
    }
    let keys: usize = page.resources.iter().map(|resource| resource.keys).sum();
    let withheld = match page.withheld.len() {
        0 => String::new(),
        count => format!(", {count} withheld"),
    };
    Ok(format!("{keys} keys{withheld}"))
}

fn controllers(page: &ControllerPage) -> Result<String, String> {
    if let Some((service, error)) = page.failing.first_key_value() {
        return Err(format!("{} imports fail, {service}: {error}", page.failing.len()));
    }
    if page.pending.is_empty() {
        Ok("follow".to_owned())
    } else {
        Err(format!("wait for {}", page.pending.join(", ")))
    }
}

fn agent(status: &schema::Status) -> Result<String, String> {
    if !status.ready {
        return Err(format!("not ready: waits for {}", status.pending.join(", ")));
    }
    let totals = &status.totals;
    let text = format!("{} services, {} prefixes", totals.services, totals.prefixes);
    if status.degraded { Err(format!("degraded; {text}")) } else { Ok(text) }
}

fn dns(page: &DnsPage) -> Result<String, String> {
    if page.synced {
        Ok(format!("{} is complete", page.zone))
    } else {
        Err(format!("{} is not complete", page.zone))
    }
}

fn certificate(closer: &Closer<'_>, days: &Answer<i64>, findings: &mut Vec<Finding>) {
    let mut find = |text: String| {
        let (at, next) = (closer.0.name.clone(), closer.certificate());
        findings.push(Finding { at, reason: None, text, next });
    };
    match days {
        Answer::Said(days) if *days < 0 => {
            find(format!("the certificate for its store ended {} days ago", -days));
        }
        Answer::Said(days) if *days < SOON_DAYS => {
            find(format!("the certificate for its store ends in {days} days"));
        }
        Answer::Silent(why) => find(format!("the certificate for its store: {why}")),
        Answer::Said(_) | Answer::NotAsked => {}
    }
}

/// The other clusters of the file, and whoever else is configured.
fn peers(
    closer: &Closer<'_>,
    page: &StatusPage,
    all: &[&ClusterPlaces],
    findings: &mut Vec<Finding>,
) -> Vec<PeerReport> {
    let cluster = closer.0.name.as_str();
    let names = all.iter().map(|places| places.name.as_str());
    let configured = page.remotes.iter().map(|remote| remote.name.as_str());
    let mut peers: Vec<&str> = names.clone().filter(|name| *name != cluster).collect();
    peers.extend(configured.filter(|name| !names.clone().any(|known| known == *name)));
    peers
        .into_iter()
        .map(|name| {
            let at = format!("{cluster} <- {name}");
            let Some(remote) = page.remotes.iter().find(|remote| remote.name == name) else {
                let text = "not configured: the mirror has no file for it".to_owned();
                let next = closer::connect(all).or_else(|| closer.mirror());
                findings.push(Finding { at, reason: None, text, next });
                return PeerReport { name: name.to_owned(), ..PeerReport::default() };
            };
            troubles(&at, closer, remote, findings);
            peer(remote)
        })
        .collect()
}

fn peer(remote: &RemoteStatus) -> PeerReport {
    let resources = || remote.resources.iter().filter(|(_, resource)| resource.state != "not-offered");
    let ages: Option<Vec<f64>> = resources().map(|(_, resource)| resource.age_bound_seconds).collect();
    PeerReport {
        name: remote.name.clone(),
        configured: true,
        connected: remote.connected,
        synced: remote.ready,
        age_seconds: ages.and_then(|ages| ages.into_iter().max_by(f64::total_cmp)),
        counts: resources().map(|(word, resource)| (word.clone(), resource.entries)).collect(),
        held_back: resources()
            .filter_map(|(_, resource)| resource.withheld.as_ref())
            .map(|held| held.keys)
            .sum(),
    }
}

fn troubles(at: &str, closer: &Closer<'_>, remote: &RemoteStatus, findings: &mut Vec<Finding>) {
    let mut find = |reason: Option<&str>, text: String, next: Option<String>| {
        findings.push(Finding { at: at.to_owned(), reason: reason.map(str::to_owned), text, next });
    };
    let troubleshoot = || closer.remote(&remote.name);
    if let Some(trouble) = &remote.trouble {
        find(Some(&trouble.reason), trouble.detail.clone(), troubleshoot());
    } else if !remote.connected {
        find(None, "its store does not answer".to_owned(), troubleshoot());
    } else if !remote.ready {
        let waiting = remote.resources.iter().filter(|(_, resource)| resource.waiting_for.is_some());
        let words: Vec<_> = waiting.map(|(word, _)| word.as_str()).collect();
        find(None, format!("not in step yet: {}", words.join(", ")), closer.mirror());
    }
    if let Some(error) = &remote.write_error {
        find(None, format!("the own store refuses: {error}"), closer.mirror());
    }
    for (word, resource) in &remote.resources {
        if let Some(held) = &resource.withheld {
            let text = format!("{} withdrawals of {word} are held back", held.keys);
            find(Some(&held.reason), text, closer.mirror());
        }
    }
    if !remote.skipped.is_empty() {
        let reason = &remote.skipped[0].reason;
        find(Some(reason), format!("{} entries are not mirrored", remote.skipped.len()), closer.mirror());
    }
}

#[cfg(test)]
mod tests;
