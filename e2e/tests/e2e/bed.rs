//! The bed itself: what the other modules build upon must not be what fails.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Result, bail, ensure};
use e2e::{Authority, Bed, ClusterSpec, DaemonSpec, Etcdctl, MeshEtcd, NetNs, Signal, objects, tool};
use serde_json::json;

const SOON: Duration = Duration::from_secs(120);

/// Clusters without an API: they start at once.
fn machines(name: &str, clusters: &[&str]) -> Bed {
    let specs = clusters.iter().zip(1..).map(|(name, id)| ClusterSpec::new(name, id).without_kubernetes());
    specs.fold(Bed::builder(name), e2e::BedBuilder::with).start().unwrap()
}

/// Processes that have `path` in their command line: the bed's, as they all keep something in its directory.
fn processes_with(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    let commands =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let shown = commands.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    shown.filter(|command| command.contains(path)).collect()
}

/// A link from a namespace of the test into `other`; it lives exactly as long as `other` does.
fn tether(other: &NetNs) -> NetNs {
    let witness = NetNs::new("witness").unwrap();
    witness
        .ip(&[format!("link add tether type veth peer name tether netns {}", other.path().display())])
        .unwrap();
    witness
}

fn ensure_cut(witness: &NetNs) -> Result<()> {
    let links = witness.exec("ip").args(["-o", "link"]).stdout()?;
    ensure!(!links.contains("tether"), "the namespace still exists");
    Ok(())
}

fn wait_until<T>(what: &str, mut check: impl FnMut() -> Result<T>) -> T {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{what}: {error:#}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn two_api_servers_keep_what_is_applied_and_do_not_mix_it_up() {
    let bed = Bed::builder("apis").cluster("prod-eu", 7).cluster("us-east", 9).start().unwrap();
    let (eu, us) = (bed.cluster("prod-eu").kubectl(), bed.cluster("us-east").kubectl());
    eu.apply_object(&objects::namespace("shop")).unwrap();
    let global = [("service.cilium.io/global", "true")];
    eu.apply_object(&objects::service("shop", "cart", 80, &global)).unwrap();
    let backends: [IpAddr; 1] = ["10.71.1.11".parse().unwrap()];
    eu.apply_object(&objects::endpoint_slice("shop", "cart", "cart-1", &backends, 8080)).unwrap();

    let service = eu.get("shop", "service", "cart").unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    assert!(address.starts_with("10.111."), "{address} is not of the first cluster's range");
    assert_eq!(service["metadata"]["annotations"]["service.cilium.io/global"], "true");
    assert_eq!(eu.list("shop", "endpointslices").unwrap().len(), 1);
    assert!(us.get("shop", "service", "cart").is_err());
    us.apply_object(&objects::namespace("shop")).unwrap();
    us.apply_object(&objects::service("shop", "cart", 80, &[])).unwrap();
    let address = us.get("shop", "service", "cart").unwrap()["spec"]["clusterIP"].clone();
    assert!(
        address.as_str().unwrap().starts_with("10.112."),
        "{address} is not of the second cluster's range"
    );

    // Status of a kind that keeps it apart.
    eu.patch("shop", "service", "cart", &json!({"spec": {"type": "LoadBalancer"}})).unwrap();
    let status = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart", "namespace": "shop"},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}});
    eu.apply_status(&status.to_string()).unwrap();
    let service = eu.get("shop", "service", "cart").unwrap();
    assert_eq!(service["status"]["loadBalancer"]["ingress"][0]["ip"], "198.51.100.7");

    eu.delete("shop", "service", "cart").unwrap();
    eu.delete("shop", "service", "cart").unwrap();
    assert!(eu.get("shop", "service", "cart").is_err());
    eu.delete_namespace("shop").unwrap();
    bed.eventually("the namespace is gone", SOON, || {
        ensure!(eu.get("", "namespace", "shop").is_err(), "it is still there");
        Ok(())
    });
}

#[test]
fn the_custom_resources_take_what_cilium_and_mcs_clusters_hold() {
    let spec = ClusterSpec::new("prod-eu", 7).with_service_cidrs(["10.170.0.0/16", "fd00:170::/112"]);
    let bed = Bed::builder("crds").with(spec).start().unwrap();
    let cluster = bed.cluster("prod-eu");
    let kubectl = cluster.kubectl();
    assert_eq!(kubectl.get("default", "service", "kubernetes").unwrap()["spec"]["clusterIP"], "10.170.0.1");
    kubectl.apply_object(&objects::namespace("shop")).unwrap();
    let node = cluster.node("worker-1").unwrap();
    let pod = node.pod("cart-0").unwrap();
    let mut cilium_node = objects::cilium_node(&node);
    kubectl.apply_object(&cilium_node).unwrap();
    kubectl.apply_object(&objects::cilium_identity(459_008, "prod-eu", "shop", &[("app", "cart")])).unwrap();
    kubectl.apply_object(&objects::cilium_endpoint(&pod, "shop", 459_008)).unwrap();
    kubectl.apply_object(&objects::cilium_endpoint_slice("ces-1", "shop", &[(&pod, 459_008)])).unwrap();

    // What a consumer's types may not accept, the API must.
    cilium_node["metadata"]["name"] = json!("broken");
    cilium_node["spec"]["ipam"]["podCIDRs"] = json!(["10.71.300.0/24"]);
    kubectl.apply_object(&cilium_node).unwrap();
    let stored = kubectl.get("", "ciliumnode", "broken").unwrap();
    assert_eq!(stored["spec"]["ipam"]["podCIDRs"], json!(["10.71.300.0/24"]));

    let identity = kubectl.get("", "ciliumidentity", "459008").unwrap();
    assert_eq!(identity["security-labels"]["k8s:app"], "cart");
    let endpoint = kubectl.get("shop", "ciliumendpoint", "cart-0").unwrap();
    assert_eq!(endpoint["status"]["networking"]["addressing"][0]["ipv4"], pod.address().to_string());
    let slice = kubectl.get("", "ciliumendpointslice", "ces-1").unwrap();
    assert_eq!((&slice["namespace"], &slice["endpoints"][0]["name"]), (&json!("shop"), &json!("cart-0")));

    // Both versions of the MCS API are one object.
    let mut export = objects::service_export("shop", "cart");
    export["apiVersion"] = json!("multicluster.x-k8s.io/v1alpha1");
    export["spec"] = json!({"exportedLabels": {"tier": "backend"}});
    kubectl.apply_object(&export).unwrap();
    let read = kubectl.get("shop", "serviceexports.v1beta1.multicluster.x-k8s.io", "cart").unwrap();
    assert_eq!(read["spec"], export["spec"]);
    let import = |spec: serde_json::Value| {
        let import = json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
            "metadata": {"name": "cart", "namespace": "shop"}, "spec": spec});
        kubectl.apply_object(&import)
    };
    for (case, spec) in [
        ("type is required", json!({"ports": []})),
        ("ports are required", json!({"type": "Headless"})),
        ("type is of two words", json!({"ports": [], "type": "ClusterIP"})),
        ("at most two addresses", json!({"ports": [], "type": "ClusterSetIP", "ips": ["a", "b", "c"]})),
        ("a port has a number", json!({"ports": [{"name": "http"}], "type": "ClusterSetIP"})),
    ] {
        assert!(import(spec).is_err(), "{case}");
    }
    import(json!({"ports": [{"port": 80}], "type": "ClusterSetIP", "ips": ["10.111.0.9"]})).unwrap();

    // Its status is a resource of its own, and checks conditions.
    let status = |reason: &str| {
        let condition = json!({"type": "Ready", "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-05T10:00:00Z"});
        let import = json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
            "metadata": {"name": "cart", "namespace": "shop"},
            "status": {"clusters": [{"cluster": "us-east"}], "conditions": [condition]}});
        kubectl.apply_status(&import.to_string())
    };
    assert!(status("two words").is_err());
    status("PortConflict,TypeConflict").unwrap();
    let import = kubectl.get("shop", "serviceimport", "cart").unwrap();
    assert_eq!(import["status"]["clusters"][0]["cluster"], "us-east");
    assert_eq!(import["spec"]["ips"][0], "10.111.0.9", "writing the status leaves the spec alone");
}

#[test]
fn only_users_with_rights_get_something_from_the_api() {
    let spec = ClusterSpec::new("prod-eu", 7).without_cilium().without_mcs();
    let bed = Bed::builder("rbac").with(spec).start().unwrap();
    let cluster = bed.cluster("prod-eu");
    assert_eq!(cluster.kubectl().list("", "crd").unwrap(), Vec::<serde_json::Value>::new());
    let kubeconfig = cluster.kubeconfig_of("system:serviceaccount:kube-system:isthmus").unwrap();
    let list = || {
        let exec = cluster.kubectl().exec().env("KUBECONFIG", &kubeconfig).args(["get", "services", "-A"]);
        exec.output().unwrap()
    };
    assert!(list().stderr.contains("forbidden"), "{:?}", list());
    cluster
        .kubectl()
        .run(&["create", "clusterrole", "reader", "--verb=list", "--resource=services"])
        .and_then(|_made| {
            let user = "--user=system:serviceaccount:kube-system:isthmus";
            cluster.kubectl().run(&["create", "clusterrolebinding", "reader", "--clusterrole=reader", user])
        })
        .unwrap();
    bed.eventually("the role counts", SOON, || {
        let listed = list();
        ensure!(listed.status.success(), "{}", listed.stderr);
        Ok(())
    });
}

#[test]
fn pods_of_two_nodes_talk_once_there_are_routes() {
    let bed = machines("pods", &["prod-eu", "us-east"]);
    let (eu, us) =
        (bed.cluster("prod-eu").node("eu-1").unwrap(), bed.cluster("us-east").node("us-1").unwrap());
    let (client, neighbour) = (eu.pod("client").unwrap(), eu.pod("neighbour").unwrap());
    let server = us.pod("server").unwrap();
    let (remote, beside) = (server.serve_http(8080).unwrap(), neighbour.serve_http(8080).unwrap());

    assert_eq!(client.http_get((neighbour.address(), 8080)).unwrap(), "prod-eu/neighbour");
    assert_eq!(client.http_get((neighbour.address6(), 8080)).unwrap(), "prod-eu/neighbour");
    assert!(client.http_get((server.address(), 8080)).is_err(), "nobody has routed yet");

    let [cidr, cidr6] = us.pod_cidrs();
    let [back, back6] = eu.pod_cidrs();
    let routes = |to: &str, to6: &str, via: &e2e::Node| {
        [
            format!("route add {to} via {}", via.address()),
            format!("route add {to6} via {}", via.host().address6()),
        ]
    };
    eu.host().netns().ip(&routes(&cidr, &cidr6, &us)).unwrap();
    us.host().netns().ip(&routes(&back, &back6, &eu)).unwrap();

    let capture = bed.capture("tcp port 8080").unwrap();
    assert_eq!(client.http_get((server.address(), 8080)).unwrap(), "us-east/server");
    assert_eq!(client.http_get((server.address6(), 8080)).unwrap(), "us-east/server");
    let url = format!("http://{}:8080/", server.address());
    assert_eq!(client.exec("curl").args(["-sS", "-m60", &url]).stdout().unwrap(), "us-east/server");
    let captured = capture.stop().unwrap();
    assert!(captured.carries("us-east/server"), "in plain text: {:#?}", captured.packets);
    assert!(!captured.carries("prod-eu/neighbour"));
    let from_to = format!("{}.", client.address());
    assert!(captured.packets.iter().any(|packet| packet.contains(&from_to)), "{:#?}", captured.packets);
    assert_eq!((remote.served(), beside.served()), (3, 2));

    us.host().unplug().unwrap();
    assert!(client.http_get((server.address(), 8080)).is_err(), "the cable is out");
    us.host().plug_in().unwrap();
    bed.eventually("the cable is in again", SOON, || client.http_get((server.address(), 8080)));

    drop(remote);
    let refused = client.http_get((server.address(), 8080)).unwrap_err();
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
}

#[test]
fn the_mesh_store_of_the_bed_wants_a_certificate() {
    let bed = machines("store", &["prod-eu"]);
    let cluster = bed.cluster("prod-eu");
    let authority = Authority::new(&bed.dir().join("pki")).unwrap();
    let server = authority.server("etcd", &["127.0.0.1", &cluster.host().address().to_string()]).unwrap();
    let client = authority.client("admin", "root", None).unwrap();
    let ca = authority.certificate();
    let mut etcd = MeshEtcd::start(cluster.host(), cluster.dir(), &ca, &server, &client).unwrap();
    // From another machine, over the underlay.
    let elsewhere = bed.host("elsewhere", 1).unwrap();
    let etcdctl = Etcdctl::new(elsewhere.netns(), etcd.endpoint(), &ca, Some(&client)).unwrap();
    etcdctl.put("cilium/state/a", b"\x28\xb5\xff".to_vec()).unwrap();
    etcdctl.put("cilium/state/b", "two\nlines").unwrap();
    etcdctl.put("other", "x").unwrap();
    let keys = etcdctl.get_prefix("cilium/").unwrap();
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["cilium/state/a", "cilium/state/b"]);
    assert_eq!(keys["cilium/state/a"], b"\x28\xb5\xff");
    assert_eq!(keys["cilium/state/b"], b"two\nlines");
    assert_eq!(etcdctl.dump("cilium/state/a"), "cilium/state/a (3 bytes)\n");
    etcdctl.delete("other").unwrap();
    assert!(etcdctl.delete("other").is_err());

    let stranger = Etcdctl::new(elsewhere.netns(), etcd.endpoint(), &ca, None).unwrap();
    assert!(stranger.get_prefix("").is_err(), "a client without a certificate is refused");
    etcd.process().kill().unwrap();
    assert!(etcdctl.get_prefix("").is_err());
}

/// With etcd as the daemon: it has a `/readyz`, too.
#[test]
fn a_daemon_is_ready_stops_is_killed_and_comes_back() {
    let bed = machines("daemons", &["prod-eu"]);
    let host = bed.cluster("prod-eu").host();
    let data = format!("--data-dir={}", bed.dir().join("daemon").display());
    let health: std::net::SocketAddr = "127.0.0.1:9880".parse().unwrap();
    let spec = DaemonSpec::program("store", &tool("etcd").unwrap())
        .args([&data, "--listen-metrics-urls=http://127.0.0.1:9880"])
        .env("ETCD_LOG_LEVEL", "warn")
        .ready_at(health);
    let mut daemon = host.daemon(spec).unwrap();
    daemon.wait_ready().unwrap();
    assert!(daemon.health("/metrics").unwrap().contains("etcd_server_has_leader 1"));
    assert!(host.netns().http_get(health, "/no-such-path").is_ok_and(|answer| answer.status == 404));

    daemon.kill9().unwrap();
    assert!(daemon.health("/readyz").is_err());
    daemon.restart().unwrap();
    daemon.wait_ready().unwrap();
    daemon.signal(Signal::Freeze).unwrap();
    assert!(daemon.health("/readyz").is_err(), "frozen, but answering");
    daemon.signal(Signal::Thaw).unwrap();
    daemon.wait_ready().unwrap();
    daemon.stop().unwrap();
    assert!(daemon.stop().is_err(), "it had ended");
    let log = fs::read_to_string(daemon.log()).unwrap();
    assert_eq!(log.matches("---- ").count(), 2, "one line for each life:\n{log}");
}

#[test]
fn a_program_that_takes_too_long_is_killed() {
    let bed = machines("slow", &["prod-eu"]);
    let mark = bed.dir().join("slow");
    let exec = bed.cluster("prod-eu").host().exec("sh").args(["-c", "echo begun; sleep 1000; :"]).arg(&mark);
    let error = exec.within(Duration::from_secs(5)).stdout().unwrap_err();
    assert!(format!("{error:#}").contains("took more than 5s\nbegun"), "{error:#}");
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

#[test]
fn nothing_remains_after_a_drop() {
    let bed = Bed::builder("drop").cluster("prod-eu", 7).start().unwrap();
    let cluster = bed.cluster("prod-eu");
    let node = cluster.node("worker-1").unwrap();
    let pod = node.pod("pod").unwrap();
    let server = pod.serve_http(80).unwrap();
    let capture = bed.capture("").unwrap();
    let tethers = [cluster.host().netns(), node.host().netns(), pod.netns()].map(tether);
    let dir = bed.dir().to_owned();
    assert!(processes_with(&dir).len() >= 3, "etcd, kube-apiserver, tcpdump: {:?}", processes_with(&dir));
    assert!(tethers.iter().all(|witness| ensure_cut(witness).is_err()));

    drop(capture);
    drop((server, pod, node, bed));
    assert_eq!(processes_with(&dir), Vec::<String>::new());
    assert!(!dir.exists());
    for witness in &tethers {
        wait_until("the kernel takes the links down", || ensure_cut(witness));
    }
}

#[test]
fn a_panic_leaves_nothing_and_tells_what_all_sides_saw() {
    let mut dir = PathBuf::new();
    let mut witness = None;
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let bed = machines("panic", &["prod-eu"]);
        bed.diary().record("a witness", || "I saw it".to_owned());
        dir = bed.dir().to_owned();
        let node = bed.cluster("prod-eu").node("worker-1").unwrap();
        witness = Some(tether(node.host().netns()));
        let log = dir.join("sleep.log");
        let mut sleep = Command::new("sh");
        sleep.args(["-c", "sleep 1000; :"]).arg(&log);
        let _sleeping = e2e::Process::start("sleep", sleep, Some(node.host().netns()), &log).unwrap();
        // A shell that forks has a twin of the same command line until the twin becomes the program.
        wait_until("the sleeper and the watcher run, and nothing else", || {
            let running = processes_with(&dir);
            ensure!(running.len() == 2, "{running:?}");
            Ok(())
        });
        bed.eventually("pigs fly", Duration::from_millis(100), || -> Result<()> { bail!("no wings") });
    }))
    .unwrap_err();
    let message = panic.downcast::<String>().unwrap();
    for part in ["panic: not so: pigs fly", "no wings", "a witness\nI saw it"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert_eq!(processes_with(&dir), Vec::<String>::new());
    assert!(!dir.exists());
    let witness = witness.unwrap();
    wait_until("the kernel takes the link down", || ensure_cut(&witness));
}

#[test]
fn a_killed_or_interrupted_test_leaves_nothing() {
    for (signal, clusters) in [("KILL", ["prod-eu", "us-east-"]), ("INT", ["prod-eu-", "us-east-"])] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bed"));
        let mut bed = command
            .args(clusters)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(bed.stdout.take().unwrap()).lines().map(Result::unwrap);
        let dir = PathBuf::from(lines.next().expect("it starts"));
        assert!(lines.any(|line| line == "ready"), "{signal}: it does not become ready");
        assert!(!processes_with(&dir).is_empty());
        assert!(dir.exists());
        let pid = bed.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        bed.wait().unwrap();
        wait_until(signal, || {
            let left = processes_with(&dir);
            ensure!(left.is_empty() && !dir.exists(), "left: {left:?}, directory: {}", dir.exists());
            Ok(())
        });
    }
}
