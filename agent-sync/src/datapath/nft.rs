//! Address translation by nftables, in a table of its own.
//!
//! The rules are made as text by [`Ruleset::of`], pure; [`Nft`] hands them to `nft -f -`, which makes them take effect in
//! one transaction, and removes the table with the former ones in another. They stay when the agent stops.

mod ruleset;

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::{debug, warn};

use super::{Applied, Datapath, DatapathError};
use crate::services::MergedServices;

pub use ruleset::{Ruleset, TABLES};

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
    applied: Option<Placed>,
    /// The other table may be there, and is to go.
    has_former: bool,
}

#[derive(Debug)]
struct Placed {
    /// The content, to see what changes.
    text: String,
    table: &'static str,
}

/// The table whose turn is next.
fn after(table: &str) -> &'static str {
    if table == TABLES[0] { TABLES[1] } else { TABLES[0] }
}

impl Nft {
    /// Writes nothing yet.
    pub fn new(options: NftOptions) -> Self {
        Nft { options, applied: None, has_former: false }
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

    /// Those of [`TABLES`] that there are.
    async fn tables(&self) -> Result<Vec<&'static str>, DatapathError> {
        let listed = self.run(&["list", "tables"], "").await?;
        let is_there = |table: &&str| listed.lines().any(|line| line.trim() == format!("table {table}"));
        Ok(TABLES.into_iter().filter(is_there).collect())
    }
}

#[async_trait]
impl Datapath for Nft {
    fn name(&self) -> &'static str {
        "nftables"
    }

    async fn inherited(&mut self) -> Result<bool, DatapathError> {
        Ok(!self.tables().await?.is_empty())
    }

    async fn apply(&mut self, desired: &MergedServices) -> Result<Applied, DatapathError> {
        let ruleset = Ruleset::of(desired, self.options.scope);
        let changed = self.applied.as_ref().is_none_or(|placed| placed.text != ruleset.text);
        if changed {
            let former = match &self.applied {
                Some(placed) => Some(placed.table),
                // One of an earlier life translates until the next one does.
                None => self.tables().await?.first().copied(),
            };
            let table = former.map_or(TABLES[0], after);
            self.run(&["-f", "-"], &ruleset.placement(table)).await?;
            debug!(table, frontends = ruleset.frontends, bytes = ruleset.text.len(), "rules replaced");
            self.applied = Some(Placed { text: ruleset.text, table });
            self.has_former = former.is_some();
        }
        if let Some(placed) = self.applied.as_ref().filter(|_| self.has_former) {
            self.run(&["-f", "-"], &Ruleset::removal(after(placed.table))).await?;
            self.has_former = false;
        }
        Ok(Applied { changed, frontends: ruleset.frontends, skipped: ruleset.skipped })
    }

    async fn verify(&mut self) -> Result<(), DatapathError> {
        let Some(placed) = &self.applied else { return Ok(()) };
        if !self.tables().await?.contains(&placed.table) {
            warn!("the table {} was removed by someone else; writing it again", placed.table);
            self.applied = None;
        }
        Ok(())
    }

    async fn uninstall(&mut self) -> Result<(), DatapathError> {
        self.run(&["-f", "-"], &TABLES.map(Ruleset::removal).concat()).await?;
        self.applied = None;
        Ok(())
    }
}
