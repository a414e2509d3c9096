//! An address, from its owner's Kubernetes to the agent's ipcache and encryption.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_types::key::Resource;
use serde_json::Value;

use crate::evidence::{AgentPages, Mesh, WithheldObject};
use crate::explanation::{Because, Explanation, Place, Verdict};
use crate::objects::{array, text};
use crate::path::{Walk, because};
use crate::question::Question;

pub(crate) fn explain(question: &Question, address: IpAddr, mesh: &Mesh) -> Explanation {
    let mut walk = Walk::new(question, mesh);
    for peer in walk.others() {
        if owner(&mut walk, peer, address) {
            walk.mirror(peer, Resource::Ip);
            walk.cache(peer, Resource::Ip);
            walk.agent_of_peer(peer, Resource::Ip);
        }
    }
    let reached = ipcache(&mut walk, address);
    walk.end(reached)
}

/// The steps in a cluster that has the address. Returns whether it has.
fn owner(walk: &mut Walk<'_>, cluster: &str, address: IpAddr) -> bool {
    let answer = walk.cluster(cluster).map(|places| &places.kubernetes);
    let objects = walk.answer(cluster, Place::Kubernetes, answer);
    let owners = objects.map(|objects| objects.owners.as_slice()).unwrap_or_default();
    if objects.is_some() {
        if owners.is_empty() {
            let text = format!("nothing has the address {address}");
            walk.step(cluster, Place::Kubernetes, Verdict::Note, text);
            if walk.is_exported(cluster, Resource::Ip) != Some(true) {
                return false;
            }
        } else {
            walk.step(cluster, Place::Kubernetes, Verdict::Good, owners.join(", "));
        }
    }
    let concerns = |row: &WithheldObject| {
        let named = format!("{} {}", row.kind, row.object);
        owners.contains(&named) || row.detail.contains(&address.to_string())
    };
    let kinds = ["CiliumEndpoint", "CiliumEndpointSlice", "Pod", "Node", "CiliumNode"];
    walk.exporter(cluster, Resource::Ip, &kinds, concerns);
    // The address of a node is no entry of its own: it travels with the node.
    let is_node = !owners.is_empty() && owners.iter().all(|owner| owner.contains("Node "));
    if !is_node {
        walk.store(cluster, Resource::Ip);
    }
    !is_node
}

/// What the agent's ipcache holds.
fn ipcache(walk: &mut Walk<'_>, address: IpAddr) -> Option<Result<String, String>> {
    let from = walk.from();
    let answer = walk.cluster(from).map(|places| &places.agent);
    let pages = walk.answer(from, Place::Agent, answer)?;
    let Some(entry) = array(&pages.ipcache, "/entries").iter().find(|row| covers(row, address)) else {
        walk.step(from, Place::Agent, Verdict::Bad, format!("the ipcache has no entry for {address}"));
        return Some(Err(format!("{from} does not know {address}")));
    };
    let field = |pointer: &str| text(entry, pointer).unwrap_or_default();
    let identity = entry.pointer("/identity").and_then(Value::as_u64).unwrap_or_default();
    let (prefix, cluster) = (field("/prefix"), field("/cluster"));
    let behind = text(entry, "/host").map(|host| format!(" behind {host}")).unwrap_or_default();
    let pod = if field("/pod").is_empty() {
        String::new()
    } else {
        format!(", pod {}/{}", field("/namespace"), field("/pod"))
    };
    let found = format!("{prefix} is of {cluster}{pod}, identity {identity}{behind}");
    let overridden = array(entry, "/overridden").iter();
    let reasons: Vec<_> = overridden
        .map(|row| because(row, &format!("claim of {}", text(row, "/cluster").unwrap_or_default())))
        .collect();
    let verdict = if reasons.is_empty() { Verdict::Good } else { Verdict::Note };
    walk.step(from, Place::Agent, verdict, found.clone()).reasons = reasons;
    encryption(walk, pages, address, text(entry, "/host"));
    Some(Ok(format!("{from} knows {address}: {found}")))
}

/// How packets to the address travel, where WireGuard is on.
fn encryption(walk: &mut Walk<'_>, pages: &AgentPages, address: IpAddr, host: Option<&str>) {
    if pages.wireguard.pointer("/summary/enabled").and_then(Value::as_bool) != Some(true) {
        return;
    }
    let from = walk.from();
    let holds = |row: &&Value| {
        array(row, "/allowedIps").iter().filter_map(Value::as_str).any(|net| contains(net, address))
    };
    let peer = array(&pages.wireguard, "/peers").iter().find(holds);
    let node = |row: &Value| {
        let names = [text(row, "/cluster"), text(row, "/node")];
        names.map(Option::unwrap_or_default).join("/")
    };
    let skipped = array(&pages.wireguard, "/skipped").iter().filter(|row| {
        text(row, "/prefix").map_or_else(|| is_node_of(pages, row, host), |prefix| contains(prefix, address))
    });
    let reasons: Vec<Because> = skipped.map(|row| because(row, &node(row))).collect();
    let (verdict, text) = match peer {
        Some(peer) => (Verdict::Good, format!("packets are encrypted to {}", node(peer))),
        None => {
            (Verdict::Bad, "no WireGuard peer has the address: packets to it are not encrypted".to_owned())
        }
    };
    walk.step(from, Place::Agent, verdict, text).reasons = reasons;
}

/// Whether a left-out node is the one behind which the address lives.
fn is_node_of(pages: &AgentPages, row: &Value, host: Option<&str>) -> bool {
    let nodes = array(&pages.ipcache, "/nodes").iter();
    let mut nodes = nodes.filter(|node| text(node, "/name") == text(row, "/node"));
    // Without the nodes at hand every left-out node may be the one.
    host.is_none() || nodes.all(|node| text(node, "/nodeIp") == host)
}

fn covers(row: &Value, address: IpAddr) -> bool {
    text(row, "/prefix").is_some_and(|prefix| contains(prefix, address))
}

fn contains(prefix: &str, address: IpAddr) -> bool {
    prefix.parse::<IpNet>().is_ok_and(|net| net.contains(&address))
        || prefix.parse::<IpAddr>().is_ok_and(|single| single == address)
}
