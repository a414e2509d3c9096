//! Started as `clustermesh-apiserver`: the subcommands of Cilium's image, by Cilium's flags and defaults.
//!
//! ```text
//!  clustermesh-apiserver clustermesh --cluster-id=7 …  ──▶ flags ──▶ start ──▶ isthmus clustermesh-apiserver …
//!                        kvstoremesh …                                ├──────▶ isthmus kvstoremesh …
//!                        etcdinit …                                   └──────▶ isthmus etcdinit …
//!                        kvstoremesh-dbg status|troubleshoot …        ──▶ dbg
//!                        clustermesh-dbg troubleshoot …
//! ```

use crate::exit::{Exit, Usage};
use crate::out;
use std::ffi::OsString;

mod dbg;
mod flags;
mod help;
mod jsonpath;
mod start;
pub(crate) mod status;

/// Subcommands and what they are for.
const SUBCOMMANDS: &[(&str, &str)] = &[
    ("clustermesh", "export this cluster's state into its store"),
    ("clustermesh-dbg", "look into the exporter's connection to its store"),
    ("etcdinit", "prepare the data directory of the store, with users and roles"),
    ("kvstoremesh", "mirror remote clusters into this cluster's store"),
    ("kvstoremesh-dbg", "look into the mirror: status, troubleshoot"),
    ("version", "print the version"),
];

/// Arguments of the program by Cilium's name.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Cilium's subcommand and its flags.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
    words: Vec<OsString>,
}

impl Args {
    /// Runs what Cilium's image would.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let text = |word: OsString| {
            word.into_string().map_err(|word| Usage::error(format!("{word:?}: expected UTF-8 text")))
        };
        let words = self.words.into_iter().map(text).collect::<anyhow::Result<Vec<_>>>()?;
        let (command, rest) = match words.split_first() {
            Some((command, rest)) => (command.as_str(), rest),
            None => ("--help", &[][..]),
        };
        match command {
            "clustermesh" => start::clustermesh(rest),
            "kvstoremesh" => start::kvstoremesh(rest),
            "etcdinit" => start::etcdinit(rest),
            "kvstoremesh-dbg" => dbg::run(dbg::Program::Kvstoremesh, rest),
            "clustermesh-dbg" => dbg::run(dbg::Program::Clustermesh, rest),
            "version" => start::ours(["version"].into_iter().map(str::to_owned).chain(rest.iter().cloned())),
            "--help" | "-h" | "help" => {
                out::print(subcommands())?;
                Ok(Exit::Done)
            }
            other => {
                let near = flags::nearest(other, SUBCOMMANDS.iter().map(|(name, _)| *name));
                let near = near.map_or_else(String::new, |near| format!("; the nearest is {near}"));
                Err(Usage::error(format!("unknown subcommand {other}{near}")))
            }
        }
    }
}

fn subcommands() -> String {
    let lines = SUBCOMMANDS.iter().map(|(name, what)| format!("\n  {name:<16} {what}"));
    format!(
        "Usage: clustermesh-apiserver <SUBCOMMAND> [FLAGS]\n{}\n\nEach lists its flags by --help.",
        lines.collect::<String>()
    )
}
