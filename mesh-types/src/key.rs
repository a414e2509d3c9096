//! Where things lie in the store.
//!
//! Keys are text without a leading slash. Each resource has a *state* form, written by the cluster that owns the data,
//! and a *cache* form, written by a mirror in another cluster; `ip` and `identities` differ between the two in more
//! than the prefix. Source: Cilium `pkg/kvstore/store`, `pkg/clustermesh`.

use std::fmt;

use crate::{ClusterName, Reason, Rejection};

/// The key whose every write is a sign of life of the store's owner. It has no trailing slash, and readers watch the
/// range of all keys that begin with it.
pub const HEARTBEAT: &str = "cilium/.heartbeat";
/// Below it the configuration of each cluster.
pub const CLUSTER_CONFIG_PREFIX: &str = "cilium/cluster-config/";
/// Below it the canaries of each cluster.
pub const SYNCED_PREFIX: &str = "cilium/synced/";
/// Above all state keys.
pub const STATE_PREFIX: &str = "cilium/state/";
/// Above all mirrored keys.
pub const CACHE_PREFIX: &str = "cilium/cache/";

/// `cilium/cluster-config/<cluster>`.
pub fn cluster_config(cluster: &ClusterName) -> String {
    format!("{CLUSTER_CONFIG_PREFIX}{cluster}")
}

/// `cilium/synced/<cluster>/`, below which that cluster's canaries lie.
pub fn synced_prefix(cluster: &ClusterName) -> String {
    format!("{SYNCED_PREFIX}{cluster}/")
}

/// Which of its two forms data has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// `cilium/state/…`, written by the owner.
    State,
    /// `cilium/cache/…`, written by a mirror.
    Cache,
}

impl Form {
    /// The form in which a peer offers its data.
    pub fn of(config: &crate::ClusterConfig) -> Self {
        if config.capabilities.cached { Form::Cache } else { Form::State }
    }

    const fn word(self) -> &'static str {
        match self {
            Form::State => "state",
            Form::Cache => "cache",
        }
    }
}

/// A kind of data that clusters exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Nodes.
    Nodes,
    /// Addresses with their identities.
    Ip,
    /// Identities with their labels.
    Identities,
    /// Global services.
    Services,
    /// Exports of the Multi-Cluster Services API.
    ServiceExports,
    /// EndpointSlices of global services, from Cilium 1.20 on.
    EndpointSlices,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 6] = [
        Resource::Nodes,
        Resource::Ip,
        Resource::Identities,
        Resource::Services,
        Resource::ServiceExports,
        Resource::EndpointSlices,
    ];

    /// The word in keys.
    pub const fn word(self) -> &'static str {
        match self {
            Resource::Nodes => "nodes",
            Resource::Ip => "ip",
            Resource::Identities => "identities",
            Resource::Services => "services",
            Resource::ServiceExports => "serviceexports",
            Resource::EndpointSlices => "endpointslices",
        }
    }

    /// The prefix of `cluster`'s entries, with the trailing slash.
    ///
    /// In the state form, `ip` has the fixed word `default` and `identities` no cluster: a store holds one cluster's
    /// own. In the cache form the cluster comes before `id`.
    pub fn prefix(self, form: Form, cluster: &ClusterName) -> String {
        let (form_word, word) = (form.word(), self.word());
        match (form, self) {
            (Form::State, Resource::Ip) => format!("cilium/{form_word}/{word}/v1/default/"),
            (Form::State, Resource::Identities) => format!("cilium/{form_word}/{word}/v1/id/"),
            (Form::Cache, Resource::Identities) => format!("cilium/{form_word}/{word}/v1/{cluster}/id/"),
            (
                Form::State | Form::Cache,
                Resource::Nodes
                | Resource::Ip
                | Resource::Services
                | Resource::ServiceExports
                | Resource::EndpointSlices,
            ) => format!("cilium/{form_word}/{word}/v1/{cluster}/"),
        }
    }

    /// The base prefix that canaries name: without `default`, `id` or cluster, and without a trailing slash.
    pub fn canary_name(self, form: Form) -> String {
        format!("cilium/{}/{}/v1", form.word(), self.word())
    }

    /// The key that says "everything of this kind has been written".
    pub fn canary(self, form: Form, cluster: &ClusterName) -> String {
        format!("{}{}", synced_prefix(cluster), self.canary_name(form))
    }

    /// The resource and form that a canary's name (the key after `cilium/synced/<cluster>/`) announces; `None` for
    /// kinds that this version does not know.
    pub fn from_canary_name(name: &str) -> Option<(Resource, Form)> {
        let known = |form| Resource::ALL.into_iter().find(move |resource| resource.canary_name(form) == name);
        known(Form::State)
            .map(|found| (found, Form::State))
            .or_else(|| known(Form::Cache).map(|found| (found, Form::Cache)))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl serde::Serialize for Resource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Splits `<namespace>/<name>`.
///
/// # Errors
/// [`Reason::KeyMalformed`].
pub fn namespaced(name: &str) -> Result<(&str, &str), Rejection> {
    let parts =
        name.split_once('/').filter(|(ns, name)| !ns.is_empty() && !name.is_empty() && !name.contains('/'));
    parts.ok_or_else(|| {
        Rejection::new(Reason::KeyMalformed, format!("key ends in {name:?}, expected <namespace>/<name>"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_those_of_the_protocol() {
        let east: ClusterName = "east".parse().unwrap();
        let cases = [
            (Resource::Nodes, "cilium/state/nodes/v1/east/", "cilium/cache/nodes/v1/east/"),
            (Resource::Ip, "cilium/state/ip/v1/default/", "cilium/cache/ip/v1/east/"),
            (Resource::Identities, "cilium/state/identities/v1/id/", "cilium/cache/identities/v1/east/id/"),
            (Resource::Services, "cilium/state/services/v1/east/", "cilium/cache/services/v1/east/"),
            (
                Resource::ServiceExports,
                "cilium/state/serviceexports/v1/east/",
                "cilium/cache/serviceexports/v1/east/",
            ),
            (
                Resource::EndpointSlices,
                "cilium/state/endpointslices/v1/east/",
                "cilium/cache/endpointslices/v1/east/",
            ),
        ];
        for (resource, state, cache) in cases {
            assert_eq!(resource.prefix(Form::State, &east), state);
            assert_eq!(resource.prefix(Form::Cache, &east), cache);
        }
        assert_eq!(Resource::Ip.canary(Form::State, &east), "cilium/synced/east/cilium/state/ip/v1");
        assert_eq!(
            Resource::Identities.canary(Form::Cache, &east),
            "cilium/synced/east/cilium/cache/identities/v1"
        );
    }

    #[test]
    fn canary_names_round_trip_and_unknown_ones_are_ignored() {
        for resource in Resource::ALL {
            for form in [Form::State, Form::Cache] {
                assert_eq!(Resource::from_canary_name(&resource.canary_name(form)), Some((resource, form)));
            }
        }
        assert_eq!(Resource::from_canary_name("cilium/state/policies/v1"), None);
    }
}
