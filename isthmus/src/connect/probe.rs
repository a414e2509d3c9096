//! Trying the way to stores, as the mirrors of the other clusters will.

use anyhow::Context as _;
use futures::future::join_all;
use jiff::Timestamp;
use kvstoremesh::troubleshoot::{Diagnosis, Layer, Outcome, Question, troubleshoot};
use mesh_connect::{Member, Probe, ProbeResult, trial};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

/// How much is expected of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// That it answers: who may read may not be written yet.
    Answer,
    /// That clusters that are connected to it may read it.
    Reading,
}

/// How long a store may take to answer, where there is more time than that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries each member's store once, with the certificate of another member, and notes how it answered.
pub(crate) async fn probe(members: &mut [Member], expect: Expect, left: Duration) {
    let tried = members.iter().map(|peer| {
        let reader = members.iter().find(|reader| reader.name() != peer.name() && reader.remote.is_some());
        async move { result(reader?, peer, expect, left).await }
    });
    let results = join_all(tried).await;
    for (member, result) in members.iter_mut().zip(results) {
        member.probe = result;
    }
}

async fn result(reader: &Member, peer: &Member, expect: Expect, left: Duration) -> Option<Probe> {
    let diagnosis = diagnose(reader, peer, left).await.ok().flatten()?;
    let connected = expect == Expect::Reading && reader.peers().contains(peer.name());
    let result = match diagnosis.failing {
        None => ProbeResult::Well,
        Some(Layer::NameResolution | Layer::Tcp) => ProbeResult::Unreachable,
        Some(Layer::Tls) => ProbeResult::Refused,
        // Readers may read a heartbeat in every store, and what a cluster says of itself only in its own.
        Some(Layer::Permission) if let_in(&diagnosis) => ProbeResult::Another,
        Some(Layer::Permission) if connected => ProbeResult::Refused,
        // It let us in, and who may read is yet to be written.
        Some(Layer::Permission) => ProbeResult::Well,
        Some(Layer::ClusterConfig | Layer::ClusterId) => ProbeResult::Another,
        // The Secrets have checks of their own, that name them.
        Some(Layer::Configuration | Layer::Certificate) => return None,
    };
    Some(Probe { result, detail: failed(&diagnosis) })
}

fn let_in(diagnosis: &Diagnosis) -> bool {
    diagnosis.steps.iter().any(|step| step.layer == Layer::Permission && step.outcome != Outcome::Failed)
}

/// Those of all ways from member to member that cannot be gone, with the reason.
pub(crate) async fn not_readable(members: &[Member], left: Duration) -> Vec<String> {
    let ways = members.iter().flat_map(|reader| members.iter().map(move |peer| (reader, peer)));
    let tried = ways.filter(|(reader, peer)| reader.name() != peer.name()).map(|(reader, peer)| async move {
        let why = match diagnose(reader, peer, left).await {
            Ok(Some(diagnosis)) if diagnosis.failing.is_none() => return None,
            Ok(Some(diagnosis)) => failed(&diagnosis),
            Ok(None) => "there is no way to it, or no certificate".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        Some(format!("{} cannot read the store of {}: {why}", reader.name(), peer.name()))
    });
    join_all(tried).await.into_iter().flatten().collect()
}

/// What was in the way, without the files' paths, which are gone by now.
fn failed(diagnosis: &Diagnosis) -> String {
    let failed = diagnosis.steps.iter().filter(|step| step.outcome == Outcome::Failed);
    failed.map(|step| step.what.as_str()).collect::<Vec<_>>().join("; ")
}

/// The layers of the way; `None` if there is no way to try.
async fn diagnose(reader: &Member, peer: &Member, left: Duration) -> anyhow::Result<Option<Diagnosis>> {
    let Some(trial) = trial(reader, peer, Timestamp::now()) else { return Ok(None) };
    // For the owner only (0700), and gone when this is dropped.
    let directory = tempfile::tempdir().context("make a directory for the certificates")?;
    for (name, content) in &trial.files {
        // The name of a cluster that is none must not lead elsewhere; it has a finding of its own.
        if name.contains(['/', '\0']) {
            return Ok(None);
        }
        let mut file = fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(directory.path().join(name))?;
        file.write_all(content.as_bytes())?;
    }
    let question = Question {
        directory: directory.path().to_owned(),
        clusters: [peer.name().to_owned()].into(),
        remotes: true,
        local_store: None,
        local_name: None,
        local_id: None,
        timeout: PATIENCE.min(left),
    };
    let findings = troubleshoot(&question).await.context("read the certificates")?;
    Ok(findings.clusters.into_iter().next())
}
