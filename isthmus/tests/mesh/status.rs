//! `isthmus status` on a mesh that runs: exit codes, `--wait`, and hints that work as they are printed.

use std::fs;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::running::{Demo, PATIENCE, isthmus, shell, text, until_code};

#[test]
fn a_mesh_is_healthy_then_degraded_then_late_and_every_hint_works_as_printed() {
    let demo = Demo::start(&["--clusters=2"], "Ctrl-C");
    let mesh = demo.mesh();
    let healthy = until_code(&["status", "--mesh", &mesh], 0);
    assert!(text(&healthy.stdout).ends_with("The mesh is healthy.\n"), "{}", text(&healthy.stdout));
    assert_eq!(text(&healthy.stderr), "", "progress is for terminals only");
    let waited = isthmus(&["status", "--mesh", &mesh, "--wait", "--timeout", "60s"]);
    assert_eq!(waited.status.code(), Some(0));

    // One link is cut, and one agent stands still.
    let cut = demo.dir().join("cut/west-east");
    fs::write(&cut, "").unwrap();
    let (agent, _) = demo
        .daemons()
        .into_iter()
        .find(|(_, line)| line.contains("agent run") && line.contains("/east/"))
        .unwrap();
    kill(agent, Signal::SIGSTOP).unwrap();
    let args = ["status", "--mesh", &mesh, "-o", "json", "--timeout", "3s"];
    let deadline = Instant::now() + PATIENCE;
    let report = loop {
        let output = until_code(&args, 3);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let at: Vec<_> = findings.iter().map(|finding| finding["at"].as_str().unwrap()).collect();
        // Either side notices in its time.
        if ["east", "west <- east", "east <- west"].iter().all(|expected| at.contains(expected)) {
            break report;
        }
        assert!(Instant::now() < deadline, "{findings:#?}");
    };
    let findings = report["findings"].as_array().unwrap();
    let late = isthmus(&["status", "--mesh", &mesh, "--wait", "--timeout", "2s"]);
    assert_eq!(late.status.code(), Some(4), "{}", text(&late.stdout));

    kill(agent, Signal::SIGCONT).unwrap();
    for finding in findings {
        let hint = finding["next"].as_str().unwrap_or_else(|| panic!("no hint: {finding}"));
        let output = shell(hint);
        // 3: it works, and says that something is not well.
        let code = output.status.code();
        assert!(
            matches!(code, Some(0 | 3)),
            "{hint}: {code:?} {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    fs::remove_file(cut).unwrap();
    let healed = isthmus(&["status", "--mesh", &mesh, "--wait", "--timeout", "120s"]);
    assert_eq!(healed.status.code(), Some(0), "{}", text(&healed.stdout));
}
