//! Deletion: at once, or when the last finalizer is gone.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ATTEMPTS, Api, Stored};
use crate::kinds::Resource;
use crate::object::{self, text};
use crate::path::Query;
use crate::status::{Cause, Failure, Result};

/// Finalizer of an object whose dependents go first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents stay.
pub(crate) const ORPHAN: &str = "orphan";

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    /// `Background`, `Foreground` or `Orphan`.
    pub(crate) propagation: Option<String>,
    pub(crate) dry_run: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Deleted {
    /// The last state, or the present one if it waits for finalizers.
    pub(crate) object: Value,
    pub(crate) gone: bool,
}

impl DeleteOptions {
    /// From the query and the body, which wins.
    ///
    /// # Errors
    /// A policy that there is not.
    pub(crate) fn read(query: &Query, body: &Value) -> Result<Self> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let orphans = body.get("orphanDependents").and_then(Value::as_bool).or(query.orphan_dependents);
        let policy = text("/propagationPolicy").or_else(|| query.propagation.clone());
        if let (Some(policy), Some(_)) = (&policy, orphans) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let cause = Cause::invalid("propagationPolicy", &policy.as_str().into(), why);
            return Err(Failure::invalid("meta.k8s.io", "DeleteOptions", "", &[cause]));
        }
        let policy = policy
            .or_else(|| orphans.map(|orphans| if orphans { "Orphan" } else { "Background" }.to_owned()));
        if let Some(policy) =
            policy.as_deref().filter(|policy| !matches!(*policy, "Background" | "Foreground" | "Orphan"))
        {
            let allowed = ["Background", "Foreground", "Orphan"].map(Value::from);
            let cause = Cause::not_supported("propagationPolicy", &policy.into(), &allowed);
            return Err(Failure::invalid("meta.k8s.io", "DeleteOptions", "", &[cause]));
        }
        Ok(Self {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation: policy,
            dry_run: query.dry_run || !object::items(body, "/dryRun").is_empty(),
        })
    }

    fn check(&self, resource: &Resource, live: &Value) -> Result<()> {
        for (what, wanted, pointer) in [
            ("UID", &self.uid, "/metadata/uid"),
            ("ResourceVersion", &self.resource_version, "/metadata/resourceVersion"),
        ] {
            let found = text(live, pointer);
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                );
                return Err(Failure::conflict(resource.about(object::name(live)), &why));
            }
        }
        Ok(())
    }
}

impl Api {
    /// Deletes an object, or marks it as terminating while finalizers keep it.
    ///
    /// # Errors
    /// It is not there, or a precondition does not hold.
    pub(crate) async fn delete(
        &self,
        resource: &Resource,
        key: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted> {
        let name = key.rsplit('/').next().unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let live =
                self.read(resource, key).await?.ok_or_else(|| Failure::not_found(resource.about(name)))?;
            options.check(resource, &live.object)?;
            if resource.is_core("namespaces") && matches!(name, "default" | "kube-system" | "kube-public") {
                return Err(Failure::forbidden(resource.about(name), "this namespace may not be deleted"));
            }
            let new = terminating(resource, &live.object, options);
            let gone = super::is_done(resource, &new);
            if options.dry_run || !gone && new == live.object {
                return Ok(Deleted { object: if gone { live.object } else { new }, gone });
            }
            if let Some(stored) = self.replace(resource, key, Some(&live), new, Vec::new()).await? {
                let mut last = if gone { live.object } else { stored.object };
                if gone {
                    self.epoch.stamp(&mut last, stored.revision);
                }
                return Ok(Deleted { object: last, gone });
            }
        }
        Err(Failure::unavailable("others changed the object at each attempt; please try again"))
    }

    /// Changes what only the server changes, by key; nothing if it is not there, or `change` wants nothing.
    pub(crate) async fn amend(
        &self,
        resource: &Arc<Resource>,
        key: &str,
        change: impl Fn(&mut Value) -> bool,
    ) -> Result<Option<Value>> {
        for _ in 0..ATTEMPTS {
            let Some(live) = self.read(resource, key).await? else { return Ok(None) };
            let Stored { mut object, .. } = live.clone();
            if !change(&mut object) {
                return Ok(Some(live.object));
            }
            if let Some(stored) = self.replace(resource, key, Some(&live), object, Vec::new()).await? {
                return Ok(Some(stored.object));
            }
        }
        Err(Failure::unavailable("others changed the object at each attempt; please try again"))
    }
}

/// The object with its deletion begun.
fn terminating(resource: &Resource, live: &Value, options: &DeleteOptions) -> Value {
    let mut new = live.clone();
    let mut finalizers: Vec<String> = object::finalizers(live).into_iter().map(str::to_owned).collect();
    if let Some(policy) = &options.propagation {
        let wanted = match policy.as_str() {
            "Foreground" => Some(FOREGROUND),
            "Orphan" => Some(ORPHAN),
            _ => None,
        };
        finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
        finalizers.extend(wanted.map(str::to_owned));
    }
    if resource.is_definition() && !finalizers.iter().any(|finalizer| finalizer == CLEAN_UP) {
        finalizers.push(CLEAN_UP.to_owned());
    }
    let metadata = object::metadata(&mut new);
    object::put(metadata, "finalizers", (!finalizers.is_empty()).then(|| json!(finalizers)));
    if object::is_terminating(live) {
        return new;
    }
    metadata.insert("deletionTimestamp".to_owned(), object::time(Timestamp::now()).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    if resource.is_core("namespaces") {
        object::child(&mut new, "status").insert("phase".to_owned(), "Terminating".into());
        object::metadata(&mut new).remove("deletionGracePeriodSeconds");
    }
    new
}

/// Finalizer of a definition whose objects go first.
pub(crate) const CLEAN_UP: &str = "customresourcecleanup.apiextensions.k8s.io";
