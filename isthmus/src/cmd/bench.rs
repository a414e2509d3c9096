//! `isthmus bench`.

use crate::bench::mirror::{NodeArgs, PeersArgs};
use crate::bench::{Context, Credentials, Figure, Machine, Report, Side, Sizes};
use crate::exit::{Exit, Usage};
use crate::out::FormatArgs;
use anyhow::Context as _;
use clap::ValueEnum as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

mod export;
mod mirror;

/// Where memory is a file system.
const TMPFS: &str = "/dev/shm";

/// Arguments of `isthmus bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measure the store beside a real etcd: both in memory, with equal TLS settings, in one run.
    Store(StoreArgs),
    /// Measure the mirror of up to 250 generated clusters into the store of this one.
    Mirror(mirror::Args),
    /// Measure the export of a real Kubernetes API into the store of this process.
    Export(export::Args),
    /// Serve generated clusters as etcd v3 servers, each on a port of its own, for a mirror to read.
    Peers(PeersArgs),
    /// What `mirror` measures.
    #[command(hide = true)]
    Node(NodeArgs),
}

#[derive(Debug, clap::Args)]
struct StoreArgs {
    /// What to measure; all of it unless given.
    #[arg(long, value_name = "FIGURE", value_enum, value_delimiter = ',')]
    figure: Vec<Figure>,

    /// All traffic by mutual TLS.
    #[arg(long, conflicts_with = "plain")]
    tls: bool,

    /// All traffic in plaintext, but for what is about TLS; this is the default.
    #[arg(long)]
    plain: bool,

    /// The etcd to compare with [default: the one in the tools directory, else on the path].
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,

    /// Directory with etcd.
    #[arg(long, value_name = "DIR", env = "ISTHMUS_TOOLS_BIN", hide = true)]
    tools: Option<PathBuf>,

    /// Measure the store alone.
    #[arg(long, conflicts_with = "etcd")]
    no_etcd: bool,

    /// Small sizes, to see that everything works; says nothing about speed.
    #[arg(long, conflicts_with = "full")]
    quick: bool,

    /// Also the figures with a million keys.
    #[arg(long)]
    full: bool,

    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    /// Measures, then prints.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Store(args) => args.run(),
            Command::Mirror(args) => args.run(),
            Command::Export(args) => args.run(),
            Command::Peers(args) => args.run(),
            Command::Node(args) => args.run(),
        }
    }
}

impl StoreArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let Some(report) = until_stopped(self.measure())? else { return Ok(Exit::Failed) };
        self.format.print(&report, Report::text)?;
        Ok(Exit::Done)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let sizes = match (self.quick, self.full) {
            (true, _) => Sizes::quick(),
            (_, true) => Sizes::full(),
            _ => Sizes::standard(),
        };
        let figures = if self.figure.is_empty() { Figure::value_variants() } else { &self.figure };
        let ours = Side::Isthmus(std::env::current_exe().context("find the program that runs")?);
        let etcd = if self.no_etcd { None } else { Some(Side::Etcd(self.etcd()?)) };
        let directory = directory()?;
        let credentials = Credentials::issue(&directory.path().join("tls"))?;
        let mut report = Report {
            peer: "etcd",
            machine: machine(),
            optimised: !cfg!(debug_assertions),
            tls: self.tls,
            standard: sizes.standard,
            rows: Vec::new(),
            notes: Vec::new(),
        };
        let context = Context { sizes, tls: self.tls, directory: directory.path().to_owned(), credentials };
        for figure in figures {
            tell(&format!("{}: isthmus", figure.name()));
            let our = figure.measure(&context, &ours).await;
            let theirs = match &etcd {
                Some(etcd) => {
                    tell(&format!("{}: etcd", figure.name()));
                    Some(figure.measure(&context, etcd).await)
                }
                None => None,
            };
            report.add(figure.name(), Some(&our), theirs.as_ref());
        }
        Ok(report)
    }

    fn etcd(&self) -> anyhow::Result<PathBuf> {
        let in_tools = self.tools.as_ref().map(|tools| tools.join("etcd"));
        let on_path = || {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|directory| directory.join("etcd")).find(|file| file.is_file())
        };
        self.etcd.clone().or(in_tools).or_else(on_path).filter(|file| file.is_file()).ok_or_else(|| {
            Usage::error(
                "there is no etcd to compare with: say where it is by --etcd, or measure alone by --no-etcd",
            )
        })
    }
}

/// For the files of a run; in memory, where that is a file system.
fn directory() -> anyhow::Result<tempfile::TempDir> {
    let base = if Path::new(TMPFS).is_dir() { PathBuf::from(TMPFS) } else { std::env::temp_dir() };
    Ok(tempfile::Builder::new().prefix("isthmus-bench-").tempdir_in(base)?)
}

/// Measures until done or told to stop. The child processes end with what is dropped.
fn until_stopped<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
    // What reads a long list here must not hold up what measures latencies either.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(crate::daemon::EVENT_INTERVAL)
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            done = work => done.map(Some),
            () = mesh_runtime::terminate_signal() => Ok(None),
        }
    })
}

/// Progress, on standard error. Nobody may be reading it.
fn tell(what: &str) {
    drop(writeln!(std::io::stderr(), "measuring {what}"));
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let first_word = |text: String| text.split_whitespace().next().unwrap_or("?").to_owned();
    let model = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    Machine {
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        processor: model(&read("/proc/cpuinfo")).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kernel: first_word(read("/proc/sys/kernel/osrelease")),
        load: first_word(read("/proc/loadavg")),
    }
}
