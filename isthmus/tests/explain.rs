//! `isthmus explain` where the mesh cannot be asked: exit codes, and what its user is told.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn explain(mesh: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.arg("explain").args(args).env_remove("ISTHMUS_MESH").arg("--mesh").arg(mesh).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_usage_has_code_2_and_says_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.yaml");
    std::fs::write(&good, "clusters: [{name: west}]").unwrap();
    let bad = dir.path().join("bad.yaml");
    std::fs::write(&bad, "clusters:\n- name: west\n  kubeconf: x\n").unwrap();
    let absent = dir.path().join("absent.yaml");
    for (mesh, args, expected) in [
        (&absent, &["service", "shop/cart"][..], "absent.yaml: No such file"),
        (&bad, &["service", "shop/cart"], "bad.yaml: clusters[0]: unknown field `kubeconf`"),
        (&bad, &["service", "shop/cart"], "line 3"),
        (&good, &["service", "cart"], "expected NAMESPACE/NAME"),
        (&good, &["dns", "cart.shop"], "expected a name such as cart.shop.svc.clusterset.local"),
        (&good, &["ip", "cart"], "invalid IP address"),
        (&good, &["service", "shop/cart", "--from=east"], "--from: expected one of west, found \"east\""),
    ] {
        let output = explain(mesh, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{args:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{args:?}");
    }
}

#[test]
fn a_mesh_of_which_nobody_knows_anything_is_unknown_and_one_that_is_silent_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = dir.path().join("mesh.yaml");
    std::fs::write(&mesh, "clusters: [{name: west}]").unwrap();
    let output = explain(&mesh, &["service", "shop/cart", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["from"], &answer["verdict"]), (&"west".into(), &"unknown".into()));

    // It accepts connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    std::fs::write(&mesh, format!("clusters: [{{name: west, dns: '{address}', mirror: '{address}'}}]"))
        .unwrap();
    let output = explain(&mesh, &["service", "shop/cart", "--timeout=200ms"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stdout));

    // Nobody listens at port 1, also while other tests are given ports.
    std::fs::write(&mesh, "clusters: [{name: west, exporter: '127.0.0.1:1', agent: none.sock}]").unwrap();
    let output = explain(&mesh, &["service", "shop/cart"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("no agent listens on"), "{}", text(&output.stdout));
}
