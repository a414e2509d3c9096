//! What an earlier life of this process has left in the local store is taken over before anything else.
//!
//! Else it would end with that life's leases while the cluster cannot be reached, and a list that comes out short would
//! have nothing to be compared with.

use std::time::{Instant, SystemTime};

use bytes::Bytes;
use kvstore::{Client, Error, KeyRange};
use mesh_runtime::{Chain, jitter};
use mesh_types::{ClusterConfig, Form, MirrorWord, Peer, Resource, key, mirror_word_key};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Remote;
use crate::resource::KINDS;

impl Remote {
    /// Takes over what is there; the local store is asked until it answers.
    pub(super) async fn adopt(&self) {
        let mut retry = self.settings.backoff.retry();
        while let Err(error) = self.try_adopt().await {
            let delay = retry.next_delay(jitter());
            warn!(cluster = %self.name, error = %Chain(&error), ?delay, "the local store does not say what it holds");
            sleep(delay).await;
        }
    }

    async fn try_adopt(&self) -> Result<(), Error> {
        let local = self.local.as_ref();
        let config = local.get(key::cluster_config(&self.name).as_bytes()).await?;
        let accepted = config.and_then(|found| {
            let config = ClusterConfig::decode(&found.value).ok()?;
            let peer = Peer::accept(&self.settings.local, &self.name, &config).ok()?;
            // Two clusters of one id cannot both have been announced here; whoever comes second is refused later.
            self.ids().reserve(&peer).ok()?;
            Some(found.value)
        });
        // Without its configuration readers have let go of the cluster, so there is nothing to go on with.
        let Some(config) = accepted else { return Ok(()) };
        self.sinks.announce_as(config);
        let word = local.get(mirror_word_key(&self.name).as_bytes()).await?;
        let word = word.and_then(|found| MirrorWord::decode(&found.value).ok()).unwrap_or_default();
        for kind in KINDS {
            let canary = local.get(kind.canary(Form::Cache, &self.name).as_bytes()).await?;
            let found = list(local, &Bytes::from(kind.prefix(Form::Cache, &self.name))).await?;
            let (keys, complete) = (found.len(), canary.is_some());
            let since = stale_since(&word, kind);
            self.sinks.keep(kind, |keeper, writer| keeper.adopt(found, complete, since, writer));
            if complete {
                self.record(|record| record.view(kind).adopted(since));
            }
            if keys > 0 {
                info!(cluster = %self.name, %kind, keys, complete, "taking over what is mirrored already");
            }
        }
        Ok(())
    }
}

/// Since when the kind is out of contact: as the earlier life said, else from now on.
fn stale_since(word: &MirrorWord, kind: Resource) -> Instant {
    let now = Instant::now();
    let told = word.kinds.get(kind.word()).and_then(|kind| kind.stale_since);
    let age = told.and_then(|told| {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        clock.checked_sub(std::time::Duration::from_secs(told.try_into().ok()?))
    });
    age.and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

/// Relative keys and values below `prefix`.
async fn list(local: &dyn Client, prefix: &Bytes) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let page_size = local.limits().page.unwrap_or(0);
    let (mut range, mut at, mut found) = (KeyRange::prefix(prefix.clone()), None, Vec::new());
    loop {
        let page = local.list(&range, page_size, at).await?;
        at.get_or_insert(page.revision);
        let last = page.kvs.last().map(|kv| kv.key.clone());
        found.extend(page.kvs.into_iter().map(|kv| (kv.key.slice(prefix.len()..), kv.value)));
        match last {
            Some(last) if page.more => range = range.after(&last),
            Some(_) | None => return Ok(found),
        }
    }
}
