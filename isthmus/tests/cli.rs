//! The command line as its users meet it: output streams, exit codes, and what mistakes are told.

use std::process::{Command, Output, Stdio};

fn isthmus(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(line.split_whitespace()).stdin(Stdio::null()).output().expect("the built binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

#[test]
fn help_lists_the_commands_on_standard_output() {
    let output = isthmus("--help");
    assert_eq!(output.status.code(), Some(0));
    for command in ["certs", "completion", "gather", "man", "status", "version"] {
        assert!(text(&output.stdout).contains(&format!("\n  {command}")), "{command}");
    }
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn wrong_usage_has_code_2_and_says_what_is_wrong_on_standard_error() {
    let cases = [
        ("no command", "", "Usage: isthmus"),
        ("unknown command", "frobnicate", "unrecognized subcommand 'frobnicate'"),
        ("unknown flag", "version --loud", "unexpected argument '--loud'"),
        ("unknown format", "version -o xml", "possible values: text, json, yaml"),
        ("missing argument", "certs ca", "--out <DIR>"),
        ("bad duration", "certs ca --out /nowhere --valid-for soon", "such as `90s`"),
        ("no duration", "certs ca --out /nowhere --valid-for 0s", "longer than zero"),
        ("bad common name", "certs client --ca /nowhere --out /nowhere --cn=", "1 to 64 characters"),
        ("bad DNS name", "certs server --ca /nowhere --out /nowhere --dns a..b", "expected a DNS name"),
        (
            "address as DNS name",
            "certs server --ca /nowhere --out /nowhere --dns 10.0.0.1",
            "give it by --ip",
        ),
        ("name as address", "certs server --ca /nowhere --out /nowhere --ip localhost", "invalid IP address"),
    ];
    for (name, line, expected) in cases {
        let output = isthmus(line);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains(expected), "{name}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{name}");
    }
}

#[test]
fn the_version_is_one_line_or_json_or_yaml() {
    let output = isthmus("version");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with(concat!("isthmus ", env!("CARGO_PKG_VERSION"), " ")));
    assert_eq!(text(&output.stdout).lines().count(), 1);

    let output = isthmus("version -o json");
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["os"], "linux");
    assert!(version["revision"].is_string() && version["arch"].is_string());
    let yaml = isthmus("version -o yaml");
    let same: serde_json::Value = serde_yaml_ng::from_slice(&yaml.stdout).expect("YAML");
    assert_eq!(same, version);
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = isthmus(&format!("completion {shell}"));
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("completion"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    let output =
        command.args(["completion", "bash"]).stdout(writer).output().expect("the built binary starts");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has /dev/full");
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    let output = command.arg("version").stdout(full).output().expect("the built binary starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("isthmus: write to standard output: "), "{}", text(&output.stderr));
}

/// Each code by a command that ends with it; those of `status`, `explain` and `gather` on a mesh that runs are in `mesh`.
#[test]
fn each_way_to_end_has_its_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let mesh = dir.path().join("mesh.yaml");
    std::fs::write(&mesh, "clusters:\n- name: west\n  exporter: 127.0.0.1:1\n").expect("write");
    let mesh = mesh.display();
    let cases = [
        (0, "healthy or done", "version".to_owned()),
        (1, "failed", "certs show /nowhere/tls.crt".to_owned()),
        (2, "usage", "version --loud".to_owned()),
        (2, "usage, found out later", "status --mesh /nowhere/mesh.yaml".to_owned()),
        (3, "degraded", format!("status --mesh {mesh}")),
        (3, "degraded", format!("explain service shop/cart --mesh {mesh}")),
        (4, "timed out", format!("status --mesh {mesh} --wait --timeout 1s")),
    ];
    for (code, name, line) in cases {
        let output = isthmus(&line);
        assert_eq!(output.status.code(), Some(code), "{name}: {line}: {}", text(&output.stderr));
    }
}

#[test]
fn whatever_is_no_terminal_gets_no_colours_and_no_progress() {
    let dir = tempfile::tempdir().expect("a directory");
    let mesh = dir.path().join("mesh.yaml");
    std::fs::write(&mesh, "clusters:\n- name: west\n  exporter: 127.0.0.1:1\n").expect("write");
    for line in ["status", "explain service shop/cart"] {
        let output = isthmus(&format!("{line} --mesh {}", mesh.display()));
        assert_eq!(text(&output.stderr), "", "{line}");
        assert!(!output.stdout.contains(&0x1b), "{line}: {}", text(&output.stdout));
    }
}

#[test]
fn kubectl_finds_it_as_a_plugin_and_help_names_it_so() {
    let tools =
        std::env::var("ISTHMUS_TOOLS_BIN").expect("ISTHMUS_TOOLS_BIN: run `e2e/tools/build`, or `make test`");
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = dir.path().join("kubectl-isthmus");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_isthmus"), &plugin).expect("a link");
    let path = format!("{}:{tools}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let kubectl = |line: &str| {
        let mut command = Command::new(format!("{tools}/kubectl"));
        command.args(line.split_whitespace()).env("PATH", &path).env("HOME", dir.path());
        command.stdin(Stdio::null()).output().expect("kubectl starts")
    };
    let version = kubectl("isthmus version -o json");
    assert_eq!(version.stdout, isthmus("version -o json").stdout, "{}", text(&version.stderr));
    assert!(text(&kubectl("plugin list").stdout).contains("kubectl-isthmus"));
    for (line, usage) in [
        ("isthmus --help", "Usage: kubectl isthmus <COMMAND>"),
        ("isthmus status --help", "Usage: kubectl isthmus status "),
    ] {
        let help = kubectl(line);
        assert!(text(&help.stdout).contains(usage), "{line}: {}{}", text(&help.stdout), text(&help.stderr));
    }
    assert_eq!(kubectl("isthmus frobnicate").status.code(), Some(2), "exit codes come through");
}

/// Macros of man(7) that pages may have.
const MACROS: [&str; 16] = [
    ".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".IP", ".br", ".nf", ".fi", ".ie", ".el", ".ds", ".B",
    ".I",
];

#[test]
fn the_manual_has_a_page_for_each_command_that_formats_without_a_complaint() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = isthmus(&format!("man {}", dir.path().display()));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let pages =
        std::fs::read_dir(dir.path()).expect("a directory").map(|entry| entry.expect("a file").path());
    let pages: Vec<_> = pages.collect();
    for name in
        ["isthmus", "isthmus-status", "isthmus-gather", "isthmus-certs-renew", "isthmus-explain-service"]
    {
        assert!(pages.iter().any(|page| page.ends_with(format!("{name}.1"))), "{name}: {pages:?}");
    }
    assert!(!pages.iter().any(|page| page.ends_with("isthmus-cilium.1")), "what help hides has no page");
    let groff = Command::new("groff").arg("--version").output().is_ok();
    for page in &pages {
        let roff = std::fs::read_to_string(page).expect("a page");
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
            assert!(roff.contains(section), "{}: {section}", page.display());
        }
        for line in roff.lines().filter(|line| line.starts_with(['.', '\''])) {
            let word = line.split_whitespace().next().unwrap_or_default();
            assert!(MACROS.contains(&word), "{}: {line}", page.display());
        }
        if groff {
            let mut command = Command::new("groff");
            let output =
                command.args(["-man", "-Tutf8", "-ww", "-P-cbou"]).arg(page).output().expect("groff starts");
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{}: {}",
                page.display(),
                text(&output.stderr)
            );
            assert!(text(&output.stdout).contains("SYNOPSIS"), "{}", page.display());
        }
    }
}
