//! Which labels make the identity of a pod.
//!
//! Those of Cilium's default filter: what says *what* a pod is counts, what merely numbers the pods of one workload does
//! not. Source: Cilium docs, *Limiting Identity-Relevant Labels*.

use std::collections::BTreeMap;

use mesh_types::{
    CLUSTER_LABEL, ClusterName, Labels, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL,
};

/// Who set the labels.
const SOURCE: &str = "k8s";

/// Labels that differ between pods, or nodes, of one workload; with `*` every key that begins so.
const NOISE: [&str; 15] = [
    "io.kubernetes*",
    "kubernetes.io*",
    "k8s.io*",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
    "controller-revision-hash",
    "pod-template-hash",
    "pod-template-generation",
    "annotation*",
    "etcd_node",
    // Since Kubernetes 1.33 pods carry the zone and region of their node.
    "topology.kubernetes.io/*",
    // These would let a pod claim to be someone else; below they are set to the truth.
    "io.cilium.k8s.*",
];

/// The labels that stand for a pod.
pub(crate) fn of_pod(
    cluster: &ClusterName,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    service_account: &str,
    pod_labels: &BTreeMap<String, String>,
) -> Labels {
    let mut labels = Labels::default();
    for (key, value) in pod_labels.iter().filter(|(key, _)| !is_noise(key)) {
        labels.insert(SOURCE, key, value);
    }
    for (key, value) in namespace_labels {
        labels.insert(SOURCE, &format!("{NAMESPACE_LABELS_PREFIX}{key}"), value);
    }
    labels.insert(SOURCE, NAMESPACE_LABEL, namespace);
    labels.insert(SOURCE, CLUSTER_LABEL, cluster.as_str());
    let service_account = if service_account.is_empty() { "default" } else { service_account };
    labels.insert(SOURCE, SERVICE_ACCOUNT_LABEL, service_account);
    labels
}

fn is_noise(key: &str) -> bool {
    let beta = key.split_once("beta.kubernetes.io").is_some();
    beta || NOISE.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => key == *pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pod_is_its_labels_namespace_service_account_and_cluster() {
        let labels = of_pod(
            &"west".parse().unwrap(),
            "shop",
            &map(&[("kubernetes.io/metadata.name", "shop"), ("team", "a")]),
            "",
            &map(&[
                ("app", "cart"),
                ("app.kubernetes.io/name", "cart"),
                ("pod-template-hash", "7c9d8"),
                ("io.cilium.k8s.policy.cluster", "east"),
                ("io.kubernetes.pod.namespace", "kube-system"),
            ]),
        );
        let expected = "k8s:app=cart;k8s:app.kubernetes.io/name=cart;\
            k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;\
            k8s:io.cilium.k8s.namespace.labels.team=a;k8s:io.cilium.k8s.policy.cluster=west;\
            k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;";
        assert_eq!(labels.to_string(), expected);
    }

    #[test]
    fn pods_of_one_workload_are_one_identity() {
        let per_pod = [
            "statefulset.kubernetes.io/pod-name",
            "apps.kubernetes.io/pod-index",
            "batch.kubernetes.io/job-completion-index",
            "batch.kubernetes.io/controller-uid",
            "controller-uid",
            "controller-revision-hash",
            "pod-template-hash",
            "pod-template-generation",
            "topology.kubernetes.io/zone",
            "node.beta.kubernetes.io/x",
        ];
        for key in per_pod {
            assert!(is_noise(key), "{key}");
        }
        for key in ["app", "app.kubernetes.io/name", "version", "batch.kubernetes.io/job-name", "k8s-app"] {
            assert!(!is_noise(key), "{key}");
        }
    }
}
