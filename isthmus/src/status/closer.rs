//! Commands that look closer, as they can be copied. Pure, but for what a store's configuration names.

use crate::out::{program, quoted};
use crate::places::{ClusterPlaces, Places};
use std::fmt::Display;

/// The commands that look closer into a cluster, as far as its places are known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closer<'a>(pub(crate) &'a ClusterPlaces);

impl Closer<'_> {
    fn isthmus(words: &str, place: &dyn Display) -> String {
        format!("{} {words} {}", program(), quoted(&place.to_string()))
    }

    /// `kubectl` with what leads it to the cluster.
    fn kubectl(&self) -> Option<String> {
        let file = quoted(&self.0.kubeconfig.as_ref()?.display().to_string());
        let context = self.0.context.as_ref().map(|name| format!(" --context {}", quoted(name)));
        Some(format!("kubectl --kubeconfig {file}{}", context.unwrap_or_default()))
    }

    pub(super) fn kubernetes(&self) -> Option<String> {
        Some(format!("{} get --raw /readyz?verbose", self.kubectl()?))
    }

    pub(super) fn agent(&self) -> Option<String> {
        Some(Self::isthmus("agent status --socket", &self.0.agent.as_ref()?.display()))
    }

    pub(super) fn mirror(&self) -> Option<String> {
        Some(Self::isthmus("kvstoremesh status --address", &self.0.mirror?))
    }

    /// Into the connection to another cluster; without its files, into what the mirror says of it.
    pub(super) fn remote(&self, name: &str) -> Option<String> {
        let Some(remotes) = &self.0.remotes else { return self.mirror() };
        let words = format!("kvstoremesh troubleshoot {} --clustermesh-config", quoted(name));
        let command = Self::isthmus(&words, &remotes.display());
        Some(format!("{command} --cluster-name {}", quoted(&self.0.name)))
    }

    pub(super) fn certificate(&self) -> Option<String> {
        // A page of a health listener that runs has the certificates too; here it is the reader's own.
        let file = kvstore::EtcdConfigFile::read(self.0.store.as_ref()?).ok()?;
        let certificate = file.config.tls?.cert_file?;
        Some(Self::isthmus("certs show", &certificate.display()))
    }
}

/// The command that plans to connect all of these clusters; `None` unless one kubeconfig has a context for each.
pub(super) fn connect(clusters: &[&ClusterPlaces]) -> Option<String> {
    let file = clusters.first()?.kubeconfig.as_ref()?;
    let contexts: Option<Vec<String>> = clusters
        .iter()
        .map(|cluster| {
            let context = cluster.context.as_ref().filter(|_| cluster.kubeconfig.as_ref() == Some(file))?;
            Some(format!(" --context {}", quoted(context)))
        })
        .collect();
    Some(Closer::isthmus("connect --kubeconfig", &file.display()) + &contexts?.concat())
}

/// What an explanation says to do next, which knows clusters by their names only, as it works from here. `from` is whose view is
/// explained.
pub(crate) fn runnable(next: &str, places: &Places, from: &str) -> String {
    let closer = |name: &str| places.clusters.iter().find(|cluster| cluster.name == name).map(Closer);
    let known = if let Some(rest) = next.strip_prefix("kubectl --context ") {
        rest.split_once(' ')
            .and_then(|(cluster, words)| Some(format!("{} {words}", closer(cluster)?.kubectl()?)))
    } else {
        let remote = next.strip_prefix("isthmus kvstoremesh troubleshoot ");
        remote.and_then(|remote| closer(from)?.remote(remote))
    };
    known.unwrap_or_else(|| next.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_explanation_advises_works_from_here() {
        let west = ClusterPlaces {
            name: "west".into(),
            kubeconfig: Some("/k".into()),
            mirror: Some("127.0.0.1:9881".parse().unwrap()),
            ..ClusterPlaces::default()
        };
        let places = Places { zone: "clusterset.local".into(), clusters: vec![west] };
        let isthmus = program();
        for (next, expected) in [
            ("kubectl --context west annotate x y=z", "kubectl --kubeconfig /k annotate x y=z".to_owned()),
            ("kubectl --context east get x", "kubectl --context east get x".to_owned()),
            (
                "isthmus kvstoremesh troubleshoot east",
                format!("{isthmus} kvstoremesh status --address 127.0.0.1:9881"),
            ),
            ("docs/reasons.md#x", "docs/reasons.md#x".to_owned()),
        ] {
            assert_eq!(runnable(next, &places, "west"), expected);
        }
    }
}
