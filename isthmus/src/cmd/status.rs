//! `isthmus status`: how a whole mesh stands.

use crate::certs::show;
use crate::duration;
use crate::evidence::{kube, page};
use crate::exit::Exit;
use crate::out::{self, FormatArgs};
use crate::places::{ClusterPlaces, MeshArgs, Places};
use crate::status::{Pages, Report, report};
use agent_sync::api::fetch;
use anyhow::Context as _;
use futures::future::join_all;
use kvstore::EtcdConfigFile;
use mesh_explain::Answer;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

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
        drop(rustls::crypto::ring::default_provider().install_default());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context("start the runtime")?;
        let report = runtime.block_on(self.look(&places));
        // Who has not answered yet is not waited for.
        runtime.shutdown_background();
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
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let clusters = places.clusters.iter().map(|cluster| ask(cluster, left));
            let names = places.clusters.iter().map(|cluster| cluster.name.clone());
            let pages: Vec<_> = names.zip(join_all(clusters).await).collect();
            let report = report(&pages);
            if report.healthy || !self.wait || Instant::now() + PAUSE >= deadline {
                return report;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn ask(cluster: &ClusterPlaces, patience: Duration) -> Pages {
    let context = cluster.context.as_deref();
    let (kubernetes, exporter, controllers, mirror, agent, dns) = tokio::join!(
        within(patience, cluster.kubeconfig.as_deref().map(|file| version(file, context))),
        within(patience, cluster.exporter.map(|address| page(address, &["/export", "/status"]))),
        within(patience, cluster.exporter.map(|address| page(address, &["/mcs"]))),
        within(patience, cluster.mirror.map(|address| page(address, &["/remotes", "/status"]))),
        within(patience, cluster.agent.as_deref().map(agent)),
        within(patience, cluster.dns_health.map(|address| page(address, &["/dns", "/status"]))),
    );
    let certificate_days = cluster
        .store
        .as_deref()
        .map_or(Answer::NotAsked, |file| certificate_days(file).map_err(|error| format!("{error:#}")).into());
    Pages { kubernetes, exporter, controllers, mirror, agent, dns, certificate_days }
}

async fn within<T>(patience: Duration, asked: Option<impl Future<Output = anyhow::Result<T>>>) -> Answer<T> {
    let Some(asked) = asked else { return Answer::NotAsked };
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")).into(),
        Err(_elapsed) => Answer::Silent(format!("no answer within {:.1} s", patience.as_secs_f64())),
    }
}

async fn version(kubeconfig: &Path, context: Option<&str>) -> anyhow::Result<String> {
    let api = kube::Api::new(kubeconfig, context).await?;
    let version = api.get("/version").await?.unwrap_or_default();
    Ok(version.get("gitVersion").and_then(Value::as_str).unwrap_or("unknown").to_owned())
}

async fn agent<T: serde::de::DeserializeOwned>(socket: &Path) -> anyhow::Result<T> {
    let body = fetch(socket, "/v1/status").await?;
    serde_json::from_slice(&body).context("read the agent's answer")
}

/// Days until the first certificate ends by which the store is reached.
fn certificate_days(file: &Path) -> anyhow::Result<i64> {
    let config = EtcdConfigFile::read(file).with_context(|| file.display().to_string())?.config;
    let tls = config.tls.context("no TLS is configured")?;
    let files = tls.cert_file.iter().chain([&tls.ca_file]);
    let mut days = i64::MAX;
    for file in files {
        let pem = std::fs::read(file).with_context(|| file.display().to_string())?;
        for certificate in show::read(&pem, SystemTime::now()).with_context(|| file.display().to_string())? {
            days = days.min(certificate.days_left);
        }
    }
    Ok(days)
}
