//! Get and list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kvstore::{KeyRange, Revision};
use serde_json::{Value, json};

use super::{Api, convert};
use crate::kinds::Resource;
use crate::path::Query;
use crate::select::Selector;
use crate::status::{Failure, Result};

/// How many keys are read at once to fill a page of what a selector lets through.
const CHUNK: usize = 500;

/// Some of a list.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) items: Vec<Value>,
    pub(crate) resource_version: String,
    /// Token for what follows.
    pub(crate) next: Option<String>,
}

impl Api {
    /// One object.
    ///
    /// # Errors
    /// Not found.
    pub(crate) async fn get(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value> {
        let found = self.read(resource, &resource.key(namespace, name)).await?;
        found.map(|stored| stored.object).ok_or_else(|| Failure::not_found(resource.about(name)))
    }

    /// The objects of a namespace, or of all.
    ///
    /// # Errors
    /// A selector or token that cannot be read, or a version that is gone.
    pub(crate) async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        query: &Query,
    ) -> Result<List> {
        let selector = Selector::read(&query.labels, &query.fields, &resource.selectable)?;
        let mut range = self.range(resource, namespace, &selector);
        let mut at = self.list_revision(query).await?;
        if !query.next.is_empty() {
            let (revision, last) = self.read_token(&query.next)?;
            let namespace =
                namespace.filter(|_| resource.namespaced).map(|namespace| format!("{namespace}/"));
            // A token is the client's word: it must not lead elsewhere.
            if !last.starts_with(&format!("{}{}", resource.prefix(), namespace.unwrap_or_default())) {
                return Err(Failure::bad_request("continue key is not valid"));
            }
            at = Some(Revision(revision));
            range = range.after(last.as_bytes());
        }
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let mut items = Vec::new();
        loop {
            // One more than wanted tells whether more follow.
            let chunk = if selector.is_everything() { limit.saturating_sub(items.len()) } else { CHUNK };
            let chunk = if chunk == usize::MAX { self.store.limits().page.unwrap_or(0) } else { chunk };
            let page = self.store.list(&range, chunk, at).await?;
            let revision = page.revision;
            at = Some(revision);
            let last_key = page.kvs.last().map(|kv| kv.key.clone());
            let mut left = page.kvs.len();
            for kv in &page.kvs {
                left -= 1;
                let Some(mut object) = self.epoch.object(kv) else { continue };
                if !selector.matches(&object) {
                    continue;
                }
                convert(resource, &mut object);
                items.push(object);
                if items.len() == limit {
                    let next = (left > 0 || page.more).then(|| self.token(revision.0, &kv.key));
                    return Ok(List { items, resource_version: self.epoch.version(revision.0), next });
                }
            }
            match last_key {
                Some(last) if page.more => range = range.after(&last),
                _ => return Ok(List { items, resource_version: self.epoch.version(revision.0), next: None }),
            }
        }
    }

    /// The keys to read for a list: one, if the selector names one.
    fn range(&self, resource: &Resource, namespace: Option<&str>, selector: &Selector) -> KeyRange {
        match (namespace.filter(|_| resource.namespaced), selector.only_name()) {
            (Some(_), Some(name)) => KeyRange::key(resource.key(namespace, name)),
            (None, Some(name)) if !resource.namespaced => KeyRange::key(resource.key(None, name)),
            (Some(namespace), None) => KeyRange::prefix(format!("{}{namespace}/", resource.prefix())),
            (None, _) => KeyRange::prefix(resource.prefix()),
        }
    }

    async fn list_revision(&self, query: &Query) -> Result<Option<Revision>> {
        let version = query.resource_version.as_str();
        if matches!(version, "" | "0") {
            return Ok(None);
        }
        let revision = self.epoch.revision(version);
        let revision =
            revision.ok_or_else(|| Failure::bad_request(format!("invalid resourceVersion {version:?}")))?;
        if !self.has_reached(revision).await? {
            return Err(Failure::timeout(format!("Too large resource version: {version}")));
        }
        if query.version_match != "Exact" {
            return Ok(None);
        }
        if revision < 1 {
            return Err(Failure::expired(format!(
                "The resourceVersion for the provided list is too old: {version}"
            )));
        }
        Ok(Some(Revision(revision)))
    }

    fn token(&self, revision: i64, last: &[u8]) -> String {
        let token = json!({"rv": self.epoch.version(revision), "last": String::from_utf8_lossy(last)});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn read_token(&self, token: &str) -> Result<(i64, String)> {
        let read = || {
            let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            let revision = self.epoch.revision(token.get("rv")?.as_str()?)?;
            Some((revision, token.get("last")?.as_str()?.to_owned()))
        };
        let (revision, last) = read().ok_or_else(|| Failure::bad_request("continue key is not valid"))?;
        if revision < 1 {
            return Err(Failure::expired("The provided continue parameter is of another store."));
        }
        Ok((revision, last))
    }
}
