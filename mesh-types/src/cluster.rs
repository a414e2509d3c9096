//! Clusters: names, ids, and what a cluster says of itself.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::gojson::{self, go_struct};
use crate::{IdentityRange, NumericIdentity, Reason, Rejection};

/// Name of a cluster, the `<cluster>` of `cilium/state/nodes/v1/<cluster>/<node>`.
///
/// 1 to 32 bytes of `[a-z0-9-]`, first and last not `-`.
/// Source: Cilium docs, "Setting up Cluster Mesh", *Specify the Cluster Name and ID*.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 32;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = Rejection;

    /// # Errors
    /// [`Reason::ClusterNameInvalid`], with the rule that was broken.
    fn from_str(text: &str) -> Result<Self, Rejection> {
        let refuse = |what: String| Err(Rejection::new(Reason::ClusterNameInvalid, what));
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return refuse(format!(
                "cluster name {text:?} has {} bytes, expected 1 to {}",
                text.len(),
                Self::MAX_LEN
            ));
        }
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if let Some(c) = text.chars().find(|&c| !alphanumeric(c) && c != '-') {
            return refuse(format!("cluster name {text:?} contains {c:?}, expected only a-z, 0-9 and '-'"));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return refuse(format!("cluster name {text:?} begins or ends with '-'"));
        }
        Ok(ClusterName(text.into()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ClusterName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for ClusterName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// How many clusters a mesh can have; it decides where the cluster's bits end and the identity's begin.
///
/// All clusters of a mesh must agree. Source: Cilium docs, *Extending the number of clusters*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxClusters {
    /// 8 cluster bits, 16 identity bits.
    #[default]
    C255,
    /// 9 cluster bits, 15 identity bits.
    C511,
}

impl MaxClusters {
    /// 255 or 511.
    pub const fn get(self) -> u32 {
        match self {
            MaxClusters::C255 => 255,
            MaxClusters::C511 => 511,
        }
    }

    /// Bits below the cluster id in a numeric identity.
    pub const fn shift(self) -> u32 {
        match self {
            MaxClusters::C255 => 16,
            MaxClusters::C511 => 15,
        }
    }

    /// The cluster that a numeric identity of global scope belongs to; 0 for reserved ones.
    pub const fn cluster_of(self, identity: NumericIdentity) -> u32 {
        (identity.0 >> self.shift()) & self.get()
    }
}

impl TryFrom<u32> for MaxClusters {
    type Error = Rejection;

    /// # Errors
    /// [`Reason::MaxClustersMismatch`] for anything but 255 and 511.
    fn try_from(max: u32) -> Result<Self, Rejection> {
        match max {
            255 => Ok(MaxClusters::C255),
            511 => Ok(MaxClusters::C511),
            other => Err(Rejection::new(
                Reason::MaxClustersMismatch,
                format!("max-connected-clusters is {other}, expected 255 or 511"),
            )),
        }
    }
}

impl FromStr for MaxClusters {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let refuse = |_not_a_number| {
            Rejection::new(
                Reason::MaxClustersMismatch,
                format!("max-connected-clusters is {text:?}, expected 255 or 511"),
            )
        };
        text.parse::<u32>().map_err(refuse)?.try_into()
    }
}

/// Numeric id of a cluster, 1 to [`MaxClusters`]; unique in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u32);

impl ClusterId {
    /// Checks `id` against the mesh's size.
    ///
    /// # Errors
    /// [`Reason::ClusterIdZero`] or [`Reason::ClusterIdOutOfRange`].
    pub fn new(id: u32, max: MaxClusters) -> Result<Self, Rejection> {
        match id {
            0 => Err(Rejection::new(
                Reason::ClusterIdZero,
                format!(
                    "cluster id is 0, expected 1 to {}; 0 means that the cluster is in no mesh",
                    max.get()
                ),
            )),
            id if id > max.get() => Err(Rejection::new(
                Reason::ClusterIdOutOfRange,
                format!("cluster id is {id}, expected 1 to {} (max-connected-clusters)", max.get()),
            )),
            id => Ok(ClusterId(id)),
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The numeric identities that this cluster may allocate.
    pub const fn identities(self, max: MaxClusters) -> IdentityRange {
        let first = self.0 << max.shift();
        IdentityRange { first: NumericIdentity(first), last: NumericIdentity(first + (1 << max.shift()) - 1) }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster as every daemon of it knows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCluster {
    /// Its name.
    pub name: ClusterName,
    /// Its id.
    pub id: ClusterId,
    /// Size of the mesh that it takes part in.
    pub max: MaxClusters,
}

impl LocalCluster {
    /// Checks what the flags say.
    ///
    /// # Errors
    /// The broken rule: name, id, or the name `default`, which Cilium reserves for clusters outside any mesh.
    pub fn new(name: &str, id: u32, max: u32) -> Result<Self, Rejection> {
        let max = MaxClusters::try_from(max)?;
        let name: ClusterName = name.parse()?;
        if name.as_str() == "default" {
            return Err(Rejection::new(
                Reason::ClusterNameInvalid,
                "cluster name is \"default\", which stands for a cluster outside any mesh; give the cluster a name of its own",
            ));
        }
        Ok(LocalCluster { name, id: ClusterId::new(id, max)?, max })
    }
}

/// A remote cluster whose configuration was accepted: what its values are checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, from the configuration file's name.
    pub name: ClusterName,
    /// Its id, from its cluster-config.
    pub id: ClusterId,
    /// Size of the mesh.
    pub max: MaxClusters,
}

impl Peer {
    /// Accepts the configuration that the cluster called `name` announces to `local`.
    ///
    /// Stricter than Cilium up to 1.20 in one point: the announced maximum must equal the local one even if that is
    /// 255, since identities would be counted to the wrong cluster otherwise.
    ///
    /// # Errors
    /// Id zero, out of range, or the local one; maximum or name that do not fit.
    pub fn accept(
        local: &LocalCluster,
        name: &ClusterName,
        config: &ClusterConfig,
    ) -> Result<Self, Rejection> {
        if *name == local.name {
            return Err(Rejection::new(
                Reason::ClusterIsLocal,
                format!("cluster {name} is the local cluster"),
            ));
        }
        let announced = config.capabilities.max_connected_clusters;
        // Cilium before 1.15 does not announce it and always counts for 255.
        let announced = if announced == 0 { 255 } else { announced };
        if announced != local.max.get() {
            return Err(Rejection::new(
                Reason::MaxClustersMismatch,
                format!(
                    "cluster {name} counts for max-connected-clusters {announced}, the local cluster for {}; set both to the same",
                    local.max.get()
                ),
            ));
        }
        let id = ClusterId::new(config.id, local.max).map_err(|refused| Rejection {
            detail: format!("cluster-config of {name}: {}", refused.detail),
            ..refused
        })?;
        if id == local.id {
            return Err(Rejection::new(
                Reason::ClusterIdIsLocal,
                format!(
                    "cluster {name} has id {id}, which is the local cluster's; ids must differ in the whole mesh"
                ),
            ));
        }
        Ok(Peer { name: name.clone(), id, max: local.max })
    }

    /// The numeric identities of this cluster.
    pub fn identities(&self) -> IdentityRange {
        self.id.identities(self.max)
    }
}

go_struct! {
    /// Value of `cilium/cluster-config/<cluster>` (Cilium's `CiliumClusterConfig`).
    pub struct ClusterConfig {
        /// Cluster id; 0 when absent.
        pub id: u32 = "id" omitempty,
        /// What the store behind it offers.
        pub capabilities: Capabilities = "capabilities",
    }
}

go_struct! {
    /// What a store offers to its readers.
    pub struct Capabilities {
        /// Readers wait for `cilium/synced/…` before they list.
        pub synced_canaries: bool = "syncedCanaries" omitempty,
        /// Data lies under `cilium/cache/…`.
        pub cached: bool = "cached" omitempty,
        /// 255 or 511; 0 when not announced.
        pub max_connected_clusters: u32 = "maxConnectedClusters" omitempty,
        /// `None`: the version knows no exports; `false`: known, switched off.
        pub service_exports_enabled: Option<bool> = "serviceExportsEnabled" omitempty,
        /// Cilium 1.20: empty, `services-and-endpointslices` or `endpointslices-only`.
        pub endpoint_slices_export_mode: String = "endpointSlicesExportMode" omitempty,
    }
}

impl ClusterConfig {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        gojson::to_vec(self)
    }

    /// Reads the stored bytes.
    ///
    /// # Errors
    /// [`Reason::ClusterConfigInvalid`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        gojson::from_slice(bytes).map_err(|error| {
            Rejection::new(Reason::ClusterConfigInvalid, format!("cluster-config does not parse: {error}"))
        })
    }

    /// The form in which a mirror announces this cluster in its own store: everything as received, but cached and
    /// with canaries.
    pub fn mirrored(&self) -> Self {
        let mut config = self.clone();
        config.capabilities.cached = true;
        config.capabilities.synced_canaries = true;
        config
    }
}

#[cfg(test)]
mod tests;
