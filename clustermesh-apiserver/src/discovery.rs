//! Which of the kinds that we could read the API server has.

use std::time::Duration;

use kube::Client;
use mesh_runtime::{Backoff, Chain, jitter};
use tracing::{info, warn};

use crate::config::{Cni, Config};

/// Kinds of Cilium by which we recognise it.
const CILIUM_PLURALS: [&str; 3] = ["ciliumnodes", "ciliumidentities", "ciliumendpoints"];
/// Group of the Multi-Cluster Services API.
pub(crate) const MCS_GROUP: &str = "multicluster.x-k8s.io";
/// Its versions in order of preference; the schemas are the same.
const MCS_VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// Waits after the API server did not answer.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

/// What there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// Cilium's kinds, by configuration or because they are there.
    pub(crate) cilium: bool,
    /// Version in which ServiceExports are served; `None` if they are not, or not asked for.
    pub(crate) exports: Option<&'static str>,
}

impl Discovered {
    /// Whether `later` offers what `self` lacks. What is missing later is no reason to change: the watches of what
    /// was there keep what they know.
    pub(crate) fn is_outdated_by(self, later: Self) -> bool {
        let exports = later.exports.is_some() && later.exports != self.exports;
        (later.cilium && !self.cilium) || exports
    }
}

/// Asks until the API server answers.
pub(crate) async fn discover(client: &Client, config: &Config) -> Discovered {
    let mut retry = RETRY.retry();
    loop {
        match ask(client, config).await {
            Ok(found) => {
                say(config, found);
                return found;
            }
            Err(error) => {
                let wait = retry.next_delay(jitter());
                warn!(error = %Chain(&error), ?wait, "API server does not tell what it has, asking again");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Asks once.
pub(crate) async fn ask(client: &Client, config: &Config) -> Result<Discovered, kube::Error> {
    let cilium = match config.cni {
        Cni::Cilium => true,
        Cni::None => false,
        Cni::Auto => {
            let served = served(client, "cilium.io/v2").await?;
            served.iter().any(|plural| CILIUM_PLURALS.contains(&plural.as_str()))
        }
    };
    let mut exports = None;
    if config.mcs_api {
        for version in MCS_VERSIONS {
            let served = served(client, &format!("{MCS_GROUP}/{version}")).await?;
            if served.iter().any(|plural| plural == "serviceexports") {
                exports = Some(version);
                break;
            }
        }
    }
    Ok(Discovered { cilium, exports })
}

/// Whether the API server answers and has every definition of Cilium that is read.
pub(crate) async fn has_cilium(client: &Client) -> bool {
    let served = served(client, "cilium.io/v2").await.unwrap_or_default();
    CILIUM_PLURALS.iter().all(|wanted| served.iter().any(|plural| plural == wanted))
}

/// Plurals of the resources in a group version; none if the API server does not have it.
async fn served(client: &Client, group_version: &str) -> Result<Vec<String>, kube::Error> {
    match client.list_api_group_resources(group_version).await {
        Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn say(config: &Config, found: Discovered) {
    let why = match (config.cni, found.cilium) {
        (Cni::Auto, true) => "the API server has Cilium's definitions",
        (Cni::Auto, false) => "the API server does not have Cilium's definitions",
        (Cni::Cilium | Cni::None, _) => "by configuration",
    };
    if found.cilium {
        info!(why, "nodes, identities and endpoints come from Cilium's objects");
    } else {
        info!(why, "nodes, identities and endpoints are derived from Node, Pod and Namespace");
    }
    match found.exports {
        Some(version) => info!(version, "service exports are read"),
        None if config.mcs_api => {
            warn!(
                "the API server does not have ServiceExport: exports of this cluster stay as they are in the store, \
                 and this exporter is not ready before the definition is installed"
            );
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_missing_outdates_what_was_found() {
        let found = |cilium, exports| Discovered { cilium, exports };
        let cases = [
            (found(false, None), found(true, None), true),
            (found(true, None), found(false, None), false),
            (found(true, None), found(true, Some("v1alpha1")), true),
            (found(true, Some("v1alpha1")), found(true, Some("v1beta1")), true),
            (found(true, Some("v1beta1")), found(true, None), false),
            (found(true, Some("v1beta1")), found(true, Some("v1beta1")), false),
        ];
        for (before, later, expected) in cases {
            assert_eq!(before.is_outdated_by(later), expected, "{before:?} {later:?}");
        }
    }
}
