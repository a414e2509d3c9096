//! `isthmus agent`: the daemon of each node, and questions to the one that runs.

use crate::exit::Exit;
use clap::Subcommand;
use std::path::PathBuf;

mod ask;
mod cleanup;
mod run;
mod text;

/// Where the agent answers.
const SOCKET: &str = "/run/isthmus/agent.sock";

/// Arguments of `isthmus agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node.
    Run(Box<run::Args>),
    /// Remove what an agent has left in the kernel of this node: translation of services, and, if asked, encryption.
    Cleanup(cleanup::Args),
    /// Show how the agent stands; exit code 3 if something is not complete, not kept up to date, refused or failing.
    Status(ask::Status),
    /// List the nodes of other clusters.
    Nodes(ask::Nodes),
    /// List which identity and node stand behind each address and prefix.
    Ipcache(ask::Ipcache),
    /// List the identities of other clusters with their labels.
    Identities(ask::Identities),
    /// List services with the backends of all clusters, and why some are not used.
    Services(ask::Services),
    /// List the values that are not in effect because something is wrong with them.
    Rejected(ask::Rejected),
    /// List the peers of the WireGuard device, and who is left out.
    Wireguard(ask::Wireguard),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Run(args) => args.run(),
            Command::Cleanup(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Nodes(args) => args.run(),
            Command::Ipcache(args) => args.run(),
            Command::Identities(args) => args.run(),
            Command::Services(args) => args.run(),
            Command::Rejected(args) => args.run(),
            Command::Wireguard(args) => args.run(),
        }
    }
}

/// `--socket`.
#[derive(Clone, Debug, clap::Args)]
struct SocketArgs {
    /// Unix socket of the agent.
    #[arg(long, value_name = "FILE", default_value = SOCKET, env = "ISTHMUS_AGENT_SOCKET")]
    socket: PathBuf,
}
