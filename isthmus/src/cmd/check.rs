//! `isthmus check`: whether clusters are, or can be, one mesh.

use crate::cmd::connect::SurveyArgs;
use crate::connect::carry::no_cluster;
use crate::connect::probe::{self, Expect};
use crate::connect::reach::{ReachArgs, Reached};
use crate::connect::report::{self, CheckReport};
use crate::connect::survey;
use crate::exit::Exit;
use crate::once;
use crate::out::{self, FormatArgs};
use jiff::Timestamp;
use mesh_connect::{checks, connect, has_error, not_connected};
use std::time::{Duration, Instant};

/// Between two looks of `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `isthmus check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    survey: SurveyArgs,
    /// Wait until nothing is found, for at most --timeout; exit code 4 if it takes longer.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    /// Prints all checks. Code 0 if nothing is found, 1 for errors, 3 for warnings, 4 after `--wait`.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let kubeconfig = self.reach.kubeconfig()?;
        let contexts = self.reach.contexts(&kubeconfig)?;
        if contexts.is_empty() {
            return Err(no_cluster(&kubeconfig));
        }
        let (report, exit) = once::run(async {
            let clusters = self.reach.clients(&kubeconfig, &contexts).await;
            let deadline = Instant::now() + self.reach.timeout;
            out::progress(format_args!("reading {} …", contexts.join(", ")));
            loop {
                let (report, exit) = self.look(&clusters).await?;
                if !self.wait || exit == Exit::Done {
                    return anyhow::Ok((report, exit));
                }
                if Instant::now() + PAUSE >= deadline {
                    return Ok((report, Exit::TimedOut));
                }
                tokio::time::sleep(PAUSE).await;
            }
        })??;
        self.format.print(&report, |report| report.text(out::style(), out::is_terminal()))?;
        Ok(exit)
    }

    async fn look(&self, clusters: &[Reached]) -> anyhow::Result<(CheckReport, Exit)> {
        let given = self.survey.given();
        let mut survey = survey::survey(clusters, &self.reach.namespace, &given, self.reach.timeout).await;
        self.survey.ensure_known(&survey)?;
        if !self.survey.no_probe {
            probe::probe(&mut survey.members, Expect::Reading, self.reach.timeout).await;
        }
        let now = Timestamp::now();
        let mut findings = checks(&survey.members, &survey.failures, now);
        findings.extend(not_connected(&connect(&survey.members, now)));
        let exit = match (has_error(&findings), findings.is_empty()) {
            (true, _) => Exit::Failed,
            (false, false) => Exit::Degraded,
            (false, true) => Exit::Done,
        };
        let report = CheckReport {
            healthy: findings.is_empty(),
            clusters: report::clusters(&survey.members),
            checks: report::lines(&findings, &survey.members),
        };
        Ok((report, exit))
    }
}
