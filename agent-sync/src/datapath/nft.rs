//! Address translation by nftables, in a table of its own.
//!
//! The rules are made as text by [`Ruleset::of`], pure; [`Nft`] hands them to `nft -f -`, which makes them take effect in
//! one transaction. They stay when the agent stops.

mod ruleset;

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::{debug, warn};

use super::{Applied, Datapath, DatapathError};
use crate::services::MergedServices;

pub use ruleset::{Ruleset, TABLE};

/// A transaction that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Most of what nft prints that is shown in an error.
const MESSAGE_CHARS: usize = 600;

/// Which services are translated here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NftScope {
    /// Global ones only; kube-proxy (or whoever) does the others.
    #[default]
    Global,
    /// All with a cluster IP, in the place of kube-proxy.
    All,
}

/// How [`Nft`] works.
#[derive(Clone, Debug)]
pub struct NftOptions {
    /// The program and its first arguments. Its network namespace is where the rules go.
    pub command: Vec<String>,
    /// Which services are translated.
    pub scope: NftScope,
}

impl Default for NftOptions {
    fn default() -> Self {
        NftOptions { command: vec!["nft".to_owned()], scope: NftScope::default() }
    }
}

/// The writer.
#[derive(Debug)]
pub struct Nft {
    options: NftOptions,
    /// What this process has put in effect.
    applied: Option<Ruleset>,
}

impl Nft {
    /// Writes nothing yet.
    pub fn new(options: NftOptions) -> Self {
        Nft { options, applied: None }
    }

    /// Runs the program with `arguments` and `input`; returns what it printed.
    async fn run(&self, arguments: &[&str], input: &str) -> Result<String, DatapathError> {
        let (program, first) =
            self.options.command.split_first().map_or(("nft", &[][..]), |(p, f)| (p.as_str(), f));
        let failed = |source| DatapathError::Program { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(first)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().expect("its input is piped");
        let talk = async {
            // nft that refuses early closes its input; what it printed says why.
            let written = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            let output = child.wait_with_output().await.map_err(failed)?;
            if output.status.success() {
                written.map_err(failed)?;
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            let message = String::from_utf8_lossy(&output.stderr);
            let message = message.trim().chars().take(MESSAGE_CHARS).collect();
            Err(DatapathError::Refused { message })
        };
        tokio::time::timeout(TIMEOUT, talk).await.map_err(|_elapsed| DatapathError::TimedOut(TIMEOUT))?
    }
}

#[async_trait]
impl Datapath for Nft {
    fn name(&self) -> &'static str {
        "nftables"
    }

    async fn inherited(&mut self) -> Result<bool, DatapathError> {
        let tables = self.run(&["list", "tables"], "").await?;
        Ok(tables.lines().any(|line| line.trim() == format!("table {TABLE}")))
    }

    async fn apply(&mut self, desired: &MergedServices) -> Result<Applied, DatapathError> {
        let ruleset = Ruleset::of(desired, self.options.scope);
        let changed = self.applied.as_ref().is_none_or(|applied| applied.text != ruleset.text);
        if changed {
            self.run(&["-f", "-"], &ruleset.text).await?;
            debug!(frontends = ruleset.frontends, bytes = ruleset.text.len(), "rules replaced");
        }
        let applied = Applied { changed, frontends: ruleset.frontends, skipped: ruleset.skipped.clone() };
        self.applied = Some(ruleset);
        Ok(applied)
    }

    async fn verify(&mut self) -> Result<(), DatapathError> {
        if self.applied.is_some() && !self.inherited().await? {
            warn!("the table {TABLE} was removed by someone else; writing it again");
            self.applied = None;
        }
        Ok(())
    }

    async fn uninstall(&mut self) -> Result<(), DatapathError> {
        self.run(&["-f", "-"], &Ruleset::removal()).await?;
        self.applied = None;
        Ok(())
    }
}
