//! The local store's mirrored clusters, as typed events.
//!
//! ```text
//!  cilium/cluster-config/   ─▶ directory: which clusters there are ─▶ one task per cluster
//!  cilium/synced/<c>/       ─▶ canaries: which kinds are complete  ─▶ when to list
//!  cilium/cache/<kind>/…/   ─▶ follower ─▶ gate ─▶ decode          ─▶ events
//! ```
//!
//! What always holds:
//!
//! - A value that does not decode or breaks a rule is reported and skipped; the good value before it stays.
//! - Losing contact withdraws nothing. A kind is listed again only when its canary stands in the store at hand, so a
//!   store that is new and still empty withdraws nothing either.
//! - Keys that vanish together with their canary (the mirror's lease ended) are held until the canary is back.
//! - A cluster is dropped at once when the mirror removed it, else only after a grace.

mod cluster;
mod decode;
mod dial;
mod directory;
mod gate;
mod observer;

use bytes::Bytes;
use mesh_types::{ClusterName, Rejection, Resource};

pub use decode::{Item, ItemKey};
pub use dial::{Dial, DialError, EtcdStore};
pub use directory::Standing;
pub use observer::{Observer, ObserverSettings};

/// The kinds that an agent reads. It never reads service exports. A kind that a cluster does not offer is complete and empty.
pub const KINDS: [Resource; 5] =
    [Resource::Nodes, Resource::Ip, Resource::Identities, Resource::Services, Resource::EndpointSlices];

/// What a consumer learns from the local store.
#[derive(Clone, Debug)]
pub enum Event {
    /// The connection to the store changed.
    Store(StoreEvent),
    /// A key below `cilium/cluster-config/` cannot be used, or (`None`) can again or is gone.
    Config {
        /// The key after the prefix.
        key: String,
        /// Why not.
        refused: Option<Rejection>,
    },
    /// Something happened to one cluster.
    Cluster(ClusterName, ClusterEvent),
}

/// The connection to the local store.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// A store answers; its cluster id, if it tells.
    Connected(Option<u64>),
    /// All mirrored clusters of the store were named once.
    Listed,
    /// Contact is lost, or was not made; nothing is withdrawn.
    Lost(String),
    /// Contact is back and nothing was missed.
    Resumed,
    /// The own cluster's configuration is in the store.
    OwnConfig,
}

/// What happened to one cluster.
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    /// How it stands.
    Standing(Standing),
    /// A value is in effect.
    Put {
        /// The key after the prefix.
        key: Bytes,
        /// The value.
        item: Item,
    },
    /// A value is withdrawn.
    Gone {
        /// Its kind.
        kind: Resource,
        /// The key after the prefix.
        key: Bytes,
        /// What it named; `None` if it never named anything.
        item: Option<ItemKey>,
    },
    /// A value cannot be used; the one before it stays.
    Rejected {
        /// Its kind.
        kind: Resource,
        /// The key after the prefix.
        key: Bytes,
        /// Why not.
        refused: Rejection,
    },
    /// All values of the kind were named.
    Synced(Resource),
    /// Contact is lost; the values of the kind stay.
    Lost {
        /// The kind.
        kind: Resource,
        /// Why.
        error: String,
    },
    /// Contact is back and nothing was missed.
    Resumed(Resource),
    /// So many withdrawals of the kind are held back.
    Withheld {
        /// The kind.
        kind: Resource,
        /// How many; 0 when they were released.
        keys: usize,
    },
    /// The cluster is gone with everything of it.
    Removed,
}
