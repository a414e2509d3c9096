//! Numeric identities and the labels that they stand for.

use std::collections::BTreeMap;
use std::fmt;

use crate::{ClusterName, Peer, Reason, Rejection};

/// Number that stands for a set of labels in policy, in the low 24 bits; the top 8 bits are the scope, of which only
/// scope 0 travels between clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumericIdentity(pub u32);

impl NumericIdentity {
    /// The local host.
    pub const HOST: Self = NumericIdentity(1);
    /// Everything outside the mesh.
    pub const WORLD: Self = NumericIdentity(2);
    /// Health endpoint of a node.
    pub const HEALTH: Self = NumericIdentity(4);
    /// Any other node of the mesh.
    pub const REMOTE_NODE: Self = NumericIdentity(6);
    /// Ingress endpoint of a node.
    pub const INGRESS: Self = NumericIdentity(8);
    /// First number that is not reserved.
    pub const FIRST_ALLOCATABLE: Self = NumericIdentity(256);

    /// Reserved, well-known or user-reserved: the same in every cluster.
    pub const fn is_reserved(self) -> bool {
        self.0 < Self::FIRST_ALLOCATABLE.0
    }
}

impl fmt::Display for NumericIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The numeric identities of one cluster, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityRange {
    /// Lowest.
    pub first: NumericIdentity,
    /// Highest.
    pub last: NumericIdentity,
}

impl IdentityRange {
    /// Whether the identity belongs to the cluster.
    pub fn contains(self, identity: NumericIdentity) -> bool {
        self.first <= identity && identity <= self.last
    }
}

/// Label that names the cluster of an identity, without its source.
pub const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster";
/// Label that names the namespace of a pod's identity, without its source.
pub const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Label that names the service account of a pod's identity, without its source.
pub const SERVICE_ACCOUNT_LABEL: &str = "io.cilium.k8s.policy.serviceaccount";
/// Prefix of the labels that an identity takes over from its namespace, without the source.
pub const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";

/// A set of labels, each `source:key=value`, one per key.
///
/// The text form, `source:key=value;` sorted by key, is the value of `cilium/state/identities/v1/id/<id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(BTreeMap<Box<str>, Label>);

/// Source and value of one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Who set it: `k8s`, `reserved`, …
    pub source: Box<str>,
    /// Its value, often empty.
    pub value: Box<str>,
}

impl Labels {
    /// Sets a label; a former one of the same key goes.
    pub fn insert(&mut self, source: &str, key: &str, value: &str) {
        self.0.insert(key.into(), Label { source: source.into(), value: value.into() });
    }

    /// The label of that key.
    pub fn get(&self, key: &str) -> Option<&Label> {
        self.0.get(key)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Key and label, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Label)> {
        self.0.iter().map(|(key, label)| (&**key, label))
    }

    /// Reads the text form. Pieces without a source get `unspec`, as in Cilium.
    pub fn parse(text: &str) -> Self {
        let mut labels = Labels::default();
        for piece in text.split(';').filter(|piece| !piece.is_empty()) {
            labels.insert_prefixed(piece.split_once('=').unwrap_or((piece, "")));
        }
        labels
    }

    /// Sets a label from `source:key` and value, the form of `security-labels` in CiliumIdentity.
    pub fn insert_prefixed(&mut self, (prefixed, value): (&str, &str)) {
        let (source, key) = prefixed.split_once(':').unwrap_or(("unspec", prefixed));
        self.insert(source, key, value);
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, Label { source, value })| write!(f, "{source}:{key}={value};"))
    }
}

/// Checks that `labels` carry the cluster label of `cluster`.
///
/// # Errors
/// [`Reason::IdentityClusterLabel`].
pub fn check_cluster_label(labels: &Labels, cluster: &ClusterName) -> Result<(), Rejection> {
    let found = match labels.get(CLUSTER_LABEL) {
        Some(Label { source, value }) if &**source == "k8s" && &**value == cluster.as_str() => return Ok(()),
        Some(Label { source, value }) => format!("{source}:{CLUSTER_LABEL}={value}"),
        None => "none".to_owned(),
    };
    Err(Rejection::new(
        Reason::IdentityClusterLabel,
        format!("cluster label: expected k8s:{CLUSTER_LABEL}={cluster}, found {found}"),
    ))
}

/// Reads an identity of `peer` from the part of its key after the prefix, and its value.
///
/// # Errors
/// Key not decimal, id outside the peer's range, value not text, or without the peer's cluster label.
pub fn decode_identity(
    name: &str,
    value: &[u8],
    peer: &Peer,
) -> Result<(NumericIdentity, Labels), Rejection> {
    let id = identity_key(name, peer)?;
    let text = std::str::from_utf8(value)
        .map_err(|error| Rejection::new(Reason::ValueNotText, format!("identity {id}: {error}")))?;
    if text.is_empty() {
        return Err(Rejection::new(Reason::FieldMissing, format!("identity {id} has no labels")));
    }
    let labels = Labels::parse(text);
    check_cluster_label(&labels, &peer.name)?;
    Ok((id, labels))
}

/// Reads the number from an identity's key, checked against the range of `peer`.
///
/// # Errors
/// [`Reason::KeyMalformed`] or [`Reason::IdentityOutOfRange`].
pub fn identity_key(name: &str, peer: &Peer) -> Result<NumericIdentity, Rejection> {
    let decimal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) && !name.starts_with('0');
    let id = name.parse().ok().filter(|_| decimal).map(NumericIdentity).ok_or_else(|| {
        Rejection::new(
            Reason::KeyMalformed,
            format!("identity key ends in {name:?}, expected a decimal number"),
        )
    })?;
    let range = peer.identities();
    if !range.contains(id) {
        return Err(Rejection::new(
            Reason::IdentityOutOfRange,
            format!("identity {id} of cluster {} is outside {} to {}", peer.name, range.first, range.last),
        ));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterConfig, LocalCluster};

    fn peer() -> Peer {
        let local = LocalCluster::new("us-east", 9, 255).unwrap();
        let config = ClusterConfig { id: 7, ..Default::default() };
        Peer::accept(&local, &"prod-eu".parse().unwrap(), &config).unwrap()
    }

    #[test]
    fn label_text_survives_odd_values() {
        let text = "k8s:a=x=y;reserved:ingress=;k8s:z=a:b;";
        let labels = Labels::parse(text);
        assert_eq!(labels.get("a").unwrap().value.as_ref(), "x=y");
        assert_eq!(labels.get("z").unwrap().value.as_ref(), "a:b");
        assert_eq!(Labels::parse("plain").get("plain").unwrap().source.as_ref(), "unspec");
        assert_eq!(labels.to_string(), "k8s:a=x=y;reserved:ingress=;k8s:z=a:b;");
    }

    #[test]
    fn identities_of_a_peer_are_checked() {
        let good = b"k8s:io.cilium.k8s.policy.cluster=prod-eu;".as_slice();
        let cases: [(&str, &[u8], Option<Reason>); 11] = [
            ("458752", good, None),
            ("524287", good, None),
            ("458751", good, Some(Reason::IdentityOutOfRange)),
            ("524288", good, Some(Reason::IdentityOutOfRange)),
            ("6", good, Some(Reason::IdentityOutOfRange)),
            ("x", good, Some(Reason::KeyMalformed)),
            ("+458752", good, Some(Reason::KeyMalformed)),
            ("0458752", good, Some(Reason::KeyMalformed)),
            ("458752", b"k8s:io.cilium.k8s.policy.cluster=other;", Some(Reason::IdentityClusterLabel)),
            ("458752", b"any:io.cilium.k8s.policy.cluster=prod-eu;", Some(Reason::IdentityClusterLabel)),
            ("458752", b"\xff", Some(Reason::ValueNotText)),
        ];
        for (key, value, expected) in cases {
            let reason = decode_identity(key, value, &peer()).err().map(|refused| refused.reason);
            assert_eq!(reason, expected, "{key} {value:?}");
        }
        assert_eq!(decode_identity("458752", b"", &peer()).unwrap_err().reason, Reason::FieldMissing);
    }
}
