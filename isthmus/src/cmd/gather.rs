//! `isthmus gather`: a support bundle.

use crate::cmd::version;
use crate::duration;
use crate::exit::{Exit, Usage};
use crate::gather::{Bundle, archive, ask::Asking};
use crate::once;
use crate::out::{self, FormatArgs};
use crate::places::{ClusterPlaces, Places, kubeconfig};
use crate::status::{self, report};
use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mesh_explain::Style;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Where Cilium, and this program's chart, put their objects.
const NAMESPACE: &str = "kube-system";

/// Arguments of `isthmus gather`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that says where the places of each cluster are.
    #[arg(long, value_name = "FILE", env = "ISTHMUS_MESH")]
    mesh: Option<PathBuf>,
    /// A context of a kubeconfig: a further cluster, of which only the Kubernetes API is asked. May be repeated.
    #[arg(long, value_name = "CONTEXT")]
    context: Vec<String>,
    /// The kubeconfig that has the contexts [default: $KUBECONFIG, else ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// User to impersonate at the Kubernetes APIs.
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// A namespace of the mesh's own parts, whose ConfigMaps, Leases, Events and names of Secrets are gathered. May be
    /// repeated.
    #[arg(short, long, value_name = "NAMESPACE", default_value = NAMESPACE)]
    namespace: Vec<String>,
    /// The bundle, a tar.gz [default: isthmus-gather-TIME.tar.gz here].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How long each place may take to answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse_positive)]
    timeout: Duration,
    #[command(flatten)]
    format: ReportArgs,
}

/// `-o`, under another name: `--output` is the bundle.
#[derive(Clone, Copy, Debug, clap::Args)]
struct ReportArgs {
    /// How to say what was gathered.
    #[arg(short = 'o', long = "report", value_name = "FORMAT", value_enum, default_value_t)]
    report: out::Format,
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    bundle: PathBuf,
    clusters: Vec<String>,
    files: usize,
    failures: Vec<crate::gather::Failure>,
}

impl Args {
    /// Code 0 if everything could be gathered, 3 if something is missing from the bundle, 4 if that is since a place took too
    /// long.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let clusters = self.clusters()?;
        let now = SystemTime::now();
        let root = format!("isthmus-gather-{}", stamp(now)?);
        let output = self.output.clone().unwrap_or_else(|| format!("{root}.tar.gz").into());
        if output.symlink_metadata().is_ok() {
            let there = format!("--output {}: is there already; choose another", output.display());
            return Err(Usage::error(there));
        }
        let mut bundle = once::run(self.gather(&clusters))?;
        bundle.failures.sort();
        let names: Vec<String> = clusters.iter().map(|cluster| cluster.name.clone()).collect();
        let failures = serde_json::to_value(&bundle.failures).context("encode the failures")?;
        bundle.json("failures.json", &failures);
        archive::write(&bundle, &root, &output, now)?;

        let (files, failures) = (bundle.files.len(), bundle.failures);
        let exit = match (failures.is_empty(), failures.iter().any(|failure| failure.late)) {
            (true, _) => Exit::Done,
            (false, false) => Exit::Degraded,
            (false, true) => Exit::TimedOut,
        };
        let summary = Summary { bundle: output, clusters: names, files, failures };
        FormatArgs { output: self.format.report }.print(&summary, |summary| text(summary, out::style()))?;
        Ok(exit)
    }

    /// The clusters of the file, and those of the contexts.
    fn clusters(&self) -> anyhow::Result<Vec<ClusterPlaces>> {
        let mut clusters = match &self.mesh {
            Some(file) => Places::read(file)?.clusters,
            None => Vec::new(),
        };
        if !self.context.is_empty() {
            let file = kubeconfig::find(self.kubeconfig.as_deref())?;
            for context in &self.context {
                kubeconfig::check(&file, context)?;
                let name = folder(context);
                if clusters.iter().any(|cluster| cluster.name == name) {
                    let twice = format!("--context {context}: a cluster of this name is there already");
                    return Err(Usage::error(twice));
                }
                clusters.push(ClusterPlaces {
                    name,
                    kubeconfig: Some(file.clone()),
                    context: Some(context.clone()),
                    ..ClusterPlaces::default()
                });
            }
        }
        if clusters.is_empty() {
            return Err(Usage::error(
                "expected --mesh FILE (or ISTHMUS_MESH), or at least one --context of a kubeconfig",
            ));
        }
        Ok(clusters)
    }

    async fn gather(&self, clusters: &[ClusterPlaces]) -> Bundle {
        let progress = out::Progress::start("Asking all clusters …");
        let asking =
            Asking { patience: self.timeout, namespaces: self.namespace.clone(), user: self.user.clone() };
        let pages = status::ask::all(clusters, self.timeout);
        let bundles = async {
            let asked = clusters.iter().map(|cluster| {
                let asked = asking.cluster(cluster);
                async move { (cluster, asked.await) }
            });
            let mut asked: FuturesUnordered<_> = asked.collect();
            let mut whole = Bundle::default();
            let mut left = clusters.len();
            while let Some((cluster, bundle)) = asked.next().await {
                left -= 1;
                progress.say(&format!("{} is asked, {left} to go …", cluster.name));
                whole.merge(bundle);
            }
            whole
        };
        let (pages, mut bundle) = tokio::join!(pages, bundles);
        progress.end();
        let places: Vec<_> = clusters.iter().zip(pages).collect();
        let report = report(&places);
        bundle.json("version.json", &version::value());
        bundle.json("status.json", &serde_json::to_value(&report).unwrap_or_default());
        bundle.text("status.txt", &report.text(Style::default()));
        bundle.json("places.json", &places_value(clusters));
        bundle
    }
}

/// Where everybody was asked.
fn places_value(clusters: &[ClusterPlaces]) -> Value {
    json!({"clusters": serde_json::to_value(clusters).unwrap_or_default()})
}

/// A name that can be a folder's.
fn folder(context: &str) -> String {
    let safe = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '_' };
    let name: String = context.chars().map(safe).collect();
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// `20260105T083000Z`.
fn stamp(now: SystemTime) -> anyhow::Result<String> {
    let now = jiff::Timestamp::try_from(now).context("read the clock")?;
    Ok(now.strftime("%Y%m%dT%H%M%SZ").to_string())
}

fn text(summary: &Summary, style: Style) -> String {
    let mut text = String::new();
    for failure in &summary.failures {
        text +=
            &mesh_explain::wrap(&format!("missing: {}: {}", failure.what, failure.why), "  ", style.width);
    }
    let count = summary.clusters.len();
    let clusters = if count == 1 { "1 cluster".to_owned() } else { format!("{count} clusters") };
    let said = format!(
        "{} has {} files of {clusters}, secrets redacted. Look through it before you pass it on.",
        summary.bundle.display(),
        summary.files
    );
    text + &mesh_explain::wrap(&said, "", style.width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_becomes_a_folder_that_stays_inside() {
        for (context, expected) in
            [("west", "west"), ("arn:aws:eks:x/y", "arn_aws_eks_x_y"), ("../..", "_.._.."), ("a b", "a_b")]
        {
            assert_eq!(folder(context), expected);
        }
    }
}
