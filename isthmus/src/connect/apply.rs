//! Carrying out a plan: each write for the version of the object that it was planned from.

use super::reach::Reached;
use crate::evidence::kube::{Api, CORE, Refused};
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use mesh_connect::{Action, Change, Failure, Kind, Plan, Trouble, Write};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// As whom the API servers note the fields.
const MANAGER: &str = "isthmus-connect";

/// What to do with a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is done.
    Persist,
    /// The API servers check it, and keep nothing.
    DryRun,
}

/// Does the writes in their order, and stops at the first that fails. `told` is called after each.
///
/// # Errors
/// Which write failed and why; those before it are done.
pub(crate) async fn apply(
    plan: &Plan,
    clusters: &[Reached],
    mode: Mode,
    told: impl Fn(&Write),
) -> anyhow::Result<()> {
    for (done, write) in plan.writes.iter().enumerate() {
        let api = api(clusters, &write.context)?;
        carry_out(api, write, mode).await.with_context(|| {
            let all = plan.writes.len();
            format!("{}: {done} of {all} writes are done, running again does the rest", shown(write))
        })?;
        told(write);
    }
    Ok(())
}

/// A write by its object.
pub(crate) fn shown(write: &Write) -> String {
    format!("{}: {} {}/{}", write.cluster, write.kind.word(), write.namespace, write.name)
}

fn api<'a>(clusters: &'a [Reached], context: &str) -> anyhow::Result<&'a Api> {
    let reached = clusters.iter().find(|cluster| cluster.context == context);
    reached
        .and_then(|cluster| cluster.api.as_ref().ok())
        .with_context(|| format!("context {context} has no client"))
}

async fn carry_out(api: &Api, write: &Write, mode: Mode) -> anyhow::Result<()> {
    let plural = plural(write.kind);
    let collection = format!("{CORE}/namespaces/{}/{plural}", write.namespace);
    let dry_run = if mode == Mode::DryRun { "&dryRun=All" } else { "" };
    let query = format!("?fieldManager={MANAGER}{dry_run}");
    let data = data(write);
    let sent = match &write.action {
        Action::Create => {
            let object = json!({
                "apiVersion": "v1",
                "kind": write.kind.word(),
                "metadata": {"name": write.name, "namespace": write.namespace},
                "data": data,
            });
            api.send(Method::POST, &format!("{collection}{query}"), "application/json", &object).await
        }
        Action::Patch { resource_version } => {
            let patch = json!({"metadata": {"resourceVersion": resource_version}, "data": data});
            let path = format!("{collection}/{}{query}", write.name);
            api.send(Method::PATCH, &path, "application/merge-patch+json", &patch).await
        }
    };
    let Err(error) = sent else { return Ok(()) };
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.code() == 409 => {
            bail!("somebody else wrote it since it was read ({refused})")
        }
        Some(_) | None => Err(error),
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::ConfigMap => "configmaps",
        Kind::Secret => "secrets",
    }
}

/// The keys as `data` of the object; `null` removes one.
fn data(write: &Write) -> Value {
    let value = |change: &Change| match (change, write.kind) {
        (Change::Remove { .. }, _) => Value::Null,
        (Change::Set { new, .. }, Kind::Secret) => STANDARD.encode(new).into(),
        (Change::Set { new, .. }, Kind::ConfigMap) => String::from_utf8_lossy(new).into(),
    };
    let keys = write.keys.iter().map(|(key, change)| (key.clone(), value(change)));
    Value::Object(keys.collect::<Map<_, _>>())
}

/// Permissions that a plan needs and that are missing, by asking the API servers before anything is written. One that
/// does not answer such questions refuses later.
pub(crate) async fn missing_permissions(plan: &Plan, clusters: &[Reached]) -> Vec<Failure> {
    let needed: BTreeSet<_> = plan
        .writes
        .iter()
        .map(|write| {
            let (verb, name) = match write.action {
                Action::Create => ("create", ""),
                Action::Patch { .. } => ("patch", write.name),
            };
            (write.context.as_str(), plural(write.kind), verb, name, write.namespace.as_str())
        })
        .collect();
    let mut missing = Vec::new();
    for (context, plural, verb, name, namespace) in needed {
        let Ok(api) = api(clusters, context) else { continue };
        let attributes = json!({"namespace": namespace, "verb": verb, "resource": plural, "name": name});
        if may(api, attributes).await {
            continue;
        }
        let resource = if name.is_empty() { plural.to_owned() } else { format!("{plural}/{name}") };
        let trouble = Trouble::Forbidden {
            verb: verb.to_owned(),
            resource,
            namespace: namespace.to_owned(),
            user: who(api).await,
        };
        missing.push(Failure { context: context.to_owned(), trouble });
    }
    missing
}

async fn may(api: &Api, attributes: Value) -> bool {
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    });
    let answer = api.send(Method::POST, path, "application/json", &review).await;
    let allowed = answer.ok().and_then(|answer| answer.pointer("/status/allowed").and_then(Value::as_bool));
    allowed.unwrap_or(true)
}

async fn who(api: &Api) -> String {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = api.send(Method::POST, path, "application/json", &review).await.unwrap_or_default();
    answer.pointer("/status/userInfo/username").and_then(Value::as_str).unwrap_or_default().to_owned()
}
