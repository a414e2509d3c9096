//! What can be wrong, one by one, as objects of the API servers.

use e2e::{Authority, PemPair, Relay};
use serde_json::{Value, json};

use super::world::{World, tls};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Something that is wrong.
pub(super) struct Fault<'a> {
    pub(super) code: &'static str,
    pub(super) what: &'static str,
    /// 1 for an error, 3 for a warning.
    pub(super) exit: i32,
    /// Objects that are so, by cluster.
    pub(super) seed: Vec<(&'static str, Value)>,
    /// Objects of kube-system that are not there: cluster, kind, name.
    pub(super) without: Vec<(&'static str, &'static str, &'static str)>,
    /// More arguments.
    pub(super) args: Vec<String>,
    /// Something that is said.
    pub(super) found: String,
    /// A clock that is wrong.
    pub(super) ahead: Option<(&'a Relay, i64)>,
}

fn fault<'a>(code: &'static str, what: &'static str, exit: i32) -> Fault<'a> {
    let (seed, without, args, found, ahead) = Default::default();
    Fault { code, what, exit, seed, without, args, found, ahead }
}

impl<'a> Fault<'a> {
    fn with(mut self, cluster: &'static str, object: Value) -> Self {
        self.seed.push((cluster, object));
        self
    }

    fn without(mut self, cluster: &'static str, kind: &'static str, name: &'static str) -> Self {
        self.without.push((cluster, kind, name));
        self
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    fn says(mut self, text: &str) -> Self {
        text.clone_into(&mut self.found);
        self
    }

    fn ahead(mut self, relay: &'a Relay, seconds: i64) -> Self {
        self.ahead = Some((relay, seconds));
        self
    }
}

/// One or more for each check of `connect`.
pub(super) fn faults<'a>(world: &'a World<'_>) -> Vec<Fault<'a>> {
    let mut all = access();
    all.extend(identity(world));
    all.extend(network(world));
    all.extend(certificates(world));
    all.extend(stores(world));
    all.extend(others(world));
    all
}

fn access() -> Vec<Fault<'static>> {
    let role = |verbs: &[&str]| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "eve"},
            "rules": [{"apiGroups": ["", "cilium.io"], "resources": ["*"], "verbs": verbs}]})
    };
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "eve"}, "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "eve"}});
    let reader = fault("C003", "who reads only", 1)
        .with("west", role(&["get", "list"]))
        .with("west", binding.clone())
        .with("east", role(&["*"]))
        .with("east", binding)
        .args(&["--as=eve"])
        .says("permission to create secrets in namespace kube-system");
    vec![
        fault("C001", "half of the clusters", 1).args(&[
            "--context=west",
            "--context=east",
            "--context=dead",
            "--context=dead2",
            "--timeout=60s",
        ]),
        fault("C002", "a token that is none", 1).args(&["--context=west", "--context=stranger"]),
        reader,
        fault("C003", "who may do nothing", 1)
            .args(&["--as=mallory"])
            .says("permission to get configmaps/cilium-config in namespace kube-system"),
        fault("C004", "another namespace", 1).args(&["-n", "default"]),
    ]
}

fn set(world: &World<'_>, cluster: &'static str, key: &str, value: &str) -> Value {
    let mut config = world.config(cluster);
    config["data"][key] = value.into();
    config
}

fn identity(world: &World<'_>) -> Vec<Fault<'static>> {
    let peers = |names: &[(String, &str)]| {
        let entry = |address: &str| STANDARD.encode(format!("endpoints:\n- https://{address}:2379\n"));
        let data: serde_json::Map<_, _> =
            names.iter().map(|(name, address)| (name.clone(), entry(address).into())).collect();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cilium-kvstoremesh", "namespace": "kube-system"},
            "data": data})
    };
    let many: Vec<_> = (0..254).map(|number| (format!("c-{number}"), "192.0.2.1")).collect();
    let north = |address| peers(&[("north".to_owned(), address)]);
    vec![
        fault("C101", "one id", 1).with("east", set(world, "east", "cluster-id", "1")),
        fault("C102", "one cluster twice", 1).args(&["--context=west", "--context=again"]),
        fault("C103", "a name in upper case", 1).with("east", set(world, "east", "cluster-name", "East")),
        fault("C103", "no name", 1).with("east", set(world, "east", "cluster-name", "default")),
        fault("C104", "no id", 1).with("east", set(world, "east", "cluster-id", "0")),
        fault("C104", "an id out of range", 1).with("east", set(world, "east", "cluster-id", "256")),
        fault("C105", "another maximum", 1).with("east", set(world, "east", "max-connected-clusters", "511")),
        fault("C106", "256 clusters", 1).with("west", peers(&many)),
        fault("C107", "a third cluster", 3).with("west", north("192.0.2.1")),
        fault("C108", "a third cluster at two places", 3)
            .with("west", north("192.0.2.1"))
            .with("east", north("192.0.2.2")),
    ]
}

fn network(world: &World<'_>) -> Vec<Fault<'static>> {
    let plan = world.bed.cluster("east").plan();
    let cidr = |cidr: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "another"},
            "spec": {"cidrs": [cidr]}})
    };
    let node = |address: String| {
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "another"},
            "spec": {"addresses": [{"type": "InternalIP", "ip": address}]}})
    };
    let (pods, services) = (plan.pod_cidrs(7)[0].clone(), plan.service_cidrs()[0].clone());
    vec![
        fault("C201", "pods", 1).with("west", set(world, "west", "cluster-pool-ipv4-cidr", &pods)),
        fault("C202", "services", 3).with("west", cidr(&services)),
        fault("C202", "services and pods", 1).with("west", cidr(&pods)),
        fault("C203", "nodes", 1).with("west", node(plan.node(1).0.to_string())),
        fault("C203", "a node and pods", 1).with("west", node(plan.pod(1, 1).0.to_string())),
        fault("C204", "another tunnel", 1).with("west", set(world, "west", "tunnel-protocol", "geneve")),
        fault("C205", "more families", 3).with("west", set(world, "west", "enable-ipv6", "true")),
        fault("C206", "encryption", 3).with("west", set(world, "west", "enable-wireguard", "true")),
    ]
}

fn certificates(world: &World<'_>) -> Vec<Fault<'static>> {
    const REMOTE: &str = "clustermesh-apiserver-remote-cert";
    const SERVER: &str = "clustermesh-apiserver-server-cert";
    let ours = &world.authority;
    let another = Authority::new(&world.bed.dir().join("another-pki")).unwrap();
    let user = "remote-west";
    let between = |file: &str, dates| tls(REMOTE, ours, &ours.client_between(file, user, dates).unwrap());
    let day = |days: i64| {
        let date = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days))
            .to_zoned(jiff::tz::TimeZone::UTC);
        (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let client = |authority: &Authority, name: &str| -> PemPair {
        authority.client(&format!("fault-{name}"), name, None).unwrap()
    };
    let server = |authority: &Authority, name: &str| authority.server("fault-server", &[name]).unwrap();
    vec![
        fault("C301", "none", 1).without("west", "secret", REMOTE),
        fault("C302", "expired", 1).with("west", between("fault-old", [day(-400), day(-1)])),
        fault("C303", "of tomorrow", 1).with("west", between("fault-new", [day(2), day(400)])),
        fault("C304", "ends soon", 3).with("west", between("fault-soon", [day(-300), day(10)])),
        fault("C305", "signed by another", 1).with("west", tls(REMOTE, ours, &client(&another, user))),
        fault("C306", "another CA", 3)
            .with("west", tls(REMOTE, &another, &client(&another, user)))
            .with("west", tls(SERVER, &another, &server(&another, "*.mesh.cilium.io")))
            .args(&["--no-probe"]),
        fault("C307", "another server", 1).with("west", tls(SERVER, ours, &server(ours, "other.example"))),
        fault("C308", "another user", 1).with("west", tls(REMOTE, ours, &client(ours, "somebody"))),
    ]
}

fn stores(world: &World<'_>) -> Vec<Fault<'static>> {
    let address = |cluster: &str| world.bed.cluster(cluster).host().address();
    let at = |place: String| format!("--address=west={place}");
    let mut inside = world.service();
    inside["spec"] = json!({"type": "ClusterIP", "selector": {"k8s-app": "clustermesh-apiserver"}, "ports": [{"port": 2379}]});
    let legacy = world.authority.client("remote", "remote", None).unwrap();
    let legacy = tls("clustermesh-apiserver-remote-cert", &world.authority, &legacy);
    vec![
        fault("C401", "no Service", 1).without("west", "service", "clustermesh-apiserver"),
        fault("C402", "inside only", 3).with("west", inside).args(&["--no-probe"]),
        fault("C403", "nobody there", 3).args(&[&at(format!("{}:1", address("west")))]),
        fault("C404", "the API server", 1).args(&[&at(format!("{}:6443", address("west")))]),
        fault("C405", "the store of east", 1)
            .with("east", legacy)
            .args(&[&at(format!("{}:2379", address("east")))]),
    ]
}

fn others<'a>(world: &'a World<'_>) -> Vec<Fault<'a>> {
    let agents = |tag: &str| {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "cilium", "namespace": "kube-system"},
            "spec": {"selector": {"matchLabels": {"k8s-app": "cilium"}}, "template": {
                "metadata": {"labels": {"k8s-app": "cilium"}},
                "spec": {"containers": [{"name": "cilium-agent", "image": format!("quay.io/cilium/cilium:{tag}")}]}}}})
    };
    let users = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "clustermesh-remote-users", "namespace": "kube-system"},
        "data": {"users.yaml": "users: nobody\n"}});
    let late = ["--context=west", "--context=late"];
    vec![
        fault("C501", "two minutes", 1).args(&late).ahead(world.relay(), 120),
        fault("C501", "twenty seconds", 3).args(&late).ahead(world.relay(), -20),
        fault("C601", "three versions", 3).with("west", agents("v1.20.0")).with("east", agents("v1.17.3")),
        fault("C701", "users that are none", 1).with("west", users),
    ]
}
