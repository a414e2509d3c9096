//! What the places of a mesh say, for [`mesh_explain`].
//!
//! All are asked at once, each for no longer than the patience. A place that does not answer is silent, and says why:
//! half a mesh is explained as far as it goes.

use crate::http;
use crate::places::{ClusterPlaces, Places};
use agent_sync::api::fetch;
use anyhow::Context as _;
use futures::future::join_all;
use kvstore::{Client as _, EtcdClient, EtcdConfigFile};
use mesh_explain::{AgentPages, Answer, Cluster, DnsPage, Keys, Mesh, Question, Subject};
use mesh_types::{ClusterName, Form};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) mod kube;
pub(crate) mod reply;

/// What was found.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// By cluster and place.
    pub(crate) mesh: Mesh,
    /// Some place did not answer in time.
    pub(crate) late: bool,
}

/// Asks all places what they know of the subject.
pub(crate) async fn read(question: &Question, places: &Places, patience: Duration) -> Evidence {
    let reader = Reader { question, places, patience, late: AtomicBool::new(false) };
    let clusters = places.clusters.iter().map(|cluster| reader.cluster(cluster));
    let answers = join_all(clusters).await;
    let names = places.clusters.iter().map(|cluster| cluster.name.clone());
    let mesh = Mesh { clusters: names.zip(answers).collect() };
    Evidence { mesh, late: reader.late.into_inner() }
}

struct Reader<'a> {
    question: &'a Question,
    places: &'a Places,
    patience: Duration,
    late: AtomicBool,
}

impl Reader<'_> {
    async fn cluster(&self, cluster: &ClusterPlaces) -> Cluster {
        let subject = &self.question.subject;
        let context = cluster.context.as_deref();
        let kubernetes = cluster.kubeconfig.as_deref().map(|file| kube::objects(file, context, subject));
        let exporter = cluster.exporter.map(|address| page(address, &["/export", "/status"]));
        let controllers = cluster.exporter.map(|address| page(address, &["/mcs"]));
        let mirror = cluster.mirror.map(|address| page(address, &["/remotes", "/status"]));
        let store = cluster.store.as_deref().map(|file| self.keys(file, &cluster.name));
        let agent = cluster.agent.as_deref().map(|socket| tables(socket, subject));
        let dns = cluster.dns_health.map(|address| page::<DnsPage>(address, &["/dns", "/status"]));
        let reply = match (cluster.dns, subject) {
            (Some(address), Subject::Name { asked, .. }) => Some(reply::ask(address, asked)),
            _ => None,
        };
        let (kubernetes, exporter, controllers, mirror) = tokio::join!(
            self.answer(kubernetes),
            self.answer(exporter),
            self.answer(controllers),
            self.answer(mirror),
        );
        let (store, agent, dns, reply) =
            tokio::join!(self.answer(store), self.answer(agent), self.answer(dns), self.answer(reply));
        Cluster { kubernetes, exporter, controllers, store, mirror, agent, dns, reply }
    }

    async fn answer<T>(&self, asked: Option<impl Future<Output = anyhow::Result<T>>>) -> Answer<T> {
        let Some(asked) = asked else { return Answer::NotAsked };
        match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(said)) => Answer::Said(said),
            Ok(Err(error)) => Answer::Silent(format!("{error:#}")),
            Err(_elapsed) => {
                self.late.store(true, Ordering::Relaxed);
                Answer::Silent(format!("no answer within {} s", self.patience.as_secs_f64()))
            }
        }
    }

    /// The keys of the question: those of the cluster itself, and those that it mirrors of the others.
    async fn keys(&self, file: &Path, own: &str) -> anyhow::Result<Keys> {
        let config = EtcdConfigFile::read(file).with_context(|| file.display().to_string())?.config;
        let client = EtcdClient::new(config).context("set up the client of the store")?;
        let mut keys = Keys::new();
        for cluster in &self.places.clusters {
            let form = if cluster.name == own { Form::State } else { Form::Cache };
            let name: ClusterName = cluster.name.parse()?;
            for key in self.question.subject.keys(form, &name) {
                if let Some(found) =
                    client.get(key.as_bytes()).await.with_context(|| format!("read {key}"))?
                {
                    keys.insert(key, String::from_utf8_lossy(&found.value).into_owned());
                }
            }
        }
        Ok(keys)
    }
}

/// The first of the pages that a health listener has: a daemon alone and all in one have different ones.
pub(crate) async fn page<T: DeserializeOwned>(address: SocketAddr, paths: &[&str]) -> anyhow::Result<T> {
    let mut last = None;
    for path in paths {
        let path = (*path).to_owned();
        let got = tokio::task::spawn_blocking(move || http::get(address, &path)).await;
        match got.context("ask a health listener")? {
            Ok(body) => return serde_json::from_slice(&body).context("read the answer"),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no page")))
        .with_context(|| format!("health listener {address}"))
}

/// The tables of an agent, as far as they concern the subject.
async fn tables(socket: &Path, subject: &Subject) -> anyhow::Result<AgentPages> {
    let ask = async |path: &str| -> anyhow::Result<Value> {
        let body = fetch(socket, path).await?;
        serde_json::from_slice(&body).context("read the agent's answer")
    };
    let ipcache = if let Subject::Address(address) = subject {
        ask(&format!("/v1/ipcache?address={address}")).await?
    } else {
        Value::Null
    };
    Ok(AgentPages {
        status: ask("/v1/status").await?,
        services: ask("/v1/services").await?,
        ipcache,
        rejected: ask("/v1/rejected").await?,
        wireguard: ask("/v1/wireguard").await?,
    })
}
