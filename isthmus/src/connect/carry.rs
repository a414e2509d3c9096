//! From a plan to what becomes of it: printed, refused, confirmed, done.

use super::apply::{self, Mode};
use super::reach::Reached;
use super::report::{self, Outcome, PlanReport};
use crate::exit::{Exit, Usage};
use crate::out::{self, Format, FormatArgs};
use kube::config::Kubeconfig;
use mesh_connect::has_error;
use std::fmt::Display;

/// What is to become of the plan.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CarryArgs {
    /// Do what is planned. Without it nothing is written.
    #[arg(long)]
    apply: bool,
    /// Do not ask first, and go on where there are warnings.
    #[arg(short, long, requires = "apply")]
    yes: bool,
    /// Let the API servers check each write without keeping it.
    #[arg(long, requires = "apply")]
    dry_run: bool,
    #[command(flatten)]
    format: FormatArgs,
}

impl CarryArgs {
    /// Prints for people; programs have it in the report.
    pub(crate) fn say(&self, text: impl Display) -> anyhow::Result<()> {
        match self.format.output {
            Format::Text => out::print(text),
            Format::Json | Format::Yaml => Ok(()),
        }
    }
}

/// A plan, and the clusters that it is for.
pub(crate) struct Carry<'a> {
    pub(crate) args: &'a CarryArgs,
    pub(crate) clusters: &'a [Reached],
}

impl Carry<'_> {
    /// Prints the report and does what is asked for; `nothing` says why there is nothing to do where that is so. Code 1 for
    /// errors among the findings, 3 for warnings that keep it from being done.
    pub(crate) async fn run(&self, mut report: PlanReport, nothing: &str) -> anyhow::Result<Exit> {
        self.show(&report)?;
        let exit = self.decide(&mut report, nothing).await;
        if self.args.format.output != Format::Text {
            if exit.is_err() {
                report.outcome = Outcome::Failed;
            }
            self.args.format.print(&report, |_| String::new())?;
        }
        exit
    }

    async fn decide(&self, report: &mut PlanReport, nothing: &str) -> anyhow::Result<Exit> {
        let CarryArgs { apply, yes, dry_run, .. } = *self.args;
        if has_error(&report.findings) {
            report.outcome = Outcome::NotWritten;
            self.args.say("Nothing was written: there are errors.")?;
            return Ok(Exit::Failed);
        }
        if report.plan.writes.is_empty() {
            report.outcome = Outcome::NothingToDo;
            self.args.say(format_args!("Nothing to do: {nothing}."))?;
            return Ok(Exit::Done);
        }
        if !apply {
            self.args.say("Nothing was written. Do it with --apply.")?;
            return Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Degraded });
        }
        let count = report.plan.writes.len();
        if !yes && !dry_run {
            let confirmed = out::ask(format_args!("Write these {count} objects?"));
            if confirmed == Some(false) || (confirmed.is_none() && !report.findings.is_empty()) {
                report.outcome = Outcome::NotWritten;
                let why = if confirmed.is_some() { "" } else { " There are warnings: go on with --yes." };
                self.args.say(format_args!("Nothing was written.{why}"))?;
                return Ok(Exit::Degraded);
            }
        }
        let mode = if dry_run { Mode::DryRun } else { Mode::Persist };
        let word = if dry_run { "would be written" } else { "written" };
        apply::apply(&report.plan, self.clusters, mode, |write| {
            out::progress(format_args!("{}: {word}", apply::shown(write)));
        })
        .await?;
        report.outcome = if dry_run { Outcome::DryRun } else { Outcome::Applied };
        self.args.say(format_args!("{count} objects {word}."))?;
        Ok(Exit::Done)
    }

    fn show(&self, report: &PlanReport) -> anyhow::Result<()> {
        let findings = report::findings(&report.findings, out::style());
        // What cannot be done is not planned for people: it would only hide why.
        let plan = if has_error(&report.findings) {
            String::new()
        } else {
            report::plan(&report.plan, out::style())
        };
        let parts = [findings, plan].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        if parts.is_empty() { Ok(()) } else { self.args.say(parts.join("\n")) }
    }
}

/// What `check` and `disconnect` refuse before anything is read.
pub(crate) fn no_cluster(kubeconfig: &Kubeconfig) -> anyhow::Error {
    Usage::error(format!(
        "expected a cluster: give --context for each, or --contexts for all of the kubeconfig, which has {}",
        kubeconfig.contexts.len()
    ))
}
