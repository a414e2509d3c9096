//! The figures, each a load on one fresh server and what is read from it.

mod fanout;
mod memory;
mod reads;
mod start;
mod writes;

use super::report::Measured;
use super::server::{Credentials, Server, Side};
use super::sizes::Sizes;
use std::path::PathBuf;
use std::time::Duration;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Figure {
    /// From the start to the first answer, and the memory of an empty store.
    Ready,
    /// Puts by 64 clients on 4 connections.
    Put,
    /// Many keys in one go, in process.
    Bulk,
    /// Events to watchers on a connection each, while 64 clients put.
    Fanout,
    /// 100,000 keys: at once by one client, in pages by 50.
    List,
    /// 100 agents that list and watch 10 clusters each.
    Bootstrap,
    /// Connections by mutual TLS with four watches each that nothing happens on.
    Idle,
    /// Memory by number of keys.
    Memory,
    /// Puts on a lease that has few keys, and many.
    Lease,
    /// What mutual TLS costs.
    Tls,
    /// Puts while someone lists everything.
    Stall,
}

/// Where figures run and how big.
pub(crate) struct Context {
    /// How big.
    pub(crate) sizes: Sizes,
    /// Whether figures that do not say so themselves use mutual TLS.
    pub(crate) tls: bool,
    /// Where servers keep their files; in memory, or etcd is measured with a disk below it.
    pub(crate) directory: PathBuf,
    /// For TLS.
    pub(crate) credentials: Credentials,
}

impl Context {
    async fn server(&self, side: &Side) -> anyhow::Result<Server> {
        self.server_with(side, self.tls).await
    }

    async fn server_with(&self, side: &Side, tls: bool) -> anyhow::Result<Server> {
        Server::start(side, &self.directory, tls.then_some(&self.credentials)).await
    }
}

impl Figure {
    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Put => "put",
            Self::Bulk => "bulk",
            Self::Fanout => "fanout",
            Self::List => "list",
            Self::Bootstrap => "bootstrap",
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Lease => "lease",
            Self::Tls => "tls",
            Self::Stall => "stall",
        }
    }

    /// Measures one side. What fails or takes too long leaves a note beside what was read until then.
    pub(crate) async fn measure(self, context: &Context, side: &Side) -> Measured {
        let mut measured = Measured::default();
        let limit = context.sizes.limit;
        let ended = tokio::time::timeout(limit, self.run(context, side, &mut measured)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => measured.notes.push(format!("failed: {error:#}")),
            Err(_) => measured.notes.push(format!("cut off after {} s", limit.as_secs())),
        }
        measured
    }

    async fn run(self, context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
        match self {
            Self::Ready => start::ready(context, side, measured).await,
            Self::Put => writes::put(context, side, measured).await,
            Self::Bulk => writes::bulk(context, side, measured).await,
            Self::Fanout => fanout::fanout(context, side, measured).await,
            Self::List => reads::list(context, side, measured).await,
            Self::Bootstrap => reads::bootstrap(context, side, measured).await,
            Self::Idle => memory::idle(context, side, measured).await,
            Self::Memory => memory::memory(context, side, measured).await,
            Self::Lease => writes::lease(context, side, measured).await,
            Self::Tls => writes::tls(context, side, measured).await,
            Self::Stall => reads::stall(context, side, measured).await,
        }
    }
}

/// Processor time of a server since `since`, in seconds.
fn cpu_since(server: &Server, since: Duration) -> anyhow::Result<f64> {
    Ok(server.usage()?.cpu.saturating_sub(since).as_secs_f64())
}

/// Adds what a server has cost to what the figure cost.
fn account(server: &Server, measured: &mut Measured) -> anyhow::Result<()> {
    let usage = server.usage()?;
    measured.cpu_seconds += usage.cpu.as_secs_f64();
    measured.peak_bytes = measured.peak_bytes.max(usage.peak_bytes);
    Ok(())
}
