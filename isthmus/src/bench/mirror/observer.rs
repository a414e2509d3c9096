//! What a reader of the local store sees, and when.

use super::data::stamp;
use super::peers::now;
use crate::bench::keys::end_of;
use crate::bench::server::Server;
use crate::bench::wire::{Connection, Watch, path};
use anyhow::{Context as _, ensure};
use kvstore::proto::etcdserverpb as pb;
use kvstore::proto::mvccpb::event::EventType;
use mesh_types::{Form, Resource, key};
use prost::bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// Nothing more is coming if nothing came for so long.
const QUIET: Duration = Duration::from_secs(2);

/// Kinds whose canary tells that they are mirrored.
const KINDS: [Resource; 4] = [Resource::Nodes, Resource::Ip, Resource::Identities, Resource::Services];

/// A watch of everything below a prefix.
pub(super) async fn watch(server: &Server, prefix: &str) -> anyhow::Result<Watch> {
    server.connect().await?.watch(&[(Bytes::from(prefix.to_owned()), end_of(prefix))]).await
}

/// Canaries as they appear.
pub(super) struct Canaries {
    watch: Watch,
    connection: Connection,
}

impl Canaries {
    pub(super) async fn of(server: &Server) -> anyhow::Result<Self> {
        let watch = watch(server, key::SYNCED_PREFIX).await?;
        Ok(Self { watch, connection: server.connect().await? })
    }

    /// Returns once so many clusters are mirrored in whole.
    pub(super) async fn wait_for(mut self, clusters: usize) -> anyhow::Result<()> {
        let wanted: Vec<Bytes> = KINDS.iter().map(|kind| kind.canary_name(Form::Cache).into()).collect();
        let mut there = BTreeSet::new();
        let mut see = |key: &Bytes| {
            if wanted.iter().any(|name| key.ends_with(name)) {
                there.insert(key.clone());
            }
            there.len() == clusters * wanted.len()
        };
        // Those that were there before the watch.
        let before = pb::RangeRequest {
            key: key::SYNCED_PREFIX.into(),
            range_end: end_of(key::SYNCED_PREFIX),
            keys_only: true,
            ..pb::RangeRequest::default()
        };
        let before: pb::RangeResponse = self.connection.call(path::RANGE, &before).await?;
        if before.kvs.iter().any(|found| see(&found.key)) {
            return Ok(());
        }
        loop {
            let answer = self.watch.next().await?;
            if answer.events.iter().filter_map(|event| event.kv.as_ref()).any(|kv| see(&kv.key)) {
                return Ok(());
            }
        }
    }
}

/// How many keys are below a prefix.
pub(crate) async fn count(server: &Server, prefix: &str) -> anyhow::Result<usize> {
    let ask = pb::RangeRequest {
        key: prefix.to_owned().into(),
        range_end: end_of(prefix),
        count_only: true,
        ..pb::RangeRequest::default()
    };
    let answer: pb::RangeResponse = server.connect().await?.call(path::RANGE, &ask).await?;
    Ok(answer.count as usize)
}

/// Latencies of the changes that become visible, until `made` resolves to how many were made and all of them were
/// seen, or none came for a while.
pub(super) async fn latencies(
    watch: &mut Watch,
    made: impl Future<Output = anyhow::Result<u64>>,
) -> anyhow::Result<(Vec<Duration>, u64)> {
    tokio::pin!(made);
    let (mut seen, mut total) = (Vec::new(), None);
    loop {
        if total.is_some_and(|total| seen.len() as u64 >= total) {
            break;
        }
        let answer = tokio::select! {
            answer = timeout(QUIET, watch.next()) => match answer {
                Ok(answer) => answer?,
                Err(_quiet) if total.is_some() => break,
                Err(_quiet) => continue,
            },
            made = &mut made, if total.is_none() => {
                total = Some(made?);
                continue;
            }
        };
        let arrived = now();
        for event in answer.events {
            ensure!(event.r#type() == EventType::Put, "a key was withdrawn");
            let kv = event.kv.context("an event without a key")?;
            if let Some(written) = stamp(&kv.value).filter(|stamp| *stamp > 0) {
                seen.push(Duration::from_nanos(arrived.saturating_sub(written)));
            }
        }
    }
    Ok((seen, total.unwrap_or_default()))
}

/// What was written to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Writes {
    /// Keys that the generator changed.
    pub(super) changed: usize,
    /// Keys that were written though nobody changed them.
    pub(super) unchanged: usize,
    /// Keys that were deleted.
    pub(super) deleted: usize,
}

/// Counts writes until a change below `prefix` is seen, of all that were made since nothing had a stamp.
pub(super) async fn writes_until_change(watch: &mut Watch, prefix: &str) -> anyhow::Result<Writes> {
    let mut writes = Writes::default();
    loop {
        for event in watch.next().await?.events {
            let deleted = event.r#type() == EventType::Delete;
            let kv = event.kv.context("an event without a key")?;
            if deleted {
                writes.deleted += 1;
            } else if stamp(&kv.value).is_some_and(|stamp| stamp > 0) {
                writes.changed += 1;
                if kv.key.starts_with(prefix.as_bytes()) {
                    return Ok(writes);
                }
            } else {
                writes.unchanged += 1;
            }
        }
    }
}
