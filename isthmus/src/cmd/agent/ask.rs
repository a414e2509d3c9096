//! Questions to the agent that runs.

use super::{SocketArgs, text};
use crate::exit::{Exit, Usage};
use crate::once;
use crate::out::FormatArgs;
use agent_sync::api::{fetch, schema};
use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::IpAddr;

/// What every question takes.
#[derive(Debug, clap::Args)]
struct AskArgs {
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl AskArgs {
    /// Asks for `path`, prints the answer and returns it.
    fn ask<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<T> {
        let body = once::run(fetch(&self.socket.socket, path))??;
        let answer: T = serde_json::from_slice(&body).context("read the agent's answer")?;
        self.format.print(&answer, text)?;
        Ok(answer)
    }
}

/// Arguments of `isthmus agent status`.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    ask: AskArgs,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let status: schema::Status = self.ask.ask("/v1/status", text::status)?;
        Ok(if status.degraded || !status.ready { Exit::Degraded } else { Exit::Done })
    }
}

/// Arguments of `isthmus agent wireguard`.
#[derive(Debug, clap::Args)]
pub(super) struct Wireguard {
    #[command(flatten)]
    ask: AskArgs,
}

impl Wireguard {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        self.ask.ask("/v1/wireguard", text::wireguard)?;
        Ok(Exit::Done)
    }
}

/// Arguments of `isthmus agent ipcache`.
#[derive(Debug, clap::Args)]
pub(super) struct Ipcache {
    /// Only the entry that holds this address: the one of the longest prefix.
    #[arg(value_name = "ADDRESS", conflicts_with = "cluster")]
    address: Option<IpAddr>,
    #[command(flatten)]
    of: OfCluster,
}

impl Ipcache {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Some(address) = self.address else { return self.of.run("ipcache", text::ipcache) };
        let path = format!("/v1/ipcache?address={address}");
        let found: schema::Ipcache = self.of.ask.ask(&path, text::ipcache)?;
        Ok(if found.entries.is_empty() { Exit::Failed } else { Exit::Done })
    }
}

/// What a question for a table takes.
#[derive(Debug, clap::Args)]
struct OfCluster {
    /// Only what has to do with this cluster.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    ask: AskArgs,
}

impl OfCluster {
    fn run<T: Serialize + DeserializeOwned>(
        self,
        what: &str,
        text: fn(&T) -> String,
    ) -> anyhow::Result<Exit> {
        let path = match &self.cluster {
            None => format!("/v1/{what}"),
            Some(name) => {
                // A cluster's name needs no escaping, and anything else is none.
                let safe = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
                if !safe {
                    return Err(Usage::error(format!("--cluster: {name:?} is no name of a cluster")));
                }
                format!("/v1/{what}?cluster={name}")
            }
        };
        self.ask.ask(&path, text)?;
        Ok(Exit::Done)
    }
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $name:ident => $path:literal, $text:path;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, clap::Args)]
        pub(super) struct $name {
            #[command(flatten)]
            of: OfCluster,
        }

        impl $name {
            pub(super) fn run(self) -> anyhow::Result<Exit> {
                self.of.run($path, $text)
            }
        }
    )+};
}

tables! {
    /// Arguments of `isthmus agent nodes`.
    Nodes => "nodes", text::nodes;
    /// Arguments of `isthmus agent identities`.
    Identities => "identities", text::identities;
    /// Arguments of `isthmus agent services`.
    Services => "services", text::services;
    /// Arguments of `isthmus agent rejected`.
    Rejected => "rejected", text::rejected;
}
