//! `kvstoremesh-dbg` and `clustermesh-dbg`.

use super::status::{self, Output};
use super::{flags, start};
use crate::exit::{Exit, Usage};
use crate::http;
use crate::listen;
use anyhow::Context as _;
use clap::Parser;

/// Whose tool it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Kvstoremesh,
    Clustermesh,
}

/// Arguments of `kvstoremesh-dbg status`.
#[derive(Debug, Parser)]
#[command(name = "kvstoremesh-dbg status", about = "Print how each remote cluster stands")]
struct Status {
    /// Where the mirror serves its API.
    #[arg(
        short = 'H',
        long,
        value_name = "ADDRESS:PORT",
        default_value = "localhost:9889",
        alias = "api-serve-addr",
        env = "CILIUM_API_SERVE_ADDR"
    )]
    host: String,
    /// Also the details of clusters that are ready.
    #[arg(long)]
    verbose: bool,
    /// json, yaml or jsonpath=PATH.
    #[arg(short, long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    output: String,
}

/// Runs the tool.
pub(super) fn run(program: Program, words: &[String]) -> anyhow::Result<Exit> {
    let (name, known): (_, &[&str]) = match program {
        Program::Kvstoremesh => ("kvstoremesh-dbg", &["status", "troubleshoot"]),
        Program::Clustermesh => ("clustermesh-dbg", &["troubleshoot"]),
    };
    let command = words.first().map_or("", String::as_str);
    match (program, command) {
        (Program::Kvstoremesh, "status") => status(words),
        (_, "troubleshoot") => {
            let mut ours = vec!["kvstoremesh".to_owned(), "troubleshoot".to_owned()];
            if program == Program::Clustermesh {
                ours.push("--only-local".to_owned());
            }
            ours.extend(words[1..].iter().cloned());
            start::ours(ours)
        }
        (_, "" | "-h" | "--help" | "help") => {
            crate::out::print(format!("Usage: clustermesh-apiserver {name} <{}>", known.join("|")))?;
            Ok(Exit::Done)
        }
        (_, other) => {
            let near = flags::nearest(other, known.iter().copied()).unwrap_or_default();
            Err(Usage::error(format!("unknown subcommand {name} {other}; the nearest is {near}")))
        }
    }
}

fn status(words: &[String]) -> anyhow::Result<Exit> {
    let args = match Status::try_parse_from(words) {
        Ok(args) => args,
        Err(answer) if !answer.use_stderr() => {
            crate::out::print(answer)?;
            return Ok(Exit::Done);
        }
        Err(error) => return Err(Usage::error(error)),
    };
    let output: Output = args.output.parse()?;
    let host = args.host.trim_start_matches("http://").trim_start_matches("tcp://");
    let address = listen::address(host).map_err(|error| Usage::error(format!("--host: {error}")))?;
    let body = http::get(address, "/v1/cluster")
        .with_context(|| format!("expected `kvstoremesh` with its API at {host} (see --host)"))?;
    status::print(&body, &output, args.verbose)?;
    Ok(Exit::Done)
}
