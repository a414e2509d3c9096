//! `isthmus demo` as its users meet it: what it prints works as printed, and nothing of it remains.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a debug build on a busy machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// A demo that runs. Dropping it kills it.
struct Demo {
    child: Child,
    out: BufReader<ChildStdout>,
    /// What it has printed when it is ready.
    printed: String,
}

impl Demo {
    /// Starts it, and reads until a line with `last`.
    fn start(args: &[&str], last: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_isthmus"))
            .arg("demo")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut demo = Self { child, out, printed: String::new() };
        while !demo.printed.lines().next_back().is_some_and(|line| line.contains(last)) {
            assert!(demo.out.read_line(&mut demo.printed).unwrap() > 0, "it ended:\n{}", demo.printed);
        }
        demo
    }

    /// The commands that it tells to try.
    fn commands(&self) -> Vec<&str> {
        self.printed.lines().filter_map(|line| line.strip_prefix("  $ ")).collect()
    }

    /// Its directory, out of what it printed.
    fn dir(&self) -> PathBuf {
        let path = self.printed.split_whitespace().find(|word| word.contains("/isthmus-demo-")).unwrap();
        let path = Path::new(path);
        let dir = path.ancestors().find(|dir| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("isthmus-demo-"))
        });
        dir.unwrap().to_owned()
    }

    fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Processes that have the directory in their command line.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let of = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(dir).then_some(line)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// Asks again until nothing of a demo runs.
fn nothing_remains(dir: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !processes_of(dir).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes_of(dir));
        thread::yield_now();
    }
}

/// Runs a command as a user would, with `kubectl` of the tests on the path.
fn shell(command: &str) -> Output {
    let tools =
        env::var("ISTHMUS_TOOLS_BIN").expect("ISTHMUS_TOOLS_BIN: run `e2e/tools/build`, or `make test`");
    let path = format!("{tools}:{}", env::var("PATH").unwrap_or_default());
    Command::new("sh").args(["-c", command]).env("PATH", path).env("HOME", env::temp_dir()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

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
    let commands = demo.commands();
    assert_eq!(commands.len(), expected.len(), "{}", demo.printed);
    for (command, expected) in commands.iter().zip(expected) {
        let output = shell(command);
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
    let lost = shell(&format!(
        "{} explain service shop/nothing --from west --mesh {}/mesh.yaml",
        env!("CARGO_BIN_EXE_isthmus"),
        dir.display()
    ));
    assert_eq!(lost.status.code(), Some(3), "{}", text(&lost.stdout));

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
