//! `isthmus disconnect`: clusters forget each other.

use crate::connect::apply;
use crate::connect::carry::{Carry, CarryArgs, no_cluster};
use crate::connect::reach::ReachArgs;
use crate::connect::report::{self, Outcome, PlanReport};
use crate::connect::survey::{self, Given};
use crate::exit::{Exit, Usage};
use crate::once;
use crate::out;
use mesh_connect::{checks, disconnect};
use std::collections::BTreeSet;

/// Arguments of `isthmus disconnect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Clusters to forget, by name; they may be gone. The clusters of --context forget them, and each other too unless
    /// a cluster is named here.
    #[arg(value_name = "CLUSTER")]
    clusters: Vec<String>,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    carry: CarryArgs,
}

impl Args {
    /// Prints what is to be removed, and with `--apply` removes it.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let kubeconfig = self.reach.kubeconfig()?;
        let contexts = self.reach.contexts(&kubeconfig)?;
        if contexts.is_empty() {
            return Err(no_cluster(&kubeconfig));
        }
        if self.clusters.is_empty() && contexts.len() < 2 {
            return Err(Usage::error(format!(
                "expected a cluster that {0} is to forget: name it, as in `isthmus disconnect CLUSTER --context {0}`, or give two \
                 or more contexts, which then forget each other",
                contexts[0]
            )));
        }
        once::run(async {
            let clusters = self.reach.clients(&kubeconfig, &contexts).await;
            out::progress(format_args!("reading {} …", contexts.join(", ")));
            let given = Given::new();
            let survey = survey::survey(&clusters, &self.reach.namespace, &given, self.reach.timeout).await;
            let names: BTreeSet<String> = if self.clusters.is_empty() {
                survey.members.iter().map(|member| member.name().to_owned()).collect()
            } else {
                self.clusters.iter().cloned().collect()
            };
            let nothing = if self.clusters.is_empty() {
                "they have nothing of each other".to_owned()
            } else {
                format!("{} has nothing of {}", contexts.join(", "), self.clusters.join(", "))
            };
            let plan = disconnect(&survey.members, &names);
            let mut failures = survey.failures;
            failures.extend(apply::missing_permissions(&plan, &clusters).await);
            // What else is wrong with the clusters is no reason to keep them connected.
            let findings = checks(&[], &failures, jiff::Timestamp::now());
            let clusters_report = report::clusters(&survey.members);
            let report = PlanReport { outcome: Outcome::Planned, clusters: clusters_report, findings, plan };
            Carry { args: &self.carry, clusters: &clusters }.run(report, &nothing).await
        })?
    }
}
