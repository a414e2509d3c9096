//! `isthmus forget`: nothing of a remote cluster stays in the store of this one.

use crate::duration;
use crate::exit::{Exit, Usage};
use crate::once;
use crate::out::FormatArgs;
use crate::store::StoreArgs;
use anyhow::Context as _;
use kvstore::EtcdClient;
use kvstoremesh::{ForgetError, Forgotten, forget};
use mesh_types::ClusterName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `isthmus forget`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The remote cluster. It need not be reachable, nor need its mirror run.
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterName,
    /// Directory of the mirror's configurations, where there may be none for the cluster any more: the mirror would
    /// write everything again. A directory that is not there has none.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cilium/clustermesh")]
    clustermesh_config: PathBuf,
    /// How long readers can hear that the cluster was removed, before the word of it goes too.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse)]
    settle: Duration,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    cluster: ClusterName,
    /// How many keys went, by what their names begin with.
    deleted: BTreeMap<String, usize>,
    /// What a list of the same ranges found afterwards.
    left: Vec<String>,
}

impl Args {
    /// Forgets it; exit code 3 if someone writes it again.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let file = self.clustermesh_config.join(self.cluster.as_str());
        if file.exists() {
            return Err(Usage::error(format!(
                "{} is still configured: remove {} first, or its mirror will write everything again",
                self.cluster,
                file.display()
            )));
        }
        let config = self.store.config()?;
        let forgotten = once::run(async {
            let client = EtcdClient::new(config).context("set up the client of the local store")?;
            forget(&client, &self.cluster, self.settle).await.map_err(|error| match error {
                own @ ForgetError::Own { .. } => Usage::error(own),
                refused @ ForgetError::Store(_) => refused.into(),
            })
        })??;
        let Forgotten { deleted, left } = forgotten;
        let report = Report { cluster: self.cluster, deleted, left };
        self.format.print(&report, text)?;
        Ok(if report.left.is_empty() { Exit::Done } else { Exit::Degraded })
    }
}

fn text(report: &Report) -> String {
    let keys: usize = report.deleted.values().sum();
    let mut text = format!("{}: {keys} keys deleted\n", report.cluster);
    for (range, keys) in &report.deleted {
        line(&mut text, format_args!("   {keys:>7}  {range}"));
    }
    if report.left.is_empty() {
        line(&mut text, format_args!("listed again: nothing is left"));
    } else {
        line(
            &mut text,
            format_args!("listed again: {} keys are there, someone writes them", report.left.len()),
        );
        for key in report.left.iter().take(10) {
            line(&mut text, format_args!("   {key}"));
        }
    }
    text
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_and_nothing_is_said_to_be_nothing() {
        let deleted = BTreeMap::from([("cilium/cache/nodes/v1/west/".to_owned(), 3)]);
        let mut report = Report { cluster: "west".parse().unwrap(), deleted, left: Vec::new() };
        let expected = "\
west: 3 keys deleted
         3  cilium/cache/nodes/v1/west/
listed again: nothing is left
";
        assert_eq!(text(&report), expected);
        report.left.push("cilium/cluster-config/west".to_owned());
        let said = text(&report);
        assert!(
            said.ends_with("1 keys are there, someone writes them\n   cilium/cluster-config/west\n"),
            "{said}"
        );
    }
}
