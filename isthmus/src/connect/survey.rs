//! What each cluster has, by its API.

use super::reach::Reached;
use crate::evidence::kube::{Api, CORE, Refused};
use futures::future::join_all;
use jiff::Timestamp;
use mesh_connect::{
    AGENTS_SECRET, Address, Clock, Failure, MIRROR_SECRET, Member, Objects, Observed, Settings, StoreService,
    StoreServiceKind, TlsSecret, Trouble, USERS_CONFIG_MAP,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

mod objects;

pub(crate) use objects::data;

/// Names of the Secret with the certificate by which other stores are read; the later ones are those of old charts.
const REMOTE_CERTIFICATES: [&str; 3] = [
    "clustermesh-apiserver-remote-cert",
    "clustermesh-apiserver-client-cert",
    "clustermesh-apiserver-client-certs",
];
const SERVER_CERTIFICATE: &str = "clustermesh-apiserver-server-cert";
/// The Service in front of the store, and the Deployment behind it.
const STORE: &str = "clustermesh-apiserver";

/// What was found of all clusters.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Those that were read, in the order of the contexts.
    pub(crate) members: Vec<Member>,
    /// Those that were not.
    pub(crate) failures: Vec<Failure>,
}

/// Where stores are that no Service says, by cluster name.
pub(crate) type Given = BTreeMap<String, Vec<Address>>;

/// Reads all clusters at once, each for no longer than the patience.
pub(crate) async fn survey(
    clusters: &[Reached],
    namespace: &str,
    given: &Given,
    patience: Duration,
) -> Survey {
    let looks = clusters.iter().map(|cluster| async {
        let trouble = match &cluster.api {
            Err(error) => Err(Trouble::Unreachable(format!("{error:#}"))),
            Ok(api) => {
                let look = Look { api, context: &cluster.context, namespace };
                match tokio::time::timeout(patience, look.member()).await {
                    Ok(member) => member,
                    Err(_elapsed) => Err(Trouble::Unreachable(format!("no answer within {patience:?}"))),
                }
            }
        };
        trouble.map_err(|trouble| Failure { context: cluster.context.clone(), trouble })
    });
    let mut survey = Survey::default();
    for found in join_all(looks).await {
        match found {
            Ok(mut member) => {
                if let Some(addresses) = given.get(member.name()) {
                    let addresses = addresses.clone();
                    member.store = Some(StoreService { kind: StoreServiceKind::Given, addresses });
                }
                survey.members.push(member);
            }
            Err(failure) => survey.failures.push(failure),
        }
    }
    survey
}

struct Look<'a> {
    api: &'a Api,
    context: &'a str,
    namespace: &'a str,
}

impl Look<'_> {
    async fn member(&self) -> Result<Member, Trouble> {
        let clock = self.clock().await?;
        let settings = self.settings().await?;
        let version = self.optional("/version").await.unwrap_or_default();
        let nodes = self.list("nodes", &format!("{CORE}/nodes")).await?;
        let cilium_nodes = self.optional("/apis/cilium.io/v2/ciliumnodes").await.unwrap_or_default();
        let nodes = objects::nodes(&nodes, objects::items(&cilium_nodes));
        let service = self.namespaced("services", STORE).await?;
        let deployment = self.app("deployments", STORE).await;
        let agents = self.app("daemonsets", "cilium").await;
        Ok(Member {
            context: self.context.to_owned(),
            namespace: self.namespace.to_owned(),
            settings,
            service_cidrs: self.service_cidrs().await?,
            kubernetes_version: version.get("gitVersion").and_then(Value::as_str).map(str::to_owned),
            version: objects::version([&agents, &deployment]),
            clock,
            store: service.map(|service| objects::store(&service, &nodes)),
            nodes,
            server: self.tls(&[SERVER_CERTIFICATE]).await?,
            remote: self.tls(&REMOTE_CERTIFICATES).await?,
            mirrored: objects::is_mirrored(&deployment),
            objects: Objects {
                agents: self.observed("secrets", AGENTS_SECRET).await?,
                mirror: self.observed("secrets", MIRROR_SECRET).await?,
                users: self.observed("configmaps", USERS_CONFIG_MAP).await?,
            },
            probe: None,
        })
    }

    /// The clock of the API server, by the date of an answer; also whether there is an API server at all.
    async fn clock(&self) -> Result<Option<Clock>, Trouble> {
        let (began, at) = (Instant::now(), Timestamp::now());
        let headers =
            self.api.headers("/version").await.map_err(|error| self.trouble(&error, "version", false))?;
        let round_trip = began.elapsed().as_secs_f64();
        let date = headers.get("date").and_then(|date| date.to_str().ok());
        Ok(date.and_then(|date| objects::clock(date, at, round_trip)))
    }

    async fn settings(&self) -> Result<Settings, Trouble> {
        for source in ["cilium-config", "isthmus-config"] {
            if let Some(object) = self.namespaced("configmaps", source).await? {
                let data = object.get("data").and_then(Value::as_object).into_iter().flatten();
                let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
                return Ok(Settings { source: source.to_owned(), data: data.filter_map(text).collect() });
            }
        }
        Err(Trouble::NoConfig { namespace: self.namespace.to_owned() })
    }

    /// The ranges; where the API does not tell them, the address of the Service `kubernetes`.
    async fn service_cidrs(&self) -> Result<Vec<ipnet::IpNet>, Trouble> {
        let list = self.optional("/apis/networking.k8s.io/v1/servicecidrs").await.unwrap_or_default();
        let ranges = objects::service_cidrs(objects::items(&list));
        if !ranges.is_empty() {
            return Ok(ranges);
        }
        let path = format!("{CORE}/namespaces/default/services/kubernetes");
        Ok(objects::cluster_ips(&self.optional(&path).await.unwrap_or_default()))
    }

    async fn tls(&self, names: &[&str]) -> Result<Option<TlsSecret>, Trouble> {
        for name in names {
            if let Some(secret) = self.namespaced("secrets", name).await? {
                let data = objects::data(&secret);
                let text = |key: &str| data.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
                return Ok(Some(TlsSecret {
                    name: (*name).to_owned(),
                    ca: text("ca.crt").unwrap_or_default(),
                    certificate: text("tls.crt").unwrap_or_default(),
                    key: text("tls.key").unwrap_or_default(),
                }));
            }
        }
        Ok(None)
    }

    async fn observed(&self, plural: &str, name: &str) -> Result<Option<Observed>, Trouble> {
        let object = self.namespaced(plural, name).await?;
        Ok(object.map(|object| {
            let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            Observed {
                resource_version: version.unwrap_or_default().to_owned(),
                data: objects::data(&object),
            }
        }))
    }

    async fn namespaced(&self, plural: &str, name: &str) -> Result<Option<Value>, Trouble> {
        let path = format!("{CORE}/namespaces/{}/{plural}/{name}", self.namespace);
        let got = self.api.get(&path).await;
        got.map_err(|error| self.trouble(&error, &format!("{plural}/{name}"), true))
    }

    async fn list(&self, plural: &str, path: &str) -> Result<Vec<Value>, Trouble> {
        self.api.list(path).await.map_err(|error| match self.trouble(&error, plural, false) {
            Trouble::Forbidden { resource, namespace, user, .. } => {
                Trouble::Forbidden { verb: "list".to_owned(), resource, namespace, user }
            }
            other @ (Trouble::Unreachable(_) | Trouble::Unauthorised(_) | Trouble::NoConfig { .. }) => other,
        })
    }

    /// What is good to know, and no reason to stop if it is not told.
    async fn optional(&self, path: &str) -> Option<Value> {
        self.api.get(path).await.ok().flatten()
    }

    async fn app(&self, plural: &str, name: &str) -> Option<Value> {
        self.optional(&format!("/apis/apps/v1/namespaces/{}/{plural}/{name}", self.namespace)).await
    }

    fn trouble(&self, error: &anyhow::Error, resource: &str, namespaced: bool) -> Trouble {
        let Some(refused) = error.downcast_ref::<Refused>() else {
            return Trouble::Unreachable(objects::cause(error));
        };
        match refused.code() {
            401 => Trouble::Unauthorised(refused.message().to_owned()),
            403 => Trouble::Forbidden {
                verb: "get".to_owned(),
                resource: resource.to_owned(),
                namespace: if namespaced { self.namespace.to_owned() } else { String::new() },
                user: objects::user(refused.message()),
            },
            _ => Trouble::Unreachable(format!("{error:#}")),
        }
    }
}
