//! `kvstoremesh-dbg status`: the mirror's `/v1/cluster` as Cilium's tool prints it.

use crate::exit::Usage;
use crate::out;
use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

/// One remote cluster; what is absent is zero, false or unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    name: String,
    ready: bool,
    status: String,
    config: Option<Config>,
    synced: Option<Synced>,
    num_nodes: u64,
    num_endpoints: u64,
    num_identities: u64,
    num_shared_services: u64,
    num_service_exports: u64,
    num_endpoint_slices: u64,
    num_failures: u64,
    last_failure: Option<jiff::Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Config {
    required: bool,
    retrieved: bool,
    cluster_id: u32,
    kvstoremesh: bool,
    sync_canaries: bool,
    service_exports_enabled: Option<bool>,
    endpoint_slices_export_mode: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Synced {
    nodes: bool,
    endpoints: bool,
    identities: bool,
    services: bool,
    endpoint_slices: Option<bool>,
    service_exports: Option<bool>,
}

/// How `-o` of Cilium's tools prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Json,
    Yaml,
    JsonPath(String),
}

impl FromStr for Output {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            other => match other.strip_prefix("jsonpath=") {
                Some(path) => Ok(Self::JsonPath(path.to_owned())),
                None => Err(Usage::error(format!("--output={other}: expected json, yaml or jsonpath=PATH"))),
            },
        }
    }
}

/// Prints what `/v1/cluster` answered.
pub(crate) fn print(body: &[u8], output: &Output, verbose: bool) -> anyhow::Result<()> {
    let value: Value = serde_json::from_slice(body).context("read the mirror's answer")?;
    match output {
        Output::Text => out::print(text(value, verbose, jiff::Timestamp::now())?.trim_end()),
        // With an empty line after it, as Cilium prints it.
        Output::Json => out::print(format!("{}\n", serde_json::to_string_pretty(&value)?)),
        Output::Yaml => out::print(serde_yaml_ng::to_string(&value)?.trim_end()),
        Output::JsonPath(path) => out::print(super::jsonpath::print(path, &value)?),
    }
}

/// The text for people; details of clusters that are ready only if `verbose`.
fn text(value: Value, verbose: bool, now: jiff::Timestamp) -> anyhow::Result<String> {
    let clusters: Vec<Cluster> =
        serde_json::from_value(value).context("read the mirror's answer as a list of clusters")?;
    let ready = clusters.iter().filter(|cluster| cluster.ready).count();
    let mut text = format!("KVStoreMesh:\t{ready}/{} remote clusters ready\n", clusters.len());
    for cluster in &clusters {
        line(&mut text, cluster.summary(now));
        if verbose || !cluster.ready {
            line(&mut text, format_args!("   └  {}", cluster.status));
            line(&mut text, format_args!("   └  remote configuration: {}", cluster.configuration()));
            if let Some(synced) = &cluster.synced {
                line(&mut text, format_args!("   └  synchronization status: {}", synced.words()));
            }
        }
    }
    Ok(text)
}

impl Cluster {
    fn summary(&self, now: jiff::Timestamp) -> String {
        let ready = if self.ready { "ready" } else { "not-ready" };
        // What 1.20 can tell, 1.19 does not know of.
        let knows_slices = self.synced.as_ref().is_some_and(|synced| synced.endpoint_slices.is_some());
        let slices = if knows_slices || self.num_endpoint_slices > 0 {
            format!("{} endpoint slices, ", self.num_endpoint_slices)
        } else {
            String::new()
        };
        format!(
            "   {}: {ready}, {} nodes, {} endpoints, {} identities, {} services, {slices}{} MCS-API service exports, {} reconnections (last: {})",
            self.name,
            self.num_nodes,
            self.num_endpoints,
            self.num_identities,
            self.num_shared_services,
            self.num_service_exports,
            self.num_failures,
            since(self.last_failure, now),
        )
    }

    fn configuration(&self) -> String {
        let Some(config) = &self.config else { return "expected=unknown, retrieved=unknown".to_owned() };
        let mut text = format!("expected={}, retrieved={}", config.required, config.retrieved);
        if config.retrieved {
            let exports = match config.service_exports_enabled {
                None => "unsupported",
                Some(false) => "disabled",
                Some(true) => "enabled",
            };
            text += &format!(
                ", cluster-id={}, kvstoremesh={}, sync-canaries={}, service-exports={exports}",
                config.cluster_id, config.kvstoremesh, config.sync_canaries
            );
            if !config.endpoint_slices_export_mode.is_empty() {
                text += &format!(", endpoint-slice-export-mode={}", config.endpoint_slices_export_mode);
            }
        }
        text
    }
}

impl Synced {
    fn words(&self) -> String {
        let mut text = format!(
            "nodes={}, endpoints={}, identities={}, services={}",
            self.nodes, self.endpoints, self.identities, self.services
        );
        for (name, synced) in
            [("endpoint-slices", self.endpoint_slices), ("service-exports", self.service_exports)]
        {
            if let Some(synced) = synced {
                text += &format!(", {name}={synced}");
            }
        }
        text
    }
}

/// Go's words for the time since; its zero time is never.
fn since(time: Option<jiff::Timestamp>, now: jiff::Timestamp) -> String {
    let Some(time) = time.filter(|time| time.as_second() > 0) else { return "never".to_owned() };
    let elapsed = Duration::try_from(now.duration_since(time)).unwrap_or_default().as_secs();
    let (hours, minutes, seconds) = (elapsed / 3600, elapsed / 60 % 60, elapsed % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s ago"),
        (0, _) => format!("{minutes}m{seconds}s ago"),
        _ => format!("{hours}h{minutes}m{seconds}s ago"),
    }
}

fn line(text: &mut String, words: impl std::fmt::Display) {
    writeln!(text, "{words}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(file: &str) -> String {
        let path = format!("{}/../mesh-types/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    fn now() -> jiff::Timestamp {
        "2026-02-03T10:11:12Z".parse().unwrap()
    }

    #[test]
    fn ciliums_own_answers_come_out_as_ciliums_own_text() {
        for version in ["v1.19", "v1.20"] {
            let answer =
                serde_json::from_str(&golden(&format!("{version}/kvstoremesh-status.json"))).unwrap();
            let expected = golden(&format!("{version}/kvstoremesh-status.txt"));
            assert_eq!(text(answer, true, now()).unwrap(), expected, "{version}");
        }
    }

    #[test]
    fn a_ready_cluster_has_details_only_when_asked_for() {
        let answer: Value = serde_json::from_str(&golden("v1.20/kvstoremesh-status.json")).unwrap();
        let short = text(answer.clone(), false, now()).unwrap();
        assert_eq!(short.lines().count(), 2, "{short}");
        let mut failing = answer;
        failing[0]["ready"] = false.into();
        assert_eq!(text(failing, false, now()).unwrap().lines().count(), 5);
    }

    #[test]
    fn a_cluster_that_was_never_reached_says_what_is_unknown() {
        let answer = serde_json::json!([{
            "name": "west", "status": "Waiting for initial connection to be established",
            "synced": {}, "num-failures": 3, "last-failure": "2026-02-03T10:08:00.000Z",
        }, {"name": "x", "connected": true, "config": {"required": true}}]);
        let expected = "KVStoreMesh:\t0/2 remote clusters ready\n   \
            west: not-ready, 0 nodes, 0 endpoints, 0 identities, 0 services, 0 MCS-API service exports, 3 reconnections (last: 3m12s ago)\n   \
            └  Waiting for initial connection to be established\n   \
            └  remote configuration: expected=unknown, retrieved=unknown\n   \
            └  synchronization status: nodes=false, endpoints=false, identities=false, services=false\n   \
            x: not-ready, 0 nodes, 0 endpoints, 0 identities, 0 services, 0 MCS-API service exports, 0 reconnections (last: never)\n   \
            └  \n   \
            └  remote configuration: expected=true, retrieved=false\n";
        assert_eq!(text(answer, false, now()).unwrap(), expected);
    }

    #[test]
    fn ages_are_gos() {
        for (seconds, expected) in [(0, "0s ago"), (59, "59s ago"), (60, "1m0s ago"), (3672, "1h1m12s ago")] {
            let then = now() - jiff::SignedDuration::from_secs(seconds);
            assert_eq!(since(Some(then), now()), expected);
        }
        assert_eq!(since("0001-01-01T00:00:00.000Z".parse().ok(), now()), "never");
    }
}
