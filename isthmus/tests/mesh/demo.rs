//! `isthmus demo` as its users meet it: what it prints works as printed, and nothing of it remains.

use std::fs;
use std::io::{BufRead as _, Read as _};
use std::net::TcpListener;
use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::running::{Demo, isthmus, nothing_remains, processes_of, shell, text};

#[test]
fn every_command_that_the_demo_prints_works_as_printed_also_while_another_demo_runs() {
    let mut other = Demo::start(&["--clusters=2"], "Ctrl-C");
    let mut demo = Demo::start(&[], "Ctrl-C");
    assert!(demo.printed.contains("No packets flow between pods"), "{}", demo.printed);
    let (dir, other_dir) = (demo.dir(), other.dir());
    assert_ne!(dir, other_dir);
    let expected: [&[&str]; 5] = [
        &["serviceimport.multicluster.x-k8s.io/orders", "service/cart"],
        &["10.101."],
        &["service shop/cart, as west sees it", "east", "north"],
        &["endpointslice.discovery.k8s.io/cart-1 patched"],
        &[],
    ];
    let [_, commands, more] = demo.commands();
    assert_eq!(commands.len(), expected.len(), "{}", demo.printed);
    // But for the paths of this machine, all is for a terminal of 80 columns.
    let lines = demo.printed.lines().filter(|line| !line.starts_with("  $ export "));
    let widest = lines.map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|widest| widest <= 80), "{widest:?}: {}", demo.printed);
    for (command, expected) in commands.iter().zip(expected) {
        let output = demo.shell(command);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{command}: {}\n{out}{error}", output.status);
        for part in expected {
            assert!(out.contains(part), "{command}: expected {part:?}\n{out}{error}");
        }
    }
    // The last two have consequences, which it tells.
    let wanted =
        ["EndpointSlice cart-1 changed", "lost contact with east: keeps its", "after the change in east"];
    let mut told = String::new();
    while !wanted.iter().all(|part| told.contains(part)) {
        assert!(demo.out.read_line(&mut told).unwrap() > 0, "it ended:\n{told}");
    }
    let lost = demo.shell("isthmus explain service shop/nothing --from west");
    assert_eq!(lost.status.code(), Some(3), "{}", text(&lost.stdout));
    fs::remove_file(dir.join("cut/west-east")).unwrap();

    // And more: clusters part and come together again, by what is written to their APIs.
    for (command, tells) in more.iter().zip([
        &[][..],
        &[],
        &["west   disconnected from east", "east   disconnected from west"],
        &["west   in step with east", "east   in step with west"],
        &[],
    ]) {
        let output = demo.shell_until(command, 0);
        let mut told = String::new();
        while !tells.iter().all(|part| told.contains(part)) {
            assert!(demo.out.read_line(&mut told).unwrap() > 0, "{command}: {output:?}:\n{told}");
        }
    }
    assert_eq!(more.len(), 5, "{}", demo.printed);

    assert!(!processes_of(&dir).is_empty());
    assert_eq!(demo.signal(Signal::SIGINT).code(), Some(0));
    assert!(processes_of(&dir).is_empty(), "{:?}", processes_of(&dir));
    assert!(!dir.exists());

    // What is killed cannot end its children: the kernel does.
    assert!(!processes_of(&other_dir).is_empty());
    other.signal(Signal::SIGKILL);
    nothing_remains(&other_dir);
    fs::remove_dir_all(other_dir).unwrap();
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(["demo", &format!("--first-port={port}")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("--first-port {port}")) && error.contains("in use"), "{error}");
}

#[test]
fn manifests_are_applied_and_what_is_wrong_in_one_is_named_by_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.yaml");
    let demo_with = |text: &str| {
        fs::write(&file, text).unwrap();
        isthmus(&["demo", "--clusters=2", "--scene=failover", "--manifest", file.to_str().unwrap()])
    };
    for (code, text, expected) in [
        (2, "apiVersion: v1\nkind: Service\nmetadata: {name: [\n", "m.yaml:"),
        (2, "apiVersion: v1\nkind: Service\nmetadata: {}\n", "m.yaml:1: metadata.name: expected a name"),
        (
            1,
            "---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{port: 0}]}\n",
            "m.yaml:2: PATCH",
        ),
        (
            1,
            "apiVersion: v1\nkind: Gadget\nmetadata: {name: a}\n",
            "m.yaml:1: kind: the API has no Gadget in v1",
        ),
    ] {
        let output = demo_with(text);
        let error = self::text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}: {error}");
        assert!(error.contains("--manifest ") && error.contains(expected), "{text}: {error}");
    }
    let refused = demo_with(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{port: 0}]}\n",
    );
    let said = text(&refused.stderr);
    assert!(said.matches("spec.ports[0].port").count() == 1 && !said.contains("Status {"), "{said}");

    fs::write(
        &file,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine, namespace: shop}\ndata: {a: b}\n",
    )
    .unwrap();
    let demo = Demo::start(&["--clusters=2", "--manifest", file.to_str().unwrap()], "Ctrl-C");
    for cluster in ["west", "east"] {
        let get = format!(
            "kubectl --kubeconfig {}/kubeconfig --context {cluster} -n shop get configmap mine",
            demo.dir().display()
        );
        let output = shell(&get);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[test]
fn a_daemon_that_ends_ends_the_demo_which_says_which_and_why() {
    for (part, name) in [("agent run", "the agent of east"), ("kube-lite", "the Kubernetes API of east")] {
        let mut demo = Demo::start(&["--clusters=2"], "Ctrl-C");
        let dir = demo.dir();
        let daemons = demo.daemons();
        let (daemon, _) =
            daemons.iter().find(|(_, line)| line.contains(part) && line.contains("east")).unwrap();
        kill(*daemon, Signal::SIGKILL).unwrap();
        let status = demo.child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "{part}");
        let mut error = String::new();
        demo.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(error.contains(&format!("{name} has ended (signal: 9")), "{error}");
        nothing_remains(&dir);
        assert!(!dir.exists(), "its files are gone too");
    }
}

#[test]
fn a_daemon_that_stands_still_leaves_the_rest_of_the_demo_alone() {
    let mut demo = Demo::start(&["--clusters=3"], "Ctrl-C");
    let daemons = demo.daemons();
    let (agent, _) =
        daemons.iter().find(|(_, line)| line.contains("agent run") && line.contains("north")).unwrap();
    kill(*agent, Signal::SIGSTOP).unwrap();
    let [_, commands, _] = demo.commands();
    let patch = commands.iter().find(|command| command.contains(" patch ")).unwrap();
    assert!(demo.shell(patch).status.success());
    let mut told = String::new();
    let wanted = ["west   shop/cart: ", "east   shop/cart: ", "north  its agent does not answer"];
    while !wanted.iter().all(|part| told.contains(part)) {
        assert!(demo.out.read_line(&mut told).unwrap() > 0, "it ended:\n{told}");
    }
    assert!(!told.contains("north  shop/cart: "), "{told}");
    kill(*agent, Signal::SIGCONT).unwrap();
    while !told.contains("north  shop/cart: ") {
        assert!(demo.out.read_line(&mut told).unwrap() > 0, "it ended:\n{told}");
    }
}
