//! `isthmus completion`.

use crate::cli::Cli;
use crate::exit::Exit;
use crate::out;
use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments of `isthmus completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which shell the script is for.
    #[arg(value_enum)]
    shell: Shell,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "isthmus", &mut script);
        out::print(String::from_utf8_lossy(&script).trim_end())?;
        Ok(Exit::Done)
    }
}
