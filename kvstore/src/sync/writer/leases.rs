//! The leases that what is written hangs on: places on them, keeping them alive, and taking over those of an earlier life.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tracing::{debug, info};

use super::{Shared, run::Run};
use crate::{
    client::{Client, Error, LeaseId},
    embedded::whole_seconds,
    sync::desired::Item,
};

impl Run<'_> {
    /// Looks at what is stored. What hangs on a lease such as we would give it is taken over together with the lease.
    pub(super) async fn adopt(&mut self) -> Result<(), Error> {
        let found = self.shared.list(self.client).await?;
        let mut usable = BTreeSet::new();
        for lease in found.iter().map(|found| found.lease).collect::<BTreeSet<_>>() {
            if self.shared.can_keep(self.client, lease).await? {
                usable.insert(lease);
            }
        }
        let (keys, prefix) = (found.len(), self.shared.config.prefix.escape_ascii());
        if keys > 0 {
            debug!(%prefix, keys, leases = usable.len(), "taking over what is stored");
        }
        let leases = self.shared.set().adopt(found, |lease| usable.contains(&lease));
        for (lease, keys) in leases.into_iter().filter(|(lease, _)| *lease != LeaseId::NONE) {
            self.leases.adopted(lease, keys);
            self.keep_up();
        }
        Ok(())
    }

    /// Gives each put of the batch its lease; `taken` are the places that were free before.
    pub(super) async fn attach(&mut self, items: &mut [Item], taken: &mut Vec<LeaseId>) -> Result<(), Error> {
        if self.shared.config.lease_ttl.is_none() {
            return Ok(());
        }
        for item in items.iter_mut().filter(|item| item.value.is_some() && item.lease == LeaseId::NONE) {
            item.lease = self.place().await?;
            taken.push(item.lease);
        }
        Ok(())
    }

    /// A place on a lease, granting one if need be.
    pub(super) async fn place(&mut self) -> Result<LeaseId, Error> {
        let Some(ttl) = self.shared.config.lease_ttl else { return Ok(LeaseId::NONE) };
        loop {
            if let Some(lease) = self.leases.assign() {
                return Ok(lease);
            }
            let lease = self.client.grant(ttl).await?;
            debug!(%lease, "lease granted");
            self.leases.granted(lease);
            self.keep_up();
        }
    }

    /// A lease for the canary alone, which ends before those of the keys.
    pub(super) async fn grant_for_canary(&mut self) -> Result<LeaseId, Error> {
        let Some(ttl) = self.shared.config.canary_ttl() else { return Ok(LeaseId::NONE) };
        let lease = self.client.grant(ttl).await?;
        debug!(%lease, "lease of the canary granted");
        self.keep_up();
        Ok(lease)
    }

    pub(super) async fn keep_alive(&mut self) -> Result<(), Error> {
        self.renew_all().await?;
        let ttl = self.shared.config.lease_ttl.unwrap_or_default();
        let any = !self.leases.ids().is_empty() || self.canary_lease != LeaseId::NONE;
        self.keep_alive_at = any.then(|| Instant::now() + ttl / 3);
        Ok(())
    }

    pub(super) async fn renew_all(&mut self) -> Result<(), Error> {
        let canary = Some(self.canary_lease).filter(|lease| *lease != LeaseId::NONE);
        for lease in self.leases.ids().into_iter().chain(canary) {
            self.renew(lease).await?;
        }
        Ok(())
    }

    pub(super) async fn renew(&mut self, lease: LeaseId) -> Result<(), Error> {
        match self.client.keep_alive(lease).await {
            Ok(_) => Ok(()),
            Err(Error::LeaseNotFound(_)) => {
                self.lease_lost(lease);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn lease_lost(&mut self, lease: LeaseId) {
        if lease == LeaseId::NONE {
            return;
        }
        info!(%lease, prefix = %self.shared.config.prefix.escape_ascii(), "lease lost, writing its keys again");
        self.leases.lost(lease);
        let mut set = self.shared.set();
        set.lease_lost(lease);
        if self.canary_lease == lease {
            self.canary_lease = LeaseId::NONE;
            set.canary_lost();
        }
    }

    /// From now on there are leases to keep alive.
    fn keep_up(&mut self) {
        let ttl = self.shared.config.lease_ttl.unwrap_or_default();
        self.keep_alive_at.get_or_insert(Instant::now() + ttl / 3);
    }
}

impl Shared {
    /// Whether a lease lasts, once we keep it alive, just as long as one of our own.
    async fn can_keep(&self, client: &dyn Client, lease: LeaseId) -> Result<bool, Error> {
        let Some(ttl) = self.config.lease_ttl else { return Ok(lease == LeaseId::NONE) };
        if lease == LeaseId::NONE {
            return Ok(false);
        }
        match client.keep_alive(lease).await {
            Ok(found) => Ok(whole_seconds(found) == whole_seconds(ttl)),
            Err(Error::LeaseNotFound(_) | Error::PermissionDenied | Error::Invalid(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
