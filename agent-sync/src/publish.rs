//! Publishes this node's WireGuard key in Kubernetes, from where the exporter takes it to the other clusters.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use mesh_runtime::{Backoff, Chain, jitter};
use mesh_types::WIREGUARD_KEY_ANNOTATION;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::local::Seen;

/// Waits after a patch that failed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
/// How long the watch may take to show what was written.
const ECHO: Duration = Duration::from_secs(10);

/// The object that carries the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    CiliumNode,
    Node,
}

/// What is to be done about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is not known yet which object carries it.
    Wait,
    /// It is there.
    Done,
    /// Write it there.
    Write(Target),
}

/// The CiliumNode carries the key if there is one, else the Node. A key that someone removed or changed is written again.
fn step(cilium_node: &Seen, node: &Seen, key: &str) -> Step {
    let check = |seen: &crate::local::KubeNode, target| {
        if seen.wireguard_key.as_deref() == Some(key) { Step::Done } else { Step::Write(target) }
    };
    match (cilium_node, node) {
        (Seen::Present(seen), _) => check(seen, Target::CiliumNode),
        (Seen::Absent, Seen::Present(seen)) => check(seen, Target::Node),
        (Seen::Unknown, _) | (Seen::Absent, Seen::Unknown | Seen::Absent) => Step::Wait,
    }
}

/// Keeps the key in place until `stop`, which leaves it there. `published` says whether it is.
pub(crate) async fn run(
    client: Client,
    name: Arc<str>,
    key: String,
    cilium_node: watch::Receiver<Seen>,
    node: watch::Receiver<Seen>,
    published: watch::Sender<bool>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let keep = keep(client, &name, &key, cilium_node, node, &published);
    stop.run_until_cancelled(keep).await;
    Ok(())
}

async fn keep(
    client: Client,
    name: &str,
    key: &str,
    mut cilium_node: watch::Receiver<Seen>,
    mut node: watch::Receiver<Seen>,
    published: &watch::Sender<bool>,
) {
    let mut retry = RETRY.retry();
    loop {
        let next = step(&cilium_node.borrow_and_update(), &node.borrow_and_update(), key);
        published.send_if_modified(|published| {
            std::mem::replace(published, next == Step::Done) != (next == Step::Done)
        });
        let changed = async {
            tokio::select! {
                changed = cilium_node.changed() => changed,
                changed = node.changed() => changed,
            }
        };
        match next {
            Step::Wait | Step::Done => {
                if changed.await.is_err() {
                    // The watches are gone: shutting down.
                    std::future::pending::<()>().await;
                }
            }
            Step::Write(target) => match write(&client, target, name, key).await {
                Ok(()) => {
                    info!(?target, node = name, "published the WireGuard key");
                    retry.reset();
                    // Else the old state would be taken for a removal. An echo that does not come is no harm.
                    drop(timeout(ECHO, changed).await);
                }
                Err(error) => {
                    let wait = retry.next_delay(jitter());
                    warn!(?target, node = name, error = %Chain(&error), ?wait, "WireGuard key not published");
                    sleep(wait).await;
                }
            },
        }
    }
}

async fn write(client: &Client, target: Target, name: &str, key: &str) -> Result<(), kube::Error> {
    let resource = |group: &str, version: &str, kind: &str, plural: &str| ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let resource = match target {
        Target::CiliumNode => resource("cilium.io", "v2", "CiliumNode", "ciliumnodes"),
        Target::Node => resource("", "v1", "Node", "nodes"),
    };
    let patch = serde_json::json!({"metadata": {"annotations": {WIREGUARD_KEY_ANNOTATION: key}}});
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::KubeNode;

    #[test]
    fn the_key_goes_to_the_cilium_node_if_there_is_one_and_is_asserted_again() {
        let with = |key: Option<&str>| {
            Seen::Present(KubeNode { wireguard_key: key.map(str::to_owned), ..KubeNode::default() })
        };
        use Seen::{Absent, Unknown};
        let cases = [
            (Unknown, with(None), Step::Wait),
            (Absent, Unknown, Step::Wait),
            (Absent, Absent, Step::Wait),
            (Absent, with(None), Step::Write(Target::Node)),
            (Absent, with(Some("other")), Step::Write(Target::Node)),
            (Absent, with(Some("key")), Step::Done),
            (with(None), with(Some("key")), Step::Write(Target::CiliumNode)),
            (with(Some("key")), with(None), Step::Done),
        ];
        for (cilium_node, node, expected) in cases {
            assert_eq!(step(&cilium_node, &node, "key"), expected, "{cilium_node:?} {node:?}");
        }
    }
}
