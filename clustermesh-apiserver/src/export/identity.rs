//! CiliumIdentity to label text.

use std::collections::BTreeMap;

use kube_watch::ObjectKey;
use mesh_types::{
    Labels, LocalCluster, NAMESPACE_LABEL, NumericIdentity, Peer, Reason, Rejection, check_cluster_label,
    identity_key,
};
use serde::Deserialize;

use super::object::nullable;
use super::unit::Unit;

/// A CiliumIdentity (`cilium.io/v2`); its name is the number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CiliumIdentity {
    /// `source:key` to value.
    #[serde(rename = "security-labels", deserialize_with = "nullable")]
    pub security_labels: BTreeMap<String, String>,
}

impl CiliumIdentity {
    /// As they travel.
    pub fn labels(&self) -> Labels {
        let mut labels = Labels::default();
        for (key, value) in &self.security_labels {
            labels.insert_prefixed((key, value));
        }
        labels
    }
}

/// The number of the identity called `name` and the namespace that decides whether it goes out.
///
/// # Errors
/// A name that is no number of the cluster's range, no labels, no namespace, or another cluster's label: every reader
/// would refuse such an identity, or could not tell whether it is global.
pub fn convert<'a>(
    local: &LocalCluster,
    name: &str,
    labels: &'a Labels,
) -> Result<(NumericIdentity, &'a str), Rejection> {
    if labels.is_empty() {
        return Err(Rejection::new(Reason::IdentityWithoutLabels, format!("identity {name} has no labels")));
    }
    let own = Peer { name: local.name.clone(), id: local.id, max: local.max };
    let id = identity_key(name, &own)?;
    check_cluster_label(labels, &local.name)?;
    let namespace = labels.get(NAMESPACE_LABEL).ok_or_else(|| {
        let what = format!("identity {name} has no label {NAMESPACE_LABEL}");
        Rejection::new(Reason::IdentityWithoutNamespace, what)
    })?;
    Ok((id, &namespace.value))
}

pub(crate) fn unit(local: &LocalCluster, object: &ObjectKey, identity: &CiliumIdentity) -> Unit {
    labels_unit(local, &object.name, &identity.labels())
}

pub(crate) fn labels_unit(local: &LocalCluster, name: &str, labels: &Labels) -> Unit {
    match convert(local, name, labels) {
        Ok((id, namespace)) => Unit::of(Some(namespace), &id.to_string(), labels.to_string().into_bytes()),
        Err(refused) => Unit::refused(None, refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_not_to_write_an_identity() {
        let local = LocalCluster::new("prod-eu", 7, 255).unwrap();
        let good = "k8s:io.cilium.k8s.policy.cluster=prod-eu;k8s:io.kubernetes.pod.namespace=shop;";
        let cases = [
            ("459008", good, None),
            ("70000", good, Some(Reason::IdentityOutOfRange)),
            ("6", good, Some(Reason::IdentityOutOfRange)),
            ("cart", good, Some(Reason::KeyMalformed)),
            ("459008", "", Some(Reason::IdentityWithoutLabels)),
            ("459008", "k8s:io.cilium.k8s.policy.cluster=prod-eu;", Some(Reason::IdentityWithoutNamespace)),
            (
                "459008",
                "k8s:io.cilium.k8s.policy.cluster=other;k8s:io.kubernetes.pod.namespace=shop;",
                Some(Reason::IdentityClusterLabel),
            ),
        ];
        for (name, labels, expected) in cases {
            let refused = convert(&local, name, &Labels::parse(labels)).err().map(|refused| refused.reason);
            assert_eq!(refused, expected, "{name} {labels}");
        }
    }
}
