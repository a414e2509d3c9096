//! A name of a multi-cluster service, from every cluster's ServiceExport to the DNS server's answer.

use mesh_types::key::Resource;

use crate::evidence::{Mesh, WithheldObject};
use crate::explanation::{Because, Explanation, Place, Verdict};
use crate::objects::{array, text};
use crate::path::Walk;
use crate::question::Question;

pub(crate) fn explain(question: &Question, namespace: &str, service: &str, mesh: &Mesh) -> Explanation {
    let mut walk = Walk::new(question, mesh);
    let object = format!("{namespace}/{service}");
    for cluster in walk.mesh.clusters.keys() {
        if !export(&mut walk, cluster, namespace, &object) {
            continue;
        }
        if cluster != walk.from() {
            walk.mirror(cluster, Resource::ServiceExports);
            walk.cache(cluster, Resource::ServiceExports);
        }
    }
    controllers(&mut walk, &object);
    import(&mut walk, &object);
    zone(&mut walk, namespace, service);
    let reached = reply(&mut walk);
    walk.end(reached)
}

/// The ServiceExport and its key. Returns whether there is anything to follow further.
fn export(walk: &mut Walk<'_>, cluster: &str, namespace: &str, object: &str) -> bool {
    let answer = walk.cluster(cluster).map(|places| &places.kubernetes);
    if let Some(objects) = walk.answer(cluster, Place::Kubernetes, answer) {
        let service =
            if objects.service.is_some() { "a Service of its name" } else { "no Service of its name" };
        if objects.service_export.is_some() {
            let text = format!("ServiceExport {object}, {service}");
            walk.step(cluster, Place::Kubernetes, Verdict::Good, text);
        } else {
            walk.step(cluster, Place::Kubernetes, Verdict::Note, format!("no ServiceExport {object}"));
            if walk.is_exported(cluster, Resource::ServiceExports) != Some(true) {
                return false;
            }
        }
    }
    let concerns = |row: &WithheldObject| match row.kind.as_str() {
        "Service" | "ServiceExport" => row.object == object,
        "Namespace" => row.object == namespace,
        _ => false,
    };
    walk.exporter(cluster, Resource::ServiceExports, &["Service", "ServiceExport", "Namespace"], concerns);
    walk.store(cluster, Resource::ServiceExports);
    true
}

/// What the controllers withhold of the import.
fn controllers(walk: &mut Walk<'_>, object: &str) {
    let from = walk.from();
    let answer = walk.cluster(from).map(|places| &places.controllers);
    let Some(page) = walk.answer(from, Place::Controllers, answer) else { return };
    let reasons: Vec<_> = page.withheld.get(object).into_iter().flatten().collect();
    let reasons: Vec<_> = reasons.into_iter().map(|row| Because::new(&row.reason, "", &row.detail)).collect();
    let (verdict, text) = if let Some(error) = page.failing.get(object) {
        (Verdict::Bad, format!("cannot write the import: {error}"))
    } else if !page.pending.is_empty() {
        (Verdict::Bad, format!("change no import yet; wait for {}", page.pending.join(", ")))
    } else if reasons.is_empty() {
        (Verdict::Good, "withhold nothing of it".to_owned())
    } else {
        (Verdict::Note, "withhold something of it".to_owned())
    };
    walk.step(from, Place::Controllers, verdict, text).reasons = reasons;
}

/// The ServiceImport.
fn import(walk: &mut Walk<'_>, object: &str) {
    let from = walk.from();
    let answer = walk.cluster(from).map(|places| &places.kubernetes);
    let Some(objects) = walk.answer(from, Place::Kubernetes, answer) else { return };
    match &objects.service_import {
        Some(import) => {
            let texts = |pointer: &str, field: &str| {
                let rows = array(import, pointer).iter();
                let found: Vec<_> = rows
                    .filter_map(|row| if field.is_empty() { row.as_str() } else { text(row, field) })
                    .collect();
                if found.is_empty() { "none".to_owned() } else { found.join(", ") }
            };
            let kind = text(import, "/spec/type").unwrap_or("ClusterSetIP");
            let (ips, clusters) = (texts("/spec/ips", ""), texts("/status/clusters", "/cluster"));
            let text = format!("ServiceImport {object}: {kind}, addresses {ips}, clusters {clusters}");
            walk.step(from, Place::Kubernetes, Verdict::Good, text);
        }
        None => {
            walk.step(from, Place::Kubernetes, Verdict::Bad, format!("no ServiceImport {object}"));
        }
    }
}

/// What the DNS server leaves out.
fn zone(walk: &mut Walk<'_>, namespace: &str, service: &str) {
    let from = walk.from();
    let answer = walk.cluster(from).map(|places| &places.dns);
    let Some(page) = walk.answer(from, Place::Dns, answer) else { return };
    // Slices of imports carry the service's name in front of a hash.
    let is_of_it = |name: &str| name == service || name.starts_with(&format!("{service}-"));
    let rows = page.skipped.iter().filter(|row| row.namespace == namespace && is_of_it(&row.name));
    let reasons: Vec<_> = rows
        .map(|row| Because::new(&row.reason, format!("{} {}/{}", row.kind, row.namespace, row.name), ""))
        .collect();
    let (verdict, text) = match (page.synced, reasons.is_empty()) {
        (false, _) => {
            (Verdict::Bad, format!("{} is not complete yet: every question is answered SERVFAIL", page.zone))
        }
        (true, true) => (Verdict::Good, format!("{} is complete", page.zone)),
        (true, false) => (Verdict::Note, format!("{} leaves out something of it", page.zone)),
    };
    walk.step(from, Place::Dns, verdict, text).reasons = reasons;
}

/// The answer itself.
fn reply(walk: &mut Walk<'_>) -> Option<Result<String, String>> {
    let from = walk.from();
    let asked = walk.question.subject.to_string();
    let answer = walk.cluster(from).map(|places| &places.reply);
    let reply = walk.answer(from, Place::Dns, answer)?;
    let records = if reply.answers.is_empty() { "no records".to_owned() } else { reply.answers.join(", ") };
    let text = format!("answers {}: {records}", reply.code);
    if reply.code == "NOERROR" && !reply.answers.is_empty() {
        walk.step(from, Place::Dns, Verdict::Good, text);
        Some(Ok(format!("{asked} is answered in {from}: {records}")))
    } else {
        walk.step(from, Place::Dns, Verdict::Bad, text);
        Some(Err(format!("{asked} has no answer in {from} ({})", reply.code)))
    }
}
