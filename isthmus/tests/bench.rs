//! `isthmus bench store` works; how fast things are is no test's business.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::{Command, Output, Stdio};

fn bench(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(["bench", "store"]).args(line.split_whitespace()).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs figures and checks that both sides have each reading named, and that nothing was noted as wrong.
fn both_sides_have(line: &str, readings: &[&str]) {
    let output = bench(&format!("--quick -o json {line}"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for reading in readings {
        let row = rows
            .iter()
            .find(|row| row["name"] == *reading)
            .unwrap_or_else(|| panic!("{reading}: {report:#}"));
        for side in ["isthmus", "peer", "ratio"] {
            assert!(row[side].as_f64().is_some_and(f64::is_finite), "{reading}, {side}: {report:#}");
        }
    }
    assert_eq!(report["notes"], serde_json::json!([]), "{report:#}");
    assert!(rows.iter().all(|row| row["met"].is_null()), "small sizes say nothing about targets: {report:#}");
}

#[test]
fn small_figures_are_measured_on_both_sides_in_plaintext() {
    both_sides_have(
        "--figure ready,put,fanout",
        &[
            "first answer after the start",
            "64 clients: puts",
            "20 watchers: puts",
            "20 watchers: events",
            "peak memory",
        ],
    );
}

#[test]
fn small_figures_are_measured_on_both_sides_by_mutual_tls() {
    both_sides_have(
        "--tls --figure list,bootstrap,idle",
        &["1 client, at once: time", "until the last was done", "memory per connection"],
    );
}

#[test]
fn the_store_can_be_measured_alone() {
    let output = bench("--quick --no-etcd --figure bulk,stall");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("| bulk ") && table.contains("| stall "), "{table}");
    assert!(!table.contains("failed") && !table.contains("cut off"), "{table}");
}

#[test]
fn an_etcd_that_is_not_there_is_wrong_usage() {
    let output = bench("--quick --figure put --etcd /nowhere/etcd");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--no-etcd"), "{}", text(&output.stderr));
}
