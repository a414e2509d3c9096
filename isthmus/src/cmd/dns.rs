//! The DNS server of `clusterset.local`.

use crate::daemon::{self, Daemon, DaemonArgs, Spec};
use crate::exit::{Exit, Usage};
use anyhow::Context as _;
use dns_plugin::{Metrics, Published, Server, Source, Zone, ZoneName, ZoneSettings};
use kube_watch::ClientConfig;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tracing::info;

const SPEC: Spec = Spec { name: "dns", metrics_prefix: "isthmus_dns", health_port: 9882 };

/// Seconds that a resolver may keep an answer, unless said.
pub(crate) const TTL_SECONDS: u32 = 5;
/// Longest UDP response, unless said: what fits any path (DNS flag day 2020).
pub(crate) const MAX_UDP_SIZE: u16 = 1232;

/// Arguments of `isthmus dns`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The domain to answer for.
    #[arg(long, value_name = "DOMAIN", default_value = ZoneName::DEFAULT)]
    zone: ZoneName,

    /// Where to answer, by UDP and TCP. May be repeated.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1053")]
    listen: Vec<SocketAddr>,

    /// Address of this server in the zone's own NS record. May be repeated [default: those of --listen].
    #[arg(long, value_name = "ADDRESS")]
    advertise: Vec<IpAddr>,

    /// Seconds that a resolver may keep an answer, also one that says that a name does not exist.
    #[arg(long, value_name = "SECONDS", default_value_t = TTL_SECONDS, value_parser = clap::value_parser!(u32).range(0..=3600))]
    ttl: u32,

    /// Longest UDP response to clients that offer more by EDNS; what is longer is fetched over TCP.
    #[arg(long, value_name = "BYTES", default_value_t = MAX_UDP_SIZE, value_parser = clap::value_parser!(u16).range(512..))]
    max_udp_size: u16,

    /// Kubeconfig of the cluster; without it, the service account of the pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// Context in the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,

    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Args {
    /// Serves until it is asked to stop.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let settings = self.settings();
        let zone = Zone::new(settings).map_err(|error| Usage::error(format!("--zone: {error}")))?;
        let kubernetes =
            ClientConfig { kubeconfig: self.kubeconfig, context: self.context, ..ClientConfig::default() };
        daemon::run(&SPEC, &self.daemon, async |daemon| {
            let client = kubernetes.client().await.context("reach the Kubernetes API")?;
            start(daemon, "/status", &client, zone, &self.listen, self.max_udp_size).await
        })
    }

    fn settings(&self) -> ZoneSettings {
        let listened = self.listen.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified());
        let name_server = if self.advertise.is_empty() { listened.collect() } else { self.advertise.clone() };
        ZoneSettings { zone: self.zone.clone(), ttl_seconds: self.ttl, name_server }
    }
}

/// Answers `zone`, as the Kubernetes API behind `client` tells it, at each of `listen`; its status is at `page`.
pub(crate) async fn start(
    daemon: &mut Daemon,
    page: &'static str,
    client: &kube::Client,
    zone: Zone,
    listen: &[SocketAddr],
    max_udp_size: u16,
) -> anyhow::Result<()> {
    let published = Published::new(zone);
    let metrics = Metrics::register(daemon.series(), published.clone());
    let server = Server::bind(listen, published.clone(), metrics, max_udp_size).await?;
    let addresses = server.addresses().context("read the addresses of the DNS server")?;
    let source = Source::new(client, published);
    let observer = source.observer();
    daemon.page(page, move || observer.status());
    source.spawn(&daemon.tasks.spawner(), daemon.readiness.guard("zone"));
    daemon.tasks.spawn_once("dns", |stop| server.serve(stop));
    info!(?addresses, "answering, with SERVFAIL until the zone is synced");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Cli::try_parse_from(["dns"].iter().chain(args)).map(|cli| cli.args)
    }

    #[test]
    fn the_name_server_is_what_is_advertised_or_else_listened_on() {
        let name_server = |args: &[&str]| {
            let text = |address: &IpAddr| address.to_string();
            parse(args).unwrap().settings().name_server.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(name_server(&[]), ["127.0.0.1"]);
        assert_eq!(name_server(&["--listen=10.0.0.1:53", "--listen=[fd00::1]:53"]), ["10.0.0.1", "fd00::1"]);
        assert!(name_server(&["--listen=0.0.0.0:53", "--listen=[::]:53"]).is_empty());
        assert_eq!(name_server(&["--listen=0.0.0.0:53", "--advertise=10.0.0.9"]), ["10.0.0.9"]);
    }

    #[test]
    fn settings_that_cannot_work_stop_the_start() {
        for wrong in
            ["--zone=.", "--zone=a..b", "--ttl=3601", "--ttl=-1", "--max-udp-size=511", "--listen=53"]
        {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
        assert_eq!(parse(&["--zone=Mesh.Example."]).unwrap().zone.to_string(), "mesh.example");
    }
}
