//! Which resources there are right now: the built-in ones and those of the accepted definitions. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::kinds::{self, Resource};
use crate::path::GroupVersion;

/// A snapshot of all resources.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    resources: BTreeMap<(GroupVersion, String), Arc<Resource>>,
    /// The definitions, by their names.
    definitions: BTreeMap<String, Arc<Value>>,
}

impl Catalog {
    /// The built-in resources and those of `definitions`.
    pub(crate) fn new(definitions: BTreeMap<String, Arc<Value>>) -> Self {
        let custom = definitions.values().flat_map(|definition| kinds::resources_of(definition));
        let all = kinds::built_in().into_iter().chain(custom);
        let resources =
            all.map(|resource| ((resource.version.clone(), resource.plural.clone()), Arc::new(resource)));
        Self { resources: resources.collect(), definitions }
    }

    pub(crate) fn find(&self, version: &GroupVersion, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(version.clone(), plural.to_owned()))
    }

    /// The resource below which a key lies, in the version that is stored.
    pub(crate) fn of_key(&self, key: &str) -> Option<&Arc<Resource>> {
        self.stored().find(|resource| key.starts_with(&resource.prefix()))
    }

    /// One version of each resource: that in which it is stored.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Arc<Resource>> {
        // A definition may store in a version that it does not serve; then any version stands for it.
        let mut seen = BTreeSet::new();
        let mut stored: Vec<_> = self.resources.values().collect();
        stored.sort_by_key(|resource| resource.version.version != resource.storage_version);
        stored.into_iter().filter(move |resource| seen.insert(resource.prefix()))
    }

    /// All versions of all resources, by group and version.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The versions of each group, the one to prefer first; the core group is empty.
    pub(crate) fn groups(&self) -> BTreeMap<&str, Vec<&GroupVersion>> {
        let mut groups: BTreeMap<&str, Vec<&GroupVersion>> = BTreeMap::new();
        for resource in self.resources.values() {
            let versions = groups.entry(resource.version.group.as_str()).or_default();
            if !versions.contains(&&resource.version) {
                versions.push(&resource.version);
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|version| std::cmp::Reverse(maturity(&version.version)));
        }
        groups
    }

    /// The resources of one version of a group.
    pub(crate) fn of_version<'a>(
        &'a self,
        version: &'a GroupVersion,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.resources.values().filter(move |resource| resource.version == *version)
    }

    /// The definition of a custom resource.
    pub(crate) fn definition(&self, resource: &Resource) -> Option<&Arc<Value>> {
        self.definitions.get(&kinds::definition(resource))
    }
}

/// Orders versions as Kubernetes does: `v2` over `v1` over `v1beta1` over `v1alpha2`, over anything else.
fn maturity(version: &str) -> (u8, u32, u32, std::cmp::Reverse<&str>) {
    let stages = [("alpha", 1), ("beta", 2)];
    let parse = || {
        let rest = version.strip_prefix('v')?;
        for (word, rank) in stages {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((rank, major.parse().ok()?, minor.parse().ok()?));
            }
        }
        Some((3, rest.parse().ok()?, 0))
    };
    let (rank, major, minor) = parse().unwrap_or_default();
    (rank, major, minor, std::cmp::Reverse(version))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition() -> Value {
        let version = |name: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage,
                "schema": {"openAPIV3Schema": {"type": "object"}}})
        };
        json!({"metadata": {"name": "things.a.b"}, "spec": {
            "group": "a.b", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing", "listKind": "ThingList"},
            "versions": [version("v1alpha1", false), version("v1", true), version("v1beta2", false)],
        }})
    }

    #[test]
    fn the_most_mature_version_comes_first() {
        let mut versions = ["v1alpha1", "foo", "v2", "v1beta2", "v1", "v11alpha1", "v1beta1", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(maturity(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v11alpha1", "v1alpha1", "foo"]);
    }

    #[test]
    fn a_definition_adds_its_served_versions() {
        let catalog = Catalog::new(BTreeMap::from([("things.a.b".to_owned(), Arc::new(definition()))]));
        let versions: Vec<_> =
            catalog.groups()["a.b"].iter().map(|version| version.version.as_str()).collect();
        assert_eq!(versions, ["v1", "v1beta2", "v1alpha1"]);
        let stored = catalog.of_key("/registry/a.b/things/n/x").unwrap();
        assert_eq!(stored.version.version, "v1");
        assert!(catalog.of_key("/registry/a.b/thing/n/x").is_none());
        assert!(catalog.definition(stored).is_some());
    }
}
