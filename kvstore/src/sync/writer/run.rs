//! What one run of a writer does: the loop around [`DesiredSet`](super::DesiredSet), and what is known of the store
//! meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Shared, WriterError};
use crate::{
    client::{Client, Error, Event, LeaseId, Revision, WatchError, WatchStream, Write},
    range::KeyRange,
    sync::{
        chain::Chain,
        desired::{Found, Item, Step},
        lease_pool::LeasePool,
    },
};

/// Keys of one page of a list of what is stored.
const PAGE: usize = 1024;

/// What one `run` keeps between its steps.
pub(super) struct Run<'a> {
    pub(super) shared: &'a Shared,
    pub(super) client: &'a dyn Client,
    pub(super) leases: LeasePool,
    /// The lease of the canary, if it has one.
    pub(super) canary_lease: LeaseId,
    pub(super) keep_alive_at: Option<Instant>,
    /// Batches of one are written while above zero, to find the key that the store refuses.
    singly: usize,
    watch: Option<WatchStream>,
    newest: Revision,
    /// Where others are not let change anything: keys that we wrote since the revision up to which `watch` has told, and
    /// when. What it tells of them until then is our own writes, or what those took the place of.
    own: BTreeMap<Bytes, Revision>,
    /// Cluster id of the store that was written to, as of the last look.
    store: Option<u64>,
}

impl<'a> Run<'a> {
    pub(super) fn new(shared: &'a Shared, client: &'a dyn Client) -> Self {
        Self {
            shared,
            client,
            leases: LeasePool::new(client.limits().keys_per_lease),
            canary_lease: LeaseId::NONE,
            keep_alive_at: None,
            singly: 0,
            watch: None,
            newest: Revision::default(),
            own: BTreeMap::new(),
            store: None,
        }
    }

    pub(super) async fn work(&mut self) -> WriterError {
        let mut failures = 0u32;
        loop {
            match self.step().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if let Some(end) = self.after(error, failures) {
                        return end;
                    }
                    tokio::time::sleep(self.shared.config.backoff.delay(failures, rand::random())).await;
                }
            }
        }
    }

    /// Notes a failure and what it says of the store.
    fn after(&mut self, error: Error, failures: u32) -> Option<WriterError> {
        let prefix = self.shared.config.prefix.escape_ascii().to_string();
        warn!(prefix, failures, error = %Chain(&error), "write to the store failed, retrying");
        self.shared.publish(|status| {
            status.failures += 1;
            status.last_error = Some(Chain(&error).to_string());
        });
        self.watch = None;
        if matches!(error, Error::ClusterChanged { .. }) {
            self.start_over();
        }
        self.client.is_spent().then_some(WriterError::ClientSpent(error))
    }

    /// The store holds nothing of ours any more.
    fn start_over(&mut self) {
        info!(prefix = %self.shared.config.prefix.escape_ascii(), "the store was replaced, writing everything again");
        self.leases.clear();
        self.canary_lease = LeaseId::NONE;
        self.newest = Revision::default();
        self.store = None;
        self.shared.set().all_lost();
    }

    async fn step(&mut self) -> Result<(), Error> {
        if self.keep_alive_at.is_some_and(|at| at <= Instant::now()) {
            self.keep_alive().await?;
        }
        let step = self.shared.set().step();
        match step {
            Step::Adopt => self.adopt().await?,
            Step::Write => self.write().await?,
            Step::Sweep => self.sweep().await?,
            Step::Canary => self.canary().await?,
            Step::Idle => return self.idle().await,
        }
        self.shared.publish(|status| status.last_error = None);
        Ok(())
    }

    /// Waits for a wish, a timer, or a sign that the store changed under us.
    async fn idle(&mut self) -> Result<(), Error> {
        if self.watch.is_none() {
            self.look().await?;
            self.shared.publish(|status| status.last_error = None);
            if self.shared.set().step() != Step::Idle {
                return Ok(());
            }
        }
        let Some(watch) = self.watch.as_mut() else { return Ok(()) };
        let timer = self.keep_alive_at;
        let timer = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let batch = tokio::select! {
            () = self.shared.wake.notified() => return Ok(()),
            () = timer => return Ok(()),
            batch = watch.next() => batch,
        };
        match batch {
            Some(Ok(batch)) => {
                batch.events.iter().for_each(|event| self.seen(event));
                self.own.retain(|_, written| *written > batch.revision);
                Ok(())
            }
            Some(Err(WatchError::Store(error @ Error::ClusterChanged { .. }))) => Err(error),
            Some(Err(_)) | None => {
                // Whatever it was, `look` finds out what it means.
                self.watch = None;
                tokio::time::sleep(self.shared.config.backoff.delay(1, rand::random())).await;
                Ok(())
            }
        }
    }

    /// Makes sure that the store is still the one that was written to, and watches for news of our keys.
    async fn look(&mut self) -> Result<(), Error> {
        let status = self.client.status().await?;
        // Another writer with the same client may have been told of the change, which only one is.
        let other = self.store.is_some_and(|store| store != status.cluster_id);
        if other || status.revision < self.newest {
            self.start_over();
        }
        self.store = Some(status.cluster_id);
        self.renew_all().await?;
        let config = &self.shared.config;
        let range = match &config.canary {
            Some((key, _)) if !config.enforce => KeyRange::key(key.clone()),
            Some(_) | None => config.range(),
        };
        match self.client.watch(range, status.revision.next()).await {
            Ok(watch) => {
                self.watch = Some(watch);
                self.own.clear();
            }
            Err(WatchError::Store(error)) => return Err(error),
            Err(error) => return Err(Error::Transport(Box::new(error))),
        }
        if config.enforce {
            self.check_all().await?;
        }
        Ok(())
    }

    /// Compares the store with what is wanted once, for changes made while nobody watched.
    async fn check_all(&mut self) -> Result<(), Error> {
        let found = self.shared.list(self.client).await?;
        let mut set = self.shared.set();
        let mut missing: BTreeSet<Bytes> = set.stored_keys().map(Bytes::copy_from_slice).collect();
        for Found { key, value, .. } in found {
            missing.remove(&key);
            set.foreign(&key, Some(&value));
        }
        for key in missing {
            set.foreign(&key, None);
        }
        Ok(())
    }

    fn seen(&self, event: &Event) {
        let config = &self.shared.config;
        if let Some((canary, _)) = &config.canary
            && event.key() == canary
        {
            if matches!(event, Event::Delete { .. }) {
                self.shared.set().canary_lost();
            }
            return;
        }
        let Some(key) = event.key().strip_prefix(&config.prefix[..]) else { return };
        if config.enforce {
            let found = match event {
                Event::Put(kv) => Some(&kv.value),
                Event::Delete { .. } => None,
            };
            let ours = self.own.get(key).is_some_and(|written| event.mod_revision() <= *written);
            if !ours && self.shared.set().foreign(key, found) {
                info!(key = %event.key().escape_ascii(), "reverting a change that someone else made");
            }
        }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let limits = self.client.limits();
        let operations = if self.singly > 0 { 1 } else { limits.batch_operations };
        let mut items = self.shared.set().take(operations, limits.batch_bytes);
        self.singly = self.singly.saturating_sub(items.len());
        let mut taken = Vec::new();
        if let Err(error) = self.attach(&mut items, &mut taken).await {
            taken.into_iter().for_each(|lease| self.leases.release(lease));
            self.shared.set().failed(items);
            return Err(error);
        }
        let batch = items.iter().map(|item| {
            let key = self.shared.whole(&item.key);
            match &item.value {
                Some(value) => Write::Put { key, value: value.clone(), lease: item.lease },
                None => Write::Delete { key },
            }
        });
        let witness = self.shared.config.witness.as_deref().map(|witness| (witness, SystemTime::now()));
        match self.client.write_kept(batch.collect()).await {
            Ok((revision, records)) => {
                self.newest = self.newest.max(revision);
                if let Some((witness, sent)) = witness {
                    let marks: Vec<u64> =
                        items.iter().map(|item| item.mark).filter(|mark| *mark != 0).collect();
                    witness.stored(sent, revision, &marks);
                }
                if self.shared.config.enforce && self.watch.is_some() {
                    self.own.extend(items.iter().map(|item| (item.key.clone(), revision)));
                }
                let puts = items.iter().filter(|item| item.value.is_some()).count();
                let deletes = items.len() - puts;
                let freed = self.shared.set().stored(items, records);
                freed.into_iter().for_each(|lease| self.leases.release(lease));
                self.shared.publish(|status| {
                    status.written += puts as u64;
                    status.deleted += deletes as u64;
                    status.revision = revision;
                });
                Ok(())
            }
            Err(error) => {
                taken.into_iter().for_each(|lease| self.leases.release(lease));
                self.not_written(items, &error).await;
                Err(error)
            }
        }
    }

    /// Puts a failed batch back where it is due again.
    async fn not_written(&mut self, mut items: Vec<Item>, error: &Error) {
        match error {
            Error::Invalid(_) if items.len() > 1 => {
                self.singly = items.len();
                self.shared.set().failed(items);
            }
            Error::Invalid(_) => {
                for item in items.drain(..) {
                    self.shared.set().postpone(item);
                }
            }
            Error::LeaseNotFound(_) => {
                // The store does not say which. Those that are only taken for lost would hold keys that nobody knows of.
                let leases: BTreeSet<LeaseId> = items.iter().map(|item| item.lease).collect();
                self.shared.set().failed(items);
                for lease in leases.into_iter().filter(|lease| *lease != LeaseId::NONE) {
                    if let Err(error) = self.renew(lease).await {
                        debug!(%lease, error = %Chain(&error), "it stays unknown whether the lease is lost");
                    }
                }
            }
            Error::Compacted { .. }
            | Error::FutureRevision { .. }
            | Error::PermissionDenied
            | Error::Unauthenticated(_)
            | Error::NoSpace
            | Error::ClusterChanged { .. }
            | Error::NoHeader
            | Error::Credentials(_)
            | Error::Unavailable(_)
            | Error::Transport(_) => self.shared.set().failed(items),
        }
    }

    async fn sweep(&mut self) -> Result<(), Error> {
        if !self.shared.config.remove_stale {
            self.shared.set().swept();
            return Ok(());
        }
        // Part by part: nobody but this writer changes what is known to be stored, and at the end of a first
        // synchronisation many sweep at a time.
        let mut pages = Pages::new(self.shared, self.client);
        loop {
            let from = pages.last.clone();
            let (found, ends) = pages.next().await?;
            self.shared.set().sweep(from.as_deref(), found, ends);
            if ends {
                self.shared.set().swept();
                return Ok(());
            }
        }
    }

    async fn canary(&mut self) -> Result<(), Error> {
        if let Some((key, value)) = &self.shared.config.canary {
            if self.canary_lease == LeaseId::NONE {
                self.canary_lease = self.grant_for_canary().await?;
            }
            let put = Write::Put { key: key.clone(), value: value(), lease: self.canary_lease };
            match self.client.write(vec![put]).await {
                Ok(revision) => self.newest = self.newest.max(revision),
                Err(error) => {
                    if matches!(error, Error::LeaseNotFound(_)) {
                        self.lease_lost(self.canary_lease);
                    }
                    return Err(error);
                }
            }
        }
        self.shared.set().canary_stored();
        Ok(())
    }
}

impl Shared {
    /// What the store holds under the prefix.
    pub(super) async fn list(&self, client: &dyn Client) -> Result<Vec<Found>, Error> {
        let mut pages = Pages::new(self, client);
        let mut all = Vec::new();
        loop {
            let (found, ends) = pages.next().await?;
            all.extend(found);
            if ends {
                return Ok(all);
            }
        }
    }
}

/// A list of what the store holds under the prefix, in pages that it can make without trouble, as of one revision.
struct Pages<'a> {
    client: &'a dyn Client,
    prefix: usize,
    rest: KeyRange,
    at: Option<Revision>,
    /// The last key of the last page that was not the end.
    last: Option<Bytes>,
}

impl<'a> Pages<'a> {
    fn new(shared: &Shared, client: &'a dyn Client) -> Self {
        let config = &shared.config;
        Self { client, prefix: config.prefix.len(), rest: config.range(), at: None, last: None }
    }

    /// The next page, and whether it is the last.
    async fn next(&mut self) -> Result<(Vec<Found>, bool), Error> {
        let size = self.client.limits().page.unwrap_or(PAGE);
        let page = self.client.list(&self.rest, size, self.at).await?;
        self.at.get_or_insert(page.revision);
        let last = page.kvs.last().map(|kv| kv.key.clone()).filter(|_| page.more);
        if let Some(last) = &last {
            self.rest = self.rest.after(last);
        }
        let relative = |kv: crate::KeyValue| Found {
            key: kv.key.slice(self.prefix..),
            value: kv.value,
            lease: kv.lease,
        };
        let found = page.kvs.into_iter().map(relative).collect();
        let ends = last.is_none();
        self.last = last.map(|last| last.slice(self.prefix..));
        Ok((found, ends))
    }
}
