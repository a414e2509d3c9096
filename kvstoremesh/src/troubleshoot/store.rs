//! What the store says: whether the user may read, what the cluster says of itself.

use std::time::Duration;

use kvstore::{Client as _, Error, EtcdClient, EtcdConfig, KeyRange};
use mesh_types::{ClusterConfig, ClusterName, Reason, Rejection, key};

use super::{Layer, Step};
use crate::error::{explain, explain_first};

/// Asks as the mirror does: the heartbeat first, then what `cluster` says of itself. Also its id.
pub(super) async fn ask(
    config: EtcdConfig,
    cluster: Option<&ClusterName>,
    limit: Duration,
) -> (Vec<Step>, Option<u32>) {
    let config = EtcdConfig { request_timeout: limit, connect_timeout: limit, ..config };
    let client = match EtcdClient::new(config.clone()) {
        Ok(client) => client,
        Err(error) => return (vec![refused(&explain(&error))], None),
    };
    let heartbeat = client.list(&KeyRange::prefix(key::HEARTBEAT), 1, None).await;
    let mut steps = Vec::new();
    match heartbeat {
        Ok(page) => {
            let id = client.status().await.map(|status| format!(", cluster id {:x}", status.cluster_id));
            let id = id.unwrap_or_default();
            let beat = page.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
            let step = match beat {
                Some(beat) => {
                    Step::passed(Layer::Permission, format!("the user may read{id}; last heartbeat {beat}"))
                }
                None => Step::warning(
                    Layer::Permission,
                    format!(
                        "the user may read{id}; there is no heartbeat (an exporter writes it every minute)"
                    ),
                ),
            };
            steps.push(step);
        }
        Err(error) => {
            steps.push(refused(&explain_first(&error, config.tls.is_some())));
            return (steps, None);
        }
    }
    let Some(cluster) = cluster else { return (steps, None) };
    let (step, id) = announced(client.get(key::cluster_config(cluster).as_bytes()).await, cluster);
    steps.push(step);
    (steps, id)
}

/// What came of the first request.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a request has no other reasons that a user could tell apart"
)]
fn refused(rejection: &Rejection) -> Step {
    let Rejection { reason, detail } = rejection;
    match reason {
        Reason::PermissionDenied => Step::failed(
            Layer::Permission,
            format!("the store refuses the user: {detail}"),
            "the common name of cert-file is the user: it must exist in the other cluster's store (`remote`, or \
             `remote-<this cluster>`) with the role `remote`",
        ),
        Reason::CertificateUnusable => {
            Step::failed(Layer::Certificate, detail.clone(), "look at the files that the configuration names")
        }
        Reason::TlsFailed => Step::failed(Layer::Tls, detail.clone(), "exchange the CAs of the clusters"),
        _ => Step::failed(Layer::Tcp, detail.clone(), "look at the other cluster's store"),
    }
}

/// What the cluster says of itself.
fn announced(answer: Result<Option<kvstore::KeyValue>, Error>, cluster: &ClusterName) -> (Step, Option<u32>) {
    let failed = |what: String, advice: &str| (Step::failed(Layer::ClusterConfig, what, advice), None);
    let value = match answer {
        Err(error) => return (refused(&explain(&error)), None),
        Ok(None) => {
            return failed(
                format!("the store has no configuration of cluster {cluster}"),
                "see that the file has the name that the cluster itself has, and that its exporter \
                 (clustermesh-apiserver) runs and reaches its store",
            );
        }
        Ok(Some(kv)) => kv.value,
    };
    match ClusterConfig::decode(&value) {
        Ok(config) if config.id == 0 => failed(
            format!("cluster {cluster} announces no id"),
            "give it an id (--cluster-id), which a cluster of a mesh needs",
        ),
        Ok(config) => {
            let kind = if config.capabilities.cached { ", by a mirror" } else { "" };
            let canaries = if config.capabilities.synced_canaries {
                "says when lists are complete"
            } else {
                "has no canaries"
            };
            let what = format!("cluster {cluster} announces id {}{kind}; {canaries}", config.id);
            (Step::passed(Layer::ClusterConfig, what), Some(config.id))
        }
        Err(rejection) => failed(
            format!("what cluster {cluster} announces cannot be read: {}", rejection.detail),
            "look at the version of its exporter",
        ),
    }
}
