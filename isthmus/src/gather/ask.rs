//! Asking the places of one cluster for all that a bundle has of it.

use super::Bundle;
use super::objects::{KINDS, Kind};
use crate::certs::show;
use crate::evidence::kube::Api;
use crate::http;
use crate::places::ClusterPlaces;
use agent_sync::api::fetch;
use anyhow::Context as _;
use kvstore::{Client as _, EtcdClient, EtcdConfigFile, KeyRange};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Objects that are asked for at a time.
const PAGE: usize = 500;
/// More objects of a kind are left out, which the bundle says.
const MAX_OBJECTS: usize = 20_000;
/// More keys of a prefix are not counted.
const MAX_KEYS: usize = 100_000;
/// So much of the end of a log.
const LOG_TAIL_BYTES: u64 = 4 << 20;
/// Pages of health listeners: a daemon has some of them, and all in one has all.
const PAGES: [&str; 8] =
    ["/status", "/export", "/mcs", "/remotes", "/v1/cluster", "/dns", "/tasks", "/metrics"];
/// Tables of an agent.
const TABLES: [&str; 7] = ["status", "nodes", "ipcache", "identities", "services", "rejected", "wireguard"];
/// What of a store is in the bundle with values.
const SMALL_PREFIXES: [&str; 3] = ["cilium/cluster-config/", "cilium/synced/", "cilium/.heartbeat"];
/// What of it is counted, by the words of the keys up to the cluster.
const COUNTED_PREFIXES: [&str; 2] = ["cilium/state/", "cilium/cache/"];

/// What one gathering is told.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    /// How long each place may take.
    pub(crate) patience: Duration,
    /// Where the mesh's own parts are: their ConfigMaps and Secrets are in the bundle.
    pub(crate) namespaces: Vec<String>,
    /// As whom the Kubernetes APIs are asked, if not as oneself.
    pub(crate) user: Option<String>,
}

impl Asking {
    /// All that there is of a cluster. Asks its places at once.
    pub(crate) async fn cluster(&self, cluster: &ClusterPlaces) -> Bundle {
        let mut bundle = Bundle::default();
        let (kubernetes, daemons, store, agent) = tokio::join!(
            self.kubernetes(cluster),
            self.daemons(cluster),
            self.store(cluster),
            self.agent(cluster)
        );
        for part in [kubernetes, daemons, store, agent] {
            bundle.merge(part);
        }
        for log in &cluster.logs {
            let name = log.file_name().unwrap_or(log.as_os_str()).to_string_lossy();
            let path = format!("{}/logs/{name}", cluster.name);
            match tail(log) {
                Ok(text) => bundle.text(&path, &text),
                Err(error) => bundle.fail(&path, &format!("{error:#}"), false),
            }
        }
        bundle
    }

    /// Waits for an answer, and notes if there is none.
    async fn within<T>(
        &self,
        bundle: &mut Bundle,
        what: &str,
        asked: impl Future<Output = anyhow::Result<T>>,
    ) -> Option<T> {
        match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(said)) => Some(said),
            Ok(Err(error)) => {
                bundle.fail(what, &format!("{error:#}"), false);
                None
            }
            Err(_elapsed) => {
                let why = format!("no answer within {:.1} s", self.patience.as_secs_f64());
                bundle.fail(what, &why, true);
                None
            }
        }
    }

    async fn kubernetes(&self, cluster: &ClusterPlaces) -> Bundle {
        let mut bundle = Bundle::default();
        let Some(kubeconfig) = &cluster.kubeconfig else { return bundle };
        let folder = format!("{}/kubernetes", cluster.name);
        let first = async {
            let api = Api::acting_as(kubeconfig, cluster.context.as_deref(), self.user.as_deref()).await?;
            let version = api.get("/version").await?.context("the API server does not say its version")?;
            Ok((api, version))
        };
        // Who does not answer this is not asked for more.
        let Some((api, version)) = self.within(&mut bundle, &folder, first).await else { return bundle };
        bundle.json(&format!("{folder}/version.json"), &version);
        for kind in KINDS {
            let path = format!("{folder}/{}.json", kind.plural);
            let objects = self.within(&mut bundle, &path, self.objects(&api, kind)).await;
            match objects {
                Some(Some(objects)) => bundle.json(&path, &objects.into()),
                Some(None) => bundle.json(&path, &"this kind is not there".into()),
                None => {}
            }
        }
        bundle
    }

    /// All objects of a kind; `None` if there is no such kind.
    async fn objects(&self, api: &Api, kind: Kind) -> anyhow::Result<Option<Vec<Value>>> {
        let namespaces: Vec<Option<&str>> = if kind.own {
            self.namespaces.iter().map(|name| Some(name.as_str())).collect()
        } else {
            vec![None]
        };
        let now = SystemTime::now();
        let mut found = Vec::new();
        for namespace in namespaces {
            let mut next = String::new();
            loop {
                let Some(list) = api.get(&kind.path(namespace, PAGE, &next)).await? else { return Ok(None) };
                let items = list["items"].as_array().into_iter().flatten();
                found.extend(items.map(|object| kind.shown(object, now)));
                next = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                if next.is_empty() {
                    break;
                }
                if found.len() >= MAX_OBJECTS {
                    found.push(format!("and more: only the first {MAX_OBJECTS} are here").into());
                    break;
                }
            }
        }
        Ok(Some(found))
    }

    async fn daemons(&self, cluster: &ClusterPlaces) -> Bundle {
        let mut bundle = Bundle::default();
        let places =
            [("exporter", cluster.exporter), ("mirror", cluster.mirror), ("dns", cluster.dns_health)];
        let mut by_address: BTreeMap<SocketAddr, Vec<&str>> = BTreeMap::new();
        for (place, address) in places {
            if let Some(address) = address {
                by_address.entry(address).or_default().push(place);
            }
        }
        for (address, places) in by_address {
            let folder = format!("{}/{}", cluster.name, places.join("-"));
            for page in PAGES {
                let asked = async {
                    let got = tokio::task::spawn_blocking(move || http::get_if(address, page)).await;
                    got.context("ask a health listener")?
                        .with_context(|| format!("health listener {address}"))
                };
                // Who does not answer once is not asked for more.
                let Some(answer) = self.within(&mut bundle, &folder, asked).await else { break };
                let Some(body) = answer else { continue };
                let text = String::from_utf8_lossy(&body);
                let name = page.trim_start_matches('/').replace('/', "-");
                match serde_json::from_str(&text) {
                    Ok(value) => bundle.json(&format!("{folder}/{name}.json"), &value),
                    Err(_not_json) => bundle.text(&format!("{folder}/{name}.txt"), &text),
                }
            }
        }
        bundle
    }

    async fn agent(&self, cluster: &ClusterPlaces) -> Bundle {
        let mut bundle = Bundle::default();
        let Some(socket) = &cluster.agent else { return bundle };
        let folder = format!("{}/agent", cluster.name);
        for table in TABLES {
            let asked = async {
                let body = fetch(socket, &format!("/v1/{table}")).await?;
                serde_json::from_slice(&body).context("read the agent's answer")
            };
            let Some(value) = self.within(&mut bundle, &folder, asked).await else { break };
            bundle.json(&format!("{folder}/{table}.json"), &value);
        }
        bundle
    }

    async fn store(&self, cluster: &ClusterPlaces) -> Bundle {
        let mut bundle = Bundle::default();
        let Some(file) = &cluster.store else { return bundle };
        let folder = format!("{}/store", cluster.name);
        match certificates(file) {
            Ok(dates) => bundle.json(&format!("{folder}/certificates.json"), &dates),
            Err(error) => bundle.fail(&format!("{folder}/certificates.json"), &format!("{error:#}"), false),
        }
        if let Some(state) = self.within(&mut bundle, &folder, store(file)).await {
            bundle.json(&format!("{folder}/state.json"), &state);
        }
        bundle
    }
}

/// When the certificates begin and end by which a store is reached.
fn certificates(file: &Path) -> anyhow::Result<Value> {
    let config = EtcdConfigFile::read(file).with_context(|| file.display().to_string())?.config;
    let tls = config.tls.context("no TLS is configured")?;
    let mut dates = serde_json::Map::new();
    for file in tls.cert_file.iter().chain([&tls.ca_file]) {
        let pem = std::fs::read(file).with_context(|| file.display().to_string())?;
        let shown = show::read(&pem, SystemTime::now()).with_context(|| file.display().to_string())?;
        dates.insert(file.display().to_string(), shown.iter().map(show::Shown::dates).collect());
    }
    Ok(dates.into())
}

async fn store(file: &Path) -> anyhow::Result<Value> {
    let config = EtcdConfigFile::read(file).with_context(|| file.display().to_string())?.config;
    let client = EtcdClient::new(config).context("set up the client of the store")?;
    let status = client.status().await.context("ask the store")?;
    let mut small = BTreeMap::new();
    for prefix in SMALL_PREFIXES {
        let page = client.list(&KeyRange::prefix(prefix), MAX_KEYS, None).await?;
        for kv in page.kvs {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (key, value) = (text(&kv.key), text(&kv.value));
            small.insert(key, serde_json::from_str(&value).unwrap_or(Value::String(value)));
        }
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for prefix in COUNTED_PREFIXES {
        for kv in client.list(&KeyRange::prefix(prefix), MAX_KEYS, None).await?.kvs {
            *counts.entry(group(&String::from_utf8_lossy(&kv.key))).or_default() += 1;
        }
    }
    Ok(json!({
        "clusterId": format!("{:x}", status.cluster_id), "version": status.version,
        "revision": status.revision.0, "sizeBytes": status.db_size_bytes, "errors": status.errors,
        "keys": small, "counts": counts,
    }))
}

/// A key up to the cluster: `cilium/cache/services/v1/east`.
fn group(key: &str) -> String {
    key.split('/').take(5).collect::<Vec<_>>().join("/")
}

/// The end of a file.
fn tail(path: &Path) -> anyhow::Result<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
