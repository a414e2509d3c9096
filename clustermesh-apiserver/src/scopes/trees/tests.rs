use kube_watch::{Event, ObjectKey};
use kvstore::{Store, StoreConfig};
use mesh_runtime::Supervisor;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::*;
use crate::export::{Input, Kind, Settings, Sources};

const SOURCES: Sources =
    Sources { cilium: true, endpoint_slices: false, service_exports: true, services: true };
/// Its scopes choose by each thing that can be chosen by.
const SCOPES: &str = "
scopes:
- {name: by-name, clusters: [one], namespaces: [a]}
- {name: by-namespace-label, clusters: [two], namespaceSelector: {matchLabels: {tier: public}}}
- {name: by-label, clusters: [three], labels: {matchLabels: {tier: public}}}
- {name: by-both, clusters: [four], namespaces: [a, b], labels: {matchExpressions: [{key: tier, operator: Exists}]}}
- {name: everything, clusters: [five]}
- {name: nothing, clusters: [six], namespaces: []}
";

fn local() -> LocalCluster {
    LocalCluster::new("prod-eu", 7, 255).unwrap()
}

fn scopes() -> Scopes {
    Scopes::parse(SCOPES, &local().name).unwrap()
}

/// Something that happens to one of a few objects; nothing is its deletion.
type Happening = (Kind, usize, usize, Option<(usize, bool)>);

fn happening() -> impl Strategy<Value = Happening> {
    let kinds = [
        Kind::Namespace,
        Kind::CiliumNode,
        Kind::CiliumIdentity,
        Kind::CiliumEndpoint,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::ServiceExport,
    ];
    (
        prop::sample::select(kinds.to_vec()),
        0..3usize,
        0..2usize,
        prop::option::weighted(0.8, (0..2usize, any::<bool>())),
    )
}

/// The labels that make the difference, and one that has another value.
fn tier(public: bool) -> Value {
    if public { json!({"tier": "public"}) } else { json!({"tier2": "public"}) }
}

fn identity(namespace: usize, name: usize) -> u32 {
    458_752 + 256 + (namespace * 2 + name) as u32
}

fn input((kind, namespace, name, what): Happening) -> Input {
    fn event<T: serde::de::DeserializeOwned>(namespace: &str, name: &str, object: Option<Value>) -> Event<T> {
        let key = ObjectKey::new(namespace, name);
        match object {
            Some(object) => Event::Applied { key, object: serde_json::from_value(object).unwrap() },
            None => Event::Deleted { key },
        }
    }
    let (space, own) = (["a", "b", "c"][namespace], ["x", "y"][name]);
    let id = identity(namespace, name);
    match kind {
        Kind::Namespace => Input::Namespace(event(
            "",
            space,
            what.map(|(global, public)| {
                let annotations = json!({"clustermesh.cilium.io/global": (global == 0).to_string()});
                json!({"metadata": {"labels": tier(public), "annotations": annotations}})
            }),
        )),
        Kind::CiliumNode => Input::CiliumNode(event(
            "",
            own,
            what.map(|_| json!({"spec": {"addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}]}})),
        )),
        Kind::CiliumIdentity => Input::CiliumIdentity(event(
            "",
            &id.to_string(),
            what.map(|(_, public)| {
                let mut labels = json!({
                    "k8s:io.cilium.k8s.policy.cluster": "prod-eu", "k8s:io.kubernetes.pod.namespace": space,
                });
                labels[if public { "k8s:tier" } else { "k8s:tier2" }] = json!("public");
                json!({"security-labels": labels})
            }),
        )),
        Kind::CiliumEndpoint => Input::CiliumEndpoint(event(
            space,
            own,
            what.map(|(of, _)| {
                let address = format!("10.0.{namespace}.{name}");
                json!({"status": {"identity": {"id": identity(namespace, of)},
                    "networking": {"addressing": [{"ipv4": address}], "node": "192.0.2.1"}}})
            }),
        )),
        Kind::Service => Input::Service(event(
            space,
            own,
            what.map(|(_, public)| {
                let annotations = json!({"service.cilium.io/global": "true"});
                json!({"metadata": {"labels": tier(public), "annotations": annotations}})
            }),
        )),
        Kind::EndpointSlice => Input::EndpointSlice(event(
            space,
            own,
            what.map(|(of, _)| {
                let service = ["x", "y"][of];
                let labels = json!({"kubernetes.io/service-name": service});
                json!({"metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]})
            }),
        )),
        Kind::ServiceExport => Input::ServiceExport(event(
            space,
            own,
            what.map(|_| json!({"metadata": {"creationTimestamp": "2026-01-05T08:30:00Z"}})),
        )),
        other @ (Kind::CiliumEndpointSlice | Kind::Node | Kind::Pod | Kind::IdentityRecord) => {
            panic!("{other} is not made here")
        }
    }
}

fn lists() -> Vec<Input> {
    vec![
        Input::Namespace(Event::InitialListDone),
        Input::CiliumNode(Event::InitialListDone),
        Input::CiliumEndpoint(Event::InitialListDone),
        Input::Service(Event::InitialListDone),
        Input::EndpointSlice(Event::InitialListDone),
        Input::ServiceExport(Event::InitialListDone),
        Input::CiliumIdentity(Event::InitialListDone),
    ]
}

struct Bed {
    exporter: Exporter,
    trees: Trees,
    /// What the namespaces, Services and their slices are, as the test knows it.
    namespaces: BTreeMap<String, bool>,
    services: BTreeMap<String, bool>,
    slices: BTreeMap<String, String>,
    identities: BTreeMap<u32, bool>,
    _tasks: Supervisor,
}

impl Bed {
    fn new() -> Self {
        let settings = Settings {
            local: local(),
            default_global_namespace: true,
            proxy_name: String::new(),
            sources: SOURCES,
        };
        let tasks = Supervisor::new(Duration::from_secs(1));
        let store = Arc::new(Store::new(StoreConfig::default()).client());
        let (_, readable) = watch::channel(ExportsReadable::default());
        let about = (local(), Duration::from_secs(900), (true, ServiceFormat::default()));
        let trees = Trees::new(about, store, tasks.spawner(), readable);
        Self {
            exporter: Exporter::new(settings),
            trees,
            namespaces: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            identities: BTreeMap::new(),
            _tasks: tasks,
        }
    }

    /// As a round does it.
    fn apply(&mut self, inputs: Vec<Input>) {
        let (mut completed, mut touched) = (Vec::new(), BTreeSet::new());
        for input in inputs {
            let output = self.exporter.apply(input);
            touched.extend(output.changes.into_iter().map(|change| (change.resource, change.name)));
            touched.extend(output.relabelled);
            completed.extend(output.completed);
        }
        self.trees.apply(&self.exporter, &completed, touched);
    }

    fn happen(&mut self, happening: Happening) {
        let (kind, namespace, name, what) = happening;
        let (space, own) = (["a", "b", "c"][namespace], ["x", "y"][name]);
        fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        let public = what.map(|(_, public)| public);
        match kind {
            Kind::Namespace => set(&mut self.namespaces, space.to_owned(), public),
            Kind::Service => set(&mut self.services, format!("{space}/{own}"), public),
            Kind::EndpointSlice => {
                let of = what.map(|(of, _)| format!("{space}/{}", ["x", "y"][of]));
                set(&mut self.slices, format!("{space}/{own}"), of);
            }
            Kind::CiliumIdentity => set(&mut self.identities, identity(namespace, name), public),
            Kind::CiliumNode
            | Kind::CiliumEndpoint
            | Kind::CiliumEndpointSlice
            | Kind::Node
            | Kind::Pod
            | Kind::IdentityRecord
            | Kind::ServiceExport => {}
        }
        self.apply(vec![input(happening)]);
    }

    /// What the test knows of a desired key: its namespace, and whether it has the label that makes the difference.
    fn known(&self, resource: Resource, name: &str, value: &[u8]) -> (String, bool) {
        let space = || name.split_once('/').unwrap().0.to_owned();
        match resource {
            Resource::Nodes => panic!("nodes are in no namespace"),
            Resource::Identities => {
                let id: u32 = name.parse().unwrap();
                (["a", "b", "c"][(id as usize - 458_752 - 256) / 2].to_owned(), self.identities[&id])
            }
            Resource::Ip => {
                let value: Value = serde_json::from_slice(value).unwrap();
                let id = u32::try_from(value["ID"].as_u64().unwrap()).unwrap();
                // It is public only if the identity is known and exported.
                let exported =
                    self.exporter.desired(Resource::Identities).any(|(name, _)| *name == id.to_string());
                let public = exported && self.identities[&id];
                (value["K8sNamespace"].as_str().unwrap().to_owned(), public)
            }
            Resource::Services | Resource::ServiceExports => (space(), self.services[name]),
            Resource::EndpointSlices => (space(), self.services[&self.slices[name]]),
        }
    }

    fn check(&self) {
        let state = self.trees.state();
        for (scope, tree) in &state.trees {
            for resource in Resource::ALL {
                let mut expected = BTreeSet::new();
                for (name, value) in self.exporter.desired(resource) {
                    if resource == Resource::Nodes {
                        expected.insert(name);
                        continue;
                    }
                    let (namespace, public) = self.known(resource, &name, &value);
                    let inside = match &**scope {
                        "by-name" => namespace == "a",
                        "by-namespace-label" => self.namespaces[&namespace],
                        "by-label" => public,
                        "by-both" => namespace != "c" && public,
                        "everything" => true,
                        "nothing" => false,
                        other => panic!("{other}"),
                    };
                    if inside {
                        expected.insert(name);
                    }
                }
                let writer = &tree.writers[&resource];
                let missing: Vec<_> = expected.iter().filter(|name| !writer.wants(name.as_bytes())).collect();
                assert!(missing.is_empty(), "{scope} lacks {resource} {missing:?}");
                let wanted = writer.status().progress.wanted;
                assert_eq!(wanted, expected.len(), "{scope} has more {resource} than {expected:?}");
            }
        }
    }
}

/// Whatever happens in whatever order, each tree holds the desired keys that are in its scope and no others; a flip of a
/// label moves them at once.
#[test]
fn a_tree_holds_what_is_in_its_scope_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let steps =
        (prop::collection::vec(happening(), 0..12), prop::collection::vec(happening(), 1..40), 0..40usize);
    let mut runner = TestRunner::new(ProptestConfig::default());
    let ran = runner.run(&steps, |(before, after, declared_at)| {
        let mut bed = Bed::new();
        before.into_iter().for_each(|happening| bed.happen(happening));
        bed.apply(lists());
        for (nth, happening) in after.into_iter().enumerate() {
            if nth == declared_at {
                bed.trees.declare(&scopes(), Some(&bed.exporter));
                bed.check();
            }
            bed.happen(happening);
            bed.check();
        }
        Ok(())
    });
    ran.unwrap();
}

/// The lists end one by one: no tree is told to be whole before everything is known by which it is chosen.
#[test]
fn endpoints_that_are_chosen_by_labels_wait_for_their_identities() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut bed = Bed::new();
    bed.trees.declare(&scopes(), Some(&bed.exporter));
    for happening in [
        (Kind::Namespace, 0, 0, Some((0, false))),
        (Kind::CiliumEndpoint, 0, 0, Some((0, true))),
        (Kind::CiliumIdentity, 0, 0, Some((0, true))),
    ] {
        bed.happen(happening);
    }
    let mut lists = lists();
    let identities = lists.pop().unwrap();
    bed.apply(lists);
    let endpoints = |bed: &Bed, scope: &str| {
        bed.trees.state().trees[scope].writers[&Resource::Ip].status().progress.wanted
    };
    assert_eq!((endpoints(&bed, "by-name"), endpoints(&bed, "by-label")), (1, 0));
    bed.apply(vec![identities]);
    assert_eq!(endpoints(&bed, "by-label"), 1);
    bed.check();
}

#[test]
fn what_a_scope_lacks_is_shown_with_its_reason() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut bed = Bed::new();
    bed.trees.declare(&scopes(), None);
    for happening in [
        (Kind::Namespace, 0, 0, Some((0, false))),
        (Kind::Namespace, 1, 0, Some((0, false))),
        (Kind::Service, 1, 0, Some((0, false))),
    ] {
        bed.happen(happening);
    }
    bed.apply(lists());
    let rows = bed.trees.status(Some(&bed.exporter));
    let of = |scope: &str| rows.iter().find(|row| row.name == scope).unwrap();
    let by_name = of("by-name");
    assert_eq!((by_name.withheld_keys, by_name.keys["services"]), (1, 0));
    let OutsideKey { resource, key, reason, detail } = &by_name.withheld[0];
    assert_eq!((*resource, key.as_str(), *reason), (Resource::Services, "b/x", Reason::NotInScope));
    assert_eq!(detail, "scope by-name of one: namespace b is not in it");
    assert_eq!(
        of("by-label").withheld[0].detail,
        "scope by-label of three: its labels are not those of the scope"
    );
    assert_eq!((of("everything").withheld_keys, of("everything").keys["services"]), (0, 1));
}
