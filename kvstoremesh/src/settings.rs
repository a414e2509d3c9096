use std::path::PathBuf;
use std::time::Duration;

use mesh_runtime::Backoff;
use mesh_types::LocalCluster;

/// What a [`crate::Mesh`] is told. Defaults are Cilium's unless they say otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster that the mirror serves.
    pub local: LocalCluster,
    /// One etcd client configuration per remote cluster.
    pub directory: PathBuf,
    /// How long what was written outlives this process.
    pub lease_ttl: Duration,
    /// How long readers have to let go of a cluster between the removal of its cluster-config and that of its data.
    pub removal_grace: Duration,
    /// Silence of a peer's heartbeat after which its connection is given up.
    pub heartbeat_timeout: Duration,
    /// Waits between attempts to reach a peer. Cilium waits `n` seconds after the n-th failure, without a limit.
    pub backoff: Backoff,
    /// Larger values are not mirrored. The largest that an etcd of default settings takes is 1.5 MiB.
    pub max_value_bytes: usize,
    /// Readiness does not wait for a peer that could not be reached for so long.
    pub per_cluster_ready_timeout: Duration,
    /// Readiness waits for nothing longer than this.
    pub global_ready_timeout: Duration,
    /// Whether to renew the local store's heartbeat, for stores that nobody else writes to.
    pub heartbeat: bool,
}

impl Settings {
    /// The defaults for a mirror of `local` that reads `directory`.
    pub fn new(local: LocalCluster, directory: impl Into<PathBuf>) -> Self {
        Self {
            local,
            directory: directory.into(),
            lease_ttl: Duration::from_secs(15 * 60),
            removal_grace: Duration::from_secs(3 * 60),
            heartbeat_timeout: Duration::from_secs(2 * 60),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            max_value_bytes: 1024 * 1024,
            per_cluster_ready_timeout: Duration::from_secs(15),
            global_ready_timeout: Duration::from_secs(10 * 60),
            heartbeat: false,
        }
    }
}
