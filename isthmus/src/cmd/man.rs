//! `isthmus man`.

use crate::cli::Cli;
use crate::exit::Exit;
use crate::out;
use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use std::path::PathBuf;

/// Arguments of `isthmus man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory to write isthmus.1, isthmus-status.1 and so on to; made if it is not there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory)
            .with_context(|| format!("make the directory {}", directory.display()))?;
        let mut command = Cli::command();
        // So that each subcommand knows its whole name.
        command.build();
        let mut pages = Vec::new();
        collect(command, &mut pages)?;
        for (name, page) in &pages {
            let file = directory.join(format!("{name}.1"));
            std::fs::write(&file, page).with_context(|| format!("write {}", file.display()))?;
        }
        out::print(format_args!("{} pages in {}", pages.len(), directory.display()))?;
        Ok(Exit::Done)
    }
}

/// The page of a command and those of all below it, with their names. What `--help` hides has none.
fn collect(command: Command, pages: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let below: Vec<Command> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
        .cloned()
        .collect();
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command).render(&mut page).context("write a page")?;
    pages.push((name, page));
    below.into_iter().try_for_each(|below| collect(below, pages))
}
