//! Which namespaces take part in the mesh.

use std::collections::BTreeMap;

use mesh_types::{Reason, annotation};
use serde::Deserialize;

use super::object::{Metadata, NamespaceName};

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Labels become part of identities; one annotation decides whether the namespace is global.
    pub metadata: Metadata,
}

/// What a change of a namespace means for the objects in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// It became global or stopped being so, came or went.
    pub(crate) gate: bool,
    /// Its labels changed, or it came or went.
    pub(crate) labels: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Known {
    global: bool,
    labels: BTreeMap<String, String>,
}

/// The namespaces that exist.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// What holds without the annotation.
    default_global: bool,
    known: BTreeMap<NamespaceName, Known>,
}

impl Namespaces {
    pub(crate) fn new(default_global: bool) -> Self {
        Self { default_global, known: BTreeMap::new() }
    }

    /// Takes the new state of a namespace, or `None` when it is gone.
    pub(crate) fn apply(&mut self, name: &str, namespace: Option<Namespace>) -> Effect {
        let Some(Namespace { metadata }) = namespace else {
            let existed = self.known.remove(name).is_some();
            return Effect { gate: existed, labels: existed };
        };
        let global = annotation::is_namespace_global(&metadata.annotations, self.default_global);
        let now = Known { global, labels: metadata.labels };
        match self.known.get_mut(name) {
            None => {
                self.known.insert(name.into(), now);
                Effect { gate: true, labels: true }
            }
            Some(known) => {
                let effect = Effect { gate: known.global != global, labels: known.labels != now.labels };
                *known = now;
                effect
            }
        }
    }

    /// Whether what lies in `namespace` goes out; what lies in none always does.
    pub(crate) fn gate(&self, namespace: Option<&str>) -> Result<(), Reason> {
        let Some(namespace) = namespace else { return Ok(()) };
        match self.known.get(namespace) {
            None => Err(Reason::NamespaceUnknown),
            Some(Known { global: false, .. }) => Err(Reason::NamespaceNotGlobal),
            Some(Known { global: true, .. }) => Ok(()),
        }
    }

    /// The labels of a namespace that is known.
    pub(crate) fn labels(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.known.get(namespace).map(|known| &known.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(global: Option<&str>, labels: &[(&str, &str)]) -> Namespace {
        let mut namespace = Namespace::default();
        namespace.metadata.labels =
            labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        if let Some(global) = global {
            namespace.metadata.annotations.insert(annotation::NAMESPACE_GLOBAL.into(), global.into());
        }
        namespace
    }

    #[test]
    fn the_gate_follows_annotation_default_and_existence() {
        for (default, annotation, expected) in [
            (true, None, Ok(())),
            (false, None, Err(Reason::NamespaceNotGlobal)),
            (true, Some("false"), Err(Reason::NamespaceNotGlobal)),
            (false, Some("True"), Ok(())),
        ] {
            let mut namespaces = Namespaces::new(default);
            assert_eq!(namespaces.gate(Some("shop")), Err(Reason::NamespaceUnknown));
            namespaces.apply("shop", Some(namespace(annotation, &[])));
            assert_eq!(namespaces.gate(Some("shop")), expected, "{default} {annotation:?}");
            namespaces.apply("shop", None);
            assert_eq!(namespaces.gate(Some("shop")), Err(Reason::NamespaceUnknown));
            assert_eq!(namespaces.gate(None), Ok(()), "what lies in no namespace needs none");
        }
    }

    #[test]
    fn only_what_matters_has_an_effect() {
        let mut namespaces = Namespaces::new(true);
        let effect = |gate, labels| Effect { gate, labels };
        assert_eq!(namespaces.apply("a", None), effect(false, false));
        assert_eq!(namespaces.apply("a", Some(namespace(None, &[]))), effect(true, true));
        assert_eq!(namespaces.apply("a", Some(namespace(Some("true"), &[]))), effect(false, false));
        assert_eq!(namespaces.apply("a", Some(namespace(Some("true"), &[("x", "y")]))), effect(false, true));
        assert_eq!(namespaces.apply("a", Some(namespace(Some("no"), &[("x", "y")]))), effect(true, false));
        assert_eq!(namespaces.apply("a", None), effect(true, true));
    }
}
