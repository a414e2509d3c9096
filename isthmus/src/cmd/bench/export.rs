//! `isthmus bench export`.

use super::{directory, machine, tell, until_stopped};
use crate::bench::Report;
use crate::bench::export::{self, Contents};
use crate::exit::Exit;
use crate::out::FormatArgs;
use anyhow::Context as _;
use kube_watch::ClientConfig;
use std::path::PathBuf;

/// Arguments of `isthmus bench export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Kubeconfig of an API server that was made for this, with Cilium's definitions.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,

    /// First create the objects that are to be exported, in namespace `isthmus-bench`. They stay.
    #[arg(long)]
    fill: bool,

    /// How often to measure; the shortest counts.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    times: usize,

    #[command(flatten)]
    contents: Contents,

    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Some(report) = until_stopped(self.measure())? else { return Ok(Exit::Failed) };
        self.format.print(&report, Report::text)?;
        Ok(Exit::Done)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let config = ClientConfig { kubeconfig: Some(self.kubeconfig.clone()), ..ClientConfig::default() };
        let client = config.client().await.context("reach the Kubernetes API")?;
        if self.fill {
            tell("nothing yet: creating the objects");
            self.contents.fill(&client).await?;
        }
        let directory = directory()?;
        let standard = self.contents.is_standard();
        let mut report = Report {
            peer: export::PEER,
            machine: machine(),
            optimised: !cfg!(debug_assertions),
            tls: true,
            standard,
            rows: Vec::new(),
            notes: Vec::new(),
        };
        tell("export");
        let ours = export::measure(self.contents, &self.kubeconfig, directory.path(), self.times).await?;
        report.add("export", Some(&ours), standard.then(export::anchor).as_ref());
        Ok(report)
    }
}
