//! The verbs of the real `kubectl`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::client::Api;
use crate::real::program;

struct Kubectl<'a> {
    api: &'a Api,
    cache: PathBuf,
}

impl Kubectl<'_> {
    fn run(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = Command::new(program("kubectl"));
        command.arg("--kubeconfig").arg(&self.api.kubeconfig).arg("--cache-dir").arg(&self.cache);
        command.args(["--request-timeout=20s", "-n", &self.api.namespace]).args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What it prints when it succeeds.
    #[track_caller]
    fn ok(&self, args: &str, stdin: &str) -> String {
        let args: Vec<_> = args.split_whitespace().collect();
        let output = self.run(&args, stdin);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it fails.
    #[track_caller]
    fn fails(&self, args: &str, stdin: &str) -> String {
        let args: Vec<_> = args.split_whitespace().collect();
        let output = self.run(&args, stdin);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

pub(crate) async fn the_verbs_work(api: &Api) {
    let cache = tempfile::tempdir().unwrap();
    let kubectl = Kubectl { api, cache: cache.path().to_owned() };
    tokio::task::block_in_place(|| {
        built_in(&kubectl);
        custom(&kubectl);
    });
}

fn built_in(kubectl: &Kubectl<'_>) {
    let service = |ports: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, labels: {{a: b}}}}, spec: {{selector: {{app: web}}, ports: [{ports}]}}}}"
        )
    };
    let (http, https) = ("{name: http, port: 80}", "{name: https, port: 443}");
    assert_eq!(kubectl.ok("apply -f -", &service(http)), "service/web created\n");
    assert_eq!(kubectl.ok("apply -f -", &service(http)), "service/web unchanged\n");
    assert_eq!(kubectl.ok("apply -f -", &service(&format!("{http}, {https}"))), "service/web configured\n");
    assert_eq!(kubectl.ok("apply -f -", &service(https)), "service/web configured\n");
    assert_eq!(kubectl.ok("get svc web -o jsonpath={.spec.ports[*].port}", ""), "443");
    assert_eq!(
        kubectl.ok(
            "apply --server-side --field-manager=me -f -",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {k: v}}"
        ),
        "configmap/c serverside-applied\n"
    );
    let conflict = kubectl.fails(
        "apply --server-side --field-manager=you -f -",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {k: w}}",
    );
    assert!(conflict.contains("Apply failed with 1 conflict: conflict with \"me\": .data.k"), "{conflict}");
    // `kubectl` checks the items of a List by itself, against OpenAPI v2.
    let list = "{apiVersion: v1, kind: List, items: [\
        {apiVersion: v1, kind: ConfigMap, metadata: {name: first}, data: {k: v}},\
        {apiVersion: v1, kind: Service, metadata: {name: second}, spec: {ports: [{port: 80}]}}]}";
    for args in ["apply -f -", "apply --server-side --force-conflicts -f -"] {
        let said = kubectl.ok(args, list);
        assert!(said.contains("configmap/first ") && said.contains("service/second "), "{said}");
    }
    let unknown =
        kubectl.fails("apply -f -", "{apiVersion: v1, kind: ConfigMap, metadata: {name: d}, foo: bar}");
    assert!(unknown.contains("unknown field \"foo\""), "{unknown}");
    assert_eq!(
        kubectl.ok("apply --dry-run=server -f -", "{apiVersion: v1, kind: ConfigMap, metadata: {name: d}}"),
        "configmap/d created (server dry run)\n"
    );
    let table = kubectl.ok("get svc,cm -l a=b -o wide", "");
    assert!(
        table.contains("CLUSTER-IP") && table.contains("443/TCP") && table.contains("app=web"),
        "{table}"
    );
    let described = kubectl.ok("describe svc web", "");
    assert!(described.contains("TargetPort:               443/TCP"), "{described}");
    assert_eq!(
        kubectl.ok("patch svc web -p {\"spec\":{\"ports\":[{\"port\":443,\"targetPort\":8443}]}}", ""),
        "service/web patched\n"
    );
    assert_eq!(kubectl.ok("label svc web z=1", ""), "service/web labeled\n");
    assert_eq!(kubectl.ok("annotate svc web z=1", ""), "service/web annotated\n");
    kubectl.ok(
        "apply -f -",
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}",
    );
    let ready =
        "{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}],\"phase\":\"Running\"}}";
    kubectl.ok(&format!("patch pod p --subresource=status --type=merge -p {ready}"), "");
    assert_eq!(kubectl.ok("wait --for=condition=Ready pod/p --timeout=20s", ""), "pod/p condition met\n");
    assert_eq!(
        kubectl.ok("wait --for=jsonpath={.status.phase}=Running pod/p --timeout=20s", ""),
        "pod/p condition met\n"
    );
    assert!(kubectl.ok("describe pod p", "").contains("BestEffort"));
    assert!(kubectl.ok("get pods --watch --request-timeout=1s", "").contains("Running"));
    assert!(kubectl.ok("delete pod p --grace-period=0 --force", "").contains("force deleted"));
    assert!(kubectl.ok("delete svc web", "").contains("service \"web\" deleted"));
    assert!(
        kubectl.fails("get svc web", "").contains("Error from server (NotFound): services \"web\" not found")
    );
    let resources = kubectl.ok("api-resources --api-group=discovery.k8s.io", "");
    assert!(resources.contains("endpointslices"), "{resources}");
    let created = kubectl.ok("create configmap typed --from-literal=a=b", "");
    assert_eq!(created, "configmap/typed created\n");
    assert_eq!(kubectl.ok("create secret generic typed --from-literal=a=b", ""), "secret/typed created\n");
    assert_eq!(kubectl.ok("create service clusterip typed --tcp=80:8080", ""), "service/typed created\n");
    assert_eq!(kubectl.ok("get cm,secret,svc typed -o jsonpath={.items[0].data.a}{.items[1].data.a}{.items[2].spec.ports[0].targetPort}", ""), "bYg==8080");
}

fn custom(kubectl: &Kubectl<'_>) {
    let definitions = concat!(env!("CARGO_MANIFEST_DIR"), "/../clustermesh-apiserver/crds");
    kubectl.ok(&format!("apply --server-side --force-conflicts -f {definitions}"), "");
    kubectl.ok(
        &format!(
            "apply --server-side --force-conflicts -f {}",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/crds")
        ),
        "",
    );
    for name in [
        "serviceimports.multicluster.x-k8s.io",
        "serviceexports.multicluster.x-k8s.io",
        "ciliumnodes.cilium.io",
    ] {
        kubectl.ok(&format!("wait --for=condition=Established crd/{name} --timeout=20s"), "");
    }
    let import = "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceImport, metadata: {name: web}, spec: {type: ClusterSetIP, ports: [{port: 80}], ips: [10.0.0.9]}}";
    assert!(kubectl.ok("apply -f -", import).ends_with("created\n"));
    assert!(kubectl.ok("apply -f -", import).ends_with("unchanged\n"));
    let table = kubectl.ok("get svcim", "");
    assert!(table.contains("ClusterSetIP") && table.contains("[\"10.0.0.9\"]"), "{table}");
    let wrong = kubectl.fails("apply -f -", &import.replace("ClusterSetIP", "Other"));
    assert!(wrong.contains("spec.type: Unsupported value: \"Other\""), "{wrong}");
    assert!(kubectl.ok("describe serviceimport web", "").contains("Ips:\n    10.0.0.9"));
    kubectl.ok("patch serviceimport web --type=merge -p {\"spec\":{\"ips\":[\"10.0.0.10\"]}}", "");
    kubectl.ok(
        "apply -f -",
        "{apiVersion: cilium.io/v2, kind: CiliumNode, metadata: {name: node1}, spec: {anything: [goes]}}",
    );
    assert_eq!(kubectl.ok("get cn node1 -o jsonpath={.spec.anything[0]}", ""), "goes");
    assert!(kubectl.ok("delete serviceimport web", "").contains("deleted"));
    kubectl.ok("delete cn node1", "");
}
