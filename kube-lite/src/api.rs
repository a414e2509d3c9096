//! The verbs, over the store. Objects come in as JSON and go out as JSON; HTTP is one layer up.
//!
//! A write reads the object, makes the new one (pure), and stores it only if what it was made from is still there;
//! else it starts over. So no write is lost, and nothing is held locked.

mod delete;
mod read;
mod watch;
mod write;

use std::sync::Arc;

use jiff::Timestamp;
use kvstore::{Client, Expect, Guard, Guarded, KeyRange, LeaseId, Revision, Write};
use serde_json::Value;

pub(crate) use self::delete::{CLEAN_UP, DeleteOptions, FOREGROUND, ORPHAN};
pub(crate) use self::watch::WatchEvent;
pub(crate) use self::write::{Edit, Outcome, Written};
use crate::cache::{Cache, Epoch};
use crate::kinds::{self, Cluster, Resource};
use crate::object::{self, MAX_DEPTH};
use crate::path::GroupVersion;
use crate::status::{Failure, Result};

/// How often a write starts over when others are faster.
const ATTEMPTS: usize = 32;
/// Where addresses and ports that Services hold are, each with the key of its Service.
const CLAIMS: &str = "/kube-lite/claims/";
/// Where the number is that resource versions start from.
const EPOCH: &str = "/kube-lite/epoch";

/// See the module. Clones are the same API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) store: Arc<dyn Client>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) epoch: Epoch,
    pub(crate) cluster: Arc<Cluster>,
}

/// An object as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) revision: i64,
    /// With its `resourceVersion`, in the version that was asked for.
    pub(crate) object: Value,
}

impl Api {
    /// Reads the store once.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn open(
        store: Arc<dyn Client>,
        cluster: Cluster,
    ) -> std::result::Result<Self, kvstore::Error> {
        let epoch = epoch(&*store).await?;
        let cache = Arc::new(Cache::new(epoch));
        cache.load(&*store).await?;
        Ok(Self { store, cache, epoch, cluster: Arc::new(cluster) })
    }

    /// The resource in the version that it is stored in.
    pub(crate) fn core(&self, plural: &str) -> Result<Arc<Resource>> {
        let version = GroupVersion { group: String::new(), version: "v1".to_owned() };
        let found = self.cache.catalog().find(&version, plural).cloned();
        found.ok_or_else(|| Failure::internal(format!("there are no {plural}")))
    }

    async fn read(&self, resource: &Resource, key: &str) -> Result<Option<Stored>> {
        let Some(kv) = self.store.get(key.as_bytes()).await? else { return Ok(None) };
        let object = self.epoch.object(&kv);
        let mut object =
            object.ok_or_else(|| Failure::internal(format!("what is stored at {key} is no JSON object")))?;
        convert(resource, &mut object);
        Ok(Some(Stored { revision: kv.mod_revision.0, object }))
    }

    /// Stores `new` in place of `old`, or deletes if it is done with; `None` if something else got in between.
    ///
    /// `new` comes back with its new version.
    async fn replace(
        &self,
        resource: &Resource,
        key: &str,
        old: Option<&Stored>,
        mut new: Value,
        more_guards: Vec<Guard>,
    ) -> Result<Option<Stored>> {
        let expect = old.map_or(Expect::Absent, |old| Expect::ModifiedAt(Revision(old.revision)));
        let mut guards = vec![guard(key, expect)];
        guards.extend(more_guards);
        if object::depth(&new) > MAX_DEPTH {
            // What is deeper could be written, and read by nobody.
            return Err(Failure::bad_request(format!(
                "kube-lite keeps objects that nest up to {MAX_DEPTH} deep"
            )));
        }
        object::metadata(&mut new).remove("resourceVersion");
        object::fields(&mut new).insert("apiVersion".to_owned(), stored_version(resource).into());
        let gone = is_done(resource, &new);
        let mut batch = vec![if gone {
            Write::Delete { key: key.to_owned().into() }
        } else {
            let value = new.to_string().into();
            Write::Put { key: key.to_owned().into(), value, lease: LeaseId::NONE }
        }];
        if resource.is_core("services") {
            let before = old.map(|old| kinds::claims(&old.object)).unwrap_or_default();
            let after = if gone { Default::default() } else { kinds::claims(&new) };
            for claim in after.difference(&before) {
                let claim = format!("{CLAIMS}{claim}");
                guards.push(guard(&claim, Expect::Absent));
                batch.push(Write::Put {
                    key: claim.into(),
                    value: key.to_owned().into(),
                    lease: LeaseId::NONE,
                });
            }
            batch.extend(
                before
                    .difference(&after)
                    .map(|claim| Write::Delete { key: format!("{CLAIMS}{claim}").into() }),
            );
        }
        match self.store.write_if(guards, batch).await? {
            Guarded::Refused { .. } => Ok(None),
            Guarded::Done(revision) => {
                if resource.is_definition() {
                    // Whoever hears that it is stored may use what it defines.
                    self.cache.reached(revision.0).await;
                }
                self.epoch.stamp(&mut new, revision.0);
                convert(resource, &mut new);
                Ok(Some(Stored { revision: revision.0, object: new }))
            }
        }
    }

    /// Whether the store has come to a revision. The cache may not have, a moment later than the store.
    async fn has_reached(&self, revision: i64) -> Result<bool> {
        let seen = *self.cache.news().borrow();
        Ok(revision <= seen || revision <= self.store.status().await?.revision.0)
    }

    /// What all Services hold.
    async fn taken(&self) -> Result<std::collections::BTreeSet<String>> {
        let page = self.store.list(&KeyRange::prefix(CLAIMS.as_bytes()), 0, None).await?;
        let claim = |kv: &kvstore::KeyValue| String::from_utf8_lossy(&kv.key[CLAIMS.len()..]).into_owned();
        Ok(page.kvs.iter().map(claim).collect())
    }
}

/// Nothing keeps a terminating object any longer.
fn is_done(resource: &Resource, object: &Value) -> bool {
    object::is_terminating(object)
        && object::finalizers(object).is_empty()
        && (!resource.is_core("namespaces") || object::items(object, "/spec/finalizers").is_empty())
}

fn guard(key: &str, expect: Expect) -> Guard {
    Guard { key: key.to_owned().into(), expect }
}

fn stored_version(resource: &Resource) -> String {
    GroupVersion { group: resource.version.group.clone(), version: resource.storage_version.clone() }
        .api_version()
}

/// Brings a stored object into the version of the resource: only the name of the version changes, as by the
/// conversion strategy `None`; defaults that came later are filled in.
pub(crate) fn convert(resource: &Resource, object: &mut Value) {
    object::fields(object).insert("apiVersion".to_owned(), resource.version.api_version().into());
    if resource.built_in.is_none() {
        resource.schema.apply_defaults(object);
    }
}

async fn epoch(store: &dyn Client) -> std::result::Result<Epoch, kvstore::Error> {
    let read = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok().map(Epoch);
    loop {
        if let Some(kv) = store.get(EPOCH.as_bytes()).await?
            && let Some(epoch) = read(&kv.value)
        {
            return Ok(epoch);
        }
        // Versions of a store made later are higher, as long as fewer than one write per millisecond went before.
        let now = Timestamp::now().as_millisecond();
        let write = Write::Put { key: EPOCH.into(), value: now.to_string().into(), lease: LeaseId::NONE };
        store.write_if(vec![guard(EPOCH, Expect::Absent)], vec![write]).await?;
    }
}
