//! A demo that runs, for tests that need a whole mesh.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a debug build on a busy machine may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A demo that runs. Dropping it kills it.
pub(crate) struct Demo {
    pub(crate) child: Child,
    pub(crate) out: BufReader<ChildStdout>,
    /// What it has printed when it is ready.
    pub(crate) printed: String,
}

impl Demo {
    /// Starts it, and reads until a line with `last`.
    pub(crate) fn start(args: &[&str], last: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_isthmus"))
            .arg("demo")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut demo = Self { child, out, printed: String::new() };
        while !demo.printed.lines().next_back().is_some_and(|line| line.contains(last)) {
            assert!(demo.out.read_line(&mut demo.printed).unwrap() > 0, "it ended:\n{}", demo.printed);
        }
        demo
    }

    /// The file that says where its places are.
    pub(crate) fn mesh(&self) -> String {
        self.dir().join("mesh.yaml").display().to_string()
    }

    /// The command lines of its daemons, by process id.
    pub(crate) fn daemons(&self) -> Vec<(Pid, String)> {
        let dir = self.dir();
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let id = entry.file_name().to_string_lossy().parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&*dir.to_string_lossy()).then_some((Pid::from_raw(id), line))
        });
        all.collect()
    }

    /// The commands that it tells to try: first those that prepare a shell, then those with a line of what they show, then
    /// more.
    pub(crate) fn commands(&self) -> [Vec<String>; 3] {
        let mut commands = [const { Vec::new() }; 3];
        let mut lines = self.printed.lines();
        let mut part = 0;
        while let Some(line) = lines.next() {
            if line.starts_with("  # ") {
                part = 1;
            } else if line == "More:" {
                part = 2;
            } else if let Some(command) = line.strip_prefix("  $ ") {
                let mut command = command.to_owned();
                while command.ends_with('\\') {
                    command = format!("{command}\n{}", lines.next().unwrap());
                }
                commands[part].push(command);
            }
        }
        commands
    }

    /// Runs a command as in a terminal that was prepared as it says.
    pub(crate) fn shell(&self, command: &str) -> Output {
        let [prepared, ..] = self.commands();
        shell(&format!("{}\n{command}", prepared.join("\n")))
    }

    /// The same again until its exit code is that; the last answer.
    pub(crate) fn shell_until(&self, command: &str, code: i32) -> Output {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.shell(command);
            if output.status.code() == Some(code) {
                return output;
            }
            assert!(Instant::now() < deadline, "{command}: {output:?}");
        }
    }

    /// Its directory, out of what it printed.
    pub(crate) fn dir(&self) -> PathBuf {
        let path = self.printed.split(['=', ' ', '\n']).find(|word| word.contains("/isthmus-demo-")).unwrap();
        let path = Path::new(path);
        let dir = path.ancestors().find(|dir| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("isthmus-demo-"))
        });
        dir.unwrap().to_owned()
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
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
pub(crate) fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let of = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(dir).then_some(line)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// Asks again until nothing of a demo runs.
pub(crate) fn nothing_remains(dir: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !processes_of(dir).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes_of(dir));
        thread::yield_now();
    }
}

/// Runs a command as a user would, with `kubectl` of the tests on the path.
pub(crate) fn shell(command: &str) -> Output {
    let tools =
        env::var("ISTHMUS_TOOLS_BIN").expect("ISTHMUS_TOOLS_BIN: run `e2e/tools/build`, or `make test`");
    let path = format!("{tools}:{}", env::var("PATH").unwrap_or_default());
    Command::new("sh").args(["-c", command]).env("PATH", path).env("HOME", env::temp_dir()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the program.
pub(crate) fn isthmus(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command
        .args(args)
        .env_remove("ISTHMUS_MESH")
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs it with more arguments until its exit code is that; the last answer.
pub(crate) fn until_code(args: &[&str], code: i32) -> Output {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = isthmus(args);
        if output.status.code() == Some(code) {
            return output;
        }
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(Instant::now() < deadline, "{args:?}: {}\n{out}{error}", output.status);
    }
}
