//! `isthmus kvstoremesh troubleshoot`: why a remote cluster cannot be mirrored.

use crate::duration;
use crate::exit::{Exit, Usage};
use crate::once;
use crate::out::FormatArgs;
use anyhow::Context as _;
use kvstoremesh::troubleshoot::{Findings, Outcome, Question, troubleshoot};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `isthmus kvstoremesh troubleshoot`, and of Cilium's `kvstoremesh-dbg troubleshoot`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these clusters [default: all of the directory].
    #[arg(value_name = "CLUSTER")]
    clusters: Vec<String>,
    /// Directory with one etcd client configuration per remote cluster, named after the cluster.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cilium/clustermesh")]
    clustermesh_config: PathBuf,
    /// The etcd client configuration of this cluster's store, for --include-local.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/cilium/etcd-config.yaml")]
    etcd_config: PathBuf,
    /// Also look into the connection to this cluster's store.
    #[arg(long)]
    include_local: bool,
    /// Look into the connection to this cluster's store, and nothing else.
    #[arg(long, hide = true)]
    only_local: bool,
    /// How long each cluster may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse_positive)]
    timeout: Duration,
    /// Name of this cluster, whose file is not used.
    #[arg(long, value_name = "NAME", env = "CLUSTER_NAME")]
    cluster_name: Option<String>,
    /// Id of this cluster, which no other may have.
    #[arg(long, value_name = "ID", env = "CLUSTER_ID")]
    cluster_id: Option<u32>,
    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    /// Prints what was found; exit code 3 if something is in the way of a cluster.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        if self.only_local && !self.clusters.is_empty() {
            return Err(Usage::error(format!(
                "{}: expected no cluster, this looks at the local store",
                self.clusters[0]
            )));
        }
        let local = (self.include_local || self.only_local).then(|| self.etcd_config.clone());
        let question = Question {
            directory: self.clustermesh_config.clone(),
            clusters: self.clusters.iter().cloned().collect(),
            remotes: !self.only_local,
            local_store: local,
            local_name: self.cluster_name.clone(),
            local_id: self.cluster_id,
            timeout: self.timeout,
        };
        let findings = once::run(troubleshoot(&question))?
            .with_context(|| format!("read --clustermesh-config {}", self.clustermesh_config.display()))?;
        self.format.print(&findings, text)?;
        Ok(if findings.is_well() { Exit::Done } else { Exit::Degraded })
    }
}

fn text(findings: &Findings) -> String {
    let failing = findings.clusters.iter().filter(|cluster| cluster.failing.is_some()).count();
    let mut text = match (findings.clusters.len(), failing) {
        (0, _) => "no remote cluster is configured\n".to_owned(),
        (all, 0) => format!("{all} looked into, nothing is in the way\n"),
        (all, failing) => format!("{all} looked into, {failing} with something in the way\n"),
    };
    for cluster in &findings.clusters {
        match cluster.failing {
            Some(layer) => line(&mut text, format_args!("\n{}: fails at {}", cluster.cluster, layer.word())),
            None => line(&mut text, format_args!("\n{}: well", cluster.cluster)),
        }
        for step in &cluster.steps {
            let mark = match step.outcome {
                Outcome::Passed => "ok  ",
                Outcome::Warning => "warn",
                Outcome::Failed => "FAIL",
            };
            line(&mut text, format_args!("  {mark} {:<15} {}", step.layer.word(), step.what));
            for fact in &step.facts {
                line(&mut text, format_args!("       {:<15} {fact}", ""));
            }
            if !step.advice.is_empty() {
                line(&mut text, format_args!("       {:<15} → {}", "", step.advice));
            }
        }
    }
    text
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string does not fail");
}
