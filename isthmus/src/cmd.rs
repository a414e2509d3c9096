//! The subcommands, one file each. A new one takes three lines here: its `mod`, its variant with the line that
//! `--help` shows, and its arm in [`Command::run`]. Daemons: see [`crate::daemon`].

use crate::exit::Exit;
use clap::Subcommand;

mod agent;
mod bench;
mod certs;
mod check;
mod cilium;
mod cluster;
mod clustermesh_apiserver;
mod completion;
mod connect;
mod demo;
mod disconnect;
mod dns;
mod etcdinit;
mod explain;
mod forget;
mod gather;
mod kube_lite;
mod kvstoremesh;
mod man;
pub(crate) mod mesh;
mod status;
mod store;
pub(crate) mod table;
pub(crate) mod version;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Turn what the other clusters offer into this node's tables, translation of services and encryption; or ask the
    /// agent that runs.
    Agent(Box<agent::Args>),
    /// Measure the store beside a real etcd, the mirror and the export.
    Bench(bench::Args),
    /// Issue and show certificates: a CA, servers, clients.
    Certs(certs::Args),
    /// Check whether clusters are, or can be, one mesh: one line for each check.
    Check(Box<check::Args>),
    /// Be Cilium's image, by Cilium's flags; what this program does when it is started as `clustermesh-apiserver`.
    #[command(hide = true, disable_help_flag = true)]
    Cilium(cilium::Args),
    /// Export this cluster's nodes, identities, endpoints, services and exports into its store.
    ClustermeshApiserver(Box<clustermesh_apiserver::Args>),
    /// Print a completion script for a shell.
    Completion(completion::Args),
    /// Make clusters one mesh: check them all, print a plan of every write, and with --apply do it.
    Connect(Box<connect::Args>),
    /// Run a mesh of clusters on this machine to look at and to try things with; needs no root and no Kubernetes.
    Demo(demo::Args),
    /// Make clusters forget each other, also those that are gone.
    Disconnect(Box<disconnect::Args>),
    /// Answer the names of services that clusters export, such as cart.shop.svc.clusterset.local.
    Dns(dns::Args),
    /// Set up this cluster's users in the data directory of `etcd`, as Cilium's etcdinit does.
    Etcdinit(etcdinit::Args),
    /// Say why a service, a name or an address is, or is not, where it is expected: the way of its data, step by step.
    Explain(explain::Args),
    /// Remove what is mirrored of a cluster at once, and show that nothing is left.
    Forget(forget::Args),
    /// Put together what a report about a fault needs: what everybody says and what the clusters hold, without secrets.
    Gather(gather::Args),
    /// Serve a small Kubernetes API, for clusters without Kubernetes.
    KubeLite(Box<kube_lite::Args>),
    /// Mirror remote clusters into the store of this one; or, with a subcommand, ask the mirror that runs.
    Kvstoremesh(Box<kvstoremesh::Args>),
    /// Write the manual: a page for this program and one for each of its commands.
    Man(man::Args),
    /// Run all daemons of a cluster in one process: store, export, controllers, mirror, and DNS if it is asked for.
    Mesh(Box<mesh::Args>),
    /// Say how a whole mesh stands: its clusters, what each has of the others, and what needs a look.
    Status(status::Args),
    /// Serve the cluster's state as an etcd v3 server.
    Store(store::Args),
    /// Print the version.
    Version(version::Args),
}

impl Command {
    /// Runs it. Blocks: a daemon until it is asked to stop.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Agent(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Certs(args) => args.run(),
            Self::Check(args) => args.run(),
            Self::Cilium(args) => args.run(),
            Self::ClustermeshApiserver(args) => args.run(),
            Self::Completion(args) => args.run(),
            Self::Connect(args) => args.run(),
            Self::Demo(args) => args.run(),
            Self::Disconnect(args) => args.run(),
            Self::Dns(args) => args.run(),
            Self::Etcdinit(args) => args.run(),
            Self::Explain(args) => args.run(),
            Self::Forget(args) => args.run(),
            Self::Gather(args) => args.run(),
            Self::KubeLite(args) => args.run(),
            Self::Kvstoremesh(args) => args.run(),
            Self::Man(args) => args.run(),
            Self::Mesh(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Store(args) => args.run(),
            Self::Version(args) => args.run(),
        }
    }
}
