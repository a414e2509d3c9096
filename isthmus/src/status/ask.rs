//! Asking all places of a mesh how they stand.

use super::Pages;
use crate::certs::show;
use crate::evidence::{kube, page};
use crate::places::ClusterPlaces;
use agent_sync::api::fetch;
use anyhow::Context as _;
use futures::future::join_all;
use kvstore::EtcdConfigFile;
use mesh_explain::Answer;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What the places of each cluster say, all asked at once and each for no longer than the patience.
pub(crate) async fn all(clusters: &[ClusterPlaces], patience: Duration) -> Vec<Pages> {
    join_all(clusters.iter().map(|cluster| one(cluster, patience))).await
}

async fn one(cluster: &ClusterPlaces, patience: Duration) -> Pages {
    let context = cluster.context.as_deref();
    let (kubernetes, exporter, controllers, mirror, agent, dns) = tokio::join!(
        within(patience, cluster.kubeconfig.as_deref().map(|file| version(file, context))),
        within(patience, cluster.exporter.map(|address| page(address, &["/export", "/status"]))),
        within(patience, cluster.exporter.map(|address| page(address, &["/mcs"]))),
        within(patience, cluster.mirror.map(|address| page(address, &["/remotes", "/status"]))),
        within(patience, cluster.agent.as_deref().map(agent)),
        within(patience, cluster.dns_health.map(|address| page(address, &["/dns", "/status"]))),
    );
    let certificate_days = cluster
        .store
        .as_deref()
        .map_or(Answer::NotAsked, |file| certificate_days(file).map_err(|error| format!("{error:#}")).into());
    Pages { kubernetes, exporter, controllers, mirror, agent, dns, certificate_days }
}

async fn within<T>(patience: Duration, asked: Option<impl Future<Output = anyhow::Result<T>>>) -> Answer<T> {
    let Some(asked) = asked else { return Answer::NotAsked };
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")).into(),
        Err(_elapsed) => Answer::Silent(format!("no answer within {:.1} s", patience.as_secs_f64())),
    }
}

async fn version(kubeconfig: &Path, context: Option<&str>) -> anyhow::Result<String> {
    let api = kube::Api::new(kubeconfig, context).await?;
    let version = api.get("/version").await?.unwrap_or_default();
    Ok(version.get("gitVersion").and_then(Value::as_str).unwrap_or("unknown").to_owned())
}

async fn agent<T: serde::de::DeserializeOwned>(socket: &Path) -> anyhow::Result<T> {
    let body = fetch(socket, "/v1/status").await?;
    serde_json::from_slice(&body).context("read the agent's answer")
}

/// Days until the first certificate ends by which the store is reached.
fn certificate_days(file: &Path) -> anyhow::Result<i64> {
    let config = EtcdConfigFile::read(file).with_context(|| file.display().to_string())?.config;
    let tls = config.tls.context("no TLS is configured")?;
    let files = tls.cert_file.iter().chain([&tls.ca_file]);
    let mut days = i64::MAX;
    for file in files {
        let pem = std::fs::read(file).with_context(|| file.display().to_string())?;
        for certificate in show::read(&pem, SystemTime::now()).with_context(|| file.display().to_string())? {
            days = days.min(certificate.days_left);
        }
    }
    Ok(days)
}
