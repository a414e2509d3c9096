//! Starts a bed and holds it: for a look around, and for the test that kills it.
//!
//! `bed prod-eu us-east` starts two clusters, with ids 1 and 2, and waits for the end of its input (or Ctrl-C).
//! A name that ends in `-` is a cluster without Kubernetes.

use std::io::{self, Write};
use std::{env, process::ExitCode};

use anyhow::{Context, Result};
use e2e::{Bed, ClusterSpec};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "bed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut bed = Bed::builder("bed");
    for (name, id) in env::args().skip(1).zip(1..) {
        bed = bed.with(match name.strip_suffix('-') {
            Some(name) => ClusterSpec::new(name, id).without_kubernetes(),
            None => ClusterSpec::new(&name, id),
        });
    }
    let bed = bed.start()?;
    let mut out = io::stdout();
    writeln!(out, "{}", bed.dir().display())?;
    for cluster in bed.clusters() {
        let enter = cluster.host().netns().path();
        writeln!(out, "{}: nsenter --net={} …", cluster.name(), enter.display())?;
        if cluster.has_kubernetes() {
            writeln!(out, "    export KUBECONFIG={}", cluster.kubeconfig().display())?;
        }
    }
    writeln!(out, "ready")?;
    io::copy(&mut io::stdin(), &mut io::sink()).context("wait for the end of the input")?;
    Ok(())
}
