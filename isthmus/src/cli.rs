//! From the command line to an exit code.

use crate::cmd::{Command, mesh};
use crate::exit::Exit;
use crate::{applet, out};
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use std::ffi::OsString;
use std::process::ExitCode;

/// Joins Kubernetes clusters into one mesh, in Cilium ClusterMesh's own protocol.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version, arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        self.command.run()
    }
}

/// Runs what `args` ask for; `args[0]` is the name it was called by.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let args = match mesh::expand(applet::rewrite(args)) {
        Ok(args) => args,
        Err(error) => {
            out::complain(&error);
            return Exit::of(&error).into();
        }
    };
    let mut command = Cli::command();
    if let Some(name) = applet::plugin_name(&args) {
        command = command.bin_name(name);
    }
    let cli = command.try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(answer) => return say(&answer),
    };
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            out::complain(&error);
            Exit::of(&error).into()
        }
    }
}

/// Help and version on standard output, mistakes on standard error.
fn say(answer: &clap::Error) -> ExitCode {
    // A reader that is gone is no reason to fail.
    drop(answer.print());
    let exit = if answer.use_stderr() { Exit::Usage } else { Exit::Done };
    exit.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
