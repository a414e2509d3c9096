//! Objects of a cluster as plain JSON.

use anyhow::{Context as _, anyhow, bail};
use http::{Method, Request};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube_watch::ClientConfig;
use mesh_explain::{Objects, Subject};
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

/// The resources of the Multi-Cluster Services API.
pub(crate) const MCS: &str = "/apis/multicluster.x-k8s.io/v1beta1";
/// The resources of EndpointSlices.
pub(crate) const DISCOVERY: &str = "/apis/discovery.k8s.io/v1";
/// The core resources.
pub(crate) const CORE: &str = "/api/v1";

/// What an API server refused, in its words.
#[derive(Debug)]
pub(crate) struct Refused(Box<Status>);

impl Refused {
    /// The HTTP status code.
    pub(crate) fn code(&self) -> u16 {
        self.0.code
    }

    /// Why.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Refused {}

/// An error without the status that came with it, which the client would print as it is in memory.
fn told(error: kube::Error) -> anyhow::Error {
    let kube::Error::Api(status) = error else { return error.into() };
    Refused(status).into()
}

/// A Kubernetes API, by paths.
#[derive(Clone)]
pub(crate) struct Api(Client);

impl Api {
    /// By a kubeconfig. Nothing is sent yet.
    pub(crate) async fn new(kubeconfig: &Path, context: Option<&str>) -> anyhow::Result<Self> {
        let config = ClientConfig {
            kubeconfig: Some(kubeconfig.to_owned()),
            context: context.map(str::to_owned),
            ..ClientConfig::default()
        };
        Ok(Self(config.client().await?))
    }

    /// The same, as another user if one is named.
    pub(crate) async fn acting_as(
        kubeconfig: &Path,
        context: Option<&str>,
        user: Option<&str>,
    ) -> anyhow::Result<Self> {
        let Some(user) = user else { return Self::new(kubeconfig, context).await };
        let wrong =
            |error| anyhow!("kubeconfig {}: {}", kubeconfig.display(), kube_watch::wrong_with(&error));
        let read = Kubeconfig::read_from(kubeconfig).map_err(wrong)?;
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..Default::default() };
        let mut config = Config::from_custom_kubeconfig(read, &options).await.map_err(wrong)?;
        config.auth_info.impersonate = Some(user.to_owned());
        Ok(Self(Client::try_from(config).context("set up the client")?))
    }

    /// By a client that is there already.
    pub(crate) fn of(client: Client) -> Self {
        Self(client)
    }

    /// The client itself, for watches.
    pub(crate) fn client(&self) -> Client {
        self.0.clone()
    }

    /// The object at `path`, or `None` if it, or its kind, is not there.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let request = Request::get(path).body(Vec::new()).context("make the request")?;
        match self.0.request(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(told(error)).with_context(|| format!("get {path}")),
        }
    }

    /// The headers of the answer to a `get` of `path`.
    pub(crate) async fn headers(&self, path: &str) -> anyhow::Result<http::HeaderMap> {
        let request = Request::get(path).body(kube::client::Body::empty()).context("make the request")?;
        let answer = self.0.send(request).await.map_err(told).with_context(|| format!("get {path}"))?;
        if answer.status().is_success() {
            return Ok(answer.headers().clone());
        }
        // Why not is in the body, which is read where bodies are.
        self.get(path).await?;
        bail!("get {path}: {}", answer.status())
    }

    /// The items of the list at `path`; none if the kind is not there.
    pub(crate) async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.get(path).await?.unwrap_or_default();
        Ok(list.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Sends `body` to `path`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let bytes = serde_json::to_vec(body).context("encode an object")?;
        let request = Request::builder().method(&method).uri(path).header("content-type", kind);
        let request = request.body(bytes).context("make the request")?;
        self.0.request(request).await.map_err(told).with_context(|| format!("{method} {path}"))
    }
}

/// What a cluster's API has of the subject.
pub(super) async fn objects(
    kubeconfig: &Path,
    context: Option<&str>,
    subject: &Subject,
) -> anyhow::Result<Objects> {
    let api = Api::new(kubeconfig, context).await?;
    if let Subject::Address(address) = subject {
        return Ok(Objects { owners: owners(&api, *address).await?, ..Objects::default() });
    }
    let object = subject.object().unwrap_or_default();
    let (namespace, name) = object.split_once('/').unwrap_or_default();
    let of = |prefix: &str, plural: &str| format!("{prefix}/namespaces/{namespace}/{plural}");
    let slices =
        format!("{}?labelSelector=kubernetes.io%2Fservice-name%3D{name}", of(DISCOVERY, "endpointslices"));
    Ok(Objects {
        namespace: api.get(&format!("{CORE}/namespaces/{namespace}")).await?,
        service: api.get(&format!("{}/{name}", of(CORE, "services"))).await?,
        slices: api.list(&slices).await?,
        service_export: api.get(&format!("{}/{name}", of(MCS, "serviceexports"))).await?,
        service_import: api.get(&format!("{}/{name}", of(MCS, "serviceimports"))).await?,
        owners: Vec::new(),
    })
}

/// Whoever has the address.
async fn owners(api: &Api, address: IpAddr) -> anyhow::Result<Vec<String>> {
    let mut owners = Vec::new();
    for (kind, path, addresses) in [
        ("Pod", "/api/v1/pods", ["/status/podIPs", "ip"]),
        ("Node", "/api/v1/nodes", ["/status/addresses", "address"]),
        ("CiliumEndpoint", "/apis/cilium.io/v2/ciliumendpoints", ["/status/networking/addressing", "ipv4"]),
        ("CiliumNode", "/apis/cilium.io/v2/ciliumnodes", ["/spec/addresses", "ip"]),
    ] {
        let objects = api.list(path).await?;
        owners.extend(objects.iter().filter(|object| has(object, addresses, address)).map(|object| {
            let field = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            match field("/metadata/namespace") {
                "" => format!("{kind} {}", field("/metadata/name")),
                namespace => format!("{kind} {namespace}/{}", field("/metadata/name")),
            }
        }));
    }
    Ok(owners)
}

/// Whether a list in the object, at a pointer, has the address in one of its rows.
fn has(object: &Value, [pointer, field]: [&str; 2], address: IpAddr) -> bool {
    let rows = object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    // CiliumEndpoint has both families in one row.
    let fields =
        |row: &Value| [field, "ipv6"].map(|field| row.get(field).and_then(Value::as_str).map(str::to_owned));
    rows.flat_map(fields).flatten().any(|text| text.parse() == Ok(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_owner_is_found_by_any_of_its_addresses() {
        let pod = json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}});
        let endpoint =
            json!({"status": {"networking": {"addressing": [{"ipv4": "10.0.0.2", "ipv6": "fd00::2"}]}}});
        let pods = ["/status/podIPs", "ip"];
        let endpoints = ["/status/networking/addressing", "ipv4"];
        assert!(has(&pod, pods, "fd00:0::1".parse().unwrap()));
        assert!(!has(&pod, pods, "10.0.0.2".parse().unwrap()));
        assert!(has(&endpoint, endpoints, "fd00::2".parse().unwrap()));
        assert!(has(&endpoint, endpoints, "10.0.0.2".parse().unwrap()));
    }
}
