//! Removing what was mirrored from a cluster that is no longer configured.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvstore::{Client, Error, KeyRange, Write};
use mesh_runtime::Chain;
use mesh_types::{ClusterName, Form, MirrorWord, key, mirror_word_key};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::resource::KINDS;

/// Further attempts after one that failed; then what is left goes when its leases end.
const RETRIES: u32 = 5;
/// Wait before the first of them; it doubles.
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// What to do next in a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say that the cluster was removed and delete its cluster-config, then tell [`Removal::done`] or [`Removal::failed`].
    Announce,
    /// Delete these keys, then tell [`Removal::done`] or [`Removal::failed`].
    Delete(Vec<KeyRange>),
    /// Wait, then tell [`Removal::done`].
    Wait(Duration),
    /// Everything is deleted.
    Finished,
    /// It failed too often.
    GaveUp,
}

/// The steps of a removal. Pure.
///
/// First the cluster-config goes, so that readers let go of the cluster on their own terms; after the grace the
/// canaries, then the data. Source: Cilium `clustermesh-apiserver/kvstoremesh/remote_cluster.go`.
#[derive(Debug)]
pub(crate) struct Removal {
    cluster: ClusterName,
    grace: Duration,
    stage: Stage,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Config,
    Grace,
    Canaries,
    Data(usize),
    Finished,
    Retry,
    GaveUp,
}

impl Removal {
    /// Begins with the cluster-config of `cluster`.
    pub(crate) fn new(cluster: ClusterName, grace: Duration) -> Self {
        Self { cluster, grace, stage: Stage::Config, failures: 0 }
    }

    /// What to do now.
    pub(crate) fn step(&self) -> Step {
        let prefix = |prefix: String| KeyRange::prefix(Bytes::from(prefix));
        match self.stage {
            Stage::Config => Step::Announce,
            Stage::Grace => Step::Wait(self.grace),
            Stage::Canaries => Step::Delete(vec![prefix(key::synced_prefix(&self.cluster))]),
            Stage::Data(index) => Step::Delete(vec![prefix(KINDS[index].prefix(Form::Cache, &self.cluster))]),
            Stage::Retry => Step::Wait(FIRST_RETRY * 2_u32.pow(self.failures - 1)),
            Stage::Finished => Step::Finished,
            Stage::GaveUp => Step::GaveUp,
        }
    }

    /// The step was carried out.
    pub(crate) fn done(&mut self) {
        self.stage = match self.stage {
            // Readers had their grace in the first attempt.
            Stage::Config if self.failures > 0 => Stage::Canaries,
            Stage::Config => Stage::Grace,
            Stage::Grace => Stage::Canaries,
            Stage::Canaries => Stage::Data(0),
            Stage::Data(index) if index + 1 < KINDS.len() => Stage::Data(index + 1),
            Stage::Data(_) | Stage::Finished => Stage::Finished,
            Stage::Retry => Stage::Config,
            Stage::GaveUp => Stage::GaveUp,
        };
    }

    /// The step failed: everything again, after a while.
    pub(crate) fn failed(&mut self) {
        self.failures += 1;
        self.stage = if self.failures > RETRIES { Stage::GaveUp } else { Stage::Retry };
    }

    fn heard(&mut self, cluster: &ClusterName, result: Result<(), Error>) {
        match result {
            Ok(()) => self.done(),
            Err(error) => {
                warn!(%cluster, error = %Chain(&error), "removal of what was mirrored failed");
                self.failed();
            }
        }
    }

    /// A word for `status`.
    pub(crate) fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Config => "deleting-cluster-config",
            Stage::Grace => "grace",
            Stage::Canaries => "deleting-canaries",
            Stage::Data(_) => "deleting-data",
            Stage::Retry => "waiting-to-retry",
            Stage::Finished => "finished",
            Stage::GaveUp => "gave-up",
        }
    }
}

/// Carries out a removal in the local store. `show` hears of every new stage.
///
/// Dropping the future ends it where it is; the rest goes when its leases end.
pub(crate) async fn remove(
    cluster: &ClusterName,
    (grace, lease_ttl): (Duration, Duration),
    local: &Arc<dyn Client>,
    mut show: impl FnMut(&'static str),
) {
    let mut removal = Removal::new(cluster.clone(), grace);
    loop {
        show(removal.stage());
        match removal.step() {
            Step::Announce => removal.heard(cluster, announce(local.as_ref(), cluster, lease_ttl).await),
            Step::Delete(ranges) => removal.heard(cluster, delete(local.as_ref(), ranges).await),
            Step::Wait(time) => {
                sleep(time).await;
                removal.done();
            }
            Step::Finished => {
                info!(%cluster, "everything that was mirrored is removed");
                return;
            }
            Step::GaveUp => {
                warn!(%cluster, retries = RETRIES, "gave up the removal, what is left goes when its leases end");
                return;
            }
        }
    }
}

/// Deletes the cluster-config, and says in the same write that it did not merely expire.
pub(crate) async fn announce(
    local: &dyn Client,
    cluster: &ClusterName,
    lease_ttl: Duration,
) -> Result<(), Error> {
    let lease = local.grant(lease_ttl).await?;
    let word = MirrorWord { removed: true, ..MirrorWord::default() };
    let batch = vec![
        Write::Put { key: mirror_word_key(cluster).into(), value: word.encode().into(), lease },
        Write::Delete { key: key::cluster_config(cluster).into() },
    ];
    local.write(batch).await.map(drop)
}

pub(crate) async fn delete(local: &dyn Client, ranges: Vec<KeyRange>) -> Result<(), Error> {
    let batch = ranges.into_iter().map(|range| match range {
        range if range.is_single() => Write::Delete { key: range.start().clone() },
        range => Write::DeleteRange { range },
    });
    local.write(batch.collect()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal() -> Removal {
        Removal::new("west".parse().unwrap(), Duration::from_secs(180))
    }

    fn word(step: &Step) -> String {
        match step {
            Step::Announce => "announce".to_owned(),
            Step::Delete(ranges) => ranges[0].start().escape_ascii().to_string(),
            Step::Wait(time) => format!("wait {}", time.as_secs()),
            Step::Finished => "finished".to_owned(),
            Step::GaveUp => "gave up".to_owned(),
        }
    }

    #[test]
    fn the_config_goes_first_then_after_the_grace_canaries_and_data() {
        let mut removal = removal();
        let mut steps = Vec::new();
        while removal.step() != Step::Finished {
            steps.push(word(&removal.step()));
            removal.done();
        }
        let expected = [
            "announce",
            "wait 180",
            "cilium/synced/west/",
            "cilium/cache/endpointslices/v1/west/",
            "cilium/cache/ip/v1/west/",
            "cilium/cache/identities/v1/west/id/",
            "cilium/cache/nodes/v1/west/",
            "cilium/cache/serviceexports/v1/west/",
            "cilium/cache/services/v1/west/",
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_failure_begins_again_without_the_grace() {
        let mut removal = removal();
        removal.done();
        removal.done();
        removal.failed();
        assert_eq!(word(&removal.step()), "wait 2");
        removal.done();
        assert_eq!(word(&removal.step()), "announce");
        removal.done();
        assert_eq!(word(&removal.step()), "cilium/synced/west/");
    }

    #[test]
    fn it_gives_up_after_the_fifth_retry() {
        let mut removal = removal();
        let mut waits = Vec::new();
        loop {
            removal.failed();
            match removal.step() {
                Step::Wait(time) => waits.push(time.as_secs()),
                end @ (Step::Announce | Step::Delete(_) | Step::Finished | Step::GaveUp) => {
                    break assert_eq!(end, Step::GaveUp);
                }
            }
            removal.done();
        }
        assert_eq!(waits, [2, 4, 8, 16, 32]);
    }
}
