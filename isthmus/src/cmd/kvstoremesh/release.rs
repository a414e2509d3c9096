//! `isthmus kvstoremesh release`: the running mirror obeys what it holds back.

use super::HEALTH_PORT;
use crate::exit::Exit;
use crate::http;
use crate::out::FormatArgs;
use anyhow::Context as _;
use kvstoremesh::Board;
use mesh_types::{ClusterName, Resource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

/// Where the daemon listens for it.
pub(super) const PATH: &str = "/remotes/release";

/// Arguments of `isthmus kvstoremesh release`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The remote cluster whose withdrawals are right.
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterName,
    /// Only of this kind: nodes, ip, identities, services, serviceexports or endpointslices [default: all].
    #[arg(value_name = "KIND", value_parser = kind)]
    kind: Option<Resource>,
    /// Health listener of the daemon, which must be on this machine.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT)))]
    address: SocketAddr,
    #[command(flatten)]
    format: FormatArgs,
}

/// What the daemon is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    cluster: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

/// What it did: how many keys went, by the word of their kind.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Released {
    released: BTreeMap<String, usize>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let kind = self.kind.map(|kind| kind.word().to_owned());
        let question = Question { cluster: self.cluster.to_string(), kind };
        let question = serde_json::to_string(&question).context("encode the question")?;
        let body = http::post(self.address, PATH, &question)
            .with_context(|| format!("ask the mirror at {} (see --address)", self.address))?;
        let released: Released = serde_json::from_slice(&body).context("read the daemon's answer")?;
        self.format.print(&released, |released| text(&self.cluster, released))?;
        Ok(Exit::Done)
    }
}

/// The daemon's side.
pub(super) fn answer(board: &Board, question: &Question) -> Result<Released, String> {
    let cluster: ClusterName = question.cluster.parse().map_err(|error| format!("{error}"))?;
    let only = question.kind.as_deref().map(kind).transpose()?;
    let released =
        board.release(&cluster, only).ok_or_else(|| format!("no remote cluster {cluster} is configured"))?;
    Ok(Released {
        released: released.into_iter().map(|(kind, keys)| (kind.word().to_owned(), keys)).collect(),
    })
}

fn kind(word: &str) -> Result<Resource, String> {
    let found = Resource::ALL.into_iter().find(|kind| kind.word() == word);
    found.ok_or_else(|| format!("expected one of {}", Resource::ALL.map(Resource::word).join(", ")))
}

fn text(cluster: &ClusterName, released: &Released) -> String {
    if released.released.is_empty() {
        return format!("{cluster}: nothing was held back");
    }
    let kinds = released.released.iter().map(|(kind, keys)| format!("{keys} of {kind}"));
    format!("{cluster}: withdrawn {}", kinds.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_released_is_counted_and_what_is_unknown_is_named() {
        let west = "west".parse().unwrap();
        let released = |kinds: &[(&str, usize)]| Released {
            released: kinds.iter().map(|(kind, keys)| ((*kind).to_owned(), *keys)).collect(),
        };
        assert_eq!(text(&west, &released(&[])), "west: nothing was held back");
        assert_eq!(text(&west, &released(&[("ip", 4), ("nodes", 2)])), "west: withdrawn 4 of ip, 2 of nodes");
        let ask = |cluster: &str, kind: Option<&str>| {
            let question = Question { cluster: cluster.to_owned(), kind: kind.map(str::to_owned) };
            answer(&Board::default(), &question).unwrap_err()
        };
        assert_eq!(ask("west", None), "no remote cluster west is configured");
        assert!(ask("West", None).contains("expected"), "{}", ask("West", None));
        assert!(
            ask("west", Some("pods")).contains("expected one of nodes, ip,"),
            "{}",
            ask("west", Some("pods"))
        );
    }
}
