//! Removing a cluster from a local store at once, without its mirror.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvstore::{Client, Error, KeyRange, Write};
use mesh_types::{ClusterName, Form, Resource, key, mirror_word_key};
use tokio::time::sleep;

use crate::removal::announce;
use crate::resource::KINDS;

/// How long the word of the removal outlives a process that is killed half-way.
const WORD_TTL: Duration = Duration::from_secs(60);

/// What [`forget`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// How many keys there were, by the range that they were in.
    pub deleted: BTreeMap<String, usize>,
    /// What a look at the same ranges found afterwards; empty unless someone still writes them.
    pub left: Vec<String>,
}

/// Why a cluster was not forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// It is not a mirrored one.
    #[error("{cluster} is the cluster that the store belongs to: {key} is its own; name a remote cluster")]
    Own {
        /// Its name.
        cluster: ClusterName,
        /// What only the owner of a store has in it.
        key: String,
    },
    /// The store refuses.
    #[error("the store refuses; what is deleted by now stays deleted")]
    Store(#[from] Error),
}

/// Deletes all that a store holds of `cluster`, then lists it again.
///
/// In the order that readers expect (configuration, canaries, data), without the grace of a removal. Readers that are
/// connected hear that the cluster was removed, for as long as `settle`.
///
/// # Errors
/// [`ForgetError::Own`], before anything is deleted, and those of the store, after which calling again goes on.
pub async fn forget(
    local: &dyn Client,
    cluster: &ClusterName,
    settle: Duration,
) -> Result<Forgotten, ForgetError> {
    if let Some(key) = own_key(local, cluster).await? {
        return Err(ForgetError::Own { cluster: cluster.clone(), key });
    }
    let mut forgotten = Forgotten::default();
    let word = Bytes::from(mirror_word_key(cluster));
    let mut found = BTreeMap::new();
    for (name, range) in ranges(cluster) {
        let keys = list(local, &range).await?;
        if !keys.is_empty() {
            forgotten.deleted.insert(name, keys.len());
        }
        found.insert(range.start().clone(), keys);
    }
    announce(local, cluster, WORD_TTL).await?;
    let canaries = found.remove(key::synced_prefix(cluster).as_bytes()).unwrap_or_default();
    let canaries = canaries.into_iter().filter(|key| *key != word).map(|key| Write::Delete { key });
    local.write(canaries.collect()).await?;
    let data = ranges(cluster).into_iter().skip(2).map(|(_, range)| Write::DeleteRange { range });
    local.write(data.collect()).await?;
    sleep(settle).await;
    let canaries = KeyRange::prefix(key::synced_prefix(cluster));
    local.write(vec![Write::DeleteRange { range: canaries }]).await?;
    for (_, range) in ranges(cluster) {
        let keys = list(local, &range).await?;
        forgotten.left.extend(keys.iter().map(|key| key.escape_ascii().to_string()));
    }
    Ok(forgotten)
}

/// A key that says that `cluster` is not mirrored into this store but exported into it.
async fn own_key(local: &dyn Client, cluster: &ClusterName) -> Result<Option<String>, Error> {
    for canary in Resource::ALL.map(|kind| kind.canary(Form::State, cluster)) {
        if local.get(canary.as_bytes()).await?.is_some() {
            return Ok(Some(canary));
        }
    }
    for prefix in Resource::ALL.map(|kind| kind.prefix(Form::State, cluster)) {
        // The others are the same for every cluster.
        if prefix.contains(&format!("/{cluster}/")) {
            let page = local.list(&KeyRange::prefix(prefix), 1, None).await?;
            if let Some(found) = page.kvs.first() {
                return Ok(Some(found.key.escape_ascii().to_string()));
            }
        }
    }
    Ok(None)
}

/// Where a store may hold something of a mirrored cluster: its configuration, its canaries, its data.
fn ranges(cluster: &ClusterName) -> Vec<(String, KeyRange)> {
    let config = key::cluster_config(cluster);
    let prefixes = [key::synced_prefix(cluster)].into_iter();
    let prefixes =
        prefixes.chain(KINDS.map(|kind| format!("{}{}/v1/{cluster}/", key::CACHE_PREFIX, kind.word())));
    let mut ranges = vec![(config.clone(), KeyRange::key(config))];
    ranges.extend(prefixes.map(|prefix| (prefix.clone(), KeyRange::prefix(prefix))));
    ranges
}

async fn list(local: &dyn Client, range: &KeyRange) -> Result<Vec<Bytes>, Error> {
    let page_size = local.limits().page.unwrap_or(0);
    let (mut range, mut at, mut found) = (range.clone(), None, Vec::new());
    loop {
        let page = local.list(&range, page_size, at).await?;
        at.get_or_insert(page.revision);
        found.extend(page.kvs.iter().map(|kv| kv.key.clone()));
        match page.kvs.last() {
            Some(last) if page.more => range = range.after(&last.key),
            Some(_) | None => return Ok(found),
        }
    }
}
