//! The report for people.

use super::{ClusterReport, Finding, PlaceReport, Report};
use crate::cmd::table::table;
use crate::out::coloured;
use mesh_explain::{Style, wrap};
use std::fmt::Write as _;

impl Report {
    /// Two tables, and what needs a look.
    pub(crate) fn text(&self, style: Style) -> String {
        let mut text = table(
            ["CLUSTER", "KUBERNETES", "EXPORT", "AGENT", "DNS", "CERTIFICATE"],
            self.clusters.iter().map(cluster_row),
        );
        let peers = self.clusters.iter().flat_map(|cluster| {
            cluster.peers.iter().map(|peer| {
                let count = |word: &str| peer.counts.get(word).map(usize::to_string).unwrap_or_default();
                let state = match (peer.configured, peer.connected, peer.synced) {
                    (false, ..) => "not configured",
                    (_, false, _) => "no contact",
                    (.., false) => "not in step",
                    (.., true) => "synced",
                };
                [
                    cluster.name.clone(),
                    peer.name.clone(),
                    state.to_owned(),
                    peer.age_seconds.map(|age| format!("{age:.1}s")).unwrap_or_default(),
                    count("nodes"),
                    count("ip"),
                    count("services"),
                    count("serviceexports"),
                    if peer.held_back > 0 { peer.held_back.to_string() } else { String::new() },
                ]
            })
        });
        let header = ["CLUSTER", "PEER", "STATE", "AGE", "NODES", "ENDPOINTS", "SERVICES", "EXPORTS", "HELD"];
        text.push('\n');
        text += &table(header, peers);
        text.push('\n');
        for finding in &self.findings {
            push_finding(&mut text, finding, style);
        }
        let (word, colour) = if self.healthy {
            ("The mesh is healthy.".to_owned(), 32)
        } else {
            let plural = if self.findings.len() == 1 { " needs" } else { "s need" };
            (format!("{} thing{plural} a look.", self.findings.len()), 31)
        };
        text += &coloured(&word, colour, style);
        text
    }
}

fn cluster_row(cluster: &ClusterReport) -> [String; 6] {
    let state = |place: &str| cluster.places.get(place).map(short).unwrap_or_default();
    let days = cluster.certificate_days.map(|days| format!("{days} days")).unwrap_or_default();
    [cluster.name.clone(), state("kubernetes"), state("exporter"), state("agent"), state("dns"), days]
}

/// A word: the whole of it is a finding.
fn short(place: &PlaceReport) -> String {
    if place.state == "not-asked" { String::new() } else { place.state.to_owned() }
}

fn push_finding(text: &mut String, finding: &Finding, style: Style) {
    let reason = finding.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let mark = coloured(&finding.at, 33, style);
    *text += &wrap(&format!("{mark}: {}{reason}", finding.text), "  ", style.width);
    // Never broken: it is to be copied.
    if let Some(next) = &finding.next {
        writeln!(text, "  next: {next}").unwrap_or_default();
    }
}
