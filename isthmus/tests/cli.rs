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
    for command in ["certs", "completion", "version"] {
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
        ("unknown format", "version -o xml", "possible values: text, json"),
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
fn the_version_is_one_line_or_json() {
    let output = isthmus("version");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with(concat!("isthmus ", env!("CARGO_PKG_VERSION"), " ")));
    assert_eq!(text(&output.stdout).lines().count(), 1);

    let output = isthmus("version -o json");
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["os"], "linux");
    assert!(version["revision"].is_string() && version["arch"].is_string());
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
