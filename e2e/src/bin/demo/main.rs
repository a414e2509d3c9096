//! `make demo-packets`: a mesh of clusters on this machine, to look at and to try things with.
//!
//! It starts a bed with a service in two clusters, shows what each side sees, and prints commands to go on with; they
//! work from any other terminal while it runs, until Ctrl-C. With `--check` it runs these commands itself, compares
//! what they print, and ends.

mod places;
mod scene;
mod tries;

use std::io::{self, Write};
use std::process::ExitCode;
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};

use places::Places;
use scene::Scene;
use tries::Try;

/// What runs here, beside the servers that `make tools` builds.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("dig", "dnsutils"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut check = false;
    let mut clusters = 2;
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            "--clusters=2" => clusters = 2,
            "--clusters=3" => clusters = 3,
            other => bail!("{other:?}: expected --check, --clusters=2 or --clusters=3"),
        }
    }
    ensure_possible()?;
    let mut out = io::stdout();
    writeln!(
        out,
        "Starting {clusters} clusters, each with its own kube-apiserver; this takes some ten seconds …"
    )?;
    let bed = scene::bed(clusters)?;
    let scene = Scene::start(&bed)?;
    let places = Places::write(&scene).context("write the commands of the demo")?;
    scene.show(&mut out)?;
    let tries = tries::all(&scene, &places)?;
    show_tries(&mut out, &tries)?;
    if check {
        return run_tries(&mut out, &tries);
    }
    writeln!(out, "\nAll of it runs until you press Ctrl-C, and then nothing of it remains.")?;
    out.flush()?;
    loop {
        // Ctrl-C ends the process, and with it every other one.
        thread::park();
    }
}

/// Says at once, and all of it, what is missing on this machine.
fn ensure_possible() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing = PROGRAMS.iter().filter(|(program, _package)| !has(program));
    let mut missing: Vec<_> =
        missing.map(|(program, package)| format!("the program {program} (Debian: {package})")).collect();
    if fs::metadata("/dev/net/tun").is_err() {
        missing.push("/dev/net/tun, for encryption (modprobe tun)".to_owned());
    }
    if let Err(error) = e2e::NetNs::new("try") {
        missing.push(format!("the right to make network namespaces: run it as root ({error:#})"));
    }
    ensure!(missing.is_empty(), "the demo needs what is missing here:\n  {}", missing.join("\n  "));
    Ok(())
}

fn show_tries(out: &mut impl Write, tries: &[Try]) -> Result<()> {
    writeln!(out, "\nWhat to try next, from another terminal (as the same user):")?;
    for this in tries {
        writeln!(out, "\n  # {}\n  {}", this.what, this.command)?;
    }
    Ok(())
}

fn run_tries(out: &mut impl Write, tries: &[Try]) -> Result<()> {
    writeln!(out, "\nChecking that each of these commands does what it says …")?;
    let mut failed = 0;
    for this in tries {
        match this.run() {
            Ok(()) => writeln!(out, "  ok      {}", this.command)?,
            Err(error) => {
                failed += 1;
                writeln!(out, "  FAILED  {}\n{error:#}", this.command)?;
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} commands of the demo do not do what they say", tries.len());
    writeln!(out, "The demo works: {} commands, all did what they say.", tries.len())?;
    Ok(())
}
