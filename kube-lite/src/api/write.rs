//! Create, replace, patch and apply.

use std::sync::Arc;

use jiff::Timestamp;
use kvstore::{Expect, Guard, Revision};
use serde_json::Value;

use super::{ATTEMPTS, Api, Stored, guard};
use crate::apply::{self, Scope, Writer};
use crate::body::{self, Unknown};
use crate::kinds::{self, Ranges, Resource};
use crate::object::{self, text};
use crate::patch;
use crate::status::{Cause, Failure, Result};

/// Which object is written, and how the caller wants it done.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: Option<String>,
    /// Empty when a new object names itself.
    pub(crate) name: String,
    /// Empty for the object itself, else `status`.
    pub(crate) subresource: String,
    pub(crate) manager: String,
    pub(crate) dry_run: bool,
    pub(crate) unknown: Unknown,
}

/// What to make of the object.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Replace(Value),
    Merge(Value),
    Json(Value),
    Strategic(Value),
    Apply {
        config: Value,
        /// Takes what others own.
        force: bool,
    },
}

/// What was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) object: Value,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

impl Edit {
    fn key(&self, name: &str) -> String {
        self.resource.key(self.namespace.as_deref(), name)
    }

    fn scope(&self) -> Scope {
        self.resource.scope(&self.subresource)
    }
}

impl Api {
    /// Makes a new object.
    ///
    /// # Errors
    /// It is there already, breaks rules, or its namespace is not there.
    pub(crate) async fn create(&self, edit: &Edit, sent: Value) -> Result<Written> {
        let mut warnings = Vec::new();
        let object = body::admit(&edit.resource, sent, edit.unknown, &mut warnings)?;
        for _ in 0..ATTEMPTS {
            let mut new = object.clone();
            track(edit, &edit.resource.empty(), &mut new);
            if let Some(stored) = self.try_create(edit, new, &mut warnings).await? {
                return Ok(Written { object: stored.object, created: true, warnings });
            }
        }
        Err(too_busy())
    }

    /// Prepares, checks and stores a new object whose fields have their managers; `None` asks for another attempt.
    async fn try_create(
        &self,
        edit: &Edit,
        mut new: Value,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Stored>> {
        let resource = &edit.resource;
        let metadata = object::metadata(&mut new);
        let generate = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let has_name = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        if !has_name && !generate.is_empty() {
            metadata.insert("name".to_owned(), object::generated_name(&generate, rand::random()).into());
        }
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            metadata.remove(field);
        }
        if metadata.remove("resourceVersion").is_some_and(|version| version != "") {
            // With this code and without a reason: so does the original.
            let why = "resourceVersion should not be set on objects to be created";
            return Err(Failure { reason: "", ..Failure::internal(why) });
        }
        metadata.insert("uid".to_owned(), object::uuid(rand::random()).into());
        metadata.insert("creationTimestamp".to_owned(), object::time(Timestamp::now()).into());
        object::put(metadata, "generation", resource.has_generation.then(|| 1.into()));
        set_namespace(resource, edit.namespace.as_deref(), &mut new)?;
        match resource.built_in {
            Some(built_in) => {
                if built_in.kind == "Namespace" {
                    // The label has the name, which may have been generated just now.
                    (built_in.default)(&mut new);
                }
                (built_in.prepare)(&mut new, None);
            }
            None if resource.has_status => drop(object::fields(&mut new).remove("status")),
            None => {}
        }
        let name = object::name(&new).to_owned();
        if !edit.name.is_empty() && name != edit.name {
            return Err(name_mismatch(&name, &edit.name));
        }
        let key = edit.key(&name);
        if self.store.get(key.as_bytes()).await?.is_some() {
            // A generated name is tried again.
            return if has_name { Err(Failure::already_exists(resource.about(&name))) } else { Ok(None) };
        }
        self.allocate(resource, &mut new, None).await?;
        check(resource, &new, None)?;
        note_definition(resource, &mut new, warnings);

        let mut guards = Vec::new();
        if let Some(namespace) = edit.namespace.as_deref().filter(|_| resource.namespaced) {
            guards.push(self.open_namespace(resource, namespace, &name).await?);
        }
        if edit.dry_run {
            return Ok(Some(Stored { revision: 0, object: new }));
        }
        self.replace(resource, &key, None, new, guards).await
    }

    /// Changes an object, or makes it where the way of writing allows.
    ///
    /// # Errors
    /// It is not there, was changed meanwhile, is owned by others, or would break rules.
    pub(crate) async fn edit(&self, edit: &Edit, outcome: &Outcome) -> Result<Written> {
        for _ in 0..ATTEMPTS {
            if let Some(written) = self.try_edit(edit, outcome).await? {
                return Ok(written);
            }
        }
        Err(too_busy())
    }

    async fn try_edit(&self, edit: &Edit, outcome: &Outcome) -> Result<Option<Written>> {
        let resource = &edit.resource;
        let mut warnings = Vec::new();
        let Some(live) = self.read(resource, &edit.key(&edit.name)).await? else {
            return self.edit_missing(edit, outcome).await;
        };
        let mut new = make(edit, &live.object, outcome, &mut warnings)?;
        check_identity(edit, &live.object, &new, outcome)?;
        keep_what_is_not_written(edit, &live.object, &mut new);
        if !matches!(outcome, Outcome::Apply { .. }) {
            track(edit, &live.object, &mut new);
        }
        if let Some(built_in) = resource.built_in.filter(|_| edit.subresource.is_empty()) {
            (built_in.prepare)(&mut new, Some(&live.object));
        }
        self.allocate(resource, &mut new, Some(&live.object)).await?;
        count_generation(resource, &live.object, &mut new);
        check(resource, &new, Some(&live.object))?;
        note_definition(resource, &mut new, &mut warnings);
        let version = live.object.pointer("/metadata/resourceVersion").cloned();
        object::put(object::metadata(&mut new), "resourceVersion", version);
        if apply::differs_in_times_only(&live.object, &new) {
            return Ok(Some(Written { object: live.object, created: false, warnings }));
        }
        if edit.dry_run {
            return Ok(Some(Written { object: new, created: false, warnings }));
        }
        let stored = self.replace(resource, &edit.key(&edit.name), Some(&live), new, Vec::new()).await?;
        Ok(stored.map(|stored| Written { object: stored.object, created: false, warnings }))
    }

    async fn edit_missing(&self, edit: &Edit, outcome: &Outcome) -> Result<Option<Written>> {
        let resource = &edit.resource;
        let missing = || Failure::not_found(resource.about(&edit.name));
        if !edit.subresource.is_empty() {
            return Err(missing());
        }
        match outcome {
            Outcome::Apply { config, force } => {
                let uid = object::uid(config);
                if !uid.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                    );
                    return Err(Failure::conflict(resource.about(&edit.name), &why));
                }
                let mut warnings = Vec::new();
                let config = check_config(edit, config, &mut warnings)?;
                let now = object::time(Timestamp::now());
                let api_version = resource.version.api_version();
                let new = apply::apply(
                    None,
                    &config,
                    Some(&resource.schema),
                    edit.scope(),
                    &writer(edit, &api_version, &now),
                    *force,
                )?;
                let new = body::admit(resource, new, Unknown::Ignore, &mut Vec::new())?;
                let stored = unless_others_were_first(self.try_create(edit, new, &mut warnings).await)?;
                Ok(stored.map(|stored| Written { object: stored.object, created: true, warnings }))
            }
            Outcome::Replace(sent) if resource.built_in.is_some_and(|built_in| built_in.create_on_update) => {
                unless_others_were_first(self.create(edit, sent.clone()).await.map(Some))
            }
            Outcome::Replace(_) | Outcome::Merge(_) | Outcome::Json(_) | Outcome::Strategic(_) => {
                Err(missing())
            }
        }
    }

    /// Gives a Service its addresses and ports.
    async fn allocate(&self, resource: &Resource, new: &mut Value, old: Option<&Value>) -> Result<()> {
        if !resource.is_core("services") {
            return Ok(());
        }
        let own = old.map(kinds::claims).unwrap_or_default();
        let taken = self.taken().await?;
        let ranges = Ranges { cidrs: &self.cluster.service_cidrs, taken: &taken };
        let allocated = kinds::allocate(new, &own, &ranges, rand::random);
        allocated.map_err(|causes| Failure::invalid("", "Service", object::name(new), &causes))
    }

    /// What must hold for an object to be made in a namespace: that it is there, and stays as it is.
    async fn open_namespace(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Guard> {
        let namespaces = self.core("namespaces")?;
        let key = namespaces.key(None, namespace);
        let Some(found) = self.read(&namespaces, &key).await? else {
            return Err(Failure::not_found(namespaces.about(namespace)));
        };
        if object::is_terminating(&found.object) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut failure = Failure::forbidden(resource.about(name), &why);
            let cause = serde_json::json!([{"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]);
            failure.details.get_or_insert_default()["causes"] = cause;
            return Err(failure);
        }
        Ok(guard(&key, Expect::ModifiedAt(Revision(found.revision))))
    }
}

/// If the object came into being meanwhile, there is one to change: another attempt.
fn unless_others_were_first<T>(created: Result<Option<T>>) -> Result<Option<T>> {
    match created {
        Err(failure) if failure.reason == "AlreadyExists" => Ok(None),
        other => other,
    }
}

fn too_busy() -> Failure {
    Failure::unavailable("others changed the object at each attempt; please try again")
}

fn name_mismatch(name: &str, wanted: &str) -> Failure {
    Failure::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({wanted})"
    ))
}

fn writer<'a>(edit: &'a Edit, api_version: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager: &edit.manager, api_version, subresource: &edit.subresource, now }
}

fn track(edit: &Edit, live: &Value, new: &mut Value) {
    let now = object::time(Timestamp::now());
    let api_version = edit.resource.version.api_version();
    apply::track(live, new, Some(&edit.resource.schema), edit.scope(), &writer(edit, &api_version, &now));
}

/// The object as the caller wants it, with defaults, before anything is put back that is not the caller's to write.
fn make(edit: &Edit, live: &Value, outcome: &Outcome, warnings: &mut Vec<String>) -> Result<Value> {
    let resource = &edit.resource;
    let mut new = live.clone();
    match outcome {
        Outcome::Replace(sent) => new = sent.clone(),
        Outcome::Merge(patch) => {
            if !patch.is_object() {
                return Err(Failure::bad_request("a merge patch must be an object"));
            }
            patch::merge(&mut new, patch);
        }
        Outcome::Json(patch) => patch::json(&mut new, patch.clone())?,
        Outcome::Strategic(_) if resource.built_in.is_none() => {
            return Err(Failure::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        Outcome::Strategic(patch) => patch::strategic(&mut new, patch, Some(&resource.schema))?,
        Outcome::Apply { config, force } => {
            let config = check_config(edit, config, warnings)?;
            let uid = object::uid(&config);
            if !uid.is_empty() && uid != object::uid(live) {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    object::uid(live)
                );
                return Err(Failure::conflict(resource.about(&edit.name), &why));
            }
            let now = object::time(Timestamp::now());
            let api_version = resource.version.api_version();
            new = apply::apply(
                Some(live),
                &config,
                Some(&resource.schema),
                edit.scope(),
                &writer(edit, &api_version, &now),
                *force,
            )?;
        }
    }
    let admitted = body::admit(resource, new, edit.unknown, warnings);
    let is_patch = matches!(outcome, Outcome::Merge(_) | Outcome::Json(_) | Outcome::Strategic(_));
    admitted.map_err(|failure| if is_patch { unfit(edit, failure) } else { failure })
}

/// An object that a patch has spoiled is not the client's words, but what came of them.
fn unfit(edit: &Edit, failure: Failure) -> Failure {
    if failure.code != 400 {
        return failure;
    }
    let cause = Cause::invalid("patch", &Value::Null, failure.message);
    Failure::invalid(&edit.resource.version.group, &edit.resource.kind, &edit.name, &[cause])
}

/// What is applied must be an object of the resource, without fields that nobody knows.
fn check_config(edit: &Edit, config: &Value, warnings: &mut Vec<String>) -> Result<Value> {
    if !object::items(config, "/metadata/managedFields").is_empty() {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    let (version, kind) = (text(config, "/apiVersion"), text(config, "/kind"));
    if version.is_empty() || kind.is_empty() {
        return Err(Failure::bad_request("what is applied must have apiVersion and kind"));
    }
    let name = object::name(config);
    if !name.is_empty() && name != edit.name {
        return Err(name_mismatch(name, &edit.name));
    }
    // The types are checked, and unknown fields are found, but no default becomes the applier's.
    body::admit(&edit.resource, config.clone(), edit.unknown, warnings)?;
    let mut config = config.clone();
    let metadata = object::metadata(&mut config);
    metadata.insert("name".to_owned(), edit.name.as_str().into());
    metadata.retain(|_, value| !value.is_null());
    if let Some(namespace) = edit.namespace.as_deref().filter(|_| edit.resource.namespaced) {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    Ok(config)
}

fn set_namespace(resource: &Resource, namespace: Option<&str>, object: &mut Value) -> Result<()> {
    let Some(namespace) = namespace.filter(|_| resource.namespaced) else {
        object::metadata(object).remove("namespace");
        return Ok(());
    };
    let sent = object::namespace(object);
    if !sent.is_empty() && sent != namespace {
        return Err(foreign_namespace());
    }
    object::metadata(object).insert("namespace".to_owned(), namespace.into());
    Ok(())
}

/// That `new` is the same object as `live`, and was made from its present version if it names one.
fn check_identity(edit: &Edit, live: &Value, new: &Value, outcome: &Outcome) -> Result<()> {
    let (resource, name) = (&edit.resource, edit.name.as_str());
    if object::name(new).is_empty() {
        let why =
            format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
        return Err(Failure::bad_request(why));
    }
    if object::name(new) != name {
        return Err(name_mismatch(object::name(new), name));
    }
    let namespace = object::namespace(new);
    if resource.namespaced && !namespace.is_empty() && Some(namespace) != edit.namespace.as_deref() {
        return Err(foreign_namespace());
    }
    let version = text(new, "/metadata/resourceVersion");
    if version.is_empty() {
        let unconditional = resource.built_in.is_some_and(|built_in| built_in.unconditional_update);
        if !unconditional {
            let cause =
                Cause::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
            return Err(Failure::invalid(&resource.version.group, &resource.kind, name, &[cause]));
        }
    } else if version != text(live, "/metadata/resourceVersion") {
        return Err(Failure::modified(resource.about(name)));
    }
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(live) {
        if matches!(outcome, Outcome::Merge(_) | Outcome::Json(_) | Outcome::Strategic(_)) {
            let cause = Cause::invalid("metadata.uid", &uid.into(), "field is immutable");
            return Err(Failure::invalid(&resource.version.group, &resource.kind, name, &[cause]));
        }
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(live)
        );
        return Err(Failure::conflict(resource.about(name), &why));
    }
    Ok(())
}

fn foreign_namespace() -> Failure {
    Failure::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    )
}

/// Puts back what this way of writing does not touch.
fn keep_what_is_not_written(edit: &Edit, live: &Value, new: &mut Value) {
    const SERVERS: [&str; 8] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ];
    let keep_metadata = |new: &mut Value, live: &Value| {
        let metadata = object::metadata(new);
        for field in SERVERS {
            let kept = live.pointer(&format!("/metadata/{field}")).cloned();
            object::put(metadata, field, kept);
        }
    };
    match edit.subresource.as_str() {
        "" => {
            keep_metadata(new, live);
            if edit.resource.has_status {
                object::put(object::fields(new), "status", live.get("status").cloned());
            }
        }
        _ => {
            let mut whole = live.clone();
            object::put(object::fields(&mut whole), "status", new.get("status").cloned());
            if edit.resource.built_in.is_some() {
                let metadata = new.get("metadata").cloned();
                object::put(object::fields(&mut whole), "metadata", metadata);
                keep_metadata(&mut whole, live);
            } else {
                let managers = new.pointer("/metadata/managedFields").cloned();
                object::put(object::metadata(&mut whole), "managedFields", managers);
            }
            *new = whole;
        }
    }
}

/// One more if what is wanted has changed.
fn count_generation(resource: &Resource, live: &Value, new: &mut Value) {
    if !resource.has_generation {
        return;
    }
    let wanted = |object: &Value| {
        let mut wanted = object.clone();
        let fields = object::fields(&mut wanted);
        fields.remove("metadata");
        if resource.has_status {
            fields.remove("status");
        }
        wanted
    };
    let before = live.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
    let generation = before + i64::from(wanted(live) != wanted(new));
    object::metadata(new).insert("generation".to_owned(), generation.into());
}

/// All the rules.
fn check(resource: &Resource, new: &Value, old: Option<&Value>) -> Result<()> {
    let mut causes = kinds::check_metadata(resource, new);
    causes.extend(old.map(|old| kinds::check_metadata_update(new, old)).unwrap_or_default());
    match resource.built_in {
        Some(built_in) => causes.extend((built_in.validate)(new, old)),
        None => causes.extend(resource.schema.validate(new)),
    }
    if causes.is_empty() {
        return Ok(());
    }
    let name = Some(object::name(new)).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| text(new, "/metadata/generateName"));
    Err(Failure::invalid(&resource.version.group, &resource.kind, name, &causes))
}

/// A definition that passed is accepted at once; what of it has no effect here is said.
fn note_definition(resource: &Resource, new: &mut Value, warnings: &mut Vec<String>) {
    if !resource.is_definition() {
        return;
    }
    kinds::accept_definition(new, Timestamp::now());
    if kinds::uses_expressions(new) {
        warnings.push("kube-lite does not evaluate x-kubernetes-validations".to_owned());
    }
}
