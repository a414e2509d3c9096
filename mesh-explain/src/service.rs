//! A service and its backends, from every cluster's Kubernetes to the agent's tables.

use std::collections::BTreeSet;

use mesh_types::key::Resource;
use serde_json::Value;

use crate::evidence::{Mesh, Objects, WithheldObject};
use crate::explanation::{Because, Explanation, Place, Verdict};
use crate::objects::{self, annotation, array, count, text};
use crate::path::Walk;
use crate::question::Question;

/// Annotations with their older names (Cilium `pkg/annotation`).
const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const AFFINITY: [&str; 2] = ["service.cilium.io/affinity", "io.cilium/service-affinity"];

pub(crate) fn explain(question: &Question, namespace: &str, name: &str, mesh: &Mesh) -> Explanation {
    let mut walk = Walk::new(question, mesh);
    for peer in walk.others() {
        if provider(&mut walk, peer, namespace, name) {
            walk.mirror(peer, Resource::Services);
            walk.cache(peer, Resource::Services);
            walk.agent_of_peer(peer, Resource::Services);
        }
    }
    let from = walk.from();
    if let Some(objects) = kubernetes(&mut walk, from) {
        describe(&mut walk, from, objects, namespace, name);
    }
    let reached = agent(&mut walk, namespace, name);
    walk.end(reached)
}

/// The steps in the cluster that has the service. Returns whether there is anything to follow further.
fn provider(walk: &mut Walk<'_>, cluster: &str, namespace: &str, name: &str) -> bool {
    let objects = kubernetes(walk, cluster);
    let exported = walk.is_exported(cluster, Resource::Services);
    if let Some(objects) = objects
        && !describe(walk, cluster, objects, namespace, name)
        && exported != Some(true)
    {
        return false;
    }
    let service = format!("{namespace}/{name}");
    let slices: BTreeSet<String> = objects
        .map(|objects| {
            objects.slices.iter().map(|slice| format!("{namespace}/{}", objects::name(slice))).collect()
        })
        .unwrap_or_default();
    let concerns = |row: &WithheldObject| match row.kind.as_str() {
        "Service" => row.object == service,
        "Namespace" => row.object == namespace,
        "EndpointSlice" => slices.contains(&row.object),
        _ => false,
    };
    walk.exporter(cluster, Resource::Services, &["Service", "EndpointSlice", "Namespace"], concerns);
    walk.store(cluster, Resource::Services);
    true
}

fn kubernetes<'a>(walk: &mut Walk<'a>, cluster: &str) -> Option<&'a Objects> {
    let answer = walk.cluster(cluster).map(|places| &places.kubernetes);
    walk.answer(cluster, Place::Kubernetes, answer)
}

/// The Service as the API has it. Returns whether there is one.
fn describe(walk: &mut Walk<'_>, cluster: &str, objects: &Objects, namespace: &str, name: &str) -> bool {
    let Some(service) = &objects.service else {
        let text = if objects.namespace.is_some() {
            format!("no Service {namespace}/{name}")
        } else {
            format!("no Namespace {namespace}")
        };
        walk.step(cluster, Place::Kubernetes, Verdict::Note, text);
        return false;
    };
    let (ready, all) = objects::ready(&objects.slices);
    let mut text = format!("Service {namespace}/{name}: {ready} of {} ready", count(all, "endpoint"));
    for (keys, plain) in [(&GLOBAL, "not annotated as global"), (&SHARED, ""), (&AFFINITY, "")] {
        match annotation(service, keys) {
            Some((key, value)) => text.push_str(&format!(", {key}={value}")),
            None if plain.is_empty() => {}
            None => text.push_str(&format!(", {plain}")),
        }
    }
    walk.step(cluster, Place::Kubernetes, Verdict::Good, text);
    true
}

/// What the agent's table of services holds. `None` if it cannot be seen.
fn agent(walk: &mut Walk<'_>, namespace: &str, name: &str) -> Option<Result<String, String>> {
    let from = walk.from();
    let answer = walk.cluster(from).map(|places| &places.agent);
    let pages = walk.answer(from, Place::Agent, answer)?;
    let is_it = |row: &&Value| text(row, "/namespace") == Some(namespace) && text(row, "/name") == Some(name);
    let Some(service) = array(&pages.services, "/services").iter().find(is_it) else {
        walk.step(from, Place::Agent, Verdict::Bad, format!("has no service {namespace}/{name}"));
        return Some(Err(format!("{from} has no service {namespace}/{name}")));
    };
    let mut reasons: Vec<_> = codes(service, "");
    for share in array(service, "/clusters") {
        reasons.extend(codes(share, text(share, "/name").unwrap_or_default()));
    }
    let mut chosen = BTreeSet::new();
    let mut clusters = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for frontend in array(service, "/frontends") {
        for backend in array(frontend, "/backends") {
            let (address, cluster) = (endpoint(backend), text(backend, "/cluster").unwrap_or_default());
            seen.insert(address.clone());
            if backend.pointer("/selected").and_then(Value::as_bool) == Some(true) {
                chosen.insert(address);
                clusters.insert(cluster);
            } else if let Some(code) = text(backend, "/reason") {
                let subject = format!("{address} of {cluster} behind {}", endpoint(frontend));
                reasons.push(Because::new(code, subject, ""));
            }
        }
    }
    let skipped = array(&pages.status, "/datapath/skipped").iter();
    let object = format!("{namespace}/{name}");
    let skipped = skipped.filter(|row| text(row, "/service") == Some(object.as_str()));
    reasons.extend(skipped.map(|row| crate::path::because(row, &endpoint(row))));
    let all = count(seen.len(), "backend");
    let step = if chosen.is_empty() {
        walk.step(from, Place::Agent, Verdict::Bad, format!("{object}: none of {all} takes new connections"))
    } else {
        let verdict = if reasons.is_empty() { Verdict::Good } else { Verdict::Note };
        walk.step(
            from,
            Place::Agent,
            verdict,
            format!("{object}: {} of {all} take new connections", chosen.len()),
        )
    };
    step.reasons = reasons;
    if chosen.is_empty() {
        return Some(Err(format!("{from} has no backend to send connections to {object} to")));
    }
    let clusters: Vec<_> = clusters.into_iter().collect();
    Some(Ok(format!(
        "{from} sends connections to {object} to {} of {}",
        count(chosen.len(), "backend"),
        clusters.join(", ")
    )))
}

/// The codes in `reasons` of a row.
fn codes(row: &Value, subject: &str) -> Vec<Because> {
    let codes = array(row, "/reasons").iter().filter_map(Value::as_str);
    codes.map(|code| Because::new(code, subject, "")).collect()
}

/// `10.0.0.1:80/TCP`.
fn endpoint(row: &Value) -> String {
    let address = text(row, "/address").unwrap_or_default();
    let port = row.pointer("/port").and_then(Value::as_u64).unwrap_or_default();
    let protocol = text(row, "/protocol").unwrap_or("TCP");
    if address.contains(':') {
        format!("[{address}]:{port}/{protocol}")
    } else {
        format!("{address}:{port}/{protocol}")
    }
}
