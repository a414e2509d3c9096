//! Two clusters, west and east, with the service shop/cart in both, exported as cart.shop.svc.clusterset.local; west's
//! pod has 10.1.0.4. All is well, and each place says so.

use std::collections::BTreeMap;

use mesh_explain::{
    AgentPages, Answer, Cluster, ControllerPage, DnsPage, DnsReply, Mesh, Objects, Question, Subject,
};
use mesh_types::ClusterName;
use mesh_types::key::{Form, Resource};
use serde_json::{Value, json};

pub(crate) const ADDRESS: &str = "10.1.0.4";
const NAME: &str = "cart.shop.svc.clusterset.local";

/// What can be asked of the fixture, as east.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Service,
    Name,
    Address,
}

pub(crate) fn question(asked: Asked) -> Question {
    let subject = match asked {
        Asked::Service => Subject::service("shop/cart").unwrap(),
        Asked::Name => Subject::name(NAME, "clusterset.local").unwrap(),
        Asked::Address => Subject::Address(ADDRESS.parse().unwrap()),
    };
    Question { subject, from: name("east") }
}

pub(crate) fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

pub(crate) fn mesh() -> Mesh {
    let clusters = ["east", "west"].map(|cluster| (cluster.to_owned(), all_well(cluster)));
    Mesh { clusters: clusters.into() }
}

fn all_well(cluster: &str) -> Cluster {
    Cluster {
        kubernetes: Answer::Said(objects(cluster)),
        exporter: Answer::Said(serde_json::from_value(exporter()).unwrap()),
        controllers: Answer::Said(ControllerPage::default()),
        store: Answer::Said(keys(cluster)),
        mirror: Answer::Said(serde_json::from_value(mirror(other(cluster))).unwrap()),
        agent: Answer::Said(agent(other(cluster))),
        dns: Answer::Said(DnsPage { zone: "clusterset.local".to_owned(), synced: true, skipped: Vec::new() }),
        reply: Answer::Said(DnsReply {
            code: "NOERROR".to_owned(),
            answers: vec![format!("{NAME}. 5 IN A 10.2.200.1")],
        }),
    }
}

fn other(cluster: &str) -> &'static str {
    if cluster == "east" { "west" } else { "east" }
}

fn backend(cluster: &str) -> &'static str {
    if cluster == "west" { ADDRESS } else { "10.2.0.9" }
}

fn objects(cluster: &str) -> Objects {
    let metadata =
        json!({"namespace": "shop", "name": "cart", "annotations": {"service.cilium.io/global": "true"}});
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "cart-x7k2p"},
        "endpoints": [{"addresses": [backend(cluster)], "conditions": {"ready": true}}],
    });
    let import = json!({
        "spec": {"type": "ClusterSetIP", "ips": ["10.2.200.1"]},
        "status": {"clusters": [{"cluster": "east"}, {"cluster": "west"}]},
    });
    Objects {
        namespace: Some(json!({"metadata": {"name": "shop"}})),
        service: Some(json!({ "metadata": metadata })),
        slices: vec![slice],
        service_export: Some(json!({"metadata": {"namespace": "shop", "name": "cart"}})),
        service_import: Some(import),
        owners: if cluster == "west" { vec!["Pod shop/cart-0".to_owned()] } else { Vec::new() },
    }
}

fn exporter() -> Value {
    let written = |resource: &str| json!({"resource": resource, "keys": 4, "synced": true});
    let read = |kind: &str| json!({"kind": kind, "state": "listed"});
    let resources = ["services", "serviceexports", "ip"].map(written);
    let kinds = ["Service", "EndpointSlice", "Namespace", "ServiceExport", "Pod", "Node"].map(read);
    json!({"resources": resources, "kinds": kinds})
}

fn keys(cluster: &str) -> BTreeMap<String, String> {
    let service = |cluster: &str| {
        let backends = json!({backend(cluster): {"http": {"Protocol": "TCP", "Port": 80}}});
        json!({"cluster": cluster, "namespace": "shop", "name": "cart", "backends": backends}).to_string()
    };
    let export = |cluster: &str| json!({"cluster": cluster, "namespace": "shop", "name": "cart"}).to_string();
    let address = json!({"IP": ADDRESS, "ID": 65_537}).to_string();
    let mut keys = BTreeMap::new();
    for (form, owner) in [(Form::State, cluster), (Form::Cache, other(cluster))] {
        let mut put = |resource: Resource, entry: &str, value: String| {
            keys.insert(resource.prefix(form, &name(owner)) + entry, value);
        };
        put(Resource::Services, "shop/cart", service(owner));
        put(Resource::ServiceExports, "shop/cart", export(owner));
        if owner == "west" {
            put(Resource::Ip, ADDRESS, address.clone());
        }
    }
    keys
}

fn mirror(peer: &str) -> Value {
    let synced = json!({"state": "synced", "entries": 4, "lastEventSeconds": 2.0});
    json!({"remotes": [{
        "name": peer,
        "connected": true,
        "endpoints": [format!("https://{peer}.mesh.cilium.io:2379")],
        "resources": {"services": synced, "serviceexports": synced, "ip": synced},
    }]})
}

fn agent(peer: &str) -> AgentPages {
    let kind = |kind: &str| json!({"kind": kind, "state": "synced", "ageSeconds": 0, "entries": 4});
    let kinds = ["nodes", "ip", "identities", "services"].map(kind);
    let chosen = |cluster: &str| json!({"address": backend(cluster), "port": 80, "protocol": "TCP", "cluster": cluster, "selected": true});
    let backends = [chosen("east"), chosen("west")];
    AgentPages {
        status: json!({"clusters": [{"name": peer, "standing": "accepted", "ready": true, "kinds": kinds}]}),
        services: json!({"services": [{
            "namespace": "shop",
            "name": "cart",
            "clusters": [{"name": peer, "backends": 1}],
            "frontends": [{"address": "10.96.0.7", "port": 80, "protocol": "TCP", "backends": backends}],
        }]}),
        ipcache: json!({"entries": [{
            "prefix": format!("{ADDRESS}/32"),
            "identity": 65_537,
            "host": "192.168.1.1",
            "cluster": "west",
            "namespace": "shop",
            "pod": "cart-0",
        }]}),
        rejected: json!({"rejected": []}),
        wireguard: json!({
            "summary": {"enabled": true},
            "peers": [{"cluster": "west", "node": "west-1", "allowedIps": ["10.1.0.0/24"]}],
        }),
    }
}
