//! Where the servers and the program under test are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, str};

use anyhow::{Context, Result, bail, ensure};

/// The path of one of the servers that `e2e/tools/build` builds: in `$ISTHMUS_TOOLS_BIN`, else the first call builds
/// what is missing.
///
/// # Errors
/// If they cannot be built.
pub fn tool(name: &str) -> Result<PathBuf> {
    static DIR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = DIR.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    match dir {
        Ok(dir) => Ok(dir.join(name)),
        Err(error) => bail!("{error}"),
    }
}

fn build() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("ISTHMUS_TOOLS_BIN") {
        return Ok(dir.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/build");
    let output = Command::new(&script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {}", script.display()))?;
    ensure!(output.status.success(), "building the test servers failed, see above");
    let dir = str::from_utf8(&output.stdout).context("a path that is no text")?.trim_end();
    Ok(dir.into())
}

/// The program under test: `$ISTHMUS_BIN`, or what Cargo built beside this test.
///
/// # Errors
/// If it is not there.
pub fn isthmus() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ISTHMUS_BIN") {
        return Ok(path.into());
    }
    // A test is target/<profile>/deps/<name>, a binary target/<profile>/<name>.
    let test = env::current_exe().context("find the running test")?;
    let beside = test.ancestors().skip(1).take(2).map(|dir| dir.join("isthmus"));
    let found = beside.into_iter().find(|path| path.is_file());
    found.context("no `isthmus` beside the test: run `cargo build -p isthmus`, or set ISTHMUS_BIN")
}
