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
    for (name, resource) in &remote.resources {
        line(
            text,
            format_args!("      {name:<15} {:>7} entries  {}", resource.entries, resource_words(resource)),
        );
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

fn resource_words(resource: &ResourceStatus) -> String {
    let mut words = resource.state.clone();
    if let Some(stale) = resource.stale_seconds {
        words += &format!(" for {stale:.0} s");
    }
    if let Some(what) = &resource.waiting_for {
        words += &format!(", waiting for {what}");
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
                    "staleSeconds": 12.4, "lastEventSeconds": 13.0}},
                "heartbeatAgeSeconds": null, "failures": 2, "lastFailure": null,
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
      nodes                 3 entries  stale for 12 s, waiting for connection
      skipped nodes ../x: key ends in .. (key-malformed)
   north: being removed (grace)
   file West: not used, expected a-z (cluster-name-invalid)
";
        assert_eq!(text(&page), expected);
    }
}
