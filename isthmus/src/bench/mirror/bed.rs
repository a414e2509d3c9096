//! The two child processes: the generator of remote clusters, and what is measured.

use super::control::{Answer, Order};
use super::data::Shape;
use super::observer::{Canaries, count};
use super::peers::CONFIGURATION;
use crate::bench::server::{Credentials, Endpoint, Server, free_address};
use anyhow::{Context as _, bail, ensure};
use mesh_types::key;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// Where both run.
pub(crate) struct Place {
    /// This program.
    pub(crate) program: PathBuf,
    /// For configuration, certificates and logs.
    pub(crate) directory: PathBuf,
    /// For mutual TLS everywhere.
    pub(crate) credentials: Option<Credentials>,
}

/// Remote clusters, served by a process of their own.
pub(super) struct Peers {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    directory: PathBuf,
    pub(super) clusters: usize,
    pub(super) keys: usize,
}

impl Peers {
    /// Starts them and waits until all serve.
    pub(super) async fn start(place: &Place, clusters: usize, shape: Shape) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(&place.directory)?.keep();
        let mut command = tokio::process::Command::new(&place.program);
        command
            .args(["bench", "peers", "--orders"])
            .arg(format!("--clusters={clusters}"))
            .arg(format!("--nodes={}", shape.nodes))
            .arg(format!("--identities={}", shape.identities))
            .arg(format!("--endpoints={}", shape.endpoints))
            .arg(format!("--services={}", shape.services))
            .arg(format!("--directory={}", directory.display()));
        if place.credentials.is_some() {
            command.arg("--tls");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().context("start the generator")?;
        let orders = child.stdin.take().context("the generator takes no orders")?;
        let answers = child.stdout.take().context("the generator does not answer")?;
        let answers = BufReader::new(answers).lines();
        let mut peers = Self { _child: child, orders, answers, directory, clusters: 0, keys: 0 };
        match peers.answer().await? {
            Answer::Ready { clusters, keys } => (peers.clusters, peers.keys) = (clusters, keys),
            other @ (Answer::Changed { .. } | Answer::Restarted) => {
                bail!("the generator began with {other:?}")
            }
        }
        Ok(peers)
    }

    /// Has it make changes; returns how many it made, when it has.
    pub(super) async fn change(&mut self, per_second: u32, time: Duration) -> anyhow::Result<u64> {
        match self.order(Order::change(per_second, time)).await? {
            Answer::Changed { changes } => Ok(changes),
            other @ (Answer::Ready { .. } | Answer::Restarted) => {
                bail!("the generator answers {other:?} to an order to make changes")
            }
        }
    }

    /// Has it replace the store of a cluster.
    pub(super) async fn restart(&mut self, cluster: usize) -> anyhow::Result<()> {
        let answer = self.order(Order::Restart { cluster }).await?;
        ensure!(answer == Answer::Restarted, "the generator answers {answer:?} to a restart");
        Ok(())
    }

    async fn order(&mut self, order: Order) -> anyhow::Result<Answer> {
        let line = serde_json::to_string(&order)? + "\n";
        self.orders.write_all(line.as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<Answer> {
        let line = self.answers.next_line().await?.context("the generator has ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // What stays lies in the benchmark's own directory, which goes as well.
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Store and mirror of the local cluster.
pub(super) struct Node {
    pub(super) server: Server,
    /// From the start of the process until everything was mirrored.
    pub(super) synced_after: Duration,
}

impl Node {
    /// Starts it beside no remote clusters.
    pub(super) async fn alone(place: &Place) -> anyhow::Result<Server> {
        let directory = tempfile::tempdir_in(&place.directory)?.keep();
        std::fs::create_dir_all(directory.join(CONFIGURATION))?;
        Self::spawn(place, &directory).await
    }

    /// Starts it and waits until it has mirrored all.
    pub(super) async fn start(place: &Place, peers: &Peers) -> anyhow::Result<Self> {
        let started = Instant::now();
        let server = Self::spawn(place, &peers.directory).await?;
        Canaries::of(&server).await?.wait_for(peers.clusters).await?;
        let synced_after = started.elapsed();
        let found = count(&server, key::CACHE_PREFIX).await?;
        ensure!(found == peers.keys, "mirrored {found} keys instead of {}", peers.keys);
        Ok(Self { server, synced_after })
    }

    async fn spawn(place: &Place, directory: &Path) -> anyhow::Result<Server> {
        let tls = place.credentials.as_ref().map(|credentials| Arc::clone(&credentials.client));
        let endpoint = Endpoint { address: free_address()?, tls };
        let mut command = Command::new(&place.program);
        command
            .args(["bench", "node", "--health-listen=127.0.0.1:0", "--log-level=warn"])
            .arg(format!("--listen={}", endpoint.address))
            .arg(format!("--directory={}", directory.display()));
        if let Some(credentials) = &place.credentials {
            command.arg(format!("--tls={}", credentials.directory().display()));
        }
        Server::spawn("the mirror", command, endpoint, &directory.join("log")).await
    }
}
