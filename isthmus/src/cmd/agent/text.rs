//! The agent's answers for people.

use crate::cmd::table::table;
use agent_sync::api::schema::{
    ClusterStatus, FrontendRecord, Identities, Ipcache, KindStatus, Nodes, RejectedKeys, ServiceRecord,
    Services, Status, Wireguard,
};
use std::fmt::Write as _;

pub(super) fn status(status: &Status) -> String {
    let ready = status.clusters.iter().filter(|cluster| cluster.ready).count();
    let word = match (status.ready, status.degraded) {
        (false, _) => "not ready",
        (true, true) => "ready, degraded",
        (true, false) => "ready",
    };
    let mut text = format!(
        "agent of {}/{} (cluster id {}): {word}, {ready}/{} remote clusters ready\n",
        status.cluster.name,
        status.node,
        status.cluster.id,
        status.clusters.len()
    );
    let store = match (&status.store.error, status.store.connected) {
        (Some(error), _) => format!("not connected: {error}"),
        (None, true) => format!("connected, id {}", status.store.cluster_id.as_deref().unwrap_or("unknown")),
        (None, false) => "not connected yet".to_owned(),
    };
    line(&mut text, format_args!("store: {store}"));
    for kind in status.kubernetes.iter().filter(|kind| !kind.live || kind.error.is_some()) {
        let error = kind.error.as_deref().unwrap_or("not listed yet");
        line(&mut text, format_args!("kubernetes {}: {error}", kind.kind));
    }
    for cluster in &status.clusters {
        push_cluster(&mut text, cluster);
    }
    if !status.pending.is_empty() {
        line(&mut text, format_args!("never complete so far: {}", status.pending.join(", ")));
    }
    let totals = &status.totals;
    line(
        &mut text,
        format_args!(
            "tables: {} nodes, {} prefixes, {} identities, {} services, {} values not accepted",
            totals.nodes, totals.prefixes, totals.identities, totals.services, totals.rejected
        ),
    );
    push_datapath(&mut text, status);
    push_wireguard(&mut text, status);
    text
}

fn push_cluster(text: &mut String, cluster: &ClusterStatus) {
    let word = if cluster.ready { "ready" } else { "not ready" };
    let id = cluster.id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    let failures = cluster.failures;
    line(
        text,
        format_args!("   {}: {word}, id {id}, {}, {failures} failures", cluster.name, cluster.standing),
    );
    if let (Some(reason), Some(detail)) = (&cluster.reason, &cluster.detail) {
        line(text, format_args!("      {detail} ({reason})"));
    }
    if let Some(at) = &cluster.dropped_at {
        line(text, format_args!("      dropped at {at} if it does not come back"));
    }
    for kind in &cluster.kinds {
        line(text, format_args!("      {:<10} {:>7} entries  {}", kind.kind, kind.entries, kind_words(kind)));
    }
}

fn kind_words(kind: &KindStatus) -> String {
    let mut words = kind.state.clone();
    if let (Some(since), Some(age)) = (&kind.since, kind.age_seconds) {
        words += &format!(" since {since} ({age} s)");
    }
    if kind.withheld > 0 {
        words += &format!(", {} withdrawals held", kind.withheld);
    }
    if let Some(reason) = &kind.reason {
        words += &format!(" ({reason})");
    }
    if let Some(error) = &kind.error {
        words += &format!(": {error}");
    }
    words
}

fn push_datapath(text: &mut String, status: &Status) {
    let datapath = &status.datapath;
    let word = match (&datapath.error, datapath.waiting, datapath.in_effect) {
        (Some(error), _, _) => format!("failing: {error}"),
        (None, true, _) => {
            "waits until all services are known; the rules of an earlier agent are in effect".to_owned()
        }
        (None, false, true) => format!("{} frontends in effect", datapath.frontends),
        (None, false, false) => "nothing written yet".to_owned(),
    };
    line(text, format_args!("services by {}: {word}", datapath.writer));
    for skipped in &datapath.skipped {
        let (service, reason) = (&skipped.service, &skipped.reason);
        let frontend = socket(&skipped.address, skipped.port);
        line(text, format_args!("   {service} {frontend}/{}: {reason}", skipped.protocol));
    }
}

fn push_wireguard(text: &mut String, status: &Status) {
    let wireguard = &status.wireguard;
    if !wireguard.enabled {
        return line(text, format_args!("wireguard: off"));
    }
    let device = wireguard.device.as_deref().unwrap_or("no device yet");
    let key = wireguard.public_key.as_deref().unwrap_or("none");
    let published = if wireguard.published { "published" } else { "not published" };
    line(text, format_args!("wireguard: {device}, key {key} {published}, {} peers", wireguard.peers));
    if let Some(error) = &wireguard.error {
        line(text, format_args!("   {error}"));
    }
}

pub(super) fn nodes(nodes: &Nodes) -> String {
    let rows = nodes.nodes.iter().map(|node| {
        [
            format!("{}/{}", node.cluster, node.name),
            node.node_ip.clone().unwrap_or_default(),
            node.pod_cidrs.join(","),
            node.encryption_key.to_string(),
            node.wireguard_public_key.clone().unwrap_or_default(),
        ]
    });
    table(["NODE", "ADDRESS", "POD CIDRS", "KEY", "WIREGUARD KEY"], rows)
}

pub(super) fn ipcache(ipcache: &Ipcache) -> String {
    let rows = ipcache.entries.iter().map(|entry| {
        let pod =
            if entry.pod.is_empty() { String::new() } else { format!("{}/{}", entry.namespace, entry.pod) };
        let behind = entry.node.as_ref().map(|node| format!("node {node}"));
        let overridden = entry.overridden.iter().map(|claim| format!("{}: {}", claim.cluster, claim.reason));
        [
            entry.prefix.clone(),
            entry.identity.to_string(),
            entry.host.clone().unwrap_or_default(),
            entry.key.to_string(),
            entry.cluster.clone(),
            entry.source.clone(),
            behind.unwrap_or(pod),
            overridden.collect::<Vec<_>>().join(", "),
        ]
    });
    table(["PREFIX", "IDENTITY", "HOST", "KEY", "CLUSTER", "SOURCE", "WHAT", "OVERRIDES"], rows)
}

pub(super) fn identities(identities: &Identities) -> String {
    let rows = identities
        .identities
        .iter()
        .map(|known| [known.id.to_string(), known.cluster.clone(), known.labels.join(" ")]);
    table(["IDENTITY", "CLUSTER", "LABELS"], rows)
}

pub(super) fn services(services: &Services) -> String {
    let rows = services.services.iter().flat_map(service_rows);
    let header =
        ["SERVICE", "SCOPE", "AFFINITY", "FRONTEND", "BACKEND", "CLUSTER", "STATE", "USED", "REASON"];
    table(header, rows)
}

fn service_rows(service: &ServiceRecord) -> Vec<[String; 9]> {
    let name = format!("{}/{}", service.namespace, service.name);
    let scope = match (&*service.state, service.global, service.shared) {
        ("waiting", _, _) => "waiting",
        (_, false, _) => "local",
        (_, true, false) => "global, not shared",
        (_, true, true) => "global",
    };
    let start = [name, scope.to_owned(), service.affinity.clone()];
    let row = |rest: [String; 6]| {
        let mut cells = start.iter().cloned().chain(rest);
        std::array::from_fn(|_| cells.next().expect("three cells and six are nine"))
    };
    let empty = |cell: String, reason: String| {
        let nothing = String::new;
        row([cell, nothing(), nothing(), nothing(), nothing(), reason])
    };
    if service.frontends.is_empty() {
        let clusters = service.clusters.iter().map(|share| format!("{} in {}", share.backends, share.name));
        let clusters = clusters.collect::<Vec<_>>().join(", ");
        let mut row = empty(String::new(), service.reasons.join(", "));
        row[4] = clusters;
        return vec![row];
    }
    let mut rows = Vec::new();
    for frontend in &service.frontends {
        let shown = frontend_words(frontend);
        if frontend.backends.is_empty() {
            rows.push(empty(shown.clone(), service.reasons.join(", ")));
        }
        rows.extend(frontend.backends.iter().map(|backend| {
            row([
                shown.clone(),
                socket(&backend.address, backend.port),
                backend.cluster.clone(),
                backend.state.clone(),
                if backend.selected { "yes" } else { "no" }.to_owned(),
                backend.reason.clone().unwrap_or_default(),
            ])
        }));
    }
    rows
}

fn frontend_words(frontend: &FrontendRecord) -> String {
    format!("{}/{}", socket(&frontend.address, frontend.port), frontend.protocol)
}

/// `address:port`, with brackets around IPv6.
fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) fn rejected(rejected: &RejectedKeys) -> String {
    let rows = rejected.rejected.iter().map(|one| {
        [one.cluster.clone(), one.kind.clone(), one.key.clone(), one.reason.clone(), one.detail.clone()]
    });
    let mut text = table(["CLUSTER", "KIND", "KEY", "REASON", "DETAIL"], rows);
    if rejected.overflow > 0 {
        line(&mut text, format_args!("and {} more that were not kept", rejected.overflow));
    }
    text
}

pub(super) fn wireguard(wireguard: &Wireguard) -> String {
    if !wireguard.summary.enabled {
        return "wireguard is off\n".to_owned();
    }
    let key = wireguard.summary.public_key.as_deref().unwrap_or("none");
    let device = wireguard.summary.device.as_deref().unwrap_or("no device yet");
    let mut text = format!(
        "{} ({device}), UDP port {}, MTU {}, key {key}\n",
        wireguard.interface, wireguard.port, wireguard.mtu
    );
    if let Some(error) = &wireguard.summary.error {
        line(&mut text, format_args!("{error}"));
    }
    let rows = wireguard.peers.iter().map(|peer| {
        [
            format!("{}/{}", peer.cluster, peer.node),
            peer.endpoint.clone().unwrap_or_default(),
            peer.last_handshake_seconds.map_or_else(|| "never".to_owned(), |age| format!("{age} s ago")),
            peer.rx_bytes.to_string(),
            peer.tx_bytes.to_string(),
            peer.allowed_ips.join(","),
        ]
    });
    text += &table(["PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "ALLOWED"], rows);
    for skipped in &wireguard.skipped {
        let (cluster, node, detail, reason) =
            (&skipped.cluster, &skipped.node, &skipped.detail, &skipped.reason);
        let prefix = skipped.prefix.as_ref().map(|prefix| format!(" {prefix}")).unwrap_or_default();
        line(&mut text, format_args!("left out {cluster}/{node}{prefix}: {detail} ({reason})"));
    }
    text
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests;
