//! Which clusters there are: the mirrored cluster-configs of the local store. Pure.
//!
//! A cluster is *accepted* when its configuration fits and no other accepted one has its id. A configuration that is
//! gone is obeyed at once only with evidence that the cluster was removed; otherwise what is known stays until a grace
//! ends (a new or emptied store says nothing about clusters).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_types::{ClusterConfig, ClusterName, LocalCluster, Peer, Reason, Rejection};

/// What to do about a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Follow it.
    Start(Peer, ClusterConfig),
    /// Stop following it and withdraw all that is known of it.
    Drain(ClusterName),
    /// Show this.
    Show(ClusterName, Standing),
    /// A configuration cannot be used, or (`None`) can again; the key after the prefix.
    Refuse(String, Option<Rejection>),
    /// The own cluster's configuration is there, so the store is one that is being filled.
    OwnSeen,
}

/// How a cluster stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It is followed.
    Accepted {
        /// Its id and the mesh's size.
        peer: Peer,
        /// What it announces.
        config: ClusterConfig,
    },
    /// It is not followed, and why.
    Refused(Rejection),
    /// It is followed no more by the store; what is known is dropped after the rest of the grace.
    Absent {
        /// Until it is dropped.
        remaining: Duration,
    },
}

/// What is known of a configuration that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// The mirror says that it removed the cluster.
    Removed,
    /// Nobody says so: the store is new, or the mirror's lease ended.
    None,
}

#[derive(Debug)]
struct Known {
    /// The last configuration that could be read.
    config: Option<ClusterConfig>,
    peer: Option<Peer>,
    /// When it is dropped.
    deadline: Option<Instant>,
}

/// The clusters.
#[derive(Debug)]
pub(crate) struct Directory {
    local: LocalCluster,
    /// How long an absent configuration is waited for; zero is for ever.
    grace: Duration,
    clusters: BTreeMap<ClusterName, Known>,
}

impl Directory {
    pub(crate) fn new(local: LocalCluster, grace: Duration) -> Self {
        Directory { local, grace, clusters: BTreeMap::new() }
    }

    /// The store says this of the cluster `key`.
    pub(crate) fn announce(&mut self, key: &[u8], value: &[u8]) -> Vec<Order> {
        let text = String::from_utf8_lossy(key).into_owned();
        let name: ClusterName = match text.parse() {
            Ok(name) => name,
            Err(refused) => return vec![Order::Refuse(text, Some(refused))],
        };
        let config = match ClusterConfig::decode(value) {
            Ok(config) => config,
            // The former configuration stays in effect.
            Err(refused) => return self.unreadable(name, text, refused),
        };
        if name == self.local.name {
            return vec![Order::OwnSeen, Order::Refuse(text, self.check_own(&config))];
        }
        let mut orders = Vec::new();
        let known =
            self.clusters.entry(name.clone()).or_insert(Known { config: None, peer: None, deadline: None });
        known.deadline = None;
        known.config = Some(config.clone());
        let wanted = Peer::accept(&self.local, &name, &config).ok();
        if known.peer.is_some() && known.peer != wanted {
            // Another id: everything under the old one goes before the new one is taken.
            known.peer = None;
            orders.push(Order::Drain(name.clone()));
        }
        self.settle(&name, &mut orders);
        if orders.iter().any(|order| matches!(order, Order::Drain(_))) {
            self.settle_others(&name, &mut orders);
        }
        orders
    }

    fn unreadable(&mut self, name: ClusterName, key: String, refused: Rejection) -> Vec<Order> {
        let accepted = self.clusters.get(&name).is_some_and(|known| known.peer.is_some());
        let mut orders = vec![Order::Refuse(key, Some(refused.clone()))];
        if !accepted && name != self.local.name {
            orders.push(Order::Show(name, Standing::Refused(refused)));
        }
        orders
    }

    fn check_own(&self, config: &ClusterConfig) -> Option<Rejection> {
        let LocalCluster { name, id, .. } = &self.local;
        (config.id != id.get()).then(|| {
            let detail = format!(
                "the store's own cluster {name} has id {}, this agent was told {id}; set both to the same",
                config.id
            );
            Rejection::new(Reason::ClusterIdMismatch, detail)
        })
    }

    /// Accepts or refuses `name` by its configuration.
    fn settle(&mut self, name: &ClusterName, orders: &mut Vec<Order>) {
        let Some(config) = self.clusters.get(name).and_then(|known| known.config.clone()) else { return };
        let outcome = self.examine(name, &config);
        let Some(known) = self.clusters.get_mut(name) else { return };
        match outcome {
            Ok(peer) => {
                if known.peer.is_none() {
                    orders.push(Order::Start(peer.clone(), config.clone()));
                }
                known.peer = Some(peer.clone());
                orders.push(Order::Refuse(name.to_string(), None));
                orders.push(Order::Show(name.clone(), Standing::Accepted { peer, config }));
            }
            Err(refused) => {
                orders.push(Order::Refuse(name.to_string(), Some(refused.clone())));
                orders.push(Order::Show(name.clone(), Standing::Refused(refused)));
            }
        }
    }

    fn examine(&self, name: &ClusterName, config: &ClusterConfig) -> Result<Peer, Rejection> {
        if !config.capabilities.cached {
            let detail = format!(
                "cluster-config of {name}: expected a mirror's (cached true), found the cluster's own; the agent reads \
                 the store that kvstoremesh writes"
            );
            return Err(Rejection::new(Reason::ClusterConfigInvalid, detail));
        }
        let peer = Peer::accept(&self.local, name, config)?;
        let holder = self.clusters.iter().find(|(other, known)| {
            *other != name && known.peer.as_ref().is_some_and(|accepted| accepted.id == peer.id)
        });
        match holder {
            None => Ok(peer),
            Some((holder, _)) => Err(Rejection::new(
                Reason::ClusterIdInUse,
                format!(
                    "cluster {name} has id {}, which cluster {holder} has; ids must differ in the whole mesh",
                    peer.id
                ),
            )),
        }
    }

    /// An id may have become free: whoever was refused for it gets its turn.
    fn settle_others(&mut self, gone: &ClusterName, orders: &mut Vec<Order>) {
        let refused = self.clusters.iter().filter(|(name, known)| *name != gone && known.peer.is_none());
        let refused: Vec<_> = refused.map(|(name, _)| name.clone()).collect();
        for name in refused {
            self.settle(&name, orders);
        }
    }

    /// The configuration of the cluster `key` is gone.
    pub(crate) fn withdraw(&mut self, key: &[u8], evidence: Evidence, now: Instant) -> Vec<Order> {
        let text = String::from_utf8_lossy(key).into_owned();
        let known = text.parse::<ClusterName>().ok().filter(|name| self.clusters.contains_key(name));
        let Some(name) = known else { return vec![Order::Refuse(text, None)] };
        let followed = self.clusters.get(&name).is_some_and(|known| known.peer.is_some());
        if evidence == Evidence::Removed || !followed {
            return self.drop_cluster(&name);
        }
        if let Some(known) = self.clusters.get_mut(&name)
            && known.deadline.is_none()
            && !self.grace.is_zero()
        {
            known.deadline = Some(now + self.grace);
        }
        vec![Order::Show(name, Standing::Absent { remaining: self.grace })]
    }

    fn drop_cluster(&mut self, name: &ClusterName) -> Vec<Order> {
        self.clusters.remove(name);
        let mut orders = vec![Order::Refuse(name.to_string(), None), Order::Drain(name.clone())];
        self.settle_others(name, &mut orders);
        orders
    }

    /// When [`Self::on_deadline`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.clusters.values().filter_map(|known| known.deadline).min()
    }

    /// Drops the clusters whose grace has ended.
    pub(crate) fn on_deadline(&mut self, now: Instant) -> Vec<Order> {
        let over = |known: &Known| known.deadline.is_some_and(|deadline| deadline <= now);
        let ended: Vec<_> =
            self.clusters.iter().filter(|(_, known)| over(known)).map(|(name, _)| name.clone()).collect();
        ended.iter().flat_map(|name| self.drop_cluster(name)).collect()
    }
}

#[cfg(test)]
mod tests;
