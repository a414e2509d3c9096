//! The zone that is being answered from, for those who answer and those who look.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::table::Skipped;
use crate::zone::Zone;

/// The current zone; clones see the same one. Reading never waits for writing.
#[derive(Clone, Debug)]
pub struct Published(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    zone: ArcSwap<Zone>,
    skipped: ArcSwap<Vec<Skipped>>,
}

impl Published {
    /// Begins with `zone`.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(Inner { zone: ArcSwap::from_pointee(zone), skipped: ArcSwap::default() }))
    }

    /// A copy of the current zone, which shares its content.
    pub fn snapshot(&self) -> Zone {
        Zone::clone(&self.0.zone.load())
    }

    pub(crate) fn zone(&self) -> Guard<Arc<Zone>> {
        self.0.zone.load()
    }

    pub(crate) fn skipped(&self) -> Arc<Vec<Skipped>> {
        self.0.skipped.load_full()
    }

    pub(crate) fn publish(&self, zone: Zone) {
        self.0.zone.store(Arc::new(zone));
    }

    pub(crate) fn publish_skipped(&self, skipped: Vec<Skipped>) {
        self.0.skipped.store(Arc::new(skipped));
    }
}
