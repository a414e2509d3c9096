//! The watch against a real kube-apiserver.

mod server;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube_watch::{
    ConsumerGone, DecodeError, Event, RawObject, Resource, WatchOptions, WatchState, WatchStatus, watch,
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use server::ApiServer;

/// What waits for the server gives up after this.
const PATIENCE: Duration = Duration::from_secs(180);

struct Running {
    events: Receiver<Event<String>>,
    status: tokio::sync::watch::Receiver<WatchStatus>,
    _task: JoinSet<Result<(), ConsumerGone>>,
}

async fn run(
    server: &ApiServer,
    resource: Resource,
    decode: fn(&RawObject<'_>) -> Result<String, DecodeError>,
) -> Result<Running> {
    let client = server.config().client().await?;
    let (watch, events, status) = watch(client, resource, decode, WatchOptions::default());
    let mut task = JoinSet::new();
    task.spawn(watch.run(CancellationToken::new()));
    Ok(Running { events, status, _task: task })
}

impl Running {
    /// The next event, as `+name=value`, `-name`, `!name` or `done`.
    async fn event(&mut self) -> Result<String> {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        Ok(match event.with_context(|| format!("no event; {:?}", *self.status.borrow()))? {
            None => bail!("the watch ended"),
            Some(Event::Applied { key, object }) => format!("+{key}={object}"),
            Some(Event::Deleted { key }) => format!("-{key}"),
            Some(Event::Undecodable { key, .. }) => format!("!{key}"),
            Some(Event::InitialListDone) => "done".to_owned(),
        })
    }

    async fn until(&mut self, what: impl FnMut(&WatchStatus) -> bool) -> Result<()> {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(what)).await;
        reached.context("the state does not come")?.context("the watch ended")?;
        Ok(())
    }
}

fn map_value(object: &RawObject<'_>) -> Result<String, DecodeError> {
    let map: ConfigMap = object.parse()?;
    Ok(map.data.and_then(|mut data| data.remove("v")).unwrap_or_default())
}

fn map(name: &str, value: &str) -> Result<ConfigMap> {
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"watched": "yes"}}, "data": {"v": value}}),
    )?)
}

#[tokio::test]
async fn a_watch_survives_the_restart_of_the_api_server_and_loses_nothing() -> Result<()> {
    let mut server = ApiServer::start().await?;
    let maps: Api<ConfigMap> = Api::namespaced(server.config().client().await?, "default");
    let create = PostParams::default();
    maps.create(&create, &map("a", "1")?).await?;
    maps.create(&create, &map("b", "2")?).await?;

    let resource = Resource::new("", "v1", "ConfigMap", "configmaps").with_labels("watched=yes");
    let mut running = run(&server, resource, map_value).await?;
    assert_eq!(running.event().await?, "+default/a=1");
    assert_eq!(running.event().await?, "+default/b=2");
    assert_eq!(running.event().await?, "done");
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"v": "3"}}))).await?;
    assert_eq!(running.event().await?, "+default/a=3");

    server.kill().await?;
    running.until(|status| matches!(status.state, WatchState::Failing { .. })).await?;
    assert_eq!(running.status.borrow().objects, 2, "losing contact is not deleting");
    server.restart().await?;
    maps.delete("a", &DeleteParams::default()).await?;
    maps.create(&create, &map("c", "4")?).await?;
    assert_eq!(running.event().await?, "-default/a");
    assert_eq!(running.event().await?, "+default/c=4");
    running.until(|status| status.state.is_listed()).await
}

#[derive(Deserialize)]
struct Thing {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    size: u8,
}

fn thing_size(object: &RawObject<'_>) -> Result<String, DecodeError> {
    Ok(object.parse::<Thing>()?.spec.size.to_string())
}

#[tokio::test]
async fn a_crd_that_comes_late_is_absent_then_followed_and_one_bad_object_stops_only_itself() -> Result<()> {
    let server = ApiServer::start().await?;
    let client = server.config().client().await?;
    let resource = Resource::new("example.org", "v1", "Thing", "things");
    let mut running = run(&server, resource.clone(), thing_size).await?;
    running.until(|status| matches!(status.state, WatchState::Absent)).await?;
    assert!(!running.status.borrow().initial_list_done);

    let crds =
        Resource::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
    let crds: Api<DynamicObject> = Api::all_with(client.clone(), crds.api());
    let crd = json!({
        "metadata": {"name": "things.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    });
    crds.create(&PostParams::default(), &serde_json::from_value(crd)?).await?;
    assert_eq!(running.event().await?, "done");

    let things: Api<DynamicObject> = Api::namespaced_with(client, "default", resource.api());
    for (name, size) in [("good", json!(1)), ("bad", json!("many")), ("later", json!(3))] {
        things.create(&PostParams::default(), &thing(resource.api(), name, &size)?).await?;
    }
    assert_eq!(running.event().await?, "+default/good=1");
    assert_eq!(running.event().await?, "!default/bad");
    assert_eq!(running.event().await?, "+default/later=3");
    assert_eq!(running.status.borrow().undecodable, 1);
    things.patch("bad", &PatchParams::default(), &Patch::Merge(json!({"spec": {"size": 2}}))).await?;
    assert_eq!(running.event().await?, "+default/bad=2");

    crds.delete("things.example.org", &DeleteParams::default()).await?;
    let mut gone = Vec::new();
    for _ in 0..3 {
        gone.push(running.event().await?);
    }
    gone.sort();
    assert_eq!(gone, ["-default/bad", "-default/good", "-default/later"]);
    running.until(|status| matches!(status.state, WatchState::Absent)).await
}

fn thing(api: &ApiResource, name: &str, size: &serde_json::Value) -> Result<DynamicObject> {
    Ok(DynamicObject::new(name, api).data(json!({"spec": {"size": size}})))
}
