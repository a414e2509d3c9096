//! `isthmus status`: how a whole mesh stands.

use crate::duration;
use crate::exit::Exit;
use crate::once;
use crate::out::{self, FormatArgs};
use crate::places::{MeshArgs, Places};
use crate::status::{Report, ask, report};
use std::time::{Duration, Instant};

/// Between two looks of `--wait`.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `isthmus status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    mesh: MeshArgs,
    /// Wait until nothing needs a look, for at most --timeout; exit code 4 if it takes longer.
    #[arg(long)]
    wait: bool,
    /// How long --wait waits; without it, how long each place may take to answer.
    #[arg(long, value_name = "DURATION", default_value = "5s", default_value_if("wait", "true", "5m"),
        value_parser = duration::parse_positive)]
    timeout: Duration,
    #[command(flatten)]
    format: FormatArgs,
}

impl Args {
    /// Asks all places, and prints how they stand. Code 0 if nothing needs a look, else 3, or 4 after `--wait`.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let places = self.mesh.read()?;
        let report = once::run(self.look(&places))?;
        self.format.print(&report, |report| report.text(out::style()))?;
        Ok(match (report.healthy, self.wait) {
            (true, _) => Exit::Done,
            (false, false) => Exit::Degraded,
            (false, true) => Exit::TimedOut,
        })
    }

    /// The latest report: the first one, or with `--wait` the first healthy one.
    async fn look(&self, places: &Places) -> Report {
        let deadline = Instant::now() + self.timeout;
        let progress = out::Progress::start("Asking all places …");
        let report = self.until(places, deadline, &progress).await;
        progress.end();
        report
    }

    async fn until(&self, places: &Places, deadline: Instant, progress: &out::Progress) -> Report {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let pages = ask::all(&places.clusters, left).await;
            let report = report(&places.clusters.iter().zip(pages).collect::<Vec<_>>());
            if report.healthy || !self.wait || Instant::now() + PAUSE >= deadline {
                return report;
            }
            let count = report.findings.len();
            progress.say(&format!("Waiting: {count} things need a look, such as {}", report.findings[0].at));
            tokio::time::sleep(PAUSE).await;
        }
    }
}
