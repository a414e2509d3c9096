//! What is the same for every daemon subcommand: logs, the async runtime, health, signals, an ordered end.
//!
//! A daemon's file in `cmd/` has its arguments with [`DaemonArgs`] flattened in, a [`Spec`], and a set-up that binds
//! its listeners and spawns its tasks:
//!
//! ```text
//! const SPEC: Spec = Spec { name: "kvstoremesh", metrics_prefix: "cilium_kvstoremesh", health_port: 9881 };
//!
//! pub(crate) fn run(self) -> anyhow::Result<Exit> {
//!     daemon::run(&SPEC, &self.daemon, async |daemon| {
//!         let metrics = kvstoremesh::Metrics::register(&mut daemon.metrics);
//!         let synced = daemon.readiness.guard("remotes");
//!         daemon.tasks.spawn("mirror", Restart::Never, move |stop| kvstoremesh::run(…, stop));
//!         daemon.page("/status", move || mirror.status());
//!         Ok(())
//!     })
//! }
//! ```
//!
//! The set-up does not wait for the network: health answers only once it has returned. What takes time is a task
//! with a readiness guard.

use crate::cmd::version::{REVISION, VERSION};
use crate::duration;
use crate::exit::{Exit, Usage};
use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use mesh_runtime::{
    BuildInfo, Health, LogFormat, Readiness, Supervisor, Telemetry, bind, registry, shared_registry,
    terminate_signal,
};
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing::info;

/// Turns of tasks between two looks at the sockets by a thread that is busy. Tokio's 61 are made for short turns; that of a
/// connection that is sent a long list is a tenth of a millisecond, and who waits for an answer would wait for all of them.
pub(crate) const EVENT_INTERVAL: u32 = 7;
/// How long the runtime waits for blocking work after all tasks have ended.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// Arguments that every daemon takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Daemon")]
pub(crate) struct DaemonArgs {
    /// How log lines look, on standard error.
    #[arg(long, value_name = "FORMAT", default_value_t, env = "ISTHMUS_LOG_FORMAT",
        value_parser = PossibleValuesParser::new(["human", "json"]).try_map(|text| text.parse::<LogFormat>()))]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, or by module as `info,kvstore=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "ISTHMUS_LOG_LEVEL")]
    log_level: String,

    /// Where /healthz, /readyz, /metrics and the daemon's pages answer by plain HTTP [default: 127.0.0.1 and the
    /// daemon's own port].
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,

    /// How long an ordered shutdown may take.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    shutdown_grace: Duration,

    /// End when the process that started this one does: its id. For those who run several daemons as one program.
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<i32>,
}

impl DaemonArgs {
    /// Health answers at `address`, unless `--health-listen` says otherwise: for daemons that have flags of their own for it.
    pub(crate) fn or_health_listen(mut self, address: Option<SocketAddr>) -> Self {
        self.health_listen = self.health_listen.or(address);
        self
    }

    /// Where health answers, if that was said.
    #[cfg(test)]
    pub(crate) fn health_listen(&self) -> Option<SocketAddr> {
        self.health_listen
    }
}

/// What is fixed about a daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Its name in logs.
    pub(crate) name: &'static str,
    /// What its series start with; empty if it has parts with prefixes of their own.
    pub(crate) metrics_prefix: &'static str,
    /// Its health port, on loopback unless it is told otherwise.
    pub(crate) health_port: u16,
}

/// A daemon while it is set up.
pub(crate) struct Daemon {
    /// Its tasks; they are stopped in the reverse order of their start.
    pub(crate) tasks: Supervisor,
    /// What `/readyz` waits for. Take the guards during set-up.
    pub(crate) readiness: Readiness,
    /// Where its series are registered, already under its prefix; see [`Daemon::part`].
    pub(crate) metrics: Registry,
    part: Option<&'static str>,
    pages: Vec<Box<dyn FnOnce(Health) -> Health + Send>>,
    listeners: Vec<(&'static str, TcpListener)>,
}

impl Daemon {
    /// From now on a part is set up that is a daemon of its own elsewhere: its series have `prefix`. Only where the
    /// daemon's own prefix is empty.
    pub(crate) fn part(&mut self, prefix: &'static str) {
        self.part = Some(prefix);
    }

    /// Where the part that is set up registers its series.
    pub(crate) fn series(&mut self) -> &mut Registry {
        match self.part {
            Some(prefix) => self.metrics.sub_registry_with_prefix(prefix),
            None => &mut self.metrics,
        }
    }

    /// Answers at `address` too, as the health listener does.
    pub(crate) async fn listen(&mut self, what: &'static str, address: SocketAddr) -> anyhow::Result<()> {
        let listener = bind(what, address).await?;
        let address = listener.local_addr().context("read the address of a listener")?;
        info!(%address, "{what} answers too");
        self.listeners.push((what, listener));
        Ok(())
    }

    /// Answers `GET path` on the health listener with `page` as JSON.
    pub(crate) fn page<T: Serialize>(
        &mut self,
        path: &'static str,
        page: impl Fn() -> T + Clone + Send + Sync + 'static,
    ) {
        self.pages.push(Box::new(move |health| health.json(path, page)));
    }

    /// Carries out `act` for `POST path` from this machine's loopback.
    pub(crate) fn action<Q: DeserializeOwned + Send + 'static, A: Serialize>(
        &mut self,
        path: &'static str,
        act: impl Fn(Q) -> Result<A, String> + Clone + Send + Sync + 'static,
    ) {
        self.pages.push(Box::new(move |health| health.action(path, act)));
    }
}

/// Runs a daemon until SIGINT or SIGTERM, or until one of its essential tasks ends.
pub(crate) fn run(
    spec: &Spec,
    args: &DaemonArgs,
    set_up: impl AsyncFnOnce(&mut Daemon) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let telemetry = Telemetry { format: args.log_format, level: args.log_level.clone() };
    telemetry.init().map_err(Usage::error)?;
    if let Some(parent) = args.with_parent {
        end_with(parent)?;
    }
    // Every TLS stack in the process uses the one provider; a second call would mean that it is set already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build()
        .context("start the runtime")?;
    let served = runtime.block_on(async {
        let stop = terminate_signal();
        serve(spec, args, set_up, stop).await
    });
    runtime.shutdown_timeout(BLOCKING_GRACE);
    served
}

/// From now on this process is killed when its parent ends, however that ends.
fn end_with(parent: i32) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie this process to its parent")?;
    // It may have ended before the line above.
    let now = nix::unistd::getppid().as_raw();
    anyhow::ensure!(now == parent, "--with-parent {parent}: the parent of this process is {now}");
    Ok(())
}

async fn serve(
    spec: &Spec,
    args: &DaemonArgs,
    set_up: impl AsyncFnOnce(&mut Daemon) -> anyhow::Result<()>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Exit> {
    let mut stop = pin!(stop);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, spec.health_port));
    let listener = bind("health", args.health_listen.unwrap_or(loopback)).await?;
    let health_address = listener.local_addr().context("read the health listener's address")?;
    info!(daemon = spec.name, version = VERSION, revision = REVISION, %health_address, "starting");

    let tasks = Supervisor::new(args.shutdown_grace);
    let build = BuildInfo { version: VERSION, revision: REVISION };
    let metrics = match spec.metrics_prefix {
        "" => shared_registry(&format!("isthmus_{}", spec.name), build, tasks.spawner()),
        prefix => registry(prefix, build, tasks.spawner()),
    };
    let mut daemon = Daemon {
        tasks,
        readiness: Readiness::new(),
        metrics,
        part: None,
        pages: Vec::new(),
        listeners: Vec::new(),
    };
    let status = daemon.tasks.spawner();
    daemon.page("/tasks", move || status.status());
    tokio::select! {
        biased;
        ready = Box::pin(set_up(&mut daemon)) => ready?,
        () = &mut stop => return Ok(Exit::Done),
    }

    let Daemon { tasks, readiness, metrics, part: _, pages, listeners } = daemon;
    let health = pages.into_iter().fold(Health::new(readiness, metrics), |health, page| page(health));
    for (what, listener) in listeners {
        let health = health.clone();
        tasks.spawn_once(what, |stop| health.serve(listener, stop));
    }
    tasks.spawn_once("health", |stop| health.serve(listener, stop));
    pages::release_start();
    tasks.until(stop).await?;
    info!(daemon = spec.name, "stopped");
    Ok(Exit::Done)
}

mod pages;
#[cfg(test)]
mod tests;
