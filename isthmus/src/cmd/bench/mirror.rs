//! `isthmus bench mirror`.

use super::{directory, machine, tell, until_stopped};
use crate::bench::mirror::{Figure, PEER, Place, Sizes, anchors};
use crate::bench::{Credentials, Report};
use crate::exit::Exit;
use crate::out::FormatArgs;
use anyhow::Context as _;

/// Arguments of `isthmus bench mirror`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to measure; all but `large` unless given.
    #[arg(long, value_name = "FIGURE", value_enum, value_delimiter = ',')]
    figure: Vec<Figure>,

    /// All traffic by mutual TLS instead of in plaintext.
    #[arg(long)]
    tls: bool,

    /// Small sizes, to see that everything works; says nothing about speed.
    #[arg(long, conflicts_with = "full")]
    quick: bool,

    /// Also `large`: 3.2 million keys, for which this machine needs 4 GB of memory.
    #[arg(long)]
    full: bool,

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
        let sizes = if self.quick { Sizes::quick() } else { Sizes::standard() };
        let mut figures = if self.figure.is_empty() { Figure::USUAL.to_vec() } else { self.figure.clone() };
        if self.full && !figures.contains(&Figure::Large) {
            figures.push(Figure::Large);
        }
        let directory = directory()?;
        let credentials = self.tls.then(|| Credentials::issue(&directory.path().join("tls"))).transpose()?;
        let program = std::env::current_exe().context("find the program that runs")?;
        let place = Place { program, directory: directory.path().to_owned(), credentials };
        let mut report = Report {
            peer: PEER,
            machine: machine(),
            optimised: !cfg!(debug_assertions),
            tls: self.tls,
            standard: sizes.standard,
            rows: Vec::new(),
            notes: Vec::new(),
        };
        for figure in figures {
            tell(figure.name());
            let ours = figure.measure(&place, &sizes).await;
            let anchors = sizes.standard.then(|| anchors(figure));
            report.add(figure.name(), Some(&ours), anchors.as_ref());
        }
        Ok(report)
    }
}
