//! The file of scopes: who may see what. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_types::{ClusterName, Labels, Resource, is_dns_label};
use serde::Deserialize;

use super::selector::Selector;

/// Why a file of scopes does not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScopesError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is no YAML of the expected shape; the text names line and column.
    #[error("it is not understood: {0}")]
    Shape(#[from] serde_yaml_ng::Error),
    /// A field says what cannot be.
    #[error("{field}: {what}")]
    Field {
        /// As `scopes[1].clusters[0]`.
        field: String,
        /// What was expected and what was found.
        what: String,
    },
}

/// What a cluster in no scope sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unscoped {
    /// Everything.
    #[default]
    All,
    /// Nothing.
    None,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    default: Unscoped,
    scopes: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    clusters: Vec<String>,
    namespaces: Option<Vec<String>>,
    namespace_selector: Option<Selector>,
    labels: Option<Selector>,
}

/// All scopes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    pub(crate) unscoped: Unscoped,
    pub(crate) scopes: BTreeMap<Arc<str>, Scope>,
}

/// What some clusters may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) clusters: BTreeSet<ClusterName>,
    namespaces: Option<BTreeSet<String>>,
    namespace_selector: Option<Selector>,
    labels: Option<Selector>,
}

/// What is known of a key when it is asked whether it is in a scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject<'a> {
    /// Where its object lies.
    pub(crate) namespace: Option<&'a str>,
    /// The labels of that namespace, if it is known.
    pub(crate) namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// The labels of its object, if they are known.
    pub(crate) labels: Option<Attached<'a>>,
}

/// Labels of an object.
#[derive(Clone, Debug)]
pub(crate) enum Attached<'a> {
    /// Those of a Service.
    Service(&'a BTreeMap<String, String>),
    /// Those of an identity: what pods of it have in common.
    Identity(Labels),
}

/// Why a key is not in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    /// For its namespace.
    Namespace,
    /// For its labels.
    Labels,
}

impl Scopes {
    /// Reads the text of a file; `local` is no remote cluster.
    ///
    /// # Errors
    /// See [`ScopesError`].
    pub fn parse(text: &str, local: &ClusterName) -> Result<Self, ScopesError> {
        let file: File =
            if text.trim().is_empty() { File::default() } else { serde_yaml_ng::from_str(text)? };
        let mut scopes = BTreeMap::new();
        let mut taken: BTreeMap<ClusterName, Arc<str>> = BTreeMap::new();
        for (at, entry) in file.scopes.into_iter().enumerate() {
            let wrong = |field: &str, what: String| {
                Err(ScopesError::Field { field: format!("scopes[{at}].{field}"), what })
            };
            if !is_dns_label(&entry.name) {
                let what = format!("{:?} is no name: expected 1 to 63 of a-z, 0-9 and '-'", entry.name);
                return wrong("name", what);
            }
            let name: Arc<str> = entry.name.as_str().into();
            let mut clusters = BTreeSet::new();
            for (nth, cluster) in entry.clusters.iter().enumerate() {
                let field = format!("clusters[{nth}]");
                let cluster: ClusterName = match cluster.parse() {
                    Ok(cluster) => cluster,
                    Err(error) => return wrong(&field, format!("{cluster:?}: {error}")),
                };
                if cluster == *local {
                    return wrong(&field, format!("{cluster} is this cluster, which has no scope"));
                }
                if let Some(other) = taken.insert(cluster.clone(), Arc::clone(&name)) {
                    return wrong(&field, format!("cluster {cluster} is in scope {other} already"));
                }
                clusters.insert(cluster);
            }
            let bad = entry.namespaces.iter().flatten().enumerate().find(|(_, name)| !is_dns_label(name));
            if let Some((nth, namespace)) = bad {
                let what = format!("{namespace:?} is no name of a namespace");
                return wrong(&format!("namespaces[{nth}]"), what);
            }
            for (field, selector) in
                [("namespaceSelector", &entry.namespace_selector), ("labels", &entry.labels)]
            {
                if let Some((inside, what)) = selector.as_ref().and_then(Selector::fault) {
                    return wrong(&format!("{field}.{inside}"), what.to_owned());
                }
            }
            let scope = Scope {
                clusters,
                namespaces: entry.namespaces.map(|names| names.into_iter().collect()),
                namespace_selector: entry.namespace_selector,
                labels: entry.labels,
            };
            if scopes.insert(Arc::clone(&name), scope).is_some() {
                return wrong("name", format!("there is a scope {name} already"));
            }
        }
        Ok(Self { unscoped: file.default, scopes })
    }

    /// The scope that a remote cluster is in.
    pub(crate) fn of(&self, cluster: &str) -> Option<&Arc<str>> {
        let mut scopes = self.scopes.iter();
        scopes
            .find(|(_, scope)| scope.clusters.iter().any(|name| name.as_str() == cluster))
            .map(|(name, _)| name)
    }
}

impl Scope {
    /// Whether what its objects say by their labels matters.
    pub(crate) fn asks_for_labels(&self) -> bool {
        self.labels.is_some()
    }

    /// Whether a key of `resource` may be seen. Nodes always are: without them nothing can be reached.
    ///
    /// # Errors
    /// Why not. What is not known is no reason to let it be seen.
    pub(crate) fn admits(&self, resource: Resource, subject: &Subject<'_>) -> Result<(), Outside> {
        if resource == Resource::Nodes {
            return Ok(());
        }
        let named = || {
            let names = self.namespaces.as_ref();
            names.is_some_and(|names| subject.namespace.is_some_and(|name| names.contains(name)))
        };
        let selected = || {
            let selector = self.namespace_selector.as_ref();
            selector.is_some_and(|selector| {
                let labels = subject.namespace_labels;
                labels.is_some_and(|labels| selector.matches(|key| labels.get(key).map(String::as_str)))
            })
        };
        let anywhere = self.namespaces.is_none() && self.namespace_selector.is_none();
        if subject.namespace.is_none() || !(anywhere || named() || selected()) {
            return Err(Outside::Namespace);
        }
        let Some(selector) = &self.labels else { return Ok(()) };
        let matches = subject.labels.as_ref().is_some_and(|labels| selector.matches(|key| labels.get(key)));
        if matches { Ok(()) } else { Err(Outside::Labels) }
    }
}

impl Attached<'_> {
    /// Of an identity only what Kubernetes said of the pod counts, not what Cilium added of its own.
    fn get(&self, key: &str) -> Option<&str> {
        match self {
            Self::Service(labels) => labels.get(key).map(String::as_str),
            Self::Identity(labels) => {
                labels.get(key).filter(|label| &*label.source == "k8s").map(|label| &*label.value)
            }
        }
    }
}

#[cfg(test)]
mod tests;
