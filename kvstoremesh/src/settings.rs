use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mesh_runtime::Backoff;
use mesh_types::{ClusterName, LocalCluster, Resource};

use crate::keeper::{Patience, Rules, Shrink};
use crate::lost_contact::LostContact;
use crate::resource::is_revocable;

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
    /// Whether what was mirrored of a cluster that is no longer configured is removed. If not, it stays as it is until its
    /// leases end or someone forgets the cluster.
    pub drain_on_removal: bool,
    /// Silence of a peer's heartbeat after which its connection is given up.
    pub heartbeat_timeout: Duration,
    /// Waits between attempts to reach a peer. Cilium waits `n` seconds after the n-th failure, without a limit.
    pub backoff: Backoff,
    /// Larger values are not mirrored. The largest that an etcd of default settings takes is 1.5 MiB.
    pub max_value_bytes: usize,
    /// More keys of one kind of one cluster are not mirrored. Cilium has no such limit; 5,000 nodes of 110 pods have as many
    /// addresses.
    pub max_keys_per_kind: usize,
    /// Which withdrawals of a peer are held back. Cilium obeys all of them.
    pub shrink: Shrink,
    /// What becomes of the data of a cluster that is out of contact.
    pub lost_contact: LostContact,
    /// The same for some clusters; before what their files say.
    pub lost_contact_of: BTreeMap<ClusterName, LostContact>,
    /// How long after a connection was lost services, exports and endpoint slices are withdrawn; `None` is never.
    pub cache_ttl: Option<Duration>,
    /// Readiness does not wait for a peer that could not be reached for so long.
    pub per_cluster_ready_timeout: Duration,
    /// Readiness waits for nothing longer than this.
    pub global_ready_timeout: Duration,
    /// Another mirror of the local store must have led for so long before standing by counts as ready.
    pub standby_patience: Duration,
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
            drain_on_removal: true,
            heartbeat_timeout: Duration::from_secs(2 * 60),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            max_value_bytes: 1024 * 1024,
            max_keys_per_kind: 550_000,
            shrink: Shrink::default(),
            lost_contact: LostContact::Keep,
            lost_contact_of: BTreeMap::new(),
            cache_ttl: None,
            per_cluster_ready_timeout: Duration::from_secs(15),
            global_ready_timeout: Duration::from_secs(10 * 60),
            standby_patience: Duration::from_secs(10),
            heartbeat: false,
        }
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules { max_value_bytes: self.max_value_bytes, max_keys: self.max_keys_per_kind, shrink: self.shrink }
    }

    /// The policy for `cluster`, whose file says `in_file`.
    pub(crate) fn lost_contact(&self, cluster: &ClusterName, in_file: Option<LostContact>) -> LostContact {
        self.lost_contact_of.get(cluster).copied().or(in_file).unwrap_or(self.lost_contact)
    }

    /// How long the last state of `kind` outlives the contact with a cluster of this policy.
    pub(crate) fn patience(&self, policy: LostContact, kind: Resource) -> Patience {
        Patience {
            drain_after: policy.drain_after(),
            revoke_after: self.cache_ttl.filter(|_| is_revocable(kind)),
        }
    }
}
