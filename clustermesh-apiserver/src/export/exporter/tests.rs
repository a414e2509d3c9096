use mesh_types::NumericIdentity;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

const CILIUM: Sources =
    Sources { cilium: true, endpoint_slices: false, service_exports: true, services: true };
const DERIVED: Sources =
    Sources { cilium: false, endpoint_slices: false, service_exports: false, services: true };

fn settings(sources: Sources) -> Settings {
    Settings {
        local: LocalCluster::new("prod-eu", 7, 255).unwrap(),
        default_global_namespace: true,
        proxy_name: String::new(),
        sources,
    }
}

fn event<T: DeserializeOwned>(key: &ObjectKey, object: Option<Value>) -> Event<T> {
    match object {
        Some(object) => Event::Applied { key: key.clone(), object: serde_json::from_value(object).unwrap() },
        None => Event::Deleted { key: key.clone() },
    }
}

fn input(kind: Kind, key: &ObjectKey, object: Option<Value>) -> Input {
    match kind {
        Kind::Namespace => Input::Namespace(event(key, object)),
        Kind::CiliumNode => Input::CiliumNode(event(key, object)),
        Kind::CiliumIdentity => Input::CiliumIdentity(event(key, object)),
        Kind::CiliumEndpoint => Input::CiliumEndpoint(event(key, object)),
        Kind::CiliumEndpointSlice => Input::CiliumEndpointSlice(event(key, object)),
        Kind::Node => Input::Node(event(key, object)),
        Kind::Pod => Input::Pod(event(key, object)),
        Kind::Service => Input::Service(event(key, object)),
        Kind::EndpointSlice => Input::EndpointSlice(event(key, object)),
        Kind::ServiceExport => Input::ServiceExport(event(key, object)),
        Kind::IdentityRecord => panic!("records are no objects"),
    }
}

fn listed(kind: Kind) -> Input {
    match kind {
        Kind::Namespace => Input::Namespace(Event::InitialListDone),
        Kind::CiliumNode => Input::CiliumNode(Event::InitialListDone),
        Kind::CiliumIdentity => Input::CiliumIdentity(Event::InitialListDone),
        Kind::CiliumEndpoint => Input::CiliumEndpoint(Event::InitialListDone),
        Kind::CiliumEndpointSlice => Input::CiliumEndpointSlice(Event::InitialListDone),
        Kind::Node => Input::Node(Event::InitialListDone),
        Kind::Pod => Input::Pod(Event::InitialListDone),
        Kind::Service => Input::Service(Event::InitialListDone),
        Kind::EndpointSlice => Input::EndpointSlice(Event::InitialListDone),
        Kind::ServiceExport => Input::ServiceExport(Event::InitialListDone),
        Kind::IdentityRecord => panic!("records are no objects"),
    }
}

/// An exporter and what a writer that does as it says has written.
struct Bench {
    exporter: Exporter,
    written: BTreeMap<(Resource, Arc<str>), Bytes>,
    completed: Vec<Resource>,
}

impl Bench {
    fn new(sources: Sources) -> Self {
        Self { exporter: Exporter::new(settings(sources)), written: BTreeMap::new(), completed: Vec::new() }
    }

    /// Everything is listed, and nothing is there.
    fn listed(sources: Sources) -> Self {
        let mut bench = Self::new(sources);
        for kind in sources.kinds().into_iter().filter(|kind| *kind != Kind::IdentityRecord) {
            bench.apply(listed(kind));
        }
        if !sources.cilium {
            bench.number();
        }
        assert_eq!(bench.completed.len(), Resource::ALL.len());
        bench
    }

    fn apply(&mut self, input: Input) {
        let Output { completed, changes, .. } = self.exporter.apply(input);
        for Change { resource, name, value } in changes {
            assert!(self.completed.contains(&resource), "{resource} is not complete");
            match value {
                Some(value) => drop(self.written.insert((resource, name), value)),
                None => {
                    drop(self.written.remove(&(resource, name)).expect("only what was written is deleted"))
                }
            }
        }
        for resource in completed {
            self.completed.push(resource);
            self.written
                .extend(self.exporter.desired(resource).map(|(name, value)| ((resource, name), value)));
        }
    }

    fn set(&mut self, kind: Kind, namespace: &str, name: &str, object: Value) {
        self.apply(input(kind, &ObjectKey::new(namespace, name), Some(object)));
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.apply(input(kind, &ObjectKey::new(namespace, name), None));
    }

    fn namespace(&mut self, name: &str, global: bool) {
        let annotations = json!({"clustermesh.cilium.io/global": global.to_string()});
        self.set(Kind::Namespace, "", name, json!({"metadata": {"annotations": annotations}}));
    }

    /// Gives each label set that wants one a number that follows from its text.
    fn number(&mut self) {
        let wanted = self.exporter.wanted_identities();
        let number = |labels: &str| {
            let sum: u32 =
                labels.bytes().enumerate().map(|(at, byte)| (at as u32 + 1) * u32::from(byte)).sum();
            NumericIdentity(458_752 + sum % 65_536)
        };
        let records = wanted.into_iter().fold(Records::default(), |records, labels| {
            let number = number(&labels);
            records.with(labels, number)
        });
        self.apply(Input::Identities(RecordsInput(Arc::new(records))));
    }

    fn names(&self, wanted: Resource) -> Vec<&str> {
        let of = self.written.keys().filter(|(resource, _)| *resource == wanted);
        of.map(|(_, name)| &**name).collect()
    }

    fn reasons(&self, object: &str) -> Vec<Reason> {
        let rows = self.exporter.withheld().filter(|row| row.object == object);
        rows.map(|row| row.reason).collect()
    }
}

fn global_service() -> Value {
    json!({
        "metadata": {"annotations": {"service.cilium.io/global": "true"}},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    })
}

fn slice_of(service: &str, ip: &str) -> Value {
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
        "ports": [{"port": 8080}], "endpoints": [{"addresses": [ip]}],
    })
}

fn endpoint(ip: &str) -> Value {
    json!({"status": {"identity": {"id": 459_008}, "networking": {"addressing": [{"ipv4": ip}]}}})
}

fn identity(namespace: &str) -> Value {
    json!({"security-labels": {
        "k8s:io.cilium.k8s.policy.cluster": "prod-eu", "k8s:io.kubernetes.pod.namespace": namespace,
    }})
}

fn export() -> Value {
    json!({"metadata": {"creationTimestamp": "2026-01-05T08:30:00Z"}})
}

#[test]
fn a_resource_says_nothing_before_all_it_is_made_of_is_listed() {
    let mut bench = Bench::new(CILIUM);
    bench.namespace("shop", true);
    bench.set(Kind::Service, "shop", "cart", global_service());
    bench.apply(listed(Kind::Service));
    bench.apply(listed(Kind::Namespace));
    assert_eq!(bench.completed, [], "without its slices the service would lose its backends in every peer");
    bench.set(Kind::EndpointSlice, "shop", "cart-1", slice_of("cart", "10.1.0.1"));
    bench.apply(listed(Kind::EndpointSlice));
    assert_eq!(bench.completed, [Resource::Services, Resource::EndpointSlices]);
    let value = &bench.written[&(Resource::Services, "shop/cart".into())];
    assert!(value.windows(8).any(|bytes| bytes == b"10.1.0.1"));
    bench.apply(listed(Kind::ServiceExport));
    bench.apply(listed(Kind::CiliumNode));
    bench.apply(listed(Kind::CiliumIdentity));
    bench.apply(listed(Kind::CiliumEndpoint));
    bench.apply(listed(Kind::CiliumEndpoint));
    assert_eq!(bench.completed.len(), Resource::ALL.len(), "and each only once");
}

#[test]
fn what_is_switched_off_is_complete_and_empty_at_once() {
    let mut bench = Bench::new(Sources { service_exports: false, ..CILIUM });
    bench.apply(listed(Kind::CiliumNode));
    assert_eq!(bench.completed, [Resource::Nodes, Resource::ServiceExports]);
    let mut bench = Bench::listed(Sources { services: false, ..CILIUM });
    bench.namespace("shop", true);
    bench.set(Kind::Service, "shop", "cart", global_service());
    bench.set(Kind::EndpointSlice, "shop", "cart-1", slice_of("cart", "10.1.0.1"));
    assert!(bench.completed.contains(&Resource::Services));
    assert_eq!(bench.written.keys().collect::<Vec<_>>(), [&(Resource::EndpointSlices, "shop/cart-1".into())]);
}

#[test]
fn a_slice_goes_out_with_its_service_and_its_namespace_whichever_comes_first() {
    let mut bench = Bench::listed(CILIUM);
    let key = (Resource::EndpointSlices, "shop/cart-1".into());
    bench.set(Kind::EndpointSlice, "shop", "cart-1", slice_of("cart", "10.1.0.1"));
    bench.namespace("shop", true);
    assert!(bench.written.is_empty(), "nobody shares it");
    bench.set(Kind::Service, "shop", "cart", global_service());
    assert!(bench.written.contains_key(&key));
    bench.namespace("shop", false);
    assert!(bench.written.is_empty());
    bench.namespace("shop", true);
    bench.set(Kind::Service, "shop", "cart", json!({}));
    assert!(!bench.written.contains_key(&key), "the Service is not global any more");
    bench.set(Kind::Service, "shop", "cart", global_service());
    bench.set(Kind::EndpointSlice, "shop", "cart-1", slice_of("other", "10.1.0.1"));
    assert!(!bench.written.contains_key(&key), "it belongs to a Service that does not exist");
}

#[test]
fn a_namespace_takes_out_identities_endpoints_services_and_exports_at_once() {
    let mut bench = Bench::listed(CILIUM);
    bench.namespace("shop", true);
    bench.set(Kind::CiliumNode, "", "worker-1", json!({}));
    bench.set(Kind::CiliumIdentity, "", "459008", identity("shop"));
    bench.set(Kind::CiliumEndpoint, "shop", "cart-0", endpoint("10.1.0.1"));
    bench.set(Kind::Service, "shop", "cart", global_service());
    bench.set(Kind::EndpointSlice, "shop", "cart-1", slice_of("cart", "10.1.0.1"));
    bench.set(Kind::ServiceExport, "shop", "cart", export());
    let all = bench.written.clone();
    assert_eq!(all.len(), Resource::ALL.len());
    bench.namespace("shop", false);
    assert_eq!(bench.written.keys().map(|(resource, _)| *resource).collect::<Vec<_>>(), [Resource::Nodes]);
    assert_eq!(bench.reasons("shop/cart"), [Reason::NamespaceNotGlobal; 2]);
    bench.namespace("shop", true);
    assert_eq!(bench.written, all);
    bench.delete(Kind::Namespace, "", "shop");
    assert_eq!(bench.written.len(), 1);
    assert_eq!(bench.reasons("459008"), [Reason::NamespaceUnknown]);
}

#[test]
fn an_undecodable_object_keeps_its_last_good_version_and_stops_nothing_else() {
    let mut bench = Bench::listed(CILIUM);
    bench.set(Kind::CiliumNode, "", "worker-1", json!({"spec": {"bootid": "x"}}));
    let before = bench.written.clone();
    let bad = |name: &str| {
        let error = kube_watch::DecodeError::invalid("shape");
        Input::CiliumNode(Event::Undecodable { key: ObjectKey::new("", name), error })
    };
    bench.apply(bad("worker-1"));
    bench.apply(bad("never-good"));
    bench.set(Kind::CiliumNode, "", "worker-2", json!({}));
    assert_eq!(bench.names(Resource::Nodes), ["worker-1", "worker-2"]);
    assert_eq!(
        bench.written[&(Resource::Nodes, "worker-1".into())],
        before[&(Resource::Nodes, "worker-1".into())]
    );
    assert_eq!(bench.reasons("worker-1"), [Reason::ObjectUndecodable]);
    assert_eq!(bench.reasons("never-good"), [Reason::ObjectUndecodable]);
    bench.set(Kind::CiliumNode, "", "worker-1", json!({}));
    assert_eq!(bench.reasons("worker-1"), []);
    bench.delete(Kind::CiliumNode, "", "never-good");
    assert_eq!(bench.reasons("never-good"), []);
}

#[test]
fn news_are_told_once_and_not_before_everything_is_there() {
    let mut bench = Bench::new(CILIUM);
    bench.set(Kind::CiliumEndpoint, "shop", "cart-0", endpoint("10.1.0.1"));
    bench.apply(listed(Kind::CiliumEndpoint));
    assert_eq!(bench.exporter.take_news(), [], "its namespace may still come");
    bench.apply(listed(Kind::Namespace));
    let news = bench.exporter.take_news();
    assert_eq!(news.iter().map(|row| row.reason).collect::<Vec<_>>(), [Reason::NamespaceUnknown]);
    assert_eq!(bench.exporter.take_news(), []);
    assert_eq!(bench.exporter.withheld_counts()[&(Kind::CiliumEndpoint, Reason::NamespaceUnknown)], 1);
}

#[test]
fn two_endpoints_with_one_address_take_turns() {
    let mut bench = Bench::listed(CILIUM);
    bench.namespace("shop", true);
    bench.set(Kind::CiliumEndpoint, "shop", "old", endpoint("10.1.0.1"));
    bench.set(Kind::CiliumEndpoint, "shop", "new", endpoint("10.1.0.1"));
    let owner = |bench: &Bench| {
        let value = &bench.written[&(Resource::Ip, "10.1.0.1".into())];
        serde_json::from_slice::<Value>(value).unwrap()["K8sPodName"].as_str().unwrap().to_owned()
    };
    assert_eq!((owner(&bench), bench.reasons("shop/new")), ("old".into(), vec![Reason::AddressInUse]));
    bench.delete(Kind::CiliumEndpoint, "shop", "old");
    assert_eq!((owner(&bench), bench.reasons("shop/new")), ("new".into(), vec![]));
    bench.delete(Kind::CiliumEndpoint, "shop", "new");
    assert_eq!(bench.names(Resource::Ip), [""; 0]);
}

#[test]
fn an_endpoint_that_moves_between_slices_keeps_its_key() {
    let mut bench = Bench::listed(Sources { endpoint_slices: true, ..CILIUM });
    bench.namespace("shop", true);
    let slice = |ips: &[&str]| {
        let endpoint =
            |ip: &&str| json!({"name": ip, "id": 459_008, "networking": {"addressing": [{"ipv4": ip}]}});
        json!({"namespace": "shop", "endpoints": ips.iter().map(endpoint).collect::<Vec<_>>()})
    };
    bench.set(Kind::CiliumEndpointSlice, "", "a", slice(&["10.1.0.1", "10.1.0.2"]));
    bench.set(Kind::CiliumEndpointSlice, "", "b", slice(&["10.1.0.2", "10.1.0.3"]));
    bench.set(Kind::CiliumEndpointSlice, "", "a", slice(&["10.1.0.1"]));
    assert_eq!(bench.names(Resource::Ip), ["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    bench.namespace("shop", false);
    assert_eq!(bench.names(Resource::Ip), [""; 0]);
}

#[test]
fn derived_endpoints_wait_for_the_numbers_of_their_labels() {
    let mut bench = Bench::new(DERIVED);
    bench.namespace("shop", true);
    let pod = |app: &str, ip: &str| json!({"metadata": {"labels": {"app": app}}, "status": {"podIP": ip, "phase": "Running", "hostIP": "192.0.2.1"}});
    bench.set(Kind::Pod, "shop", "cart-0", pod("cart", "10.1.0.1"));
    for kind in [Kind::Namespace, Kind::Node, Kind::Pod, Kind::Service, Kind::EndpointSlice] {
        bench.apply(listed(kind));
    }
    let complete = |bench: &Bench| bench.exporter.is_complete(Resource::Ip);
    assert!(bench.exporter.wanted_is_complete() && !complete(&bench), "numbers are not read yet");
    bench.apply(Input::Identities(RecordsInput(Arc::default())));
    assert!(!complete(&bench), "the pod has none yet");
    bench.number();
    assert!(complete(&bench));
    assert_eq!((bench.names(Resource::Ip).len(), bench.names(Resource::Identities).len()), (1, 1));
    let generation = bench.exporter.wanted_generation();
    bench.set(Kind::Pod, "shop", "cart-1", pod("cart", "10.1.0.2"));
    assert_eq!(bench.exporter.wanted_generation(), generation, "its workload has a number");
    assert_eq!(bench.names(Resource::Ip), ["10.1.0.1", "10.1.0.2"]);
    bench.set(Kind::Pod, "shop", "db-0", pod("db", "10.1.0.3"));
    assert!(bench.exporter.wanted_generation() > generation);
    assert_eq!(bench.names(Resource::Ip).len(), 2);
    bench.number();
    assert_eq!(bench.names(Resource::Ip).len(), 3);
    bench.namespace("shop", false);
    assert_eq!((bench.names(Resource::Ip).len(), bench.names(Resource::Identities).len()), (0, 0));
    assert_eq!(bench.exporter.wanted_identities(), BTreeSet::new());
}

#[test]
fn a_nodes_wireguard_key_marks_the_addresses_behind_it() {
    let mut bench = Bench::listed(DERIVED);
    bench.namespace("shop", true);
    bench.set(Kind::Pod, "shop", "a", json!({"status": {"podIP": "10.1.0.1", "hostIP": "192.0.2.1"}}));
    bench.number();
    let key = |bench: &Bench| {
        let value = &bench.written[&(Resource::Ip, "10.1.0.1".into())];
        serde_json::from_slice::<Value>(value).unwrap()["Key"].clone()
    };
    let node = |annotations: Value| {
        json!({"metadata": {"annotations": annotations},
               "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
    };
    bench.set(Kind::Node, "", "worker-1", node(json!({})));
    assert_eq!(key(&bench), 0);
    bench.set(Kind::Node, "", "worker-1", node(json!({"network.cilium.io/wg-pub-key": "k"})));
    assert_eq!(key(&bench), 255);
    bench.delete(Kind::Node, "", "worker-1");
    assert_eq!(key(&bench), 0);
}

/// One object of a small world, in one of a few versions; `None` is gone.
type Op = (Kind, ObjectKey, Option<Value>);

fn version(kind: Kind, id: u8, variant: u8) -> (ObjectKey, Value) {
    let namespace = if id.is_multiple_of(2) { "shop" } else { "bank" };
    match kind {
        Kind::Namespace => {
            let annotations = match variant {
                0 => json!({"clustermesh.cilium.io/global": "false"}),
                _ => json!({}),
            };
            let labels = json!({"team": variant});
            let labels = if variant == 2 { json!({"team": "b"}) } else { json!({"a": labels.to_string()}) };
            (
                ObjectKey::new("", namespace),
                json!({"metadata": {"annotations": annotations, "labels": labels}}),
            )
        }
        Kind::CiliumNode => {
            (ObjectKey::new("", &id.to_string()), json!({"spec": {"bootid": variant.to_string()}}))
        }
        Kind::CiliumIdentity => {
            let elsewhere = if variant == 0 { namespace } else { "bank" };
            (ObjectKey::new("", &(459_000 + u32::from(id)).to_string()), identity(elsewhere))
        }
        Kind::CiliumEndpoint => {
            (ObjectKey::new(namespace, &id.to_string()), endpoint(&format!("10.{id}.0.{variant}")))
        }
        Kind::Service => {
            let mut service = global_service();
            service["metadata"]["labels"] = json!({"v": variant.to_string()});
            if variant == 2 {
                service["metadata"]["annotations"] = json!({});
            }
            (ObjectKey::new(namespace, "svc"), service)
        }
        Kind::EndpointSlice => {
            let service = if variant == 2 { "other" } else { "svc" };
            let name = (id / 2).to_string();
            (ObjectKey::new(namespace, &name), slice_of(service, &format!("10.9.{id}.{variant}")))
        }
        Kind::ServiceExport => {
            let mut export = export();
            export["spec"] = json!({"exportedLabels": {"v": variant.to_string()}});
            (ObjectKey::new(namespace, "svc"), export)
        }
        Kind::Node => {
            let key = if variant == 2 { json!({"network.cilium.io/wg-pub-key": "k"}) } else { json!({}) };
            let address = json!({"type": "InternalIP", "address": format!("192.0.2.{id}")});
            let node = json!({"metadata": {"annotations": key}, "status": {"addresses": [address]}});
            (ObjectKey::new("", &id.to_string()), node)
        }
        Kind::Pod => {
            let phase = if variant == 2 { "Succeeded" } else { "Running" };
            let pod = json!({
                "metadata": {"labels": {"app": variant.to_string()}},
                "status": {"podIP": format!("10.{id}.0.1"), "hostIP": format!("192.0.2.{}", id % 3), "phase": phase},
            });
            (ObjectKey::new(namespace, &id.to_string()), pod)
        }
        Kind::CiliumEndpointSlice | Kind::IdentityRecord => unreachable!("not in the small world"),
    }
}

fn ops(sources: Sources) -> impl Strategy<Value = Vec<Op>> {
    let kinds: Vec<_> = sources.kinds().into_iter().filter(|kind| *kind != Kind::IdentityRecord).collect();
    let op = (prop::sample::select(kinds), 0u8..4, 0u8..4).prop_map(|(kind, id, variant)| {
        let (key, object) = version(kind, id, variant.min(2));
        (kind, key, (variant < 3).then_some(object))
    });
    prop::collection::vec(op, 0..60)
}

/// What the objects that are left in the end give when they come one after the other, to an exporter that knows nothing else.
fn from_scratch(sources: Sources, ops: &[Op]) -> Bench {
    let mut last: BTreeMap<(Kind, ObjectKey), Value> = BTreeMap::new();
    for (kind, key, object) in ops {
        match object {
            Some(object) => drop(last.insert((*kind, key.clone()), object.clone())),
            None => drop(last.remove(&(*kind, key.clone()))),
        }
    }
    let mut bench = Bench::new(sources);
    for ((kind, key), object) in last {
        bench.apply(input(kind, &key, Some(object)));
    }
    for kind in sources.kinds().into_iter().filter(|kind| *kind != Kind::IdentityRecord) {
        bench.apply(listed(kind));
    }
    if !sources.cilium {
        bench.number();
    }
    bench
}

fn rows(bench: &Bench) -> BTreeSet<(Kind, String, Reason)> {
    bench.exporter.withheld().map(|row| (row.kind, row.object, row.reason)).collect()
}

proptest! {
    /// Any order of events, with the lists ending at any point, leads to the keys that the final objects give.
    #[test]
    fn any_order_converges(ops in ops(CILIUM), done_at in 0usize..60) {
        let mut bench = Bench::new(CILIUM);
        for (at, (kind, key, object)) in ops.iter().enumerate() {
            if at == done_at {
                CILIUM.kinds().into_iter().for_each(|kind| bench.apply(listed(kind)));
            }
            bench.apply(input(*kind, key, object.clone()));
        }
        CILIUM.kinds().into_iter().for_each(|kind| bench.apply(listed(kind)));
        let expected = from_scratch(CILIUM, &ops);
        prop_assert_eq!(&bench.written, &expected.written);
        prop_assert_eq!(rows(&bench), rows(&expected));
    }

    /// The same where nodes, identities and endpoints are derived, with numbers arriving at any point.
    #[test]
    fn any_order_converges_when_derived(ops in ops(DERIVED), done_at in 0usize..60, numbered in 1usize..7) {
        let mut bench = Bench::new(DERIVED);
        let done = |bench: &mut Bench| {
            let kinds = DERIVED.kinds().into_iter().filter(|kind| *kind != Kind::IdentityRecord);
            kinds.for_each(|kind| bench.apply(listed(kind)));
        };
        for (at, (kind, key, object)) in ops.iter().enumerate() {
            if at == done_at {
                done(&mut bench);
            }
            bench.apply(input(*kind, key, object.clone()));
            if at % numbered == 0 {
                bench.number();
            }
        }
        done(&mut bench);
        bench.number();
        let expected = from_scratch(DERIVED, &ops);
        prop_assert_eq!(&bench.written, &expected.written);
        prop_assert_eq!(rows(&bench), rows(&expected));
    }
}
