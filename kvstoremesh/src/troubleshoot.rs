//! Why a remote cluster cannot be mirrored: each layer on the way is tried, and the first that fails is named.
//!
//! ```text
//!  file ─▶ certificates ─▶ name ─▶ TCP ─▶ TLS, GET /version ─▶ heartbeat (permission) ─▶ cluster-config ─▶ id
//!  (local, also dates)      └────── for each endpoint ─────┘  └──── as the mirror would, by the etcd protocol ──┘
//! ```
//!
//! Nothing is written. What is tried is what the mirror does, from the same files, by connections of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kvstore::{EtcdConfig, EtcdConfigFile};
use mesh_types::ClusterName;
use serde::Serialize;

mod certificate;
mod probe;
mod store;

/// What to look into.
#[derive(Clone, Debug)]
pub struct Question {
    /// One etcd client configuration per remote cluster, named after the cluster.
    pub directory: PathBuf,
    /// Only these clusters; all of the directory if empty.
    pub clusters: BTreeSet<String>,
    /// Whether remote clusters are looked into at all.
    pub remotes: bool,
    /// The configuration of the local store, if that is to be looked into too.
    pub local_store: Option<PathBuf>,
    /// Name of the local cluster, if known.
    pub local_name: Option<String>,
    /// Its id, if known.
    pub local_id: Option<u32>,
    /// How long each cluster may take.
    pub timeout: Duration,
}

/// A layer on the way to a cluster's data, the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The file: its name, whether it can be read and understood.
    Configuration,
    /// Certificates and keys, ours and the server's: whether they can be read, and their dates.
    Certificate,
    /// The host's name has an address.
    NameResolution,
    /// The port answers.
    Tcp,
    /// Both sides accept each other's certificate.
    Tls,
    /// The user may read.
    Permission,
    /// The cluster says what it is.
    ClusterConfig,
    /// Its id is its own.
    ClusterId,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Odd, or only one of several ways; not what is in the way.
    Warning,
    /// In the way.
    Failed,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// On which layer.
    pub layer: Layer,
    /// How it went.
    pub outcome: Outcome,
    /// What was found.
    pub what: String,
    /// Facts about it, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
    /// What to do about it; empty if nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// What was found of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Name of the file, which is the cluster's.
    pub cluster: String,
    /// The layer that is in the way; absent if none is.
    pub failing: Option<Layer>,
    /// In the order in which they were tried.
    pub steps: Vec<Step>,
    #[serde(skip)]
    id: Option<u32>,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// By name; the local store, if asked for, comes first.
    pub clusters: Vec<Diagnosis>,
}

impl Findings {
    /// Whether nothing is in the way anywhere.
    pub fn is_well(&self) -> bool {
        self.clusters.iter().all(|cluster| cluster.failing.is_none())
    }
}

impl Layer {
    /// Its stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Certificate => "certificate",
            Self::NameResolution => "name-resolution",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Permission => "permission",
            Self::ClusterConfig => "cluster-config",
            Self::ClusterId => "cluster-id",
        }
    }
}

impl Step {
    fn new(layer: Layer, outcome: Outcome, what: impl Into<String>) -> Self {
        Self { layer, outcome, what: what.into(), facts: Vec::new(), advice: String::new() }
    }

    fn passed(layer: Layer, what: impl Into<String>) -> Self {
        Self::new(layer, Outcome::Passed, what)
    }

    fn warning(layer: Layer, what: impl Into<String>) -> Self {
        Self::new(layer, Outcome::Warning, what)
    }

    fn failed(layer: Layer, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..Self::new(layer, Outcome::Failed, what) }
    }

    fn with(mut self, facts: Vec<String>) -> Self {
        self.facts = facts;
        self
    }
}

/// Looks into what `question` asks for, one cluster after the other.
///
/// # Errors
/// The directory cannot be read.
pub async fn troubleshoot(question: &Question) -> std::io::Result<Findings> {
    let mut clusters = Vec::new();
    if let Some(file) = &question.local_store {
        clusters.push(of_file("(local store)", file, None, question).await);
    }
    for name in names(question)? {
        clusters.push(of_cluster(&name, question).await);
    }
    share_ids(&mut clusters, question.local_id);
    for cluster in &mut clusters {
        cluster.failing = failing(&cluster.steps);
    }
    Ok(Findings { clusters })
}

/// The clusters to look into, in order.
fn names(question: &Question) -> std::io::Result<BTreeSet<String>> {
    if !question.remotes || !question.clusters.is_empty() {
        return Ok(question.clusters.clone());
    }
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&question.directory)? {
        let path = entry?.path();
        let is_configuration = std::fs::read(&path).is_ok_and(|content| {
            content.windows(crate::config::MARK.len()).any(|part| part == crate::config::MARK)
        });
        if is_configuration && let Some(name) = path.file_name() {
            names.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

async fn of_cluster(name: &str, question: &Question) -> Diagnosis {
    let file = question.directory.join(name);
    if question.local_name.as_deref() == Some(name) {
        let what = "this is the local cluster: the file is not used";
        return diagnosis(name, vec![Step::warning(Layer::Configuration, what)]);
    }
    match name.parse::<ClusterName>() {
        Ok(cluster) => of_file(name, &file, Some(&cluster), question).await,
        Err(rejection) => {
            let what = format!("the name of the file is not that of a cluster: {}", rejection.detail);
            let advice = "name the file after the cluster that it leads to";
            diagnosis(name, vec![Step::failed(Layer::Configuration, what, advice)])
        }
    }
}

fn diagnosis(name: &str, steps: Vec<Step>) -> Diagnosis {
    Diagnosis { cluster: name.to_owned(), failing: None, steps, id: None }
}

/// `cluster` is absent for the local store, which holds the configuration of many.
async fn of_file(name: &str, file: &Path, cluster: Option<&ClusterName>, question: &Question) -> Diagnosis {
    let mut found = diagnosis(name, Vec::new());
    let config = match EtcdConfigFile::read(file) {
        Ok(parsed) => {
            let what = format!("{} names {}", file.display(), parsed.config.endpoints.join(", "));
            let mut step = Step::passed(Layer::Configuration, what);
            if !parsed.ignored.is_empty() {
                step.facts.push(format!("without meaning here: {}", parsed.ignored.join(", ")));
            }
            found.steps.push(step);
            parsed.config
        }
        Err(error) => {
            let what = format!("{} cannot be used: {}", file.display(), mesh_runtime::Chain(&error));
            let advice =
                "write an etcd client configuration: endpoints, trusted-ca-file, cert-file, key-file";
            found.steps.push(Step::failed(Layer::Configuration, what, advice));
            return found;
        }
    };
    let files = certificate::files(config.tls.as_ref(), SystemTime::now());
    found.steps.extend(files.steps);
    let way = async {
        let (steps, reached) = probe::endpoints(&config, files.tls.as_ref()).await;
        found.steps.extend(steps);
        // With a file that is in the way, what follows fails of it and tells nothing new.
        if !reached.is_empty() && failing(&found.steps).is_none() {
            let config = EtcdConfig { endpoints: reached, ..config.clone() };
            let (steps, id) = store::ask(config, cluster, question.timeout).await;
            found.steps.extend(steps);
            found.id = id;
        }
    };
    if tokio::time::timeout(question.timeout, way).await.is_err() {
        let layer = found.steps.last().map_or(Layer::Tcp, |step| step.layer.max(Layer::Tcp));
        let what = format!("no answer within {:?}", question.timeout);
        let advice = "look at the way to the endpoint: firewalls, load balancers, an overloaded store";
        found.steps.push(Step::failed(layer, what, advice));
    }
    found
}

/// Each id may be that of one cluster only.
fn share_ids(clusters: &mut [Diagnosis], local: Option<u32>) {
    let mut holders: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for cluster in clusters.iter() {
        if let Some(id) = cluster.id {
            holders.entry(id).or_default().push(cluster.cluster.clone());
        }
    }
    for cluster in clusters {
        let Some(id) = cluster.id else { continue };
        let mut others: Vec<&str> =
            holders[&id].iter().filter(|other| **other != cluster.cluster).map(String::as_str).collect();
        if local == Some(id) {
            others.push("this cluster");
        }
        cluster.steps.push(if others.is_empty() {
            Step::passed(Layer::ClusterId, format!("its id {id} is its own"))
        } else {
            let what = format!("its id {id} is also that of {}", others.join(" and "));
            Step::failed(
                Layer::ClusterId,
                what,
                "give each cluster of the mesh an id of its own (--cluster-id)",
            )
        });
    }
}

/// The lowest layer that failed: what is above it may fail of it.
fn failing(steps: &[Step]) -> Option<Layer> {
    steps.iter().filter(|step| step.outcome == Outcome::Failed).map(|step| step.layer).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_layer_that_failed_is_named() {
        let failed = |layer| Step::failed(layer, "x", "");
        let steps = [Step::warning(Layer::Tcp, "x"), failed(Layer::Tls), failed(Layer::Certificate)];
        assert_eq!(failing(&steps), Some(Layer::Certificate));
        assert_eq!(failing(&steps[..1]), None);
    }

    #[test]
    fn an_id_that_two_have_is_told_to_both() {
        let with_id = |name: &str, id| Diagnosis { id, ..diagnosis(name, Vec::new()) };
        let mut clusters =
            [with_id("a", Some(7)), with_id("b", Some(7)), with_id("c", Some(8)), with_id("d", None)];
        share_ids(&mut clusters, Some(8));
        let said: Vec<_> = clusters.iter().map(|c| c.steps.first().map(|step| step.what.as_str())).collect();
        assert_eq!(
            said,
            [
                Some("its id 7 is also that of b"),
                Some("its id 7 is also that of a"),
                Some("its id 8 is also that of this cluster"),
                None
            ]
        );
    }
}
