//! `isthmus kvstoremesh status`: asks the running daemon.

use super::HEALTH_PORT;
use crate::exit::Exit;
use crate::http;
use crate::out::FormatArgs;
use anyhow::Context as _;
use kvstoremesh::{RemoteStatus, ResourceStatus, StatusPage};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

/// Arguments of `isthmus kvstoremesh status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Health listener of the daemon.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT)))]
    address: SocketAddr,
    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let body = http::get(self.address, "/remotes").with_context(|| {
            format!(
                "expected `isthmus kvstoremesh` with its health listener at {} (see --address)",
                self.address
            )
        })?;
        let page: StatusPage = serde_json::from_slice(&body).context("read the daemon's status")?;
        self.format.print(&page, text)?;
        let all_ready = page.remotes.iter().all(|remote| remote.ready);
        Ok(if all_ready { Exit::Done } else { Exit::Degraded })
    }
}

fn text(page: &StatusPage) -> String {
    let ready = page.remotes.iter().filter(|remote| remote.ready).count();
    let mut text = format!(
        "cluster {} (id {}): {ready}/{} remote clusters ready\n",
        page.cluster,
        page.cluster_id,
        page.remotes.len()
    );
    for remote in &page.remotes {
        push_remote(&mut text, remote);
    }
    for removal in &page.removing {
        line(&mut text, format_args!("   {}: being removed ({})", removal.name, removal.stage));
    }
    let local = "cluster-is-local";
    for file in page.rejected_files.iter().filter(|file| file.reason != local) {
        line(&mut text, format_args!("   file {}: not used, {} ({})", file.file, file.detail, file.reason));
    }
    text
}

fn push_remote(text: &mut String, remote: &RemoteStatus) {
    let word = match (remote.ready, remote.connected) {
        (true, _) => "ready",
        (false, true) => "connected, not ready",
        (false, false) => "not connected",
    };
    let id =
        remote.config.as_ref().map_or_else(|| "unknown".to_owned(), |config| config.cluster_id.to_string());
    let store = remote.store_cluster_id.as_deref().unwrap_or("unknown");
    line(
        text,
        format_args!(
            "   {}: {word}, id {id}, store {store} at {}, {} failures",
            remote.name,
            remote.endpoints.join(" "),
            remote.failures
        ),
    );
    if let Some(trouble) = &remote.trouble {
        line(text, format_args!("      {} ({})", trouble.detail, trouble.reason));
    }
    if let Some(error) = &remote.write_error {
        line(text, format_args!("      local store: {error}"));
    }
    push_times(text, remote);
    for (name, resource) in &remote.resources {
        line(
            text,
            format_args!("      {name:<15} {:>7} entries  {}", resource.entries, resource_words(resource)),
        );
        for what in off_words(&remote.name, name, resource) {
            line(text, format_args!("      {:<15} ! {what}", ""));
        }
    }
    for skipped in &remote.skipped {
        line(
            text,
            format_args!(
                "      skipped {} {}: {} ({})",
                skipped.resource, skipped.key, skipped.detail, skipped.reason
            ),
        );
    }
}

/// How old what is here may be, and what becomes of it without contact.
fn push_times(text: &mut String, remote: &RemoteStatus) {
    let mut words = Vec::new();
    words.extend(remote.heartbeat_age_seconds.map(|age| format!("heartbeat {age:.0} s ago")));
    for (source, latency) in &remote.latency {
        words.push(format!(
            "{} changes timed by its {source}: half within {} s, 99 of 100 within {} s, slowest {:.3} s",
            latency.count, latency.p50_seconds, latency.p99_seconds, latency.max_seconds
        ));
        if latency.ahead > 0 {
            let offset = latency.least_seconds;
            words.push(format!(
                "its clock is ahead of ours by {:.3} s or more ({} seem to have come early)",
                -offset.min(0.0),
                latency.ahead
            ));
        }
    }
    if !remote.lost_contact.is_empty() {
        words.push(format!("without contact: {}", remote.lost_contact));
    }
    if !words.is_empty() {
        line(text, format_args!("      {}", words.join("; ")));
    }
}

/// What is not as the peer has it, and what ends that.
fn off_words(cluster: &str, kind: &str, resource: &ResourceStatus) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(held) = &resource.withheld {
        let until = held.goes_in_seconds.map(|left| format!(" for another {left:.0} s")).unwrap_or_default();
        words.push(format!(
            "{} withdrawn entries are held back{until} ({}); obey at once: isthmus kvstoremesh release {cluster} {kind}",
            held.keys, held.reason
        ));
    }
    if let Some(given_up) = &resource.given_up {
        words
            .push(format!("{} entries were withdrawn without its word ({})", given_up.keys, given_up.reason));
    }
    if resource.left_out > 0 {
        words.push(format!("{} entries are too many and left out (too-many-keys)", resource.left_out));
    }
    words
}

fn resource_words(resource: &ResourceStatus) -> String {
    let mut words = resource.state.clone();
    if let Some(stale) = resource.stale_seconds {
        words += &format!(" for {stale:.0} s");
    }
    if let Some(what) = &resource.waiting_for {
        words += &format!(", waiting for {what}");
    }
    if let Some(age) = resource.age_bound_seconds {
        words += &format!(", as of {age:.0} s ago");
    }
    if let Some(age) = resource.last_event_seconds {
        words += &format!(", last event {age:.0} s ago");
    }
    if resource.pending > 0 {
        words += &format!(", {} to write", resource.pending);
    }
    words
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_reason() {
        let page: StatusPage = serde_json::from_value(serde_json::json!({
            "cluster": "east", "clusterId": 1, "maxConnectedClusters": 255,
            "remotes": [{
                "name": "west", "ready": false, "connected": false, "endpoints": ["https://west:2379"],
                "storeClusterId": "00000000000000ab", "config": null,
                "resources": {"nodes": {"state": "stale", "waitingFor": "connection", "entries": 3, "pending": 0,
                    "staleSeconds": 12.4, "lastEventSeconds": 13.0, "ageBoundSeconds": 12.6, "leftOut": 7,
                    "withheld": {"keys": 2, "reason": "withdrawal-abrupt", "sinceSeconds": 20.0, "goesInSeconds": 280.4},
                    "givenUp": {"keys": 1, "reason": "contact-lost-drained", "sinceSeconds": 1.0}}},
                "lostContact": "drain-after:600s",
                "latency": {"heartbeat": {"count": 4, "p50Seconds": 0.5, "p99Seconds": 1.0, "maxSeconds": 0.91, "lastSeconds": 0.2},
                    "revision": {"count": 9, "p50Seconds": 0.0005, "p99Seconds": 0.001, "maxSeconds": 0.001, "lastSeconds": 0.0, "ahead": 3, "leastSeconds": -0.25}},
                "heartbeatAgeSeconds": 42.4, "failures": 2, "lastFailure": null,
                "trouble": {"reason": "tls-failed", "detail": "certificate expired"}, "writeError": null,
                "skipped": [{"resource": "nodes", "key": "../x", "reason": "key-malformed", "detail": "key ends in .."}],
            }],
            "removing": [{"name": "north", "stage": "grace"}],
            "rejectedFiles": [
                {"file": "West", "reason": "cluster-name-invalid", "detail": "expected a-z"},
                {"file": "east", "reason": "cluster-is-local", "detail": "needs no connection"},
            ],
        }))
        .unwrap();
        let expected = "\
cluster east (id 1): 0/1 remote clusters ready
   west: not connected, id unknown, store 00000000000000ab at https://west:2379, 2 failures
      certificate expired (tls-failed)
      heartbeat 42 s ago; 4 changes timed by its heartbeat: half within 0.5 s, 99 of 100 within 1 s, slowest 0.910 s; 9 changes timed by its revision: half within 0.0005 s, 99 of 100 within 0.001 s, slowest 0.001 s; its clock is ahead of ours by 0.250 s or more (3 seem to have come early); without contact: drain-after:600s
      nodes                 3 entries  stale for 12 s, waiting for connection, as of 13 s ago, last event 13 s ago
                      ! 2 withdrawn entries are held back for another 280 s (withdrawal-abrupt); obey at once: isthmus kvstoremesh release west nodes
                      ! 1 entries were withdrawn without its word (contact-lost-drained)
                      ! 7 entries are too many and left out (too-many-keys)
      skipped nodes ../x: key ends in .. (key-malformed)
   north: being removed (grace)
   file West: not used, expected a-z (cluster-name-invalid)
";
        assert_eq!(text(&page), expected);
    }
}
