//! Which remote clusters are configured: the files of a directory become changes of a set. Pure.
//!
//! The file name is the cluster's name. A file counts if its content has `endpoints:` somewhere; certificates and keys
//! lie in the same directory and do not. Source: Cilium `pkg/clustermesh/common/config.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore::EtcdConfigFile;
use mesh_types::{ClusterName, Reason, Rejection};
use sha2::{Digest as _, Sha256};

use crate::lost_contact::{LOST_CONTACT_KEY, LostContact, OwnKeys};

mod watch;

pub use watch::DirectoryError;
pub(crate) use watch::watch;

/// What makes a file a peer's configuration.
pub(crate) const MARK: &[u8] = b"endpoints:";

/// How long a configuration must be gone before that is believed. A file that is replaced by unlink and create, or
/// written in place, is no peer for a moment, and to withdraw a cluster disturbs every node.
pub(crate) const REMOVAL_CONFIRMED_AFTER: Duration = Duration::from_secs(2);

/// Most files that are considered, a multiple of the largest mesh with its certificates beside it.
pub(crate) const MAX_FILES: usize = 4096;

/// Largest file that is read; a configuration has a few hundred bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 256 * 1024;

/// One file of the directory as it was read.
#[derive(Clone, Debug)]
pub(crate) struct FoundFile {
    /// Name without the directory.
    pub(crate) name: String,
    /// Everything in it; `None` if the file is there but cannot be read.
    pub(crate) content: Option<Vec<u8>>,
}

/// What a file says of a peer.
#[derive(Clone, Debug)]
pub(crate) struct PeerFile {
    /// How to reach its store.
    pub(crate) etcd: EtcdConfigFile,
    /// What becomes of its data without contact, if the file says so.
    pub(crate) lost_contact: Option<LostContact>,
}

/// What is to be done about one cluster.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Connect to this cluster; if it is connected already, connect again with this.
    Set(ClusterName, Arc<PeerFile>),
    /// The configuration is gone.
    Remove(ClusterName),
}

/// A file that looks like a peer's configuration and is not used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RejectedFile {
    /// Its name.
    pub file: String,
    /// Why, and what was expected.
    #[serde(flatten)]
    pub rejection: Rejection,
}

/// The directory as it was last understood.
#[derive(Debug)]
pub(crate) struct Directory {
    local: ClusterName,
    peers: BTreeMap<ClusterName, Known>,
    rejected: BTreeMap<String, Rejection>,
}

#[derive(Debug)]
struct Known {
    hash: [u8; 32],
    /// Since when no file names it.
    missing_since: Option<Instant>,
}

impl Directory {
    /// Nothing is known yet. The file named after `local` is never a peer.
    pub(crate) fn new(local: ClusterName) -> Self {
        Self { local, peers: BTreeMap::new(), rejected: BTreeMap::new() }
    }

    /// Takes over what a complete scan of `directory` found at `now` and returns what changed, in order of names.
    ///
    /// A file that cannot be used leaves everything else alone, also an earlier good content of itself.
    pub(crate) fn scan(&mut self, directory: &Path, files: Vec<FoundFile>, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut named = BTreeSet::new();
        let before = std::mem::take(&mut self.rejected);
        for file in files {
            match self.take(directory, &file, &mut named) {
                Ok(change) => changes.extend(change),
                Err(rejection) => {
                    if before.get(&file.name) != Some(&rejection) {
                        log_rejection(&file.name, &rejection);
                    }
                    self.rejected.insert(file.name, rejection);
                }
            }
        }
        for (name, known) in &mut self.peers {
            known.missing_since = if named.contains(name) { None } else { known.missing_since.or(Some(now)) };
        }
        let is_gone = |_: &ClusterName, known: &mut Known| {
            known
                .missing_since
                .is_some_and(|since| now.saturating_duration_since(since) >= REMOVAL_CONFIRMED_AFTER)
        };
        changes.extend(self.peers.extract_if(.., is_gone).map(|(name, _)| Change::Remove(name)));
        changes
    }

    /// The files that look like configurations and are not used.
    pub(crate) fn rejected(&self) -> Vec<RejectedFile> {
        let rejected = |(file, rejection): (&String, &Rejection)| RejectedFile {
            file: file.clone(),
            rejection: rejection.clone(),
        };
        self.rejected.iter().map(rejected).collect()
    }

    /// When to scan again though nothing was heard: a removal waits to be confirmed.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|known| known.missing_since)
            .min()
            .map(|since| since + REMOVAL_CONFIRMED_AFTER)
    }

    fn take(
        &mut self,
        directory: &Path,
        file: &FoundFile,
        named: &mut BTreeSet<ClusterName>,
    ) -> Result<Option<Change>, Rejection> {
        let Some(content) = &file.content else {
            // Not gone, only silent: what it said last stays in effect.
            return match file.name.parse::<ClusterName>() {
                Ok(name) if self.peers.contains_key(&name) => {
                    named.insert(name);
                    Err(Rejection::new(
                        Reason::PeerConfigInvalid,
                        "the file cannot be read, its last content stays in effect",
                    ))
                }
                Ok(_) | Err(_) => Ok(None),
            };
        };
        if !content.windows(MARK.len()).any(|window| window == MARK) {
            return Ok(None);
        }
        let name: ClusterName = file.name.parse().map_err(|rejection: Rejection| Rejection {
            detail: format!("{}; the file is named after the cluster that it leads to", rejection.detail),
            ..rejection
        })?;
        if name == self.local {
            return Err(Rejection::new(
                Reason::ClusterIsLocal,
                format!("{name} is the local cluster, which needs no connection"),
            ));
        }
        named.insert(name.clone());
        let hash: [u8; 32] = Sha256::digest(content).into();
        if self.peers.get(&name).is_some_and(|known| known.hash == hash) {
            return Ok(None);
        }
        let parsed = parse(directory, content)?;
        if !parsed.etcd.ignored.is_empty() {
            let keys = parsed.etcd.ignored.join(", ");
            tracing::info!(cluster = %name, keys, "keys of the peer's configuration that mean nothing here");
        }
        self.peers.insert(name.clone(), Known { hash, missing_since: None });
        Ok(Some(Change::Set(name, Arc::new(parsed))))
    }
}

fn parse(directory: &Path, content: &[u8]) -> Result<PeerFile, Rejection> {
    let refuse = |detail: String| Rejection::new(Reason::PeerConfigInvalid, detail);
    let text =
        std::str::from_utf8(content).map_err(|error| refuse(format!("expected UTF-8 text: {error}")))?;
    let mut etcd = EtcdConfigFile::parse(text, directory)
        .map_err(|error| refuse(mesh_runtime::Chain(&error).to_string()))?;
    etcd.ignored.retain(|key| key != LOST_CONTACT_KEY);
    let own: OwnKeys =
        serde_yaml_ng::from_str(text).map_err(|error| refuse(format!("{LOST_CONTACT_KEY}: {error}")))?;
    let lost_contact = own.lost_contact().map_err(|error| refuse(format!("{LOST_CONTACT_KEY}: {error}")))?;
    Ok(PeerFile { etcd, lost_contact })
}

fn log_rejection(file: &str, rejection: &Rejection) {
    let Rejection { reason, detail } = rejection;
    // One secret serves all clusters of a mesh, so the own file is usual.
    if *reason == Reason::ClusterIsLocal {
        tracing::debug!(file, %reason, detail, "peer configuration not used");
    } else {
        tracing::warn!(file, %reason, detail, "peer configuration not used");
    }
}

#[cfg(test)]
mod tests;
