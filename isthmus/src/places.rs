//! Where everything of a mesh is: the file behind `--mesh`.
//!
//! ```yaml
//! zone: clusterset.local          # optional
//! clusters:
//! - name: west
//!   kubeconfig: west.kubeconfig   # paths are relative to this file
//!   context: west                 # optional
//!   store: west/etcd-client.yaml  # an etcd client configuration of a user who may read everything
//!   exporter: 127.0.0.1:9880      # health listener of clustermesh-apiserver, or of `isthmus mesh`
//!   mirror: 127.0.0.1:9881        # health listener of kvstoremesh, or of `isthmus mesh`
//!   agent: /run/isthmus/agent.sock
//!   dns: 127.0.0.1:1053
//!   dnsHealth: 127.0.0.1:9882     # health listener of the DNS server, or of `isthmus mesh`
//!   remotes: west/remotes         # directory with the mirror's files of the other clusters, if it can be read here
//!   logs: [west/mesh.log]         # files with logs, for `isthmus gather`
//! ```
//!
//! Every place of a cluster may be left out; what is not named is not asked.

use crate::exit::Usage;
use dns_plugin::ZoneName;
use mesh_types::ClusterName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(crate) mod kubeconfig;

/// `--mesh`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MeshArgs {
    /// The file that says where the places of each cluster are: its Kubernetes API, store, daemons, agent, DNS server.
    /// `isthmus demo` writes one.
    #[arg(long, value_name = "FILE", env = "ISTHMUS_MESH")]
    mesh: PathBuf,
}

impl MeshArgs {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Usage`] with the file, the line and the field that is wrong.
    pub(crate) fn read(&self) -> anyhow::Result<Places> {
        Places::read(&self.mesh)
    }
}

/// The places of all clusters.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Places {
    /// The domain of the multi-cluster services.
    #[serde(default = "default_zone")]
    pub(crate) zone: String,
    /// The clusters.
    pub(crate) clusters: Vec<ClusterPlaces>,
}

/// The places of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ClusterPlaces {
    /// Its name in the mesh.
    pub(crate) name: String,
    /// A kubeconfig.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it, if that is not its current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<String>,
    /// An etcd client configuration for its store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<PathBuf>,
    /// Health listener of its exporter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exporter: Option<SocketAddr>,
    /// Health listener of its mirror.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mirror: Option<SocketAddr>,
    /// Socket of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<PathBuf>,
    /// Where its DNS server answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns: Option<SocketAddr>,
    /// Health listener of its DNS server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns_health: Option<SocketAddr>,
    /// Directory with the mirror's files of the other clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remotes: Option<PathBuf>,
    /// Files with logs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) logs: Vec<PathBuf>,
}

fn default_zone() -> String {
    ZoneName::DEFAULT.to_owned()
}

impl Places {
    /// Reads the file behind `--mesh`.
    ///
    /// # Errors
    /// [`Usage`] with the file, the line and the field that is wrong.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let wrong = |error: String| Usage::error(format!("--mesh {}: {error}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text, file.parent().unwrap_or(Path::new(""))).map_err(wrong)
    }

    /// Reads the file's text; its paths are relative to `directory`.
    fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let mut places: Self = serde_yaml_ng::from_str(text).map_err(|error| brief(&error.to_string()))?;
        let mut names = BTreeSet::new();
        for cluster in &mut places.clusters {
            cluster.name.parse::<ClusterName>().map_err(|error| format!("clusters: name: {error}"))?;
            if !names.insert(cluster.name.clone()) {
                return Err(format!("clusters: {} is there twice", cluster.name));
            }
            let ClusterPlaces { kubeconfig, store, agent, remotes, logs, .. } = cluster;
            let files = [kubeconfig, store, agent, remotes].into_iter().flatten().chain(logs);
            for path in files {
                *path = directory.join(&*path);
            }
        }
        if places.clusters.is_empty() {
            return Err("clusters: expected at least one".to_owned());
        }
        Ok(places)
    }

    /// The cluster of that name; without a name, the first one.
    ///
    /// # Errors
    /// [`Usage`] with the names that there are.
    pub(crate) fn cluster(&self, name: Option<&str>) -> anyhow::Result<ClusterName> {
        let found = self.clusters.iter().find(|cluster| name.is_none_or(|name| cluster.name == name));
        let found = found.ok_or_else(|| {
            let names: Vec<_> = self.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            Usage::error(format!(
                "--from: expected one of {}, found {:?}",
                names.join(", "),
                name.unwrap_or_default()
            ))
        })?;
        found.name.parse().map_err(Usage::error)
    }
}

/// What is wrong, without all of a file that is something else.
fn brief(error: &str) -> String {
    const MOST: usize = 200;
    if error.chars().count() <= MOST {
        return error.to_owned();
    }
    let half = |chars: &mut dyn Iterator<Item = char>| chars.take(MOST / 2).collect::<String>();
    let end: String = half(&mut error.chars().rev()).chars().rev().collect();
    format!("{} … {end}", half(&mut error.chars()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_file_and_the_zone_has_a_default() {
        let text = "clusters:\n- name: west\n  kubeconfig: west/kubeconfig\n  agent: /run/agent.sock\n  dns: 127.0.0.1:53\n";
        let places = Places::parse(text, Path::new("/demo")).unwrap();
        let west = &places.clusters[0];
        assert_eq!(west.kubeconfig.as_deref(), Some(Path::new("/demo/west/kubeconfig")));
        assert_eq!(west.agent.as_deref(), Some(Path::new("/run/agent.sock")));
        assert_eq!((places.zone.as_str(), west.store.as_ref()), ("clusterset.local", None));
        assert_eq!(places.cluster(None).unwrap().as_str(), "west");
        let error = places.cluster(Some("north")).unwrap_err().to_string();
        assert_eq!(error, "--from: expected one of west, found \"north\"");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_field() {
        for (text, expected) in [
            ("clusters: []", "expected at least one"),
            ("clusters:\n- name: a\n- name: a\n", "a is there twice"),
            ("clusters:\n- name: A_B\n", "clusters: name:"),
            ("clusters:\n- name: a\n  sotre: x\n", "unknown field `sotre`"),
            ("clusters:\n- name: a\n  dns: here\n", "clusters[0].dns: invalid socket address"),
            ("clusters:\n- name: a\n  dns: here\n", "line 3"),
        ] {
            let error = Places::parse(text, Path::new("")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
