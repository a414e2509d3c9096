//! `isthmus connect`: clusters become one mesh.

use crate::connect::apply;
use crate::connect::carry::{Carry, CarryArgs};
use crate::connect::probe::{self, Expect};
use crate::connect::reach::ReachArgs;
use crate::connect::report::{self, Outcome, PlanReport};
use crate::connect::survey::{self, Given, Survey};
use crate::exit::{Exit, Usage};
use crate::once;
use crate::out;
use jiff::Timestamp;
use mesh_connect::{Address, Member, Plan, checks, connect};
use std::time::{Duration, Instant};

/// Between two looks of `--wait`.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `isthmus connect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    survey: SurveyArgs,
    #[command(flatten)]
    carry: CarryArgs,
    /// Wait until every cluster can read every other's store, for at most --timeout; exit code 4 if it takes longer.
    #[arg(long, requires = "apply", conflicts_with = "dry_run")]
    wait: bool,
}

/// What the API servers do not tell.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SurveyArgs {
    /// Where the other clusters reach the store of a cluster, if that is not what its Service says. May be repeated.
    #[arg(long, value_name = "CLUSTER=HOST:PORT", value_parser = given)]
    address: Vec<(String, Address)>,
    /// Do not connect to the stores.
    #[arg(long)]
    pub(crate) no_probe: bool,
}

impl SurveyArgs {
    pub(crate) fn given(&self) -> Given {
        let mut given = Given::new();
        for (cluster, address) in &self.address {
            given.entry(cluster.clone()).or_default().push(address.clone());
        }
        given
    }

    /// Checks that each address is for a cluster that there is; where some do not answer, one of them may be it.
    ///
    /// # Errors
    /// [`Usage`] with the clusters that there are.
    pub(crate) fn ensure_known(&self, survey: &Survey) -> anyhow::Result<()> {
        let names: Vec<&str> = survey.members.iter().map(Member::name).collect();
        match self.address.iter().find(|(cluster, _)| !names.contains(&cluster.as_str())) {
            Some((unknown, _)) if survey.failures.is_empty() => Err(Usage::error(format!(
                "--address {unknown}: no such cluster; those looked at are {}",
                names.join(", ")
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

fn given(text: &str) -> Result<(String, Address), String> {
    let (cluster, address) = text.split_once('=').ok_or("expected CLUSTER=HOST:PORT")?;
    Ok((cluster.to_owned(), address.parse()?))
}

impl Args {
    /// Looks at all clusters, prints the plan, and with `--apply` does it.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let kubeconfig = self.reach.kubeconfig()?;
        let contexts = self.reach.contexts(&kubeconfig)?;
        if contexts.len() < 2 {
            return Err(Usage::error(format!(
                "expected two or more clusters, found {}: give --context for each cluster of the mesh, or --contexts for all \
                 of the kubeconfig, which has {}",
                contexts.len(),
                kubeconfig.contexts.len()
            )));
        }
        once::run(async {
            let clusters = self.reach.clients(&kubeconfig, &contexts).await;
            out::progress(format_args!("reading {} …", contexts.join(", ")));
            let given = self.survey.given();
            let mut survey =
                survey::survey(&clusters, &self.reach.namespace, &given, self.reach.timeout).await;
            self.survey.ensure_known(&survey)?;
            if !self.survey.no_probe {
                out::progress("trying the stores …");
                probe::probe(&mut survey.members, Expect::Answer, self.reach.timeout).await;
            }
            let plan = connect(&survey.members, Timestamp::now());
            survey.failures.extend(apply::missing_permissions(&plan, &clusters).await);
            let report = planned(&survey, plan);
            let carried = Carry { args: &self.carry, clusters: &clusters }
                .run(report, "everything is written already")
                .await?;
            if carried == Exit::Done && self.wait {
                return self.readable(&survey).await;
            }
            Ok(carried)
        })?
    }

    /// Waits until every cluster can read every other's store.
    async fn readable(&self, survey: &Survey) -> anyhow::Result<Exit> {
        let deadline = Instant::now() + self.reach.timeout;
        out::progress("waiting until every cluster can read every other's store …");
        let not_yet = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let not_yet = probe::not_readable(&survey.members, left).await;
            if not_yet.is_empty() || Instant::now() + PAUSE >= deadline {
                break not_yet;
            }
            tokio::time::sleep(PAUSE).await;
        };
        if not_yet.is_empty() {
            self.carry.say(
                "Every cluster can read every other's store. A mirror that was refused before tries again within 30 s.",
            )?;
            return Ok(Exit::Done);
        }
        self.carry.say(not_yet.join("\n"))?;
        Ok(Exit::TimedOut)
    }
}

fn planned(survey: &Survey, plan: Plan) -> PlanReport {
    PlanReport {
        outcome: Outcome::Planned,
        clusters: report::clusters(&survey.members),
        findings: checks(&survey.members, &survey.failures, Timestamp::now()),
        plan,
    }
}
