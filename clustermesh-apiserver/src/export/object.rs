//! What the objects of all kinds have in common, and how leniently they are read.
//!
//! Fields that an object lacks, and fields that a Go client wrote as `null`, are empty. What is not named here is passed
//! over in the text and never held.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// The part of `metadata` that the export looks at; namespace and name travel in the object's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// When it was created, RFC 3339 in UTC; empty if the object does not say.
    #[serde(deserialize_with = "nullable")]
    pub creation_timestamp: String,
}

/// Reads `null` as the default: Go writes empty slices and maps so where a field has no `omitempty`.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A kind of object that the export reads, or that something is withheld for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Kind {
    /// `namespaces`.
    Namespace,
    /// `ciliumnodes.cilium.io`.
    CiliumNode,
    /// `ciliumidentities.cilium.io`.
    CiliumIdentity,
    /// `ciliumendpoints.cilium.io`.
    CiliumEndpoint,
    /// `ciliumendpointslices.cilium.io`.
    CiliumEndpointSlice,
    /// `nodes`, where the CNI is not Cilium.
    Node,
    /// `pods`, where the CNI is not Cilium.
    Pod,
    /// Numeric identities that Isthmus itself allocated, where the CNI is not Cilium.
    IdentityRecord,
    /// `services`.
    Service,
    /// `endpointslices.discovery.k8s.io`.
    EndpointSlice,
    /// `serviceexports.multicluster.x-k8s.io`.
    ServiceExport,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 11] = [
        Self::Namespace,
        Self::CiliumNode,
        Self::CiliumIdentity,
        Self::CiliumEndpoint,
        Self::CiliumEndpointSlice,
        Self::Node,
        Self::Pod,
        Self::IdentityRecord,
        Self::Service,
        Self::EndpointSlice,
        Self::ServiceExport,
    ];

    /// Its name in Kubernetes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::CiliumNode => "CiliumNode",
            Self::CiliumIdentity => "CiliumIdentity",
            Self::CiliumEndpoint => "CiliumEndpoint",
            Self::CiliumEndpointSlice => "CiliumEndpointSlice",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::IdentityRecord => "IdentityRecord",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceExport => "ServiceExport",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a namespace, shared by all that lies in it.
pub(crate) type NamespaceName = Arc<str>;
