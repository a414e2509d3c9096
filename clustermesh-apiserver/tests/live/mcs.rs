//! What the controllers make of the exports of all clusters: imports, derived Services, and their EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use clustermesh_apiserver::mcs::{self, RemoteEvent};
use mesh_types::{
    ClusterEndpointSlice, ClusterService, ExportPort, L4Addr, SERVICE_NAME_LABEL, ServiceExport,
    SliceEndpoint, SlicePort, derived_name,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;
use crate::export::{namespace, service, slice};

/// What does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(180);

/// The controllers of one replica.
struct Controllers {
    remote: mpsc::Sender<RemoteEvent>,
    status: watch::Receiver<mcs::Status>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), kube_watch::ConsumerGone>>,
}

impl Controllers {
    fn start(bench: &Bench) -> Self {
        let (remote, events) = mcs::channel();
        let (report, status) = mcs::status_channel();
        let stop = CancellationToken::new();
        let config =
            mcs::Config { cluster: "west".parse().expect("a name"), namespaces_global_by_default: true };
        #[expect(clippy::disallowed_methods, reason = "the test awaits it in `stop`")]
        let task = tokio::spawn(mcs::run(config, bench.kube.clone(), events, report, stop.clone()));
        Self { remote, status, stop, task }
    }

    async fn tell(&self, events: impl IntoIterator<Item = RemoteEvent>) -> Result<()> {
        for event in events {
            self.remote.send(event).await.context("the controllers are gone")?;
        }
        Ok(())
    }

    async fn until(&mut self, what: &str, wanted: impl FnMut(&mcs::Status) -> bool) -> Result<()> {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await;
        let reached = reached.map(|found| found.is_ok());
        anyhow::ensure!(reached == Ok(true), "{what} does not come: {:#?}", *self.status.borrow());
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await??)
    }
}

fn east() -> mesh_types::ClusterName {
    "east".parse().expect("a name")
}

/// That `east` exports `cart`, since before anybody here did.
fn exported(port: i32) -> RemoteEvent {
    exported_with(port, &["IPv4"])
}

fn exported_with(port: i32, families: &[&str]) -> RemoteEvent {
    let http = ExportPort { name: "http".into(), protocol: "TCP".into(), port, ..Default::default() };
    let export = ServiceExport {
        cluster: "east".into(),
        namespace: "shop".into(),
        name: "cart".into(),
        export_creation_timestamp: "2021-01-05T08:30:00Z".into(),
        service_type: "ClusterSetIP".into(),
        session_affinity: "None".into(),
        ip_families: families.iter().map(|family| (*family).to_owned()).collect(),
        ports: vec![http],
        ..Default::default()
    };
    RemoteEvent::Exported { cluster: east(), export: Box::new(export) }
}

/// That `east` has these backends of it.
fn offered(backends: &[&str]) -> RemoteEvent {
    let ports = || BTreeMap::from([("http".to_owned(), L4Addr { protocol: "TCP".into(), port: 8080 })]);
    let service = ClusterService {
        cluster: "east".into(),
        namespace: "shop".into(),
        name: derived_name("shop", "cart"),
        backends: backends.iter().map(|address| ((*address).to_owned(), ports())).collect(),
        ..Default::default()
    };
    RemoteEvent::Offered { cluster: east(), service: Box::new(service) }
}

fn export() -> Value {
    json!({"kind": "ServiceExport", "metadata": {"name": "cart", "namespace": "shop"}})
}

async fn definitions(bench: &Bench) -> Result<()> {
    bench.install("clustermesh-apiserver/crds/serviceexports.yaml").await?;
    bench.install("clustermesh-apiserver/crds/serviceimports.yaml").await
}

async fn shop(bench: &Bench) -> Result<()> {
    definitions(bench).await?;
    let objects = [namespace("shop", true), service(true), slice("cart-1", &["10.72.1.10"]), export()];
    bench.apply_all(objects).await
}

/// Status of a condition, and its reason.
fn condition(object: &Value, kind: &str) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    let text = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn clusters(import: &Value) -> Vec<&str> {
    let clusters = import["status"]["clusters"].as_array();
    clusters.into_iter().flatten().filter_map(|cluster| cluster["cluster"].as_str()).collect()
}

/// Addresses of the slices of the derived Service, by the cluster that they are of.
async fn derived_backends(bench: &Bench) -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for slice in bench.values("EndpointSlice", "shop").await? {
        let labels = &slice["metadata"]["labels"];
        if labels["multicluster.kubernetes.io/service-name"] != "cart" {
            continue;
        }
        let cluster = labels["multicluster.kubernetes.io/source-cluster"].as_str().unwrap_or_default();
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address = endpoint["addresses"][0].as_str().unwrap_or_default();
            found.insert((cluster.to_owned(), address.to_owned()));
        }
    }
    Ok(found)
}

async fn until_backends(bench: &Bench, wanted: &[(&str, &str)]) -> Result<()> {
    let wanted: BTreeSet<_> =
        wanted.iter().map(|(cluster, ip)| ((*cluster).to_owned(), (*ip).to_owned())).collect();
    bench.until_kube(&format!("{wanted:?}"), async || Ok(derived_backends(bench).await? == wanted)).await
}

/// All that the controllers write, with its version.
async fn written(bench: &Bench) -> Result<BTreeMap<String, Value>> {
    let mut written = BTreeMap::new();
    for kind in ["ServiceImport", "ServiceExport", "Service", "EndpointSlice"] {
        for mut object in bench.values(kind, "shop").await? {
            let metadata = object["metadata"].take();
            object["metadata"] =
                json!({"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]});
            let name = metadata["name"].as_str().unwrap_or_default();
            written.insert(format!("{kind} {name}"), object);
        }
    }
    Ok(written)
}

pub(crate) async fn exports_of_all_clusters_become_one_import_with_an_address_and_slices(
    bench: Bench,
) -> Result<()> {
    // Who starts before the definitions are there waits for them.
    let mut controllers = Controllers::start(&bench);
    shop(&bench).await?;
    controllers.tell([exported(80), offered(&["10.2.0.1", "10.2.0.2"]), RemoteEvent::Read(east())]).await?;
    let ready =
        |import: &Value| condition(import, "Ready").0 == "True" && clusters(import) == ["east", "west"];
    let import = bench.until_object("ServiceImport", "shop", "cart", ready).await?;
    let derived = bench.object("Service", "shop", &derived_name("shop", "cart")).await?.context("derived")?;
    assert_eq!(import["spec"]["ips"], json!([derived["spec"]["clusterIP"]]));
    assert_eq!(import["spec"]["type"], "ClusterSetIP");
    assert_eq!(import["spec"]["ports"], json!([{"name": "http", "port": 80, "protocol": "TCP"}]));
    assert_eq!(derived["metadata"]["ownerReferences"][0]["uid"], import["metadata"]["uid"]);
    until_backends(&bench, &[("west", "10.72.1.10"), ("east", "10.2.0.1"), ("east", "10.2.0.2")]).await?;
    let export = bench.until_object("ServiceExport", "shop", "cart", |export| {
        condition(export, "Ready").0 == "True" && condition(export, "Valid").0 == "True"
    });
    assert_eq!(condition(&export.await?, "Conflict").0, "False");

    // Backends come and go on either side.
    bench.apply(slice("cart-1", &["10.72.1.11"])).await?;
    controllers.tell([offered(&["10.2.0.2"])]).await?;
    until_backends(&bench, &[("west", "10.72.1.11"), ("east", "10.2.0.2")]).await?;

    // What somebody breaks is mended.
    let derived_name = derived_name("shop", "cart");
    bench.delete("Service", "shop", &derived_name).await?;
    let other = |service: &Value| service["metadata"]["uid"] != derived["metadata"]["uid"];
    let again = bench.until_object("Service", "shop", &derived_name, other).await?;
    bench
        .until_object("ServiceImport", "shop", "cart", |import| {
            import["spec"]["ips"] == json!([again["spec"]["clusterIP"]])
        })
        .await?;

    until_backends(&bench, &[("west", "10.72.1.11"), ("east", "10.2.0.2")]).await?;
    let name = format!("{derived_name}-mesh-east-ipv4-0");
    let labels = |service: &str, source: &str| {
        json!({
            "kubernetes.io/service-name": service, "multicluster.kubernetes.io/source-cluster": source,
            "multicluster.kubernetes.io/service-name": "cart",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-mesh-controller.cilium.io",
        })
    };
    let edited = json!({"name": name, "namespace": "shop", "labels": labels("other", "north")});
    let version = |slice: &Value| slice["metadata"]["resourceVersion"].clone();
    let before = bench.object("EndpointSlice", "shop", &name).await?.context("slice")?;
    bench
        .apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": edited}))
        .await?;
    let repaired = |slice: &Value| {
        version(slice) != version(&before) && slice["metadata"]["labels"] == labels(&derived_name, "east")
    };
    bench.until_object("EndpointSlice", "shop", &name, repaired).await?;

    // The export here goes, then the one there: first the import shrinks, then all goes.
    bench.delete("ServiceExport", "shop", "cart").await?;
    bench.until_object("ServiceImport", "shop", "cart", |import| clusters(import) == ["east"]).await?;
    until_backends(&bench, &[("east", "10.2.0.2")]).await?;
    let withdrawn = RemoteEvent::Withdrawn { cluster: east(), namespace: "shop".into(), name: "cart".into() };
    controllers.tell([withdrawn]).await?;
    bench.until_gone("ServiceImport", "shop", "cart").await?;
    bench.until_gone("Service", "shop", &derived_name).await?;
    until_backends(&bench, &[]).await?;
    controllers.until("no failure", |status| status.failing.is_empty()).await?;
    controllers.stop().await
}

pub(crate) async fn disagreements_show_on_the_export_and_go_with_their_cause(bench: Bench) -> Result<()> {
    shop(&bench).await?;
    let controllers = Controllers::start(&bench);
    // The older export wins, and that one is of port 81.
    controllers.tell([exported(81), RemoteEvent::Read(east())]).await?;
    let conflict = |wanted: &'static str| move |export: &Value| condition(export, "Conflict").0 == wanted;
    bench.until_object("ServiceExport", "shop", "cart", conflict("True")).await?;
    controllers.tell([exported(80)]).await?;
    bench.until_object("ServiceExport", "shop", "cart", conflict("False")).await?;

    // An export without a Service is no export.
    bench.delete("Service", "shop", "cart").await?;
    let invalid = |export: &Value| condition(export, "Valid").0 == "False";
    let export = bench.until_object("ServiceExport", "shop", "cart", invalid).await?;
    assert_eq!(condition(&export, "Valid").1, "NoService");
    bench.until_object("ServiceImport", "shop", "cart", |import| clusters(import) == ["east"]).await?;
    bench.apply(service(true)).await?;
    bench.until_object("ServiceImport", "shop", "cart", |import| clusters(import).len() == 2).await?;
    controllers.stop().await
}

pub(crate) async fn a_peer_that_has_endpoint_slices_alone_is_imported_with_its_backends(
    bench: Bench,
) -> Result<()> {
    definitions(&bench).await?;
    bench.apply(namespace("shop", true)).await?;
    let controllers = Controllers::start(&bench);
    let offered = |address: &str| {
        let http = SlicePort { name: Some("http".into()), port: Some(8080), ..Default::default() };
        let slice = ClusterEndpointSlice {
            cluster: "east".into(),
            namespace: "shop".into(),
            name: "derived-1".into(),
            labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), derived_name("shop", "cart"))]),
            address_type: "IPv4".into(),
            endpoints: vec![SliceEndpoint { addresses: vec![address.into()], ..Default::default() }],
            ports: vec![http],
            ..Default::default()
        };
        RemoteEvent::SliceOffered { cluster: east(), slice: Box::new(slice) }
    };
    controllers.tell([exported(80), offered("10.2.0.1"), RemoteEvent::Read(east())]).await?;
    until_backends(&bench, &[("east", "10.2.0.1")]).await?;
    controllers.tell([offered("10.2.0.2")]).await?;
    until_backends(&bench, &[("east", "10.2.0.2")]).await?;
    let name = "derived-1".into();
    controllers
        .tell([RemoteEvent::SliceWithdrawn { cluster: east(), namespace: "shop".into(), name }])
        .await?;
    until_backends(&bench, &[]).await?;
    controllers.stop().await
}

/// The API servers of these tests have IPv4 alone.
pub(crate) async fn an_import_has_the_families_that_the_exports_and_this_cluster_have(
    bench: Bench,
) -> Result<()> {
    definitions(&bench).await?;
    bench.apply(namespace("shop", true)).await?;
    let mut controllers = Controllers::start(&bench);
    let backends = ["10.2.0.1", "fd00:2::1"];
    controllers.tell([exported_with(80, &["IPv6"]), offered(&backends), RemoteEvent::Read(east())]).await?;
    let unsupported =
        |import: &Value| condition(import, "Ready") == ("False".into(), "IPFamilyNotSupported".into());
    bench.until_object("ServiceImport", "shop", "cart", unsupported).await?;
    let derived = derived_name("shop", "cart");
    assert_eq!(bench.object("Service", "shop", &derived).await?, None);

    controllers.tell([exported_with(80, &["IPv6", "IPv4"])]).await?;
    let ready = |import: &Value| condition(import, "Ready").0 == "True";
    let import = bench.until_object("ServiceImport", "shop", "cart", ready).await?;
    let service = bench.object("Service", "shop", &derived).await?.context("derived")?;
    assert_eq!(service["spec"]["ipFamilyPolicy"], "PreferDualStack");
    assert_eq!(import["spec"]["ips"], json!([service["spec"]["clusterIP"]]));
    assert_eq!(import["spec"]["ipFamilies"], json!(["IPv4"]));
    until_backends(&bench, &[("east", "10.2.0.1")]).await?;

    // Whatever the API server made of the Service, nobody writes it again and again.
    let before = bench.object("Service", "shop", &derived).await?;
    controllers.tell([offered(&["10.2.0.2"])]).await?;
    until_backends(&bench, &[("east", "10.2.0.2")]).await?;
    assert_eq!(bench.object("Service", "shop", &derived).await?, before);

    controllers.tell([exported_with(80, &["IPv6"])]).await?;
    bench.until_gone("Service", "shop", &derived).await?;
    bench.until_object("ServiceImport", "shop", "cart", unsupported).await?;
    until_backends(&bench, &[]).await?;
    controllers.until("no failure", |status| status.failing.is_empty()).await?;
    controllers.stop().await
}

/// On API servers that have both families, IPv4 first.
pub(crate) async fn an_import_has_an_address_of_each_family_in_the_order_of_the_export(
    bench: Bench,
) -> Result<()> {
    definitions(&bench).await?;
    bench.apply(namespace("shop", true)).await?;
    let controllers = Controllers::start(&bench);
    let events =
        [exported_with(80, &["IPv6"]), offered(&["10.2.0.1", "fd00:2::1"]), RemoteEvent::Read(east())];
    controllers.tell(events).await?;
    let with = |families: &'static [&'static str]| {
        move |import: &Value| {
            condition(import, "Ready").0 == "True" && import["spec"]["ipFamilies"] == json!(families)
        }
    };
    let import = bench.until_object("ServiceImport", "shop", "cart", with(&["IPv6"])).await?;
    let derived = derived_name("shop", "cart");
    let service = bench.object("Service", "shop", &derived).await?.context("derived")?;
    let (v4, v6) = (&service["spec"]["clusterIPs"][0], &service["spec"]["clusterIPs"][1]);
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(import["spec"]["ips"], json!([v6]));
    until_backends(&bench, &[("east", "fd00:2::1")]).await?;

    controllers.tell([exported_with(80, &["IPv6", "IPv4"])]).await?;
    let import = bench.until_object("ServiceImport", "shop", "cart", with(&["IPv6", "IPv4"])).await?;
    assert_eq!(import["spec"]["ips"], json!([v6, v4]));
    until_backends(&bench, &[("east", "10.2.0.1"), ("east", "fd00:2::1")]).await?;

    controllers.tell([exported_with(80, &["IPv4"])]).await?;
    let import = bench.until_object("ServiceImport", "shop", "cart", with(&["IPv4"])).await?;
    assert_eq!(import["spec"]["ips"], json!([v4]));
    until_backends(&bench, &[("east", "10.2.0.1")]).await?;
    assert_eq!(
        bench.object("Service", "shop", &derived).await?.context("derived")?,
        service,
        "never written again"
    );
    controllers.stop().await
}

/// What Cilium would hand on to the API server, which would refuse the import for it.
pub(crate) async fn what_no_object_can_have_is_left_out_of_an_import_that_the_api_server_accepts(
    bench: Bench,
) -> Result<()> {
    definitions(&bench).await?;
    bench.apply(namespace("shop", true)).await?;
    let mut controllers = Controllers::start(&bench);
    let RemoteEvent::Exported { cluster, mut export } = exported(80) else { unreachable!("it is an export") };
    let port = |name: &str, protocol: &str, port, app: &str| ExportPort {
        name: name.into(),
        protocol: protocol.into(),
        port,
        app_protocol: app.into(),
    };
    export.ports.extend([
        port("high", "TCP", 70_000, ""),
        port("echo", "ICMP", 7, ""),
        port("Not A Label", "TCP", 81, ""),
        port("http", "TCP", 82, ""),
        port("app", "TCP", 83, "not a name"),
    ]);
    let pairs =
        |pairs: [(&str, &str); 2]| pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    export.labels = pairs([("team", "shop"), ("no key", "x")]);
    export.annotations = pairs([("Example.org/Note", "any text"), ("a/b/c", "x")]);
    let events = [
        RemoteEvent::Exported { cluster, export },
        offered(&["10.2.0.1", "169.254.169.254", "::ffff:10.2.0.2"]),
        RemoteEvent::Read(east()),
    ];
    controllers.tell(events).await?;
    let ready = |import: &Value| condition(import, "Ready").0 == "True";
    let import = bench.until_object("ServiceImport", "shop", "cart", ready).await?;
    assert_eq!(import["metadata"]["labels"], json!({"team": "shop"}));
    assert_eq!(import["metadata"]["annotations"]["Example.org/Note"], "any text");
    until_backends(&bench, &[("east", "10.2.0.1")]).await?;
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "app", "port": 83, "protocol": "TCP"}]);
    assert_eq!(import["spec"]["ports"], ports);
    let named = |status: &mcs::Status| status.withheld.get("shop/cart").is_some_and(|rows| rows.len() == 8);
    controllers.until("a reason for each field", named).await?;
    controllers.until("no failure", |status| status.failing.is_empty()).await?;

    // With the export all that was said of it is forgotten.
    let withdrawn = RemoteEvent::Withdrawn { cluster: east(), namespace: "shop".into(), name: "cart".into() };
    controllers.tell([withdrawn]).await?;
    controllers.until("nothing withheld", |status| status.withheld.is_empty()).await?;
    bench.until_gone("ServiceImport", "shop", "cart").await?;
    controllers.stop().await
}

pub(crate) async fn who_takes_over_writes_nothing_anew_and_removes_what_is_withdrawn(
    mut bench: Bench,
) -> Result<()> {
    shop(&bench).await?;
    let known = || [exported(80), offered(&["10.2.0.1"]), RemoteEvent::Read(east())];
    let backends = [("west", "10.72.1.10"), ("east", "10.2.0.1")];
    let ready = |import: &Value| condition(import, "Ready").0 == "True" && clusters(import).len() == 2;
    let controllers = Controllers::start(&bench);
    controllers.tell(known()).await?;
    bench.until_object("ServiceImport", "shop", "cart", ready).await?;
    let valid = |export: &Value| condition(export, "Ready").0 == "True";
    bench.until_object("ServiceExport", "shop", "cart", valid).await?;
    until_backends(&bench, &backends).await?;
    controllers.stop().await?;
    let before = written(&bench).await?;

    // The next one: it has read everything once a change of its own has come through.
    let controllers = Controllers::start(&bench);
    controllers.tell(known()).await?;
    bench.apply(slice("cart-2", &["10.72.1.12"])).await?;
    until_backends(&bench, &[backends[0], backends[1], ("west", "10.72.1.12")]).await?;
    let mut after = written(&bench).await?;
    after.retain(|name, _| before.contains_key(name));
    assert_eq!(after, before);

    // The API server goes away and comes back in between.
    bench.kill().await?;
    controllers.tell([offered(&["10.2.0.9"])]).await?;
    bench.restart().await?;
    until_backends(&bench, &[backends[0], ("east", "10.2.0.9"), ("west", "10.72.1.12")]).await?;
    controllers.stop().await?;

    // While nobody looks, the other cluster withdraws its export and leaves.
    let controllers = Controllers::start(&bench);
    controllers.tell([RemoteEvent::ClusterGone(east())]).await?;
    bench.until_object("ServiceImport", "shop", "cart", |import| clusters(import) == ["west"]).await?;
    until_backends(&bench, &[backends[0], ("west", "10.72.1.12")]).await?;
    controllers.stop().await
}

pub(crate) async fn a_namespace_that_does_not_take_part_or_is_going_gets_nothing(bench: Bench) -> Result<()> {
    definitions(&bench).await?;
    let mut controllers = Controllers::start(&bench);
    controllers.tell([exported(80), RemoteEvent::Read(east())]).await?;
    let withheld = |code: &'static str| {
        move |status: &mcs::Status| {
            let rows = status.withheld.get("shop/cart");
            rows.is_some_and(|rows| rows.iter().any(|row| row.reason.code() == code))
        }
    };
    controllers.until("no namespace", withheld("namespace-absent")).await?;
    bench.apply(namespace("shop", false)).await?;
    controllers.until("no part in the mesh", withheld("namespace-not-global")).await?;
    assert!(bench.values("ServiceImport", "shop").await?.is_empty());
    bench.apply(namespace("shop", true)).await?;
    let ready = |import: &Value| condition(import, "Ready").0 == "True";
    bench.until_object("ServiceImport", "shop", "cart", ready).await?;

    controllers.tell([offered(&["10.2.0.1"])]).await?;
    until_backends(&bench, &[("east", "10.2.0.1")]).await?;
    let import = bench.object("ServiceImport", "shop", "cart").await?.context("import")?;
    bench.apply(namespace("shop", false)).await?;
    let left = |import: &Value| condition(import, "Ready") == ("False".into(), "NamespaceNotGlobal".into());
    bench.until_object("ServiceImport", "shop", "cart", left).await?;
    until_backends(&bench, &[]).await?;
    bench.apply(namespace("shop", true)).await?;
    let again = bench.until_object("ServiceImport", "shop", "cart", ready).await?;
    assert_eq!(again["spec"], import["spec"], "the address is the same");
    until_backends(&bench, &[("east", "10.2.0.1")]).await?;
    controllers.stop().await
}
