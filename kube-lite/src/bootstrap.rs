//! The objects that every cluster has.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Api, Edit};
use crate::body::Unknown;
use crate::status::Result;

const MANAGER: &str = "kube-lite";

/// Makes what is missing: the standard namespaces, and the Service of the API itself.
pub(crate) async fn run(api: &Api, address: SocketAddr) -> Result<()> {
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        ensure(api, "namespaces", None, json!({"metadata": {"name": name}})).await?;
    }
    let first = api.cluster.service_cidrs.first().and_then(|cidr| cidr.hosts().next());
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": first.map(|ip| ip.to_string()),
            "ports": [{"name": "https", "port": 443, "targetPort": address.port()}],
        },
    });
    ensure(api, "services", Some("default"), service).await
}

async fn ensure(api: &Api, plural: &str, namespace: Option<&str>, object: Value) -> Result<()> {
    let resource = api.core(plural)?;
    let edit = Edit {
        resource: Arc::clone(&resource),
        namespace: namespace.map(str::to_owned),
        name: String::new(),
        subresource: String::new(),
        manager: MANAGER.to_owned(),
        dry_run: false,
        unknown: Unknown::Refuse,
    };
    match api.create(&edit, object).await {
        Err(failure) if failure.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}
