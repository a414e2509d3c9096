//! How big the figures are.

use std::time::Duration;

/// What each figure loads and for how long.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sizes {
    /// Targets are for the standard sizes only.
    #[serde(skip)]
    pub(crate) standard: bool,
    /// Starts of a server whose median is taken.
    pub(crate) starts: usize,
    /// Length of a phase that lasts a fixed time.
    #[serde(skip)]
    pub(crate) phase: Duration,
    /// Most time one figure gets on one side.
    #[serde(skip)]
    pub(crate) limit: Duration,
    /// Watchers of a fan-out, a connection each.
    pub(crate) watchers: Vec<usize>,
    /// Keys of one bulk write in process.
    pub(crate) bulk_keys: usize,
    /// Keys that are listed.
    pub(crate) listed_keys: usize,
    /// Clients that list them in pages.
    pub(crate) listing_clients: usize,
    /// Agents that bootstrap.
    pub(crate) agents: usize,
    /// Clusters that each of them mirrors.
    pub(crate) clusters: usize,
    /// Endpoints of a cluster; nodes, identities and services are in proportion.
    pub(crate) endpoints: usize,
    /// Connections that do nothing.
    pub(crate) idle_connections: usize,
    /// Sizes of the store whose memory is read.
    pub(crate) memory_keys: Vec<usize>,
    /// Keys on a lease, few and many.
    pub(crate) leased_keys: [usize; 2],
    /// Keys that are listed while others write.
    pub(crate) stall_keys: usize,
}

impl Sizes {
    /// Those of the targets, but for the figures with a million keys.
    pub(crate) fn standard() -> Self {
        Self {
            standard: true,
            starts: 5,
            phase: Duration::from_secs(5),
            limit: Duration::from_secs(180),
            watchers: vec![1, 100, 1000],
            bulk_keys: 100_000,
            listed_keys: 100_000,
            listing_clients: 50,
            agents: 100,
            clusters: 10,
            endpoints: 5000,
            idle_connections: 1000,
            memory_keys: vec![100_000],
            leased_keys: [1000, 100_000],
            stall_keys: 100_000,
        }
    }

    /// Those of the targets, all of them.
    pub(crate) fn full() -> Self {
        Self { memory_keys: vec![100_000, 1_000_000], stall_keys: 1_000_000, ..Self::standard() }
    }

    /// Small enough to see in seconds that everything works; says nothing about the targets.
    pub(crate) fn quick() -> Self {
        Self {
            standard: false,
            starts: 1,
            phase: Duration::from_millis(500),
            limit: Duration::from_secs(30),
            watchers: vec![1, 20],
            bulk_keys: 10_000,
            listed_keys: 5000,
            listing_clients: 4,
            agents: 4,
            clusters: 2,
            endpoints: 500,
            idle_connections: 50,
            memory_keys: vec![10_000],
            leased_keys: [100, 2000],
            stall_keys: 10_000,
        }
    }
}
