//! `isthmus explain`: why a service, a name or an address is, or is not, where it is expected.

use crate::duration;
use crate::evidence::{self, Evidence};
use crate::exit::{Exit, Usage};
use crate::once;
use crate::out::{self, FormatArgs};
use crate::places::{MeshArgs, Places};
use crate::status::closer::runnable;
use clap::Subcommand;
use mesh_explain::{Question, Subject, Verdict, explain};
use std::net::IpAddr;
use std::time::Duration;

/// Arguments of `isthmus explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Follow a service from every cluster that has it to the agent of one.
    Service(Service),
    /// Follow a name below the domain of the multi-cluster services to the answer of a DNS server.
    Dns(Dns),
    /// Follow an address of a pod or node to the agent's ipcache.
    Ip(Ip),
}

#[derive(Debug, clap::Args)]
struct Service {
    /// The service.
    #[arg(value_name = "NAMESPACE/NAME")]
    service: String,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, clap::Args)]
struct Dns {
    /// The name, such as cart.shop.svc.clusterset.local.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, clap::Args)]
struct Ip {
    /// The address.
    #[arg(value_name = "ADDRESS")]
    address: IpAddr,
    #[command(flatten)]
    view: View,
}

/// What every question takes.
#[derive(Debug, clap::Args)]
struct View {
    /// The cluster whose view is explained [default: the first of --mesh].
    #[arg(long, value_name = "CLUSTER")]
    from: Option<String>,
    #[command(flatten)]
    mesh: MeshArgs,
    /// How long each place may take to answer; exit code 4 if one that matters took longer.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse_positive)]
    timeout: Duration,
    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    /// Asks all places, and prints the path. Code 0 if the subject is where it is expected, 3 if not, 4 if a place that
    /// should have told did not answer in time.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Service(args) => {
                args.view.answer(|_places| Subject::service(&args.service).map_err(Usage::error))
            }
            Command::Dns(args) => {
                args.view.answer(|places| Subject::name(&args.name, &places.zone).map_err(Usage::error))
            }
            Command::Ip(args) => args.view.answer(|_places| Ok(Subject::Address(args.address))),
        }
    }
}

impl View {
    fn answer(&self, subject: impl FnOnce(&Places) -> anyhow::Result<Subject>) -> anyhow::Result<Exit> {
        let places = self.mesh.read()?;
        let question = Question { subject: subject(&places)?, from: places.cluster(self.from.as_deref())? };
        let Evidence { mesh, late } = once::run(evidence::read(&question, &places, self.timeout))?;
        let mut explanation = explain(&question, &mesh);
        for next in &mut explanation.next {
            *next = runnable(next, &places, question.from.as_str());
        }
        self.format.print(&explanation, |explanation| explanation.text(out::style()))?;
        Ok(exit(explanation.verdict, late))
    }
}

/// Also where the path goes on, a place that did not answer in time may be why it ends.
fn exit(verdict: Verdict, late: bool) -> Exit {
    match verdict {
        Verdict::Good | Verdict::Note => Exit::Done,
        Verdict::Unknown | Verdict::Bad if late => Exit::TimedOut,
        Verdict::Unknown | Verdict::Bad => Exit::Degraded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_it_is_reached_and_whether_all_had_their_say() {
        for (verdict, late, expected) in [
            (Verdict::Good, false, Exit::Done),
            (Verdict::Note, true, Exit::Done),
            (Verdict::Bad, false, Exit::Degraded),
            (Verdict::Unknown, false, Exit::Degraded),
            (Verdict::Bad, true, Exit::TimedOut),
            (Verdict::Unknown, true, Exit::TimedOut),
        ] {
            assert_eq!(exit(verdict, late), expected, "{verdict:?} {late}");
        }
    }
}
