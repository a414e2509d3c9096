//! `isthmus gather`: everything of a mesh is in the bundle, and no secret is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::running::{Demo, isthmus, shell, text, until_code};

/// Files of a bundle, without the folder that they are in.
fn read(bundle: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = fs::File::open(bundle).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let (folder, path) = path.split_once('/').unwrap();
        assert!(folder.starts_with("isthmus-gather-2"), "{folder}");
        let path = path.to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, content)
    });
    entries.collect()
}

/// Secrets by where they are put.
const SECRETS: [(&str, &str); 9] = [
    ("data of a Secret", "s3cr3t-data-of-a-secret"),
    ("an annotation of a Secret", "s3cr3t-annotation"),
    ("a token in a kubeconfig", "s3cr3t-token"),
    ("a password in a URL", "s3cr3t-url-password"),
    ("a password in a configuration", "s3cr3t-password"),
    ("a WireGuard key", "kFJ5Xw0yq9sB1n2E3r4T5y6U7i8O9p0AaSsDdFfGgHh="),
    ("an IPsec key", "41049390e1e2b5d6543901daab6435f4042155fe"),
    ("a private key in a log", "MHcCAQEEIBkfUOYt2aN3VhQ0X9cRkUu"),
    ("a bearer in a log", "s3cr3t-bearer-in-a-log"),
];

fn seeded() -> Value {
    let secret = |name: &str| SECRETS.iter().find(|(place, _)| *place == name).unwrap().1;
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let kubeconfig =
        format!("users:\n- name: a\n  user:\n    token: {}\n", secret("a token in a kubeconfig"));
    let etcd = format!(
        "endpoints:\n- https://root:{}@etcd:2379\npassword: {}\n",
        secret("a password in a URL"),
        secret("a password in a configuration")
    );
    let keys = format!(
        "wg: {}\nipsec: 3+ rfc4106(gcm(aes)) {} 128\n",
        secret("a WireGuard key"),
        secret("an IPsec key")
    );
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
         "metadata": {"name": "seed", "namespace": "kube-system",
                      "annotations": {"note": secret("an annotation of a Secret")}},
         "data": {"plain": base64(secret("data of a Secret")), "kubeconfig": base64(&kubeconfig)}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seed", "namespace": "kube-system"},
         "data": {"kubeconfig": kubeconfig, "etcd.yaml": etcd, "keys": keys}},
    ]})
}

#[test]
fn everything_is_in_the_bundle_and_no_secret_is_also_when_half_of_the_mesh_is_away() {
    let demo = Demo::start(&["--clusters=2"], "Ctrl-C");
    let (dir, mesh) = (demo.dir(), demo.mesh());
    let seed = dir.join("seed.json");
    fs::write(&seed, seeded().to_string()).unwrap();
    // As kubectl writes it, with all of the object in an annotation.
    let kubeconfig = dir.join("kubeconfig");
    let kubectl =
        format!("kubectl --kubeconfig {} --context west apply -f {}", kubeconfig.display(), seed.display());
    let applied = shell(&kubectl);
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let log = dir.join("west/mesh.log");
    let mut lines = fs::read_to_string(&log).unwrap();
    lines += "\nAuthorization: Bearer s3cr3t-bearer-in-a-log\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBkfUOYt2aN3VhQ0X9cRkUu\n";
    let seeded_log = dir.join("west/agent.log");
    fs::write(&seeded_log, lines).unwrap();

    let out = tempfile::tempdir().unwrap();
    let bundle = out.path().join("bundle.tar.gz");
    let bundle_path = bundle.to_str().unwrap();
    // What was written just now is on its way.
    until_code(&["status", "--mesh", &mesh], 0);
    let whole = isthmus(&["gather", "--mesh", &mesh, "--output", bundle_path]);
    assert_eq!(whole.status.code(), Some(0), "{}{}", text(&whole.stdout), text(&whole.stderr));
    assert_eq!(text(&whole.stderr), "", "progress is for terminals only");
    assert_eq!(bundle.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let files = read(&bundle);
    for expected in ["version.json", "status.json", "status.txt", "failures.json", "places.json"] {
        assert!(files.contains_key(expected), "{expected} of {:?}", files.keys());
    }
    for cluster in ["west", "east"] {
        for file in [
            "kubernetes/version.json",
            "kubernetes/services.json",
            "kubernetes/endpointslices.json",
            "kubernetes/serviceexports.json",
            "kubernetes/serviceimports.json",
            "kubernetes/ciliumnodes.json",
            "kubernetes/secrets.json",
            "kubernetes/configmaps.json",
            "agent/status.json",
            "agent/services.json",
            "exporter-mirror-dns/status.json",
            "exporter-mirror-dns/remotes.json",
            "exporter-mirror-dns/metrics.txt",
            "store/state.json",
            "store/certificates.json",
            "logs/mesh.log",
        ] {
            let path = format!("{cluster}/{file}");
            assert!(files.contains_key(&path), "{path} of {:?}", files.keys());
        }
    }
    let json = |path: &str| -> Value { serde_json::from_slice(&files[path]).unwrap() };
    assert_eq!(json("status.json")["healthy"], true);
    assert!(json("west/store/state.json")["keys"].get("cilium/cluster-config/east").is_some());
    let secrets = json("west/kubernetes/secrets.json");
    let seed = secrets.as_array().unwrap().iter().find(|secret| secret["name"] == "seed").unwrap();
    assert_eq!(seed["keys"][0]["name"], "kubeconfig", "the names of its keys are there");
    let mut names = String::from_utf8_lossy(&files["west/kubernetes/configmaps.json"]).into_owned();
    assert!(names.contains("etcd.yaml") && names.contains("<redacted>"), "{names}");
    names = text(&files["west/logs/agent.log"]);
    assert!(names.contains("Authorization: <redacted>"), "{names}");

    // Neither as it is nor in the form in which Secrets have it.
    let tokens: Vec<String> = ["kubeconfig", "west/kubeconfig"]
        .iter()
        .flat_map(|file| {
            let config: Value = serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap();
            let users = config["users"].as_array().unwrap().clone();
            users.into_iter().map(|user| user["user"]["client-key-data"].as_str().unwrap().to_owned())
        })
        .collect();
    assert!(tokens.len() >= 3);
    let seeded = SECRETS.iter().map(|(_, secret)| (*secret).to_owned());
    for secret in seeded.chain(tokens) {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&secret);
        for (path, content) in &files {
            let content = String::from_utf8_lossy(content);
            assert!(!content.contains(&secret), "{path} has {secret}");
            assert!(!content.contains(encoded.trim_end_matches('=')), "{path} has {secret} in base64");
        }
    }

    // A file that is there is not replaced.
    let again = isthmus(&["gather", "--mesh", &mesh, "--output", bundle_path]);
    assert_eq!(again.status.code(), Some(2), "{}", text(&again.stderr));

    // One daemon stands still: what it would have said is late, and the rest is there.
    let (daemon, _) = demo
        .daemons()
        .into_iter()
        .find(|(_, line)| line.contains("kube-lite") && line.contains("/east "))
        .unwrap();
    kill(daemon, Signal::SIGSTOP).unwrap();
    let half = out.path().join("half.tar.gz");
    let late = isthmus(&[
        "gather",
        "--mesh",
        &mesh,
        "--timeout",
        "10s",
        "--output",
        half.to_str().unwrap(),
        "-o",
        "json",
    ]);
    kill(daemon, Signal::SIGCONT).unwrap();
    assert_eq!(late.status.code(), Some(4), "{}{}", text(&late.stdout), text(&late.stderr));
    let summary: Value = serde_json::from_slice(&late.stdout).unwrap();
    assert_eq!(summary["failures"][0]["what"], "east/kubernetes");
    let files = read(&half);
    assert!(text(&files["failures.json"]).contains("no answer within 10.0 s"));
    assert!(
        files.contains_key("east/agent/status.json") && files.contains_key("west/kubernetes/services.json")
    );

    // By contexts alone, and with one that is not there.
    let contexts = out.path().join("contexts.tar.gz");
    let kubeconfig = kubeconfig.to_str().unwrap();
    let args =
        ["gather", "--kubeconfig", kubeconfig, "--context", "west", "--output", contexts.to_str().unwrap()];
    until_code(&args, 0);
    assert!(read(&contexts).contains_key("west/kubernetes/services.json"));
    let other = out.path().join("other.tar.gz");
    let args = ["gather", "--kubeconfig", kubeconfig, "--context", "west", "--as", "somebody", "--output"];
    let other = isthmus(&[&args[..], &[other.to_str().unwrap(), "-o", "json"]].concat());
    assert_eq!(other.status.code(), Some(3), "{}", text(&other.stderr));
    let said = "get /version: kube-lite does not impersonate: impersonate-user";
    assert!(text(&other.stdout).contains(said), "{}", text(&other.stdout));
    let unknown = isthmus(&["gather", "--kubeconfig", kubeconfig, "--context", "north"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        text(&unknown.stderr).contains("expected a context of west, east, found \"north\""),
        "{}",
        text(&unknown.stderr)
    );
}

#[test]
fn a_mesh_that_is_away_is_a_bundle_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = dir.path().join("mesh.yaml");
    fs::write(
        &mesh,
        "clusters:\n- name: west\n  exporter: 127.0.0.1:1\n  kubeconfig: nowhere\n  logs: [none.log]\n",
    )
    .unwrap();
    let bundle = dir.path().join("b.tar.gz");
    let output = isthmus(&["gather", "--mesh", mesh.to_str().unwrap(), "--output", bundle.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}{}", text(&output.stdout), text(&output.stderr));
    let failures: Value = serde_json::from_slice(&read(&bundle)["failures.json"]).unwrap();
    let what: Vec<_> =
        failures.as_array().unwrap().iter().map(|failure| failure["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["west/exporter", "west/kubernetes", "west/logs/none.log"]);

    let nowhere = dir.path().join("no/such/b.tar.gz");
    let output =
        isthmus(&["gather", "--mesh", mesh.to_str().unwrap(), "--output", nowhere.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let nobody = isthmus(&["gather"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(text(&nobody.stderr).contains("expected --mesh FILE"), "{}", text(&nobody.stderr));
}
