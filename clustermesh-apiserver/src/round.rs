//! One life of the exporter: find out what there is, watch it, feed the reducer, carry out what it returns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Client;
use kube_watch::WatchState;
use kvstore::sync::SyncWriter;
use mesh_types::{Reason, Resource};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::announce::ExportsReadable;
use crate::board::{Board, Round};
use crate::config::{Cni, Config};
use crate::discovery::{self, Discovered};
use crate::export::{Change, Exporter, Input, Kind, RecordsInput, Settings, Sources, Withheld};
use crate::identities::{Identities, Told, Wanted};
use crate::watches::{Statuses, Watches};

/// Inputs that are applied under one hold of the board's lock.
const BATCH: usize = 512;
/// How often the API server is asked for kinds that it did not have.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a round works with; it outlives all rounds.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) board: Board,
    pub(crate) writers: Arc<BTreeMap<Resource, SyncWriter>>,
    pub(crate) readable: watch::Sender<ExportsReadable>,
    /// Whether this replica may write to Kubernetes.
    pub(crate) leading: watch::Receiver<bool>,
}

/// Why a round broke down; the next one begins after a while.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RoundError {
    /// A watch ended.
    #[error("a watch of the Kubernetes API ended: {0}")]
    WatchEnded(String),
    /// The keeper of the numeric identities ended.
    #[error("the keeper of the numeric identities ended")]
    IdentitiesEnded,
}

enum End {
    Stopped,
    /// The API server has more kinds than at the start of the round.
    Outdated(Discovered),
}

/// Exports until `stop`. The keys stay as they are when it ends.
pub(crate) async fn run(context: Context, stop: CancellationToken) -> Result<(), RoundError> {
    let discover = discovery::discover(&context.client, &context.config);
    let Some(mut found) = stop.run_until_cancelled(discover).await else { return Ok(()) };
    loop {
        match Box::pin(context.round(found, &stop)).await? {
            End::Stopped => return Ok(()),
            End::Outdated(now) => {
                info!(
                    cilium = now.cilium,
                    service_exports = now.exports,
                    "API server has new kinds, starting over with them"
                );
                found = now;
            }
        }
    }
}

impl Context {
    async fn round(&self, found: Discovered, stop: &CancellationToken) -> Result<End, RoundError> {
        let config = &self.config;
        let sources = Sources {
            cilium: found.cilium,
            endpoint_slices: config.cilium_endpoint_slices,
            service_exports: config.mcs_api,
            services: config.service_format.has_services(),
        };
        let settings = Settings {
            local: config.local.clone(),
            default_global_namespace: config.default_global_namespace,
            proxy_name: config.service_proxy_name.clone(),
            sources,
        };
        let mut watches = Watches::start(self.client.clone(), sources, found);
        let mut statuses = watches.statuses();
        let (wanted, wanted_labels) = watch::channel(Wanted::default());
        let (told, numbers) = watch::channel(Told::default());
        let identities = (!found.cilium).then(|| {
            let (identities, status) =
                Identities::new(self.client.clone(), config, wanted_labels, told, self.leading.clone());
            statuses.insert(Kind::IdentityRecord, status);
            identities
        });
        self.board.begin(Round {
            found,
            sources,
            exporter: Exporter::new(settings),
            watches: statuses.clone(),
            identity_failure: None,
        });

        let mut streams = watches.inputs();
        if !found.cilium {
            streams.push(self.records(numbers));
        }
        let mut inputs = streams.ready_chunks(BATCH);
        let round_stop = stop.child_token();
        let _stop_with_the_round = round_stop.clone().drop_guard();
        let mut keeper = std::pin::pin!(async {
            match identities {
                Some(identities) => identities.run(round_stop).await,
                None => std::future::pending().await,
            }
        });
        let mut outdated = std::pin::pin!(self.outdated(found, statuses));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(End::Stopped),
                now = &mut outdated => return Ok(End::Outdated(now)),
                why = watches.broken() => return Err(RoundError::WatchEnded(why)),
                _ended = &mut keeper => return Err(RoundError::IdentitiesEnded),
                batch = inputs.next() => match batch {
                    Some(batch) => self.apply(batch, &wanted),
                    None => return Err(RoundError::WatchEnded("all at once".to_owned())),
                },
            }
        }
    }

    /// Feeds the reducer and carries out what it returns.
    fn apply(&self, batch: Vec<Input>, wanted: &watch::Sender<Wanted>) {
        let trees = self.board.trees();
        let news = self.board.with_round(|Round { exporter, .. }| {
            let generation = exporter.wanted_generation();
            let mut changes: BTreeMap<Resource, Vec<(Bytes, Option<Bytes>)>> = BTreeMap::new();
            let (mut completed, mut touched) = (Vec::new(), BTreeSet::new());
            for input in batch {
                let output = exporter.apply(input);
                if trees.is_some() {
                    let changed =
                        output.changes.iter().map(|change| (change.resource, Arc::clone(&change.name)));
                    touched.extend(changed.chain(output.relabelled));
                    completed.extend(output.completed.iter().copied());
                }
                for Change { resource, name, value } in output.changes {
                    changes.entry(resource).or_default().push((bytes(&name), value));
                }
                for resource in output.completed {
                    self.complete(exporter, resource);
                }
            }
            for (resource, changes) in changes {
                self.writers[&resource].extend(changes);
            }
            if let Some(trees) = &trees {
                trees.apply(exporter, &completed, touched);
            }
            let complete = exporter.wanted_is_complete();
            let ask = exporter.wanted_generation() != generation || complete != wanted.borrow().complete;
            if ask {
                wanted.send_replace(Wanted { labels: exporter.wanted_identities(), complete });
            }
            exporter.take_news()
        });
        news.iter().for_each(say);
    }

    /// Hands a resource over whole, for the first time in this round.
    fn complete(&self, exporter: &Exporter, resource: Resource) {
        let desired: BTreeMap<Bytes, Bytes> =
            exporter.desired(resource).map(|(name, value)| (bytes(&name), value)).collect();
        info!(%resource, keys = desired.len(), "everything that it is made of is listed");
        let writer = &self.writers[&resource];
        // What an earlier round wanted and this one does not.
        writer.retain(|key| desired.contains_key(key));
        writer.extend(desired.into_iter().map(|(key, value)| (key, Some(value))));
        writer.synced();
        if resource == Resource::ServiceExports && self.config.mcs_api {
            self.readable.send_replace(ExportsReadable::Yes);
        }
    }

    /// The numbers of label sets, as inputs; failures go to the board.
    fn records(&self, numbers: watch::Receiver<Told>) -> BoxStream<'static, Input> {
        let board = self.board.clone();
        let told = WatchStream::new(numbers).filter_map(move |Told { records, failure }| {
            board.with_round(|round| round.identity_failure = failure);
            std::future::ready(records.map(|records| Input::Identities(RecordsInput(records))))
        });
        told.boxed()
    }

    /// Ends when the API server has a kind that it lacked at the start of the round.
    async fn outdated(&self, found: Discovered, mut statuses: Statuses) -> Discovered {
        if self.config.mcs_api {
            let listed = match statuses.get_mut(&Kind::ServiceExport) {
                Some(status) => {
                    let told =
                        |status: &kube_watch::WatchStatus| !matches!(status.state, WatchState::NotListed);
                    status.wait_for(told).await.is_ok_and(|status| status.initial_list_done)
                }
                None => false,
            };
            if !listed {
                self.readable.send_if_modified(|readable| {
                    let first = *readable == ExportsReadable::Unknown;
                    if first {
                        *readable = ExportsReadable::No;
                    }
                    first
                });
            }
        }
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            let exports = statuses.get(&Kind::ServiceExport);
            let exports_absent =
                exports.is_none_or(|status| matches!(status.borrow().state, WatchState::Absent));
            let lacks =
                (self.config.mcs_api && exports_absent) || (self.config.cni == Cni::Auto && !found.cilium);
            if !lacks {
                continue;
            }
            match discovery::ask(&self.client, &self.config).await {
                Ok(now) if found.is_outdated_by(now) => return now,
                Ok(_) => {}
                Err(error) => debug!(%error, "API server does not tell what it has"),
            }
        }
    }
}

fn bytes(name: &Arc<str>) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// Once per object and reason. What is a choice of the user, or passes by itself, is not worth a warning.
fn say(Withheld { kind, object, reason, detail }: &Withheld) {
    let (kind, reason_code) = (kind.name(), reason.code());
    let expected = [
        Reason::ServiceNotGlobal,
        Reason::ServiceNotShared,
        Reason::NamespaceNotGlobal,
        Reason::NamespaceUnknown,
        Reason::HostNetwork,
        Reason::PodFinished,
        Reason::BackendNotReady,
        Reason::EndpointWithoutAddress,
        Reason::EndpointWithoutIdentity,
        Reason::EndpointsImported,
    ];
    if expected.contains(reason) {
        debug!(kind, object, reason = reason_code, detail, "withheld");
    } else {
        warn!(kind, object, reason = reason_code, detail, "withheld");
    }
}
